"""A sweep: every job is checked before the first one starts, and what became of each is said at the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from budgetrun.budget import full_updates, model_flops
from budgetrun.composing import composer, overrides_of
from budgetrun.config import Experiment, choices_of, experiment
from budgetrun.contracts import Data, UserError
from budgetrun.data import corrupt, load, trained_on, trained_shape
from budgetrun.explain import explain
from budgetrun.machine import find_device
from budgetrun.results import RunFolder

log = logging.getLogger("budgetrun")


def sweep(arguments: list[str], conf: Path, app: Callable[[], Any]) -> int:
    """Check all jobs of the command line, hand it to Hydra's launcher, report; the exit code."""
    experiments = check(arguments, conf)
    folders = {e.run_id: RunFolder(e.settings.output_dir, e.run_id) for e in experiments}
    finished = sum(folder.finished() is not None for folder in folders.values())
    print(f"{len(folders)} runs, {finished} of them finished already", flush=True)
    try:
        app()
        failure = None
    except Exception as error:
        failure = explain(error, arguments, conf)
        if failure is None:
            raise
    left = [folder.path for folder in folders.values() if folder.finished() is None]
    print(f"{len(folders) - len(left)} of {len(folders)} runs are finished")
    if failure is None and not left:
        return 0
    for path in left:
        print(f"  not finished: {path}")
    raise UserError(f"{len(left)} of {len(folders)} runs did not finish; the first failure: {failure}")


class Fit:
    """Whether experiments fit this machine and their data, which are read once for all jobs that share them."""

    def __init__(self) -> None:
        self.data: tuple[str, Data] | None = None
        self.models: set[str] = set()
        self.noises: set[str] = set()

    def __call__(self, experiment: Experiment) -> None:
        """Raises UserError where one does not."""
        settings, resolved = experiment.settings, experiment.resolved
        find_device(settings.device)
        source = json.dumps([resolved["dataset"], settings.validation, settings.data_dir])
        if self.data is None or self.data[0] != source:
            self.data = source, load(experiment)
        data = self.data[1]
        full_updates(settings, len(trained_on(data, settings).labels))
        noise = json.dumps([source, resolved["noise"]])  # one seed says whether it fits
        if noise not in self.noises:
            corrupt(data, experiment)
            self.noises.add(noise)
        shape = trained_shape(data, settings)
        model = json.dumps([resolved["model"], shape, data.classes])
        if model not in self.models:
            model_flops(experiment.model.build(shape[0], data.classes), shape)
            self.models.add(model)


def check(arguments: list[str], conf: Path) -> list[Experiment]:
    """All jobs of the command line as checked experiments.

    Raises UserError that names the first job that makes no sense, and why.
    """
    found, wrong, fits = [], [], Fit()
    with composer(arguments, conf) as compose:
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())  # it lists glob's options
        overrides = parser.parse_overrides(overrides_of(arguments))
        for job in BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]:
            try:
                cfg = compose(job)
                own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
                found.append(experiment(own, choices_of(cfg.hydra)))
                if cfg.hydra.launcher._target_.endswith("BasicLauncher"):  # it runs on this machine
                    fits(found[-1])
            except Exception as error:
                wrong.append((job, error))
    if wrong:
        job, first = wrong[0]
        if (sentence := explain(first, [*arguments, *job], conf)) is None:
            raise first
        more = f" (and {len(wrong) - 1} more jobs)" if len(wrong) > 1 else ""
        raise UserError(f"no job was started, because this one cannot run: {' '.join(job)}: {sentence}{more}")
    return found
