"""AUM: how far the label's logit was above the others in training, on average; negative, so that higher is harder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.scores._visits import Latest, visited
from budgetrun.scores.logits import behind


@dataclass
class AUM:
    """The negative mean, over an example's visits, of its margin: logit(label) minus the largest other logit.

    A visit is the training forward pass: before the update, in training mode, on the augmented image. Costs nothing
    beyond the run. An example that was never visited scores as the hardest that was.
    A mixed image is a visit of the source that it shows most of (ours; without mixing, this is the published
    definition). An example that occurs twice in a batch has one visit, with the mean of the values.
    In the authors' code, the margin is of logits. Others that call it AUM differ: CCS adds margins of probabilities
    where this is their mean; the copy in the code of DUAL starts anew in every epoch, and so has the margin of
    probabilities in the last one; DataCull documents logits and takes probabilities.
    Source: Pleiss et al. 2020, and their code, there without the sign.

    of: what the margin is taken of, "logits" or "probabilities".
    """

    of: str

    def __post_init__(self) -> None:
        if self.of not in ("logits", "probabilities"):
            raise ValueError(f"of={self.of} is not one of logits, probabilities")

    def start(self, context: Context) -> None:
        self.latest = Latest(context.n, context.device)
        self.sum, self.count = torch.zeros(2, context.n, device=context.device)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        index, label = visited(batch)
        values = logits.float() if self.of == "logits" else logits.float().softmax(1)
        self.sum[index] = self.sum[index] + self.latest.put(index, behind(values, label[:, None]))
        self.count[index] = self.count[index] + 1

    def scores(self) -> dict[str, Tensor]:
        seen = self.count > 0
        score = self.sum / self.count.clamp(min=1)
        return {"score": torch.where(seen, score, score[seen].max()), "visits": self.count}

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum.clone(), "count": self.count.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sum, self.count = state["sum"], state["count"]
