"""Steps: the learning rate as a function of the progress, 0 at the first update and 1 at the last."""

from __future__ import annotations

from dataclasses import dataclass

from budgetrun.contracts import check_milestones, reached


@dataclass
class Step:
    """lr times `factor` for every milestone reached; milestones are increasing shares of the budget in `(0, 1)`.

    The milestones of Arazo et al. 2021 are not known; one and two thirds are this project's choice.
    """

    milestones: list[float]
    factor: float

    def __post_init__(self) -> None:
        check_milestones(self.milestones)
        if not 1e-6 <= self.factor <= 1:
            raise ValueError(f"factor={self.factor} must be in [0.000001, 1]")

    def __call__(self, lr: float, progress: float) -> float:
        return lr * self.factor ** reached(progress, self.milestones)
