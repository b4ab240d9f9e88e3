"""Uncertainty of an ensemble made of one run's checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import MOST, Batch, Context
from budgetrun.softmax import entropy


@dataclass
class Ensemble:
    """Uncertainty of the networks at `members` points of the run, evenly spaced, the last one at its end.

    With `p_e` the softmax of member e on the un-augmented image and p their mean over the E members:
    entropy            H(p) = -sum_k p_k log p_k
    mutual_information H(p) - mean_e H(p_e)
    variation_ratio    1 - (members that predict the most predicted class) / E
    errors             members that predict another class than the label
    Source: Chitta et al. 2020, who select a training subset with an ensemble of hundreds of checkpoints. The
    definitions are the standard ones. The points of the run are our choice; the paper's are not known to us. The files
    of several runs are averaged when they are read; for the first three that differs from the joint ensemble.
    All four are columns of the file. Cost: `members x n F`, of which `n F` at the end.

    acquisition: which of the four is the score. members: at least 2.
    """

    members: int
    acquisition: str

    def __post_init__(self) -> None:
        if not 2 <= self.members <= MOST:
            raise ValueError(f"members={self.members} must be at least 2 networks, and at most {MOST:,}")
        if self.acquisition not in ("entropy", "mutual_information", "variation_ratio", "errors"):
            raise ValueError(
                f"acquisition={self.acquisition} is not one of entropy, mutual_information, variation_ratio, errors"
            )

    def start(self, context: Context) -> None:
        self.context = context
        self.due = 0  # points of the run that have passed
        self.taken = 0  # members so far; fewer than points if one update passes several
        self.sum, self.votes = torch.zeros(2, context.n, context.classes, device=context.device)
        self.entropies = torch.zeros(context.n, device=context.device)

    def passed(self) -> int:
        """How many points of the run have passed; `scores` takes the network at the last one."""
        return min(int(self.members * self.context.progress()), self.members - 1)

    @property
    def takes_long(self) -> bool:
        return self.passed() > self.due

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        if (due := self.passed()) > self.due:
            self.due = due
            self.take()

    def take(self) -> None:
        """Add a member: the current network."""
        p = torch.cat([self.context.look(part)[1] for part in self.context.everything()]).softmax(1)
        self.taken += 1
        self.sum += p
        self.entropies += entropy(p)
        self.votes.scatter_add_(1, p.argmax(1, keepdim=True), torch.ones_like(p[:, :1]))

    def scores(self) -> dict[str, Tensor]:
        self.take()
        total = entropy(self.sum / self.taken)
        columns = {
            "entropy": total,
            "mutual_information": total - self.entropies / self.taken,
            "variation_ratio": 1 - self.votes.amax(1) / self.taken,
            "errors": self.taken - self.votes.gather(1, self.context.labels[:, None])[:, 0],
        }
        return {"score": columns[self.acquisition], **columns}

    def state_dict(self) -> dict[str, Any]:
        counts = {"due": self.due, "taken": self.taken}
        return counts | {name: getattr(self, name).clone() for name in ("sum", "votes", "entropies")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.due, self.taken = state["due"], state["taken"]
        self.sum, self.votes, self.entropies = state["sum"], state["votes"], state["entropies"]
