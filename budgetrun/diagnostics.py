"""What explains a result: which examples were trained on, and what choosing them cost."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from budgetrun.budget import Budget
from budgetrun.contracts import Batch, Data
from budgetrun.machine import Stopwatch
from budgetrun.views import Views

COUNTS = ("visits", "visits_before", "effective", "weighted", "looking", "looked", "candidates")


class Diagnostics:
    """Counts on the device, one small operation an update, ten where it has weights; read at evaluations only.

    Of all updates so far:
    visits_entropy: H(c) = -sum_i c_i log c_i in nats, c_i the share of example i in all visits; log N if all are
        visited alike (Arazo et al. 2021). An image of several sources is a visit of each by its share, and an image
        of weight 0 is none.
    selected_class_entropy: entropy of the visited classes over its maximum log K; 1 if all are visited alike.
    selected_corrupted: share of the corrupted examples in the visits, next to corrupted, their share in the data;
        selected_corrupted_lately: in the visits since the last evaluation.
    keep_rate: images trained on, of the candidates: those that an update looks at or, if more, trains on.
    looking_updates: share of the updates that were preceded by a look; of a gated method, how often it was open.
    effective_batch: mean of (sum w)^2 / sum w^2 over the batch size, w the weights of the losses (Kish).
    selection_seconds, selection_flops: share of the time and the FLOPs that went into choosing; augmentation is not.
    """

    def __init__(self, data: Data, budget: Budget, view: Views) -> None:
        device = data.labels.device
        self.labels, self.classes, self.corrupted = data.labels, data.classes, data.corrupted
        self.budget, self.drawing, self.viewing = budget, Stopwatch(device), view.stopwatch
        self.visits = torch.zeros(len(data.labels), device=device)
        self.visits_before = self.visits.clone()
        self.effective = torch.zeros((), device=device)
        self.weighted, self.looking, self.looked, self.candidates = 0, 0, 0, 0

    def observe(self, batch: Batch) -> None:
        """One more training batch, after its weights are set."""
        share = batch.share
        if batch.weight is not None:
            share = share * (batch.weight > 0)[:, None]
            squares = batch.weight.square().sum().clamp(min=1e-30)  # all weights 0: an effective batch of 0
            self.effective += batch.weight.sum().square() / squares / len(batch)
            self.weighted += 1
        self.visits.index_add_(0, batch.index.flatten(), share.flatten())
        # nothing to read on the device: the budget counts looks on the host
        looked = self.budget.examples_looked - self.looked
        self.looked += looked
        self.looking += looked > 0
        self.candidates += max(looked, len(batch))

    def line(self) -> dict[str, float]:
        """The values, as numbers on the host."""
        visits, lately = self.visits.double(), (self.visits - self.visits_before).double()
        self.visits_before = self.visits.clone()
        by_class = torch.zeros(self.classes, dtype=torch.float64, device=visits.device)
        by_class.index_add_(0, self.labels, visits)
        updates = max(1, self.budget.updates)
        values = {
            "visits_entropy": entropy(visits),
            "selected_class_entropy": entropy(by_class) / math.log(self.classes) if self.classes > 1 else 1.0,
            "keep_rate": self.budget.examples_backward / max(1, self.candidates),
            "looking_updates": self.looking / updates,
            "selection_seconds": (self.drawing.seconds() - self.viewing.seconds()) / max(1e-9, self.budget.seconds),
            "selection_flops": self.budget.flops_choosing / max(1, self.budget.flops),
        }
        if self.weighted:
            values["effective_batch"] = (self.effective.item() + updates - self.weighted) / updates
        if self.corrupted is not None:
            values["corrupted"] = self.corrupted.double().mean().item()
            values["selected_corrupted"] = (visits[self.corrupted].sum() / visits.sum()).item()
            values["selected_corrupted_lately"] = (lately[self.corrupted].sum() / lately.sum()).item()
        return values

    def state_dict(self) -> dict[str, Any]:
        watches = {"drawing": self.drawing.seconds(), "viewing": self.viewing.seconds()}
        return {**{name: getattr(self, name) for name in COUNTS}, **watches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawing.total = state["drawing"]
        self.viewing.total = state["viewing"]
        for name in COUNTS:
            setattr(self, name, state[name])


def entropy(counts: Tensor) -> float:
    """-sum p log p in nats, p the counts' shares."""
    p = counts / counts.sum()
    return -torch.xlogy(p, p).sum().item()
