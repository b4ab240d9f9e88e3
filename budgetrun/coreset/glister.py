"""GLISTER: the examples that lower the loss on held-out ones the most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.coreset.choice import Seen, bias_gradients


@dataclass
class Glister:
    """glister on the held-out examples.

    Their code chooses among all classes at once; on the digits that ends at chance level (10% of them, budget 0.3; by
    class 93%, uniform 97.8%; one seed), as one round then takes the examples of one class.
    step: at least 0; their code takes the learning rate. rounds: between which the gradient is refreshed, at least 1.
    """

    step: float
    rounds: int
    needs_validation = True

    def __post_init__(self) -> None:
        if not 0 <= self.step <= 1e6:
            raise ValueError(f"step={self.step} must be in [0, 1e6]")
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds} must be at least 1")

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        assert held is not None
        return glister(seen.errors(), held.logits, held.labels, count, self.step, self.rounds), None


def glister(gradients: Tensor, logits: Tensor, labels: Tensor, count: int, step: float, rounds: int) -> Tensor:
    """`count` of the gradients [m, classes] of the last bias, in order: those that lower the validation loss the most.

    Each of the `rounds` takes an equal part of them by the product with the gradient of the validation loss, of logits
    [v, classes] and labels [v], after one step of this size along the sum of what is chosen so far. Source: Killamsetty
    et al. 2021 (GLISTER), with its Taylor approximation, and their code's "RGreedy" for the last bias, in which the
    logits are linear. (DeepCore's never refreshes the gradient.) Waits for nothing.
    """
    chosen = torch.empty(0, dtype=torch.int64, device=gradients.device)
    available = torch.zeros(len(gradients), device=gradients.device)
    total = torch.zeros_like(gradients[0])
    size = -(-count // rounds)
    while len(chosen) < count:
        gradient = bias_gradients(logits - step * total, labels).mean(0)
        taken = (gradients @ gradient + available).topk(min(size, count - len(chosen))).indices
        available[taken] = -torch.inf
        total = total + gradients[taken].sum(0)
        chosen = torch.cat([chosen, taken])
    return chosen
