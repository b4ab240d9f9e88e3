"""Selective backprop by batches: look at a batch, train on the harder part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError
from budgetrun.sampler._looking import check_looks


@dataclass
class BatchwiseSelectiveBackprop:
    """Draw `int(keep x b)` images of each batch, without replacement, with `probability ∝ percentile^(1 / keep - 1)`.

    The percentile is `(i + 1/2) / b` for the i-th smallest loss of the batch, from 0. No re-weighting: biased to hard
    on purpose.
    Source: selective backprop of mosaicml/composer (keep 0.5, begin 0.5, end 0.9, interrupt 2, in training mode);
    `looks_scale` is its `scale_factor`.
    Cost of an update that chooses: `b F` of looks, then `int(keep x b) (F + B)`; of the others: `b (F + B)`.

    keep: part of a batch, in `(0, 1]`; 1 looks at nothing. begin, end: the part of the budget in which it chooses, from
    the update at which `begin` of it is spent to the last before `end`. interrupt: every interrupt-th batch of an epoch
    is trained on whole, without a look (2: every other); 0: none. looks: eval; or train, in which BatchNorm uses and
    learns from the whole batch. looks_scale: size of the images in looks, of each side, in `(0, 1]`; bilinear.
    """

    neutral: ClassVar = {"looks_scale": 1.0}

    keep: float
    begin: float
    end: float
    interrupt: int
    looks: str
    looks_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep} must be in (0, 1] (the part of a batch to train on)")
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(f"begin={self.begin}, end={self.end} must be parts of the budget, 0 <= begin < end <= 1")
        if self.interrupt < 0 or self.interrupt == 1:
            raise ValueError(f"interrupt={self.interrupt} must be 0 (never) or at least 2 (1 would never choose)")
        check_looks(self.looks_scale, self.looks)

    def sizes(self, batch_size: int) -> set[int]:
        return {batch_size, int(self.keep * batch_size)}

    def start(self, context: Context) -> None:
        size = context.batch_size
        self.context, self.stream = context, context.stream(context.permutation)
        self.kept = int(self.keep * size)
        if self.kept < 1:
            raise UserError(
                f"sampler.keep={self.keep:g} of batch_size={size} is not even one image; enlarge one of the two"
            )
        percentile = (torch.arange(size, device=context.device) + 0.5) / size
        self.log_chance = (1 / self.keep - 1) * percentile.log()  # logarithms: 0.004^99 is 0 in float32
        self.updates = 0

    def draw(self) -> Batch:
        batch = self.stream.take(self.context.batch_size)
        chooses = self.chooses()
        self.updates += 1
        if not chooses:
            return batch
        losses, _ = self.context.look(batch, self.looks == "train", self.looks_scale)
        # the k largest of log p + Gumbel noise are k draws without replacement; torch.multinomial waits for the host
        noise = -torch.empty_like(self.log_chance).exponential_(generator=self.context.random.device).log()
        places = (self.log_chance + noise).topk(self.kept).indices
        return batch[losses.argsort()[places]]

    def chooses(self) -> bool:
        """Whether the next update trains on a part of its batch."""
        progress = self.context.progress()
        place = self.updates % max(1, self.context.epoch)
        inside = self.begin <= progress and (progress < self.end or self.end == 1)  # the last update is at 1
        return self.keep < 1 and inside and (self.interrupt == 0 or (place + 1) % self.interrupt != 0)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.updates = state["updates"]
