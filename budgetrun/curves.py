"""Learning curves: what runs measured on the way, from metrics.jsonl, as means over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgetrun.table import cell

Lines = list[dict[str, Any]]


@dataclass
class Point:
    """x, y: means of n >= 1 runs; std: the sample standard deviation of y (ddof=1), which one run does not have."""

    x: float
    y: float
    std: float | None
    n: int


def read_curves(runs: Iterable[dict[str, Any]]) -> tuple[dict[str, Lines], list[str]]:
    """The lines of each run's metrics.jsonl by the run's path, and a sentence on each that has none to read."""
    curves: dict[str, Lines] = {}
    remarks = []
    for run in runs:
        path = Path(run["path"]).with_name("metrics.jsonl")
        try:
            curves[run["path"]] = [due(json.loads(line), run) for line in path.read_bytes().splitlines()]
        except OSError as error:
            remarks.append(f"{path}: it cannot be read ({error.strerror})")
        except (ValueError, TypeError, KeyError):
            remarks.append(f"{path}: its lines are not those of a run")
    return curves, remarks


def due(line: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """A line with `due`, the number of its evaluation: two that were due at once made one line."""
    return {**line, "due": int(run["evaluations"] * line["progress"])}


def curve(curves: Iterable[Lines], x: str, y: str) -> list[Point]:
    """The mean over runs at each evaluation; one at which no run measured y is not there, and nothing is between."""
    found: dict[int, list[tuple[float, float]]] = {}
    for lines in curves:
        for line in lines:
            if isinstance(line.get(y), int | float) and isinstance(line.get(x), int | float):
                found.setdefault(line["due"], []).append((line[x], line[y]))
    return [mean_point(found[number]) for number in sorted(found)]


def mean_point(pairs: list[tuple[float, float]]) -> Point:
    xs, ys = zip(*pairs, strict=True)
    measured = cell(list(ys))
    return Point(statistics.fmean(xs), measured.mean, measured.std, measured.n)


def finite(points: Iterable[Point]) -> list[Point]:
    """Those that can be drawn."""
    return [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
