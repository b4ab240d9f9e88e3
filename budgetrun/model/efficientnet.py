"""EfficientNet and EfficientNetV2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from budgetrun.model._stem import check_stem, first_convolution


@dataclass
class EfficientNet:
    """torchvision's EfficientNet-B4 or EfficientNetV2-S, not pretrained.

    Source: Tan & Le 2019 (b4), 2021 (`v2_s`); both in Sahayam et al. 2023.
    variant: "b4" or "v2_s".
    stem: "small", the first convolution with stride 1 instead of 2, so that images of 32 pixels end as 2 x 2 positions
    and not as one; "imagenet", torchvision's.
    dropout: before the last layer. stochastic_depth: probability that the last block is skipped in training; that of
    the others grows with their depth.
    """

    variant: str
    stem: str
    dropout: float
    stochastic_depth: float

    def __post_init__(self) -> None:
        if self.variant not in ("b4", "v2_s"):
            raise ValueError(f"variant={self.variant} is not one of b4, v2_s")
        check_stem(self.stem)
        for name in ("dropout", "stochastic_depth"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")

    def build(self, channels: int, classes: int) -> nn.Module:
        from torchvision import models

        kind = {"b4": models.efficientnet_b4, "v2_s": models.efficientnet_v2_s}[self.variant]
        net: Any = kind(num_classes=classes, dropout=self.dropout, stochastic_depth_prob=self.stochastic_depth)
        net.features[0][0] = first_convolution(net.features[0][0], channels, self.stem)
        return net
