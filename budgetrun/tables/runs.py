"""Runs as they are read from folders or from a CSV of runs, selected, and checked for a table."""

from __future__ import annotations

import contextlib
import csv
import difflib
import functools
import io
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetrun.errors import UserError
from budgetrun.folder.plan import PLANS
from budgetrun.folder.reading import RULES, brief, check, check_column, content, flat, is_number, lines_of, parse
from budgetrun.folder.run import NEEDED, SHOWN, read_result, why_not
from budgetrun.identity import ELSEWHERE, NEUTRAL, NEUTRAL_OPTIONS, NEUTRAL_VALUES, PATHS, class_of
from budgetrun.tables.cache import Cache
from budgetrun.tables.table import number, word, words

if TYPE_CHECKING:
    import pandas as pd

Run = dict[str, Any]
# what may differ between the runs of one cell without a note: repetitions, and where runs are stored
REPEATS = ("seed", *(key for key in ELSEWHERE if key != "device"), "dataset.system")
# what is not a setting, but gives a note where it differs: the machine, the code, and the data
CIRCUMSTANCES = (
    "device",
    "processes",
    "commit",
    "dirty",
    "commits_before",
    "versions.budgetrun",
    "dataset_fingerprint",
)
# what a CSV of runs keeps of the evaluations, one list per run
CURVE = tuple(
    f"curve.{name}"
    for name in ("updates", "examples_backward", "flops", "seconds", "train_loss", "test_accuracy", "val_accuracy")
)
MEASURED = tuple(name for name in SHOWN if name not in ("names", "config"))


@dataclass
class Runs:
    """runs: each run's settings and measurements, by name. settings: the names of settings. skipped: which and why.

    planned: the folders with plans of sweeps, see folder/plan.py. A setting is named as on the command line: `sampler`
    is the chosen option, `sampler.pool` one of its values.
    """

    runs: list[Run]
    settings: list[str]
    skipped: list[str]
    planned: list[str]


def read(places: Iterable[str | Path]) -> Runs:
    """All finished runs below folders, and those in CSVs of `--format runs`, each once. Links are followed."""
    found = Runs([], [], [], [])
    known: dict[str, tuple[Run, str | Path]] = {}
    again: Counter[tuple[str | Path, str | Path]] = Counter()  # runs of one place that another has as well
    settings: dict[str, None] = {}  # in order of appearance
    walked: set[tuple[int, int]] = set()
    for place in places:
        if os.path.isdir(place):  # noqa: PTH112 -- Path.is_dir raises where a folder above is not readable
            here = in_folder(str(place), walked, found)
        elif str(place).endswith(".csv"):
            here = in_csv(Path(place))
        else:
            raise UserError(f"{place} is not a folder that can be read; name the folders, or CSVs, that hold the runs")
        for names, run in here:
            first, first_place = known.setdefault(str(run["run_id"]), (run, place))
            if first is run:
                found.runs.append(run)
                settings |= dict.fromkeys(names)
            elif first_place is place:
                found.skipped.append(f"{run['path']}: it is the same run as {first['path']}")
            else:
                again[place, first_place] += 1
    found.skipped += [f"{n} of the runs in {place}, which {other} has too" for (place, other), n in again.items()]
    found.settings = list(settings)
    of_options = {f"{group}.{key}": v for group, values in NEUTRAL_VALUES.items() for key, v in values.items()}
    for key, value in {**NEUTRAL, **of_options}.items():
        if key in settings:  # runs made before the setting existed did the same as its neutral value
            for run in found.runs:
                run.setdefault(key, value)
    for run in found.runs:
        run.setdefault("processes", 1)  # there was only one
        if "freeze" in settings:
            run.setdefault("freeze", NEUTRAL_OPTIONS["freeze"])  # nothing was frozen
        if "tune" in settings:
            run.setdefault("tune", "none")  # a result names no way to tune if there was none
        if "tags" in settings:
            run.setdefault("tags", [])  # there were none
    return found


def frame(places: Iterable[str | Path]) -> pd.DataFrame:
    """The same as a pandas DataFrame, one row per run, for your own work in a notebook."""
    import pandas as pd

    return pd.DataFrame(read(places).runs)


