"""InfoBatch: every epoch leaves out some easy examples at random, and gives the other easy ones more weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.sampler._epochs import Epochs
from budgetrun.sampler._history import LatestLosses


@dataclass
class InfoBatch:
    """Each epoch is a shuffled pass that drops each example of below-mean loss with probability `ratio`.

    Of these easy examples, those that are kept have the weight `1 / (1 - ratio)`, and all others 1, so that an epoch's
    sum of weighted gradients has the full pass's as its expectation (for images of one source; a mixed image has its
    sources' weights by share). A loss is the latest of an example's training passes, without weights; mixed images:
    see LatestLosses. Once `delta` of the budget is spent, an epoch is a full pass.
    Source: Qin et al. 2024 and their code (ratio 0.5, delta 0.875). Differences: their code drops the part `ratio` of
    the easy ones, rounded up; here each is dropped independently, so that no rounding biases the sum. Their first
    losses are a constant; here an example not seen yet is not easy, and the mean is that of the others: both drop
    nothing in the first epoch. Theirs saves updates; here a budget has the same number for every method, so there are
    more and shorter epochs. Theirs caps the ratio at 0.9.
    Cost of an update: `b (F + B)`.
    """

    ratio: float
    delta: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 0.999:
            raise ValueError(f"ratio={self.ratio} must be in [0, 0.999]: the part of the easy examples to drop")
        if not 0 <= self.delta <= 1:
            raise ValueError(f"delta={self.delta} must be in [0, 1]: the part of the budget in which to drop examples")

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = Epochs(context, self.plan)
        self.latest = LatestLosses(context.n, context.device)

    @property
    def dropped(self) -> float:
        return self.stream.dropped

    def plan(self) -> tuple[Tensor, Tensor]:
        order = self.context.permutation()
        weight = torch.ones(len(order), device=order.device)
        if self.context.progress() < self.delta:
            losses = self.latest.losses
            seen = losses.isfinite()
            # in float64 the mean of equal losses equals them exactly, so that none is below it
            easy = losses < losses.double().where(seen, 0).sum() / seen.sum()
            chance = torch.rand(len(order), generator=self.context.random.device, device=order.device)
            # waits for the device, once per epoch: the number kept decides when the next epoch begins
            order = order[(~easy | (chance >= self.ratio))[order]]
            weight = torch.where(easy[order], 1 / (1 - self.ratio), 1.0)
        return order, weight

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        self.latest.observe(batch, losses)

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), **self.latest.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.latest.load_state_dict(state)
