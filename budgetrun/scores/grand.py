"""GraNd: the norm of an example's own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context


@dataclass
class GraNd:
    """`||d loss_i / d parameters||_2` of every un-augmented image at the end of the run, of the run's own loss.

    Source: Paul et al. 2021, for one training run. Several files are averaged when they are read; the authors' code
    recommends at least 10. A run with few epochs scores early in training, as they do.
    parameters: "all", as they do; `n (F + B)` at the end. "last": those of the last linear layer, weights and bias, as
    DeepCore does, which divides each by the size of its batch; `n F` at the end. Their gradient is g [h, 1]^T, with h
    the layer's input and g the gradient of the loss by the logits (`softmax - onehot` for the cross-entropy), so the
    norm is `||g|| sqrt(||h||^2 + 1)`.
    """

    parameters: str

    def __post_init__(self) -> None:
        if self.parameters not in ("all", "last"):
            raise ValueError(f"parameters={self.parameters} is not one of all, last")

    def start(self, context: Context) -> None:
        self.context = context
        if self.parameters == "last":
            context.needs_features()

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def scores(self) -> dict[str, Tensor]:
        norms = self.context.gradient_norms if self.parameters == "all" else self.last_norms
        return {"score": torch.cat([norms(part) for part in self.context.everything()])}

    def last_norms(self, batch: Batch) -> Tensor:
        h, logits = self.context.embed(batch)
        return self.context.logit_gradients(logits, batch).norm(dim=1) * (h.square().sum(1) + 1).sqrt()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
