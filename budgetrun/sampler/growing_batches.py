"""A batch-size schedule: small batches at first, larger ones later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError, check_milestones, reached


@dataclass
class GrowingBatches:
    """Shuffled passes over the whole training set, in batches of `int(part x b)` images.

    The part is the first of `parts` until the first milestone is reached, then the second, and so on.
    Source: Smith et al. 2018, who let batches grow where a step schedule lets the learning rate fall; with
    `schedule=constant`, this is their increasing batch size. Ours: the sizes are parts of `batch_size`, which is the
    largest, and the milestones are parts of the budget.
    Cost of an update: `int(part x b) (F + B)`; in the unit `updates`, small batches are not made up for.

    parts: of the batch size, in `(0, 1]`. milestones: parts of the budget, increasing, one fewer than the parts.
    """

    parts: list[float]
    milestones: list[float]

    def __post_init__(self) -> None:
        if not self.parts or not all(0 < part <= 1 for part in self.parts):
            raise ValueError(f"parts={self.parts} must be parts of the batch size, greater than 0 and at most 1")
        if len(self.milestones) != len(self.parts) - 1:
            raise ValueError(f"milestones={self.milestones} must be one fewer than parts={self.parts}")
        check_milestones(self.milestones)

    def sizes(self, batch_size: int) -> set[int]:
        return {self.size(part, batch_size) for part in self.parts}

    @staticmethod
    def size(part: float, batch_size: int) -> int:
        return int(part * batch_size + 1e-6)  # 0.29 x 100 is 28.999...

    def start(self, context: Context) -> None:
        self.context, self.stream = context, context.stream(context.permutation)
        if min(self.sizes(context.batch_size)) < 1:
            raise UserError(
                f"sampler.parts={self.parts} of batch_size={context.batch_size} are not all one image or more; enlarge "
                "one of the two"
            )

    def draw(self) -> Batch:
        part = self.parts[reached(self.context.progress(), self.milestones)]
        return self.stream.take(self.size(part, self.context.batch_size))

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
