"""SeTa: every epoch is on a window of groups of alike losses, which slides from easy to hard, again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError
from budgetrun.sampler._epochs import Epochs
from budgetrun.sampler._history import LatestLosses

STEPS = 300  # of k-means, at most, as in scikit-learn


@dataclass
class SeTa:
    """An epoch is a window of W groups by loss, in a random part of `int((1 - ratio) n)` examples, in random order.

    The G = `groups` groups, from easy to hard, are those of 1-D k-means on the latest losses of the part. The window
    holds `W = round(window G)` of them (half to even: 4 for 4.5). In epoch t, counted from 0, it begins with group
    `t mod (G - W + 1)`; in epoch 0, and once `delta` of the budget is spent, an epoch is the whole random part. No
    weights.
    Source: Zhou et al. 2025 and their code (the defaults are those of its script for CIFAR; elsewhere in it G is 10 and
    the window 0.5). Ours: all draws differ from seed to seed (theirs reseeds NumPy in each epoch by its number, so that
    the shuffling, and the part drawn after `delta`, are alike in all runs); k-means begins with centres drawn by their
    squared distance to those before, each the best of a few, as in scikit-learn, which they use; an example not seen
    yet is always kept (theirs has the loss 3); equal losses rank in random order; mixed images: see LatestLosses.
    Theirs saves updates; here a budget has the same number for every method, so there are more and shorter epochs.
    Cost of an update: `b (F + B)`.
    """

    ratio: float
    groups: int
    window: float
    delta: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 0.999:
            raise ValueError(f"ratio={self.ratio} must be in [0, 0.999]: the part to drop at random")
        if not 1 <= self.groups <= 1000:
            raise ValueError(f"groups={self.groups} must be at least 1, and at most 1,000")
        if not (0 < self.window <= 1 and round(self.window * self.groups)):
            raise ValueError(f"window={self.window} of groups={self.groups} must be in (0, 1], and at least one group")
        if not 0 <= self.delta <= 1:
            raise ValueError(f"delta={self.delta} must be in [0, 1]: the part of the budget with a window")

    def start(self, context: Context) -> None:
        self.context = context
        self.count = max(1, int((1 - self.ratio) * context.n))
        if self.groups > self.count:
            raise UserError(
                f"sampler.groups={self.groups} is more than the {self.count} examples of an epoch; set fewer groups"
            )
        self.stream = Epochs(context, self.plan)
        self.latest = LatestLosses(context.n, context.device)
        self.epochs = 0

    @property
    def dropped(self) -> float:
        return self.stream.dropped

    def plan(self) -> Tensor:
        part = self.context.permutation()[: self.count]
        annealed = self.context.progress() >= self.delta  # asked at once, so that `branches` are refused at once
        if self.epochs and not annealed:
            part = self.windowed(part, self.epochs)
        self.epochs += 1
        return self.context.shuffled(part)

    def windowed(self, part: Tensor, epoch: int) -> Tensor:
        """Those of the examples `part` in the window, and those not seen yet."""
        ranked = part[self.latest.losses[part].argsort(stable=True)]
        losses = self.latest.losses[ranked].cpu().double().numpy()  # waits for the device, once per epoch
        seen = int(np.isfinite(losses).sum())
        edges = groups_of(losses[:seen], self.groups, self.context.random.host)
        size = round(self.window * self.groups)
        begin = epoch % (self.groups - size + 1)
        chosen = torch.cat([ranked[edges[begin] : edges[begin + size]], ranked[seen:]])
        return chosen if len(chosen) else part  # a window may have no example where many are alike

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        self.latest.observe(batch, losses)

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), **self.latest.state_dict(), "epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.latest.load_state_dict(state)
        self.epochs = state["epochs"]


def groups_of(losses: np.ndarray, groups: int, random: np.random.Generator) -> np.ndarray:
    """Where the groups of 1-D k-means begin in ascending `losses` [m], and where the last one ends: int [groups + 1].

    Equal parts if all losses are equal, as published.
    """
    if not len(losses) or losses[0] == losses[-1]:
        return np.linspace(0, len(losses), groups + 1).astype(np.int64)
    centres = np.sort(first_centres(losses, groups, random))
    sums = np.concatenate([[0.0], losses.cumsum()])
    edges = np.zeros(groups + 1, np.int64)
    for _ in range(STEPS):
        between = (centres[1:] + centres[:-1]) / 2
        before, edges = edges, np.concatenate([[0], losses.searchsorted(between), [len(losses)]])
        if (edges == before).all():
            break
        sizes = np.diff(edges)
        centres = np.where(sizes > 0, np.diff(sums[edges]) / sizes.clip(min=1), centres)
    return edges


def first_centres(losses: np.ndarray, groups: int, random: np.random.Generator) -> np.ndarray:
    """Greedy k-means++: of a few losses, drawn by the squared distance to the nearest centre, the best is the next."""
    centres = [losses[random.integers(len(losses))]]
    distance = np.square(losses - centres[0])
    while len(centres) < groups:
        drawn = random.random(2 + int(np.log(groups))) * distance.sum()
        tried = losses[distance.cumsum().searchsorted(drawn).clip(max=len(losses) - 1)]
        distances = np.minimum(distance, np.square(losses - tried[:, None]))
        best = distances.sum(1).argmin()
        centres.append(tried[best])
        distance = distances[best]
    return np.array(centres)
