"""Wide residual networks (WRN)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class WideResNet:
    """WRN-depth-width: three groups of pre-activation basic blocks with 16, 32, 64 times `width` channels.

    Source: Zagoruyko & Komodakis 2016; WRN-28-10 in Hu et al. 2021, WRN-28-2 in Katharopoulos & Fleuret 2018.
    depth: `6 n + 4` layers. dropout: between the two convolutions of a block (Hu et al.'s code: 0.3).
    """

    depth: int
    width: int
    dropout: float

    def __post_init__(self) -> None:
        if not 10 <= self.depth <= 1000 or (self.depth - 4) % 6:
            raise ValueError(f"depth={self.depth} must be 6 n + 4: 10, 16, 22, 28, ... up to 1000")
        if not 1 <= self.width <= 10**6:
            raise ValueError(f"width={self.width} must be at least 1, and at most a million")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")

    def build(self, channels: int, classes: int) -> nn.Module:
        net = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False))
        into = 16
        for group, out in enumerate((16 * self.width, 32 * self.width, 64 * self.width)):
            for number in range((self.depth - 4) // 6):
                net.append(Block(into, out, 2 if group > 0 and number == 0 else 1, self.dropout))
                into = out
        net.extend([nn.BatchNorm2d(into), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
        net.append(nn.Linear(into, classes))
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return net


class Block(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, plus the input (through a 1x1 convolution where the shape changes)."""

    def __init__(self, into: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(into), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(into, out, 1, stride, bias=False) if into != out or stride > 1 else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        return skip + self.conv2(self.dropout(F.relu(self.norm2(self.conv1(active)))))
