"""ResNet-18 in its CIFAR form."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass
class ResNet18:
    """torchvision's ResNet-18 with a 3x3 stride-1 stem and no max-pooling (64-128-256-512 channels).

    Source: He et al. 2016; the one model of Arazo et al. 2021, for every data set.
    init: "torch", each layer's own default as in Arazo et al.; "torchvision", normal by fan-out (He et al. 2015).
    """

    init: str

    def __post_init__(self) -> None:
        if self.init not in ("torch", "torchvision"):
            raise ValueError(f"init={self.init} is not one of torch, torchvision")

    def build(self, channels: int, classes: int) -> nn.Module:
        from torchvision.models import resnet18

        net = resnet18(num_classes=classes)
        net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
        if self.init == "torch":
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.reset_parameters()
        else:
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        return net
