"""How many of each group to choose."""

from __future__ import annotations

import math
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


def in_proportion(weights: Sequence[float], sizes: Sequence[int], count: int) -> list[int]:
    """How many each group of these sizes gives, in proportion to the weights, but at most all that it has.

    What full groups cannot give, the others give in proportion; those of weight 0 only what no other can give, evenly.
    Parts of an example go to the groups with the largest remainders, so that `count` are given in total. Source:
    Vysogorets et al. 2025; rounding is ours, where their code gives fewer in total. (It also passes over the group
    after a full one.)
    """
    exact = [0.0] * len(sizes)
    open_groups = [group for group, weight in enumerate(weights) if weight > 0]
    left = float(min(count, sum(sizes[group] for group in open_groups)))
    while open_groups:
        total = sum(weights[group] for group in open_groups)
        full = [group for group in open_groups if left * weights[group] / total >= sizes[group]]
        for group in full or open_groups:
            exact[group] = float(sizes[group]) if full else left * weights[group] / total
        if not full:
            break
        left -= sum(sizes[group] for group in full)
        open_groups = [group for group in open_groups if group not in full]
    gives = [math.floor(value + 1e-9) for value in exact]
    remainders = sorted(range(len(sizes)), key=lambda group: gives[group] - exact[group])
    for group in remainders[: round(sum(exact)) - sum(gives)]:
        gives[group] += 1
    rest = evenly([size - give for size, give in zip(sizes, gives, strict=True)], count - sum(gives))
    return [give + more for give, more in zip(gives, rest, strict=True)]
