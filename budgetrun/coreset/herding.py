"""Herding: the examples whose mean is nearest to the mean of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import path_or_none
from budgetrun.coreset.choice import Seen


@dataclass
class Herding:
    """`herding` on the features.

    features: path of a file of features, as a run with save_features=true writes it; null: those of the network.
    """

    neutral: ClassVar = {"features": None}

    features: str | None

    def __post_init__(self) -> None:
        self.features = path_or_none("features", self.features)

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        return herding(seen.features, count), None


def herding(features: Tensor, count: int) -> Tensor:
    """`count` of the points [m, D] in order, each the one that brings the mean of the chosen nearest to that of all.

    Source: Welling 2009, in the features' own space and without repetition. (DeepCore takes the
    farthest instead of the nearest.) The host does not wait.
    """
    mean, squares = features.mean(0), features.square().sum(1)
    taken = torch.zeros_like(squares)
    total = torch.zeros_like(mean)
    chosen = []
    for i in range(count):
        wanted = (i + 1) * mean - total  # what would make the mean exact
        point = (squares - 2 * (features @ wanted) + taken).argmin(keepdim=True)
        taken[point] = torch.inf
        total = total + features[point][0]
        chosen.append(point)
    return torch.cat(chosen)
