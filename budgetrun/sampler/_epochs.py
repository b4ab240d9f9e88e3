"""Epochs that leave examples out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from budgetrun.contracts import Batch, Context, Plan


class Epochs:
    """A stream of epochs of at most n examples, as `plan` draws them, that counts those left out."""

    def __init__(self, context: Context, plan: Plan) -> None:
        self.n, self.plan = context.n, plan
        self.stream = context.stream(self.begin)
        self.passed = 0  # examples left out in the epochs before this one
        self.kept = self.n  # in this one

    def begin(self) -> Tensor | tuple[Tensor, Tensor]:
        self.passed += self.n - self.kept
        drawn = self.plan()
        self.kept = len(drawn[0] if isinstance(drawn, tuple) else drawn)
        return drawn

    def take(self, count: int) -> Batch:
        return self.stream.take(count)

    @property
    def dropped(self) -> float:
        """Examples left out so far; the current epoch counts in proportion to how much of it has been drawn."""
        return self.passed + (self.n - self.kept) * (1 - self.stream.waiting / self.kept)

    def state_dict(self) -> dict[str, Any]:
        return {**self.stream.state_dict(), "passed": self.passed, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
        self.passed, self.kept = state["passed"], state["kept"]
