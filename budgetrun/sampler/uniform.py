"""unif-SGD: one uniform draw per epoch, without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from budgetrun.contracts import Batch, Context


@dataclass
class Uniform:
    """Each epoch draws `int(n x budget)` examples uniformly without replacement, independent of other epochs.

    At budget 1 it is scan-SGD.
    Source: Arazo et al. 2021, unif-SGD. `rs2`, of Okanovic et al. 2024 (after modyn's code), is the same by another
    name: a new subset in every epoch, its draws with replacement from epoch to epoch. Their variant without it cuts the
    subsets from a permutation; that is `scan`, except that theirs leaves out what fills no subset.
    Cost of an update: `b (F + B)`.
    """

    def start(self, context: Context) -> None:
        self.context = context
        self.count = max(1, int(context.n * context.fraction))
        self.stream = context.stream(lambda: context.permutation()[: self.count])

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
