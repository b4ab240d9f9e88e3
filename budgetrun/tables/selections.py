"""Whether seeds and methods agree on what to train on, from the numbers of visits that runs write at their end."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from budgetrun.errors import UserError
from budgetrun.folder.run import RunFolder, why_not
from budgetrun.tables.compare import Baseline
from budgetrun.tables.runs import CURVE, Run, finite
from budgetrun.tables.table import MISSING, Key, Sheet, Table, order, words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Visits = NDArray[np.float64]  # of each training example, as shares of all

Cell = tuple[Key, Key]
KEPT = 64  # runs of the baseline whose visits stay in memory: half a gigabyte with a million examples
SAME = ("dataset_fingerprint", "train_on")  # with these, runs number their training examples alike


@dataclass
class Agreement:
    """Overlaps of visits: the share of them that two runs have in common; 1 if both visit every example alike.

    between_seeds: the mean over all pairs of the cell's runs; None for one run. with_baseline: over the pairs with the
    baseline's runs of the same seed; None without any. corrupted, classes: the mean share of corrupted examples in the
    visits, and entropy of the classes visited over its maximum; None if unknown. runs: how many have such a file.
    """

    runs: int
    between_seeds: float | None
    with_baseline: float | None
    corrupted: float | None
    classes: float | None


def agreements(runs: Sequence[Run], table: Table, baseline: Baseline | None) -> dict[Cell, Agreement]:
    """The agreement of every cell that has runs with visits. Raises UserError if none has, with a reason."""
    cells: dict[Cell, dict[str, Run]] = {}
    for run in runs:
        cells.setdefault((words(run, table.rows), words(run, table.columns)), {})[run["path"]] = run
    partners = {run["path"]: run for run in baseline.runs} if baseline else {}
    why: list[str] = []

    def read(run: Run) -> Visits | None:
        try:
            return visits_of(run)
        except (OSError, ValueError) as error:
            why.append(f"{run['path']}: {why_not(error)}")
            return None

    again = functools.lru_cache(KEPT)(lambda path: read(partners[path]))
    found = {}
    for cell in sorted(cells, key=lambda cell: order(cell[1])):  # cells of one column share the baseline's runs
        here = {path: its for path, run in cells[cell].items() if (its := read(run)) is not None}
        if here:
            found[cell] = agreement([cells[cell][path] for path in here], here, again, baseline)
    if not found:
        raise UserError(f"selections: no run has selected.npz beside its result, which names the visits; {why[0]}")
    return found


def selected_path(run: Run) -> Path:
    """The file of a run's visits, beside its result."""
    folder = Path(str(run["path"])).parent
    return RunFolder(str(folder.parent), folder.name).selected_path


def visits_of(run: Run) -> Visits:
    """The visits of a run, as shares; raises OSError or ValueError if they are not there."""
    from budgetrun.folder import selected  # NumPy, which a table does not need

    if CURVE[0] in run:
        raise ValueError("a run in a CSV has no folder here")
    found = selected.visits(selected_path(run))
    return found / found.sum()


def agreement(
    runs: list[Run], visits: Mapping[str, Visits], other: Callable[[str], Visits | None], baseline: Baseline | None
) -> Agreement:
    """The agreement of a cell's runs, with each other and with the baseline's, whose visits `other` gives by path."""
    pairs = itertools.combinations(runs, 2)
    partners = [] if baseline is None else [(run, it) for run in runs for it in baseline.partners(run) if it is not run]
    among = [(visits[a["path"]], visits[b["path"]]) for a, b in pairs if words(a, SAME) == words(b, SAME)]
    beside = ((visits[run["path"]], other(it["path"])) for run, it in partners if words(run, SAME) == words(it, SAME))
    shares = [[run[name] for run in finite(runs, name)] for name in ("selected_corrupted", "selected_class_entropy")]
    overlaps = [
        [overlap(a, b) for a, b in its if b is not None and len(a) == len(b)]  # a damaged file may have another length
        for its in (among, beside)
    ]
    values = [statistics.fmean(found) if found else None for found in (*overlaps, *shares)]
    return Agreement(len(runs), *values)


def overlap(a: Visits, b: Visits) -> float:
    """`sum_i min(a_i, b_i)`: of two sets of k examples each, visited evenly, the number that both have over k."""
    import numpy as np

    return float(np.minimum(a, b).sum())


# ---- as it is shown


def agreeing(found: Mapping[Cell, Agreement], table: Table, typed: str | None) -> Sheet:
    """One line per cell."""
    names = [*table.rows, *table.columns]
    lines = []
    for cell in sorted(found, key=lambda cell: (order(cell[0]), order(cell[1]))):
        one = found[cell]
        shares = [one.between_seeds, *([] if typed is None else [one.with_baseline]), one.classes]
        line = [*(w or MISSING for w in (*cell[0], *cell[1])), str(one.runs)]
        line += [MISSING if share is None else f"{share:.3f}" for share in shares]
        lines.append([*line, MISSING if one.corrupted is None else f"{100 * one.corrupted:.2f}"])
    head = ["n", "between seeds", *([] if typed is None else [f"with {typed}"]), "class entropy", "corrupted, %"]
    said = (
        "selections: overlap of visits, the share that two runs have in common, sum of min(a, b) over the examples, a "
        "and b their shares of all visits: the mean over pairs of seeds, and over pairs of the same seed; 1: both "
        "visit all examples alike; class entropy: of the classes visited, over its maximum; corrupted: their share of "
        "the visits"
    )
    return Sheet([*names, *head], lines, said, len(names))
