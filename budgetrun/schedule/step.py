"""Steps: the learning rate as a function of the progress, 0 at the first update and 1 at the last."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Step:
    """lr times `factor` for every milestone reached; milestones are increasing shares of the budget in `(0, 1)`.

    The milestones of Arazo et al. 2021 are not known; one and two thirds are this project's choice.
    """

    milestones: list[float]
    factor: float

    def __post_init__(self) -> None:
        bounded = all(0 < m < 1 for m in self.milestones)
        if not bounded or sorted(set(self.milestones)) != list(self.milestones):
            raise ValueError(
                f"milestones={list(self.milestones)} must increase and lie in (0, 1), as shares of the budget"
            )
        if not 1e-6 <= self.factor <= 1:
            raise ValueError(f"factor={self.factor} must be in [0.000001, 1]")

    def __call__(self, lr: float, progress: float) -> float:
        return lr * self.factor ** sum(progress >= m for m in self.milestones)
