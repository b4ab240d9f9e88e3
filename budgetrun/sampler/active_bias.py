"""Active bias: prefers the examples that the network is uncertain about, by drawing or by weighting them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError

MOST = 2**24  # categories of torch.multinomial


@dataclass
class ActiveBias:
    """Draws with probability `P ∝ q + epsilon`, or weights by `q + epsilon`; q is the network's uncertainty so far.

    With H the `p(label)` of all the example's training passes so far, m their mean and v their variance (population):
    `score=variance`: `q = sqrt(v + v^2 / (|H| - 1))`; `score=closeness`: `q = m (1 - m)`, how near m is to the
    threshold. `use=draw`: each epoch draws `int(n x budget)` examples with replacement, without weights (SGD-SPV,
    SGD-STC). `use=weight`: shuffled passes, with weights whose mean in a batch is 1 (SGD-WPV, SGD-WTC). Weights
    express a preference and do not correct one: all four are biased on purpose. q is computed at the beginning of an
    epoch or pass.
    Source: Chang et al. 2017, after public code: Song's ActiveBias (WPV; epsilon 0.2, warm-up 15 of 200 epochs) and
    AllenAI's cartography (both q). We found none for the two that draw: drawing with replacement is our choice.
    An example with fewer than 2 visits (closeness: with none) has the mean q of the others (ours; in the code
    of Song et al. 2020 its q is 0). A mixed image is a visit of each source by its share, with the p of the
    source's own label, and has its sources' weights by share.
    Cost of an update: `b (F + B)`.

    warmup: part of the budget, at the start, that is uniform; the pass in which it ends is completed.
    epsilon: at least 0; or null for the current mean q, which is ours.
    """

    score: str
    use: str
    warmup: float
    epsilon: float | None

    def __post_init__(self) -> None:
        if self.score not in ("variance", "closeness"):
            raise ValueError(f"score={self.score} is not one of variance, closeness")
        if self.use not in ("draw", "weight"):
            raise ValueError(f"use={self.use} is not one of draw, weight")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup={self.warmup} must be in [0, 1]: the part of the budget that is uniform")
        if self.epsilon is not None and not 0 <= self.epsilon <= 1e6:
            raise ValueError(f"epsilon={self.epsilon} must be in [0, 1e6], or null for the mean of what it is added to")

    def start(self, context: Context) -> None:
        if self.use == "draw" and context.n > MOST:
            raise UserError(
                f"sampler.use=draw draws from at most {MOST:,} examples, as torch.multinomial does, not {context.n:,}; "
                "set sampler.use=weight"
            )
        self.context = context
        self.stream = context.stream(self.plan)
        self.count = max(1, int(context.n * context.fraction))
        # visits, and the sums of p and p^2 over them; a variance from float32 sums is wrong for p near 1
        self.sums = torch.zeros(3, context.n, device=context.device, dtype=torch.float64)

    def unsure(self) -> Tensor:
        """q [n]."""
        visits, mean, square = self.sums[0], self.sums[1] / self.sums[0], self.sums[2] / self.sums[0]
        if self.score == "variance":
            known = visits >= 2
            variance = (square - mean.square()).clamp(min=0)
            q = (variance + variance.square() / (visits - 1)).sqrt()
        else:
            known = visits > 0
            q = (mean * (1 - mean)).clamp(min=0)
        q = torch.where(known, q, 0)
        return torch.where(known, q, q.sum() / known.sum().clamp(min=1))

    def preference(self) -> Tensor:
        """q + epsilon [n], scaled to mean 1."""
        q = self.unsure()
        q = q + (q.mean() if self.epsilon is None else self.epsilon)
        # everything solved, or nothing known yet: no preference
        return torch.where(q.sum() > 0, q / q.mean(), 1)

    def plan(self) -> Tensor | tuple[Tensor, Tensor]:
        warm = self.context.progress() < self.warmup
        if self.use == "draw":
            if warm:
                return self.context.permutation()
            random = self.context.random.device
            return torch.multinomial(self.preference(), self.count, replacement=True, generator=random)
        order = self.context.permutation()
        weight = torch.ones_like(self.sums[0]) if warm else self.preference()
        return order, weight[order].float()

    def draw(self) -> Batch:
        batch = self.stream.take(self.context.batch_size)
        if batch.weight is not None:
            mean = batch.weight.mean()
            batch.weight = torch.where(mean > 0, batch.weight / mean, 1)
        return batch

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        p = logits.double().softmax(1).gather(1, batch.label)
        values = batch.share * torch.stack([torch.ones_like(p), p, p.square()])
        self.sums.index_add_(1, batch.index.flatten(), values.flatten(1))

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.sums = state["sums"]
