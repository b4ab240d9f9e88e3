"""A small convolutional network for the small data sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class CNN:
    """Three 3x3 convolutions of width, 2 width, 4 width channels with BatchNorm and ReLU, with max-pooling between.

    They end in a mean over each quarter of the image, not over the whole: on Fashion-MNIST, where the articles are
    centred, 87.8% against 86.8% after 3 epochs (one seed). Fits images of at least 4 x 4 pixels.
    """

    width: int

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 10**6:
            raise ValueError(f"width={self.width} must be at least 1 channel, and at most a million")

    def build(self, channels: int, classes: int) -> nn.Module:
        def block(into: int, out: int) -> list[nn.Module]:
            return [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]

        w = self.width
        return nn.Sequential(
            *block(channels, w),
            nn.MaxPool2d(2),
            *block(w, 2 * w),
            nn.MaxPool2d(2),
            *block(2 * w, 4 * w),
            Quarters(),
            nn.Flatten(),
            nn.Linear(16 * w, classes),
        )


class Quarters(nn.Module):
    """The mean over each quarter of [B, C, H, W], as [B, C, 2, 2]; if a side is odd, the quarters share the middle.

    Bit-identical to `nn.AdaptiveAvgPool2d(2)`, which has no deterministic gradient on a GPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height == 1 or width == 1:  # one pixel is both halves
            x = x.expand(-1, -1, max(height, 2), max(width, 2))
        kernel, step = ((height + 1) // 2, (width + 1) // 2), (max(height // 2, 1), max(width // 2, 1))
        return F.avg_pool2d(x, kernel, step)
