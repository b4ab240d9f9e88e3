"""Random erasing: a box of some images is hidden."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from budgetrun.aug._boxes import check_fill, drawn, filled
from budgetrun.contracts import Batch, Random


@dataclass
class RandomErasing:
    """Fill a box of each image with probability `probability`.

    Its area is uniform in `area` times that of the image, its height / width log-uniform in `[1 / ratio, ratio]`, its
    place uniform where it fits; after 10 tries that do not fit into the image, nothing is erased.
    Source: Zhong et al. 2017, as torchvision's RandomErasing draws it.
    Published: the ratio is uniform in their algorithm.
    probability: 0.5, theirs. area: two numbers in `[0, 1]`; theirs. ratio: at least 1; 10/3, theirs.
    fill: null for a random value of every pixel, their best; or a colour, one number per channel in `[0, 1]`.
    """

    image_wise: ClassVar[bool] = True
    probability: float
    area: list[float]
    ratio: float
    fill: list[float] | None

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability} must be in [0, 1]")
        if len(self.area) != 2 or not 0 <= self.area[0] <= self.area[1] <= 1:
            raise ValueError(
                f"area={list(self.area)} must be two numbers in [0, 1], the smallest part of the image first"
            )
        if not 1 <= self.ratio < math.inf:
            raise ValueError(f"ratio={self.ratio} must be at least 1: the longer side of a box over the shorter one")

    def check(self, shape: torch.Size) -> None:
        """Raise UserError if the colour is not one of images of this shape."""
        check_fill("random_erasing", self.fill, shape)

    def __call__(self, batch: Batch, random: Random) -> Batch:
        images, count = batch.images, len(batch)
        tall, wide = images.shape[2:]
        size, most = (tall, wide), (tall - 1, wide - 1)  # a box is smaller than the image on both sides
        top, left, height, width, fits = drawn(
            count, size, most, (self.area[0], self.area[1]), self.ratio, random.device
        )
        chosen = fits & (torch.rand(count, generator=random.device, device=images.device) < self.probability)
        edges = torch.stack([top, top + height * chosen, left, left + width])
        batch.images = filled(images, edges, self.fill, random)
        return batch
