"""Which layers of a run's network do not train, by how much of the budget is spent."""

from __future__ import annotations

from typing import Any

from budgetrun.contracts import Freezing, Rests
from budgetrun.training.budget import Budget
from budgetrun.training.network import Network


class Frozen:
    """It is part of a run's state: what looks after the last update must find the layers as that update left them."""

    def __init__(self, network: Network, freezing: Freezing | None, budget: Budget) -> None:
        self.network, self.freezing, self.budget = network, freezing, budget

    def follow(self) -> None:
        """Let fewer or more layers train, if it is time to."""
        if self.freezing is not None:
            self.freeze(self.freezing.frozen(self.budget.progress, len(self.network.layers)))

    def freeze(self, count: int) -> None:
        freezing = self.freezing
        if freezing is not None and count != self.network.frozen:
            with self.budget.paused():  # it counts FLOPs anew
                self.network.freeze(count, resting=isinstance(freezing, Rests) and freezing.rests)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.network.frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.freeze(state.get("count", 0))
