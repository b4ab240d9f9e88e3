"""What a method's own parameters are worth: how far its result moves with each of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from budgetrun.errors import UserError
from budgetrun.identity import PATHS
from budgetrun.tables.compare import agreed, points
from budgetrun.tables.runs import CIRCUMSTANCES, REPEATS, Run, varying
from budgetrun.tables.table import MISSING, Key, Sheet, Table, better, in_digits, order, unit_of, word, words

# the components whose values are parameters of a method; those of data, model and noise are the task
METHOD = ("sampler", "select", "aug", "loss", "optimizer", "schedule", "scores")
TUNED = ("lr", "weight_decay", "batch_size", "epochs")


@dataclass
class Sensitivity:
    """means: of the metric by the parameter's value, over the seeds that all values have. seeds: how many these are."""

    parameter: str
    means: dict[str, float]
    seeds: int

    @property
    def range(self) -> float:
        """The greatest mean minus the least; nan if one is not finite."""
        values = self.means.values()
        return max(values) - min(values) if all(map(math.isfinite, values)) else math.nan


def sensitivities(runs: list[Run], table: Table, settings: Sequence[str]) -> list[tuple[Key, Sensitivity]]:
    """One entry per parameter that varies while all else is equal, with the row and column that it varies in.

    Raises UserError if none varies.
    """
    apart = {*REPEATS, *CIRCUMSTANCES}
    measured = [run for run in runs if run.get(table.metric) is not None]
    every = varying(measured, [name for name in settings if name not in apart]) if measured else []
    names = [*table.rows, *table.columns]
    parameters = list(filter(is_parameter, every))
    found: list[tuple[Key, Sensitivity]] = []
    for parameter in parameters:
        shown = [name for name in names if name != parameter]
        others = [name for name in every if name not in (parameter, *shown)]
        groups: dict[tuple[Key, Key], dict[str, list[Run]]] = {}
        for run in measured:
            if parameter in run and parameter != word(run.get("tune.key", "")):  # what is tuned is no choice of ours
                its = groups.setdefault((words(run, shown), agreed(run, others)), {})
                its.setdefault(word(run[parameter]), []).append(run)
        for (key, _), values in sorted(groups.items(), key=lambda item: (order(item[0][0]), order(item[0][1]))):
            if (one := sensitivity(parameter, values, table.metric)) is not None:
                cell = dict(zip(shown, key, strict=True))
                found.append((tuple(cell.get(name, "") for name in names), one))
    if not found:
        raise UserError(
            "sensitivity: no parameter of a method varies with all else equal; sweep one, as in sampler.pool=2,3,5"
        )
    return found


def is_parameter(name: str) -> bool:
    """Whether a setting is a parameter of a method, as sampler.pool is; a class or a path is none."""
    group, _, value = name.partition(".")
    last = name.rpartition(".")[2]
    return name in TUNED or (group in METHOD and bool(value) and last not in ("_target_", "scored_by", *PATHS))


def sensitivity(parameter: str, values: dict[str, list[Run]], metric: str) -> Sensitivity | None:
    """The means over the seeds that all values have; None for one value, or without such a seed."""
    seeds = [{word(run.get("seed", "")) for run in runs} for runs in values.values()]
    common = set.intersection(*seeds)
    if len(values) < 2 or not common:
        return None
    means = {
        value: statistics.fmean(run[metric] for run in runs if word(run.get("seed", "")) in common)
        for value, runs in sorted(values.items(), key=lambda item: order((item[0],)))
    }
    return Sensitivity(parameter, means, len(common))


# ---- as it is shown


def sensitive(found: list[tuple[Key, Sensitivity]], table: Table) -> Sheet:
    """One line per parameter and cell: the mean at each of its values, and how far they are apart."""
    sign = better(table.metric)
    names = [*table.rows, *table.columns]
    lines = []
    for key, one in found:
        finite = [value for value, mean in one.means.items() if math.isfinite(mean)]
        best = max(finite, key=lambda value: sign * one.means[value]) if sign and finite else MISSING
        means = ", ".join(f"{value}: {in_digits(table.metric, mean)}" for value, mean in one.means.items())
        line = [
            *(w or MISSING for w in key),
            one.parameter,
            means,
            best,
            points(table.metric, one.range),
            str(one.seeds),
        ]
        lines.append(line)
    head = [*names, "parameter", f"mean {table.metric}{unit_of(table.metric)[1]} by value", "best", "range", "n"]
    said = (
        "sensitivity: mean over the n seeds that all values have, with every other setting equal; range: the greatest "
        "mean minus the least, in which chance has a part; the best value was chosen with the numbers shown"
    )
    return Sheet(head, lines, said, len(names) + 1)
