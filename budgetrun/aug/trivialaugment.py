"""TrivialAugment: each image gets one random operation at a random strength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from budgetrun.aug._operations import ENHANCED, of_each
from budgetrun.contracts import Batch, Random

LEVELS = 31
# the value at the lowest and at the highest level, and whether its sign is random; of the four colour operations, what
# is added to the factor 1
WIDE = {
    "identity": (0, 0, False),
    "shear_x": (0, 0.99, True),
    "shear_y": (0, 0.99, True),
    "translate_x": (0, 32, True),
    "translate_y": (0, 32, True),
    "rotate": (0, 135, True),
    "brightness": (0, 0.99, True),
    "color": (0, 0.99, True),
    "contrast": (0, 0.99, True),
    "sharpness": (0, 0.99, True),
    "posterize": (8, 2, False),
    "solarize": (255, 0, False),
    "autocontrast": (0, 0, False),
    "equalize": (0, 0, False),
}


def values() -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """The values [operation, level, sign] of all operations, as `apply` takes them."""
    found = np.empty((len(WIDE), LEVELS, 2))
    for row, (name, (low, high, signed)) in zip(found, WIDE.items(), strict=True):
        level = np.linspace(low, high, LEVELS)
        row[:, 0] = np.round(level) if name == "posterize" else level
        row[:, 1] = -row[:, 0] if signed else row[:, 0]
        row += name in ENHANCED
    return found


@dataclass
class TrivialAugment:
    """One operation per image, at one of 31 strengths, all 14 operations and all strengths equally often.

    Source: Müller & Hutter 2021, the wide space, as torchvision's TrivialAugmentWide.
    Published: torchvision's transform draws once for a whole batch.
    """

    image_wise: ClassVar[bool] = True

    def __call__(self, batch: Batch, random: Random) -> Batch:
        count = len(batch)
        choice, level, sign = (random.host.integers(many, size=count) for many in (len(WIDE), LEVELS, 2))
        # the operations need whole pixel values, which mixtures do not have
        images = batch.images.round().to(torch.uint8)
        batch.images = of_each([*WIDE], choice, values()[choice, level, sign], images, random)
        return batch
