"""Learning rates as functions of the progress through the budget: 0 at the first update, 1 at the last."""

from __future__ import annotations

import math
from dataclasses import dataclass


def check_final(final: float) -> None:
    if not 0 <= final < math.inf:
        raise ValueError(f"final={final} must be at least 0")


@dataclass
class Linear:
    """lr + (final - lr) progress. Source: Li et al. 2020; final 1e-6 at the last update as in Arazo et al. 2021."""

    final: float

    def __post_init__(self) -> None:
        check_final(self.final)

    def __call__(self, lr: float, progress: float) -> float:
        return lr + (self.final - lr) * progress


@dataclass
class Cosine:
    """final + (lr - final) (1 + cos(pi progress)) / 2. Source: Loshchilov & Hutter 2017, without restarts."""

    final: float

    def __post_init__(self) -> None:
        check_final(self.final)

    def __call__(self, lr: float, progress: float) -> float:
        return self.final + (lr - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class Step:
    """lr times `factor` for every milestone reached; milestones are increasing parts of the budget in (0, 1).

    The milestones of Arazo et al. 2021 are not known; one and two thirds are this project's choice.
    """

    milestones: list[float]
    factor: float

    def __post_init__(self) -> None:
        bounded = all(0 < m < 1 for m in self.milestones)
        if not bounded or sorted(set(self.milestones)) != list(self.milestones):
            raise ValueError(
                f"milestones={list(self.milestones)} must increase and lie in (0, 1), as parts of the budget"
            )
        if not 1e-6 <= self.factor <= 1:
            raise ValueError(f"factor={self.factor} must be in [0.000001, 1]")

    def __call__(self, lr: float, progress: float) -> float:
        return lr * self.factor ** sum(progress >= m for m in self.milestones)


@dataclass
class Constant:
    """lr throughout."""

    def __call__(self, lr: float, progress: float) -> float:
        return lr
