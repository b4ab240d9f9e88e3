"""Data sets of image files: mini-ImageNet and the user's own folders."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import here, refused
from PIL import Image
from torchvision import datasets, transforms

from budgetrun import images
from budgetrun.contracts import Data, UserError
from budgetrun.dataset.image_folder import ImageFolder
from budgetrun.dataset.mini_imagenet import MiniImageNet


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pictures(root: Path, test: str = "test") -> Path:
    """Three classes of photographs of several sizes and formats, 12 to train on and 6 to test."""
    number = 0
    for part, each in (("train", 4), (test, 2)):
        for c in ("cat", "dog", "emu"):
            for k in range(each):
                number += 1
                shape = (20 + number, 30 - number, 3) if k else (25, 25)  # one grey one a class
                suffix = ("png", "jpg", "JPEG", "bmp")[k]
                save(root / part / c / f"{c}{number}.{suffix}", random_pixels(*shape, seed=number))
    return root


def folder(**values: Any) -> ImageFolder:
    defaults = {"root": "pictures", "size": 16, "channels": 3, "mean": None, "std": None, "flip": True, "padding": 2}
    return ImageFolder(**{**defaults, **values})


# ---- a folder of the user's own


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("test", ["test", "val"])
def test_pixels_labels_and_order_are_those_of_torchvision_s_image_folder(
    test: str, channels: int, tmp_path: Path
) -> None:
    root = pictures(tmp_path / "pictures", test)
    data = folder(channels=channels).load(str(tmp_path))
    theirs = transforms.Compose(
        [transforms.Grayscale(channels)] * (channels == 1) + [transforms.Resize((16, 16)), transforms.PILToTensor()]
    )
    for part, ours, labels in (("train", data.images, data.labels), (test, data.test_images, data.test_labels)):
        loader = (lambda path: Image.open(path)) if channels == 1 else datasets.folder.default_loader
        published = datasets.ImageFolder(str(root / part), theirs, loader=loader)
        assert torch.equal(ours, torch.stack([image for image, _ in published]))
        assert labels.tolist() == published.targets
    assert data.classes == 3


def test_mean_and_standard_deviation_are_measured_on_the_training_part_where_none_are_given(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures")
    data = folder().load(str(tmp_path))
    pixels = data.images.numpy().astype(np.float64) / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert data.std == pytest.approx(pixels.std((0, 2, 3)).tolist(), rel=1e-12)
    half = folder(mean=[0.1, 0.2, 0.3]).load(str(tmp_path))
    assert (half.mean, half.std) == ([0.1, 0.2, 0.3], data.std)


def test_val_is_left_alone_where_there_is_a_test_part(tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures")
    save(root / "val" / "gnu" / "a.png", random_pixels(8, 8, 3))
    assert len(folder().load(str(tmp_path)).test_labels) == 6


def test_hidden_files_and_files_that_are_no_images_are_left_out(tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures")
    whole = folder().load(str(tmp_path))
    for name in ("train/cat/._cat1.png", "train/cat/Thumbs.db", "train/notes.txt", "train/.cache/x.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no image")
    assert torch.equal(folder().load(str(tmp_path)).images, whole.images)


def test_an_absolute_root_is_read_where_it_is_and_kept_in_data_dir(tmp_path: Path) -> None:
    root = pictures(tmp_path / "elsewhere" / "mine")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    data = folder(root=str(root)).load(str(tmp_path / "data"))
    assert len(data.labels) == 12
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    assert [p.parent.name for p in (tmp_path / "data").rglob("*.bin")] == ["decoded"]


def test_a_run_trains_on_a_folder_and_its_place_below_data_dir_is_its_name(tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "image_folder")
    pictures(tmp_path / "other" / "image_folder")
    line = "dataset=image_folder dataset.size=8 model=cnn epochs=2 batch_size=4 evaluations=1"
    done = here(line, tmp_path)
    assert done.code == 0, done.err
    assert done.result["updates"] == 6
    assert "not run again" in here(f"{line} data_dir=other", tmp_path).out
    renamed = here(f"{line} dataset.root=../other/image_folder", tmp_path)
    assert "not run again" not in renamed.out
    assert renamed.code == 0


# ---- what is wrong with a folder


def broken(root: Path) -> None:
    (root / "train" / "dog" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")


def truncated(root: Path) -> None:
    path = root / "test" / "emu" / "bad.png"
    save(path, random_pixels(40, 40, 3))
    path.write_bytes(path.read_bytes()[:2000])


def deep(root: Path) -> None:
    Image.fromarray(random_pixels(8, 8).astype(np.uint16) * 200).save(root / "train" / "cat" / "deep.png")


def another_class(root: Path) -> None:
    save(root / "test" / "gnu" / "a.png", random_pixels(8, 8, 3))


def lost_class(root: Path) -> None:
    shutil.rmtree(root / "test" / "cat")


def emptied_class(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.unlink()


def one_class(root: Path) -> None:
    for part in ("train", "test"):
        for c in ("cat", "dog"):
            shutil.rmtree(root / part / c)


def no_classes(root: Path) -> None:
    for c in ("cat", "dog", "emu"):
        shutil.rmtree(root / "train" / c)


def no_test(root: Path) -> None:
    shutil.rmtree(root / "test")


def nothing(root: Path) -> None:
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (broken, ["data/image_folder/train/dog/bad.jpg", "cannot be read as an image"]),
        (truncated, ["data/image_folder/test/emu/bad.png", "truncated"]),
        (deep, ["data/image_folder/train/cat/deep.png", "more than 8 bits"]),
        (another_class, ["data/image_folder/train", "data/image_folder/test", "gnu"]),
        (lost_class, ["data/image_folder/train", "data/image_folder/test", "cat"]),
        (emptied_class, ["data/image_folder/train/dog", "no images"]),
        (one_class, ["data/image_folder/train", "two"]),
        (no_classes, ["data/image_folder/train", "0 folders"]),
        (no_test, ["data/image_folder/val", "test/<class>/"]),
        (nothing, ["data/image_folder/train", "dataset.root", "No such file"]),
    ],
    ids=lambda fault: getattr(fault, "__name__", ""),
)
def test_a_folder_that_is_no_data_set_is_refused_in_one_sentence(fault: Any, words: list[str], tmp_path: Path) -> None:
    fault(pictures(tmp_path / "data" / "image_folder"))
    refused(here("dataset=image_folder dataset.size=8 model=cnn epochs=1 batch_size=4", tmp_path), *words)
    assert not list(tmp_path.rglob("*.bin"))
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("size", [10**7, 10**9])
def test_a_size_that_no_memory_holds_is_refused(size: int, tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "image_folder")
    refused(here(f"dataset=image_folder dataset.size={size}", tmp_path), f"dataset.size={size}", "do not fit")


# ---- what was decoded is kept


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often images were decoded."""
    count: Counter[str] = Counter()
    really = images.decode

    def decode(*arguments: Any) -> np.ndarray:
        count["decoded"] += 1
        return really(*arguments)

    monkeypatch.setattr(images, "decode", decode)
    return count


