"""Selective backprop: look at a stream of examples, keep the hard ones, train when a batch is full."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import MOST, Batch, Context, UserError
from budgetrun.sampler._looking import check_looks

MANY = 2000  # candidates of an update


@dataclass
class SelectiveBackprop:
    """Keep a candidate with probability `max(floor, CDF(loss)^beta)`; what is kept waits until it fills a batch.

    CDF is the share of the last `history` candidate losses that are strictly lower, the candidate's own batch
    included. With floor 0, `1 / (beta + 1)` of the candidates are kept on average. No re-weighting: biased to hard on
    purpose.
    Source: Jiang et al. 2019, algorithm 1, and their code (history 1024; beta 2 keeps the 33% of their CIFAR-10
    runs; Arazo et al. 2021 use beta 3). The view of a candidate that was looked at is the one trained on. A look covers
    as many batches as are expected to fill the queue; their code looks at one batch at a time. Their code also ends
    each epoch with an update on what is left in the queue; here that waits for the next epoch.
    In the code of Arazo et al., selective backprop with their option `ricap`, spelled as documented, trains without
    RICAP, and its mixup folds lambda to `max(lambda, 1 - lambda)`, unlike that of their other methods: neither is done
    here, and both matter in comparisons with their results.
    Cost of an update: about `(beta + 1) b / stale F` of looks, then `b (F + B)`.

    prime: epochs at the start in which every candidate is kept without a look (their code: 1); they leave the
        history empty.
    stale: every stale-th epoch is looked at (Stale-SB of the paper; 1 looks at all). In the epochs between, a candidate
        has the loss of its last look: nothing is charged, the loss enters the history again, the draw is repeated, and
        what is kept is trained on in a fresh view. The first epoch that begins after the priming is looked at, and so
        is what is left of an epoch in which the priming ends (their code looks during the priming, too, and uses that
        in the `stale - 1` epochs after it). Under mixing, an example has the mean, by share, of the losses of the
        images that it was in, and counts as the hardest if it was in none; candidates kept at the same time are mixed
        with each other.
    floor: the least probability of keeping, in `[0, 1]` (0 in both papers' code by default).
    looks: eval; or train, as the code of Hu et al. 2021 looks: BatchNorm uses and learns from the candidates.
    looks_scale: size of the images in looks, of each side, in `(0, 1]`; bilinear.
    """

    neutral: ClassVar = {"looks_scale": 1.0}

    beta: float
    history: int
    prime: float
    stale: int
    floor: float
    looks: str
    looks_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1000:
            raise ValueError(f"beta={self.beta} must be in [0, 1000] (0 keeps everything, 2 a third, 1000 one of 1001)")
        if not 1 <= self.history <= MOST:
            raise ValueError(f"history={self.history} must be at least 1 loss, and at most {MOST:,}")
        if not 0 <= self.prime <= MOST:
            raise ValueError(f"prime={self.prime} must be at least 0 epochs, and at most {MOST:,}")
        if self.stale < 1:
            raise ValueError(f"stale={self.stale} must be at least 1 (1 looks in every epoch, 2 in every other)")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor={self.floor} must be in [0, 1] (the least probability of keeping)")
        check_looks(self.looks_scale, self.looks)

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = context.stream(context.permutation)
        self.taken = 0  # candidates, in all epochs
        self.needed = math.inf  # candidates of the last draw with looks
        self.primed = math.ceil(int(self.prime * context.n) / context.batch_size) * context.batch_size
        self.first = math.ceil(self.primed / context.n)  # the first epoch that begins after the priming
        # E max(floor, u^beta) = (1 + beta floor^(1 + 1 / beta)) / (beta + 1) for uniform u, and its inverse
        raised = self.beta * self.floor ** (1 + 1 / self.beta) if self.beta > 0 else 0
        self.candidates_for_one = (self.beta + 1) / (1 + raised)
        self.losses = torch.empty(0, device=context.device)
        self.queue: list[Batch] = []
        self.order = torch.empty(0, dtype=torch.int64, device=context.device)  # what is left of an epoch without looks
        self.told = torch.zeros(2, context.n, device=context.device)  # by the last looks: sums of share x loss, share

    @property
    def takes_long(self) -> bool:
        """Whether many candidates are expected or were needed the last time; unknown before the first looks."""
        expected = self.candidates_for_one * self.context.batch_size
        return self.taken >= self.primed and max(expected, self.needed) > MANY

    def draw(self) -> Batch:
        size = self.context.batch_size
        if self.taken < self.primed:
            self.taken += size
            return self.stream.take(size)
        queued = sum(map(len, self.queue))
        before = queued, self.taken
        while queued < size:
            seen, kept_of_them = self.taken - before[1], queued - before[0]
            if seen >= 10 * self.context.n + 100 * size * self.candidates_for_one:
                why = "they are nearly all equal, so few are" if kept_of_them else "they are all equal, so none is"
                raise UserError(
                    f"sampler=sb kept {kept_of_them} of its last {seen} candidates by their losses: {why} harder than "
                    "another; choose another sampler, or a smaller lr if the training diverged"
                )
            # as many batches as are expected to fill the queue, but at most one epoch at once
            count = max(1, round((size - queued) * self.candidates_for_one / size)) * size
            count = min(count, math.ceil(self.context.n / size) * size)
            if self.stale > 1:  # of one epoch, which is looked at or is not
                count = min(count, self.context.n - self.taken % self.context.n)
            kept = self.looked(count) if self.looks_now() else self.remembered(count)
            self.taken += count
            self.queue += kept
            queued += sum(map(len, kept))
        self.needed = self.taken - before[1]
        batch = Batch.cat(self.queue)
        self.queue = [batch[size:]]
        return batch[:size]

    def looks_now(self) -> bool:
        epoch = self.taken // self.context.n
        return epoch < self.first or (epoch - self.first) % self.stale == 0

    def looked(self, count: int) -> list[Batch]:
        """The next candidates that are kept by their current losses."""
        candidates = self.stream.take(count)
        losses, _ = self.context.look(candidates, self.looks == "train", self.looks_scale)
        if self.stale > 1:
            if self.taken % self.context.n == 0:
                self.told.zero_()
            self.told[0].index_add_(0, candidates.index.flatten(), (candidates.share * losses[:, None]).flatten())
            self.told[1].index_add_(0, candidates.index.flatten(), candidates.share.flatten())
        rows = self.choose(losses)
        return [candidates[rows]] if len(rows) else []

    def remembered(self, count: int) -> list[Batch]:
        """The next candidates that are kept by the losses of their last look, in fresh views."""
        if not len(self.order):
            self.order = self.context.permutation()
        index, self.order = self.order[:count], self.order[count:]
        total, share = self.told[:, index]
        rows = self.choose(torch.where(share > 0, total / share, torch.inf))
        return [self.context.view(index[rows])] if len(rows) else []

    def choose(self, losses: Tensor) -> Tensor:
        """The rows of the candidates that are kept. The host waits for their number: the queue's length decides."""
        chance = torch.rand(len(losses), generator=self.context.random.device, device=self.context.device)
        return (chance < self.keep(losses)).nonzero()[:, 0]

    def keep(self, losses: Tensor) -> Tensor:
        """The probability [B] of keeping each candidate; the history takes the candidates' losses in first."""
        self.losses = torch.cat([self.losses, losses])[-self.history :]
        lower = torch.searchsorted(self.losses.sort().values, losses)
        return ((lower / len(self.losses)) ** self.beta).clamp(min=self.floor)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        own = {"taken": self.taken, "losses": self.losses.clone(), "queue": [b.state_dict() for b in self.queue]}
        return {**self.stream.state_dict(), **own, "order": self.order.clone(), "told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.taken, self.losses = state["taken"], state["losses"]
        self.queue = [Batch(**b) for b in state["queue"]]
        self.order, self.told = state["order"], state["told"]
