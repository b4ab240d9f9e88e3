"""Densely connected networks (DenseNet)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from budgetrun.model._stem import check_stem, first_convolution


@dataclass
class DenseNet121:
    """torchvision's DenseNet-121 (growth rate 32), not pretrained.

    Source: Huang et al. 2017; Chitta et al. 2020 train it on subsets that ResNet-18s chose.
    stem: "small", 3x3 with stride 1 and no pooling; "imagenet", torchvision's 7x7 with stride 2 and max-pooling.
    """

    stem: str

    def __post_init__(self) -> None:
        check_stem(self.stem)

    def build(self, channels: int, classes: int) -> nn.Module:
        from torchvision.models import densenet121

        net: Any = densenet121(num_classes=classes)
        net.features.conv0 = first_convolution(net.features.conv0, channels, self.stem)
        nn.init.kaiming_normal_(net.features.conv0.weight)  # by fan-in, like its other layers
        if self.stem == "small":
            net.features.pool0 = nn.Identity()
        return net
