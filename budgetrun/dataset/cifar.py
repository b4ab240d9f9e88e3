"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from budgetrun.contracts import Data
from budgetrun.dataset._fetch import check, fetch


@dataclass
class CIFAR:
    """50,000 + 10,000 colour images of 32x32 pixels, 10 or 100 classes (Krizhevsky 2009).

    mean, std, padding, flip: as in Arazo et al. 2021.
    """

    channels: ClassVar[int] = 3
    classes: int
    mean: list[float]
    std: list[float]
    flip: bool
    padding: int

    def __post_init__(self) -> None:
        if self.classes not in (10, 100):
            raise ValueError(f"classes={self.classes} is not one of 10, 100")

    def load(self, folder: str) -> Data:
        from torchvision import datasets

        published: Any = datasets.CIFAR10 if self.classes == 10 else datasets.CIFAR100

        def read(root: Path) -> list[Any]:
            try:  # checks the MD5 sum of every unpacked file
                return [published(root, train=part) for part in (True, False)]
            except RuntimeError:
                check(root / published.filename, published.tgz_md5)
                raise

        train, test = fetch(
            Path(folder),
            [published.filename],
            read,
            lambda scratch: published(scratch, download=True),
            published.url,
        )
        return Data(
            images=torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous(),
            labels=torch.tensor(train.targets),
            test_images=torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(),
            test_labels=torch.tensor(test.targets),
            mean=self.mean,
            std=self.std,
            flip=self.flip,
            padding=self.padding,
            classes=self.classes,
        )
