"""Layers that stop training one after the other, the first ones first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Layers:
    """The share of frozen layers grows in a straight line, from none at `start` to `level` at the end of the budget.

    `floor(level (t - start) / (1 - start) (L - 1))` of `L` layers are frozen at the progress `t`; the last one always
    trains.
    Source: composer's LayerFreezing (MosaicML 2021), after FreezeOut (Brock et al. 2017); there at the ends of epochs,
    here at every update. Frozen layers go on in training mode, as there: BatchNorm normalises by the batch.
    start: part of the budget. level: part of the layers but the last.
    rests: true keeps frozen layers in evaluation mode.
    """

    start: float
    level: float
    rests: bool

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"start={self.start} must be in [0, 1): the part of the budget before the first is frozen")
        if not 0 < self.level <= 1:
            raise ValueError(f"level={self.level} must be in (0, 1]: the part of the layers that are frozen at the end")

    def frozen(self, progress: float, layers: int) -> int:
        share = max(0.0, progress - self.start) / (1 - self.start)
        return int(self.level * share * (layers - 1))
