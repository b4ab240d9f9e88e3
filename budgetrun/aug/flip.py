"""Random horizontal flips."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from budgetrun.contracts import Batch, Random


@dataclass
class Flip:
    """Mirror each image left to right with probability 1/2, where the data set allows it (`allowed`)."""

    allowed: bool

    def __call__(self, batch: Batch, random: Random) -> Batch:
        if self.allowed:
            device = batch.images.device
            flip = torch.rand(len(batch), 1, 1, 1, generator=random.device, device=device) < 0.5
            batch.images = torch.where(flip, batch.images.flip(3), batch.images)
        return batch
