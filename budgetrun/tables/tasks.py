"""Methods over several tasks: ranks, wins and losses, and how often each is near the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from budgetrun.errors import UserError
from budgetrun.tables.analysis import Analysis
from budgetrun.tables.bootstrap import RESAMPLES, by_seed
from budgetrun.tables.compare import FEWEST, LEVEL
from budgetrun.tables.runs import Run, finite
from budgetrun.tables.table import MISSING, Key, Sheet, Table, better, order, unit_of, words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WITHIN = (0.0, 0.5, 1.0, 2.0, 5.0)  # points from the best, for a performance profile
MOST = 8  # methods that a line names; a thousand lines would name a million
Task = tuple[int, Key]  # the place of an analysis, and a column key


@dataclass
class Standing:
    """A method over all tasks. rank: the mean, 1 is best. low, high: its 95% interval, None if a cell has fewer than 3
    seeds. wins, ties, losses: tasks in which it is shown to be better than the baseline, no difference is shown, and it
    is shown to be worse; None without a baseline. near: the share of tasks in which it is within so many points of the
    best. alike: the methods, itself included, whose mean ranks are nearer to its own than the critical difference.
    """

    rank: float
    near: dict[float, float]
    low: float | None = None
    high: float | None = None
    wins: tuple[int, int, int] | None = None
    alike: list[Key] = field(default_factory=list)


@dataclass
class Standings:
    """standings: by row key, best mean rank first. tasks: those that count. friedman: p of the hypothesis that all
    methods have equal ranks (Friedman 1937), None for two methods. critical: the difference of mean ranks from which on
    two methods differ at 5% (Nemenyi 1963, Demšar 2006). left_out: tasks and methods that do not count, in sentences.
    """

    standings: dict[Key, Standing]
    tasks: list[Task]
    friedman: float | None
    critical: float
    left_out: list[str]


def over_tasks(parts: Sequence[Analysis]) -> Standings:
    """How the rows of tables stand over their columns, each of which is a task.

    A task with half of the methods or fewer does not count, and then no method that lacks one of the others.
    Raises UserError for a metric of which neither more nor less is better, and for fewer than two tasks or methods.
    """
    metric = parts[0].tables[0].metric
    if not (sign := better(metric)):
        raise UserError(f"tasks: neither more nor less of {metric} is better, so methods have no rank")
    means: dict[Task, dict[Key, float]] = {}
    for place, part in enumerate(parts):
        for (row, column), cell in part.tables[0].cells.items():
            if math.isfinite(cell.mean):
                means.setdefault((place, column), {})[row] = sign * cell.mean
    methods = sorted({row for cells in means.values() for row in cells}, key=order)
    tasks = [task for task in means if 2 * len(means[task]) > len(methods)]
    kept = [method for method in methods if all(method in means[task] for task in tasks)]
    if len(tasks) < 2 or len(kept) < 2:
        raise UserError(
            f"tasks: ranks need two methods (rows) in two tasks (columns) at least; {len(kept)} of {len(methods)} rows "
            f"have a run in each of the {len(tasks)} columns with more than half of the rows"
        )
    few = len(means) - len(tasks)
    left_out = [f"{few} of {len(means)} columns (half of the rows or fewer)"] if few else []
    left_out += [f"{shown(method)} (it lacks a column)" for method in methods if method not in kept]

    import numpy as np
    from scipy import stats

    values = np.array([[means[task][method] for method in kept] for task in tasks])
    ranks = stats.rankdata(-values, axis=1)
    n, k = values.shape
    friedman = float(stats.friedmanchisquare(*values.T).pvalue) if k > 2 and np.ptp(ranks) > 0 else None
    critical = float(stats.studentized_range.isf(LEVEL, k, math.inf) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n)))
    found = {
        method: Standing(
            float(ranks[:, place].mean()),
            {near: float((values.max(1) - values[:, place] <= near / 100 + 1e-12).mean()) for near in WITHIN},
        )
        for place, method in enumerate(kept)
    }
    for method, one in found.items():
        one.alike = [other for other in kept if abs(found[other].rank - one.rank) < critical]
        one.wins = wins(method, parts, tasks, sign)
    if (ends := rank_intervals(parts, tasks, kept, sign)) is not None:
        for method, (low, high) in zip(kept, ends.T, strict=True):
            found[method].low, found[method].high = float(low), float(high)
    best = sorted(kept, key=lambda method: (found[method].rank, order(method)))
    return Standings({method: found[method] for method in best}, tasks, friedman, critical, left_out)


def wins(method: Key, parts: Sequence[Analysis], tasks: Sequence[Task], sign: int) -> tuple[int, int, int] | None:
    """In how many tasks a method is shown to be better than the baseline, neither, and worse; None without one."""
    counts = [0, 0, 0]
    for place, column in tasks:
        comparison = parts[place].comparison
        effect = comparison.effects.get((parts[place].tables[0].metric, method, column)) if comparison else None
        if effect is not None and effect.pairs >= FEWEST:
            counts[1 if not effect.supported else 0 if sign * effect.difference > 0 else 2] += 1
    return (counts[0], counts[1], counts[2]) if any(counts) else None


def rank_intervals(
    parts: Sequence[Analysis], tasks: Sequence[Task], methods: Sequence[Key], sign: int
) -> NDArray[np.float64] | None:
    """The 95% limits [2, methods] of mean ranks: a percentile bootstrap over seeds, drawn anew in each task.

    All methods of a task draw the same seeds. Only these vary, not the tasks: the ranks are those over these tasks.
    None if a method has fewer than 3 seeds in a task, counting the seeds that all have.
    """
    import numpy as np
    from scipy import stats

    random = np.random.default_rng(0)
    total = np.zeros((RESAMPLES, len(methods)))
    cells = [seeds_of(part, sign) for part in parts]
    for place, column in tasks:
        its = [cells[place][method, column] for method in methods]
        common = sorted(set.intersection(*map(set, its)))
        if len(common) < FEWEST:
            return None
        values = np.array([[cell[seed] for cell in its] for seed in common])
        drawn = random.integers(len(common), size=(RESAMPLES, len(common)))
        total += stats.rankdata(-values[drawn].mean(1), axis=1)
    limits: NDArray[np.float64] = np.quantile(total / len(tasks), (LEVEL / 2, 1 - LEVEL / 2), axis=0)
    return limits


def seeds_of(part: Analysis, sign: int) -> Mapping[tuple[Key, Key], Mapping[str, float]]:
    """The mean of the metric per cell and seed, larger is better."""
    table = part.tables[0]
    cells: dict[tuple[Key, Key], list[Run]] = {}
    for run in finite(part.runs, table.metric):
        cells.setdefault((words(run, table.rows), words(run, table.columns)), []).append(run)
    return {cell: by_seed(runs, table.metric, sign) for cell, runs in cells.items()}


# ---- as it is shown


def shown(method: Key) -> str:
    """A row in words."""
    return ", ".join(w or MISSING for w in method)


def ranking(found: Standings, table: Table) -> Sheet:
    """One line per method, best mean rank first. table: any of those ranked."""
    points = bool(unit_of(table.metric)[1])
    compared = any(one.wins is not None for one in found.standings.values())
    lines = []
    for method, one in found.standings.items():
        line = [*(w or MISSING for w in method), f"{one.rank:.2f}"]
        line.append(MISSING if one.low is None else f"{one.low:.2f} to {one.high:.2f}")
        if compared:
            line += [MISSING] * 3 if one.wins is None else list(map(str, one.wins))
        if points:
            line += [f"{one.near[near]:.0%}" for near in WITHIN]
        others = [shown(other) for other in one.alike if other != method]
        more = [f"{len(others) - MOST} more"] if len(others) > MOST else []
        lines.append([*line, "; ".join([*others[:MOST], *more]) or "none"])
    head = [*table.rows, "mean rank", "95% interval", *(["wins", "ties", "losses"] if compared else [])]
    head += ["best", *(f"within {near:g}" for near in WITHIN[1:])] if points else []
    said = [f"{len(found.standings)} methods in {len(found.tasks)} tasks by mean {table.metric}; rank 1 is best"]
    said.append("interval: bootstrap over the seeds of each task")
    if compared:
        said.append("wins, ties, losses: against the baseline, by p, Holm; a tie is no difference shown")
    if points:
        said.append(
            "best, within: performance profile, the share of tasks in which it is the best or so many points below"
        )
    friedman = "" if found.friedman is None else f"Friedman's test of equal ranks: p = {found.friedman:.2g}; "
    said.append(
        f"{friedman}not told apart: mean ranks that differ by less than {found.critical:.2f}, Nemenyi's critical "
        f"difference at {LEVEL:g}, which takes tasks for independent"
    )
    said += [f"left out: {', '.join(found.left_out)}"] if found.left_out else []
    return Sheet([*head, "not told apart from"], lines, "; ".join(said), len(table.rows))
