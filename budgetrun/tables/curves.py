"""Learning curves: what runs measured during training, averaged over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from budgetrun.tables.runs import Run, curve
from budgetrun.tables.table import cell

Curve = dict[str, list[Any]]  # one list per number, in order


@dataclass
class Point:
    """x, y: means of n >= 1 runs. std: the sample standard deviation of y (ddof=1), None for one run."""

    x: float
    y: float
    std: float | None
    n: int


def curves_of(runs: Iterable[Run]) -> tuple[dict[str, Curve], list[str]]:
    """The evaluations of runs by their paths, each with the number `due`, and a sentence for each run without any.

    due: which of the evaluations it is. Two that were due at once are one evaluation, so `due` is not a count.
    """
    found: dict[str, Curve] = {}
    without = []
    for run in runs:
        why = ""
        try:
            evaluations = curve(run)
        except ValueError as error:
            evaluations, why = {}, f" ({error})"
        progress = evaluations.get("progress", [None])
        if None in progress or run.get("evaluations") is None:
            without.append(f"{run['path']}: it has no learning curve{why}")
        else:
            due = [int(run["evaluations"] * share) for share in progress]
            found[run["path"]] = {**evaluations, "due": due}
    return found, without


def mean_curve(curves: Iterable[Curve], x: str, y: str) -> list[Point]:
    """The mean of y at the mean of x over the runs, at every evaluation at which at least one measured both."""
    pairs: dict[int, list[tuple[float, float]]] = {}
    for run in curves:
        for due, *pair in zip(run["due"], run.get(x, ()), run.get(y, ()), strict=False):
            if None not in pair:
                pairs.setdefault(due, []).append((pair[0], pair[1]))
    return [mean_point(pairs[due]) for due in sorted(pairs)]


def mean_point(pairs: list[tuple[float, float]]) -> Point:
    """The point of n >= 1 pairs of x and y."""
    xs, ys = zip(*pairs, strict=True)
    measured = cell(list(ys))
    return Point(statistics.fmean(xs), measured.mean, measured.std, measured.n)