def in_folder(folder: str, walked: set[tuple[int, int]], found: Runs) -> Iterator[tuple[list[str], Run]]:
    """The names of the settings of each run below a folder, and the run. Plans and skipped runs are added to `found`.

    walked: folders that are not entered again.
    """
    cache = Cache(folder)
    skipped = found.skipped

    def unreadable(error: OSError) -> None:
        skipped.append(f"{error.filename}: it cannot be read ({error.strerror})")

    for here, below, files in os.walk(folder, onerror=unreadable, followlinks=True):
        try:
            place = os.stat(here)  # noqa: PTH116 -- ten thousand of them, as strings
        except OSError as error:
            unreadable(error)
            continue
        if (place.st_dev, place.st_ino) in walked:  # given twice, or linked
            below.clear()
            continue
        walked.add((place.st_dev, place.st_ino))
        below.sort()
        if PLANS in below:
            found.planned.append(here)
        if "result.json" not in files:
            if "metrics.jsonl" in files:
                skipped.append(f"{here}: it is not finished")
            continue
        path = os.path.join(here, "result.json")  # noqa: PTH118
        try:
            stat = os.stat(path)  # noqa: PTH116
            if (remembered := cache.get(path, stat)) is None:
                remembered = settings_and_all(read_result(path))
                cache.keep(path, stat, *remembered)
        except OSError as error:
            unreadable(error)
        except ValueError as error:
            skipped.append(f"{path}: {error}")
        else:
            names, run = remembered
            run["path"] = path
            yield names, run
    cache.write()


def settings_and_all(result: dict[str, Any]) -> tuple[list[str], Run]:
    """The names of a result's settings, and the run; raises ValueError if one name has two meanings.

    The method of the scores that were read, which paths do not tell, is a setting `sampler.scored_by`.
    """
    configuration = {**flat(result.pop("config")), **result.pop("names")}
    if (method := result.pop("scored_by", None)) is not None:
        configuration["sampler.scored_by"] = method
    measured = flat(result)
    run = {**configuration, **measured}
    # device is the only name of both a setting, as asked for, and a measurement
    if len(run) != len(configuration) + len(measured) - ("device" in configuration and "device" in measured):
        twice = (configuration.keys() & measured.keys()) - {"device"}
        raise ValueError(f"{brief(min(twice))} is in its config and beside it")
    return list(configuration), by_class(run)


def by_class(run: Run) -> Run:
    """The same run with each component given by its class, whatever file of this package the class was in."""
    for name, value in run.items():
        if name.endswith("_target_") and isinstance(value, str):
            run[name] = class_of(value)
    return run


def in_csv(path: Path) -> Iterator[tuple[list[str], Run]]:
    """The same for a CSV that `--format runs` wrote; raises UserError for any other file."""
    csv.field_size_limit(sys.maxsize)  # a list of ten thousand evaluations exceeds the default limit
    try:
        lines = list(csv.reader(io.StringIO(content(path).decode("utf-8-sig"), newline=""), strict=True))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({why_not(error)})") from error
    except csv.Error as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    names = [str(value_in(name)) for name in lines[0]] if lines else []
    if missing := [name for name in (*MEASURED, "path") if name not in names]:
        raise UserError(f"{path} is not a CSV of --format runs: it has no column {missing[0]}")
    if len(set(names)) < len(names):
        raise UserError(f"{path} has two columns {max(names, key=names.count)}")
    for place, line in enumerate(lines[1:], 2):
        if len(line) != len(names):
            raise UserError(f"{path}, line {place}: it has {len(line)} values for {len(names)} columns")
        run = {name: value_in(text) for name, text in zip(names, line, strict=True) if text}
        try:
            check_csv(run)
        except ValueError as error:
            raise UserError(f"{path}, line {place}: {error}") from error
        # a run without evaluations gets an empty list, so that they are not looked for where it once was
        run = {CURVE[0]: [], **run, "path": word(run["path"])}
        yield [name for name in names[: names.index("run_id")] if name in run], by_class(run)


def check_csv(run: Run) -> None:
    """Raises ValueError if a run in a CSV could not have come from a result.json and a metrics.jsonl."""
    for name in (*MEASURED, "path"):
        if name not in run or (run[name] is None and name in NEEDED):
            raise ValueError(f"{name} is not {'a number' if name in RULES else 'a word'} but missing")
    check(run)
    evaluations = {name: run[name] for name in CURVE if name in run}
    for name, values in evaluations.items():
        if not isinstance(values, list) or len(values) != len(evaluations.get(CURVE[0], values)):
            raise ValueError(f"{name} is not a list of one value per evaluation but {brief(values)}")
        check_column(name.removeprefix("curve."), values)


def value_of(text: str) -> Any:
    """The value that a word stands for, see `word`. What only looks like a number, as some commits do, is text."""
    if text in ("nan", "inf", "-inf"):
        return float(text)
    if text[0] not in "-0123456789[tfn":
        return text
    try:
        value = parse(text)
    except ValueError:
        return text
    return value if isinstance(value, list) or word(value) == text or "." in text else text


