"""One job, as Hydra's launchers call it: in this process, in a worker process, or on another node.

It is a separate module so that the pickle for a worker refers to it instead of containing it. The job imports torch.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from budgetrun import processes
from budgetrun.errors import UserError, in_full, in_own_code, one_line, wants_traceback
from budgetrun.folder.lock import Busy
from budgetrun.folder.run import FINISHED, RunFolder
from budgetrun.launch import known, plugins
from budgetrun.launch.closing import after_run
from budgetrun.launch.workers import check_alone, leave_with_the_first, worker
from budgetrun.terminal import lasting, shown
from budgetrun.training.summary import said_before, say

log = logging.getLogger("budgetrun")


def task(cfg: DictConfig) -> float | None:
    """Run one job and return its test accuracy, for sweepers that optimise; None for a dry run."""
    if worker() is None:
        return ran(cfg)
    leave_with_the_first()
    with lasting():  # as in the first process
        return ran(cfg)


def ran(cfg: DictConfig) -> float | None:
    """The same as `task`, for a process in which stdout and stderr are already `lasting`."""
    plugins.register_resolvers()
    log.setLevel(logging.INFO if processes.rank() == 0 else logging.ERROR)
    hydra = HydraConfig.get()
    in_sweep = not OmegaConf.is_missing(hydra.job, "num")  # in a sweep, Hydra goes on with the other jobs
    try:
        # typed paths are relative to the original working directory, even with hydra.job.chdir
        with contextlib.chdir(hydra.runtime.cwd):
            again = in_sweep or cfg.get("force") or cfg.get("dry_run") or hydra.run.dir != "."
            record = None if again else known.record_of(cfg, hydra)
            if record is not None and (found := known.finished(record)) is not None:
                result, path = found
                log.info(said_before(result))
                say(result, path)
                say_next(result, path)
                return searched(result)

            from budgetrun.launch.compose import choices_of, experiment_in
            from budgetrun.train import run
            from budgetrun.training.machine import own_gpu

            checked = experiment_in(cfg, choices_of(hydra))
            if in_sweep:
                check_alone()
                if worker() is not None:  # as the basic launcher does
                    log.info(shown(" ".join(hydra.overrides.task)))
            if not in_sweep and hydra.run.dir != ".":
                raise no_run_dir(hydra.run.dir)
            if checked.settings.dry_run:
                from budgetrun.launch.preflight import Preflight
                from budgetrun.launch.preview import preview

                if in_sweep:
                    raise UserError(
                        f"dry_run=true cannot know the runs of {hydra.sweeper._target_}: it chooses as it goes"
                    )
                preflight = Preflight()
                preflight(checked)
                folder = RunFolder(checked.settings.output_dir, checked.run_id)
                word = folder.state().word
                preview([(checked, word, checked.settings.force or word != FINISHED)], preflight=preflight)
                return None
            if checked.settings.device == "auto" and (gpu := own_gpu(worker())) is not None:
                checked.settings.device = gpu
            checked.shares_data = in_sweep
            result = run(checked)
            if record is not None and processes.rank() == 0:
                known.remember(record, checked.run_id)
            if not in_sweep:
                say_next(result, RunFolder(checked.settings.output_dir, checked.run_id).result_path)
            return searched(result)
    except Exception as error:
        if in_sweep:
            job = " ".join(hydra.overrides.task)
            why = "left out" if isinstance(error, Busy) else "failed"
            own = in_own_code(error)
            said = one_line(own or error) if isinstance(own or error, (UserError, OSError)) else in_full(error)
            log.error("%s: %s: %s", why, shown(job), shown(said))
            if own is not None and not wants_traceback():
                raise own from error
            if worker() is not None and not isinstance(error, UserError):  # its pickle has no traceback
                error.add_note("".join(traceback.format_exception(error)))
        raise


def say_next(result: Mapping[str, Any], path: Path) -> None:
    """Log what to compare a run with, and the next command."""
    if said := after_run(result, path, sys.argv[1:]):
        log.info(said)


def searched(result: Mapping[str, Any]) -> float:
    """What a search maximises: the accuracy on the held-out part, or on the test set if none is held out."""
    return float(result.get("val_accuracy", result["test_accuracy"]))


def no_run_dir(folder: str) -> UserError:
    """The error for hydra.run.dir, a folder that no run would use."""
    return UserError(
        f"hydra.run.dir={folder} has no effect: a run's folder is named by its configuration; "
        f"set output_dir={folder}, the folder that contains it"
    )
