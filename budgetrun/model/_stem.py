"""Adapts the first convolution of torchvision's models, which are made for images of 224 pixels, to small images."""

from __future__ import annotations

from torch import nn


def check_stem(stem: str) -> None:
    """Raise ValueError if there is no such stem."""
    if stem not in ("small", "imagenet"):
        raise ValueError(f"stem={stem} is not one of small, imagenet")


def first_convolution(like: nn.Conv2d, channels: int, stem: str) -> nn.Conv2d:
    """A new first convolution for images of `channels` channels, normal by fan-out (He et al. 2015).

    stem: "small", 3x3 with stride 1, so that no resolution is lost; "imagenet", the size and stride of `like`.
    """
    size, stride = (3, 1) if stem == "small" else (like.kernel_size[0], like.stride[0])
    convolution = nn.Conv2d(channels, like.out_channels, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
