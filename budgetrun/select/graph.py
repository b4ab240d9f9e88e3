"""A choice on the graph of nearest neighbours: difficult examples that are not alike (D2 pruning)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from budgetrun.contracts import path
from budgetrun.select.window import after, first_after


@dataclass
class Graph:
    """Each example is chosen by its score and those of its neighbours, and then makes its neighbours less likely.

    Two examples are neighbours if one is among the `neighbours` nearest of the other, by the Euclidean distance `d` of
    their features. The value of an example begins as `v_i = s_i + sum_j exp(-d_ij) s_j`, with the scores s of itself
    and its neighbours. The example of the highest value is chosen, and takes `exp(-gamma d_ij) v_i` from each of its
    neighbours; then the next, and so on. Before, the best `cut` of all are left out, as in select=stratified.
    Scores are meant to be higher for harder examples. If some are negative, the lowest of those compared becomes 0. The
    distances are as the features give them, and `gamma` does not change those of the first step: features of another
    scale are another method. (In the authors' code, AUM is negative in one function, so that messages vanish, and
    higher for easy examples in another. It stores all distances, goes at every choice through all earlier ones, and
    returns a set, in which the order of the choice is lost.)
    Source: Maharana et al. 2023 (D2 pruning), and their code. The authors score by forgetting, cut by AUM, and choose
    the same number of each class (sampler.balanced=true sampler.quota=equal).
    Cost: none beyond the files. The time for the neighbours grows with the square of the number of examples, or of
    those of a class if the subset is balanced.

    features: path of a file of features, as a run with save_features=true writes it. neighbours: at least 1.
    gamma: how fast the effect of a chosen example on a neighbour falls with their distance; at least 0. cut: part of
    the examples, in `[0, 1)`, or of each class if the subset is balanced; theirs is 0.4 if a tenth is kept.
    """

    features: str | None
    neighbours: int
    gamma: float
    cut: float

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError(
                "features is not set: it names a file of features, as a run with save_features=true writes it"
            )
        self.features = path("features", self.features)
        if self.neighbours < 1:
            raise ValueError(f"neighbours={self.neighbours} must be at least 1")
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma={self.gamma} must be at least 0")
        if not 0 <= self.cut < 1:
            raise ValueError(f"cut={self.cut} must be at least 0 and less than 1: the part to leave out")

    def check(self, there: int, count: int) -> None:
        first_after(there, self.cut, count, self.option())

    def option(self) -> str:
        return f"cut={self.cut:g}"

    def __call__(self, columns: Mapping[str, Tensor], count: int, random: torch.Generator) -> Tensor:
        score = columns["score"].double()
        rows = after(score.argsort(descending=True, stable=True), self.cut, count, self.option())
        rows = rows.sort().values  # in random order again
        score = score[rows] - score[rows].min().clamp(max=0)
        edges = graph(columns["features"][rows].cpu().numpy(), self.neighbours)
        found = chosen(score.cpu().numpy(), edges, self.gamma, count)
        return rows[torch.tensor(found, dtype=torch.int64, device=rows.device)]


Edges = list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def graph(features: np.ndarray[Any, Any], neighbours: int) -> Edges:
    """Of each of the points [m, D], its neighbours and their distances; they are mutual."""
    from sklearn.neighbors import NearestNeighbors  # takes a second to import

    m = len(features)
    if m == 1:
        return [(np.empty(0, np.int64), np.empty(0))]
    nearest = NearestNeighbors(n_neighbors=min(neighbours, m - 1), algorithm="brute").fit(features)
    distance, to = (found.ravel() for found in nearest.kneighbors())  # a point is not its own neighbour
    of = np.arange(m).repeat(len(to) // m)
    pairs, first = np.unique(np.concatenate([of * m + to, to * m + of]), return_index=True)
    ends = np.searchsorted(pairs, np.arange(1, m) * m)
    return list(zip(np.split(pairs % m, ends), np.split(np.tile(distance, 2)[first], ends), strict=True))


def chosen(score: np.ndarray[Any, Any], edges: Edges, gamma: float, count: int) -> list[int]:
    """`count` positions in the order of the choice; of equal ones, the first comes first."""
    value = [
        float(own + (np.exp(-distance) * score[to]).sum()) for own, (to, distance) in zip(score, edges, strict=True)
    ]
    # what is not valid any more stays in the heap, and is passed over
    heap = [(-one, position) for position, one in enumerate(value)]
    heapq.heapify(heap)
    taken = [False] * len(value)
    found: list[int] = []
    while len(found) < count:
        negative, best = heapq.heappop(heap)
        if taken[best] or -negative != value[best]:
            continue
        taken[best] = True
        found.append(best)
        to, distance = edges[best]
        for other, share in zip(to.tolist(), np.exp(-gamma * distance).tolist(), strict=True):
            if not taken[other]:
                value[other] -= share * value[best]
                heapq.heappush(heap, (-value[other], other))
    return found
