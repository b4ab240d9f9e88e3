"""mini-ImageNet, split for classification."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from budgetrun.contracts import Data, UserError
from budgetrun.dataset._images import Shape, Walk, one_spelling, read

TABLES = ("train.csv", "val.csv", "test.csv")


@dataclass
class MiniImageNet:
    """60,000 colour images of 100 classes of ImageNet (Vinyals et al. 2016), from files in `data_dir/mini-imagenet`.

    Either the usual train.csv, val.csv and test.csv (columns filename, label) with a folder images/, or image files in
    folders named by their classes, however deep. Images of another size are resized to `size` pixels per side.
    train, test, mean, std, padding, flip: as in Arazo et al. 2021. They pool the three tables, so that all classes are
    in both parts, permute with NumPy's seed 42, and train on the first 50,000. The same is done here, so with the
    tables the split is theirs. Without them, the files are pooled in the order of their paths: this project's own
    split.
    """

    channels: ClassVar[int] = 3
    size: int
    train: int
    test: int
    classes: int
    mean: list[float]
    std: list[float]
    flip: bool
    padding: int

    def __post_init__(self) -> None:
        self.shape = Shape(self.size, 3)
        for name in ("train", "test", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    def load(self, folder: str) -> Data:
        root = Path(folder) / "mini-imagenet"
        names, classes = listed(root)
        numbers = {name: number for number, name in enumerate(sorted(set(classes)))}
        if (len(names), len(numbers)) != (self.train + self.test, self.classes):
            raise UserError(
                f"{root} has {len(names)} images of {len(numbers)} classes, not {self.train} + {self.test} of "
                f"{self.classes}; mini-ImageNet cannot be downloaded: put {', '.join(TABLES)} and the folder images/ "
                "there, or one folder of images per class"
            )
        images, facts = read(root, names, self.shape, Path(folder) / "decoded")
        labels = torch.tensor([numbers[name] for name in classes])
        order = torch.from_numpy(np.random.RandomState(42).permutation(len(names)))
        train, test = order[: self.train], order[self.train :]
        return Data(
            images=images.at(train),
            labels=labels[train],
            test_images=images.at(test),
            test_labels=labels[test],
            mean=self.mean,
            std=self.std,
            flip=self.flip,
            padding=self.padding,
            classes=self.classes,
            facts=facts,
        )


def listed(root: Path) -> tuple[list[str], list[str]]:
    """The image files below `root` and the class of each: those of the tables if there are any, else all."""
    if not any((root / table).exists() for table in TABLES):
        walk = Walk({root: ""})
        names = walk.below(root) if root.exists() else []
        walk.say(root)
        return names, [one_spelling(Path(name).parent.name) for name in names]
    rows: list[tuple[str, str]] = []
    for table in TABLES:
        try:
            with (root / table).open(newline="") as file:
                for row in csv.DictReader(file, restval=""):
                    if not row["label"]:
                        raise ValueError(f"{row['filename']} has no label")
                    rows.append((f"images/{row['filename']}", one_spelling(row["label"])))
        except OSError as error:
            raise UserError(f"{root / table} cannot be read ({error.strerror})") from error
        except (KeyError, ValueError, csv.Error) as error:
            raise UserError(f"{root / table} is not a table with columns filename and label ({error})") from error
    names = [name for name, _ in rows]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{root / twice} is in the tables more than once; remove all but one of its lines")
    return names, [label for _, label in rows]
