"""Random crops of the zero-padded image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from budgetrun.contracts import Batch, Random


@dataclass
class Crop:
    """Pad every side by `padding` black pixels, then cut the original size at a random place, one for each image.

    Source: the standard CIFAR augmentation (padding 4), as in Arazo et al. 2021.
    """

    padding: int

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding={self.padding} must be at least 0 pixels")

    def __call__(self, batch: Batch, random: Random) -> Batch:
        count, _, height, width = batch.images.shape
        device = batch.images.device
        places = 2 * self.padding + 1
        corner = torch.randint(places, (2, count), generator=random.device, device=device)
        windows = F.pad(batch.images, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
        batch.images = windows[torch.arange(count, device=device), :, corner[0], corner[1]]
        return batch
