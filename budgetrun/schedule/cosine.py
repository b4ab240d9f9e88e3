"""Half a cosine: the learning rate as a function of the progress, 0 at the first update and 1 at the last."""

from __future__ import annotations

import math
from dataclasses import dataclass

from budgetrun.schedule._final import check_final


@dataclass
class Cosine:
    """`final + (lr - final) (1 + cos(pi progress)) / 2`. Source: Loshchilov & Hutter 2017, without restarts."""

    final: float

    def __post_init__(self) -> None:
        check_final(self.final)

    def __call__(self, lr: float, progress: float) -> float:
        return self.final + (lr - self.final) * (1 + math.cos(math.pi * progress)) / 2
