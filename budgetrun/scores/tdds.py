"""TDDS: how unevenly the network's output for an example changed from visit to visit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError
from budgetrun.scores._visits import Latest, Window, centred, visited

EPSILON = 1e-8  # added to probabilities before the logarithm, as in the authors' code
MOST = 2**32  # bytes for the latest output of every example


@dataclass
class TDDS:
    """The spread of the steps of an example's output in the last visits, averaged with weights that decay fast.

    A step from one visit to the next is `D = sum_c |p'_c (log p'_c - log p_c)|`. The last `window` visits have
    `window - 1` steps, and `R = ||D - mean(D)||_2`. With every further visit, the score becomes
    `decay R + (1 - decay) score`: with the authors' 0.9, the last window has 90% of the weight.
    A visit is the training forward pass: before the update, in training mode, on the augmented image. An example with
    fewer visits than `window` has one window of those that it has. Costs nothing beyond the run, whose length matters:
    the authors score after 90 of 200 epochs, and choose that and `window` for each data set and part kept, by the test
    set; their row for a tenth kept could not be reproduced by others with the settings given (issues 2 and 3).
    A mixed image is a visit of the source that it shows most of (ours; without mixing, this is the published
    definition). An example that occurs twice in a batch has one visit, with the mean of the outputs.
    Raises UserError if the outputs of all examples take more than 4 GiB, and at the end if no example was visited three
    times.
    Source: Zhang et al. 2024, and their code. The copy in the code of DUAL reads the same window every time and takes
    logarithms of logits; it is another score.

    window: visits, at least 3. decay: weight of the newest window, in `(0, 1]`. until: part of the budget after which
    nothing counts any more, in `(0, 1]`.
    """

    window: int
    decay: float
    until: float

    def __post_init__(self) -> None:
        if self.window < 3:
            raise ValueError(f"window={self.window} must be at least 3: two visits have one step, which has no spread")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay={self.decay} must be greater than 0 and at most 1: the newest window's weight")
        if not 0 < self.until <= 1:
            raise ValueError(f"until={self.until} must be greater than 0 and at most 1: a part of the budget")

    def start(self, context: Context) -> None:
        if (size := 4 * context.n * context.classes) > MOST:
            raise UserError(f"TDDS keeps the latest output of every example, which takes {size / 2**30:.1f} GiB")
        self.progress = context.progress
        self.output = Latest(context.n, context.device, context.classes)
        self.steps = Window(context.n, self.window - 1, context.device, skip=1)  # the first visit has no step
        self.average = torch.zeros(context.n, device=context.device)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        if self.progress() > self.until:
            return
        index, _ = visited(batch)
        before = self.output.values[index]
        now = self.output.put(index, logits.float().softmax(1))
        step = (now * ((now + EPSILON).log() - (before + EPSILON).log())).abs().sum(1)
        windows, full = self.steps.put(index, step)
        spread = centred(windows, torch.ones_like(windows, dtype=torch.bool))[0].norm(dim=1)
        average = self.average[index]
        self.average[index] = torch.where(full, self.decay * spread + (1 - self.decay) * average, average)

    def scores(self) -> dict[str, Tensor]:
        if self.steps.count.max() < 2:
            raise UserError("scores: no example was visited three times, so that no steps differ; train longer")
        values, there = self.steps.partial()
        short = self.decay * centred(values, there)[0].norm(dim=1)
        return {"score": torch.where(there.all(1), self.average, short), "visits": self.steps.count + 1}

    def state_dict(self) -> dict[str, Any]:
        of_window = {"values": self.steps.values.clone(), "count": self.steps.count.clone()}
        return {"output": self.output.values.clone(), "average": self.average.clone(), **of_window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.output.values, self.average = state["output"], state["average"]
        self.steps.values, self.steps.count = state["values"], state["count"]
