"""Points of a run at which a scorer looks at all examples."""

from __future__ import annotations


def passed(progress: float, points: int, since: float = 0.0) -> int:
    """How many of `points`, evenly spaced over the run after its part `since`, have passed; the last is at its end.

    That one is left to `scores`, so that it is never counted.
    """
    since_then = max(0.0, progress - since) / (1 - since)
    return min(int(points * since_then), points - 1)
