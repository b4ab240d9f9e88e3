"""Explains command-line errors in one sentence: what, where, and what to do."""

from __future__ import annotations

import difflib
import re
import traceback

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from budgetrun.config import unknown
from budgetrun.errors import UserError, one_line
from budgetrun.launch.command import command, composed, folders, options_in
from budgetrun.terminal import shown

# sweepers and launchers, and the packages that they build on
PLUGINS = ("hydra_plugins", "optuna", "sqlalchemy", "joblib")


def explain(error: BaseException, arguments: list[str]) -> str | None:
    """The sentence for an error in this command line that the user can fix; None if the error is a bug."""
    sentence = in_words(error, arguments)
    return None if sentence is None else shown(sentence)  # it quotes what was typed


def in_words(error: BaseException, arguments: list[str]) -> str | None:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.partition("/")  # an option may be in a folder of its own
        if options := options_of(group, arguments):
            lacking = [folder for folder in folders(arguments)[1:] if not (folder / group).is_dir()]
            return no_option(group, option, options) + "".join(f"; {there} has no folder {group}/" for there in lacking)
        group, _, option = error.missing_cfg_file.rpartition("/")
        return no_option(group, option, list(error.options))
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read as key=value ({one_line(error)}); quote it, or see --help"
    text = one_line(error)
    typed = [o.partition("=") for o in command(arguments).overrides]
    for group, _, option in typed:
        if option.startswith("{") and options_of(group, arguments):
            return f"{group}={option} is not an option; type {group}=... for one, and its values as {group}.key=value"
    if text.startswith("Config group override must be"):  # null or a number instead of an option
        for group, _, option in typed:
            if (options := options_of(group, arguments)) and option not in options:
                return no_option(group, option, options)
    if match := re.search(r"Additional config directory '([^']+)' not found", text):
        return (
            f"--config-dir: there is no folder {match[1]}; type the one that holds your folders sampler/, dataset/, ..."
        )
    if text.startswith("Ambiguous value for argument 'grid="):
        return f"{text.split(chr(39))[1]} is more than one grid; run them one after the other"
    if match := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]} is several values for one run; -m runs each, and so does budgetrun.sweep in Python"
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} already exists; type it without the +"
    if match := re.search(r"Could not (?:override|append.*?|find.*?) '([^']+)'", text):
        there = keys(arguments)
        if match[1] in there:
            return f"{match[1]} is a dictionary, and has not all of these keys; type +{match[1]}.key=value to add one"
        return unknown(match[1], there)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used ({error.strerror}); set output_dir or data_dir to another folder"
    if isinstance(error, (HydraException, OmegaConfBaseException)) or raised_by_hydra(error):
        return text
    if (plugin := module_of(error)) in PLUGINS:  # it cannot do what it was told
        return f"{plugin}: {type(error).__name__}: {text}"
    return None


def no_option(group: str, option: str, options: list[str]) -> str:
    """The sentence for an option that does not exist, with the closest match that does."""
    close = difflib.get_close_matches("none" if option == "null" else option, options, n=1)
    meant = f"did you mean {group}={close[0]}? " if close else ""
    return f"{group}={option} is not an option of {group}; {meant}the options are {', '.join(options)}"


def raised_by_hydra(error: BaseException) -> bool:
    """Whether Hydra, or a package that reads its files, raised the error, which may be a plain ValueError."""
    return module_of(error) in ("hydra", "omegaconf", "yaml")


def module_of(error: BaseException) -> str:
    """The package that contains the line that raised the error."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].partition(".")[0] if frames else ""


def options_of(group: str, arguments: list[str]) -> list[str]:
    """The options of a group in the folders that the command line names; an empty list for any other key."""
    return sorted(
        {name for folder in folders(arguments) for name in options_in(folder / group)} if group.isidentifier() else ()
    )


def keys(arguments: list[str]) -> list[str]:
    """All keys that a command line can set, given the options that it chooses if those exist."""
    groups = sorted({p.name for folder in folders(arguments) for p in folder.iterdir() if p.is_dir()} - {"hydra"})
    chosen = [o for o in command(arguments).overrides if o.partition("=")[0] in [*groups, "hydra/launcher"]]
    try:
        cfg = composed(arguments, chosen)
    except (HydraException, OmegaConfBaseException, ValueError):  # one of the chosen options is wrong too
        cfg = composed(arguments, [])

    def walk(node: DictConfig, path: str) -> list[str]:
        found: list[str] = []
        for key in (key for key in node if key != "_target_"):
            found.append(path + str(key))
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                found += walk(child, f"{path}{key!s}.")
        return found

    return [*groups, *walk(cfg, "")]
