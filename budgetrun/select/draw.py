"""A draw: better scores are likelier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from budgetrun.contracts import UserError


@dataclass
class Draw:
    """Examples are drawn one after another without replacement, with probabilities that follow their scores.

    `P_i = (1 - mix) w_i / sum w + mix / m` for the m examples to choose among, with `w_i = score_i`, or
    `exp(score_i / temperature)`. Ayed & Hayou 2023 find that choosing by score alone does worse than at random where
    30% or less is kept, and that adding randomness helps (their abstract; their protocols were not checked). This
    mixture is ours.
    Cost: none beyond the file.

    temperature: of the softmax over the scores; null: proportional to the scores, which must not be negative.
    mix: part of the probability that is uniform, in `[0, 1]`.
    """

    temperature: float | None
    mix: float

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be greater than 0, or null")
        if not 0 <= self.mix <= 1:
            raise ValueError(f"mix={self.mix} must be in [0, 1]: the part of the probability that is uniform")

    def __call__(self, columns: Mapping[str, Tensor], count: int, random: torch.Generator) -> Tensor:
        score = columns["score"].double()
        if self.temperature is not None:
            log_share = (score / self.temperature).log_softmax(0)
        elif (score < 0).any() or not score.sum() > 0:
            raise UserError(
                "select=draw in proportion to the scores needs scores that are not negative, and not all 0; "
                "set select.temperature"
            )
        else:
            log_share = (score / score.sum()).log()
        # in logarithms: at a low temperature, most shares are 0 in float64
        parts = torch.tensor([1 - self.mix, self.mix / len(score)], dtype=torch.float64, device=score.device).log()
        return drawn(torch.logaddexp(parts[0] + log_share, parts[1]), count, random)


def drawn(log_weight: Tensor, count: int, random: torch.Generator) -> Tensor:
    """`count` positions [count] drawn one after another in proportion to the weights [m], without replacement.

    The first to arrive, when each waits for an exponential time with its weight as the rate. Those with weight 0 come
    last, at random.
    """
    wait = torch.empty_like(log_weight).exponential_(generator=random).log()
    arrives = torch.where(log_weight.isneginf(), torch.inf, wait - log_weight)
    return arrives.argsort(stable=True)[:count]
