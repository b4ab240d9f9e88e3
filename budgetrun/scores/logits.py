"""Scores that are a function of the trained network's output: EL2N, loss, margin, entropy, least confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError
from budgetrun.softmax import entropy, errors


def el2n(logits: Tensor, label: Tensor) -> Tensor:
    """||p - onehot(label)||_2, [B]; p: softmax of logits [B, classes], label: [B, 1]. Source: Paul et al. 2021."""
    return errors(logits, label, torch.ones_like(logits[:, :1])).norm(dim=1)


def margin(logits: Tensor, label: Tensor) -> Tensor:
    """The largest p of the other classes minus p(label): in [-1, 1], above 0 if the prediction is wrong."""
    return behind(logits.softmax(1), label)


def behind(values: Tensor, label: Tensor) -> Tensor:
    """How far the label's value is behind the largest of the others, [B], of values [B, classes] and labels [B, 1]."""
    return values.scatter(1, label, -torch.inf).amax(1) - values.gather(1, label)[:, 0]


def least_confidence(logits: Tensor, label: Tensor) -> Tensor:
    """1 minus the largest p, whatever the label."""
    return 1 - logits.softmax(1).amax(1)


SCORES = {
    "el2n": el2n,
    "margin": margin,
    "entropy": lambda logits, label: entropy(logits.softmax(1)),
    "least_confidence": least_confidence,
}


@dataclass
class LogitScores:
    """A score of every un-augmented image at the end of the run; higher always means harder.

    The least confidence is 1 minus the largest p, whatever the label. DeepCore's code takes the largest logit instead,
    and unless it balances classes it keeps the most certain examples, also by entropy and by margin (its issue 11).

    score: "loss" is the run's own loss; the others are functions of the softmax p. EL2N is the published score of one
    run. Several files are averaged when they are read; the authors' code recommends at least 10. A run with few epochs
    scores early in training, as they do.
    of: "training", or "validation" to score the held-out examples. With `train_on=validation` the run trains
    on the held-out part, and "validation" scores the ordinary training examples: RHO's irreducible losses.
    Cost: `n F` at the end, included in the file's cost.
    """

    score: str
    of: str

    def __post_init__(self) -> None:
        if self.score not in ("loss", *SCORES):
            raise ValueError(f"score={self.score} is not one of loss, {', '.join(SCORES)}")
        if self.of not in ("training", "validation"):
            raise ValueError(f"of={self.of} is not one of training, validation")

    def start(self, context: Context) -> None:
        self.context = context
        if self.of == "validation" and context.validation is None:
            raise UserError("scores.of=validation needs held-out examples; set validation, for example to 0.5")

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def scores(self) -> dict[str, Tensor]:
        context, held = self.context, self.context.validation
        parts = context.everything() if self.of == "training" or held is None else held.split(context.batch_size)
        return {"score": torch.cat([self.of_part(part) for part in parts])}

    def of_part(self, batch: Batch) -> Tensor:
        losses, logits = self.context.look(batch)
        return losses if self.score == "loss" else SCORES[self.score](logits, batch.label)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
