"""Images that need no download, for timing only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from budgetrun.contracts import Data


@dataclass
class RandomImages:
    """Random pixels and labels in CIFAR's format: uint8 [n, 3, 32, 32]. The other fields are those of CIFAR's YAML."""

    n: int
    classes: int
    mean: list[float]
    std: list[float]
    flip: bool
    padding: int

    def load(self, folder: str) -> Data:
        random = torch.Generator().manual_seed(0)

        def images(n: int) -> torch.Tensor:
            return torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=random)

        def labels(n: int) -> torch.Tensor:
            return torch.randint(self.classes, (n,), generator=random)

        return Data(
            images=images(self.n),
            labels=labels(self.n),
            test_images=images(100),
            test_labels=labels(100),
            mean=self.mean,
            std=self.std,
            flip=self.flip,
            padding=self.padding,
            classes=self.classes,
        )


@dataclass
class Loaded:
    """A data set that is in memory already: several runs of one process read it once."""

    data: Data

    def load(self, folder: str) -> Data:
        return self.data
