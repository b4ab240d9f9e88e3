"""Runs as they are read: from the folders that hold them, or from a CSV of runs; chosen, and checked for a table."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgetrun.errors import UserError
from budgetrun.results import read_result
from budgetrun.table import word

# what may differ between the runs of one cell without a word: repetitions, and where they lie
REPEATS = ("seed", "data_dir", "output_dir", "checkpoint_every", "force", "dataset.system")
# what is no setting and may not differ without a word: the machine, the code, and the data
CIRCUMSTANCES = ("device", "commit", "dirty", "versions.budgetrun", "dataset_fingerprint")
# what a CSV of runs keeps of the evaluations, a list a run
CURVE = tuple(f"curve.{name}" for name in ("updates", "examples_backward", "flops", "seconds", "train_loss",
                                           "test_accuracy", "val_accuracy"))  # fmt: skip


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


def select(runs: list[dict[str, Any]], where: str, option: str = "--where") -> list[dict[str, Any]]:
    """The runs for which every `setting=value` of `where` holds; raises UserError where none is left."""
    left = runs
    for name, typed in conditions(where, option):
        need(runs, [name])
        there = sorted({word(run[name]) for run in left if name in run})
        left = [run for run in left if name in run and same(run[name], typed)]
        if not left:
            raise UserError(f"{option} {where} leaves no run: {name} is {', '.join(there) or 'not set'}, not {typed}")
    return left


def conditions(where: str, option: str = "--where") -> list[tuple[str, str]]:
    """Each setting of `setting=value,...` with the value as typed; raises UserError for another form."""
    found = []
    for condition in filter(None, re.split(r",(?![^\[]*\])", where)):  # the commas of a list are part of it
        name, equals, typed = (part.strip() for part in condition.partition("="))
        if not equals:
            raise UserError(f"{option} {condition} is not of the form setting=value")
        found.append((name, typed))
    return found


def same(value: Any, typed: str) -> bool:
    """Whether a value is what was typed: 0.3 is 0.30 and 3e-1."""
    reading: Any = typed
    for read_as in (float, json.loads):  # whole numbers of any size, lists, true and null are JSON; .3 is not
        with contextlib.suppress(ValueError):
            reading = read_as(typed)
    return word(value) in (typed, word(reading))


def need(runs: list[dict[str, Any]], names: Iterable[str], derived: Iterable[str] = ()) -> None:
    """Raises UserError for the first of the names that no run has, with the nearest that one has or that is derived."""
    known = sorted({name for run in runs for name in run} | set(derived))
    for name in names:
        if name not in known:
            end = [k for k in known if k.endswith((f".{name}", f"_{name}"))]
            close = end or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise UserError(f"no run has {name}; {meant}")


def with_metric(
    runs: list[dict[str, Any]], metric: str, why: Mapping[tuple[str, str], str] | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The runs that have the metric, and remarks on those that have none or one that is not finite.

    why: the reason why a run has none, by metric and path, where there is one to say. Raises UserError where no run
    has it, or where it is not a number.
    """
    measured, remarks, reasons = [], [], []
    for run in runs:
        value = run.get(metric)
        if value is None:
            reasons.append((why or {}).get((metric, str(run["path"])), f"it has no {metric}"))
            remarks.append(f"skipped {run['path']}: {reasons[-1]}")
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"{metric} is not a number but {word(value)} in {run['path']}; --metric takes numbers")
        if not math.isfinite(value):
            remarks.append(f"note: {metric} is {value} in {run['path']}, and so is the mean of its cell")
        measured.append(run)
    if not measured:
        because = f": {reasons[0]}" if why and reasons else ""
        raise UserError(f"none of the {len(runs)} runs chosen has {metric}{because}")
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


def curve(run: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The evaluations of a run in order, a list a number (see metrics.jsonl), None where one lacks it.

    {} where they are not known: there is no such file beside the result, or it is not whole.
    """
    if CURVE[0] in run:
        return {name.removeprefix("curve."): run[name] for name in CURVE if name in run}
    try:
        text = Path(str(run["path"])).with_name("metrics.jsonl").read_bytes()
        lines = [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError):
        return {}
    if not all(isinstance(line, dict) and line for line in lines):
        return {}
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: [line.get(name) for line in lines] for name in names}
