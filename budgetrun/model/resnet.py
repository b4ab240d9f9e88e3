"""Residual networks (ResNet)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from budgetrun.model._stem import check_stem, first_convolution


@dataclass
class ResNet:
    """torchvision's ResNet of 18, 50 or 101 layers, not pretrained.

    Source: He et al. 2016; ResNet-18 with the small stem is the one model of Arazo et al. 2021, for every data set.
    stem: "small", 3x3 with stride 1 and no max-pooling, the form for CIFAR; "imagenet", torchvision's 7x7 with stride 2
    and max-pooling, a fifteenth of the FLOPs.
    init: "torch", each convolution's own default as in Arazo et al.; "torchvision", normal by fan-out (He et al. 2015).
    """

    depth: int
    stem: str
    init: str

    def __post_init__(self) -> None:
        if self.depth not in (18, 50, 101):
            raise ValueError(f"depth={self.depth} is not one of 18, 50, 101")
        check_stem(self.stem)
        if self.init not in ("torch", "torchvision"):
            raise ValueError(f"init={self.init} is not one of torch, torchvision")

    def build(self, channels: int, classes: int) -> nn.Module:
        from torchvision import models

        kinds = {18: models.resnet18, 50: models.resnet50, 101: models.resnet101}
        net: Any = kinds[self.depth](num_classes=classes)
        net.conv1 = first_convolution(net.conv1, channels, self.stem)
        if self.stem == "small":
            net.maxpool = nn.Identity()
        if self.init == "torch":
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.reset_parameters()
        return net
