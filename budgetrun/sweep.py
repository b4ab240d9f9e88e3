"""A sweep: every job is checked before the first one starts, and what became of each is said at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from budgetrun.config import Experiment, experiment
from budgetrun.contracts import UserError
from budgetrun.explain import explain
from budgetrun.results import RunFolder

log = logging.getLogger("budgetrun")


def sweep(arguments: list[str], conf: Path, app: Callable[[], Any]) -> int:
    """Check all jobs of the command line, hand it to Hydra's launcher, report; the exit code."""
    overrides = get_args_parser().parse_args(arguments).overrides
    experiments = check(jobs(overrides), conf)
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


def jobs(overrides: list[str]) -> list[list[str]]:
    """The command lines of a sweep's jobs."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]


def check(jobs: list[list[str]], conf: Path) -> list[Experiment]:
    """All jobs as checked experiments. Raises UserError that names the first jobs that make no sense, and why."""
    found, wrong = [], []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        for job in jobs:
            try:
                cfg = compose("config", overrides=job, return_hydra_config=True)
                own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
                found.append(experiment(own, cfg.hydra.runtime.choices))
            except Exception as error:
                sentence = explain(error, job, conf)
                if sentence is None:
                    raise
                wrong.append(f"{' '.join(job)}: {sentence}")
    if wrong:
        more = f" (and {len(wrong) - 1} more jobs)" if len(wrong) > 1 else ""
        raise UserError(f"no job was started, because this one cannot run: {wrong[0]}{more}")
    return found
