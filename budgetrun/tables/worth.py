"""What a method is worth: the budget with which the baseline reaches the same."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from budgetrun.errors import UserError
from budgetrun.tables.bootstrap import RESAMPLES, all_and_random, by_seed, drawn
from budgetrun.tables.compare import FEWEST, LEVEL, Baseline, agreed, flops
from budgetrun.tables.runs import Run, all_finite, conditions, finite
from budgetrun.tables.table import MISSING, Key, Place, Sheet, Table, better, order, word, words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPENT = ("budget", "budget_unit")  # the settings that a reference's cells differ in, besides the seed


@dataclass
class Worth:
    """A cell in budgets of the baseline.

    budget: what the baseline needs for the cell's mean; 0 if the baseline is better even at its least budget, infinite
    if it is worse even at its greatest. low, high: the 95% interval of that, None if a cell has fewer than 3 seeds.
    cost: the budget at which the baseline spends as many FLOPs as the cell, those of files included; nan if unknown.
    ends: the baseline's least and greatest budget. unit: of these budgets.
    """

    budget: float
    cost: float
    ends: tuple[float, float]
    unit: str
    low: float | None = None
    high: float | None = None

    @property
    def gain(self) -> float:
        """Worth per cost: above 1, the method saves compute."""
        return self.budget / self.cost


@dataclass
class Reference:
    """The baseline's cells, one per budget, sorted by FLOPs. values: the metric by seed, larger is better. unit: of the
    budgets."""

    unit: str
    budgets: list[float]
    flops: list[float]
    values: list[dict[str, float]]
    curves: dict[tuple[str, ...], NDArray[np.float64]] = field(default_factory=dict)  # what many cells ask for

    def curve(self, seeds: tuple[str, ...], draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """The monotone means [r, cells] for the numbers of times [r, seeds] that seeds are drawn.

        nan where a cell has no run of a seed drawn. The same seeds must come with the same draws.
        """
        import numpy as np

        if seeds not in self.curves:
            sums, weights = drawn(self.values, seeds, draws)
            whole = (weights > 0).all(1)
            self.curves[seeds] = np.full(sums.shape, np.nan)
            self.curves[seeds][whole] = isotonic(sums[whole], weights[whole])
        return self.curves[seeds]


def worth(runs: list[Run], tables: Sequence[Table], settings: Sequence[str], typed: str) -> dict[Place, Worth]:
    """The worth of every cell of the tables that is not the baseline's; see docs/tables.md for the definition.

    typed: the baseline's settings; its budget, if it names one, is left open, for the baseline's runs at all budgets
    are the reference. Cells that average over budgets, or have a run whose metric is not finite, have no worth. Raises
    UserError if no cell has a reference of two budgets.
    """
    if not (method := at_any_budget(typed)):
        raise UserError(f"budget-equivalent: --baseline {typed} names a budget alone, and no method to compare with")
    baseline = Baseline(runs, settings, method)
    shared = [name for name in baseline.shared if name not in (*SPENT, "seed")]
    found: dict[Place, Worth] = {}
    directed = [(table, sign) for table in tables if (sign := better(table.metric))]
    if not directed:
        names = ", ".join(table.metric for table in tables)
        raise UserError(f"budget-equivalent: neither more nor less of {names} is better, so no budget is worth another")
    for table, sign in directed:
        measured = [run for run in runs if run.get(table.metric) is not None]
        groups: dict[Key, list[Run]] = {}
        for run in filter(baseline.holds, measured):
            groups.setdefault(agreed(run, shared), []).append(run)
        references = {key: reference(group, table.metric, sign) for key, group in groups.items()}
        cells: dict[tuple[Key, Key], list[Run]] = {}
        for run in measured:
            if not baseline.holds(run):
                cells.setdefault((words(run, table.rows), words(run, table.columns)), []).append(run)
        for cell, its in cells.items():
            keys = {agreed(run, shared) for run in its}
            against = references.get(min(keys)) if len(keys) == 1 else None
            one_budget = len({words(run, SPENT) for run in its}) == 1
            if against is not None and one_budget and all_finite(its, table.metric):
                found[table.metric, *cell] = cell_worth(its, table.metric, sign, against)
    if not found:
        raise UserError(
            f"budget-equivalent: no run can be compared with {baseline.typed} at two budgets or more, with all other "
            "settings equal; cells that average over budgets, or have a run that is not finite, do not count"
        )
    return found


def at_any_budget(typed: str) -> str:
    """The settings of a baseline without its budget."""
    return ",".join(f"{name}={value}" for name, value in conditions(typed, "--baseline") if name not in SPENT)


def reference(runs: list[Run], metric: str, sign: int) -> Reference | None:
    """The baseline's cells, of the unit of the budget that most of its runs have; None if they are fewer than two.

    A budget at which the metric of some run is not finite does not count: leaving that run out would flatter.
    """
    runs = finite(runs, "budget")
    units = [word(run.get("budget_unit", "updates")) for run in runs]
    unit = max(sorted(set(units), reverse=True), key=units.count, default="")
    cells: dict[float, list[Run]] = {}
    for run, its in zip(runs, units, strict=True):
        if its == unit:
            cells.setdefault(float(run["budget"]), []).append(run)
    cells = {budget: its for budget, its in cells.items() if budget > 0 and all_finite(its, metric)}
    spent = {budget: statistics.fmean(map(flops, its)) for budget, its in cells.items()}
    if len(cells) < 2 or not all(cost > 0 for cost in spent.values()):  # nan is not > 0
        return None
    budgets = sorted(cells, key=lambda budget: (spent[budget], budget))
    return Reference(unit, budgets, [spent[b] for b in budgets], [by_seed(cells[b], metric, sign) for b in budgets])


def cell_worth(runs: list[Run], metric: str, sign: int, against: Reference) -> Worth:
    """The worth of a cell. The interval is a percentile bootstrap over seeds, which all cells draw together."""
    import numpy as np

    mine = by_seed(runs, metric, sign)
    cells = [mine, *against.values]
    seeds = tuple(sorted(set().union(*cells)))
    draws = all_and_random(len(seeds))
    log_flops, log_budgets = np.log(against.flops), np.log(against.budgets)
    rising, ((sums,), (weights,)) = against.curve(seeds, draws), (of.T for of in drawn([mine], seeds, draws))
    whole = (weights > 0) & np.isfinite(rising[:, 0])  # a draw in which a cell has no run says nothing
    goals = sums[whole] / weights[whole]
    point, *others = budget_at(reach(rising[whole], log_flops, goals), log_flops, log_budgets)
    spent = statistics.fmean(map(flops, runs))
    cost = budget_at(np.log([spent]), log_flops, log_budgets)[0] if spent > 0 else math.nan  # 0: not counted
    result = Worth(float(point), float(cost), (against.budgets[0], against.budgets[-1]), against.unit)
    if min(map(len, cells)) >= FEWEST:
        # an observed value, for a mean of infinite ones is nan
        limits = np.quantile(others, (LEVEL / 2, 1 - LEVEL / 2), method="inverted_cdf")
        result.low, result.high = map(float, limits)
    return result


def isotonic(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nondecreasing sequences nearest to the means `sums / weights`, [r, cells], by weighted least squares.

    Source: the min-max formula of Barlow et al. 1972: max over j <= i of min over k >= i of the mean of cells j to k.
    """
    import numpy as np

    cells = sums.shape[1]
    start = np.zeros((len(sums), 1))
    total, weight = (np.concatenate([start, of.cumsum(1)], 1) for of in (sums, weights))
    result = np.full(sums.shape, -np.inf)
    for j in range(cells):
        least = np.full(len(sums), np.inf)  # over k >= i, for i from the last down to j
        for i in reversed(range(j, cells)):
            least = np.minimum(least, (total[:, i + 1] - total[:, j]) / (weight[:, i + 1] - weight[:, j]))
            result[:, i] = np.maximum(result[:, i], least)
    return result


