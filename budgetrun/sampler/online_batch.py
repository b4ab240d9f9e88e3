"""Online batch selection: the higher an example's latest loss ranks, the more likely it is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import MOST, Batch, Context
from budgetrun.sampler._history import LatestLosses
from budgetrun.sampler._looking import check_looks

GATHERED = 4096  # images of a refresh at once: 12 MB of CIFAR's pixels


@dataclass
class OnlineBatchSelection:
    """Draw with replacement, `P_r ∝ s^(-r / n)`, where rank `r = 1` has the largest latest loss of all n examples.

    The first rank is about s times as likely as the last. The selection pressure s goes from `pressure` at the first
    update to `final` at the last, `s = pressure (final / pressure)^progress`. Losses are not re-weighted: biased to
    hard on purpose. The first epoch is a shuffled pass, which fills in the losses; mixed images: see LatestLosses.
    Source: Loshchilov & Hutter 2015, after public re-implementations: both formulas; the first pass and drawing with
    replacement are as in a port of their code. Ours: the pressure falls at every update and not every epoch, and
    equal losses rank in random order (examples that are solved have a loss of exactly 0 in float32).
    Cost of an update: `b (F + B)`, and `n F` at every refresh.

    pressure, final: at least 1; 1 is uniform. 100 and 1 as in Song et al. 2020 and their code.
    refresh: epochs from one look at everything, without augmentation, to the next; 0 for never. Our default is 0, so
    that an update costs what a uniform one does; Katharopoulos & Fleuret's code has 2, Song et al.'s 1.
    sort: updates from one ranking to the next. The port ranks every 100 images; 60,000 losses take 8 ms on a CPU core.
    looks_scale: size of the images in looks, of each side, in `(0, 1]`; bilinear.
    """

    neutral: ClassVar = {"looks_scale": 1.0}

    pressure: float
    final: float
    refresh: float
    sort: int
    looks_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("pressure", "final"):
            if not 1 <= getattr(self, name) <= 1e12:  # with more, float64 has no u near enough to 1 for the last ranks
                raise ValueError(
                    f"{name}={getattr(self, name)} must be at least 1, which draws uniformly, and at most 1e12"
                )
        if not 0 <= self.refresh <= MOST:
            raise ValueError(
                f"refresh={self.refresh} must be at least 0 epochs, which never looks, and at most {MOST:,}"
            )
        if self.sort < 1:
            raise ValueError(f"sort={self.sort} must be at least 1 update")
        check_looks(self.looks_scale)

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = context.stream(context.permutation)
        self.latest = LatestLosses(context.n, context.device)
        self.first_pass = math.ceil(context.n / context.batch_size)  # updates
        self.period = max(1, round(self.refresh * context.n / context.batch_size))  # updates between two refreshes
        self.updates = 0
        self.ranked = context.permutation()  # the examples by rank

    def draw(self) -> Batch:
        update, self.updates = self.updates, self.updates + 1
        if update < self.first_pass:
            return self.stream.take(self.context.batch_size)
        refreshes = self.refresh > 0 and update % self.period == 0
        if refreshes:
            self.look_at_everything()
        if refreshes or update % self.sort == 0 or update == self.first_pass:
            self.ranked = self.ranking()
        return self.context.view(self.ranked[self.ranks(self.context.batch_size)])

    def ranks(self, count: int) -> Tensor:
        """int64 [count]: ranks from 0 on, drawn with replacement under the current pressure."""
        n, s = self.context.n, self.pressure * (self.final / self.pressure) ** self.context.progress()
        # the inverse of CDF(r) = (1 - s^(-r / n)) / (1 - 1 / s); of a million ranks, float32 never draws a fifth of the
        # last 20,000
        u = torch.rand(count, generator=self.context.random.device, device=self.context.device, dtype=torch.float64)
        place = -torch.log1p(u * (1 / s - 1)) / math.log(s) if s > 1 else u
        return (place * n).long().clamp(max=n - 1)

    def ranking(self) -> Tensor:
        """The examples from the largest loss to the smallest, int64 [n]; equal ones in random order."""
        order = self.context.permutation()
        return order[self.latest.losses[order].argsort(descending=True, stable=True)]

    def look_at_everything(self) -> None:
        b = self.context.batch_size
        parts = torch.arange(self.context.n, device=self.context.device).split(max(1, GATHERED // b) * b)
        views = map(self.context.view.plain, parts)
        self.latest.losses = torch.cat([self.context.look(view, scale=self.looks_scale)[0] for view in views])

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        self.latest.observe(batch, losses)

    def state_dict(self) -> dict[str, Any]:
        learnt = {**self.latest.state_dict(), "ranked": self.ranked, "updates": self.updates}
        return {**self.stream.state_dict(), **learnt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.latest.load_state_dict(state)
        self.ranked, self.updates = state["ranked"], state["updates"]