def cell_of(value: Any) -> str:
    """A value as a cell in a CSV of runs, which `value_in` reads back."""
    if isinstance(value, str):
        return quoted(value)
    return json.dumps(value) if isinstance(value, list) else word(value)


@functools.lru_cache(2**16)  # most cells recur in a thousand runs
def value_in(cell: str) -> Any:
    """The value in a cell of a CSV of runs."""
    if cell.startswith('"'):
        with contextlib.suppress(ValueError):
            return parse(cell)
    return value_of(cell)


@functools.lru_cache(2**16)
def quoted(text: str) -> str:
    """A string for a cell: unchanged, or as JSON if it is not harmless or would be read as another value."""
    return text if not text or (is_harmless(text) and value_of(text) == text) else json.dumps(text)


def is_harmless(text: str) -> bool:
    """Whether no spreadsheet takes a string for a formula (such as -A1, but not -0.5) and no terminal obeys it."""
    return text.isprintable() and (text[:1] not in tuple('=+-@"') or text == "-inf" or number(text) is not None)


def select(runs: list[Run], where: str, option: str = "--where") -> list[Run]:
    """The runs for which every `setting=value` of `where` holds; raises UserError if none is left."""
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
    parts = re.split(r",(?![^\[]*\])", where)  # commas inside a list do not separate
    for condition in filter(None, map(str.strip, parts)):
        name, equals, typed = (part.strip() for part in condition.partition("="))
        if not equals:
            raise UserError(f"{option} {condition} is not of the form setting=value")
        found.append((name, typed))
    return found


def same(value: Any, typed: str) -> bool:
    """Whether a value is what was typed: 0.3 is 0.30 and 3e-1. A list is also what any of its values is."""
    if isinstance(value, list) and not typed.startswith("["):
        return any(same(one, typed) for one in value)
    reading: Any = typed
    for read_as in (float, parse):  # whole numbers of any size, lists, true and null are JSON; .3 is not
        with contextlib.suppress(ValueError):
            reading = read_as(typed)
    return word(value) in (typed, word(reading))


def need(runs: list[Run], names: Iterable[str], derived: Iterable[str] = ()) -> None:
    """Raises UserError for the first name that no run has, with the closest one that a run has or that is derived."""
    known = sorted({name for run in runs for name in run} | set(derived))
    for name in names:
        if name not in known:
            end = [k for k in known if k.endswith((f".{name}", f"_{name}"))]
            within = sorted((k for k in known if name in k), key=len) if len(name) > 2 else []
            close = end or within or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f"did you mean {close[0]}?" if close else f"runs have {', '.join(known)}"
            raise UserError(f"no run has {name}; {meant}")


def with_metric(runs: list[Run], metric: str, why: Mapping[tuple[str, str], str]) -> tuple[list[Run], list[str]]:
    """The runs that have the metric, and remarks on those that have none or one that is not finite.

    why: the reasons, if known, why runs have none, by metric and path. A value that is not a number is removed from its
    run. Raises UserError if no run that has a value has a number.
    """
    measured, remarks = [], []
    there = [run for run in runs if run.get(metric) is not None]
    if there and not any(is_number(run[metric]) for run in there):
        first = f"{brief(there[0][metric])} in {there[0]['path']}"
        raise UserError(f"{metric} is not a number but {first}; --metric takes numbers")
    for run in runs:
        value = run.get(metric)
        if value is None:
            because = why.get((metric, str(run["path"])), f"it has no {metric}")
            remarks.append(f"skipped {run['path']}: {because}")
            continue
        if not is_number(value):
            remarks.append(f"skipped {run['path']}: its {metric} is not a number but {brief(run.pop(metric))}")
            continue
        if not math.isfinite(value):
            remarks.append(f"note: {metric} is {value} in {run['path']}, and so is the mean of its cell")
        measured.append(run)
    return measured, remarks


def finite(runs: Iterable[Run], *names: str) -> list[Run]:
    """The runs that have a finite number under each of these names."""
    return [run for run in runs if all(is_number(run.get(name)) and math.isfinite(run[name]) for name in names)]


def all_finite(runs: Sequence[Run], name: str) -> bool:
    """Whether every run has a finite number under this name."""
    return len(finite(runs, name)) == len(runs)


