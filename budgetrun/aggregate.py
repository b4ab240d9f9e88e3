"""The reader of runs: any number of result.json files, and tables of them.

Plain Python but for the CSV forms: a table of a thousand runs takes 0.3 s, and no number changes its type on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import math
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgetrun.errors import UserError
from budgetrun.picture import draw, format_of
from budgetrun.results import read_result
from budgetrun.table import STYLES, tabulate, word

# what may differ between the runs of one cell without a word: repetitions, and where they lie
REPEATS = ("seed", "data_dir", "output_dir", "checkpoint_every", "force", "dataset.system")
# what is no setting and may not differ without a word: the machine, the code, and the data
CIRCUMSTANCES = ("device", "commit", "dirty", "versions.budgetrun", "dataset_fingerprint")


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser("aggregate", description="Tables of finished runs: mean ± sd (ddof=1) and n.")
    parser.add_argument("folders", nargs="*", default=["outputs"], help="searched for runs (default: outputs)")
    parser.add_argument("--rows", default="sampler,aug", help="settings, as named on the command line of a run")
    parser.add_argument("--cols", default="budget", help="the same for the columns; the first is the axis of a plot")
    parser.add_argument("--metric", default="test_accuracy", help="a number of result.json, or several: a,b")
    parser.add_argument("--where", default="", help="only runs with these settings, as in dataset=digits,noise=none")
    parser.add_argument(
        "--format",
        default="md",
        choices=[*STYLES, "runs"],
        help="csv: a line a cell; runs: a line a run, as CSV, with all that is known of it",
    )
    parser.add_argument("--plot", type=Path, help="also draw the cells of the first metric: .svg, .png or .pdf")
    options = parser.parse_args(arguments)
    try:
        if options.plot is not None:
            format_of(options.plot)
        rows, columns, metrics = (named(options, of) for of in ("rows", "cols", "metric"))
        runs = read(options.folders)
        for reason in runs.skipped:
            print(f"skipped {reason}", file=sys.stderr)
        if not runs.runs:
            raise UserError(f"there is no finished run in {', '.join(options.folders)}")
        need(runs.runs, [*rows, *columns, *metrics])
        chosen = select(runs.runs, options.where)
        measured, remarks = with_metric(chosen, metrics[0])
        for metric in metrics[1:]:  # what only some runs have, beside what all have
            remarks += [remark for remark in with_metric(chosen, metric)[1] if remark.startswith("note")]
        for remark in [*remarks, *mixed(measured, runs.settings, [*rows, *columns])]:
            print(remark, file=sys.stderr)
        tables = [tabulate(chosen, rows, columns, metric) for metric in metrics]
        if options.plot is not None:
            draw(tables[0], options.plot)
        print(every_run(measured) if options.format == "runs" else STYLES[options.format](*tables))
    except UserError as error:
        print(f"aggregate: {error}", file=sys.stderr)
        return 1
    return 0


def every_run(runs: list[dict[str, Any]]) -> str:
    """A line a run with every setting and every number, as comma-separated values: for work of one's own."""
    import pandas as pd

    plain = [{name: word(value) if isinstance(value, list) else value for name, value in run.items()} for run in runs]
    return str(pd.DataFrame(plain).to_csv(index=False)).rstrip("\n")


def named(options: argparse.Namespace, of: str) -> list[str]:
    """What --rows, --cols or --metric names."""
    names = [name.strip() for name in getattr(options, of).split(",") if name.strip()]
    if not names:
        what, example = ("number", "test_accuracy") if of == "metric" else ("setting", "budget")
        raise UserError(f"--{of} names no {what}; --{of} {example}, for one, does")
    return names


@dataclass
class Runs:
    """runs: what each run is and measured, by name. settings: the names that are configuration. skipped: which, why.

    A setting is named as on the command line: `sampler` is the chosen option, `sampler.pool` one of its values.
    """

    runs: list[dict[str, Any]]
    settings: list[str]
    skipped: list[str]


