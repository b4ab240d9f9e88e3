"""All layers but the last stay as they are: the usual first step of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backbone:
    """Only the last layer trains, on features that stay the same, until a part of the budget is spent.

    Source: linear probing, and then fine-tuning as in Kumar et al. 2022 if `until` is less than 1.
    until: part of the budget after which all layers train.
    rests: the backbone stays in evaluation mode, so that the same image has the same features; false: BatchNorm goes on
        normalising by the batch.
    """

    until: float
    rests: bool

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ValueError(f"until={self.until} must be in (0, 1]: the part of the budget with a frozen backbone")

    def frozen(self, progress: float, layers: int) -> int:
        return layers - 1 if progress < self.until or self.until == 1 else 0
