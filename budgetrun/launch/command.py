"""The command line as it was typed: where its configuration is searched, and what its words compose. Free of torch."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from budgetrun.errors import UserError

# in a checkout conf/ lies beside the package, in an installed wheel inside it
PACKAGE = Path(__file__).resolve().parent.parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def command(arguments: list[str]) -> argparse.Namespace:
    """What Hydra's own parser makes of a command line; raises UserError where that would print its usage."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists what is understood, and flags come before key=value")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(arguments)


def at_home(argument: str) -> str:
    """A key=value with ~/ in its values as the user's home; a shell does that for some keys, and Hydra reads no ~."""
    key, equals, values = argument.partition("=")
    return key + equals + re.sub(r"(?:^|(?<=,))~(?=/|,|$)", str(Path.home()), values) if equals else argument


def composed(arguments: list[str], overrides: list[str]) -> DictConfig:
    """What these overrides compose, with the configuration and the folders that a command line names.

    Hydra's part is included. A Hydra that is at work is left as it was.
    """
    typed = command(arguments)
    conf = Path(typed.config_path).resolve() if typed.config_path else CONF
    searched = [f"hydra.searchpath=[file://{Path(typed.config_dir).resolve()}]"] if typed.config_dir else []
    singleton = GlobalHydra.instance()
    at_work = singleton.hydra
    singleton.clear()
    try:
        with initialize_config_dir(str(conf), job_name="budgetrun", version_base="1.3"):
            return compose(typed.config_name or "config", [*overrides, *searched], return_hydra_config=True)
    finally:
        singleton.clear()
        if at_work is not None:
            singleton.initialize(at_work)
