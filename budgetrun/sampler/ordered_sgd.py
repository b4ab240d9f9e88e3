"""Ordered SGD: the mean of the largest losses of a batch; and the average top-k loss, with as many at all times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.sampler._looking import check_looks


@dataclass
class OrderedSGD:
    """The loss of an update is the mean of the q largest of the s losses in a shuffled batch.

    q is `int(keep s)` at first, and `int(s / 2)`, `int(s / 4)`, ... (at least 1) from the epoch after the one in which
    the training accuracy reached the first, second, ... of the thresholds; it never grows. An epoch is `floor(n / s)`
    updates. The gradient is unbiased for an ordered loss and, on purpose, biased to hard for the mean loss; no
    re-weighting.
    Source: Kawaguchi & Lu 2020, and their code (`s / 2`, 4, 8, 16 at 80, 90, 95, 99.5%). Their code also cuts the
    learning rate at 99.5%, in one of its two programs for plain SGD as well. Not implemented: the schedule decides.
    The option atk keeps q fixed: the average top-k loss (ATk, Fan et al. 2017) of each batch.
    Published: ATk is the mean of the k largest losses of all n; the authors' code learns a threshold beside the
    weights, example by example, and takes those above it. Here the k of a batch, which is ATk itself where the batch
    is everything, and otherwise this ordered loss. They try many k; `keep=0.5` is ours.

    backward: A graph cannot be differentiated for a part of a batch at less than the cost of the whole.
        all, as published: one forward pass of all s; in `observe`, weight `s / q` for the q and 0 for the others.
            Cost of an update: `s (F + B)`.
        rows: while `q < s`, look at the s in training mode and train on the q alone. Their BatchNorm statistics are
            then those of the q, and the running ones learn from both passes. Cost: `s F + q (F + B)`; `s (F + B)`
            while `q = s`.
    accuracy: of the s images of each update in training mode, before it, averaged over the epoch at no cost
        (running: their code for wide networks), or of a pass over all examples in training mode between two epochs,
        `n F` (pass: their other program). An image of several sources is correct by the share of the predicted class.
    thresholds: increasing, in `(0, 1]`; with none and keep 1 it is plain SGD.
    keep: in `(0, 1]`; with `1 / s`, the maximum loss.
    looks_scale: size of the images in looks, of each side, in `(0, 1]`; bilinear.
    """

    neutral: ClassVar = {"keep": 1.0, "looks_scale": 1.0}

    thresholds: list[float]
    backward: str
    accuracy: str
    keep: float
    looks_scale: float = 1.0

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip([0.0, *self.thresholds], self.thresholds, strict=False))
        if not rising or not all(t <= 1 for t in self.thresholds):
            raise ValueError(f"thresholds={self.thresholds} must increase and lie in (0, 1] (training accuracies)")
        if not 1e-9 <= self.keep <= 1:
            raise ValueError(
                f"keep={self.keep} must be greater than 0 and at most 1: the part of the batch to train on"
            )
        if self.backward not in ("rows", "all"):
            raise ValueError(f"backward={self.backward} is not one of rows, all")
        if self.accuracy not in ("running", "pass"):
            raise ValueError(f"accuracy={self.accuracy} is not one of running, pass")
        check_looks(self.looks_scale)

    def sizes(self, batch_size: int) -> set[int]:
        smaller = range(len(self.thresholds) + 1) if self.backward == "rows" else range(1)
        most = max(1, int(self.keep * batch_size)) if self.backward == "rows" else batch_size
        return {min(most, max(1, batch_size >> reached)) for reached in smaller} | {batch_size}

    def start(self, context: Context) -> None:
        self.context, self.stream = context, context.stream(context.permutation)
        self.epoch = max(1, context.epoch)
        self.q = max(1, int(self.keep * context.batch_size))
        self.updates = 0
        self.right = torch.zeros((), device=context.device)  # images of this epoch, by share

    def draw(self) -> Batch:
        size = self.context.batch_size
        if self.updates and self.updates % self.epoch == 0:
            self.shrink()
        self.updates += 1
        batch = self.stream.take(size)
        if self.q == size or self.backward == "all":
            return batch
        losses, logits = self.context.look(batch, True, self.looks_scale)
        self.count(batch, logits)
        return batch[losses.topk(self.q).indices]

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        size = self.context.batch_size
        if self.q < size and self.backward == "rows":
            return  # the look has counted them
        self.count(batch, logits)
        if self.q < size:
            batch.weight = torch.zeros_like(losses).index_fill_(0, losses.topk(self.q).indices, size / self.q)

    def count(self, batch: Batch, logits: Tensor) -> None:
        self.right += (batch.share * (batch.label == logits.argmax(1, keepdim=True))).sum()

    def shrink(self) -> None:
        """Between two epochs, adapt q to the accuracy. The host waits for it, since q is the batch size."""
        size, images = self.context.batch_size, self.epoch * self.context.batch_size
        if self.accuracy == "pass":
            self.right.zero_()
            images = self.context.n
            # parts of nearly equal size: BatchNorm fails on a last part of one image
            for index in self.context.permutation().tensor_split(-(-images // size)):
                part = self.context.view(index)
                self.count(part, self.context.look(part, True, self.looks_scale)[1])
        if self.thresholds:
            accuracy = float(self.right) / images
            reached = sum(accuracy >= threshold for threshold in self.thresholds)
            self.q = min(self.q, max(1, size >> reached))
        self.right.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), "q": self.q, "updates": self.updates, "right": self.right}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.q, self.updates, self.right = state["q"], state["updates"], state["right"]
