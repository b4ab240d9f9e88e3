"""Tuning for each cell: a value is chosen by validation accuracy in runs with other seeds, and the run itself tests it.

A run with an option of `tune`, such as tune=lr, has tuning runs: one for each value and seed that the option names,
with the run's other settings and a part of the training set held out. They are runs like any other, in a folder beside
the run's, and the runs of a cell, which differ in the seed alone, share them. The value whose tuning runs have the
highest mean of the last val_accuracy is the run's. Nothing reads their test accuracy.

The run's id counts the ids of its tuning runs in the place of the value, so that it is known before the value is.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from budgetrun import config
from budgetrun.config import Experiment
from budgetrun.errors import UserError
from budgetrun.folder.run import FINISHED, RunFolder
from budgetrun.identity import run_id

log = logging.getLogger("budgetrun")
Changes = Mapping[str, Any]  # new values by their dotted keys
Build = Callable[[Changes], Experiment]


@dataclass
class Tuning:
    """An option of the group `tune`.

    key: the value that is chosen, as on the command line. values: to choose from; the first of equally good ones is
    taken. seeds: of the tuning runs. validation: the part of the training set that they hold out.
    """

    key: str
    values: list[Any]
    seeds: list[int]
    validation: float

    def __post_init__(self) -> None:
        if self.key in (*config.GROUPS, "seed", "validation", "output_dir"):
            raise ValueError(f"key={self.key} cannot be tuned; name a value, such as lr or sampler.pool")
        if len(self.values) < 2:
            raise ValueError(f"values={self.values} leaves nothing to choose; list at least two")
        if not self.seeds:
            raise ValueError("seeds=[] leaves no tuning runs; list at least one")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation} must be in (0, 1): the part to hold out")

    def runs(self, output_dir: str) -> list[Changes]:
        """What the tuning runs have in the place of the run's own settings, seed by seed for each value in turn."""
        place = f"{output_dir.rstrip('/')}_tuning"  # beside the runs, so that no table of theirs has these
        others = {"validation": self.validation, "output_dir": place}
        return [{**others, self.key: value, "seed": seed} for value in self.values for seed in self.seeds]


def tuning_of(values: Mapping[str, Any]) -> Tuning | None:
    """How a configuration, given as plain values, has a value chosen; None if it has not."""
    return config.typed(Tuning, values["tune"], "tune.") if values.get("tune") else None


def experiment_of(values: Mapping[str, Any], choices: Mapping[str, Any], build: Build) -> Experiment:
    """The checked experiment of a composed configuration.

    build: the experiment of the same configuration without tuning and with these changes. Raises UserError if one of
    the tuning runs cannot be built, is another of them, or has the seed of the run itself.
    """
    tuning = tuning_of(values)
    if tuning is None:
        return config.experiment(values, choices)
    name = config.name_of_choice("tune", choices.get("tune"), ["tune"])
    first = build({tuning.key: tuning.values[0]})  # checked in the place of the one that is not known yet
    if (seed := first.settings.seed) in tuning.seeds:
        raise UserError(
            f"seed={seed} is one of tune.seeds={tuning.seeds}, the seeds of the runs by which {tuning.key} is chosen; "
            "test with other seeds, or set tune.seeds to others"
        )
    runs = [build(changes) for changes in tuning.runs(first.settings.output_dir)]
    ids = [run.run_id for run in runs]
    if len(set(ids)) < len(ids):
        raise UserError(
            f"tune.values={tuning.values} with tune.seeds={tuning.seeds} makes the same run twice: each must be there "
            f"once, and tune.key={tuning.key} must change what a run is"
        )
    whole = run_id(first.names, {**first.resolved, "tune": ids})
    folders = [RunFolder(run.settings.output_dir, run.run_id) for run in runs]

    def as_tuned(experiment: Experiment) -> Experiment:
        resolved = {**experiment.resolved, "tune": dataclasses.asdict(tuning)}
        return replace(experiment, names={**experiment.names, "tune": name}, resolved=resolved, run_id=whole)

    def choose() -> Experiment:
        value, tuned = chosen(tuning, folders)
        experiment = as_tuned(build({tuning.key: value}))
        experiment.settings.device = first.settings.device  # a launcher may have set it since
        return replace(experiment, tuned=tuned)

    return replace(as_tuned(first), tuning=[folder.path for folder in folders], choose=choose)


def chosen(tuning: Tuning, folders: Sequence[RunFolder]) -> tuple[Any, dict[str, Any]]:
    """The value whose tuning runs are best, and what a result says about the choice.

    folders: of the tuning runs, seed by seed for each value in turn. A value is not chosen if one of its runs diverged.
    Raises UserError if a run is neither finished nor diverged, or if there is no value left to choose.
    """
    accuracies, flops, diverged = [], [], []
    for folder in folders:
        state = folder.state()
        if state.word == FINISHED:
            result = folder.result()
            accuracies.append(accuracy_of(result, folder.path))
            flops.append(result["flops"])
        elif state.diverged_after is not None:
            accuracies.append(math.nan)
            flops.append(state.diverged_after)
            diverged.append(folder.path.name)
        else:
            raise UserError(
                f"{tuning.key} is chosen by {len(folders)} tuning runs, and {folder.path} is {state.word}; "
                "the same command with -m runs those that are missing"
            )
    each = len(tuning.seeds)
    means = [mean(accuracies[start : start + each]) for start in range(0, len(accuracies), each)]
    if (best := max((m for m in means if m is not None), default=None)) is None:
        raise UserError(f"all of tune.values={tuning.values} diverged in a tuning run; list others as well")
    value = tuning.values[means.index(best)]
    said = f"; {len(diverged)} of them diverged" if diverged else ""
    log.info("%s=%s, by the validation accuracy of %d tuning runs%s", tuning.key, value, len(folders), said)
    tuned = {
        "value": value,
        "by": "val_accuracy",
        "means": means,  # of each value; null: a run diverged
        "runs": [folder.path.name for folder in folders],
        "diverged": diverged,
    }
    return value, {"flops_tuning": None if None in flops else sum(flops), "tuned": tuned}


def mean(accuracies: Sequence[float]) -> float | None:
    """The mean over the tuning runs of a value, so rounded that equal sums are equal; None if one of them is nan."""
    return round(statistics.fmean(accuracies), 12) if all(map(math.isfinite, accuracies)) else None


def accuracy_of(result: Mapping[str, Any], folder: Path) -> float:
    """The validation accuracy at the end of a tuning run."""
    if result.get("val_accuracy") is None:
        raise UserError(f"{folder} has no val_accuracy to choose by; run its experiment again with force=true")
    return float(result["val_accuracy"])
