"""Hard mini-batches: batches that never change, and rounds over those with the largest loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError


@dataclass
class HardBatches:
    """One pass over all `B = floor(n / b)` fixed batches, then rounds over the `d = int(delta B)` of largest loss.

    A batch's loss is the mean in its last training forward pass, before that update. A batch that a round leaves out
    keeps its loss, and comes back when the others have fallen below it. A round is chosen when it begins (among equal
    losses, the first batches) and visits its batches in the order of the data. No re-weighting: biased to hard on
    purpose.
    Source: the code of Sahayam et al. 2023 (DyBAT), where the rounds go on until there are as many updates as in the
    full training run; here, until the budget is spent. delta 1 is its baseline: plain SGD on batches in a fixed order.
    Their code never leaves training mode: for the accuracies in its README, BatchNorm normalises test images by their
    own batch and learns from them. Here the network is evaluated in evaluation mode.
    The `n - B b` examples that fill no batch are never trained on, as published.
    Cost of an update: `b (F + B)`.

    delta: part of the batches in a round, in `(0, 1]`. shuffle: cut the batches from one random order of the data;
    false: from the data set's own order, as published, where neighbours may share a class.
    """

    delta: float
    shuffle: bool

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise ValueError(f"delta={self.delta} must be in (0, 1] (the part of the batches in a round)")

    def start(self, context: Context) -> None:
        count = context.n // context.batch_size
        self.hardest = int(self.delta * count)
        if self.hardest < 1:
            raise UserError(
                f"sampler.delta={self.delta:g} of the {count} batches is not even one; set a larger delta or a smaller "
                "batch_size"
            )
        self.context, self.stream = context, context.stream(self.plan)
        order = context.permutation() if self.shuffle else torch.arange(context.n, device=context.device)
        self.batches = order[: count * context.batch_size].view(count, context.batch_size)
        self.losses = torch.zeros(count, device=context.device)
        self.round = torch.empty(0, dtype=torch.int64, device=context.device)  # numbers of its batches
        self.place = 0  # in the round, of the next batch

    def plan(self) -> Tensor:
        """The examples of the next round; called when the last round is used up, so that all losses are known."""
        if len(self.round):
            self.round = self.losses.sort(descending=True, stable=True).indices[: self.hardest].sort().values
        else:
            self.round = torch.arange(len(self.batches), device=self.context.device)
        self.place = 0
        return self.batches[self.round].flatten()

    def draw(self) -> Batch:
        batch = self.stream.take(self.context.batch_size)
        self.place += 1
        return batch

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        # the number of the batch stays on the device
        self.losses.index_copy_(0, self.round[self.place - 1 : self.place], losses.mean()[None])

    def state_dict(self) -> dict[str, Any]:
        own = {"batches": self.batches, "losses": self.losses, "round": self.round, "place": self.place}
        return {**self.stream.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.batches, self.losses = state["batches"], state["losses"]
        self.round, self.place = state["round"], state["place"]
