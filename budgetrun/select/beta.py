"""A draw that moves to easier examples as less is kept (DUAL)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.contracts import UserError
from budgetrun.select.draw import drawn

SUM = 16  # of the two parameters of the distribution
HARDEST = 10  # examples, whose mean says what "hard" means here


@dataclass
class Beta:
    """Examples are drawn without replacement in proportion to their score times a Beta density of their mean p(label).

    The density is Beta(a, b) with `b = 15 (1 - m) (1 - r^power)` and `a = 16 - b`, where `r` is the part left out and
    `m` the mean of `mean_p` over the 10 examples with the best scores: easy examples come in as less is kept. The file
    needs the column `mean_p`, the mean of p(label) over the visits that counted; theirs are the first 30 of 200 epochs.
    The command in the authors' README hands their program a list of indices where scores belong, and so draws by the
    numbers of the examples. Their batch size follows the part kept; here it does not. They have no choice by class;
    here, if the subset is balanced, `r` and `m` are those of the class.
    Source: Cho et al. 2025 (DUAL), and their code.
    Cost: none beyond the file.

    power: how fast the density moves to easy examples; their 4 is for CIFAR-100.
    """

    power: float

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"power={self.power} must be greater than 0")

    def __call__(self, columns: Mapping[str, Tensor], count: int, random: torch.Generator) -> Tensor:
        if "mean_p" not in columns:
            raise UserError("select=beta needs the column mean_p in sampler.file; scores=dual writes it")
        score, mean_p = columns["score"].double(), columns["mean_p"].double()
        if (score < 0).any() or mean_p.min() < 0 or mean_p.max() > 1:
            raise UserError("select=beta needs scores that are not negative, and mean_p in [0, 1]")
        hard = mean_p[score.argsort(descending=True, stable=True)[:HARDEST]].mean()
        b = (SUM - 1) * (1 - hard) * (1 - (1 - count / len(score)) ** self.power)
        a = SUM - b
        tiny = torch.finfo(torch.float64).eps
        p = mean_p.clamp(tiny, 1 - tiny)  # a density may be infinite at the ends
        return drawn((a - 1) * p.log() + (b - 1) * (-p).log1p() + score.log(), count, random)
