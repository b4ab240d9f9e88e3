"""Dyn-Unc and DUAL: how much p(label) went up and down in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError
from budgetrun.scores._visits import Latest, Window, centred, visited


@dataclass
class DynamicUncertainty:
    """The mean, over all windows of an example's consecutive visits, of the standard deviation of p(label) in it.

    DUAL multiplies each window's deviation by one minus its mean, so that examples which are unsure and hard score
    highest. The standard deviation is the unbiased one. The authors' code multiplies by 10, which changes no choice,
    and that of Dyn-Unc leaves out the window that ends with the last epoch and treats a p(label) of 0 as no visit.
    A visit is the training forward pass: before the update, in training mode, on the augmented image. In the authors'
    code it is an epoch, the same thing if each example is seen once per epoch. An example with fewer visits than
    `window` has one window of those that it has. Costs nothing beyond the run. Raises UserError at the end if no
    example was visited twice.
    A mixed image is a visit of the source that it shows most of (ours; without mixing, this is the published
    definition). An example that occurs twice in a batch has one visit, with the mean of the values.
    DUAL needs only the first 30 of 200 epochs: scores=dual budget=0.15. The schedule then follows the budget; with
    schedule=constant, or until=0.15 in a full run, the trajectory is nearer to the beginning of a long one.
    The further columns are `mean_p`, the mean of p(label) over the visits, which select=beta needs, and `visits`.
    Source: He et al. 2024 (Dyn-Unc), Cho et al. 2025 (DUAL), and their code.

    difficulty: whether to multiply by one minus the mean, as DUAL does. window: visits, at least 2. until: part of the
    budget after which nothing counts any more, in `(0, 1]`.
    """

    difficulty: bool
    window: int
    until: float

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"window={self.window} must be at least 2: one visit has no deviation")
        if not 0 < self.until <= 1:
            raise ValueError(f"until={self.until} must be greater than 0 and at most 1: a part of the budget")

    def start(self, context: Context) -> None:
        self.progress = context.progress
        self.latest = Latest(context.n, context.device)
        self.recent = Window(context.n, self.window, context.device)
        self.sum, self.sum_p = torch.zeros(2, context.n, device=context.device)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        if self.progress() > self.until:
            return
        index, label = visited(batch)
        p = self.latest.put(index, logits.float().softmax(1).gather(1, label[:, None])[:, 0])
        windows, full = self.recent.put(index, p)
        self.sum[index] = self.sum[index] + self.of(windows, torch.ones_like(windows, dtype=torch.bool)) * full
        self.sum_p[index] = self.sum_p[index] + p

    def of(self, values: Tensor, there: Tensor) -> Tensor:
        """What windows [m, window] count, [m]."""
        differences, mean = centred(values, there)
        spread = (differences.square().sum(1) / (there.sum(1) - 1).clamp(min=1)).sqrt()
        return spread * (1 - mean) if self.difficulty else spread

    def scores(self) -> dict[str, Tensor]:
        count = self.recent.count
        if count.max() < 2:
            raise UserError("scores: no example was visited twice, so that no p(label) varied; train longer")
        windows = count - self.window + 1
        score = torch.where(windows > 0, self.sum / windows.clamp(min=1), self.of(*self.recent.partial()))
        return {"score": score, "mean_p": self.sum_p / count.clamp(min=1), "visits": count}

    def state_dict(self) -> dict[str, Any]:
        of_window = {"values": self.recent.values.clone(), "count": self.recent.count.clone()}
        return {"sum": self.sum.clone(), "sum_p": self.sum_p.clone(), **of_window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sum, self.sum_p = state["sum"], state["sum_p"]
        self.recent.values, self.recent.count = state["values"], state["count"]
