"""How the error falls with the budget: a power law with a floor, fitted to each method's budgets."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from budgetrun.errors import UserError
from budgetrun.tables.bootstrap import all_and_random, by_seed, drawn
from budgetrun.tables.compare import FEWEST, LEVEL, flops
from budgetrun.tables.runs import Run, all_finite, finite
from budgetrun.tables.table import MISSING, Key, Sheet, Table, order, words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUDGETS = 5  # the fewest that a law of three numbers is fitted to
RESAMPLES = 500
GRID = 201  # exponents that are tried, 4.7% apart
EXPONENTS = (1e-3, 10.0)  # the range that is searched
Interval = tuple[float, float]


@dataclass
class Law:
    """error = floor + scale x B^-exponent, B the FLOPs of a cell, files included, over those of the method's largest.

    residuals: fitted minus measured, by budget, in the order of FLOPs. intervals: 95%, by name; none if a cell has
    fewer than 3 seeds. bounded: whether the exponent is at an end of the range searched, so that it means nothing.
    """

    floor: float
    scale: float
    exponent: float
    residuals: list[float]
    intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def bounded(self) -> bool:
        low, high = EXPONENTS
        return not low * 1.01 < self.exponent < high / 1.01


def laws(runs: list[Run], table: Table) -> dict[Key, Law]:
    """The law of every row of a table whose columns are budgets, with 5 different ones or more.

    Columns besides the budget are part of the key. A budget does not count if the metric of one of its runs is not
    finite, or its FLOPs are not known. Raises UserError if the metric is no accuracy or error, no column
    is the budget, or no row has five budgets.
    """
    if not table.metric.endswith(("accuracy", "error")):
        raise UserError(f"scaling: {table.metric} is no accuracy or error, so no error is fitted to it")
    if "budget" not in (*table.columns, *table.rows):
        raise UserError("scaling: the budget is neither a row nor a column; add it, as in --cols budget")
    names = names_of(table)
    cells: dict[Key, dict[float, list[Run]]] = {}
    for run in finite(runs, "budget"):
        if run.get(table.metric) is not None:
            cells.setdefault(words(run, names), {}).setdefault(float(run["budget"]), []).append(run)
    known = {key: [of for of in its.values() if counts(of, table.metric)] for key, its in cells.items()}
    enough = {key: its for key, its in known.items() if len(its) >= BUDGETS}
    if not enough:
        most = max(map(len, known.values()), default=0)
        raise UserError(
            f"scaling: error against budget is fitted to {BUDGETS} budgets or more; no method has more than {most}"
        )
    return {key: law(enough[key], table.metric) for key in sorted(enough, key=order)}


def counts(runs: list[Run], metric: str) -> bool:
    """Whether the metric of all runs of a budget is finite, and what they spent is known."""
    return all_finite(runs, metric) and statistics.fmean(map(flops, runs)) > 0  # nan is not > 0


def names_of(table: Table) -> list[str]:
    """The settings that tell the laws of a table apart."""
    return [name for name in (*table.rows, *table.columns) if name != "budget"]


def law(cells: list[list[Run]], metric: str) -> Law:
    """The law of one method: least squares over the cells' mean errors, each with the weight of its number of seeds.

    The intervals are a percentile bootstrap over seeds, which all cells draw together.
    """
    import numpy as np

    cells = sorted(cells, key=lambda runs: statistics.fmean(map(flops, runs)))
    spent = np.array([statistics.fmean(map(flops, runs)) for runs in cells])
    errors = [by_seed(runs, metric, 1) for runs in cells]
    if not metric.endswith("error"):
        errors = [{seed: 1 - accuracy for seed, accuracy in of.items()} for of in errors]
    every = sorted(set().union(*errors))
    x = spent / spent.max()

    once, draws = np.ones((1, len(every))), all_and_random(len(every))[1 : 1 + RESAMPLES]

    def means(draws: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean errors [r, cells] of the draws in which no cell is empty, and their weights."""
        sums, weights = drawn(errors, every, draws)
        whole = (weights > 0).all(1)
        return sums[whole] / weights[whole], weights[whole]

    (measured,), (weights,) = means(once)
    exponents = np.geomspace(*EXPONENTS, GRID)
    for _ in range(4):  # finer around the best
        ((floor, scale, exponent),) = fitted(x, measured[None], weights[None], exponents)
        best = int(np.searchsorted(exponents, exponent))
        exponents = np.geomspace(exponents[max(best - 1, 0)], exponents[min(best + 1, GRID - 1)], GRID)
    residuals = floor + scale * x**-exponent - measured
    found = Law(float(floor), float(scale), float(exponent), residuals.tolist())
    if min(map(len, errors)) >= FEWEST:
        laws_drawn = fitted(x, *means(draws), np.append(np.geomspace(*EXPONENTS, GRID), exponent))
        limits = np.quantile(laws_drawn, (LEVEL / 2, 1 - LEVEL / 2), axis=0)
        found.intervals = dict(zip(("floor", "scale", "exponent"), map(tuple, limits.T.tolist()), strict=True))
    return found


def fitted(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64], exponents: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Floor, scale and exponent [r, 3] of the least weighted squares of y [r, cells] at x [cells].

    Floor and scale are not negative; the exponent is one of those given. For each of these, the other two are a linear
    problem, whose sums over the cells are products of matrices.
    """
    import numpy as np

    powers = x[:, None] ** -exponents  # [cells, exponents]
    share = weights / weights.sum(1, keepdims=True)
    level, middle = (share * y).sum(1, keepdims=True), share @ powers
    square, product = share @ powers**2, (share * y) @ powers
    scale = (product - level * middle) / np.maximum(square - middle**2, 1e-300)
    floor = level - scale * middle
    scale, floor = np.where(floor < 0, product / square, scale), np.maximum(floor, 0)
    scale, floor = np.maximum(scale, 0), np.where(scale < 0, level, floor)
    loss = floor**2 + scale**2 * square + 2 * (floor * scale * middle - floor * level - scale * product)
    rows, best = np.arange(len(y)), loss.argmin(1)
    return np.stack([floor[rows, best], scale[rows, best], exponents[best]], 1)


# ---- as it is shown


def scaling(found: dict[Key, Law], table: Table) -> Sheet:
    """One line per method: its law in percent, and the residual that is farthest from 0."""
    lines = []
    for key, one in found.items():
        values = {"floor": 100 * one.floor, "scale": 100 * one.scale, "exponent": one.exponent}
        line = [w or MISSING for w in key]
        for name, value in values.items():
            factor = 1 if name == "exponent" else 100
            ends = one.intervals.get(name)
            within = "" if ends is None else f" ({ends[0] * factor:.3g} to {ends[1] * factor:.3g})"
            line.append(f"{value:.3g}{within}")
        if one.bounded:
            line[-1] = "not determined"
        lines.append([*line, f"{100 * max(one.residuals, key=abs):+.2f}", str(len(one.residuals))])
    head = [*names_of(table), "floor, %", "scale, %", "exponent", "largest residual", "budgets"]
    said = (
        "error = floor + scale x B^-exponent, fitted to mean errors, B the FLOPs (files included) over those of the "
        "method's largest budget; in brackets: 95% interval, bootstrap over seeds; largest residual: fitted minus "
        "measured, points; the law is ours to choose, and says nothing about budgets outside those run"
    )
    return Sheet(head, lines, said, len(names_of(table)))
