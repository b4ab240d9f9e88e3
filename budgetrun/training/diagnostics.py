"""What explains a result: which examples were trained on, and what choosing them cost."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Data, Dropping, Sampler
from budgetrun.softmax import entropy
from budgetrun.training.budget import Budget
from budgetrun.training.machine import Stopwatch
from budgetrun.training.views import Views

TOGETHER = 100  # updates
COUNTS = ("visits", "visits_before", "effective", "weighted", "looking", "candidates", "flops")


class Diagnostics:
    """Counts on the device, many updates at once; nothing is read before an evaluation.

    Over all updates so far:
    visits_entropy: H(c) = -sum_i c_i log c_i in nats, c_i the share of example i in all visits; log N if all are
        visited equally often (Arazo et al. 2021). An image of several sources visits each by its share, and an image of
        weight 0 visits none.
    selected_class_entropy: entropy of the visited classes over its maximum log K; 1 if all are visited equally often.
    selected_corrupted: share of the corrupted examples in the visits, next to corrupted, their share in the data;
        selected_corrupted_lately: in the visits since the last evaluation.
    keep_rate: images backpropagated (an image and its further views count as one), divided by the candidates: those
        that the sampler looks at for an update or, if more, trains on, plus those that it reports as `dropped` without
        a look.
    looking_updates: share of the updates for which the sampler looked; for a gated method, how often the gate was open.
    effective_batch: mean of (sum w)^2 / sum w^2 over the batch size, w the weights of the losses (Kish).
    selection_seconds, selection_flops: share of the time and the FLOPs spent on choosing: what the sampler spends in
        `draw`, without augmentation. What a scorer spends is not included.
    """

    def __init__(self, data: Data, budget: Budget, view: Views, sampler: Sampler) -> None:
        device = data.labels.device
        self.labels, self.classes, self.corrupted = data.labels, data.classes, data.corrupted
        self.budget, self.sampler, self.drawn, self.viewing = budget, sampler, Stopwatch(device), view.stopwatch
        self.passes = view.passes
        self.visits = torch.zeros(len(data.labels), device=device)
        self.visits_before = self.visits.clone()
        self.effective = torch.zeros((), device=device)
        self.waiting: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.weighted, self.looking, self.candidates = 0, 0, 0
        self.looked = 0  # images, for the next update
        self.flops = 0  # spent on choosing

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Around a sampler's draw. The budget counts on the host, so nothing is read from the device."""
        looked, flops = self.budget.examples_looked, self.budget.flops
        with self.drawn:
            yield
        self.looked = self.budget.examples_looked - looked
        self.flops += self.budget.flops - flops

    def observe(self, batch: Batch) -> None:
        """Take note of a training batch, after its weights are set."""
        # counted later, many at once: an operation between two updates finds every cache cold
        self.waiting.append((batch.index, batch.share, batch.weight))
        if len(self.waiting) == TOGETHER:
            self.count()
        self.looking += self.looked > 0
        self.candidates += max(self.looked, len(batch))

    def count(self) -> None:
        """Count the waiting batches."""
        if not self.waiting:
            return
        index = torch.cat([index.flatten() for index, _, _ in self.waiting])
        shares = [share if weight is None else share * (weight > 0)[:, None] for _, share, weight in self.waiting]
        self.visits.index_add_(0, index, torch.cat([share.flatten() for share in shares]))
        weights = [weight for _, _, weight in self.waiting if weight is not None]
        if weights:
            padded = torch.nn.utils.rnn.pad_sequence(weights, batch_first=True)
            lengths = torch.tensor([len(weight) for weight in weights]).to(padded, non_blocking=True)
            # all weights 0: an effective batch of 0
            self.effective += (padded.sum(1).square() / padded.square().sum(1).clamp(min=1e-30) / lengths).sum()
            self.weighted += len(weights)
        self.waiting = []

    def line(self) -> dict[str, float]:
        """The values, as numbers on the host."""
        self.count()
        visits, lately = self.visits.double(), (self.visits - self.visits_before).double()
        self.visits_before = self.visits.clone()
        by_class = torch.zeros(self.classes, dtype=torch.float64, device=visits.device)
        by_class.index_add_(0, self.labels, visits)
        of_examples, of_classes = (entropy(counts / counts.sum()).item() for counts in (visits, by_class))
        updates = max(1, self.budget.updates)
        candidates = self.candidates + (self.sampler.dropped if isinstance(self.sampler, Dropping) else 0)
        values = {
            "visits_entropy": of_examples,
            "selected_class_entropy": of_classes / math.log(self.classes) if self.classes > 1 else 1.0,
            "keep_rate": self.budget.examples_backward / self.passes / max(1, candidates),
            "looking_updates": self.looking / updates,
            "selection_seconds": (self.drawn.seconds() - self.viewing.seconds()) / max(1e-9, self.budget.seconds),
            "selection_flops": self.flops / max(1, self.budget.flops),
        }
        if self.weighted:
            values["effective_batch"] = (self.effective.item() + updates - self.weighted) / updates
        if self.corrupted is not None:
            values["corrupted"] = self.corrupted.double().mean().item()
            values["selected_corrupted"] = (visits[self.corrupted].sum() / visits.sum()).item()
            values["selected_corrupted_lately"] = (lately[self.corrupted].sum() / lately.sum()).item()
        return values

    def extremes(self, count: int) -> Tensor:
        """The `count` most visited examples, in falling order, and as many of the least visited: int64 [2 count].

        Half of all examples if they are fewer. Equal ones are in a random order that is the same in every run: by
        number, they may be of one class.
        """
        self.count()
        count = min(count, len(self.visits) // 2)
        shuffled = torch.randperm(len(self.visits), generator=torch.Generator().manual_seed(0)).to(self.visits.device)
        order = shuffled[self.visits[shuffled].argsort(stable=True, descending=True)]
        return torch.cat([order[:count], order[len(order) - count :]])

    def state_dict(self) -> dict[str, Any]:
        watches = {"drawing": self.drawn.seconds(), "viewing": self.viewing.seconds()}
        # not counted first: sums grouped differently would differ in the last bit from an uninterrupted run's
        return {**{name: getattr(self, name) for name in COUNTS}, "waiting": self.waiting, **watches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn.total = state["drawing"]
        self.viewing.total = state["viewing"]
        self.waiting = [(index, share, weight) for index, share, weight in state["waiting"]]
        for name in COUNTS:
            setattr(self, name, state[name])
