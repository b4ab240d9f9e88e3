"""A constant learning rate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Constant:
    """lr throughout."""

    def __call__(self, lr: float, progress: float) -> float:
        return lr
