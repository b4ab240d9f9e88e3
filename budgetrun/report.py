"""One HTML file about a folder of runs: tables, pictures, what explains them, and what they were made with.

The page is the Jinja template report.html; all that is written into it is escaped there, but for the pictures.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from budgetrun import picture
from budgetrun.aggregate import mixed, named, need, read, select, with_metric
from budgetrun.curves import Lines, Point, curve, mean_point, read_curves
from budgetrun.errors import UserError
from budgetrun.picture import Line, Style
from budgetrun.results import write_text
from budgetrun.study import Key, Panel, Run, Study, key, missing, study
from budgetrun.table import MISSING, Table, caption, entry, grid, number, tabulate, word

# a budget's units: the number of a run that counts each, and how it is called at an axis
UNITS = {
    "updates": ("updates", "updates"),
    "examples": ("examples_backward", "examples backpropagated"),
    "flops": ("flops", "FLOPs, looks included"),
    "seconds": ("seconds", "seconds, choosing included"),
}
SPENT = ("updates", "examples_forward", "examples_backward", "flops", "flops_before", "seconds", "seconds_total")
DIAGNOSTICS = (
    "corrupted", "selected_corrupted", "selected_corrupted_lately", "visits_entropy", "selected_class_entropy",
    "keep_rate", "effective_batch", "looking_updates", "selection_seconds", "selection_flops",
)  # fmt: skip
TOGETHER = 6  # lines in one picture, beside the baseline's


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser("report", description="One HTML file about finished runs.")
    parser.add_argument("folder", nargs="?", default="outputs", help="searched for runs (default: outputs)")
    parser.add_argument("--out", type=Path, help="the file to write (default: report.html in the folder)")
    parser.add_argument("--rows", help="settings; by default, those that vary in how the runs train")
    parser.add_argument("--cols", help="settings; by default, budget")
    parser.add_argument("--metric", default="test_accuracy", help="a number of result.json, or several; the first is drawn")
    parser.add_argument("--where", default="", help="only runs with these settings, as in dataset=digits,noise=none")
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    out = options.out or Path(options.folder) / "report.html"
    try:
        report = made(options, ["python", "-m", "budgetrun.report", *given])
        write_text(out, report.page())
    except UserError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(f"{out}: {report.title}")
    return 0


# ---- what stands on the page


@dataclass
class Grid:
    """A table to show. stub: how many of its first columns are headings. command: what prints it again, if anything."""

    head: list[str]
    body: list[list[str]]
    stub: int
    caption: str
    command: str = ""


@dataclass
class Gallery:
    """Pictures, SVG, that share a legend of swatches and names."""

    legend: list[tuple[str, str]]
    pictures: list[str]
    caption: str


@dataclass
class Section:
    """All about one panel. title: "" where it is the only one."""

    title: str
    tables: list[Grid]
    spent: Grid
    against: list[Gallery]
    curves: list[Gallery]
    selection: Grid | None
    corrupted: list[Gallery]


@dataclass
class Report:
    title: str
    facts: list[tuple[str, list[str]]]
    remarks: list[str]
    sections: list[Section]
    configuration: list[Grid]
    environment: Grid
    code: list[str]
    skipped: list[str]
    command: str

    def page(self) -> str:
        """The whole file."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        return environment.get_template("report.html").render(vars(self))
