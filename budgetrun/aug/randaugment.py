"""RandAugment: each image gets its own random operations, all at one strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from budgetrun.aug._operations import apply, by_group
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

            def changed(number: int, part: Tensor) -> Tensor:
                name, value, signed = space[number // 2]
                direction = -1 if signed and number % 2 == 0 else 1
                change = 1 + direction * value if self.ranges == "torchvision" else value
                return apply(name, part, direction * value, change, random)

            images = by_group(changed, group, images)
        batch.images = images
        return batch
