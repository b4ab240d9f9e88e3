"""Constant, then down: the learning rate as a function of the progress, 0 at the first update and 1 at the last."""

from __future__ import annotations

from dataclasses import dataclass

from budgetrun.schedule._final import check_final


@dataclass
class Trapezoid:
    """lr, then in the last part, the cool-down, in a straight line to final; its first slope is `schedule.warmup`.

    Source: Hägele et al. 2024, with the linear of their two cool-downs; known as warm-up, stable, decay (WSD) as well.
    """

    cooldown: float
    final: float

    def __post_init__(self) -> None:
        check_final(self.final)
        if not 0 < self.cooldown <= 1:
            raise ValueError(f"cooldown={self.cooldown} must be greater than 0 and at most 1, as a part of the budget")

    def __call__(self, lr: float, progress: float) -> float:
        left = (1 - progress) / self.cooldown
        return lr if left >= 1 else self.final + (lr - self.final) * left
