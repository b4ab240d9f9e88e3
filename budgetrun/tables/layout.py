"""The layout of a set of runs: which settings tell them apart, how tables show them, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from budgetrun.tables.runs import CIRCUMSTANCES, REPEATS, Run, varying
from budgetrun.tables.table import Key, order, word, words

# the task: runs that differ here are not compared, and are in different tables
TASK = ("dataset", "model", "noise", "image_size", "validation", "train_on")
# the order in which settings are tried to tell runs apart, and shown; the others follow in order of appearance
ORDER = (
    *TASK,
    "sampler",
    "select",
    "aug",
    "freeze",
    "loss",
    "optimizer",
    "schedule",
    "scores",
    "tune",
    "sampler.scored_by",
)


@dataclass
class Panel:
    """The runs of one table. where: the settings that they share and other panels do not, with their values."""

    where: dict[str, str]
    runs: list[Run]

    @property
    def title(self) -> str:
        """In words; "" if there is no other panel."""
        return ", ".join(f"{name}={value}" for name, value in self.where.items() if value)


@dataclass
class Layout:
    """rows, columns: settings. panels: the runs, separated by every other setting that varies.

    settings: all but those that say where a run is stored. fixed: the ones that do not vary, with their values.
    options: the values of each option that varies, under keys such as `sampler=is`.
    """

    rows: list[str]
    columns: list[str]
    panels: list[Panel]
    settings: list[str]
    fixed: dict[str, str]
    options: dict[str, dict[str, str]]

    @property
    def shown(self) -> list[str]:
        return [*self.rows, *self.columns]


def laid_out(runs: list[Run], settings: Iterable[str], rows: list[str] | None, columns: list[str] | None) -> Layout:
    """Lay runs out. Rows or columns that are not given are chosen from what varies, to average over seeds only."""
    places = {name: number for number, name in enumerate(ORDER)}
    settings = sorted(
        (name for name in settings if name not in (*REPEATS, *CIRCUMSTANCES) and not name.endswith("_target_")),
        key=lambda name: ("." in name, head(name) not in TASK, places.get(name, len(places))),
    )
    if columns is None:
        free = next(name for name in ("budget", "sampler", "aug", "seed") if name not in (rows or []))
        columns = [free, *apart(runs, ["budget_unit"], [*(rows or []), free])]
    others = apart(runs, settings, [*(rows or []), *columns])
    if rows is None:
        rows = [name for name in others if head(name) not in TASK] or ["sampler"]
    names = [name for name in others if name not in rows]
    found: dict[Key, list[Run]] = {}
    for run in runs:
        found.setdefault(words(run, names), []).append(run)
    panels = [Panel(dict(zip(names, k, strict=True)), found[k]) for k in sorted(found, key=order)]
    changing = set(varying(runs, settings))
    fixed = {n: word(runs[0][n]) for n in settings if n not in changing and all(n in run for run in runs)}
    return Layout(rows, columns, panels, settings, fixed, options(runs, [n for n in settings if n not in fixed]))


def apart(runs: list[Run], names: Iterable[str], chosen: list[str]) -> list[str]:
    """The names, in order, that tell runs apart which the chosen names and the earlier ones do not."""
    found: list[str] = []
    known = [words(run, chosen) for run in runs]
    for name in varying(runs, names):
        values = [word(run.get(name, "")) for run in runs]
        cells: dict[Key, str] = {}
        if any(cells.setdefault(key, value) != value for key, value in zip(known, values, strict=True)):
            found.append(name)
            known = [(*key, value) for key, value in zip(known, values, strict=True)]
    return found


def options(runs: list[Run], varying: list[str]) -> dict[str, dict[str, str]]:
    """The values of each option of the groups that vary. Where these vary too, several are listed."""
    behind: dict[str, dict[str, set[str]]] = {}
    groups = [name for name in varying if "." not in name]
    for run in runs:
        for name in varying:
            group = head(name)
            if name != group and group in groups and name in run and group in run:
                option = behind.setdefault(f"{group}={word(run[group])}", {})
                option.setdefault(name, set()).add(word(run[name]))
    return {
        option: {name: ", ".join(sorted(values)) for name, values in behind[option].items()}
        for option in sorted(behind)
    }


def missing(panel: Panel, rows: list[str], columns: list[str]) -> list[tuple[Key, list[str]]]:
    """The incomplete cells of a panel's table, by the values of rows and columns, and the seeds that they lack."""
    seeds: dict[Key, set[str]] = {}
    for run in panel.runs:
        seeds.setdefault(words(run, [*rows, *columns]), set()).add(word(run.get("seed", "")))
    every = set().union(*seeds.values())
    row_keys = sorted({k[: len(rows)] for k in seeds}, key=order)
    column_keys = sorted({k[len(rows) :] for k in seeds}, key=order)
    cells = ((row + column, every - seeds.get(row + column, set())) for row in row_keys for column in column_keys)
    return [(cell, sorted(lost, key=lambda seed: order((seed,)))) for cell, lost in cells if lost]


def head(name: str) -> str:
    """The group of a setting: sampler of sampler.pool."""
    return name.partition(".")[0]
