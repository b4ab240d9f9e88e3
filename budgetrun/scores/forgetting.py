"""Forgetting events: how often an example that was classified correctly is misclassified again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.scores._visits import visited


@dataclass
class Forgetting:
    """How often an example goes from correct to wrong between two consecutive presentations.

    A presentation is the training forward pass: before the update, in training mode, on the augmented image. Costs
    nothing beyond the run. Source: Toneva et al. 2019, and their code.
    A mixed image is a presentation of the source that it shows most of, and is correct if that source's label is
    predicted (ours; without mixing, this is the published definition). An example that occurs twice in a batch has one
    presentation, which is correct if all its images are.

    never: the score of an example that was never correct, or never seen. "epochs": the largest number of presentations
    of any example, which is more than any learned example can reach; in the authors' code it is the number of epochs.
    "zero": the events as counted, as in DeepCore.
    """

    never: str

    def __post_init__(self) -> None:
        if self.never not in ("epochs", "zero"):
            raise ValueError(f"never={self.never} is not one of epochs, zero")

    def start(self, context: Context) -> None:
        self.correct, self.learnt, self.events, self.presentations = torch.zeros(4, context.n, device=context.device)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        index, label = visited(batch)
        before = self.correct[index]
        self.correct.scatter_reduce_(0, index, (logits.argmax(1) == label).float(), "amin", include_self=False)
        now = self.correct[index]
        # an example that occurs twice is written twice, with the same value
        self.events[index] = self.events[index] + (before > now)
        self.learnt[index] = torch.maximum(self.learnt[index], now)
        self.presentations[index] = self.presentations[index] + 1

    def scores(self) -> dict[str, Tensor]:
        never = self.presentations.max() if self.never == "epochs" else self.events
        return {"score": torch.where(self.learnt > 0, self.events, never)}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).clone() for name in ("correct", "learnt", "events", "presentations")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.correct, self.learnt = state["correct"], state["learnt"]
        self.events, self.presentations = state["events"], state["presentations"]
