"""Exponential decay: the learning rate as a function of the progress, 0 at the first update and 1 at the last."""

from __future__ import annotations

from dataclasses import dataclass

from budgetrun.schedule._final import check_final


@dataclass
class Exponential:
    """`lr (final / lr)^progress`: the same factor at every update; where it ends is this project's choice."""

    final: float

    def __post_init__(self) -> None:
        check_final(self.final)
        if self.final == 0:
            raise ValueError("final=0 is never reached by equal factors; set it to a small number, such as 0.0001")

    def __call__(self, lr: float, progress: float) -> float:
        return lr * (self.final / lr) ** progress
