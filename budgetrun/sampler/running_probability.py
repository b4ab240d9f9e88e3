"""p-SGD and c-SGD: one draw per epoch, without replacement, by the network's past predictions for each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context


@dataclass
class RunningProbability:
    """Each epoch draws `int(n x budget)` examples without replacement, with probability `P = (s + mean(s)) / sum`.

    `a_i` is the mean, over all visits of example i, of `1 - p(label)` in the training forward pass; an example not seen
    yet has the largest a. `score=probability`: `s = a` (p-SGD). `score=confusion`: `s = a (1 - a)` (c-SGD). Losses are
    not re-weighted: both are biased on purpose. The first epoch is uniform; at budget 1 both are plain SGD.
    Source: Arazo et al. 2021 and their code (`utils_train.py`); p-SGD after Ioannou et al. 2019, c-SGD after the
    threshold closeness of Chang et al. 2017.
    Cost of an update: `b (F + B)`.

    score: "probability" or "confusion", what an epoch's draw prefers.
    credit: what a mixed image teaches about its sources. "sources" updates each source by its share, with the
    probability of that source's own label. "as_published" updates the example that was drawn for the image's row,
    with weight 1 and its own label, as the released code does: right for mixup up to the share, but nearly noise for
    RICAP, whose row i is made of other examples than i in 97% of the cases. Without mixing the two are the same.
    """

    score: str
    credit: str

    def __post_init__(self) -> None:
        if self.score not in ("probability", "confusion"):
            raise ValueError(f"score={self.score} is not one of probability, confusion")
        if self.credit not in ("sources", "as_published"):
            raise ValueError(f"credit={self.credit} is not one of sources, as_published")

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = context.stream(self.plan)
        self.count = max(1, int(context.n * context.fraction))
        self.total = torch.zeros(context.n, device=context.device)  # sum over visits of 1 - p(label), by share
        self.visits = torch.zeros(context.n, device=context.device)

    def scores(self) -> Tensor:
        """s [n] before smoothing, in [0, 1]."""
        mean = self.total / self.visits
        # before anything is seen, max() is -inf; any constant gives the uniform first epoch
        seen = torch.where(self.visits > 0, mean, -torch.inf)
        a = torch.where(self.visits > 0, mean, seen.max().clamp(min=0))
        return a * (1 - a) if self.score == "confusion" else a

    def probabilities(self) -> Tensor:
        """P [n], the probability of each example in a single draw; sums to 1."""
        s = self.scores()
        s = s + s.mean()
        # the released code's guard: c-SGD's first scores are all 0
        s = torch.where(s.sum() > 0, s, torch.ones_like(s))
        return s / s.sum()

    def plan(self) -> Tensor:
        random, p = self.context.random.device, self.probabilities()
        # what torch.multinomial draws without replacement, bit for bit; on a GPU, it also waits for two checks of p
        drawn = (p / torch.empty_like(p).exponential_(generator=random)).topk(self.count).indices
        # likely examples come first; the epoch visits them in random order
        return self.context.shuffled(drawn)

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        if self.credit == "sources":
            index, label, share = batch.index, batch.label, batch.share
        else:
            index = batch.drawn[:, None]
            label, share = self.context.labels[index], torch.ones_like(index, dtype=torch.float32)
        missed = 1 - logits.softmax(1).gather(1, label)
        self.total.index_add_(0, index.flatten(), (share * missed).flatten())
        self.visits.index_add_(0, index.flatten(), share.flatten())

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), "total": self.total, "visits": self.visits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.total, self.visits = state["total"], state["visits"]
