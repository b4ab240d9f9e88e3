"""The reader of runs: any number of result.json files, and tables of them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from budgetrun.contracts import UserError
from budgetrun.results import FINISHED

FORMATS = ("md", "csv", "latex")
# what may differ between the runs of one cell without a word: repetitions, and where they ran
REPEATS = ("seed", "device", "data_dir", "output_dir", "checkpoint_every", "force", "dataset.system")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("aggregate", description="mean ± standard deviation (ddof=1) and n of finished runs")
    parser.add_argument("folders", nargs="*", default=["outputs"], help="searched for result.json (default: outputs)")
    parser.add_argument("--rows", default="sampler,aug", help="comma-separated columns of the results, as in sampler,aug")
    parser.add_argument("--cols", default="budget", help="the same for the table's columns")
    parser.add_argument("--metric", default="test_accuracy", help="any number in result.json")
    parser.add_argument("--where", default="", help="only runs with these values, as in dataset=digits,noise=none")
    parser.add_argument("--format", default="md", choices=FORMATS, help="md, csv (one line a cell) or latex")
    options = parser.parse_args(arguments)
    try:
        runs, skipped = read([Path(folder) for folder in options.folders])
        for reason in skipped:
            print(f"skipped {reason}", file=sys.stderr)
        runs = select(runs, options.where)
        rows, columns = options.rows.split(","), options.cols.split(",")
        for note in mixtures(runs, {*rows, *columns}):
            print(f"note: {note}", file=sys.stderr)
        print(table(cells(runs, rows, columns, options.metric), rows, columns, options.metric, options.format))
    except UserError as error:
        print(f"aggregate: {error}", file=sys.stderr)
        return 1
    return 0


def read(folders: list[Path]) -> tuple[pd.DataFrame, list[str]]:
    """One row a run with the columns of its configuration and result, and what was skipped, with the reason.

    A column is named as on the command line: `sampler` is the chosen option, `sampler.pool` one of its values.
    """
    rows: dict[str, dict[str, Any]] = {}
    skipped: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; name the folders that hold the runs")
        for config in sorted(folder.rglob("config.yaml")):
            if not config.with_name("result.json").exists():
                skipped.append(f"{config.parent}: not finished")
        for path in sorted(folder.rglob("result.json")):
            try:
                result = json.loads(path.read_text())
                if result["status"] != FINISHED:
                    raise ValueError(f"status is {result['status']}")
                row = {**flat(result.pop("config")), **result.pop("names"), **flat(result)}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                skipped.append(f"{path}: not a result ({type(error).__name__}: {error})")
                continue
            if row["run_id"] in rows:
                skipped.append(f"{path}: the same run as {rows[row['run_id']]['path']}")
                continue
            rows[row["run_id"]] = {**row, "path": str(path)}
    return pd.DataFrame(list(rows.values())), skipped


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys; lists as text, so that they can be compared."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return result


def select(runs: pd.DataFrame, where: str) -> pd.DataFrame:
    for condition in filter(None, where.split(",")):
        column, _, value = condition.partition("=")
        need(runs, [column])
        runs = runs[runs[column].map(lambda v, value=value: same(v, value))]
    if runs.empty:
        raise UserError("there is no finished run to tabulate" + (f" with {where}" if where else ""))
    return runs


def same(value: Any, text: str) -> bool:
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value) == text


def need(runs: pd.DataFrame, columns: list[str]) -> None:
    for column in columns:
        if column not in runs.columns:
            raise UserError(f"no run has a column {column}; there are {', '.join(sorted(map(str, runs.columns)))}")


def mixtures(runs: pd.DataFrame, shown: set[str]) -> list[str]:
    """A sentence for everything but the seed that differs between runs and is averaged over unseen."""
    need(runs, [*shown, "config_columns"] if False else [*shown])
    groups = {column.split(".")[0] for column in shown}  # a group's own values go with its option
    notes = []
    for column in runs.columns:
        settable = column in SETTABLE or ("." in column and column.split(".")[0] in SETTABLE)
        if not settable or column in shown or column in REPEATS or column.split(".")[0] in groups:
            continue
        values = sorted({str(v) for v in runs[column].dropna()})
        if len(values) > 1:
            notes.append(f"the cells average over {column} = {', '.join(values)}; add it to --rows or --where")
    return notes


def cells(runs: pd.DataFrame, rows: list[str], columns: list[str], metric: str) -> pd.DataFrame:
    """mean, std (ddof=1) and n of the metric for every combination of rows and columns that has a run."""
    need(runs, [*rows, *columns, metric])
    grouped = runs.groupby([*rows, *columns], dropna=False, sort=True)[metric]
    return grouped.agg(mean="mean", std="std", n="count").reset_index()
