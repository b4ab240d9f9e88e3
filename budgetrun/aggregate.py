"""The reader of runs as a command: any number of runs, in folders or in CSVs, and tables of them.

Plain Python but for the CSVs and the statistics of a comparison: a table of a thousand runs takes half a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from budgetrun.compare import BOLD, Baseline, Comparison, compare, differences
from budgetrun.derived import DERIVED, SPEEDUPS, Options, derive, note
from budgetrun.errors import UserError
from budgetrun.papers import Number, beside, fitting, of_paper
from budgetrun.picture import draw, format_of
from budgetrun.runs import CURVE, curve, mixed, need, read, select, with_metric
from budgetrun.table import STYLES, Place, Table, laid_out, tabulate, word

# what a CSV says of a cell against the baseline, see Effect
EFFECT = ("difference", "low", "high", "pairs", "possible", "p", "p_holm", "p_signs", "cheapest", "dearest")


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code."""
    options = parser().parse_args(arguments)
    try:
        print(tables_of(options), flush=True)
    except UserError as error:
        print(f"aggregate: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # | head: who reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("aggregate", description="Tables of finished runs: mean ± sd (ddof=1) and n.")
    add = parser.add_argument
    add("folders", nargs="*", default=["outputs"], help="searched for runs, or CSVs of --format runs; default: outputs")
    add("--rows", default="sampler,aug", help="settings, as named on the command line of a run")
    add("--cols", default="budget", help="the same for the columns; the first is the axis of a plot")
    add(
        "--metric",
        default="test_accuracy",
        help=f"a number of result.json, or several: a,b; or one that is derived: {', '.join(DERIVED)}",
    )
    add("--where", default="", help="only runs with these settings, as in dataset=digits,noise=none")
    add("--baseline", help="compare all with the runs of these settings, as in sampler=uniform, pair by pair")
    add("--paper", help="the numbers of a paper beside ours: hu2021, arazo2021 or sahayam2023")
    add("--threshold", type=float, default=1.2, help="of a speed-up: times the baseline's final error (1.2)")
    add("--share", type=float, default=0.99, help="of epochs_to_generalise: of a run's last test accuracy (0.99)")
    add(
        "--format",
        default="md",
        choices=["md", "csv", "latex", "runs"],
        help="csv: a line a cell; runs: a line a run, as CSV, with all that is known of it, to be read again",
    )
    add("--plot", type=Path, help="also draw the cells of the first metric: .svg, .png or .pdf")
    return parser


def tables_of(options: argparse.Namespace) -> str:
    """What a command line prints; remarks go to stderr."""
    if options.plot is not None:
        format_of(options.plot)
    rows, columns, metrics = (named(options, of) for of in ("rows", "cols", "metric"))
    known = of_paper(options.paper) if options.paper is not None else []
    ways = Options(threshold=options.threshold, share=options.share)
    runs = read(options.folders)
    say(f"skipped {reason}" for reason in runs.skipped)
    if not runs.runs:
        raise UserError(f"there is no finished run in {', '.join(options.folders)}")
    need(runs.runs, [*rows, *columns, *(metric for metric in metrics if metric not in DERIVED)], DERIVED)
    chosen = select(runs.runs, options.where)
    if options.baseline is not None:
        ways.baseline = Baseline(chosen, runs.settings, options.baseline)
    why = derive(chosen, metrics, ways)
    measured, remarks = with_metric(chosen, metrics[0], why)
    for metric in metrics[1:]:  # what only some runs have, beside what all have
        remarks += [remark for remark in with_metric(chosen, metric, why)[1] if remark.startswith("note")]
    say([*remarks, *mixed(measured, runs.settings, [*rows, *columns])])
    tables = [tabulate(chosen, rows, columns, metric, note(metric, chosen, ways)) for metric in metrics]
    if options.plot is not None:
        draw(tables[0], options.plot)
    if options.format == "runs":
        return every_run(measured, runs.settings)
    comparison = None
    compared = [table for table in tables if table.metric not in SPEEDUPS]  # which are comparisons already
    if ways.baseline is not None and compared:
        comparison = compare(chosen, compared, ways.baseline)
        say(comparison.remarks)
    published = fitting(chosen, tables, known) if known else {}
    if options.format == "csv":
        return every_cell(tables, comparison, published)
    sheets = [laid_out(*tables, best=comparison.best if comparison else ())]
    if comparison is not None:
        sheets[0].caption += f"; {BOLD}" if comparison.best else ""
        sheets.append(differences(comparison, compared))
    if published:
        sheets.append(beside(tables, published))
    return "\n\n".join(map(STYLES[options.format], sheets))


def say(remarks: Iterable[str]) -> None:
    for remark in remarks:
        print(remark, file=sys.stderr)


def named(options: argparse.Namespace, of: str) -> list[str]:
    """What --rows, --cols or --metric names, each once."""
    names = list(dict.fromkeys(name.strip() for name in getattr(options, of).split(",") if name.strip()))
    if not names:
        what, example = ("number", "test_accuracy") if of == "metric" else ("setting", "budget")
        raise UserError(f"--{of} names no {what}; --{of} {example}, for one, does")
    return names


def every_cell(
    tables: Sequence[Table], comparison: Comparison | None, published: Mapping[Place, Sequence[Number]]
) -> str:
    """A line a cell, and a metric if there are several; also the missing. Numbers in full, accuracies up to 1."""
    first, lines = tables[0], []
    for row, column, table in itertools.product(first.row_keys, first.column_keys, tables):
        cell, place = table.cells.get((row, column)), (table.metric, row, column)
        line: dict[str, Any] = dict(zip(table.rows + table.columns, row + column, strict=True))
        line |= {"metric": table.metric} if len(tables) > 1 else {}
        line |= {"mean": cell.mean, "std": cell.std, "n": cell.n} if cell else {"n": 0}
        if comparison is not None and (effect := comparison.effects.get(place)):
            line |= {name: getattr(effect, name) for name in EFFECT}
        for one in published.get(place, ())[:1]:
            line["paper"] = None if one.value is None else one.value / table.scale()[0]
        lines.append(line)
    names = [*first.rows, *first.columns, *(["metric"] if len(tables) > 1 else []), "mean", "std", "n"]
    names += [*(EFFECT if comparison is not None else ()), *(["paper"] if published else [])]
    return comma_separated(names, lines)


def every_run(runs: Sequence[dict[str, Any]], settings: Sequence[str]) -> str:
    """A line a run with every setting, every number, and the evaluations: for work of one's own, and to read again.

    The settings are the columns before run_id.
    """
    whole = ({**run, **{f"curve.{name}": values for name, values in curve(run).items()}} for run in runs)
    measured = dict.fromkeys(name for run in runs for name in run if name not in settings)
    names = dict.fromkeys([*settings, "run_id", *(name for name in measured if name not in CURVE), *CURVE])
    as_read = [{n: json.dumps(v) if isinstance(v, list) else word(v) for n, v in run.items()} for run in whole]
    return comma_separated(names, as_read)


def comma_separated(names: Iterable[str], lines: Iterable[dict[str, Any]]) -> str:
    import pandas as pd

    # as objects: no number changes its type on the way
    return str(pd.DataFrame(lines, columns=list(names), dtype=object).to_csv(index=False)).rstrip("\n")


if __name__ == "__main__":
    sys.exit(main())
