"""Learning curves: what runs measured during training, averaged over seeds."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from budgetrun.tables.runs import Run, curve
from budgetrun.tables.table import Cell, cell

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

    due: which of the evaluations it is. Two that were due at once are one evaluation, so `due` is not a count. A CSV of
    runs does not say it; there, a run with as many evaluations as it was to make had each of them by itself.
    """
    found: dict[str, Curve] = {}
    without = []
    for run in runs:
        why = ""
        try:
            evaluations = curve(run)
        except ValueError as error:
            evaluations, why = {}, f" ({error})"
        if due := due_of(evaluations, run.get("evaluations")):
            found[run["path"]] = {**evaluations, "due": due}
        else:
            without.append(f"{run['path']}: it has no learning curve{why}")
    return found, without


def due_of(evaluations: Curve, count: int | None) -> list[int]:
    """Which of the `count` evaluations each one is, from 1; [] if that is not known."""
    progress = evaluations.get("progress")
    if count is None or not evaluations:
        return []
    if progress is None:
        return list(range(1, count + 1)) if len(evaluations.get("updates", ())) == count else []
    return [] if None in progress else [int(count * share) for share in progress]


def mean_curve(curves: Iterable[Curve], x: str, y: str) -> dict[int, Point]:
    """The mean of y at the mean of x over the runs, by `due`, wherever at least one measured both; in order."""
    pairs: dict[int, list[tuple[float, float]]] = {}
    for run in curves:
        for due, *pair in zip(run["due"], run.get(x, ()), run.get(y, ()), strict=False):
            if None not in pair:
                pairs.setdefault(due, []).append((pair[0], pair[1]))
    return {due: mean_point(pairs[due]) for due in sorted(pairs)}


def mean_point(pairs: list[tuple[float, float]]) -> Point:
    """The point of n >= 1 pairs of x and y."""
    xs, ys = zip(*pairs, strict=True)
    measured = summary(ys)
    return Point(statistics.fmean(xs), measured.mean, measured.std, measured.n)


@functools.lru_cache(2**16)  # the same numbers are drawn over several axes
def summary(values: tuple[float, ...]) -> Cell:
    return cell(list(values))


def looking(run: Curve) -> list[float | None]:
    """For each evaluation that was due, the share of the updates since the one before that the method looked for.

    None where it is not known. Evaluations that were due at once have one share, that of all updates since the one
    before them. A run counts looks from its beginning: `looking_updates` is their share of all `updates` so far.
    """
    found: list[float | None] = []
    before, looked_before = 0, 0.0
    for due, updates, share in zip(run["due"], run.get("updates", ()), run.get("looking_updates", ()), strict=False):
        new: float | None = None
        if None not in (updates, share) and updates > before:
            looked = share * updates
            # counts, which are exact in a double; their quotients and products are not
            new = min(1.0, max(0.0, round(looked - looked_before) / (updates - before)))
            before, looked_before = updates, looked
        found += [new] * (due - len(found))
    return found


def mean_looking(runs: Iterable[Curve]) -> list[float | None]:
    """The mean of these shares over runs, for each evaluation."""
    every = itertools.zip_longest(*map(looking, runs))
    known = ([share for share in shares if share is not None] for shares in every)
    return [statistics.fmean(shares) if shares else None for shares in known]
