"""Data sets that torchvision and Hugging Face's `datasets` read, in small files of their true formats."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import here, refused
from PIL import Image

from budgetrun.contracts import UserError
from budgetrun.dataset.huggingface import HuggingFace
from budgetrun.dataset.torchvision import Torchvision
from budgetrun.training.data import fingerprint

VALUES: dict[str, Any] = {"train": "train", "test": "test", "size": None, "channels": None, "fit": "squash"}
VALUES |= {"mean": None, "std": None, "flip": False, "padding": 0}
RECIPE = "recipe=digits epochs=1 batch_size=8 evaluations=1"


def of_torchvision(name: str, **others: Any) -> Torchvision:
    return Torchvision(**{**VALUES, "name": name, "options": {}, "root": None, **others})


def idx(path: Path, values: np.ndarray) -> None:
    """An idx file, the format of MNIST and its successors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def kmnist(
    root: Path, name: str = "KMNIST", train: str = "train", test: str = "t10k", first: int = 0
) -> dict[str, np.ndarray]:
    """Raw files of 28x28 pixels as torchvision keeps them: 20 to train on, 10 to test on. first: the lowest label."""
    random, given = np.random.default_rng(0), {}
    for part, count in ((train, 20), (test, 10)):
        given[f"{part} images"] = random.integers(256, size=(count, 28, 28))
        given[f"{part} labels"] = first + np.arange(count) % 10
        idx(root / name / "raw" / f"{part}-images-idx3-ubyte", given[f"{part} images"])
        idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", given[f"{part} labels"])
    return given


def pets(root: Path) -> None:
    """Photographs of several sizes, of 2 breeds: 6 to train on, 4 to test on."""
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    (base / "images").mkdir()
    for part, count in (("trainval", 6), ("test", 4)):
        names = [f"breed{i % 2}_{part}{i}" for i in range(count)]
        lines = [f"{name} {i % 2 + 1} 1 1\n" for i, name in enumerate(names)]
        (base / "annotations" / f"{part}.txt").write_text("".join(lines))
        for i, name in enumerate(names):
            Image.new("RGB", (10 + i, 12), (40 * i, 9 * i, 255 - i)).save(base / "images" / f"{name}.jpg")


def folders(root: Path, sizes: list[int], classes: int = 3, each: int = 5) -> None:
    """Pictures in folders named by classes; red is 50 times the class, green the number."""
    for label in range(classes):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(each):
            side = sizes[number % len(sizes)]
            Image.new("RGB", (side, side), (50 * label, number, 7 + label)).save(
                root / f"class{label}" / f"{number}.png"
            )


def test_pixels_and_labels_are_those_that_torchvision_reads(tmp_path: Path) -> None:
    given = kmnist(tmp_path / "torchvision" / "KMNIST")
    data = of_torchvision("KMNIST").load(str(tmp_path))
    assert data.images[:].tolist() == given["train images"][:, None].tolist()
    assert data.test_images[:].tolist() == given["t10k images"][:, None].tolist()
    assert data.labels.tolist() == given["train labels"].tolist()
    assert data.test_labels.tolist() == given["t10k labels"].tolist()
    assert (data.classes, data.labels.dtype) == (10, torch.int64)
    assert data.mean == pytest.approx([given["train images"].mean() / 255])
    assert data.std == pytest.approx([given["train images"].std() / 255])


