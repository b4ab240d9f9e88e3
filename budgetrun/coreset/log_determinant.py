"""Log-determinant: examples whose gradients span the largest volume."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.contracts import UserError
from budgetrun.coreset._similarity import Similarity
from budgetrun.coreset.choice import Seen

NOTHING = 1e-6  # an example of which less is left is explained


@dataclass
class LogDeterminant:
    """Greedily the largest `log det s_SS`: always the example that the chosen ones explain least.

    The gain of j is `log(s_jj - s_jS s_SS^-1 s_Sj)`, with the cosine `s` of gradients of the last layer, by a Cholesky
    factor that grows by a row at each choice. DeepCore's code maximises `s_jS s_SS^-1 s_Sj` itself, and so takes the
    most redundant examples; and its kernel is `(1 + s) / 2`, which is another one. Once the chosen ones explain all
    others to 1e-6, the rest follows in any order.
    Stores `m count` numbers, and takes `m count^2` operations; raises UserError above 4 GiB. The host does not wait.
    Source: the algorithm, Chen et al. 2018; on these gradients, DeepCore.
    """

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        similarity = Similarity(seen)
        m = len(seen.labels)
        if (size := 4 * m * count) > 2**32:
            raise UserError(
                f"LogDeterminant keeps {count} numbers for each of {m} examples, which takes {size / 2**30:.0f} GiB; "
                "choose fewer, or by class (balanced=true), or another method"
            )
        left = similarity.to_themselves()  # s_jj minus what the chosen ones explain of it
        taken = torch.zeros_like(left)
        factor = left.new_zeros(m, count)
        chosen = []
        for step in range(count):
            point = (left.where(left > NOTHING, 0) + taken).argmax(keepdim=True)
            row = similarity.to(point) - factor[:, :step] @ factor[point, :step][0]
            factor[:, step] = (row / left[point].sqrt()).where(left[point] > NOTHING, 0)
            left = left - factor[:, step].square()
            taken[point] = -torch.inf
            chosen.append(point)
        return torch.cat(chosen), None
