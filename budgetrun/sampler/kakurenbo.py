"""KAKURENBO: every epoch hides the easiest examples that the network predicts correctly and confidently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, check_milestones, reached
from budgetrun.sampler._history import LatestLosses, renew
from budgetrun.sampler._looking import check_looks


@dataclass
class Kakurenbo:
    """Each epoch is a shuffled pass without the hidden examples, which are looked at when it ends.

    Candidates are the `int(F_t n)` examples of lowest loss. Those whose prediction is right, with a confidence of at
    least `tau`, are hidden; the others are moved back. Loss, prediction and confidence are the latest, of a training
    pass or of the look at the end of an epoch for which the example was hidden. F_t is `fraction`, times one of
    `factors` from each of the `milestones` on. No weights: biased to hard on purpose. The learning rate is multiplied
    by `1 / (1 - F_t)`.
    Source: Nguyen et al. 2023 and their code for CIFAR-100 (all defaults but `confidence` and `looks`; milestones at
    60, 120, 160 of 200 epochs). As there, the factor is that of the F_t that is allowed, not of the part that is
    hidden; it sets in with the second epoch, and nothing is hidden in the first. F_t is that of the progress when an
    epoch begins. Ours: equal losses rank in random order; an example is not hidden before it was seen. A mixed image
    predicts correctly those sources that have the predicted class; the confidence, 0 if it is wrong, moves by share, as
    losses do (see LatestLosses).
    Published: the larger learning rate makes up for the shorter epochs, as the number of epochs is fixed. Here a budget
    has the same number of updates for every method, so that there are more and shorter epochs; `scale_lr=false` leaves
    the learning rate to the schedule.
    Cost of an update: `b (F + B)`, and `F` for every hidden example at the end of an epoch.

    confidence: classes, the largest of an image's softmax over the classes; or batch, as their code computes it in all
        its programs: for each class a softmax over the images of the batch, and of those the image's largest. This
        depends on the batch size and on the number of classes, since of many images of one class none is confident.
    looks: eval; or train, as in their code, where the hidden images move BatchNorm's running statistics.
    looks_scale: size of the images in looks, of each side, in `(0, 1]`; bilinear.
    """

    neutral: ClassVar = {"looks_scale": 1.0}

    fraction: float
    milestones: list[float]
    factors: list[float]
    tau: float
    confidence: str
    scale_lr: bool
    looks: str
    looks_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 0.999:
            raise ValueError(
                f"fraction={self.fraction} must be in [0, 0.999]: the largest part of the examples to hide"
            )
        check_milestones(self.milestones)
        if len(self.factors) != len(self.milestones) or not all(0 <= factor <= 1 for factor in self.factors):
            raise ValueError(f"factors={self.factors} must be in [0, 1], and as many as the milestones")
        if not 1e-6 <= self.tau <= 1:
            raise ValueError(f"tau={self.tau} must be in [0.000001, 1]: the confidence from which to hide an example")
        if self.confidence not in ("classes", "batch"):
            raise ValueError(f"confidence={self.confidence} is not one of classes, batch")
        check_looks(self.looks_scale, self.looks)

    def start(self, context: Context) -> None:
        self.context = context
        self.stream = context.stream(self.plan)
        self.latest = LatestLosses(context.n, context.device)
        self.sure = torch.full((context.n,), torch.inf, device=context.device)  # the confidence; 0 if it is wrong
        self.hidden = torch.empty(0, dtype=torch.int64, device=context.device)
        self.allowed: float | None = None  # F_t of this epoch; None before the first

    @property
    def lr_factor(self) -> float:
        return 1 / (1 - (self.allowed or 0)) if self.scale_lr else 1.0

    @property
    def dropped(self) -> float:
        """Examples hidden in this epoch, in proportion to how much of it has been drawn; others were looked at."""
        kept = self.context.n - len(self.hidden)
        return len(self.hidden) * (1 - self.stream.waiting / kept)

    @property
    def takes_long(self) -> bool:
        return len(self.hidden) > 0 and self.stream.waiting < self.context.batch_size

    def plan(self) -> Tensor:
        self.look_at_hidden()
        allowed = self.allowed_at(self.context.progress())  # asked at once, so that `branches` are refused at once
        self.allowed = 0.0 if self.allowed is None else allowed  # none in the first epoch
        n, losses = self.context.n, self.latest.losses
        ranked = self.context.permutation()
        ranked = ranked[losses[ranked].argsort(stable=True)]
        hide = losses.isfinite() & (self.sure >= self.tau)
        hide.index_fill_(0, ranked[int(self.allowed * n) :], False)
        # the order of an epoch must not follow from that of equal losses
        order = self.context.permutation()
        order = order[hide[order].byte().argsort(stable=True)]
        kept = n - int(hide.sum())  # waits for the device, once per epoch
        self.hidden = order[kept:].clone()
        return order[:kept]

    def allowed_at(self, progress: float) -> float:
        """F_t."""
        return self.fraction * [1.0, *self.factors][reached(progress, self.milestones)]

    def look_at_hidden(self) -> None:
        # parts of nearly equal size: BatchNorm fails on one image
        parts = -(-len(self.hidden) // self.context.batch_size)
        for index in self.hidden.tensor_split(parts) if parts else ():
            batch = self.context.view(index)
            training = self.looks == "train" and len(batch) > 1
            self.observe(batch, *self.context.look(batch, training, self.looks_scale))

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        self.latest.observe(batch, losses)
        confidence = logits.softmax(1 if self.confidence == "classes" else 0).amax(1, keepdim=True)
        renew(self.sure, batch, confidence * (batch.label == logits.argmax(1, keepdim=True)))

    def state_dict(self) -> dict[str, Any]:
        own = {"sure": self.sure, "hidden": self.hidden, "allowed": self.allowed}
        return {**self.stream.state_dict(), **self.latest.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.latest.load_state_dict(state)
        self.sure, self.hidden, self.allowed = state["sure"], state["hidden"], state["allowed"]
