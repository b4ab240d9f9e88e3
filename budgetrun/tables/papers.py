"""The papers' own numbers beside ours, from papers.csv, which names the source of each.

Its columns: paper; where (table, figure, or file of the released code); method (in the paper's words); settings (in our
words, a|b for either; a number without settings has no counterpart here); metric (ours); value (as printed, so in per
cent where we show per cent; empty if the paper says that it was never reached); within (how precisely it could be read
off a figure, ±); spread and spread_is (the paper's ± and what it is); origin (printed or digitised); note.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from budgetrun.errors import UserError
from budgetrun.tables.compare import signed
from budgetrun.tables.runs import Run, same
from budgetrun.tables.table import MISSING, Place, Sheet, Table, mean_of, number, unit_of, words

FILE = Path(__file__).with_name("papers.csv")


@dataclass
class Number:
    """One number of a paper, see above. settings: the accepted values of each setting by name."""

    paper: str
    where: str
    method: str
    settings: dict[str, list[str]]
    metric: str
    value: float | None
    within: float | None
    spread: float | None
    spread_is: str
    origin: str
    note: str

    def fits(self, run: Run) -> bool:
        """Whether a run has the number's settings."""
        return bool(self.settings) and all(
            name in run and any(same(run[name], value) for value in values) for name, values in self.settings.items()
        )


def numbers() -> list[Number]:
    """All numbers in papers.csv."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return [
            Number(
                line["paper"],
                line["where"],
                line["method"],
                {name: values.split("|") for name, _, values in (s.partition("=") for s in line["settings"].split())},
                line["metric"],
                number(line["value"]),
                number(line["within"]),
                number(line["spread"]),
                line["spread_is"],
                line["origin"],
                line["note"],
            )
            for line in csv.DictReader(file)
        ]


def of_paper(paper: str) -> list[Number]:
    """A paper's numbers; raises UserError if there are none."""
    every = numbers()
    if not (found := [one for one in every if one.paper == paper]):
        papers = ", ".join(dict.fromkeys(one.paper for one in every))
        raise UserError(f"--paper {paper}: no numbers of this paper are known; the known papers are {papers}")
    return found


def fitting(runs: Sequence[Run], tables: Sequence[Table], known: Sequence[Number]) -> dict[Place, list[Number]]:
    """The numbers of each cell: those whose settings all runs of the cell have. Raises UserError if there are none."""
    found: dict[Place, list[Number]] = {}
    for table in tables:
        cells: dict[Place, list[Run]] = {}
        for run in runs:
            if run.get(table.metric) is not None:
                place = table.metric, words(run, table.rows), words(run, table.columns)
                cells.setdefault(place, []).append(run)
        of_metric = [one for one in known if one.metric == table.metric]
        for place, of_cell in cells.items():
            if fit := [one for one in of_metric if all(map(one.fits, of_cell))]:
                found[place] = fit
    if not found:
        metrics = ", ".join(dict.fromkeys(one.metric for one in known))
        raise UserError(
            f"--paper {known[0].paper}: no cell has the settings of one of its numbers, which are of {metrics}; "
            "budgetrun/tables/papers.csv lists the settings"
        )
    return found


def beside(tables: Sequence[Table], found: Mapping[Place, Sequence[Number]]) -> Sheet:
    """One line per cell and number of a paper: ours, the paper's, and the difference."""
    first, lines = tables[0], []
    for table, row, column in itertools.product(tables, first.row_keys, first.column_keys):
        factor, unit = unit_of(table.metric)
        for one in found.get((table.metric, row, column), ()):
            cell = table.cells[row, column]
            theirs, difference = "never reached", MISSING
            if one.value is not None:
                theirs, difference = f"{one.value:g}", signed(table.metric, cell.mean - one.value / factor, cell.std)
            theirs += "" if one.spread is None else f" ± {one.spread:g}"
            names = [*(w or MISSING for w in (*row, *column)), table.metric + unit]
            lines.append([*names, one.method, mean_of(table.metric, cell), str(cell.n), theirs, difference])
    head = [*first.rows, *first.columns, "metric", "in the paper"]
    shown = [one for fit in found.values() for one in fit]
    return Sheet([*head, "ours", "n", "paper", "difference"], lines, caption(shown), len(head))


def caption(shown: Sequence[Number]) -> str:
    """Where the numbers come from, and how far they can be trusted."""
    said = [f"{shown[0].paper}: {', '.join(dict.fromkeys(number.where for number in shown))}"]
    if within := sorted({number.within for number in shown if number.within is not None}):
        said.append(f"digitised from a figure, ± {' or '.join(f'{w:g}' for w in within)}")
    if spreads := dict.fromkeys(number.spread_is for number in shown if number.spread_is):
        said.append(f"the paper's ± is the {', '.join(spreads)}")
    return "; ".join([*said, *dict.fromkeys(number.note for number in shown if number.note)])