def assert_same(one: Data, other: Data) -> None:
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.test_images, other.test_images)
    assert torch.equal(one.labels, other.labels)


def test_images_are_decoded_once_for_jobs_at_the_same_time_and_later_ones(
    tmp_path: Path, decodings: Counter[str]
) -> None:
    pictures(tmp_path / "pictures")
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(lambda _: folder().load(str(tmp_path)), range(4))
    for other in [*others, folder().load(str(tmp_path))]:
        assert_same(first, other)
    assert decodings["decoded"] == 1


def test_every_size_and_number_of_channels_is_kept_by_itself(tmp_path: Path, decodings: Counter[str]) -> None:
    pictures(tmp_path / "pictures")
    kinds = [folder(), folder(size=8), folder(channels=1)]
    first = [kind.load(str(tmp_path)) for kind in kinds]
    assert decodings["decoded"] == 3
    for kind, data in zip(kinds, first, strict=True):
        assert_same(kind.load(str(tmp_path)), data)
    assert decodings["decoded"] == 3


def repaint(path: Path) -> None:
    stat = path.stat()
    image = np.asarray(Image.open(path))
    Image.fromarray(255 - image).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: repaint(next((root / "train" / "cat").glob("*.bmp"))),  # the size of the file stays
        lambda root: save(root / "test" / "dog" / "new.png", random_pixels(9, 9, 3)),
        lambda root: next((root / "train" / "emu").iterdir()).unlink(),
        lambda root: (
            (root / "train" / "cat").rename(root / "train" / "dig")
            and (root / "test" / "cat").rename(root / "test" / "dig")
        ),
    ],
    ids=["changed", "added", "removed", "renamed"],
)
def test_a_changed_folder_is_decoded_anew(change: Any, tmp_path: Path, decodings: Counter[str]) -> None:
    root = pictures(tmp_path / "pictures")
    folder().load(str(tmp_path))
    change(root)
    changed = folder().load(str(tmp_path))
    assert decodings["decoded"] == 2
    shutil.rmtree(tmp_path / "decoded")
    assert_same(changed, folder().load(str(tmp_path)))


@pytest.mark.parametrize("length", [0, 10, 32, 100, 1000])
def test_kept_images_that_are_damaged_are_decoded_anew(length: int, tmp_path: Path, decodings: Counter[str]) -> None:
    pictures(tmp_path / "pictures")
    first = folder().load(str(tmp_path))
    (kept,) = (tmp_path / "decoded").glob("*.bin")
    kept.write_bytes(kept.read_bytes()[:length])
    assert_same(folder().load(str(tmp_path)), first)
    assert_same(folder().load(str(tmp_path)), first)
    assert decodings["decoded"] == 2


