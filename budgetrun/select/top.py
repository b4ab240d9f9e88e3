"""The best of all, or the worst: what "keep the top 30%" means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Top:
    """The examples with the best scores, or, with `best=false`, with the worst. Equal scores are ranked at random.

    Cost: none beyond the file.

    best: whether to keep the end of the ranking that `sampler.order` calls best.
    """

    best: bool

    def __call__(self, columns: Mapping[str, Tensor], count: int, random: torch.Generator) -> Tensor:
        return columns["score"].argsort(descending=self.best, stable=True)[:count]
