"""What the runs at hand could have shown, and how many seeds would show more."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence

from budgetrun.tables.compare import FEWEST, LEVEL, Comparison, Effect, points
from budgetrun.tables.table import MISSING, Sheet, Table, in_digits, unit_of

CHANCE = 0.8  # with which a difference is to be found
DIFFERENCES = (0.2, 0.5, 1.0)  # points, for which seeds are counted
MOST = 10_000  # pairs; more are not worth counting


def power(effect: float, pairs: int, level: float) -> float:
    """The chance that a two-sided paired t-test at `level` finds a difference of `effect` standard deviations.

    The upper tail of the noncentral F distribution with 1 and n - 1 degrees of freedom, that of t squared.
    """
    from scipy import special  # a hundredth of the time of scipy.stats

    critical = special.stdtrit(pairs - 1, 1 - level / 2)
    return 1 - float(special.ncfdtr(1, pairs - 1, pairs * effect * effect, critical * critical))


@functools.lru_cache(256)
def detectable(pairs: int, level: float) -> float:
    """The difference, in standard deviations of the pairs' differences, that is found with a chance of 80%."""
    from scipy import optimize, special

    # half of what a normal distribution needs; the t of few pairs needs more
    low = (special.ndtri(1 - level / 2) + special.ndtri(CHANCE)) / math.sqrt(pairs) / 2
    high = 2 * low
    while power(high, pairs, level) < CHANCE:
        high *= 2
    return float(optimize.brentq(lambda effect: power(effect, pairs, level) - CHANCE, low, high))


@functools.lru_cache(2**16)
def pairs_needed(effect: float, level: float) -> int | None:
    """The fewest pairs that find a difference, in standard deviations, with a chance of 80%; None above 10,000."""
    few, enough = 1, 2
    while power(effect, enough, level) < CHANCE:
        few, enough = enough, 2 * enough
        if few > MOST:
            return None
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if power(effect, middle, level) >= CHANCE else (middle, enough)
    return enough if enough <= MOST else None


def least_difference(effect: Effect, family: int) -> float | None:
    """The difference that these pairs would have shown with a chance of 80%, given how much theirs vary.

    The level is that of the strictest step of Holm's correction, 5% over the number of comparisons. None for fewer than
    3 pairs, of which nothing is said.
    """
    spread = standard_deviation(effect)
    return None if spread is None or effect.pairs < FEWEST else spread * detectable(effect.pairs, LEVEL / family)


def standard_deviation(effect: Effect) -> float | None:
    """The sample standard deviation of the pairs' differences; None if it says nothing."""
    if effect.low is None:  # one pair, or all differences are equal, or one is not finite
        return None
    return statistics.stdev(effect.differences)


# ---- as it is shown


def powers(comparison: Comparison, tables: Sequence[Table]) -> Sheet:
    """One line per comparison: what these seeds could show, how many show more, and whether a margin is kept."""
    first = tables[0]
    several = len(tables) > 1
    names = [*first.rows, *first.columns, *(["metric"] if several else [])]
    shares = any(unit_of(table.metric)[1] for table in tables)
    margins = dict.fromkeys(
        points(place[0], e.margin) for place, e in comparison.effects.items() if e.margin is not None
    )
    lines = []
    for table in tables:
        factor, unit = unit_of(table.metric)
        for row in table.row_keys:
            for column in table.column_keys:
                effect = comparison.effects.get((table.metric, row, column))
                if effect is None:
                    continue
                line = [*(w or MISSING for w in (*row, *column)), *([table.metric] if several else [])]
                spread, least = standard_deviation(effect), least_difference(effect, comparison.family)
                line += [MISSING if x is None else in_digits(table.metric, x, x) for x in (spread, least)]
                line.append(str(effect.pairs))
                for goal in DIFFERENCES if shares else ():
                    line.append(seeds(spread, goal / factor, comparison.family) if unit else MISSING)
                if margins:
                    line.append(MISSING if effect.p_equal is None else f"{effect.p_equal:.2g}")
                lines.append(line)
    goals = [f"n for {goal:g}" for goal in DIFFERENCES] if shares else []
    head = ["sd of differences", "could show", "n", *goals, *(["p, equal"] if margins else [])]
    said = [
        f"could show: the difference that n pairs with this standard deviation find with a chance of {CHANCE:.0%}, by "
        f"a paired t-test at {LEVEL:g} / {comparison.family}, the strictest step of Holm's correction for this many "
        "comparisons",
        *(["n for 0.2, 0.5 and 1: the pairs that find so many points"] if shares else []),
        *(
            [f"p, equal: two one-sided t-tests against a margin of {' / '.join(margins)}, corrected by Holm"]
            if margins
            else []
        ),
        "a standard deviation of few pairs is itself uncertain",
    ]
    return Sheet([*names, *head], lines, "; ".join(said), len(names))


def seeds(spread: float | None, difference: float, family: int) -> str:
    """How many pairs show a difference, in words."""
    if spread is None:
        return MISSING
    needed = pairs_needed(difference / spread, LEVEL / family)
    return f"> {MOST}" if needed is None else str(needed)
