"""Graph cut: examples that are similar to all others, and not to each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.coreset._similarity import Similarity
from budgetrun.coreset.choice import Seen


@dataclass
class GraphCut:
    """Greedily the largest `coverage sum_i s_ij - 2 sum_{k in S} s_kj`: similar to all, unlike the chosen S.

    `s` is the cosine of the cross-entropy's gradients with respect to the last layer. Stores nothing of size `m^2`. The
    host does not wait. Greedy choice has its guarantee where the function is monotone: with similarities in `[0, 1]`,
    such as DeepCore's `(1 + s) / 2`, if `coverage` is at least 2; with cosines, and at DeepCore's 1, it need not be.
    Source: Iyer & Bilmes 2013, as in DeepCore, whose similarity leads to the same choice; it returns the chosen in the
    order of the data.

    coverage: weight of being similar to all.
    """

    coverage: float

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        similarity = Similarity(seen)
        gain = self.coverage * similarity.sums()
        chosen = []
        for _ in range(count):
            point = gain.argmax(keepdim=True)
            gain -= 2 * similarity.to(point)
            gain[point] = -torch.inf
            chosen.append(point)
        return torch.cat(chosen), None
