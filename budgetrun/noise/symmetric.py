"""Symmetric label noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from budgetrun.contracts import Data, Random


@dataclass
class Symmetric:
    """Exactly round(rate x N) examples, chosen uniformly, get a label drawn uniformly from the other classes.

    The choice depends on the seed alone, so every sampler trains on the same corrupted examples.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate={self.rate} must be in [0, 1)")

    def apply(self, data: Data, random: Random) -> Data:
        count = round(self.rate * len(data.labels))
        chosen = torch.from_numpy(random.host.permutation(len(data.labels))[:count])
        shift = torch.from_numpy(random.host.integers(1, data.classes, size=count))
        labels = data.labels.clone()
        labels[chosen] = (labels[chosen] + shift) % data.classes
        return replace(data, labels=labels, corrupted=labels != data.labels)