def test_a_second_start_reads_no_picture_and_a_changed_file_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import KMNIST

    root = tmp_path / "torchvision" / "KMNIST"
    kmnist(root)
    dataset = of_torchvision("KMNIST")
    first, read = dataset.load(str(tmp_path)), []
    before, really = fingerprint(first), KMNIST.__getitem__
    monkeypatch.setattr(KMNIST, "__getitem__", lambda self, number: read.append(number) or really(self, number))
    again = dataset.load(str(tmp_path))
    assert fingerprint(again) == before
    assert read == [0]  # for its size
    (root / "KMNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 10]) + bytes(10))
    changed = dataset.load(str(tmp_path))
    assert changed.test_labels.tolist() == [0] * 10
    assert fingerprint(changed) != before


def test_a_data_set_in_one_part_is_divided_class_by_class(tmp_path: Path) -> None:
    folders(tmp_path / "torchvision" / "EuroSAT" / "eurosat" / "2750", [8])
    refused_without = of_torchvision("EuroSAT")
    with pytest.raises(UserError, match=r"EuroSAT has one part; set dataset\.test"):
        refused_without.load(str(tmp_path))
    data = replace(refused_without, test="0.4").load(str(tmp_path))
    assert data.labels.bincount().tolist() == [3, 3, 3]
    assert data.test_labels.bincount().tolist() == [2, 2, 2]
    for images, labels in ((data.images, data.labels), (data.test_images, data.test_labels)):
        assert images[:][:, 0, 0, 0].tolist() == (50 * labels).tolist()
    number = torch.cat([data.images[:], data.test_images[:]])[:, 1, 0, 0]
    assert sorted(number.tolist()) == sorted(list(range(5)) * 3)  # none twice, none lost
    assert data.mean is not None
    assert data.mean[2] == pytest.approx(8 / 255)  # blue is 7, 8 and 9


def test_pictures_of_several_sizes_need_one_and_are_resized(tmp_path: Path) -> None:
    folders(tmp_path / "torchvision" / "EuroSAT" / "eurosat" / "2750", [8, 12])
    dataset = of_torchvision("EuroSAT", test="0.4")
    with pytest.raises(UserError, match=r"picture 1 has 12x12 pixels, and the first one 8x8; set dataset\.size"):
        dataset.load(str(tmp_path))
    data = replace(dataset, size=6, channels=1).load(str(tmp_path))
    assert data.images.shape == (9, 1, 6, 6)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dataset.name=KMNISTT", ["dataset.name=KMNISTT", "did you mean KMNIST?"]),
        ("dataset.name=Nothing", ["dataset.name=Nothing", "not a data set of torchvision"]),
        ("dataset.train=training", ["dataset.train", "train and test, not training"]),
        ("dataset.test=1.5", ["dataset.test=1.5", "between 0 and 1"]),
        ("dataset.test=all", ["train and test, not all"]),
        ("+dataset.options.splitt=letters", ["dataset.options={splitt: ...}", "KMNIST"]),
        ("dataset.size=0", ["dataset.size=0"]),
        ("dataset.channels=2", ["dataset.channels=2"]),
        ("dataset.fit=stretch", ["dataset.fit=stretch"]),
        ("dataset.mean=[0.1,0.2]", ["dataset.mean"]),
    ],
)
def test_what_torchvision_does_not_have_is_refused_in_one_sentence(line: str, words: list[str], tmp_path: Path) -> None:
    kmnist(tmp_path / "data" / "torchvision" / "KMNIST")
    refused(here(f"dataset=torchvision {line} {RECIPE}", tmp_path), *words)


def test_a_run_trains_on_a_data_set_of_torchvision(tmp_path: Path) -> None:
    kmnist(tmp_path / "data" / "torchvision" / "KMNIST")
    done = here(f"dataset=torchvision dataset.name=KMNIST {RECIPE}", tmp_path)
    assert done.code == 0, done.err
    assert done.result["n_training"] == 20


# ---- Hugging Face

needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="needs the package datasets, of budgetrun[huggingface]"
)


def of_huggingface(path: str, **others: Any) -> HuggingFace:
    return HuggingFace(**{**VALUES, "path": path, "image": None, "label": None, **others})


def split(count: int, label: Any, side: int = 8, mode: str = "RGB") -> Any:
    """Pictures whose first pixel is 10 times their number; label: of each number."""
    from datasets import Dataset, Features
    from datasets import Image as Picture

    colour = [(10 * i, i, 255 - i) if mode == "RGB" else 10 * i for i in range(count)]
    columns = {"img": [Image.new(mode, (side, side), c) for c in colour], "name": [label(i) for i in range(count)]}
    features = Features({"img": Picture(), "name": Dataset.from_dict({"name": columns["name"]}).features["name"]})
    return Dataset.from_dict(columns, features=features)


