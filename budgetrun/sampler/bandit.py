"""Dynamic pruning as a bandit: trains on the examples of the highest score so far, and on some others at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import MOST, Batch, Context
from budgetrun.sampler._epochs import Epochs
from budgetrun.sampler._history import LatestLosses, renew


@dataclass
class Bandit:
    """Shuffled passes over `k = int(keep n)` examples: `int(epsilon k)` at random, the others those of highest score.

    The first pass is over everything. A training pass on an example moves the mean m and the variance v of its losses:
    `v <- (1 - alpha) v + alpha (loss - m)^2`, then `m <- (1 - alpha) m + alpha loss`. `score=mean`: m, epsilon-greedy;
    `score=ucb`: `m + confidence v`, an upper confidence bound. An example that is left out keeps its score, and comes
    back when those of the others have fallen below it. No weights: biased to hard on purpose.
    Source: Raju et al. 2021, after a public port (sodabori/dataset_pruning), with its formulas and its epsilon, alpha,
    confidence and keep (its "pruning ratio" is the part that is kept). We found no code of the authors. In the port the
    averages are those of looks at everything in evaluation mode, but nothing calls these: every training pass
    overwrites the score with the loss, so that its UCB is its epsilon-greedy. Ours: the averages are those of training
    passes, and begin at the first loss, with a variance of 0 (in the port at 1 for epsilon-greedy, and at 0); an
    example not seen yet has the highest score; equal scores rank in random order; mixed images: see LatestLosses.
    Cost of an update: `b (F + B)`.

    every: passes over the chosen examples before they are chosen anew. Ours is 1; the port's is 10 of 90 epochs, of
        which the first ten are over everything.
    """

    score: str
    keep: float
    epsilon: float
    alpha: float
    confidence: float
    every: int

    def __post_init__(self) -> None:
        if self.score not in ("mean", "ucb"):
            raise ValueError(f"score={self.score} is not one of mean, ucb")
        for name in ("keep", "alpha"):
            if not 1e-6 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0.000001, 1]")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon={self.epsilon} must be in [0, 1]: the part that is chosen at random")
        if not 0 <= self.confidence <= 1e6:
            raise ValueError(f"confidence={self.confidence} must be at least 0, and at most 1,000,000")
        if not 1 <= self.every <= MOST:
            raise ValueError(f"every={self.every} must be at least 1 pass, and at most {MOST:,}")

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = Epochs(context, self.plan)
        self.mean = LatestLosses(context.n, context.device)
        self.variance = torch.zeros(context.n, device=context.device)
        self.chosen = torch.arange(context.n, device=context.device)
        self.passes = 0

    @property
    def dropped(self) -> float:
        return self.stream.dropped

    def plan(self) -> Tensor:
        if self.passes and (self.passes - 1) % self.every == 0:
            self.chosen = self.choice()
        self.passes += 1
        return self.context.shuffled(self.chosen)

    def choice(self) -> Tensor:
        """The examples of the next passes, int64 [k]."""
        score = self.mean.losses
        if self.score == "ucb":
            score = score + self.confidence * self.variance
        order = self.context.permutation()
        ranked = order[score[order].argsort(descending=True, stable=True)]
        count = max(1, int(self.keep * self.context.n))
        greedy = count - int(self.epsilon * count)
        return torch.cat([ranked[:greedy], self.context.shuffled(ranked[greedy:])[: count - greedy]])

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        before = self.mean.losses[batch.index]
        deviation = (losses[:, None] - before).where(before.isfinite(), 0)
        renew(self.variance, batch, deviation.square(), self.alpha)
        renew(self.mean.losses, batch, losses[:, None], self.alpha)

    def state_dict(self) -> dict[str, Any]:
        own = {"variance": self.variance, "chosen": self.chosen, "passes": self.passes}
        return {**self.stream.state_dict(), **self.mean.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.mean.load_state_dict(state)
        self.variance, self.chosen, self.passes = state["variance"], state["chosen"], state["passes"]
