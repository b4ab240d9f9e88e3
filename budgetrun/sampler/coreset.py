"""Training on a core-set that the network under training chooses, and chooses again every few passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.coreset import choice
from budgetrun.sampler._looking import check_looks


@dataclass
class CoreSet:
    """`warmup` passes over everything, then shuffled passes over a core-set, chosen anew after `every` passes.

    Losses are weighted by the method's weights, normalised to mean 1.
    Source: CRAIG, GRAD-MATCH and GLISTER. The definitions are in budgetrun/coreset; the options follow the authors'
    code. CRAIG takes the same number of each class, chooses anew after every pass, and normalises over the core-set;
    GRAD-MATCH rounds each class's part up and normalises each batch; the two in CORDS choose anew every 20 passes.
    CRAIG-PB and GRAD-MATCH-PB choose whole mini-batches, among all classes at once, and shuffle their examples. In the
    configurations of CORDS, the first chooses anew every 20 passes and the second after every pass.
    Published: CORDS cuts the mini-batches from the data's own order, once and for all, and looks at augmented images in
    training mode; here they are cut at random for each choice, and looked at as they are, in evaluation mode.
    Cost of a choice: `n F` (GLISTER: one more F per held-out example); of an update: `b (F + B)`.

    method: how to choose, one of budgetrun/coreset. fraction: of the examples, in `(0, 1]`. every: passes over the
    core-set (the papers' epochs) between choices, or null to choose once. balanced: choose this part of each class.
    counts: how many per class, if balanced: its share, rounded by "round" or "ceil"; or "equal", the same number each.
    normalize: scale the weights to mean 1 over the core-"set", or in each "batch".
    looks_scale: size of the images in looks, of each side, in `(0, 1]`; bilinear.
    """

    method: choice.Method
    fraction: float
    every: int | None
    warmup: int
    balanced: bool
    counts: str
    normalize: str
    looks_scale: float = 1.0

    neutral: ClassVar = {"counts": "round", "normalize": "set", "looks_scale": 1.0}

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction} must be greater than 0 and at most 1")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1 pass, or null to choose once")
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup} must be at least 0 passes over everything")
        choice.check_counts(self.counts)
        if self.normalize not in ("set", "batch"):
            raise ValueError(f"normalize={self.normalize} is not one of set, batch")
        check_looks(self.looks_scale)

    def start(self, context: Context) -> None:
        choice.check(context, self.method, self.fraction, self.balanced, self.counts, "sampler")
        self.context = context
        self.kept = torch.arange(context.n, device=context.device)
        self.weight: Tensor | None = None  # of the kept
        self.passes = 0
        self.stream = context.stream(self.plan)

    def plan(self) -> Tensor | tuple[Tensor, Tensor]:
        chosen_for = self.passes - self.warmup  # passes with a core-set
        if chosen_for == 0 or (chosen_for > 0 and self.every is not None and chosen_for % self.every == 0):
            how = self.fraction, self.balanced, self.counts, self.looks_scale
            chosen = choice.choose(self.context, self.method, *how)
            self.kept, self.weight = chosen.index, chosen.weight
        self.passes += 1
        order = torch.randperm(len(self.kept), generator=self.context.random.device, device=self.context.device)
        return self.kept[order] if self.weight is None else (self.kept[order], self.weight[order])

    @property
    def takes_long(self) -> bool:
        return self.stream.waiting < self.context.batch_size

    def draw(self) -> Batch:
        batch = self.stream.take(self.context.batch_size)
        if self.normalize == "batch" and batch.weight is not None:
            mean = batch.weight.mean()  # 0 where all of them are
            batch.weight = torch.where(mean > 0, batch.weight / mean, batch.weight)
        return batch

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), "kept": self.kept, "weight": self.weight, "passes": self.passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.kept, self.weight, self.passes = state["kept"], state["weight"], state["passes"]
