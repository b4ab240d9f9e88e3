"""Composing configurations outside Hydra's main: to check a sweep's jobs beforehand, and to explain what went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig


@contextlib.contextmanager
def composer(arguments: list[str], conf: Path) -> Iterator[Callable[[list[str]], DictConfig]]:
    """compose(overrides), Hydra's own part included, with the folders that the command line `arguments` searches."""
    folder = get_args_parser().parse_args(arguments).config_dir
    searched = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        yield lambda overrides: compose("config", overrides=[*overrides, *searched], return_hydra_config=True)


def overrides_of(arguments: list[str]) -> list[str]:
    """The key=value parts of a command line."""
    overrides: list[str] = get_args_parser().parse_args(arguments).overrides
    return overrides
