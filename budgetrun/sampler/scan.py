"""scan-SGD: every example equally often, in a new random order each pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from budgetrun.contracts import Batch, Context


@dataclass
class Scan:
    """Shuffled passes over the whole training set, with the learning-rate schedule compressed to the budget.

    After any number of updates, two examples' visits differ by at most 1.
    Source: Arazo et al. 2021, "SGD with scan". Their code has no flag for it; a run of `200 x budget` epochs is the
    same.
    Cost of an update: `b (F + B)`.
    """

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = context.stream(context.permutation)

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
