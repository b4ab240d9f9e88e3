"""k-Center-Greedy: always the example farthest from all chosen ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import path_or_none
from budgetrun.coreset.choice import Seen


@dataclass
class KCenter:
    """`k_center_greedy` on the features, from a random first example.

    features: path of a file of features, as a run with save_features=true writes it; null: those of the network.
    """

    neutral: ClassVar = {"features": None}

    features: str | None

    def __post_init__(self) -> None:
        self.features = path_or_none("features", self.features)

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        first = torch.randint(len(seen.labels), (1,), generator=random, device=seen.labels.device)
        return k_center_greedy(seen.features, count, first), None


def k_center_greedy(features: Tensor, count: int, first: Tensor) -> Tensor:
    """`count` of the points [m, D] in order: `first` [1], then always the one farthest from all chosen ones.

    Source: Sener & Savarese 2018, k-Center-Greedy, Euclidean. The host does not wait.
    """
    squares = features.square().sum(1)

    def squared(point: Tensor) -> Tensor:
        return squares - 2 * (features @ features[point][0]) + squares[point]

    return farthest_first(squared, count, first)


def farthest_first(to_point: Callable[[Tensor], Tensor], count: int, first: Tensor) -> Tensor:
    """`count` positions in order: `first` [1], then always the one farthest from all chosen ones.

    to_point: the distances [m] of all to one position [1], or any increasing function of them that is 0 at 0.
    """
    distance = torch.full_like(to_point(first), torch.inf)  # of each to the nearest of the chosen
    chosen = [first]
    for _ in range(count - 1):
        point = chosen[-1]
        distance = torch.minimum(distance, to_point(point).clamp(min=0))
        distance[point] = -1  # never again, even where points coincide
        chosen.append(distance.argmax(keepdim=True))
    return torch.cat(chosen)
