"""Symmetric label noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from budgetrun.contracts import Data, Random


@dataclass
class Symmetric:
    """Exactly `round(rate x N)` examples, chosen uniformly, get a label drawn uniformly.

    over: "others": from the other classes. "all": from all, as in Hu et al. 2021, so that about one in `classes`
    of these examples keeps its true label. The mask marks the labels that are wrong, not those that were drawn.
    The choice depends on the seed alone, so every sampler trains on the same corrupted examples.
    """

    rate: float
    over: str

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate={self.rate} must be in [0, 1)")
        if self.over not in ("others", "all"):
            raise ValueError(f"over={self.over} is not one of others, all")

    def apply(self, data: Data, random: Random) -> Data:
        count = round(self.rate * len(data.labels))
        chosen = torch.from_numpy(random.host.permutation(len(data.labels))[:count])
        least = 0 if self.over == "all" else 1
        shift = torch.from_numpy(random.host.integers(least, data.classes, size=count))
        labels = data.labels.clone()
        labels[chosen] = (labels[chosen] + shift) % data.classes
        return replace(data, labels=labels, corrupted=labels != data.labels)
