"""CutMix: a rectangle of another image is pasted in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from budgetrun.aug._boxes import inside
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
        sides = [[height], [height], [width], [width]]
        edges = np.stack([y - down, y + down, x - across, x + across]).clip(0, sides)
        partner = torch.randperm(count, generator=random.device, device=device)
        place = pasted if self.draw == "batch" else by_pixel
        images = place(batch.images, partner, edges)
        second = ((edges[1] - edges[0]) * (edges[3] - edges[2])).astype(np.float32) / (height * width)
        share = torch.from_numpy(np.stack([1 - second, second], axis=1)).to(device, non_blocking=True).expand(count, 2)
        return batch.mixed(images, [torch.arange(count, device=device), partner], share)


def pasted(images: Tensor, partner: Tensor, edges: np.ndarray[Any, Any]) -> Tensor:
    """Images [B, C, H, W] with the box of their partner; edges: [4, 1], of the one box."""
    y0, y1, x0, x1 = edges[:, 0].tolist()
    mixed = images.clone()
    mixed[:, :, y0:y1, x0:x1] = images[:, :, y0:y1, x0:x1].index_select(0, partner)
    return mixed


def by_pixel(images: Tensor, partner: Tensor, edges: np.ndarray[Any, Any]) -> Tensor:
    """The same with a box for each; edges: [4, B]."""
    box = inside(torch.from_numpy(edges).to(images.device, non_blocking=True), *images.shape[2:])
    return torch.where(box, images.index_select(0, partner), images)
