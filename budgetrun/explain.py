"""Errors of the command line in one sentence: what, where, and what to do."""

from __future__ import annotations

import difflib
import re
import traceback
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from budgetrun.composing import composer, overrides_of
from budgetrun.config import unknown
from budgetrun.errors import UserError, one_line


def explain(error: BaseException, arguments: list[str], conf: Path) -> str | None:
    """The sentence for an error that the user can mend; None for one that is a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return no_option(group, option, list(error.options))
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read as key=value ({one_line(error)}); quote it, or see --help"
    text = one_line(error)
    if text.startswith("Config group override must be"):  # null or a number for an option
        options = {p.name: sorted(o.stem for o in p.glob("*.yaml")) for p in conf.iterdir() if p.is_dir()}
        for group, _, option in (o.partition("=") for o in overrides_of(arguments)):
            if group in options and option not in options[group]:
                return no_option(group, option, options[group])
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} is there already; type it without the +"
    if match := re.search(r"Could not (?:override|append.*?|find.*?) '([^']+)'", text):
        return unknown(match[1], keys(conf, arguments))
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used ({error.strerror}); set output_dir or data_dir to another folder"
    if isinstance(error, (HydraException, OmegaConfBaseException)) or raised_by_hydra(error):
        return text
    return None


def no_option(group: str, option: str, options: list[str]) -> str:
    """The sentence for an option that does not exist, with the nearest that does."""
    close = difflib.get_close_matches("none" if option == "null" else option, options, n=1)
    meant = f"did you mean {group}={close[0]}? " if close else ""
    return f"{group}={option} is not an option of {group}; {meant}there are {', '.join(options)}"


def raised_by_hydra(error: BaseException) -> bool:
    """Whether the line that raised it is Hydra's own, or of what reads its files: it raises ValueError for some."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].partition(".")[0] in ("hydra", "omegaconf", "yaml")


def keys(conf: Path, arguments: list[str]) -> list[str]:
    """All keys that a command line can set, under the options that it chooses where they exist."""
    groups = [p.name for p in conf.iterdir() if p.is_dir()]
    with composer(arguments, conf) as compose:
        try:
            cfg = compose([o for o in overrides_of(arguments) if o.partition("=")[0] in [*groups, "hydra/launcher"]])
        except (HydraException, OmegaConfBaseException):  # one of these is wrong too
            cfg = compose([])

    def walk(node: DictConfig, path: str) -> list[str]:
        found: list[str] = []
        for key in (key for key in node if key != "_target_"):
            found.append(path + str(key))
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                found += walk(child, f"{path}{key!s}.")
        return found

    return [*groups, *walk(cfg, "")]
