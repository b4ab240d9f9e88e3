"""One job, as Hydra's launchers call it: in this process, in a worker's, or on another node.

A module of its own, so that what is sent to workers names it instead of carrying it. torch is imported in the job.
"""

from __future__ import annotations

import logging
import multiprocessing
import re

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from budgetrun.errors import UserError, one_line
from budgetrun.lock import Busy


def task(cfg: DictConfig) -> float:
    """One run; its test accuracy, for sweepers that optimise."""
    from budgetrun.config import choices_of, experiment
    from budgetrun.machine import own_gpu
    from budgetrun.train import run

    log = logging.getLogger("budgetrun")
    log.setLevel(logging.INFO)
    try:
        checked = experiment(cfg, choices_of(HydraConfig.get()))
        if checked.settings.device == "auto" and (gpu := own_gpu(worker())) is not None:
            checked.settings.device = gpu
        result = run(checked)
    except Exception as error:
        if HydraConfig.get().mode is hydra.types.RunMode.MULTIRUN:  # Hydra goes on with the other jobs
            job = " ".join(HydraConfig.get().overrides.task)
            why = "left out" if isinstance(error, Busy) else "failed"
            name = "" if isinstance(error, (UserError, OSError)) else f"{type(error).__name__}: "
            log.error("%s: %s: %s%s", why, job, name, one_line(error))
        raise
    return float(result["test_accuracy"])


def worker() -> int | None:
    """The number of this process among those that a parallel launcher started, from 1; None in the first process."""
    if multiprocessing.parent_process() is None:
        return None
    match = re.search(r"-(\d+)", multiprocessing.current_process().name)  # LokyProcess-3
    return int(match[1]) if match else None
