"""Random scores: the baseline of every selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context


@dataclass
class RandomScores:
    """Every example gets a uniform number in `[0, 1)`, drawn with the run's seed. Costs nothing beyond the run."""

    def start(self, context: Context) -> None:
        self.context = context

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def scores(self) -> dict[str, Tensor]:
        context = self.context
        return {"score": torch.rand(context.n, generator=context.random.device, device=context.device)}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
