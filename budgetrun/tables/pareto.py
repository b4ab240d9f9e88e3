"""The Pareto front: the cells that no other cell beats at lower or equal cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from budgetrun.digits import short
from budgetrun.errors import UserError
from budgetrun.folder.reading import is_number
from budgetrun.tables.compare import flops
from budgetrun.tables.runs import Run
from budgetrun.tables.table import MISSING, Key, Sheet, Table, better, mean_of, order, unit_of, words

Cell = tuple[Key, Key]  # row key, column key
# what a run is charged: FLOPs with those of the files that it reads; seconds of training and choosing
COSTS: Mapping[str, Callable[[Run], float]] = {
    "FLOPs": flops,
    "seconds": lambda run: run["seconds"] if is_number(run["seconds"]) else math.nan,
}


@dataclass
class Front:
    """costs: of each cell, the mean over its runs. beaten: the cells that are dominated, and by which.

    A cell is dominated if another one of the same data and noise costs no more and is at least as good, and differs
    from it in one of both. Of several such cells, the best is named; of equally good ones, the cheapest.
    """

    cost: str
    costs: dict[Cell, float] = field(default_factory=dict)
    beaten: dict[Cell, Cell] = field(default_factory=dict)


def front(runs: list[Run], table: Table, cost: str) -> Front:
    """The front of a table's cells by its metric and a cost, see COSTS. A cell whose cost is not known is left out.

    Raises UserError for a metric of which neither more nor less is better.
    """
    if not (sign := better(table.metric)):
        raise UserError(f"pareto: neither more nor less of {table.metric} is better, so it has no front")
    spent: dict[Cell, list[float]] = {}
    for run in runs:
        if run.get(table.metric) is not None:
            cell = words(run, table.rows), words(run, table.columns)
            spent.setdefault(cell, []).append(COSTS[cost](run))
    costs = {cell: statistics.fmean(values) for cell, values in spent.items()}
    costs = {cell: value for cell, value in costs.items() if value > 0 and math.isfinite(table.cells[cell].mean)}
    result = Front(cost, costs)
    goodness = {cell: sign * table.cells[cell].mean for cell in costs}
    best: dict[Key, Cell] = {}  # of each task, of the cells so far, which cost no more
    for cell in sorted(costs, key=lambda cell: (costs[cell], -goodness[cell], order(cell[0]), order(cell[1]))):
        task = task_of(cell, table)
        if task not in best or goodness[cell] > goodness[best[task]]:
            best[task] = cell
        elif (goodness[cell], costs[cell]) != (goodness[best[task]], costs[best[task]]):
            result.beaten[cell] = best[task]
    return result


def task_of(cell: Cell, table: Table) -> Key:
    """What a cell was to learn, as settings: nobody chooses data or noise for being cheap."""
    values = zip((*table.rows, *table.columns), (*cell[0], *cell[1]), strict=True)
    return tuple(f"{name}={word}" for name, word in values if word and name.partition(".")[0] in ("dataset", "noise"))


# ---- as it is shown


def fronts(found: list[Front], table: Table) -> Sheet:
    """One line per cell that has a cost, cheapest first by the first one: what it costs, and what beats it."""
    names = [*table.rows, *table.columns]
    several = len(table.row_keys) * len(table.column_keys) > 1
    lines = []
    cells = dict.fromkeys(cell for one in found for cell in one.costs)
    for cell in sorted(cells, key=lambda cell: (found[0].costs.get(cell, math.inf), order(cell[0]), order(cell[1]))):
        line = [*(w or MISSING for w in (*cell[0], *cell[1])), mean_of(table.metric, table.cells[cell])]
        for one in found:
            line += [short(one.costs[cell], 3) if cell in one.costs else MISSING, standing(one, cell, names)]
        lines.append(line)
    head = [table.metric + unit_of(table.metric)[1]]
    for one in found:
        head += [one.cost, f"by {one.cost}"]
    said = (
        f"Pareto front of mean {table.metric} against mean cost, for each data set and noise; FLOPs: with those of the "
        "runs that made the files which a cell reads; seconds: without those; a dominated cell costs no "
        "less than the cell named and is no better; means alone decide, without a test"
    )
    return Sheet([*names, *head], lines, said if several else f"{said}; one cell has no rival", len(names))


def standing(one: Front, cell: Cell, names: list[str]) -> str:
    """Whether a cell is on the front, in words."""
    if cell not in one.costs:
        return MISSING
    if cell not in one.beaten:
        return "on the front"
    rival = one.beaten[cell]
    differing = [
        f"{name}={theirs or MISSING}"
        for name, mine, theirs in zip(names, (*cell[0], *cell[1]), (*rival[0], *rival[1]), strict=True)
        if mine != theirs
    ]
    return f"dominated by {', '.join(differing)}"