def reach(rising: NDArray[np.float64], x: NDArray[np.float64], goal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least x [r] at which the line through nondecreasing values [r, cells] at x [cells] reaches a goal [r].

    -inf if the goal lies below all values, inf if above.
    """
    import numpy as np

    slack = 1e-12  # for rounding of equal means
    reached = rising >= goal[:, None] - slack
    at = reached.argmax(1)
    rows = np.arange(len(goal))
    before = np.maximum(at - 1, 0)
    low, high = rising[rows, before], rising[rows, at]
    share = np.divide(goal - low, high - low, out=np.ones(len(goal)), where=high > low).clip(0, 1)
    found = x[before] + share * (x[at] - x[before])
    found = np.where((at == 0) & (rising[:, 0] > goal + slack), -np.inf, found)
    return np.where(reached.any(1), found, np.inf)


def budget_at(
    log_spent: NDArray[np.float64], log_flops: NDArray[np.float64], log_budgets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The budgets [r] at which the reference spends so many FLOPs: between its cells on a line in logarithms, beyond
    them in proportion."""
    import numpy as np

    inside = log_spent.clip(log_flops[0], log_flops[-1])
    return np.exp(np.interp(inside, log_flops, log_budgets) + log_spent - inside)


# ---- as it is shown


def equivalents(found: dict[Place, Worth], tables: Sequence[Table], typed: str) -> Sheet:
    """One line per cell: what it costs and what it is worth, in budgets of the baseline."""
    first = tables[0]
    several = len(tables) > 1
    metrics = [table.metric for table in tables if any(place[0] == table.metric for place in found)]
    units = " or ".join(sorted({one.unit for one in found.values()}))
    names = [*first.rows, *first.columns, *(["metric"] if several else [])]
    lines = []
    for metric, row, column in sorted(found, key=lambda place: (order(place[1]), order(place[2]), place[0])):
        one = found[metric, row, column]
        shown = [*(w or MISSING for w in (*row, *column)), *([metric] if several else [])]
        within = 0 < one.budget < math.inf
        gain = f"x{one.gain:.2f}" if within and one.cost == one.cost else MISSING
        lines.append([*shown, in_words(one.cost, one), in_words(one.budget, one), interval(one), gain])
    head = ["costs", "is worth", "95% interval", "worth / cost"]
    said = (
        f"budget-equivalent: the budget ({units}) of {at_any_budget(typed)} that costs as many FLOPs (files included), "
        f"and the one that reaches the same mean {', '.join(metrics)}, by monotone interpolation between its "
        f"budgets in the logarithm of FLOPs, never beyond them; interval: bootstrap over seeds, {RESAMPLES} draws, "
        "which is too narrow with few seeds"
    )
    return Sheet([*names, *head], lines, said, left=len(names))


def in_words(budget: float, of: Worth) -> str:
    """A budget of the baseline; `< 0.1` or `> 1` for one below the least or above the greatest that it was run with."""
    if math.isnan(budget):
        return "unknown"
    return f"< {of.ends[0]:.3g}" if budget == 0 else f"> {of.ends[1]:.3g}" if budget == math.inf else f"{budget:.3g}"


def interval(one: Worth) -> str:
    """The 95% interval in words."""
    if one.low is None or one.high is None:
        return MISSING
    low, high = in_words(one.low, one), in_words(one.high, one)
    return low if low == high else f"{low} to {high}"
