"""One cycle: the learning rate rises and falls, and the momentum falls and rises."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class OneCycle:
    """From `lr / div_factor` to lr in the part pct_start of the updates, then to `lr / div_factor / final_div_factor`.

    Meanwhile the momentum goes from max_momentum to base_momentum and back. With AdamW, the momentum is the first of
    its betas. Either change is along half a cosine, or in a straight line.
    Source: Smith & Topin 2019, and torch's OneCycleLR with its defaults, whose values these are at every update.

    cycle_momentum: whether it sets the momentum at all; if not, the optimizer's own stays.
    """

    pct_start: float
    anneal_strategy: str
    div_factor: float
    final_div_factor: float
    cycle_momentum: bool
    base_momentum: float
    max_momentum: float

    def __post_init__(self) -> None:
        if not 0 < self.pct_start < 1:
            raise ValueError(f"pct_start={self.pct_start} must be in (0, 1), as a part of the budget")
        if self.anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy={self.anneal_strategy} must be one of cos, linear")
        for name in ("div_factor", "final_div_factor"):
            if not 1 <= getattr(self, name) <= 1e12:
                raise ValueError(f"{name}={getattr(self, name)} must be in [1, 1e12]")
        if not 0 <= self.base_momentum <= self.max_momentum < 1:
            raise ValueError(
                f"base_momentum={self.base_momentum} and max_momentum={self.max_momentum} must be in [0, 1), "
                "and the first at most the second"
            )

    def __call__(self, lr: float, progress: float, update: float = 0.0) -> float:
        low = lr / self.div_factor
        return self.along(low, lr, low / self.final_div_factor, progress, update)

    def momentum(self, progress: float, update: float = 0.0) -> float | None:
        if not self.cycle_momentum:
            return None
        return self.along(self.max_momentum, self.base_momentum, self.max_momentum, progress, update)

    def along(self, first: float, middle: float, last: float, progress: float, update: float) -> float:
        """Where the cycle is. The last update of the rise is at the middle, as in torch: of 100, the 30th."""
        before, turn = progress * (1 - update), self.pct_start - update
        if before < turn:
            return self.between(first, middle, before / turn)
        return self.between(middle, last, (before - turn) / (1 - self.pct_start))

    def between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "linear":
            return start + (end - start) * part
        return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
