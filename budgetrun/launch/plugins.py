"""What budgetrun adds to Hydra through its public API: a sweeper, a launcher and two resolvers. Free of torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from budgetrun.errors import UserError
from budgetrun.launch.command import CONF
from budgetrun.launch.help import help_page

# Hydra instantiates only classes in hydra_plugins. Every other Hydra program in the environment would import a file
# there, so this module has a second name instead.
PLACE = "hydra_plugins.budgetrun"


@dataclass
class SweeperOptions:
    """The sweeper's options in a configuration, with the types that Hydra checks."""

    _target_: str = f"{PLACE}.BudgetSweeper"
    params: Any = None
    max_batch_size: int | None = None
    table: bool = True


class BudgetSweeper(Sweeper):
    """Every combination, as in hydra/sweeper=basic, or a grid. Checks all jobs first, and runs only the missing ones.

    params: overrides from a YAML file, before those of the command line. max_batch_size: how many jobs the launcher
    gets at a time; null for all. table: whether the end of the sweep prints its table.
    """

    def __init__(self, params: DictConfig | None, max_batch_size: int | None, table: bool = True) -> None:
        self.params = [f"{key!s}={value}" for key, value in (params or {}).items()]
        self.max_batch_size, self.table = max_batch_size, table

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.of_hydra = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> list[Path]:
        """Run the sweep; returns the folders of its runs."""
        from budgetrun.launch.sweep import sweep  # imports torch

        return sweep([*self.params, *arguments], *self.of_hydra, self.max_batch_size, self.table)


class SlurmQueue(Launcher):
    """What Hydra makes of hydra/launcher=submitit_slurm. Our sweeper gives its options to slurm.SlurmLauncher."""

    def __init__(self, **options: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> NoReturn:
        """Raises UserError: another sweeper waits for its jobs' return values, but Slurm jobs go back to the queue."""
        raise UserError(
            "hydra/launcher=submitit_slurm needs hydra/sweeper=budgetrun, which is the default; run another sweeper as "
            "one sbatch job, with hydra/launcher=joblib for its own jobs"
        )


def mode(*, _root_: DictConfig) -> str | None:
    """The value of hydra.mode: a configuration with a grid is a sweep."""
    return "MULTIRUN" if OmegaConf.select(_root_, "grid") is not None else None


def register_resolvers() -> None:
    """Register the resolvers that conf/config.yaml uses; worker processes need them too."""
    OmegaConf.register_new_resolver("budgetrun.help", lambda *, _root_: help_page(CONF, _root_), replace=True)
    OmegaConf.register_new_resolver("budgetrun.mode", mode, replace=True)


def register() -> None:
    """Register everything with Hydra. A second call does no harm."""
    register_resolvers()
    store = ConfigStore.instance()
    plugins = Plugins.instance()  # loads the installed plugins and puts their options into the store
    sys.modules[PLACE] = sys.modules[__name__]
    for plugin in (BudgetSweeper, SlurmQueue):
        plugin.__module__ = PLACE
        plugins.register(plugin)
    store.store("budgetrun", SweeperOptions, group="hydra/sweeper", provider="budgetrun")
    if "optuna.yaml" in store.list("hydra/sweeper"):  # it minimises what a job returns, and ours return the accuracy
        node = store.load("hydra/sweeper/optuna.yaml").node
        node.direction = "maximize"
        store.store("optuna", node, group="hydra/sweeper", provider="budgetrun")
