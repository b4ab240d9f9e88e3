"""A core-set, chosen once at the end of a run, as a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.coreset import choice


@dataclass
class CoreSetScores:
    """The examples that a core-set method chooses with the final network; the file leaves out the others.

    The first example chosen scores 1, and each next one scores less by 1/n, or, if `balanced`, by 1 over the size of
    its class. So a sampler that keeps the highest scores keeps the examples that were chosen first. Methods with
    weights (CRAIG, GRAD-MATCH) add the column `weight`. The weights are right for the whole file, not for a part of it.
    Cost: `n F` at the end (GLISTER: one more F per held-out example); none with features from a file.

    method: how to choose, see budgetrun/coreset/choice.py. keep: part of the examples to choose, in `(0, 1]`.
    balanced: choose this part of each class, class by class.
    counts: how many per class, if balanced: its share, rounded by "round" or "ceil"; or "equal", the same number each.
    """

    method: choice.Method
    keep: float
    balanced: bool
    counts: str

    neutral: ClassVar = {"counts": "round"}

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep} must be greater than 0 and at most 1: the part to choose")
        choice.check_counts(self.counts)

    def start(self, context: Context) -> None:
        choice.check(context, self.method, self.keep, self.balanced, self.counts, "scores")
        self.context = context

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def scores(self) -> dict[str, Tensor]:
        chosen = choice.choose(self.context, self.method, self.keep, self.balanced, self.counts)
        columns = {"index": chosen.index, "score": chosen.place}
        return columns if chosen.weight is None else {**columns, "weight": chosen.weight}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
