"""MobileNetV3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from budgetrun.model._stem import check_stem, first_convolution


@dataclass
class MobileNetV3Small:
    """torchvision's MobileNetV3-Small, not pretrained.

    Source: Howard et al. 2019; in Sahayam et al. 2023.
    stem: "small", the first convolution with stride 1 instead of 2; "imagenet", torchvision's.
    dropout: before the last layer.
    """

    stem: str
    dropout: float

    def __post_init__(self) -> None:
        check_stem(self.stem)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")

    def build(self, channels: int, classes: int) -> nn.Module:
        from torchvision.models import mobilenet_v3_small

        net: Any = mobilenet_v3_small(num_classes=classes, dropout=self.dropout)
        net.features[0][0] = first_convolution(net.features[0][0], channels, self.stem)
        return net
