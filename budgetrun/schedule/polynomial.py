"""A power of what is left: the learning rate as a function of the progress, 0 at the first update and 1 at the last."""

from __future__ import annotations

from dataclasses import dataclass

from budgetrun.schedule._final import check_final


@dataclass
class Polynomial:
    """`final + (lr - final) (1 - progress)^power`; known as "poly" from segmentation, where 0.9 is usual."""

    final: float
    power: float

    def __post_init__(self) -> None:
        check_final(self.final)
        if not 0 < self.power <= 100:
            raise ValueError(f"power={self.power} must be greater than 0 and at most 100")

    def __call__(self, lr: float, progress: float) -> float:
        return self.final + (lr - self.final) * (1 - progress) ** self.power
