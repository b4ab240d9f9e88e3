"""Any images of the user's own, in a folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from budgetrun.contracts import Data, UserError
from budgetrun.images import below, check_size, mean_and_std, read


@dataclass
class ImageFolder:
    """Image files in root/train/<class>/ and root/test/<class>/, or root/val/<class>/ where there is no test/.

    root: below data_dir, or an absolute path. The classes are the names of train's folders, in alphabetical order.
    size: all images are resized to that many pixels a side. channels: 3, colour, or 1, grey.
    mean, std: null for those of the training part, measured.
    """

    root: str
    size: int
    channels: int
    mean: list[float] | None
    std: list[float] | None
    flip: bool
    padding: int

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels} is not one of 1, 3")

    def load(self, folder: str) -> Data:
        root = Path(folder) / self.root
        train, test = root / "train", root / ("test" if (root / "test").exists() else "val")
        parts = [of_classes(train), of_classes(test)]
        classes = [sorted(part) for part in parts]
        if classes[0] != classes[1]:
            alone = sorted(set(classes[0]) ^ set(classes[1]))
            raise UserError(f"{train} and {test} must have the same classes; only one of them has {', '.join(alone)}")
        names = [f"{place.name}/{c}/{name}" for place, part in zip((train, test), parts, strict=True)
                 for c in classes[0] for name in part[c]]  # fmt: skip
        labels = torch.tensor([number for part in parts for number, c in enumerate(classes[0]) for _ in part[c]])
        n = sum(map(len, parts[0].values()))
        images = read(root, names, self.size, self.channels, Path(folder) / "decoded")
        mean, std = self.mean, self.std
        if mean is None or std is None:
            measured = mean_and_std(images[:n])
            mean, std = measured[0] if mean is None else mean, measured[1] if std is None else std
        return Data(
            images=images[:n], labels=labels[:n], test_images=images[n:], test_labels=labels[n:], mean=mean, std=std,
            flip=self.flip, padding=self.padding, classes=len(classes[0]),
        )  # fmt: skip


def of_classes(part: Path) -> dict[str, list[str]]:
    """The image files below each folder of `part`, as paths below that folder."""
    try:
        folders = [p for p in part.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"{part} cannot be read ({error.strerror}); dataset=image_folder reads images from train/<class>/ and "
            "test/<class>/ (or val/<class>/) below dataset.root"
        ) from error
    found = {folder.name: below(folder) for folder in folders}
    if empty := sorted(name for name, names in found.items() if not names):
        raise UserError(f"{part / empty[0]} has no images; add some or take the folder away")
    if len(found) < 2:
        raise UserError(f"{part} has {len(found)} folders of images, and there must be one a class, two at least")
    return found
