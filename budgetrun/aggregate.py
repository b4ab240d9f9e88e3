"""The command that reads any number of runs, from folders or CSVs, and makes tables of them.

Plain Python except for CSVs and the statistics of a comparison: a table of a thousand runs takes half a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from budgetrun.errors import UserError
from budgetrun.tables.analysis import Analysis, add_arguments, analyse, named, question, separated
from budgetrun.tables.answers import ANSWERS, sentences
from budgetrun.tables.derived import DERIVED
from budgetrun.tables.plot import draw, format_of
from budgetrun.tables.runs import CURVE, cell_of, curve, is_harmless, need, of_any_seed, read, select
from budgetrun.tables.table import LISTS, STYLES, unit_of
from budgetrun.terminal import any_encoding, shown, tell

CONCLUSIONS, ALL = "conclusions", "all"
ASKED = (CONCLUSIONS, *ANSWERS, ALL)
# the columns of a CSV that compare a cell with the baseline, see Effect
EFFECT = ("difference", "low", "high", "pairs", "possible", "p", "p_holm", "p_signs", "p_equal", "cheapest", "dearest")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    any_encoding()
    options = parser().parse_args(arguments)
    try:
        tell(tables_of(options))
    except UserError as error:
        print(f"aggregate: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("aggregate", description="Tables of finished runs: mean ± sd (ddof=1) and n.")
    add = parser.add_argument
    add("folders", nargs="*", default=["outputs"], help="folders with runs, or CSVs of --format runs; default: outputs")
    add("--rows", default="sampler,aug", help="settings, as named on the command line of a run")
    add("--cols", default="budget", help="the same for the columns; the first is the axis of a plot")
    add_arguments(parser, baseline="")
    add(
        "--format",
        default="md",
        choices=["md", "csv", "latex", "runs"],
        help="csv: one line per cell; runs: a CSV with one line per run and all its values, which can be read again",
    )
    add("--ask", default="", help=f"answers besides the tables, several: a,b; or all: {', '.join(ASKED)}")
    add("--plot", type=Path, help="also draw the cells of the first metric: .svg, .png or .pdf")
    return parser


def analysed(options: argparse.Namespace) -> Analysis:
    """The runs that a command line names, analysed; remarks on those that were skipped go to stderr."""
    rows, columns, asked = named(options, "rows"), named(options, "cols"), question(options, options.baseline)
    runs = read(options.folders)
    say(f"skipped {reason}" for reason in runs.skipped)
    if not runs.runs:
        raise UserError(f"there is no finished run in {', '.join(options.folders)}")
    need(runs.runs, [*rows, *columns, *asked.measured()], DERIVED)
    chosen = select(runs.runs, options.where)
    if options.format != "runs":
        chosen = list(map(of_any_seed, chosen))
    (answer,) = analyse([chosen], runs.settings, rows, columns, asked)
    for problem in answer.problems.values():
        raise problem
    return answer


def tables_of(options: argparse.Namespace) -> str:
    """The text that a command line prints; remarks go to stderr."""
    if options.plot is not None:
        format_of(options.plot)
    wanted = chosen_answers(options.ask, options.format)
    answer = analysed(options)
    answers = list(in_full(wanted, answer, options.format))
    say(answer.remarks)
    if options.plot is not None:
        draw(answer.tables[0], options.plot)
    if options.format == "runs":
        return every_run(answer.measured, answer.settings)
    if options.format == "csv":
        return comma_separated(*every_cell(answer))
    style = STYLES[options.format]
    sheets = [answer.table(), answer.differences(), answer.beside()]
    return "\n\n".join([*(style(sheet) for sheet in sheets if sheet is not None), *answers])


def chosen_answers(typed: str, format: str) -> list[str]:
    """The names in --ask; raises UserError for an unknown one, and where they have no place."""
    names = separated(typed)
    if names and format not in STYLES:
        raise UserError(
            f"--ask has no place in --format {format}, whose lines are {'cells' if format == 'csv' else 'runs'}"
        )
    for name in names:
        if name not in ASKED:
            raise UserError(f"--ask {name} is none of {', '.join(ASKED)}")
    return names


def in_full(names: Sequence[str], answer: Analysis, format: str) -> Iterator[str]:
    """The text of each answer. With `all`, those that the runs do not have are only named; else UserError says why."""
    for name in (CONCLUSIONS, *ANSWERS) if ALL in names else names:
        try:
            if name == CONCLUSIONS:
                if not (said := sentences(answer)):
                    raise UserError("conclusions: there is nothing to compare; add runs, or a baseline")
                yield LISTS[format](said)
            else:
                yield STYLES[format](ANSWERS[name](answer))
        except UserError as error:
            if ALL not in names:
                raise
            say([f"not answered: {error}"])


def say(remarks: Iterable[str]) -> None:
    for remark in remarks:
        print(shown(remark), file=sys.stderr)


def every_cell(answer: Analysis) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns, and one line per cell, missing ones included, and per metric.

    Numbers are at full precision, accuracies in [0, 1].
    """
    tables, comparison, published = answer.tables, answer.comparison, answer.published
    first, lines = tables[0], []
    for row, column, table in itertools.product(first.row_keys, first.column_keys, tables):
        cell, place = table.cells.get((row, column)), (table.metric, row, column)
        shown_words = (w if is_harmless(w) else json.dumps(w) for w in row + column)
        line: dict[str, Any] = dict(zip(table.rows + table.columns, shown_words, strict=True))
        line |= {"metric": table.metric} if len(tables) > 1 else {}
        line |= {"mean": cell.mean, "std": cell.std, "n": cell.n} if cell else {"n": 0}
        if comparison is not None and (effect := comparison.effects.get(place)):
            line |= {name: getattr(effect, name) for name in EFFECT}
        for one in published.get(place, ())[:1]:
            line["paper"] = None if one.value is None else one.value / unit_of(table.metric)[0]
        lines.append(line)
    names = [*first.rows, *first.columns, *(["metric"] if len(tables) > 1 else []), "mean", "std", "n"]
    names += [*(EFFECT if comparison is not None else ()), *(["paper"] if published else [])]
    return names, lines


def every_run(runs: Sequence[dict[str, Any]], settings: Sequence[str]) -> str:
    """One line per run with every setting, number and evaluation: for your own analysis, and to be read again.

    The settings are the columns before run_id.
    """
    whole = ({**run, **{f"curve.{name}": values for name, values in known_curve(run).items()}} for run in runs)
    measured = dict.fromkeys(name for run in runs for name in run if name not in settings)
    names = dict.fromkeys([*settings, "run_id", *(name for name in measured if name not in CURVE), *CURVE])
    return comma_separated(names, ({name: cell_of(value) for name, value in run.items()} for run in whole))


def known_curve(run: dict[str, Any]) -> dict[str, list[Any]]:
    """The evaluations of a run; none, and a remark, if its file of evaluations cannot be used."""
    try:
        return curve(run)
    except ValueError as error:
        say([f"note: {run['path']} is included without its evaluations ({error})"])
        return {}


def comma_separated(names: Iterable[str], lines: Iterable[dict[str, Any]]) -> str:
    import pandas as pd

    # as objects, so that no number changes its type
    table = pd.DataFrame(lines, columns=list(names), dtype=object)
    return str(table.to_csv(index=False, header=[cell_of(name) for name in names])).rstrip("\n")


if __name__ == "__main__":
    sys.exit(main())
