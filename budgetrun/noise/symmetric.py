"""Symmetric label noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.contracts import Random


@dataclass
class Symmetric:
    """Exactly round(rate x N) examples, chosen uniformly, get a label drawn uniformly from the other classes.

    The choice depends on the seed alone, so every sampler trains on the same corrupted examples.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate={self.rate} must be in [0, 1)")

    def apply(self, labels: Tensor, classes: int, random: Random) -> tuple[Tensor, Tensor]:
        count = round(self.rate * len(labels))
        chosen = torch.from_numpy(random.host.permutation(len(labels))[:count])
        shift = torch.from_numpy(random.host.integers(1, classes, size=count))
        noisy, corrupted = labels.clone(), torch.zeros(len(labels), dtype=torch.bool)
        noisy[chosen] = (labels[chosen] + shift) % classes
        corrupted[chosen] = True
        return noisy, corrupted
