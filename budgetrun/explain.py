"""Errors of the command line in one sentence: what, where, and what to do."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from budgetrun.composing import composer, overrides_of
from budgetrun.config import one_line, unknown
from budgetrun.contracts import UserError


def explain(error: BaseException, arguments: list[str], conf: Path) -> str | None:
    """The sentence for an error that the user can mend; None for one that is a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if error.options:
            close = difflib.get_close_matches(option, error.options, n=1)
            meant = f"did you mean {group}={close[0]}? " if close else ""
            return f"{group}={option} is not an option of {group}; {meant}there are {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read as key=value ({one_line(error)}); quote it, or see --help"
    text = one_line(error)
    if match := re.search(r"Could not (?:override|append.*?|find.*?) '([^']+)'", text):
        return unknown(match[1], keys(conf, arguments))
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return text
    return None


def keys(conf: Path, arguments: list[str]) -> list[str]:
    """All keys that a command line can set, under the options that it chooses where they exist."""
    groups = [p.name for p in conf.iterdir() if p.is_dir()]
    with composer(arguments, conf) as compose:
        try:
            cfg = compose([o for o in overrides_of(arguments) if o.partition("=")[0] in groups])
        except (HydraException, OmegaConfBaseException):  # one of these is wrong too
            cfg = compose([])

    def walk(node: DictConfig, path: str) -> list[str]:
        found: list[str] = []
        for key in node:
            found.append(path + str(key))
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                found += walk(child, f"{path}{key!s}.")
        return found

    return [*groups, *walk(cfg, "")]
