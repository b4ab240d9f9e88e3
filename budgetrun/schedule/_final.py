"""The learning rate that a schedule ends with."""

from __future__ import annotations

import math


def check_final(final: float) -> None:
    if not 0 <= final < math.inf:
        raise ValueError(f"final={final} must be at least 0")
