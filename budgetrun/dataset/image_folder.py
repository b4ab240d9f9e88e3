"""The user's own images, in one folder per class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from budgetrun.contracts import Data, UserError, path
from budgetrun.dataset._images import (
    SUFFIXES,
    Shape,
    Walk,
    check_link,
    is_hidden,
    one_spelling,
    pixels_of,
    read,
)


@dataclass
class ImageFolder:
    """Image files in root/train/<class>/ and root/test/<class>/, or root/val/<class>/ if there is no test/.

    root: below `data_dir`, or an absolute path. The classes are the names of train's folders, in alphabetical order.
    Folders in them are read too, each once; of an animated image, the first frame.
    size: pixels per side of all images. channels: 3, colour, or 1, grey.
    fit: squash resizes both sides to `size`, crop the shorter one, and takes the middle.
    crop: the middle of so many pixels per side is what the model sees, unless an augmentation chooses another part of
    the image; null for the whole.
    draft: a JPEG file of more than four times `size` is made smaller while it is decoded, to no less than twice `size`:
    500x375 to 64x64 1.65 times faster, with pixels that differ by 1.2 of 255 on average.
    mean, std: null to measure those of the training part.
    """

    neutral: ClassVar = {"fit": "squash", "crop": None, "draft": False}

    root: str
    size: int
    channels: int
    mean: list[float] | None
    std: list[float] | None
    flip: bool
    padding: int
    fit: str = "squash"
    crop: int | None = None
    draft: bool = False

    def __post_init__(self) -> None:
        self.shape = Shape(self.size, self.channels, self.fit, self.draft)
        if self.crop is not None and not 1 <= self.crop <= self.size:
            raise ValueError(f"crop={self.crop} must be at least 1 pixel, and at most size={self.size}")
        self.root = path("root", self.root)

    def load(self, folder: str) -> Data:
        root = Path(folder) / self.root
        train, test = root / "train", root / ("test" if os.path.lexists(root / "test") else "val")
        folders, beside = {}, 0
        for part in (train, test):
            folders[part], others = of_classes(part)
            beside += others
        if alone := sorted(set(folders[train]) ^ set(folders[test])):
            raise UserError(f"{train} and {test} must have the same classes; only one of them has {', '.join(alone)}")
        classes = sorted(folders[train])
        walk = Walk({f: f"{part}/{c}" for part, found in folders.items() for c in classes for f in found[c]})
        walk.unread["outside the classes' folders"] = beside
        names: list[str] = []
        counts = []  # of each class of each part
        for part in (train, test):
            for c in classes:
                tops = [(f"{part.name}/{f.name}", f) for f in folders[part][c]]
                found = [f"{above}/{name}" for above, f in tops for name in walk.below(f)]
                if not found:
                    empty, kinds = folders[part][c][0], " ".join(SUFFIXES)
                    raise UserError(f"{empty} has no images ({kinds}); add some or remove the folder")
                names += found
                counts.append(len(found))
        walk.say(root)
        labels = torch.arange(len(classes)).repeat(2).repeat_interleave(torch.tensor(counts))
        n = sum(counts[: len(classes)])
        images, facts = read(root, names, self.shape, Path(folder) / "decoded")
        train_images, test_images = (images.at(rows) for rows in torch.arange(len(labels)).tensor_split([n]))
        mean, std = pixels_of(train_images, facts, self.mean, self.std)
        return Data(
            images=train_images,
            labels=labels[:n],
            test_images=test_images,
            test_labels=labels[n:],
            mean=mean,
            std=std,
            flip=self.flip,
            padding=self.padding,
            classes=len(classes),
            crop=self.crop,
            facts=facts,
        )


def of_classes(part: Path) -> tuple[dict[str, list[Path]], int]:
    """The folders of each class in `part`, several if their names look the same; and how many other files it has."""
    try:
        found = sorted(entry for entry in part.iterdir() if not is_hidden(entry.name))
    except OSError as error:
        raise UserError(
            f"{part} cannot be read ({error.strerror}); dataset=image_folder reads images from train/<class>/ and "
            "test/<class>/ (or val/<class>/) below dataset.root"
        ) from error
    classes: dict[str, list[Path]] = {}
    for entry in found:
        check_link(entry)
        if entry.is_dir():
            classes.setdefault(one_spelling(entry.name), []).append(entry)
    if len(classes) < 2:
        raise UserError(f"{part} has {len(classes)} folders of images, but there must be one per class, at least two")
    return classes, len(found) - sum(map(len, classes.values()))
