"""What budgetrun adds to Hydra, through its public ways: a sweeper, a launcher, and two resolvers. Free of torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from budgetrun.errors import UserError
from budgetrun.launch import slurm
from budgetrun.launch.command import CONF
from budgetrun.launch.help import help_page

# Hydra makes objects of classes in hydra_plugins alone. A file there would be imported by every other Hydra program of
# the environment; so this module has a second name.
PLACE = "hydra_plugins.budgetrun"


@dataclass
class SweeperOptions:
    """What a configuration may say to the sweeper, with the types that Hydra checks."""

    _target_: str = f"{PLACE}.BudgetSweeper"
    params: Any = None
    max_batch_size: int | None = None


class BudgetSweeper(Sweeper):
    """Every combination of what is typed, or a grid's, as hydra/sweeper=basic; but checked whole, and what is missing.

    params: overrides from a YAML file, before those of the command line. max_batch_size: jobs that the launcher gets at
    a time; null for all.
    """

    def __init__(self, params: DictConfig | None, max_batch_size: int | None) -> None:
        self.params = [f"{key!s}={value}" for key, value in (params or {}).items()]
        self.max_batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.of_hydra = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> None:
        from budgetrun.launch.sweep import sweep  # torch comes with it

        sweep([*self.params, *arguments], *self.of_hydra, self.max_batch_size)


class SlurmQueue(Launcher):
    """hydra/launcher=submitit_slurm: its name and its options. A sweep of ours gives them to slurm.SlurmLauncher."""

    def __init__(self, **options: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> NoReturn:
        """Raises UserError: another sweeper waits for what its jobs return, and jobs of Slurm go back to the queue."""
        raise UserError(
            "hydra/launcher=submitit_slurm runs the sweeps of hydra/sweeper=budgetrun, which is the default; another "
            "sweeper is itself a job for sbatch, and runs its own with hydra/launcher=joblib"
        )


def mode(*, _root_: DictConfig) -> str | None:
    """The value of hydra.mode: a configuration with a grid is a sweep."""
    return "MULTIRUN" if OmegaConf.select(_root_, "grid") is not None else None


def register_resolvers() -> None:
    """Those that conf/config.yaml asks; a worker's process needs them too."""
    OmegaConf.register_new_resolver("budgetrun.help", lambda: help_page(CONF), replace=True)
    OmegaConf.register_new_resolver("budgetrun.mode", mode, replace=True)


def register() -> None:
    """Make Hydra know all of it; it does not mind a second time."""
    register_resolvers()
    store = ConfigStore.instance()
    plugins = Plugins.instance()  # loads those that are installed, whose options are in the store then
    sys.modules[PLACE] = sys.modules[__name__]
    for plugin in (BudgetSweeper, SlurmQueue):
        plugin.__module__ = PLACE
        plugins.register(plugin)
    store.store("budgetrun", SweeperOptions, group="hydra/sweeper", provider="budgetrun")
    # in the place of hydra-submitit-launcher's
    options = OmegaConf.merge({"_target_": f"{PLACE}.SlurmQueue"}, slurm.OPTION)
    store.store("submitit_slurm", options, group="hydra/launcher", provider="budgetrun")
    if "optuna.yaml" in store.list("hydra/sweeper"):  # which minimises what a job returns: ours return their accuracy
        node = store.load("hydra/sweeper/optuna.yaml").node
        node.direction = "maximize"
        store.store("optuna", node, group="hydra/sweeper", provider="budgetrun")
