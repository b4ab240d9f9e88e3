"""Data sets of image files: mini-ImageNet and the user's own folders."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import here, refused
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import datasets, transforms

from budgetrun.contracts import Data, UserError
from budgetrun.dataset import _images as images
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
                shape = (20 + number, 30 - number, 3) if k else (25, 25)  # one grey image per class
                suffix = ("png", "jpg", "JPEG", "bmp")[k]
                save(root / part / c / f"{c}{number}.{suffix}", random_pixels(*shape, seed=number))
    return root


def read(root: Path, names: list[str], size: int, channels: int) -> Tensor:
    """The images that are read, as a tensor."""
    return images.read(root, names, images.Shape(size, channels), root / "kept")[0].clone()


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
        assert torch.equal(ours.clone(), torch.stack([image for image, _ in published]))
        assert labels.tolist() == published.targets
    assert data.classes == 3


def test_mean_and_standard_deviation_are_measured_on_the_training_part_where_none_are_given(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures")
    data = folder().load(str(tmp_path))
    pixels = data.images.clone().numpy().astype(np.float64) / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert data.std == pytest.approx(pixels.std((0, 2, 3)).tolist(), rel=1e-12)
    half = folder(mean=[0.1, 0.2, 0.3]).load(str(tmp_path))
    assert (half.mean, half.std) == ([0.1, 0.2, 0.3], data.std)


@pytest.mark.parametrize("size", [7, 16, 24])
def test_the_middle_of_images_that_are_not_squashed_is_that_of_torchvision(size: int, tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures")
    data = folder(size=size, fit="crop").load(str(tmp_path))
    theirs = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()])
    published = datasets.ImageFolder(str(root / "train"), theirs)
    assert torch.equal(data.images.clone(), torch.stack([image for image, _ in published]))


def test_drafts_of_photographs_are_nearly_the_same_and_kept_by_themselves(tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures")
    smooth = Image.fromarray(random_pixels(9, 12, 3)).resize((400, 300), Image.Resampling.BICUBIC)
    smooth.save(root / "train" / "cat" / "large.jpg", quality=90)
    exact, draft = (folder(size=64, draft=draft).load(str(tmp_path)).images.clone().int() for draft in (False, True))
    (large,) = (exact != draft).flatten(1).any(1).nonzero()  # the others are less than four times as large
    difference = (exact - draft)[large].abs().float()
    assert 0 < difference.mean() < 1.5
    assert len(list((tmp_path / "decoded").glob("*.bin"))) == 2


def test_a_run_sees_the_middle_or_a_part_of_its_images(tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "image_folder")
    line = "dataset=image_folder dataset.size=12 dataset.fit=crop model=cnn model.width=2 epochs=2 batch_size=4"
    line += " evaluations=1 validation=0.3 sampler=is sampler.pool=2"
    for more in ("", "dataset.crop=8", "dataset.crop=8 aug=resized_crop", "dataset.crop=8 aug=ricap"):
        done = here(f"{line} {more}", tmp_path)
        assert done.code == 0, done.err
    flops = {json.loads(p.read_text())["flops"] for p in (tmp_path / "outputs").rglob("result.json")}
    assert len(flops) == 2, "a model that sees less does less"
    for more, words in {
        "dataset.crop=13": ["crop=13", "size=12"],
        "dataset.crop=8 image_size=16": ["image_size=16", "dataset.crop=8"],
        "aug=resized_crop aug.resized_crop.size=9": ["aug.resized_crop.size=9", "12"],
        "dataset.fit=stretch": ["fit=stretch", "squash, crop"],
    }.items():
        refused(here(f"{line} {more}", tmp_path), *words)


def test_val_is_left_alone_where_there_is_a_test_part(tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures")
    save(root / "val" / "gnu" / "a.png", random_pixels(8, 8, 3))
    assert len(folder().load(str(tmp_path)).test_labels) == 6


def test_hidden_files_and_files_that_are_not_images_are_left_out(tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures")
    whole = folder().load(str(tmp_path))
    for name in ("train/cat/._cat1.png", "train/cat/Thumbs.db", "train/notes.txt", "train/.cache/x.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no image")
    assert torch.equal(folder().load(str(tmp_path)).images.clone(), whole.images.clone())


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


# ---- links


def circle(root: Path) -> None:
    (root / "train" / "cat" / "loop").symlink_to(".")
    (root / "train" / "dog" / "more").mkdir()
    (root / "train" / "dog" / "more" / "up").symlink_to("../../..")


def two_that_never_end(root: Path) -> None:
    (root / "train" / "cat" / "dogs").symlink_to("../dog")
    (root / "train" / "dog" / "cats").symlink_to("../cat")


def to_the_other_part(root: Path) -> None:
    (root / "train" / "cat" / "test").symlink_to(root / "test" / "cat")
    (root / "test" / "cat" / "train").symlink_to(root)


def to_a_part_of_itself(root: Path) -> None:
    (root / "train" / "cat" / "twice.png").symlink_to(next((root / "train" / "cat").glob("*.png")).name)
    (root / "test" / "emu" / "again").symlink_to("../../test")


@pytest.mark.parametrize("link", [circle, two_that_never_end, to_the_other_part, to_a_part_of_itself])
def test_links_to_what_is_read_anyway_add_nothing_and_are_reported(
    link: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = pictures(tmp_path / "pictures")
    before = folder().load(str(tmp_path))
    link(root)
    assert_same(folder().load(str(tmp_path)), before)
    assert f"{root}: ignored links to what is read anyway: 2" in caplog.text


def test_a_folder_elsewhere_is_read_once_through_links_that_go_round(tmp_path: Path) -> None:
    root, pool = pictures(tmp_path / "pictures"), tmp_path / "pool"
    for name in ("a.png", "b/c.png"):
        save(pool / name, random_pixels(8, 8, 3))
    for place, target in (("itself", pool), ("back", root), ("up", tmp_path), ("b/b", pool / "b"), ("b/over", pool)):
        (pool / place).symlink_to(target)
    for place in ("one", "two"):
        (root / "train" / "dog" / place).symlink_to(pool)
    (root / "test" / "gnu").symlink_to(tmp_path / "gnus")  # a class may be a link itself
    for path in (tmp_path / "gnus", root / "train" / "gnu"):
        save(path / "a.png", random_pixels(8, 8, 3))
    assert folder().load(str(tmp_path)).labels.bincount().tolist() == [4, 6, 4, 1]


def same_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "cat")
    (root / "train" / "cat").symlink_to("dog")


def same_part(root: Path) -> None:
    shutil.rmtree(root / "test")
    (root / "test").symlink_to("train")


def same_folder(root: Path) -> None:
    save(root / "pool" / "a.png", random_pixels(8, 8, 3))
    for place in ("train/dog/x", "train/cat/x"):
        (root / place).symlink_to(root / "pool")


def same_file(root: Path) -> None:
    image = next((root / "train" / "dog").glob("*.png"))
    (root / "test" / "dog" / "x.png").symlink_to(image)


@pytest.mark.parametrize("fault", [same_class, same_part, same_folder, same_file])
def test_images_of_two_classes_or_parts_are_refused(fault: Any, tmp_path: Path) -> None:
    fault(pictures(tmp_path / "data" / "image_folder"))
    refused(here("dataset=image_folder", tmp_path), "data/image_folder/train/", "are the same", str(tmp_path))
    assert not list(tmp_path.rglob("*.bin"))


# ---- what people see


def photograph() -> Image.Image:
    """4 x 3 pixels, no two of them alike, and large patches, so that JPEG keeps them apart."""
    return Image.fromarray(random_pixels(3, 4, 3).repeat(16, 0).repeat(16, 1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_turned_and_mirrored_as_its_camera_says(suffix: str, channels: int, tmp_path: Path) -> None:
    for orientation in range(10):  # 0 and 9 mean nothing
        exif = Image.Exif()
        exif[0x0112] = orientation
        photograph().save(tmp_path / f"{orientation}.{suffix}", exif=exif)
    names = [f"{orientation}.{suffix}" for orientation in range(10)]
    found = read(tmp_path, names, 12, channels)
    for name, image in zip(names, found, strict=True):
        with Image.open(tmp_path / name) as opened:
            upright = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
        expected = np.asarray(upright.resize((12, 12), Image.Resampling.BILINEAR)).reshape(12, 12, -1)
        assert np.array_equal(image.permute(1, 2, 0), expected), name
    assert len(found.unique(dim=0)) == 8, "eight ways to hold a camera"


def test_metadata_that_cannot_be_read_are_ignored(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for number, exif in enumerate((b"", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0garbage")):
        photograph().save(tmp_path / f"{number}.jpg", exif=exif)
    plain, *others = read(tmp_path, ["0.jpg", "1.jpg", "2.jpg"], 12, 3)
    assert all(torch.equal(plain, other) for other in others)
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "1", "CMYK", "L"])
def test_every_kind_of_pixel_is_seen_as_on_a_white_page(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(random_pixels(8, 8, 3)).convert("L" if mode in ("LA", "1") else "RGB").convert(mode)
    opaque = image.convert("RGB")
    if mode in ("RGBA", "LA", "PA"):
        alpha = Image.new("L", (8, 8), 255)
        alpha.paste(0, (0, 0, 4, 8))
        image.putalpha(alpha)
        opaque.paste((255, 255, 255), (0, 0, 4, 8))
    name = "x.tif" if mode in ("PA", "CMYK") else "x.png"
    image.save(tmp_path / name)
    (found,) = read(tmp_path, [name], 8, 3)
    assert np.array_equal(found.permute(1, 2, 0), np.asarray(opaque))


def test_of_an_animated_image_the_first_frame_is_read_and_it_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (255, 0, 255)]
    for suffix in ("gif", "png", "tif", "webp"):
        frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    found = read(tmp_path, ["x.gif", "x.png", "x.tif", "x.webp"], 8, 3)
    assert (found > 250).all()
    assert "of these 4 the first frame is read" in caplog.text


def test_what_is_not_read_is_reported_with_its_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = pictures(tmp_path / "pictures")
    for name in (
        "train/cat/a.heic",
        "test/dog/b.HEIC",
        "train/cat/c.jfif",
        "train/LICENSE",
        "train/.DS_Store",
        "test/emu/Thumbs.db",
        "test/emu/more/notes",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    folder().load(str(tmp_path))
    said = f"{root}: not read: 2 .heic, 1 outside the classes' folders, 1 .jfif, 1 without a suffix; images are .jpg "
    assert said in caplog.text


def test_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures")
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    save(root / "train" / decomposed / "a.png", random_pixels(8, 8, 3))
    save(root / "train" / composed / "b.png", random_pixels(8, 8, 3, seed=1))
    save(root / "test" / composed / "a.png", random_pixels(8, 8, 3))
    data = folder().load(str(tmp_path))
    assert data.classes == 4
    assert data.labels.bincount().tolist() == [2, 4, 4, 4]
    assert len(data.images[data.labels == 0].unique(dim=0)) == 2


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


def empty_file(root: Path) -> None:
    (root / "train" / "dog" / "bad.png").write_bytes(b"")


def program(root: Path) -> None:
    Image.new("RGB", (4, 4)).save(root / "train" / "dog" / "bad.png", "EPS")


def bomb(root: Path) -> None:
    Image.new("1", (13_000, 13_000)).save(root / "train" / "dog" / "bad.png")


def larger_bomb(root: Path) -> None:
    """An image that has 30,000 x 30,000 pixels according to its header."""
    Image.new("1", (8, 8)).save(root / "train" / "dog" / "bad.bmp")
    content = bytearray((root / "train" / "dog" / "bad.bmp").read_bytes())
    content[18:26] = 2 * (30_000).to_bytes(4, "little")
    (root / "train" / "dog" / "bad.bmp").write_bytes(content)


def pipe(root: Path) -> None:
    os.mkfifo(root / "train" / "dog" / "bad.png")


def lost_image(root: Path) -> None:
    (root / "train" / "dog" / "bad.png").symlink_to("nowhere.png")


def lost_folder(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "gnu").symlink_to("nowhere")


def round_and_round(root: Path) -> None:
    (root / "train" / "dog" / "bad").symlink_to("bad")


def line_break(root: Path) -> None:
    (root / "train" / "dog" / "a\nb.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (empty_file, ["data/image_folder/train/dog/bad.png", "it is empty"]),
        (program, ["data/image_folder/train/dog/bad.png", "cannot identify"]),
        (bomb, ["data/image_folder/train/dog/bad.png", "13000 x 13000 pixels"]),
        (larger_bomb, ["data/image_folder/train/dog/bad.bmp", "decompression bomb"]),
        (pipe, ["data/image_folder/train/dog/bad.png", "is not a file"]),
        (lost_image, ["data/image_folder/train/dog/bad.png", "nowhere.png", "does not exist"]),
        (lost_folder, ["data/image_folder/train/gnu", "nowhere", "does not exist"]),
        (round_and_round, ["data/image_folder/train/dog/bad", "does not exist"]),
        (line_break, [r"data/image_folder/train/dog/a\nb.png", "cannot be read as an image"]),
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
def test_a_size_that_does_not_fit_into_memory_is_refused(size: int, tmp_path: Path) -> None:
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
    assert torch.equal(one.images.clone(), other.images.clone())
    assert torch.equal(one.test_images.clone(), other.test_images.clone())
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


def repaint(path: Path, later: int = 1) -> None:
    stat = path.stat()
    image = np.asarray(Image.open(path))
    Image.fromarray(255 - image).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + later))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: repaint(next((root / "train" / "cat").glob("*.bmp"))),  # the size of the file stays the same
        lambda root: save(root / "test" / "dog" / "new.png", random_pixels(9, 9, 3)),
        lambda root: next((root / "train" / "emu").iterdir()).unlink(),
        lambda root: (
            (root / "train" / "cat").rename(root / "train" / "dig")
            and (root / "test" / "cat").rename(root / "test" / "dig")
        ),
        lambda root: repaint(next((root / "train" / "cat").glob("*.bmp")), later=0),
    ],
    ids=["changed", "added", "removed", "renamed", "changed as cp -p does"],
)
def test_a_changed_folder_is_decoded_anew(change: Any, tmp_path: Path, decodings: Counter[str]) -> None:
    root = pictures(tmp_path / "pictures")
    folder().load(str(tmp_path))
    change(root)
    changed = folder().load(str(tmp_path))
    assert decodings["decoded"] == 2
    shutil.rmtree(tmp_path / "decoded")
    assert_same(changed, folder().load(str(tmp_path)))


def test_images_that_were_decoded_in_another_way_are_decoded_anew(
    tmp_path: Path, decodings: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "pictures")
    folder().load(str(tmp_path))
    monkeypatch.setattr(images, "DECODING", images.DECODING + 1)
    folder().load(str(tmp_path))
    assert decodings["decoded"] == 2


@pytest.mark.parametrize("length", [0, 10, 32, 100, 1000])
def test_kept_images_that_are_damaged_are_decoded_anew(length: int, tmp_path: Path, decodings: Counter[str]) -> None:
    pictures(tmp_path / "pictures")
    first = folder().load(str(tmp_path))
    # what is mapped is not there any more once the file is shorter
    first = replace(first, images=first.images.clone(), test_images=first.test_images.clone())
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
    assert data.images.clone()[:, 0, 0, 0].tolist() == [number for number, _ in expected[:20]]
    assert data.test_images.clone()[:, 2, 7, 7].tolist() == [number for number, _ in expected[20:]]
    assert data.labels.tolist() == [numbers[name] for _, name in expected[:20]]
    assert data.test_labels.tolist() == [numbers[name] for _, name in expected[20:]]


def test_folders_named_by_classes_give_every_image_once_with_its_class(tmp_path: Path) -> None:
    listed = mini(False, tmp_path)
    data = load_mini(tmp_path)
    colours = torch.cat([data.images.clone(), data.test_images.clone()])[:, 1, 3, 3].tolist()
    labels = torch.cat([data.labels, data.test_labels]).tolist()
    numbers = {"n1": 0, "n2": 1, "n3": 2, "n4": 3}
    (tmp_path / "mini-imagenet" / "train" / "n2" / "loop").symlink_to("../..")
    assert_same(load_mini(tmp_path), data)
    assert sorted(zip(colours, labels, strict=True)) == [(number, numbers[name]) for number, name in listed]
    assert len(data.labels) == 20


def test_larger_images_are_resized(tmp_path: Path) -> None:
    mini(True, tmp_path, size=20)
    data = load_mini(tmp_path, size=5)
    assert data.images.shape[1:] == (3, 5, 5)
    assert sorted(torch.cat([data.images.clone(), data.test_images.clone()])[:, 0, 4, 4].tolist()) == list(range(24))


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
        (
            lambda root: (root / "test.csv").write_text("filename,label\n" + "n100000.png,n1\n" * 6),
            ["images/n100000.png", "more than once"],
        ),
    ],
    ids=["no table", "no image", "other columns", "no text", "too few", "no label", "twice"],
)
def test_incomplete_tables_are_named(change: Any, words: list[str], tmp_path: Path) -> None:
    mini(True, tmp_path)
    change(tmp_path / "mini-imagenet")
    with pytest.raises(UserError) as raised:
        load_mini(tmp_path)
    for word in words:
        assert word in str(raised.value)
