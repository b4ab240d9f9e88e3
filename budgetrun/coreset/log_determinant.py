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

    How much is left of an example is the squared distance of its normalised gradient to the span of the chosen ones.
    The gain of j is `log(s_jj - s_jS s_SS^-1 s_Sj)`, with the cosine `s` of gradients of the last layer, by a Cholesky
    factor that grows by a row at each choice. DeepCore's code maximises `s_jS s_SS^-1 s_Sj` itself, and so takes the
    most redundant examples; its kernel is `(1 + s) / 2`, which is another one; and it returns the chosen in the order
    of the data. The gradients are of the cross-entropy, and span at most `r = (classes - 1) (D + 1)` dimensions with D
    features: what is chosen beyond r, or once all others are explained to 1e-6, is drawn at random.
    With `k = min(count, r)`, stores `m k` numbers, and takes `m k^2` operations; raises UserError above 4 GiB. The host
    does not wait. Source: the algorithm, Chen et al. 2018; on these gradients, DeepCore.
    """

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        m = len(seen.labels)
        most = min(count, (seen.logits.shape[1] - 1) * (seen.features.shape[1] + 1))  # the rank of the gradients
        if (size := 4 * m * most) > 2**32:
            raise UserError(
                f"LogDeterminant keeps {most} numbers for each of {m} examples, which takes {size / 2**30:.0f} GiB; "
                "choose fewer, or by class (balanced=true), or another method"
            )
        similarity = Similarity(seen)
        left = similarity.to_themselves()  # s_jj minus what the chosen ones explain of it
        taken = torch.zeros_like(left)
        factor = left.new_zeros(m, most)
        place = count + torch.randperm(m, generator=random, device=left.device)  # in the choice; the rest at random
        for step in range(most):
            point = (left + taken).argmax(keepdim=True)
            more = left[point] > NOTHING
            row = similarity.to(point) - factor[:, :step] @ factor[point, :step][0]
            factor[:, step] = (row / left[point].sqrt()).where(more, 0)
            left = left - factor[:, step].square()
            taken[point] = -torch.inf
            place[point] = place[point].where(~more, step)
        return place.argsort()[:count], None
