"""SVHN: street view house numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from budgetrun.contracts import Data
from budgetrun.dataset._fetch import check, fetch


@dataclass
class SVHN:
    """73,257 + 26,032 colour images of 32x32 pixels, 10 classes (Netzer et al. 2011), without the 'extra' part.

    mean, std, padding: as in Arazo et al. 2021; digits are not mirrored.
    """

    channels: ClassVar[int] = 3
    mean: list[float]
    std: list[float]
    flip: bool
    padding: int

    def load(self, folder: str) -> Data:
        from torchvision.datasets import SVHN as Published

        files = [Published.split_list[part] for part in ("train", "test")]

        def read(root: Path) -> list[Published]:
            for _, name, md5 in files:
                check(root / name, md5)
            return [Published(root, split=part) for part in ("train", "test")]

        def download(scratch: Path) -> None:
            for part in ("train", "test"):
                Published(scratch, split=part, download=True)

        train, test = fetch(
            Path(folder),
            [name for _, name, _ in files],
            read,
            download,
            files[0][0].rpartition("/")[0],
        )
        return Data(
            images=torch.from_numpy(train.data),
            labels=torch.from_numpy(train.labels),
            test_images=torch.from_numpy(test.data),
            test_labels=torch.from_numpy(test.labels),
            mean=self.mean,
            std=self.std,
            flip=self.flip,
            padding=self.padding,
            classes=10,
        )
