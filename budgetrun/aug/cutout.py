"""Cutout: a square of each image is hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from budgetrun.aug._boxes import check_fill, filled
from budgetrun.contracts import Batch, Data, Random


@dataclass
class Cutout:
    """Fill a square around a uniform pixel of each image; what lies outside the image is cut off.

    Source: DeVries & Taylor 2017.
    Published: 0 in normalised images, which is the data set's mean; here that mean, to the nearest whole pixel value.
    side: of the square, as a part of the image's shorter side, in `(0, 1]`; theirs are 0.5 for CIFAR-10 (16 pixels),
    0.25 for CIFAR-100 and 0.625 for SVHN. Half sides are whole pixels, as in their code, and at least one.
    fill: the colour, one number per channel in `[0, 1]`; null: the data set's mean.
    """

    image_wise: ClassVar[bool] = True
    side: float
    fill: list[float] | None

    def __post_init__(self) -> None:
        if not 1e-6 <= self.side <= 1:
            raise ValueError(f"side={self.side} must be greater than 0 and at most 1: a part of the image's side")

    def of(self, data: Data) -> Cutout:
        return self if self.fill is not None else Cutout(self.side, data.mean)

    def check(self, shape: torch.Size) -> None:
        """Raise UserError if the colour is not one of images of this shape."""
        check_fill("cutout", self.fill, shape)

    def __call__(self, batch: Batch, random: Random) -> Batch:
        images = batch.images
        height, width = images.shape[2:]
        half = max(1, round(self.side * min(height, width) / 2))
        y, x = (
            torch.randint(side, (len(batch),), generator=random.device, device=images.device)
            for side in (height, width)
        )
        batch.images = filled(images, torch.stack([y - half, y + half, x - half, x + half]), self.fill, random)
        return batch
