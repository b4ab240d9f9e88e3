"""CRAIG and GRAD-MATCH among whole mini-batches, by their mean gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.contracts import UserError
from budgetrun.coreset.choice import Seen
from budgetrun.coreset.craig import craig
from budgetrun.coreset.gradmatch import filled_up, gradmatch


@dataclass
class CraigPB:
    """`craig` with squared distances, on the mean gradients of mini-batches, as in CORDS (its CRAIG-PB).

    `ceil(count / size)` of the batches are chosen, and each example has the weight of its batch. size: examples in a
    batch. gradients: of all of the "last" layer, or of its "bias" alone, as in the configurations of CORDS.
    """

    size: int
    gradients: str

    def __post_init__(self) -> None:
        check(self.size, self.gradients)

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        parts, means = batches(seen, self.size, self.gradients, random)
        return examples_of(parts, *craig(means, -(-count // self.size), squared=True))


@dataclass
class GradMatchPB:
    """`gradmatch` on the mean gradients of mini-batches, whose sum it matches, as in CORDS (its GRAD-MATCH-PB).

    `ceil(count / size)` of the batches are chosen, and each example has the weight of its batch. If it ends early,
    random examples of weight 1 fill the count. size: examples in a batch. gradients: of all of the "last" layer, as in
    the configurations of CORDS, or of its "bias" alone. regularization: at least 0, as of GradMatch; CORDS has 0 here.
    """

    size: int
    gradients: str
    regularization: float

    def __post_init__(self) -> None:
        check(self.size, self.gradients)
        if not 0 <= self.regularization <= 1e6:
            raise ValueError(f"regularization={self.regularization} must be in [0, 1e6]")

    def __call__(self, seen: Seen, held: Seen | None, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        parts, means = batches(seen, self.size, self.gradients, random)
        chosen = gradmatch(means, torch.ones_like(means[:, :1]), -(-count // self.size), self.regularization)
        return filled_up(*examples_of(parts, *chosen), count, len(seen.labels), random)


def check(size: int, gradients: str) -> None:
    """Raise ValueError for values that make no batches or no gradients."""
    if size < 1:
        raise ValueError(f"size={size} must be at least 1 example")
    if gradients not in ("last", "bias"):
        raise ValueError(f"gradients={gradients} is not one of last, bias")


def batches(seen: Seen, size: int, gradients: str, random: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
    """All m examples in random batches, [size] positions each, the last perhaps fewer; and their mean gradients.

    CORDS cuts them from the data's own order, always the same. Raises UserError if the gradients exceed 4 GiB.
    """
    errors = seen.errors()
    inputs = torch.ones_like(errors[:, :1]) if gradients == "bias" else seen.inputs()
    parts = torch.randperm(len(errors), generator=random, device=errors.device).split(size)
    numbers = len(parts) * errors.shape[1] * inputs.shape[1]
    if 4 * numbers > 2**32:
        raise UserError(
            f"the gradients of {len(parts)} batches with respect to the last layer take {4 * numbers / 2**30:.0f} GiB; "
            "choose by its bias (gradients=bias), or larger batches (size)"
        )
    return parts, torch.stack([(errors[rows].T @ inputs[rows]).flatten() / len(rows) for rows in parts])


def examples_of(parts: tuple[Tensor, ...], chosen: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The examples of the chosen batches, and for each the weight of its batch. The host waits, for their number."""
    rows = [parts[number] for number in chosen.tolist()]
    weight = [one.expand(len(part)) for one, part in zip(weights, rows, strict=True)]
    return torch.cat([parts[0][:0], *rows]), torch.cat([weights[:0], *weight])
