"""MoSo: how well an example's gradient agrees with the mean gradient, over the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from budgetrun.contracts import Batch, Context
from budgetrun.coreset.choice import Seen, look
from budgetrun.scores._points import passed


@dataclass
class MoSo:
    """The effect on the training loss of leaving an example out, to first order: `<G, g_i - G>`.

    `g_i` is the cross-entropy's gradient with respect to the last layer, weights and bias, on the un-augmented image,
    and `G` the mean of all. At each of several points of the run, the last one at its end, the values of all
    examples are a vector, which is divided by its length; the score is the sum of these vectors, the t-th weighted
    with `t^power`. Higher means that the example pulls with the others, so that mislabelled ones come last. The
    authors keep the highest of each class, or draw after standardising by class. (Their function nopt2 takes the
    highest of all rows with those of other classes set to 0: where a class has negative scores, rows of other
    classes win.) Several files are averaged.
    Their main.py differs: it adds the vectors of trainings on random parts before it divides by the length; it divides
    G by n once too often, an offset that weights points differently; and its weights are `(epoch + 1)^power`. A second
    scorer, scoring.py, takes all parameters and a random choice of checkpoints weighted by their learning rates.
    Source: Tan et al. 2023, and their code.
    Cost: `points x n F`, of which `n F` at the end.

    points: of the run, evenly spaced. power: 0 weights all points alike.
    """

    points: int
    power: float

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"points={self.points} must be at least 1")

    def start(self, context: Context) -> None:
        self.context = context
        self.taken = 0
        self.sum = torch.zeros(context.n, device=context.device)

    @property
    def takes_long(self) -> bool:
        return passed(self.context.progress(), self.points) > self.taken

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        if self.takes_long:
            self.taken = passed(self.context.progress(), self.points)
            self.take(self.taken)

    def take(self, point: int) -> None:
        seen = look(self.context, self.context.everything(), self.context.labels)
        self.sum += point**self.power * nn.functional.normalize(agreement(seen), dim=0)

    def scores(self) -> dict[str, Tensor]:
        self.take(self.points)
        return {"score": self.sum}

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "sum": self.sum.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken, self.sum = state["taken"], state["sum"]


def agreement(seen: Seen) -> Tensor:
    """`<G, g_i - G>` [m] for the gradients g_i of the last layer and their mean G; no gradient is stored."""
    errors, inputs = seen.errors(), seen.inputs()
    mean = errors.T @ inputs / len(errors)
    return ((errors @ mean) * inputs).sum(1) - mean.square().sum()
