"""EVA: how much EL2N varied, early in training and later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError
from budgetrun.scores._visits import Latest, visited
from budgetrun.scores.logits import el2n


@dataclass
class EVA:
    """The variance of an example's EL2N over its visits in an early part of the run, and in a later one.

    `weight V_early / sum V_early + (1 - weight) V_late / sum V_late`, with the unbiased variances V [n] of
    `||p - onehot(label)||_2`, 0 for an example with fewer than two visits in a part. A visit is the training forward
    pass: before the update, in training mode, on the augmented image. Costs nothing beyond the run.
    A mixed image is a visit of the source that it shows most of (ours; without mixing, this is the published
    definition). An example that occurs twice in a batch has one visit, with the mean of the values.
    In the authors' code the parts are epochs, by default 0 to 10 and 100 to 110, and all scores are 0 if training ends
    before the last of them. Here they are parts of the budget, so that they are in every run: by default those epochs
    of 200. Raises UserError at the end of a part in which no example had two visits.
    Source: Hong et al. 2024, and their code.

    early, late: where a part begins and ends, as parts of the budget: `0 <= begin < end <= 1`. weight: of the early
    part, in `[0, 1]`.
    """

    early: list[float]
    late: list[float]
    weight: float

    def __post_init__(self) -> None:
        for name in ("early", "late"):
            part = getattr(self, name)
            if len(part) != 2 or not 0 <= part[0] < part[1] <= 1:
                raise ValueError(f"{name}={part} must be a begin and an end, 0 <= begin < end <= 1")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight={self.weight} must be in [0, 1]")

    def start(self, context: Context) -> None:
        self.progress = context.progress
        self.unchecked = [0, 1]
        self.latest = Latest(context.n, context.device)
        # of the early part and of the late one: number, mean and sum of squared differences (Welford's)
        self.count, self.mean, self.squares = torch.zeros(3, 2, context.n, device=context.device)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        progress = self.progress()
        for part in [part for part in self.unchecked if self.parts[part][1] <= progress < 1]:
            self.check(part)
        # the last update is at 1
        ends = [(begin, 2 if end == 1 else end) for begin, end in self.parts]
        parts = [number for number, (begin, end) in enumerate(ends) if begin <= progress < end]
        if not parts:
            return
        index, label = visited(batch)
        value = self.latest.put(index, el2n(logits.float(), label[:, None]))
        for part in parts:
            count, before = self.count[part][index] + 1, self.mean[part][index]
            mean = before + (value - before) / count
            self.squares[part][index] = self.squares[part][index] + (value - before) * (value - mean)
            self.count[part][index], self.mean[part][index] = count, mean

    @property
    def parts(self) -> list[list[float]]:
        return [self.early, self.late]

    def check(self, part: int) -> None:
        """Raise UserError if no example was visited twice in a part that is over."""
        if self.count[part].max() < 2:
            name = ("early", "late")[part]
            raise UserError(
                f"scores.{name}={self.parts[part]} is so short a part of the run that no example was visited twice; "
                "widen it, or train longer"
            )
        self.unchecked.remove(part)

    def scores(self) -> dict[str, Tensor]:
        for part in list(self.unchecked):
            self.check(part)
        variance = self.squares / (self.count - 1).clamp(min=1)
        early, late = variance / variance.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return {"score": self.weight * early + (1 - self.weight) * late}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).clone() for name in ("count", "mean", "squares")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
