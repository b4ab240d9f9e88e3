"""Composing configurations outside Hydra's main: for sweeps, checked beforehand, and to explain what went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf


class Compose(Protocol):
    def __call__(self, overrides: list[str], run_mode: RunMode = RunMode.RUN) -> DictConfig:
        """The configuration, Hydra's own part included; of a sweep as a whole in RunMode.MULTIRUN."""
        ...


@contextlib.contextmanager
def composer(arguments: list[str], conf: Path) -> Iterator[Compose]:
    """Compose with the folders that the command line `arguments` searches."""
    folder = config_dir(arguments)
    searched = [f"hydra.searchpath=[file://{folder}]"] if folder else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), job_name="budgetrun", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None

        def compose(overrides: list[str], run_mode: RunMode = RunMode.RUN) -> DictConfig:
            return hydra.compose_config(
                "config", [*overrides, *searched], run_mode, from_shell=False, with_log_configuration=False
            )

        yield compose


def config_dir(arguments: list[str]) -> Path | None:
    """The folder of the user's own YAML files that a command line names."""
    folder = get_args_parser().parse_args(arguments).config_dir
    return Path(folder).resolve() if folder else None


def overrides_of(arguments: list[str]) -> list[str]:
    """The key=value parts of a command line."""
    overrides: list[str] = get_args_parser().parse_args(arguments).overrides
    return overrides


def own(cfg: DictConfig) -> DictConfig:
    """A composed configuration without Hydra's part."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def is_grid(override: str) -> bool:
    """Whether it chooses a grid, which makes a sweep of a command line."""
    return override.startswith("grid=")
