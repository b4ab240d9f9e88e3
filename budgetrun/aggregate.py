"""The reader of runs: any number of result.json files, and tables of them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from budgetrun.contracts import UserError
from budgetrun.picture import draw, runs_of, scale_of
from budgetrun.results import FINISHED

# what may differ between the runs of one cell without a word: repetitions, and where they ran
REPEATS = ("seed", "device", "data_dir", "output_dir", "checkpoint_every", "force", "dataset.system")
MISSING = "—"


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser("aggregate", description="Tables of finished runs: mean ± sd (ddof=1) and n.")
    parser.add_argument("folders", nargs="*", default=["outputs"], help="searched for runs (default: outputs)")
    parser.add_argument("--rows", default="sampler,aug", help="settings, as named on the command line of a run")
    parser.add_argument("--cols", default="budget", help="the same for the columns")
    parser.add_argument("--metric", default="test_accuracy", help="any number of result.json")
    parser.add_argument("--where", default="", help="only runs with these settings, as in dataset=digits,noise=none")
    parser.add_argument("--format", default="md", choices=("md", "csv", "latex"), help="csv has one line a cell")
    parser.add_argument("--plot", type=Path, help="also draw the cells: a .svg, .png or .pdf file")
    options = parser.parse_args(arguments)
    try:
        runs = read([Path(folder) for folder in options.folders])
        for reason in runs.skipped:
            print(f"skipped {reason}", file=sys.stderr)
        runs.table = select(runs.table, options.where)
        rows, columns = options.rows.split(","), options.cols.split(",")
        found = cells(runs.table, rows, columns, options.metric)
        for note in mixed(runs, [*rows, *columns]):
            print(f"note: {note}", file=sys.stderr)
        if options.plot is not None:
            draw(found, rows, columns[0], options.metric, options.plot)
        print(text(found, rows, columns, options.metric, options.format))
    except UserError as error:
        print(f"aggregate: {error}", file=sys.stderr)
        return 1
    return 0


@dataclass
class Runs:
    """table: one row a run. settings: its columns that are configuration. skipped: what was left out, and why.

    A column is named as on the command line: `sampler` is the chosen option, `sampler.pool` one of its values.
    """

    table: pd.DataFrame
    settings: list[str]
    skipped: list[str]


def read(folders: list[Path]) -> Runs:
    """All finished runs below the folders, each once."""
    rows: dict[str, dict[str, Any]] = {}
    settings: dict[str, None] = {}  # in order of appearance
    skipped: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; name the folders that hold the runs")
        for path in sorted(folder.rglob("config.yaml")):
            if not path.with_name("result.json").exists():
                skipped.append(f"{path.parent}: not finished")
        for path in sorted(folder.rglob("result.json")):
            try:
                result = json.loads(path.read_text())
                if result["status"] != FINISHED:
                    raise ValueError(f"its status is {result['status']}")
                configuration = {**flat(result.pop("config")), **result.pop("names")}
                row = {**configuration, **flat(result), "path": str(path)}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                skipped.append(f"{path}: not a result ({type(error).__name__}: {error})")
                continue
            if (known := rows.get(row["run_id"])) is not None:
                skipped.append(f"{path}: the same run as {known['path']}")
                continue
            rows[row["run_id"]] = row
            settings |= dict.fromkeys(configuration)
    return Runs(pd.DataFrame(list(rows.values())), list(settings), skipped)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys; lists as text, so that they can be compared."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return result


def select(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The runs for which every `setting=value` of `where` holds; raises UserError where none is left."""
    for condition in filter(None, where.split(",")):
        column, _, value = condition.partition("=")
        need(table, [column])
        table = table[[same(v, value) for v in table[column]]]
    if table.empty:
        raise UserError("there is no finished run to tabulate" + (f" with {where}" if where else ""))
    return table


def same(value: Any, typed: str) -> bool:
    try:
        return float(value) == float(typed)
    except (TypeError, ValueError):
        return str(value) == typed


def need(table: pd.DataFrame, columns: list[str]) -> None:
    for column in columns:
        if column not in table.columns:
            raise UserError(f"no run has {column}; there are {', '.join(sorted(map(str, table.columns)))}")


def mixed(runs: Runs, shown: list[str]) -> list[str]:
    """A sentence for every setting, the seed aside, that differs inside a cell and is averaged over unseen."""
    groups = runs.table.groupby(shown, dropna=False)
    notes = []
    for column in runs.settings:
        if column in REPEATS or column in shown or column.endswith("._target_"):
            continue
        if (groups[column].nunique(dropna=False) > 1).any():
            values = ", ".join(sorted(map(str, runs.table[column].unique())))
            notes.append(f"cells average over {column} ({values}); add it to --rows or --cols, or choose with --where")
    return notes


def cells(table: pd.DataFrame, rows: list[str], columns: list[str], metric: str) -> pd.DataFrame:
    """mean, std (ddof=1) and n of the metric for every combination of settings that has a run."""
    need(table, [*rows, *columns, metric])
    grouped = table.groupby([*rows, *columns], dropna=False)[metric]
    return grouped.agg(mean="mean", std="std", n="count").reset_index()


def text(cells: pd.DataFrame, rows: list[str], columns: list[str], metric: str, style: str) -> str:
    """The cells as a table with a caption (md, latex), or one line a cell (csv)."""
    if style == "csv":
        return cells.to_csv(index=False).rstrip()
    scale, unit = scale_of(metric)
    caption = f"{metric}{unit}: mean ± standard deviation (ddof=1) of n = {runs_of(cells)} runs"
    entry = cells.assign(entry=[
        show(mean, std, int(n), scale, with_n=cells["n"].nunique() > 1)
        for mean, std, n in cells[["mean", "std", "n"]].itertuples(index=False)
    ])  # fmt: skip
    wide = entry.pivot(index=rows, columns=columns, values="entry")
    if wide.isna().any(axis=None):
        caption += f"; {MISSING} is missing"
        wide = wide.fillna(MISSING)
    if style == "latex":
        named = wide.reset_index()
        named.columns = pd.Index([*rows, *(heading(columns, key) for key in wide.columns)])
        body = named.map(escape).rename(columns=escape).style.hide(axis="index")
        return body.to_latex(hrules=True, caption=escape(caption), position_float="centering")
    keys = [key if isinstance(key, tuple) else (key,) for key in wide.index]
    lines = [[*rows, *(heading(columns, key) for key in wide.columns)]]
    lines += [[*map(plain, key), *values] for key, values in zip(keys, wide.to_numpy().tolist(), strict=True)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    drawn = ("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)
    return "\n".join([*drawn, "", caption])


def show(mean: float, std: float, n: int, scale: int, with_n: bool) -> str:
    digits = ".2f" if scale == 100 else ".4g"
    spread = f" ± {std * scale:{digits}}" if n > 1 else ""
    return f"{mean * scale:{digits}}{spread}" + (f" (n={n})" if with_n else "")


def heading(columns: list[str], key: Any) -> str:
    values = key if isinstance(key, tuple) else (key,)
    return ", ".join(f"{column}={plain(value)}" for column, value in zip(columns, values, strict=True))


def plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def escape(cell: Any) -> str:
    latex = {"%": r"\%", "_": r"\_", "±": r"$\pm$", MISSING: "---", "&": r"\&", "#": r"\#"}
    return "".join(latex.get(character, character) for character in plain(cell))


if __name__ == "__main__":
    sys.exit(main())
