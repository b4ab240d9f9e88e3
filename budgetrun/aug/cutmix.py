"""CutMix: a rectangle of another image is pasted in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from budgetrun.contracts import Batch, Random


@dataclass
class CutMix:
    """Paste a box of x' at the same place into x; the shares are the visible areas.

    `lambda ~ Beta(alpha, alpha)`; the box has sides `sqrt(1 - lambda)` of the image's, its centre is uniform, and what
    lies outside the image is cut off. x' comes from a random permutation of the batch.
    Source: Yun et al. 2019, algorithm A1. Not in Arazo et al. 2021.
    alpha: of the Beta distribution; theirs for CIFAR is 1.
    draw: "batch" for one box per batch (as published), "image" for one per image.
    probability: of mixing a batch at all (their CIFAR code: 0.5; ImageNet and the default here: 1).
    """

    mixes: ClassVar[bool] = True
    alpha: float
    draw: str
    probability: float

    def __post_init__(self) -> None:
        if not 1e-6 <= self.alpha <= 1e6:
            raise ValueError(f"alpha={self.alpha} must be greater than 0, from 1e-6 to 1e6")
        if self.draw not in ("batch", "image"):
            raise ValueError(f"draw={self.draw} is not one of batch, image")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability} must be in [0, 1]")

    def __call__(self, batch: Batch, random: Random) -> Batch:
        count, _, height, width = batch.images.shape
        device = batch.images.device
        draws = count if self.draw == "image" else 1
        mixed = random.host.random() < self.probability
        side = np.sqrt(1 - random.host.beta(self.alpha, self.alpha, draws)) * mixed
        # half sides are whole pixels, as in the published code
        down, across = (side * height).astype(np.int64) // 2, (side * width).astype(np.int64) // 2
        y, x = random.host.integers(height, size=draws), random.host.integers(width, size=draws)
        edges = np.stack(
            [
                (y - down).clip(0, height),
                (y + down).clip(0, height),
                (x - across).clip(0, width),
                (x + across).clip(0, width),
            ]
        )
        y0, y1, x0, x1 = torch.from_numpy(edges).to(device, non_blocking=True)[:, :, None]
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        inside = ((rows >= y0) & (rows < y1))[:, None, :, None] & ((columns >= x0) & (columns < x1))[:, None, None, :]
        partner = torch.randperm(count, generator=random.device, device=device)
        images = torch.where(inside, batch.images[partner], batch.images)
        second = ((y1 - y0) * (x1 - x0)).float() / (height * width)
        share = torch.cat([1 - second, second], dim=1).expand(count, 2)
        return batch.mixed(images, [torch.arange(count, device=device), partner], share)
