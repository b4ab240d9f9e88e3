"""How many of each group to choose."""

from __future__ import annotations

from collections.abc import Sequence


def evenly(sizes: Sequence[int], count: int) -> list[int]:
    """How many each group of these sizes gives, if all give the same number, or all they have; `count` in total.

    The smallest group comes first. Each gives what is left divided by the number of groups left, rounded down: so the
    largest give one more, where it does not divide. Source: Zheng et al. 2023, of strata.
    """
    gives = [0] * len(sizes)
    for place, group in enumerate(sorted(range(len(sizes)), key=lambda group: sizes[group])):
        gives[group] = min(sizes[group], (count - sum(gives)) // (len(sizes) - place))
    return gives
