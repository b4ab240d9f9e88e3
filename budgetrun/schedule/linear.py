"""A straight line: the learning rate as a function of the progress, 0 at the first update and 1 at the last."""

from __future__ import annotations

from dataclasses import dataclass

from budgetrun.schedule._final import check_final


@dataclass
class Linear:
    """`lr + (final - lr) progress`. Source: Li et al. 2020; final 1e-6 at the last update as in Arazo et al. 2021."""

    final: float

    def __post_init__(self) -> None:
        check_final(self.final)

    def __call__(self, lr: float, progress: float) -> float:
        return lr + (self.final - lr) * progress
