"""Random crops of the zero-padded image."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from budgetrun.contracts import Batch, Data, Random, UserError


@dataclass
class Crop:
    """Pad every side with `padding` black pixels, then crop to the original size at a random place per image.

    Source: the standard CIFAR augmentation, as in Arazo et al. 2021.
    padding: pixels, at most an image's side; each data set has its own, CIFAR 4. null: what its `Data` say.
    """

    image_wise: ClassVar[bool] = True
    padding: int | None

    def __post_init__(self) -> None:
        if self.padding is not None and self.padding < 0:
            raise ValueError(f"padding={self.padding} must be at least 0 pixels")

    def of(self, data: Data) -> Crop:
        return self if self.padding is not None else Crop(data.padding)

    def check(self, shape: torch.Size) -> None:
        """Raise UserError if the padding is too large for images of this shape."""
        height, width = shape[1:]
        assert self.padding is not None
        if self.padding > min(height, width):  # a crop from further out would show nothing of the image
            raise UserError(
                f"aug.crop.padding={self.padding} is more than a side of the images, {height}x{width}: padded they are "
                f"{height + 2 * self.padding}x{width + 2 * self.padding}, and most crops of them black; set it lower"
            )

    def __call__(self, batch: Batch, random: Random) -> Batch:
        count, channels, height, width = batch.images.shape
        assert self.padding is not None
        rows, shifts = places(count, channels, height, width, self.padding, batch.images.device)
        chosen = torch.randint(len(shifts), (count,), generator=random.device, device=batch.images.device)
        begin = rows + shifts.index_select(0, chosen)[:, None, None]
        # copying whole rows is 1.7 to 2.5 times faster on a CPU than indexing windows, at 28x28 and 32x32
        padded = F.pad(batch.images, [self.padding] * 4).flatten()
        cut = padded.unfold(0, width, 1).index_select(0, begin.flatten())
        batch.images = cut.view(count, channels, height, width)
        return batch


@functools.lru_cache(maxsize=4)
def places(
    count: int, channels: int, height: int, width: int, padding: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where in the flat padded images each row [count, channels, height] of the top left crop begins, and the
    offset [(2 padding + 1)^2] of each other crop from it."""
    tall, wide = height + 2 * padding, width + 2 * padding
    rows = torch.arange(0, count * channels * tall * wide, wide, device=device).view(count, channels, tall)
    steps = torch.arange(2 * padding + 1, device=device)
    return rows[:, :, :height].contiguous(), (steps[:, None] * wide + steps).flatten()
