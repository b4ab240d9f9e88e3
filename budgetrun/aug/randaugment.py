"""RandAugment: each image gets its own random operations, all at one strength."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from budgetrun.contracts import Batch, Random

Operation = tuple[str, float, bool]  # name, value, whether the value's sign is random


def arazo2021(magnitude: float, height: int, width: int) -> list[Operation]:
    """The 16 operations of the code that Arazo et al. 2021 use: ranges for ImageNet, applied to 32-pixel images.

    value = magnitude / 30 x (max - min) + min. At magnitude 4: rotations of 4 degrees but shifts of 13.3 pixels,
    a solarize threshold of 34 (inverts nearly everything) and posterize to 1 bit: a low magnitude is not mild.
    """
    ranges: list[tuple[str, float, float, bool]] = [
        ("autocontrast", 0, 1, False),
        ("equalize", 0, 1, False),
        ("invert", 0, 1, False),
        ("rotate", 0, 30, True),
        ("posterize", 0, 4, False),
        ("solarize", 0, 256, False),
        ("solarize_add", 0, 110, False),
        ("color", 0.1, 1.9, False),
        ("contrast", 0.1, 1.9, False),
        ("brightness", 0.1, 1.9, False),
        ("sharpness", 0.1, 1.9, False),
        ("shear_x", 0, 0.3, True),
        ("shear_y", 0, 0.3, True),
        ("cutout", 0, 40, False),
        ("translate_x", 0, 100, True),
        ("translate_y", 0, 100, True),
    ]
    values = [(name, magnitude / 30 * (high - low) + low, signed) for name, low, high, signed in ranges]

    def as_applied(name: str, value: float) -> float:
        if name.startswith("translate"):
            return round(value)  # PIL's nearest pixel
        return max(1, int(value)) if name == "posterize" else value  # at least one bit is kept

    return [(name, as_applied(name, value), signed) for name, value, signed in values]


def torchvision(magnitude: float, height: int, width: int) -> list[Operation]:
    """The 14 operations of torchvision.transforms.RandAugment: ranges scale with the image, 0 is no change."""
    part = magnitude / 30
    return [
        ("identity", 0, False),
        ("shear_x", 0.3 * part, True),
        ("shear_y", 0.3 * part, True),
        ("translate_x", 150 / 331 * width * part, True),
        ("translate_y", 150 / 331 * height * part, True),
        ("rotate", 30 * part, True),
        ("brightness", 0.9 * part, True),
        ("color", 0.9 * part, True),
        ("contrast", 0.9 * part, True),
        ("sharpness", 0.9 * part, True),
        ("posterize", 8 - round(magnitude / (30 / 4)), False),
        ("solarize", 255 * (1 - part), False),
        ("autocontrast", 0, False),
        ("equalize", 0, False),
    ]


RANGES: dict[str, Callable[[float, int, int], list[Operation]]] = {"arazo2021": arazo2021, "torchvision": torchvision}


@dataclass
class RandAugment:
    """`operations` operations per image, drawn with replacement, all at strength `magnitude` of 30.

    Every image draws operations and signs of its own. The draw is made on the host, so that the device never waits to
    learn how many images an operation gets.
    Source: Cubuk et al. 2020.
    Published: torchvision's transform draws once for a whole batch.
    operations, magnitude: 2 and 4 as in Arazo et al. 2021.
    ranges: "arazo2021", the 16 operations of the code that they use, whose ranges are for ImageNet: at magnitude 4,
    rotations of 4 degrees but shifts of 13.3 pixels. "torchvision", 14 operations whose ranges scale with the image.
    """

    image_wise: ClassVar[bool] = True
    operations: int
    magnitude: float
    ranges: str

    def __post_init__(self) -> None:
        if not 0 <= self.operations <= 100:
            raise ValueError(f"operations={self.operations} must be in [0, 100]")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude={self.magnitude} must be in [0, 30]")
        if self.ranges not in RANGES:
            raise ValueError(f"ranges={self.ranges} is not one of {', '.join(RANGES)}")

    def __call__(self, batch: Batch, random: Random) -> Batch:
        count, _, height, width = batch.images.shape
        space = RANGES[self.ranges](self.magnitude, height, width)
        # the operations need whole pixel values, which mixtures do not have
        images = batch.images.round().to(torch.uint8)
        for _ in range(self.operations):
            choice = random.host.integers(len(space), size=count)
            sign = random.host.choice([-1, 1], size=count)
            # of each operation, first the images that get it with the sign -1; one without a sign has them all there
            group = 2 * choice + (np.array([signed for _, _, signed in space])[choice] & (sign > 0))
            order = np.argsort(group, kind="stable")
            places = torch.from_numpy(np.stack([order, np.argsort(order)])).to(images.device, non_blocking=True)
            parts = images.index_select(0, places[0]).split(np.bincount(group, minlength=2 * len(space)).tolist())
            changed = []
            for number, part in enumerate(parts):
                name, value, signed = space[number // 2]
                direction = -1 if signed and number % 2 == 0 else 1
                change = 1 + direction * value if self.ranges == "torchvision" else value
                if len(part):
                    changed.append(apply(name, part, direction * value, change, random))
            images = torch.cat(changed).index_select(0, places[1])
        batch.images = images
        return batch


def apply(name: str, images: Tensor, value: float, factor: float, random: Random) -> Tensor:
    """One operation on uint8 images [B, C, H, W]: `factor` for the four colour operations, `value` for the others."""
    from torchvision.transforms.v2 import functional as tv

    match name:
        case "identity":
            return images
        case "rotate" | "shear_x" | "shear_y" | "translate_x" | "translate_y":
            return moved(images, sources(name, value, *images.shape[2:], images.device))
        case "brightness":
            return tv.adjust_brightness(images, factor)
        case "color":
            return tv.adjust_saturation(images, factor)
        case "contrast":
            return tv.adjust_contrast(images, factor)
        case "sharpness":
            return sharpened(images, factor)
        case "posterize":
            return tv.posterize(images, int(value))
        case "solarize":
            return torch.where(images >= value, 255 - images, images)  # torchvision refuses the threshold 256
        case "solarize_add":
            return tv.solarize((images.int() + int(value)).clamp(max=255).to(torch.uint8), 128)
        case "autocontrast":
            return tv.autocontrast(images)
        case "equalize":
            return tv.equalize(images)
        case "invert":
            return tv.invert(images)
        case "cutout":
            return cutout(images, value, random)
    raise AssertionError(name)


@functools.lru_cache(maxsize=64)
def sources(name: str, value: float, height: int, width: int, device: torch.device) -> Tensor:
    """Where each pixel [H * W] comes from when the operation moves an image: its pixel's number from 1, 0 for black.

    The numbers are what torchvision makes of an image of them. It would build and copy three tensors to the device for
    every call, and sample with some twenty operations.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    along = {name: value}
    degrees = [float(np.degrees(np.arctan(along.get(shear, 0)))) for shear in ("shear_x", "shear_y")]
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)  # exact below 2^24
    found = tv.affine(
        numbers,
        along.get("rotate", 0.0),
        [int(along.get(shift, 0)) for shift in ("translate_x", "translate_y")],
        1.0,
        degrees,
        interpolation=InterpolationMode.NEAREST,
        fill=[0.0],
        # the top left corner is the fixed point of a shear, as in PIL's affine transform
        center=[0.0, 0.0] if any(degrees) else None,
    )
    return found.flatten().long().to(device, non_blocking=True)


