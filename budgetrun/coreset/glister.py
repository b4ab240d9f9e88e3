"""GLISTER: the examples that lower the held-out loss the most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from budgetrun.coreset.choice import Seen, bias_gradients


@dataclass
class Glister:
    """Greedily, the examples whose gradients reduce the loss on the held-out examples the most.

    The authors' configurations choose among all classes at once. On the digits this ends at chance level: with 10% of
    the examples and a budget of 0.3 it reaches 10.0%, and by class 96.5% (greedy=rounds: 15.2 and 95.1%; uniform
    sampling: 98.5%; means of 3 seeds). So here the choice is by class.
    greedy: "stochastic", one example at a time, the best of a few random ones, as in every configuration that the
    authors released; or "rounds", equal parts of the best at once, their "RGreedy". step: of the Taylor approximation,
    at least 0; their code uses the learning rate. rounds: of greedy=rounds, at least 1.
    """

    step: float
    greedy: str
    rounds: int
    needs_validation = True

    version: ClassVar[int] = 2  # 1 had no greedy=stochastic, and fewer rounds where they do not divide the count

    def __post_init__(self) -> None:
        if not 0 <= self.step <= 1e6:
            raise ValueError(f"step={self.step} must be in [0, 1e6]")
        if self.greedy not in ("stochastic", "rounds"):
            raise ValueError(f"greedy={self.greedy} is not one of stochastic, rounds")
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds} must be at least 1")

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, None]:
        assert held is not None
        problem = seen.errors(), held.logits, held.labels, count, self.step
        return stochastic(*problem, random) if self.greedy == "stochastic" else in_rounds(*problem, self.rounds), None


def stochastic(
    gradients: Tensor, logits: Tensor, labels: Tensor, count: int, step: float, random: torch.Generator
) -> Tensor:
    """`count` of the gradients [m, classes] of the last bias, in order, each the best of `int(m / count ln 100)`.

    The candidates are drawn from those that are left, without replacement. The best has the largest product with the
    gradient of the validation loss, of logits [v, classes] and labels [v], after one step of this size along the sum of
    what is chosen so far; for the last bias, the logits are linear in that step. Source: Killamsetty et al. 2021
    (GLISTER), its Taylor approximation and their code's "Stochastic" (Mirzasoleiman et al. 2015, epsilon 0.01).
    The host does not wait.
    """
    candidates = int(len(gradients) / count * math.log(100))
    left = torch.arange(len(gradients), device=gradients.device)
    total = torch.zeros_like(gradients[0])
    chosen = []
    for _ in range(count):
        gradient = bias_gradients(logits - step * total, labels).mean(0)
        drawn = torch.rand(len(left), generator=random, device=left.device).topk(min(candidates, len(left))).indices
        place = drawn.index_select(0, (gradients[left[drawn]] @ gradient).argmax(0, keepdim=True))
        chosen.append(left.index_select(0, place))
        total = total + gradients.index_select(0, chosen[-1])[0]
        left = torch.where(torch.arange(len(left) - 1, device=left.device) == place, left[-1], left[:-1])
    return torch.cat(chosen)


def in_rounds(gradients: Tensor, logits: Tensor, labels: Tensor, count: int, step: float, rounds: int) -> Tensor:
    """`count` of the gradients as in `stochastic`, but an equal part of them in each round: the best products of all.

    Where the rounds do not divide the count, their parts differ by one; their code takes the smaller part in each, and
    more rounds. Source: their code's "RGreedy". (DeepCore's never refreshes the gradient.) The host does not wait.
    """
    chosen = torch.empty(0, dtype=torch.int64, device=gradients.device)
    available = torch.zeros(len(gradients), device=gradients.device)
    total = torch.zeros_like(gradients[0])
    for number in range(1, rounds + 1):
        if part := number * count // rounds - len(chosen):
            gradient = bias_gradients(logits - step * total, labels).mean(0)
            taken = (gradients @ gradient + available).topk(part).indices
            available[taken] = -torch.inf
            total = total + gradients[taken].sum(0)
            chosen = torch.cat([chosen, taken])
    return chosen
