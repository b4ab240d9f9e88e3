"""Coverage-centric selection: the same number from each range of scores, without the hardest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.apportion import evenly
from budgetrun.select.window import after


@dataclass
class Stratified:
    """The range of the scores is divided into `strata` of equal width, and each gives about the same number.

    First the best `cut` of all are left out: the hardest, if the score is higher for harder examples. The strata give
    in order of their number of examples, the smallest first. A stratum gives what is left to choose divided by the
    number of strata left, rounded down, or all that it has, drawn at random.
    In the authors' code, the scores for the cut are always AUM; here they are those of the file. It ends the last
    stratum at 1.0001 times the highest score, and so loses the best example if its score is negative; here the last
    stratum includes its upper end. Its choice by class takes the size of the last class for all. Its README trains for
    40,000 iterations whatever is kept, and reports the best test accuracy. Choose `cut` by held-out examples, not by
    the test set.
    Source: Zheng et al. 2023 (CCS), and their code.
    Cost: none beyond the file.

    cut: part of the examples, in `[0, 1)`, or of each class if the subset is balanced. strata: their number.
    """

    cut: float
    strata: int

    def __post_init__(self) -> None:
        if not 0 <= self.cut < 1:
            raise ValueError(f"cut={self.cut} must be at least 0 and less than 1: the part to leave out")
        if self.strata < 1:
            raise ValueError(f"strata={self.strata} must be at least 1")

    def __call__(self, columns: Mapping[str, Tensor], count: int, random: torch.Generator) -> Tensor:
        score = columns["score"].double()
        ranked = score.argsort(descending=True, stable=True)
        rows = after(ranked, self.cut, count, f"cut={self.cut:g}")
        lowest, highest = score[rows].min(), score[rows].max()
        width = ((highest - lowest) / self.strata).clamp(min=torch.finfo(torch.float64).tiny)
        stratum = ((score[rows] - lowest) / width).long().clamp(max=self.strata - 1)  # the last includes its upper end
        sizes = [size for size in stratum.bincount().tolist() if size]
        order = torch.randperm(len(rows), generator=random, device=score.device)
        parts = order[stratum[order].argsort(stable=True)].split(sizes)  # each stratum in random order
        return rows[torch.cat([part[:gives] for part, gives in zip(parts, evenly(sizes, count), strict=True)])]
