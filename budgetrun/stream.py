"""An endless stream of example indices, cut into batches of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Stream:
    """Indices from one draw after another: `plan()` returns the next draw, int64 [m] with m >= 1.

    A batch may hold the end of one draw and the beginning of the next, so that no drawn example is dropped.
    """

    def __init__(self, plan: Callable[[], Tensor]) -> None:
        self.plan = plan
        self.left: Tensor | None = None

    def take(self, count: int) -> Tensor:
        """The next `count` indices, int64 [count]."""
        draws = [self.plan() if self.left is None else self.left]
        there = len(draws[0])
        while there < count:
            draws.append(self.plan())
            there += len(draws[-1])
        left = torch.cat(draws) if len(draws) > 1 else draws[0]
        self.left = left[count:]
        return left[:count]

    def state_dict(self) -> dict[str, Any]:
        # a clone: a slice of a draw would carry the whole draw's memory into the file
        return {"left": None if self.left is None else self.left.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.left = state["left"]