def read(folders: Iterable[str | Path]) -> Runs:
    """All finished runs below the folders, each once; links are followed."""
    runs: dict[str, dict[str, Any]] = {}
    settings: dict[str, None] = {}  # in order of appearance
    skipped: list[str] = []
    walked: set[str] = set()

    def unreadable(error: OSError) -> None:
        skipped.append(f"{error.filename}: it cannot be read ({error.strerror})")

    for folder in folders:
        if not os.path.isdir(folder):  # noqa: PTH112 -- Path.is_dir raises where a folder above is not readable
            raise UserError(f"{folder} is not a folder that can be read; name the folders that hold the runs")
        for here, below, files in os.walk(folder, onerror=unreadable, followlinks=True):
            if (real := os.path.realpath(here)) in walked:  # given twice, or linked
                below.clear()
                continue
            walked.add(real)
            below.sort()
            path = Path(here, "result.json")
            if path.name not in files:
                if "metrics.jsonl" in files:
                    skipped.append(f"{here}: it is not finished")
                continue
            try:
                result = read_result(path)
            except OSError as error:
                unreadable(error)
            except ValueError as error:
                skipped.append(f"{path}: {error}")
            else:
                configuration = {**flat(result.pop("config")), **result.pop("names")}
                run = {**configuration, **flat(result), "path": str(path)}
                known = runs.setdefault(str(run["run_id"]), run)
                if known is run:
                    settings |= dict.fromkeys(configuration)
                else:
                    skipped.append(f"{path}: it is the same run as {known['path']}")
    return Runs(list(runs.values()), list(settings), skipped)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def select(runs: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The runs for which every `setting=value` of `where` holds; raises UserError where none is left."""
    left = runs
    for condition in filter(None, re.split(r",(?![^\[]*\])", where)):  # the commas of a list are part of it
        name, equals, typed = (part.strip() for part in condition.partition("="))
        if not equals:
            raise UserError(f"--where {condition} is not of the form setting=value")
        need(runs, [name])
        there = sorted({word(run[name]) for run in left if name in run})
        left = [run for run in left if name in run and same(run[name], typed)]
        if not left:
            raise UserError(f"--where {where} leaves no run: {name} is {', '.join(there) or 'not set'}, not {typed}")
    return left


def same(value: Any, typed: str) -> bool:
    """Whether a value is what was typed: 0.3 is 0.30 and 3e-1."""
    reading: Any = typed
    for read_as in (float, json.loads):  # whole numbers of any size, lists, true and null are JSON; .3 is not
        with contextlib.suppress(ValueError):
            reading = read_as(typed)
    return word(value) in (typed, word(reading))


def need(runs: list[dict[str, Any]], names: Iterable[str]) -> None:
    """Raises UserError for the first of the names that no run has, with the nearest that one has."""
    known = sorted({name for run in runs for name in run})
    for name in names:
        if name not in known:
            end = [k for k in known if k.endswith((f".{name}", f"_{name}"))]
            close = end or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise UserError(f"no run has {name}; {meant}")


def with_metric(runs: list[dict[str, Any]], metric: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The runs that have the metric, and remarks on those that have none or one that is not finite.

    Raises UserError where no run has it, or where it is not a number.
    """
    measured, remarks = [], []
    for run in runs:
        value = run.get(metric)
        if value is None:
            remarks.append(f"skipped {run['path']}: it has no {metric}")
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"{metric} is not a number but {word(value)} in {run['path']}; --metric takes numbers")
        if not math.isfinite(value):
            remarks.append(f"note: {metric} is {value} in {run['path']}, and so is the mean of its cell")
        measured.append(run)
    if not measured:
        raise UserError(f"none of the {len(runs)} runs chosen has {metric}")
    return measured, remarks


def mixed(runs: list[dict[str, Any]], settings: Iterable[str], shown: list[str]) -> list[str]:
    """A sentence for everything, the seed aside, that differs inside a cell and is averaged over unseen."""
    cells: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        cells.setdefault(tuple(word(run.get(name, "")) for name in shown), []).append(run)
    differing: dict[str, set[str]] = {}
    for name in dict.fromkeys([*settings, *CIRCUMSTANCES]):
        if name not in REPEATS:
            for cell in cells.values():
                values = {word(run.get(name, "")) for run in cell}
                if len(values) > 1:
                    differing.setdefault(name, set()).update(values)
    # the values of an option differ where the option does, and so does its data
    explained = {name for name in differing if name.partition(".")[0] in differing.keys() - {name}}
    if differing.keys() & {"dataset", "validation"}:
        explained.add("dataset_fingerprint")
    return [
        f"note: cells average over {name} ({', '.join(sorted(values))}); add it to --rows or --cols, or use --where"
        for name, values in differing.items()
        if name not in explained
    ]


if __name__ == "__main__":
    sys.exit(main())