def of_classes(dataset: Any, names: list[str]) -> Any:
    from datasets import ClassLabel

    return dataset.cast_column("name", ClassLabel(names=names))


@needs_datasets
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_saved_dictionary_of_splits_is_read_pixel_for_pixel(mode: str, tmp_path: Path) -> None:
    from datasets import DatasetDict

    names = ["cat", "dog", "eel"]
    parts = {
        part: of_classes(split(count, lambda i: i % 3, mode=mode), names) for part, count in (("fit", 9), ("test", 6))
    }
    DatasetDict(parts).save_to_disk(str(tmp_path / "mine"))
    data = of_huggingface("mine", train="fit").load(str(tmp_path))
    assert data.images.shape == (9, 3 if mode == "RGB" else 1, 8, 8)
    assert data.images[:][:, 0, 0, 0].tolist() == [10 * i for i in range(9)]
    assert data.labels.tolist() == [i % 3 for i in range(9)]
    assert (len(data.test_labels), data.classes) == (6, 3)
    first = fingerprint(data)
    DatasetDict({**parts, "test": of_classes(split(6, lambda i: 0, mode=mode), names)}).save_to_disk(
        str(tmp_path / "mine")
    )
    assert fingerprint(of_huggingface("mine", train="fit").load(str(tmp_path))) != first


@needs_datasets
def test_one_saved_split_with_names_as_labels_is_divided(tmp_path: Path) -> None:
    split(10, lambda i: "eel" if i % 2 else "ant").save_to_disk(str(tmp_path / "mine"))
    data = of_huggingface("mine", test="0.4", label="name").load(str(tmp_path))
    assert (data.labels.bincount().tolist(), data.test_labels.bincount().tolist()) == ([3, 3], [2, 2])
    assert data.images[:][:, 0, 0, 0].remainder(20).bool().tolist() == data.labels.bool().tolist()  # ant: even numbers


@needs_datasets
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_what_load_dataset_takes_is_read(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        for part in ("train", "test"):
            folders(tmp_path / "mine" / part, [8])
        data = of_huggingface("mine").load(str(tmp_path))
        assert data.images[:][:, 0, 0, 0].tolist() == (50 * data.labels).tolist()
        assert data.labels.bincount().tolist() == data.test_labels.bincount().tolist() == [5, 5, 5]
    else:
        of_classes(split(10, lambda i: i % 2), ["ant", "eel"]).to_parquet(str(tmp_path / "mine.parquet"))
        data = of_huggingface("mine.parquet", test="0.4").load(str(tmp_path))
        assert data.labels.bincount().tolist() == [3, 3]


@needs_datasets
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dataset.path=/nowhere/at/all", ["dataset.path=/nowhere/at/all", "there is no"]),
        ("dataset.test=validation", ["no split validation", "train, test"]),
        ("dataset.image=picture", ["no column dataset.image=picture", "img, name"]),
        ("dataset.image=name", ["picture 0", "int"]),
        ("dataset.label=img", ["a label is a", "no class"]),
    ],
)
def test_what_datasets_cannot_read_is_refused_in_one_sentence(line: str, words: list[str], tmp_path: Path) -> None:
    from datasets import DatasetDict

    parts = {part: of_classes(split(8, lambda i: i % 2), ["ant", "eel"]) for part in ("train", "test")}
    DatasetDict(parts).save_to_disk(str(tmp_path / "data" / "mine"))
    refused(here(f"dataset=huggingface dataset.path=mine {line} {RECIPE}", tmp_path), *words)


@needs_datasets
def test_a_run_trains_on_a_saved_data_set(tmp_path: Path) -> None:
    from datasets import DatasetDict

    parts = {part: of_classes(split(16, lambda i: i % 2), ["ant", "eel"]) for part in ("train", "test")}
    DatasetDict(parts).save_to_disk(str(tmp_path / "data" / "mine"))
    done = here(f"dataset=huggingface dataset.path=mine {RECIPE}", tmp_path)
    assert done.code == 0, done.err
    assert done.result["n_training"] == 16


def test_without_the_package_the_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    refused(here(f"dataset=huggingface {RECIPE}", tmp_path), "budgetrun[huggingface]")