# ---- mini-ImageNet


def mini(tables: bool, folder: Path, size: int = 8) -> list[tuple[int, str]]:
    """4 classes of 6 images, each of one colour that is its number; the numbers and classes in the tables' order."""
    root = folder / "mini-imagenet"
    listed: list[tuple[int, str]] = []
    classes = {"train": ("n4", "n2"), "val": ("n3",), "test": ("n1",)}
    for part, names in classes.items():
        rows = []
        for name in names:
            for k in range(6):
                number = len(listed)
                path = f"{name}0000{k}.png"
                place = root / "images" / path if tables else root / part / name / path
                save(place, np.full((size, size, 3), number, np.uint8))
                rows.append(f"{path},{name}")
                listed.append((number, name))
        if tables:
            (root / f"{part}.csv").write_text("\n".join(["filename,label", *rows]) + "\n")
    return listed


def load_mini(folder: Path, size: int = 8) -> Data:
    return MiniImageNet(
        size=size, train=20, test=4, classes=4, mean=[0.5] * 3, std=[0.5] * 3, flip=True, padding=0
    ).load(str(folder))


def test_the_split_of_the_tables_is_that_of_arazo_et_al(tmp_path: Path) -> None:
    listed = mini(True, tmp_path)
    data = load_mini(tmp_path)
    np.random.seed(42)
    order = np.random.permutation(24)
    numbers = {"n1": 0, "n2": 1, "n3": 2, "n4": 3}
    expected = [listed[i] for i in order]
    assert data.images[:, 0, 0, 0].tolist() == [number for number, _ in expected[:20]]
    assert data.test_images[:, 2, 7, 7].tolist() == [number for number, _ in expected[20:]]
    assert data.labels.tolist() == [numbers[name] for _, name in expected[:20]]
    assert data.test_labels.tolist() == [numbers[name] for _, name in expected[20:]]


def test_folders_named_by_classes_give_every_image_once_with_its_class(tmp_path: Path) -> None:
    listed = mini(False, tmp_path)
    data = load_mini(tmp_path)
    colours = torch.cat([data.images, data.test_images])[:, 1, 3, 3].tolist()
    labels = torch.cat([data.labels, data.test_labels]).tolist()
    numbers = {"n1": 0, "n2": 1, "n3": 2, "n4": 3}
    assert sorted(zip(colours, labels, strict=True)) == [(number, numbers[name]) for number, name in listed]
    assert len(data.labels) == 20


def test_larger_images_are_resized(tmp_path: Path) -> None:
    mini(True, tmp_path, size=20)
    data = load_mini(tmp_path, size=5)
    assert data.images.shape[1:] == (3, 5, 5)
    assert sorted(torch.cat([data.images, data.test_images])[:, 0, 4, 4].tolist()) == list(range(24))


def test_a_run_trains_on_mini_imagenet(tmp_path: Path) -> None:
    mini(True, tmp_path / "data")
    line = "dataset=mini_imagenet dataset.size=8 dataset.train=20 dataset.test=4 dataset.classes=4"
    done = here(f"{line} model=cnn epochs=2 batch_size=5 evaluations=1", tmp_path)
    assert done.code == 0, done.err
    assert done.result["updates"] == 8


def test_without_files_the_sentence_says_where_they_must_be_put(tmp_path: Path) -> None:
    done = here("dataset=mini_imagenet data_dir=here/data", tmp_path)
    refused(done, str(Path("here/data/mini-imagenet")), "cannot be downloaded", "train.csv", "images/", "0 images")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "val.csv").unlink(), ["val.csv", "No such file"]),
        (lambda root: (root / "images" / "n200003.png").unlink(), ["images/n200003.png", "No such file"]),
        (lambda root: (root / "test.csv").write_text("file,class\na,b\n"), ["test.csv", "filename and label"]),
        (lambda root: (root / "test.csv").write_bytes(b"filename,label\n\xff\xfe,\x00\n"), ["test.csv", "columns"]),
        (lambda root: (root / "test.csv").write_text("filename,label\n"), ["18 images of 3 classes", "20 + 4 of 4"]),
        (
            lambda root: (root / "test.csv").write_text("filename,label\n" + "n100000.png\n" * 6),
            ["test.csv", "columns"],
        ),
    ],
    ids=["no table", "no image", "other columns", "no text", "too few", "no label"],
)
def test_tables_that_are_not_whole_are_named(change: Any, words: list[str], tmp_path: Path) -> None:
    mini(True, tmp_path)
    change(tmp_path / "mini-imagenet")
    with pytest.raises(UserError) as raised:
        load_mini(tmp_path)
    for word in words:
        assert word in str(raised.value)
