"""A window of the ranking: the best after the very best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.contracts import UserError


@dataclass
class Window:
    """The best examples after the best `skip` of all: the hardest are often mislabelled or unlearnable.

    Choose `skip` by held-out examples, not by the test set.
    Source: Paul et al. 2021, EL2N with an offset. Their code counts the offset from the other end: it keeps so many
    examples after the `offset` with the lowest scores, which is `skip = 1 - offset - keep`, all as parts of the
    examples.
    Cost: none beyond the file.

    skip: part of the examples, in `[0, 1)`, or of each class if the subset is balanced, that is left out at the top.
    """

    skip: float

    def __post_init__(self) -> None:
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip={self.skip} must be at least 0 and less than 1: the part to leave out at the top")

    def __call__(self, columns: Mapping[str, Tensor], count: int, random: torch.Generator) -> Tensor:
        ranked = columns["score"].argsort(descending=True, stable=True)
        return after(ranked, self.skip, count, f"skip={self.skip:g}")[:count]


def after(ranked: Tensor, part: float, count: int, option: str) -> Tensor:
    """What is ranked [m] after its first part; raises UserError if it is less than `count`, which is to be chosen."""
    return ranked[first_after(len(ranked), part, count, option) :]


def first_after(there: int, part: float, count: int, option: str) -> int:
    """How many are left out; raises UserError if too few are left."""
    first = round(part * there)
    if there - first < count:
        raise UserError(
            f"select.{option} leaves {there - first} of {there} examples, and {count} are to be chosen; "
            f"set it, or what the sampler keeps, lower"
        )
    return first
