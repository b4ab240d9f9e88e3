"""The command line as typed: where its configuration is searched for, and what it composes. Does not import torch."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import OverrideParseException
from hydra.types import TaskFunction
from omegaconf import DictConfig

from budgetrun.errors import UserError

# conf/ is beside the package in a checkout, and inside it in an installed wheel
PACKAGE = Path(__file__).resolve().parent.parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def command(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line with Hydra's own parser; raises UserError where that parser would print its usage."""

    return parser().parse_args(flags_first(arguments))


def parser() -> argparse.ArgumentParser:
    """Hydra's parser, which raises UserError where it would print its usage."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists what is understood")

    made = get_args_parser()
    made.error = refuse  # type: ignore[method-assign]
    return made


def flags_first(arguments: list[str]) -> list[str]:
    """The same words with the flags before the overrides, in which order alone Hydra's parser takes all overrides."""
    with contextlib.suppress(UserError):  # a flag without its value, which the parser says again
        typed, left = parser().parse_known_args(arguments)
        if typed.overrides and left and not any(word.startswith("-") for word in left):
            flags = arguments.copy()
            for word in (overrides := [*typed.overrides, *left]):
                flags.remove(word)
            return [*flags, *overrides]
    return arguments


def at_home(argument: str) -> str:
    """Expand ~/ in the values of a key=value. A shell does so only for some keys, and Hydra does not expand ~."""
    key, equals, values = argument.partition("=")
    return key + equals + re.sub(r"(?:^|(?<=,))~(?=/|,|$)", str(Path.home()), values) if equals else argument


def folders(arguments: list[str]) -> list[Path]:
    """The folders of options that a command line names: ours, or the user's instead, and one that is searched too."""
    typed = command(arguments)
    return [Path(typed.config_path or CONF), *([Path(typed.config_dir)] if typed.config_dir else [])]


def options_in(folder: Path) -> dict[str, Path]:
    """The options in a group's folder, by name, each with its file; one in a folder of its own is `folder/name`."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def options_of(group: str, arguments: list[str]) -> list[str]:
    """The options of a group in the folders that the command line names; an empty list for any other key."""
    return sorted(
        {name for folder in folders(arguments) for name in options_in(folder / group)} if group.isidentifier() else ()
    )


def of_each_job(arguments: list[str]) -> list[str]:
    """The arguments of a sweep over options or of a grid, with the options' values set in the jobs alone.

    Hydra sets plain values in the sweep's own configuration too, where a group that is swept has its default option,
    and refuses what that one lacks; but no value that is swept. So sampler.pool=4 becomes sampler.pool=4,4: a sweep has
    each job once.
    """
    typed = command(arguments)
    if not (typed.multirun or any(word.startswith(("grid=", "hydra.mode=MULTIRUN")) for word in typed.overrides)):
        return arguments
    grammar, parsed = OverridesParser.create(), dict[str, Override]()
    for word in typed.overrides:
        with contextlib.suppress(OverrideParseException):  # Hydra says so
            parsed[word] = grammar.parse_override(word)
    if not any(
        o.key_or_group == "grid" or (o.is_sweep_override() and options_of(o.key_or_group, arguments))
        for o in parsed.values()
    ):
        return arguments

    def each(word: str) -> str:
        key, _, value = word.partition("=")
        value = value or "''"
        plain = word in parsed and parsed[word].type is OverrideType.CHANGE and not parsed[word].is_sweep_override()
        of_option = "." in key and not key.startswith(("hydra.", "grid."))
        return f"{key}={value},{value}" if plain and of_option else word

    return [each(argument) for argument in arguments]


def completes(arguments: list[str]) -> bool:
    """Whether a shell asks how its line may go on."""
    return "COMP_LINE" in os.environ and ("-sc" in arguments or "--shell-completion" in arguments)


def completing(arguments: list[str]) -> list[str]:
    """The arguments of a shell that asks for completions, with the folder of options that the line so far names.

    Hydra completes the line in $COMP_LINE, but takes the folder from its own arguments.
    """
    with contextlib.suppress(UserError):  # the line is not finished
        if completes(arguments) and (folder := command(os.environ["COMP_LINE"].split()[1:]).config_dir):
            return ["--config-dir", at_home(f"={folder}")[1:], *arguments]
    return arguments


def searching(folder: str | Path | None) -> list[str]:
    """The override by which options in a folder of the user's own are found too."""
    return [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []


def multirun(overrides: list[str], task: TaskFunction) -> Any:
    """What the sweeper returns for these overrides, as with -m. Hydra's global state is left as that of the sweep."""
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("budgetrun", create_config_search_path(str(CONF)))
    return hydra.multirun("config", task, overrides)


def composed(arguments: list[str], overrides: list[str]) -> DictConfig:
    """Compose these overrides with the configuration and the folders that a command line names.

    The `hydra` node is included. A running Hydra is left as it was.
    """
    typed = command(arguments)
    conf = Path(typed.config_path).resolve() if typed.config_path else CONF
    searched = searching(typed.config_dir)
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
