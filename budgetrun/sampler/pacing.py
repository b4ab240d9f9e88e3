"""Curricula: a fixed order of the examples, of which more and more take part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError, several_paths

STEEP = 10  # of exp and log, in the authors' code
GROWTH = 1.9  # of the steps of fixed_exponential, by default in the authors' code
# of the way from the first examples to all of them, at x of the time that it takes, 0 <= x < 1
PACES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "quad": lambda x: x * x,
    "root": math.sqrt,
    "step": lambda x: 0.0,
    "exp": lambda x: math.expm1(STEEP * x) / math.expm1(STEEP),
    "log": lambda x: 1 + math.log(x + math.exp(-STEEP)) / STEEP,
}


@dataclass
class Pacing:
    """Shuffled passes over the first g of the examples, in the order of their scores; g grows up to n.

    With `x = progress / until`, `g = n (first + (1 - first) f(x))`, and n from `x = 1` on: f is `x` (linear), `x^2`
    (quad), `sqrt(x)` (root), 0 (step), `(e^(10 x) - 1) / (e^10 - 1)` (exp) or `1 + ln(x + e^-10) / 10` (log); or
    `g = n first 1.9^floor(K x)` with the K steps that reach n (fixed_exponential). g is rounded down, and at least b.
    Each pass goes over the g of its beginning. No weights: what is drawn within the g is uniform.
    A run with scores=... writes the file; in all of them, a higher score is harder. Equal scores are ranked at random.
    Source: Wu et al. 2021 and their code (six paces; the defaults are the a = 0.2, b = 0.8 of the commands in its
    README); Hacohen & Weinshall 2019 and their code (fixed_exponential: from 4% on, 1.9 times as many every 100
    batches, so that 17% of their training have passed when all are in). Random order is the control in both.
    Published: g is at least 256, twice the batch size (Wu); batches are drawn from the g anew, not in passes, and g is
    rounded up (Hacohen); hard first is the balanced order reversed, the same where classes are equally large. Scores
    are c-scores (Wu), or from a classifier on the features of another network (Hacohen): here, any file.
    Cost of an update: `b (F + B)`; the result's `flops_before` is the file's.

    file: path; with * or ?, or commas, several files together, as in sampler=subset; not read if the order is random.
    order: which come first, the "lowest" scores (easy), the "highest" (hard, an anti-curriculum), or "random" examples.
    pace: one of the seven. first: part of the examples at the beginning, in `(0, 1]`. until: part of the budget after
    which all take part, in `(0, 10]`; above 1, the run ends before. balanced: the first of every class, then the second
    of every class, ..., as in both; of no effect on a random order.
    """

    file: str | None
    order: str
    pace: str
    first: float
    until: float
    balanced: bool

    def __post_init__(self) -> None:
        if self.order not in ("lowest", "highest", "random"):
            raise ValueError(f"order={self.order} is not one of lowest, highest, random")
        if self.pace not in (*PACES, "fixed_exponential"):
            raise ValueError(f"pace={self.pace} is not one of {', '.join(PACES)}, fixed_exponential")
        if not 1e-9 <= self.first <= 1:
            raise ValueError(f"first={self.first} must be greater than 0 and at most 1: a part of the examples")
        if not 1e-9 <= self.until <= 10:
            raise ValueError(f"until={self.until} must be greater than 0 and at most 10: a part of the budget")
        if self.order == "random":
            self.file = None
        elif not self.file:
            raise ValueError(
                "file is not set: it names the scores to order by, as a run with scores=el2n, or another, writes them; "
                "order=random needs none"
            )
        self.file = several_paths("file", self.file)

    def start(self, context: Context) -> None:
        self.context = context
        self.ranked = context.permutation()
        if self.file is not None:
            columns = context.read_scores(self.file)
            if missing := context.n - len(columns["index"]):
                raise UserError(f"sampler.file: {self.file} has no score for {missing} of {context.n} examples")
            score = torch.empty_like(columns["score"])
            score[columns["index"]] = columns["score"]
            by_score = score[self.ranked].argsort(descending=self.order == "highest", stable=True)
            self.ranked = self.ranked[by_score]
            if self.balanced:
                self.ranked = self.ranked[
                    rank_in_class(context.labels[self.ranked], context.classes).argsort(stable=True)
                ]
        self.stream = context.stream(self.plan)

    def count(self) -> int:
        """g, how many examples take part at this point of the budget."""
        x = self.context.progress() / self.until
        if x >= 1:
            part = 1.0
        elif self.pace == "fixed_exponential":
            steps = math.ceil(math.log(1 / self.first) / math.log(GROWTH))
            part = min(1.0, self.first * GROWTH ** int(steps * x))
        else:
            part = self.first + (1 - self.first) * PACES[self.pace](x)
        return min(
            self.context.n, max(self.context.batch_size, int(part * self.context.n + 1e-6))
        )  # 199.99999999999997 is 200

    def plan(self) -> Tensor:
        return self.context.shuffled(self.ranked[: self.count()])

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)


def rank_in_class(labels: Tensor, classes: int) -> Tensor:
    """Of each of the labels [m], how many of the same class come before it, int64 [m]."""
    every = torch.arange(len(labels), device=labels.device)
    sizes = torch.zeros(classes, dtype=torch.int64, device=labels.device).index_add_(0, labels, torch.ones_like(every))
    by_class = labels.argsort(stable=True)
    begin = (sizes.cumsum(0) - sizes)[labels[by_class]]
    return torch.empty_like(every).index_copy_(0, by_class, every - begin)
