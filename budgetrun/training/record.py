"""The learning curve of a run: training losses and evaluations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import UserError


class Diverged(UserError):
    """The loss or the weights became infinite or not a number. flops: what the run had spent when that was noticed."""

    flops = 0


class Record:
    """Losses wait on the device until `read`, so that no update waits for the host.

    metrics: one dictionary per evaluation, as in metrics.jsonl. updates: how many losses were added.
    """

    def __init__(self) -> None:
        self.metrics: list[dict[str, Any]] = []
        self.updates = 0
        self.evaluations = 0  # that were due; two that are due at once make one line of metrics
        self.sum, self.count = 0.0, 0  # of the losses read since the last evaluation
        self.waiting: list[Tensor] = []
        self.rates: list[float] = []

    def add(self, loss: Tensor, lr: float) -> None:
        """The loss [] of one more update, and its learning rate."""
        self.updates += 1
        self.waiting.append(loss)
        self.rates.append(lr)

    def read(self) -> None:
        """Bring the waiting losses to the host; raises Diverged at the first that is not a finite number."""
        losses = torch.stack(self.waiting).tolist() if self.waiting else []
        first = self.updates - len(losses) + 1
        for number, (loss, lr) in enumerate(zip(losses, self.rates, strict=True), first):
            if not math.isfinite(loss):
                raise Diverged(f"the loss became {loss} at update {number} (learning rate {lr:.3g})")
            self.sum += loss
        self.count += len(losses)
        self.waiting, self.rates = [], []

    def mean_loss(self) -> float:
        """The mean of the losses since the last call."""
        self.read()
        mean = self.sum / max(1, self.count)
        self.sum, self.count = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        self.read()
        return {
            "metrics": self.metrics,
            "updates": self.updates,
            "evaluations": self.evaluations,
            "sum": self.sum,
            "count": self.count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.metrics, self.updates, self.evaluations = state["metrics"], state["updates"], state["evaluations"]
        self.sum, self.count = state["sum"], state["count"]