def varying(runs: list[Run], names: Iterable[str]) -> list[str]:
    """The names whose values are not the same in all runs."""

    def same_in_all(name: str) -> bool:
        first = runs[0].get(name, "")
        # equal values of one type are equal in words too, and compare in a tenth of the time
        return all(value == first and type(value) is type(first) for value in (run.get(name, "") for run in runs))

    return [name for name in names if not same_in_all(name) and len({word(run.get(name, "")) for run in runs}) > 1]


def mixed(runs: list[Run], settings: Iterable[str], shown: list[str]) -> list[str]:
    """One sentence for everything, except the seed, that differs within a cell and is averaged over unseen."""
    cells = by(shown, runs)
    differing: dict[str, set[str]] = {}
    for name in varying(runs, dict.fromkeys([*settings, *CIRCUMSTANCES])):
        if name not in REPEATS:
            for cell in cells:
                values = {word(run.get(name, "")) for run in cell}
                if len(values) > 1:
                    differing.setdefault(name, set()).update(values)
    if differing.keys() & {"dataset", "validation"}:  # then so do the data
        differing.pop("dataset_fingerprint", None)
    return [
        f"note: cells average over {name} ({', '.join(sorted(differing[name]))}); "
        "add it to --rows or --cols, or use --where"
        for name in without_options([*differing])
    ]


def unseen(runs: list[Run], settings: Iterable[str], shown: list[str]) -> list[str]:
    """The settings in which cells differ from each other, and not within one, though a table does not show them.

    No news are those that follow from the data set or the model alone, as a recipe's do, those that were tuned, and
    those that some runs have and others lack.
    """
    cells, tasks = by(shown, runs), by([name for name in ("dataset", "model") if name in shown], runs)
    known = {"tune", *(name.partition(".")[0] for name in shown), *(word(run.get("tune.key", "")) for run in runs)}
    differing = [
        name
        for name in varying(runs, settings)
        if name not in REPEATS
        and not known & {name, name.partition(".")[0]}
        and not any(varying(cell, [name]) for cell in cells)
        and any(varying(having, [name]) for task in tasks if (having := [run for run in task if name in run]))
    ]
    return without_options(differing)


def confounded(runs: list[Run], settings: Iterable[str], shown: list[str]) -> list[str]:
    """One sentence for each setting that `unseen` finds."""
    return [
        f"note: cells differ in {name} too ({', '.join(sorted({word(run.get(name, '')) for run in runs}))}); "
        "add it to --rows or --cols, or use --where"
        for name in unseen(runs, settings, shown)
    ]


def without_options(names: Sequence[str]) -> list[str]:
    """The names without those of an option, such as aug.ricap.beta, that follow from another of them, such as aug."""
    return [name for name in names if name.partition(".")[0] not in {*names} - {name}]


def by(names: Iterable[str], runs: Iterable[Run]) -> list[list[Run]]:
    """The runs that agree in these settings, each in a list of their own."""
    names, groups = list(names), dict[tuple[str, ...], list[Run]]()
    for run in runs:
        groups.setdefault(words(run, names), []).append(run)
    return list(groups.values())


def of_any_seed(run: Run) -> Run:
    """The same run; where it reads a file of its own seed, as `*-s0-*/scores.csv`, the path is that of any seed.

    So the runs of a method have one path, and are repetitions of each other.
    """
    if "seed" not in run:  # a CSV from which the column was removed
        return run
    seed = f"-s{word(run['seed'])}-"
    paths = {
        name: value.replace(seed, "-s*-")
        for name, value in run.items()
        if name.rpartition(".")[2] in PATHS and isinstance(value, str) and seed in value
    }
    return {**run, **paths} if paths else run


def curve(run: Run) -> dict[str, list[Any]]:
    """The evaluations of a run in order, one list per number (see metrics.jsonl), None where an evaluation lacks it.

    {} if they are not known, for example without such a file beside the result. Raises ValueError, with the reason, if
    they cannot be read or are impossible.
    """
    if CURVE[0] in run:
        return {name.removeprefix("curve."): run[name] for name in CURVE if name in run}
    try:
        lines = lines_of(os.path.join(os.path.dirname(str(run["path"])), "metrics.jsonl"))  # noqa: PTH118, PTH120
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(why_not(error)) from error
    if not all(lines):
        return {}
    names = dict.fromkeys(name for line in lines for name in line)
    columns = {name: [line.get(name) for line in lines] for name in names}
    for name, values in columns.items():
        check_column(name, values)
    # values under unknown names may be anything
    others = [n for n in columns.keys() - RULES.keys() if not all(v is None or is_number(v) for v in columns[n])]
    return {name: columns[name] for name in names if name not in others} if others else columns
