"""What a command line does, for a program that calls it: composing, and sweeps. Hydra is left as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from budgetrun.config import Experiment
from budgetrun.errors import UserError
from budgetrun.launch import plugins
from budgetrun.launch.command import at_home, command, composed, multirun, of_each_job, searching
from budgetrun.launch.compose import choices_of, experiment_in, task_part
from budgetrun.launch.explain import explain
from budgetrun.launch.job import task


def experiment_of(overrides: Sequence[str], config_dir: str | Path | None) -> Experiment:
    """The checked experiment of these overrides; raises UserError for what cannot run."""
    with typed(overrides, config_dir) as (flags, words):
        cfg = composed(flags, words)
        if "grid" in cfg:
            raise UserError("grid= makes a sweep of many runs; call budgetrun.sweep")
        HydraConfig.instance().set_config(cfg)  # ${hydra:...} reads it
        return experiment_in(task_part(cfg), choices_of(cfg.hydra))


def swept(overrides: Sequence[str], config_dir: str | Path | None) -> list[Path]:
    """Run a sweep; returns the folders of its runs. Raises UserError as the command does."""
    with typed(overrides, config_dir) as (flags, words):
        words = command(of_each_job(["-m", *flags, *words])).overrides
        quiet = "hydra.sweeper.table=false"  # the caller gets the runs
        folders: list[Path] = multirun([*words, quiet, *searching(config_dir)], task)
        return folders


@contextlib.contextmanager
def typed(overrides: Sequence[str], config_dir: str | Path | None) -> Iterator[tuple[list[str], list[str]]]:
    """The flags and overrides of a command line; what is wrong with them becomes a UserError with its sentence."""
    plugins.register()
    flags = [] if config_dir is None else ["--config-dir", str(config_dir)]
    words = [*map(at_home, overrides)]
    before, at_work = HydraConfig.instance().cfg, GlobalHydra.instance().hydra
    try:
        yield flags, words
    except UserError:
        raise
    except Exception as error:
        if (sentence := explain(error, [*flags, *words])) is None:  # a bug of ours
            raise
        raise UserError(sentence) from error
    finally:
        HydraConfig.instance().cfg = before
        GlobalHydra.instance().clear()
        if at_work is not None:
            GlobalHydra.instance().initialize(at_work)
