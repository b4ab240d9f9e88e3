"""The worked examples of docs/extending, as they are printed there, in a folder outside the checkout."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import CHECKOUT, Done, environment, here, refused
from test_adapters import folders, kmnist, pets

from budgetrun.aug.crop import Crop
from budgetrun.aug.flip import Flip
from budgetrun.contracts import Batch, Random
from budgetrun.training.views import fitted

PAGES = [CHECKOUT / "docs" / "extending.md", *sorted((CHECKOUT / "docs" / "extending").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
PRINTED = r"^```(?:python|yaml)\n(# (my/\S+)\n.*?)^```$"
FILES = {path: text for text, path in re.findall(PRINTED, TEXT, flags=re.M | re.S)}
COMMANDS = re.findall(r"^python -m budgetrun (.*)$", TEXT, flags=re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with all files of the pages."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name == "my" or name.startswith("my.")]:
        del sys.modules[name]


def example(word: str) -> str:
    """The printed command that contains this word."""
    (line,) = (line for line in COMMANDS if word in line)
    return line


def run(word: str, folder: Path, more: str = "epochs=1 evaluations=1 budget=1") -> Done:
    done = here(f"{example(word)} {more}", folder)
    assert done.code == 0, done.err
    return done


def curve(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]


def test_every_kind_of_part_has_an_example_of_two_files_and_a_command() -> None:
    groups = {name.split("/")[2] for name in FILES if name.startswith("my/conf/")}
    assert groups == {"dataset", "model", "aug", "loss", "schedule", "scores", "sampler"}
    for name, text in FILES.items():
        if name.startswith("my/conf/"):
            group, option = name.split("/")[2:]
            assert f"{group}={option.removesuffix('.yaml')}" in example(
                f"my/conf {group}={option.removesuffix('.yaml')}"
            )
            assert re.findall(r"_target_: (my\.\w+)", text)[0].replace(".", "/") + ".py" in FILES


def test_help_shows_the_comments_of_a_file_copied_as_it_is_printed(folder: Path) -> None:
    page = here("--config-dir my/conf sampler=hardest --help", folder).out
    assert page.startswith("sampler=hardest: the hardest examples of a pool\n")
    assert re.search(r"sampler\.pool=3 +batches looked at for one trained on", page)


def test_the_data_set_is_learnt_and_its_mean_is_measured(folder: Path) -> None:
    done = run("dataset=shapes", folder, "")
    assert done.result["n_training"] == 1200
    assert done.result["test_accuracy"] > 0.9
    data = importlib.import_module("my.shapes").Shapes(count=10).load("")
    assert (data.labels.bincount().tolist(), data.test_labels.bincount().tolist()) == ([8] * 3, [2] * 3)
    refused(here(f"{example('dataset=shapes')} dataset.count=4", folder), "dataset.count=4", "at least 5")


def test_the_augmentation_takes_from_the_data_what_their_configuration_does_not_say(
    folder: Path, experiment_for: Any
) -> None:
    data = importlib.import_module("my.shapes").Shapes(count=10).load("")
    steps = experiment_for("aug.crop.padding=null", "aug.flip.allowed=null").aug
    assert fitted(steps, data) == [Crop(padding=0), Flip(allowed=False)]
    assert fitted(steps, replace(data, padding=2, flip=True)) == [Crop(padding=2), Flip(allowed=True)]
    assert fitted(experiment_for("dataset.padding=3").aug, data) == [Crop(padding=3), Flip(allowed=False)]
    config = run("dataset=shapes", folder, "dataset.count=30 epochs=1 evaluations=1 batch_size=8").result["config"]
    assert (config["aug"]["crop"]["padding"], config["aug"]["flip"]["allowed"]) == (None, None)


def test_data_sets_of_torchvision_are_read(folder: Path) -> None:
    root = folder / "data" / "torchvision"
    kmnist(root / "KMNIST")
    kmnist(root / "EMNIST", "EMNIST", "emnist-letters-train", "emnist-letters-test", first=1)
    pets(root / "OxfordIIITPet")
    folders(root / "EuroSAT" / "eurosat" / "2750", [8])
    for name, count in (("KMNIST", 20), ("EMNIST", 20), ("OxfordIIITPet", 6), ("EuroSAT", 12)):
        for done in folder.glob("outputs"):
            shutil.rmtree(done)
        result = run(
            f"dataset.name={name}", folder, "recipe=digits budget=1 epochs=1 batch_size=4 evaluations=1"
        ).result
        assert result["n_training"] == count
        assert result["config"]["dataset"]["name"] == name


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs budgetrun[huggingface]")
def test_a_data_set_of_hugging_face_is_read(folder: Path) -> None:
    (line,) = re.findall(r"^python (my/\S+)$", TEXT, flags=re.M)
    subprocess.run([sys.executable, line], cwd=folder, env=environment(), check=True, capture_output=True)
    result = run("dataset=huggingface", folder).result
    assert result["n_training"] == 1438  # as of dataset=digits, of which it is a copy
    assert result["test_accuracy"] > 0.2


def test_the_model_has_the_weights_that_it_says(folder: Path) -> None:
    assert run("model=tiny", folder).result["n_parameters"] == (9 * 32 + 32) + (32 * 10 + 10)


def test_the_augmentation_turns_each_image_by_itself_from_the_run_s_numbers(folder: Path) -> None:
    assert run("aug=affine", folder).result["names"]["aug"] == "affine"
    affine = importlib.import_module("my.affine").Affine(degrees=45, shift=0.2)
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(3, 1, 1, 1)

    def made() -> torch.Tensor:
        batch = Batch.plain(images, torch.arange(3), torch.zeros(3, dtype=torch.int64))
        result: torch.Tensor = affine(batch, Random.seeded(0, "aug", torch.device("cpu"))).images
        return result

    before = torch.get_rng_state()
    first = made()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(made(), first)
    assert not torch.equal(first[0], first[1])
    assert first.dtype == torch.uint8


def test_the_loss_is_its_formula(folder: Path) -> None:
    assert run("loss=generalised", folder).result["names"]["loss"] == "generalised"
    loss = importlib.import_module("my.generalised").Generalised(q=0.5)
    batch = Batch(
        torch.zeros(1, 1, 1, 1),
        *(torch.tensor([[0, 1]]) for _ in range(2)),
        torch.tensor([[0.25, 0.75]]),
        torch.tensor([0]),
    )
    p = torch.tensor([[0.64, 0.36]])
    assert loss(p.log(), batch).tolist() == pytest.approx([(0.25 * (1 - 0.8) + 0.75 * (1 - 0.6)) / 0.5])


def test_the_schedule_rises_and_falls(folder: Path) -> None:
    rates = [line["lr"] for line in curve(run("schedule=warmup", folder, "evaluations=22 budget=1 epochs=1"))]
    assert rates[0] < 0.2 * 0.25  # of lr=0.2, in a straight line over a fifth of 22 updates
    assert rates[4] == pytest.approx(0.2, rel=0.05)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    halfway = importlib.import_module("my.warmup").Warmup(part=0.2)
    assert halfway(0.2, 0.6) == pytest.approx(0.1)
    assert halfway(0.2, 0.1) == pytest.approx(0.1)


def test_the_scores_are_mean_losses_and_choose_the_hardest(folder: Path) -> None:
    scored = run("scores=mean_loss", folder)
    table = np.genfromtxt(scored.folder / "scores.csv", delimiter=",", names=True, skip_header=1)
    assert sorted(set(table["visits"])) == [0, 1]  # 22 updates of 64 leave 30 of 1,438 examples out
    assert table["visits"].sum() == 22 * 64
    assert table["score"][table["visits"] == 1].mean() == pytest.approx(scored.result["train_loss"], rel=1e-4)
    done = here(f"{example('sampler=subset')} epochs=1 budget=1 output_dir=second", folder)
    assert done.code == 0, done.err
    kept = np.loadtxt(next((folder / "second").glob("*/kept.csv")), skiprows=2, dtype=int)
    assert len(kept) == 719
    assert table["score"][kept].min() >= np.median(table["score"]) - 1e-6


# ---- the mistakes of a first try, each in the example of the page

DATA = "return Data(images[test:], labels[test:], images[:test], labels[:test], classes=3)"
# the command's words, the file, what is typed instead of what, and words that the sentence must have
MISTAKES = [
    (
        "dataset=shapes",
        "shapes.py",
        DATA,
        "return images, labels",
        ["my.shapes.Shapes.load", "a tuple", "contracts.Data"],
    ),
    ("dataset=shapes", "shapes.py", DATA, "pass", ["my.shapes.Shapes.load", "returns nothing"]),
    (
        "sampler=hardest",
        "hardest.py",
        "return self.stream.state_dict()",
        "return {}",
        ["my.hardest.Hardest.state_dict", "self.stream.state_dict()"],
    ),
    (
        "dataset=shapes",
        "shapes.py",
        DATA,
        DATA.replace("images[test:]", "images[test:] / 255"),
        ["images", "torch.float32", "* 255"],
    ),
    ("dataset=shapes", "shapes.py", DATA, "images = images * float('nan'); " + DATA, ["images", "torch.float32"]),
    (
        "dataset=shapes",
        "shapes.py",
        DATA,
        DATA.replace("images[", "images.permute(0, 2, 3, 1)["),
        ["[1200, 16, 16, 1]", "permute(0, 3, 1, 2)"],
    ),
    (
        "dataset=shapes",
        "shapes.py",
        DATA,
        DATA.replace("images[", "images[:, 0]["),
        ["[1200, 16, 16]", "images[:, None]"],
    ),
    (
        "dataset=shapes",
        "shapes.py",
        DATA,
        DATA.replace("images[test:]", "images[test:].numpy()"),
        ["a ndarray", "torch.from_numpy"],
    ),
    ("dataset=shapes", "shapes.py", DATA, "labels = labels + 1; " + DATA, ["1 .. 3", "0 .. 2", "labels - 1"]),
    ("dataset=shapes", "shapes.py", DATA, DATA.replace("classes=3", "classes=2"), ["0 .. 2", "classes=2"]),
    (
        "dataset=shapes",
        "shapes.py",
        DATA,
        "labels = labels.float(); " + DATA,
        ["labels", "torch.float32", "labels.long()"],
    ),
    ("dataset=shapes", "shapes.py", DATA, "labels = labels.tolist(); " + DATA, ["labels", "a list", "torch.as_tensor"]),
    (
        "dataset=shapes",
        "shapes.py",
        DATA,
        DATA.replace("labels[test:]", "labels"),
        ["labels are [1500]", "must be [1200]"],
    ),
    (
        "dataset=shapes",
        "shapes.py",
        DATA,
        DATA.replace("images[:test]", "images[:test, :, 1:]"),
        ["[300, 1, 15, 16]", "same"],
    ),
    (
        "dataset=shapes",
        "shapes.py",
        DATA,
        DATA.replace("classes=3", "mean=[0.5], std=[0.5, 0.5], classes=3"),
        ["dataset.std=[0.5, 0.5]"],
    ),
    ("dataset=shapes", "shapes.py", "def load(", "def read(", ["dataset._target_=my.shapes.Shapes", "no method load"]),
    (
        "dataset=shapes",
        "shapes.py",
        "import numpy as np",
        "import nump as np",
        ["dataset._target_=my.shapes.Shapes", "No module named 'nump', in my/shapes.py:4"],
    ),
    ("dataset=shapes", "shapes.py", "@dataclass\n", "", ["my.shapes.Shapes is not a dataclass"]),
    (
        "dataset=shapes",
        "conf/dataset/shapes.yaml",
        "my.shapes.Shapes",
        "my.shapes.Shape",
        ["dataset._target_=my.shapes.Shape", "Shapes"],
    ),
    (
        "dataset=shapes",
        "conf/dataset/shapes.yaml",
        "my.shapes",
        "mine.shapes",
        ["dataset._target_=mine.shapes.Shapes", "mine"],
    ),
    ("dataset=shapes", "conf/dataset/shapes.yaml", "_target_: my.shapes.Shapes\n", "", ["dataset._target_ is missing"]),
    ("dataset=shapes", "conf/dataset/shapes.yaml", "count: 500 #", "#", ["dataset.count has no value"]),
    ("dataset=shapes", "conf/dataset/shapes.yaml", "count: 500", "count: many", ["dataset.count=many", "whole number"]),
    ("dataset=shapes", "conf/dataset/shapes.yaml", "count: 500", "count 500", ["shapes.yaml"]),
    (
        "aug=affine",
        "affine.py",
        "return batch",
        "return batch.images",
        ["aug.affine", "a Tensor", "must return the Batch"],
    ),
    ("aug=affine", "affine.py", "        return batch\n", "", ["aug.affine", "returns nothing"]),
    (
        "aug=affine",
        "affine.py",
        "self.transform(image) for",
        "self.transform(image) / 255 for",
        ["aug.affine", "0 .. 255", "scale=True"],
    ),
    (
        "aug=affine",
        "affine.py",
        "self.transform(image) for",
        "self.transform(image)[0] for",
        ["aug.affine", "[2, 8, 8]"],
    ),
    (
        "aug=affine",
        "affine.py",
        "self.transform(image) for",
        "self.transform(image)[:, :2, :2] for",
        ["aug.affine makes images of 2x2 of those of 8x8, and the model does not fit images of 1x2x2"],
    ),
    (
        "aug=affine",
        "affine.py",
        "self.transform(image) for",
        "self.transform(image).double() for",
        ["aug.affine", "torch.float64"],
    ),
    ("loss=generalised", "generalised.py", ".sum(1)\n", ".sum(1).mean()\n", ["loss", "[]", "one loss per image"]),
    ("loss=generalised", "generalised.py", "return (batch", "(batch", ["loss", "returns nothing"]),
    ("loss=generalised", "generalised.py", ".sum(1)\n", ".sum(1).detach()\n", ["loss", "no gradient"]),
    ("schedule=warmup", "warmup.py", "return lr * (1", "lr * (1", ["schedule", "my.warmup.Warmup", "returns None"]),
    ("schedule=warmup", "warmup.py", "lr * (1 +", "-lr * (1 +", ["schedule", "learning rate"]),
    (
        "sampler=hardest",
        "hardest.py",
        "return pool[losses.topk(self.context.batch_size).indices]",
        "return losses.topk(self.context.batch_size).indices",
        ["draw", "a Tensor", "must return a Batch"],
    ),
    (
        "sampler=hardest",
        "hardest.py",
        "return pool[losses.topk(self.context.batch_size).indices]",
        "return pool",
        ["draw", "a batch of 192 images", "must return 1 to 64"],
    ),
    ("sampler=hardest", "hardest.py", "def state_dict", "def state", ["no method state_dict"]),
    (
        "scores=mean_loss",
        "mean_loss.py",
        'return {"score": self.sums',
        "return self.sums  # {",
        ["my.mean_loss.MeanLoss.scores", "a Tensor", '"score"'],
    ),
    ("scores=mean_loss", "mean_loss.py", '"score": self', '"scores": self', ["scores, visits", "one called score"]),
    ("scores=mean_loss", "mean_loss.py", ".clamp(min=1e-9)", "", ["my.mean_loss.MeanLoss.scores", "not a number"]),
    ("scores=mean_loss", "mean_loss.py", '"visits": self.visits}', '"visits": self.visits[:9]}', ["[9]", "[1438]"]),
    (
        "model=tiny",
        "tiny.py",
        "return nn.Sequential(",
        "nn.Sequential(",
        ["model's build", "returns nothing", "torch.nn.Module"],
    ),
    (
        "model=tiny",
        "tiny.py",
        "nn.Linear(self.width, classes)",
        "nn.Linear(self.width, classes - 1)",
        ["[2, 9]", "must return logits, [2, 10]"],
    ),
    ("model=tiny", "tiny.py", "classes),\n", "classes), nn.Softmax(1),\n", ["ends in Softmax", "must return logits"]),
    ("model=tiny", "tiny.py", "nn.AdaptiveAvgPool2d(1),", "", ["the model does not fit"]),
]


@pytest.mark.parametrize(("word", "name", "old", "new", "words"), MISTAKES, ids=lambda value: str(value)[:20])
def test_a_first_mistake_ends_in_one_sentence(
    word: str, name: str, old: str, new: str, words: list[str], folder: Path
) -> None:
    file = folder / "my" / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    refused(here(f"{example(word)} epochs=1 evaluations=1 budget=1", folder), *words)
    assert not list(folder.glob("outputs/*/result.json"))