def moved(images: Tensor, source: Tensor) -> Tensor:
    """Images [B, C, H, W] of the pixels that `sources` names."""
    return torch.nn.functional.pad(images.flatten(2), (1, 0)).index_select(2, source).view_as(images)


@functools.lru_cache(maxsize=8)
def blur(channels: int, device: torch.device) -> Tensor:
    """The kernel [channels, 1, 3, 3] that PIL smooths with; a new tensor would be a wait for every call."""
    kernel = torch.ones(3, 3)
    kernel[1, 1] = 5
    return (kernel / kernel.sum()).to(device, non_blocking=True).expand(channels, 1, 3, 3)


def sharpened(images: Tensor, factor: float) -> Tensor:
    """Images blended with their smooth version: 0 is smooth, 1 the original. The border stays as it is, as in PIL."""
    if min(images.shape[2:]) <= 2:
        return images
    pixels = images.float()
    smooth = torch.nn.functional.conv2d(pixels, blur(images.shape[1], images.device), groups=images.shape[1]).round()
    inner = pixels[:, :, 1:-1, 1:-1]
    inner.add_(smooth - inner, alpha=1 - factor)
    return pixels.clamp(0, 255).to(torch.uint8)


def cutout(images: Tensor, side: float, random: Random) -> Tensor:
    """A grey square of `side` pixels around a uniform point of each image, cut off at the border."""
    count, channels, height, width = images.shape
    centre = random.host.uniform(0, [[height], [width]], (2, count))
    top, left = np.maximum(0, centre - side / 2).astype(np.int64)
    bottom = np.minimum(height, top + side)
    right = np.minimum(width, left + side)
    y0, x0, y1, x1 = torch.from_numpy(np.stack([top, left, bottom, right])).to(images.device, non_blocking=True)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    down = (rows >= y0[:, None]) & (rows <= y1[:, None])
    across = (columns >= x0[:, None]) & (columns <= x1[:, None])
    # the colour of the published code, near ImageNet's mean; one-channel images take its mean
    grey = torch.tensor([125, 123, 114] if channels == 3 else [121] * channels).to(images, non_blocking=True)
    return torch.where((down[:, :, None] & across[:, None, :])[:, None], grey[:, None, None], images)
