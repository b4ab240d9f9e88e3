"""Reflected exponential: the learning rate as a function of the progress, 0 at the first update and 1 at the last."""

from __future__ import annotations

from dataclasses import dataclass

from budgetrun.schedule._final import check_final


@dataclass
class REX:
    """`final + (lr - final) (1 - progress) / (1 - progress / 2)`: later and steeper than a straight line.

    Source: Chen et al. 2022, made for budgets.
    """

    final: float

    def __post_init__(self) -> None:
        check_final(self.final)

    def __call__(self, lr: float, progress: float) -> float:
        return self.final + (lr - self.final) * (1 - progress) / (1 - progress / 2)
