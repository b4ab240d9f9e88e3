"""Self-paced learning: first what the network finds easy, by its own losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.sampler._history import LatestLosses
from budgetrun.sampler._looking import check_looks

BASE, POWER = 0.01, 1 / 3  # of the soft weights, in AutoAssist's code: the power is 1 / (q - 1) with q = 4


@dataclass
class SelfPaced:
    """Each pass takes, or weighs highest, the part p of the examples with the lowest losses; p grows from `first` to 1.

    `p = min(1, first + (1 - first) progress / until)` when a pass begins; the first pass is over everything.
    use=draw: the pass goes over the `int(p n)` examples of lowest loss, at least b; equal losses rank at random.
    use=weight: it goes over everything, with weight 1 for an image whose loss is at most lambda and 0 for the others,
    lambda the `int(p n)`-th lowest of the latest losses (infinite if p is 1), scaled to mean 1 in the batch.
    use=soft: the same with `max(0, 1 - loss / lambda)^(1/3) + 0.01`, also when p is 1. Both cost no look.
    Biased to easy on purpose. A loss is the latest of an example's training passes; mixed images: see LatestLosses.
    Source: Kumar et al. 2010, which alternates between choosing the examples with losses below a threshold and learning
    from them, and raises the threshold until all are chosen. The soft weights and the threshold as a quantile of latest
    losses are those of the baseline in AutoAssist's code (Zhang et al. 2019).
    Published: learning to the end between two choices, for latent structural SVMs (Kumar); here, one pass. The quantile
    is 0.25 to 1 in the first 5 of 100 epochs, and the first epoch has all in it (AutoAssist). `until` is ours.
    Cost of an update: `b (F + B)`; use=draw: and `n F` at every pass with `p < 1` but the first, if it refreshes.

    use: "draw", Kumar's choice as a sampler; "weight", the same as weights; "soft", AutoAssist's.
    first: in `(0, 1]`. until: part of the budget after which p is 1, in `(0, 1]`.
    refresh: use=draw: whether each pass begins with a look at everything, without augmentation, as Kumar's choice
    needs. Without, an example that is left out keeps its loss until the growing part reaches it.
    looks_scale: size of the images in looks, of each side, in `(0, 1]`; bilinear.
    """

    neutral: ClassVar = {"looks_scale": 1.0}

    use: str
    first: float
    until: float
    refresh: bool
    looks_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.use not in ("draw", "weight", "soft"):
            raise ValueError(f"use={self.use} is not one of draw, weight, soft")
        if not 1e-9 <= self.first <= 1:
            raise ValueError(f"first={self.first} must be greater than 0 and at most 1: a part of the examples")
        if not 1e-9 <= self.until <= 1:
            raise ValueError(f"until={self.until} must be greater than 0 and at most 1: a part of the budget")
        check_looks(self.looks_scale)

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = context.stream(self.plan)
        self.latest = LatestLosses(context.n, context.device)
        self.threshold = torch.full((), torch.inf, device=context.device)
        self.passes = 0

    def count(self) -> int:
        """How many examples are easy at this point of the budget."""
        part = min(1.0, self.first + (1 - self.first) * self.context.progress() / self.until)
        return min(self.context.n, max(self.context.batch_size, int(part * self.context.n + 1e-6)))

    @property
    def looks(self) -> bool:
        """Whether a pass that begins now begins with a look at everything."""
        return self.use == "draw" and self.refresh and self.passes > 0 and self.count() < self.context.n

    @property
    def takes_long(self) -> bool:
        return self.stream.waiting < self.context.batch_size and self.looks

    def plan(self) -> Tensor:
        count, order = self.count(), self.context.permutation()
        if self.looks:
            views = self.context.everything()
            self.latest.losses = torch.cat([self.context.look(view, scale=self.looks_scale)[0] for view in views])
        self.passes += 1
        if self.passes == 1 or (count == self.context.n and self.use != "soft"):
            self.threshold.fill_(torch.inf)
            return order
        losses, rank = self.latest.losses[order].sort(stable=True)
        self.threshold = losses[count - 1]
        if self.use != "draw":
            return order
        return order[self.context.shuffled(rank[:count])]

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        self.latest.observe(batch, losses)
        if self.use == "draw":
            return
        if self.use == "soft":  # 1e-6 as in AutoAssist's code: a threshold of 0, if so many are solved, divides nothing
            weight = (1 - losses / (self.threshold + 1e-6)).clamp(min=0) ** POWER + BASE
        else:
            weight = (losses <= self.threshold).float()
        batch.weight = weight / weight.mean().clamp(min=1e-6)  # all of them are 0 if none is easy

    def state_dict(self) -> dict[str, Any]:
        learnt = {**self.latest.state_dict(), "threshold": self.threshold.clone(), "passes": self.passes}
        return {**self.stream.state_dict(), **learnt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.latest.load_state_dict(state)
        self.threshold, self.passes = state["threshold"], state["passes"]
