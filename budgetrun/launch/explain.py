"""Explains command-line errors in one sentence: what, where, and what to do."""

from __future__ import annotations

import difflib
import re
import traceback

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from budgetrun.config import SEVERAL, similar, unknown
from budgetrun.errors import UserError, one_line
from budgetrun.launch.command import command, composed, folders, options_of
from budgetrun.launch.compose import choices_of
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
        key, _, values = match[1].partition("=")
        ways = [f"{key}=[{values}] has them all"] if key in SEVERAL else []
        ways += ["-m runs each, and so does budgetrun.sweep in Python"] if key != "logger" else []
        return f"{match[1]} is several values for one run; {', '.join(ways)}"
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} already exists; type it without the +"
    if match := re.search(r"Could not (?:override|append.*?|find.*?) '([^']+)'", text):
        return no_key(match[1], arguments)
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


def no_key(key: str, arguments: list[str]) -> str:
    """The sentence for a key that this command line, or this job of a sweep, cannot set."""
    groups = sorted({p.name for folder in folders(arguments) for p in folder.iterdir() if p.is_dir()} - {"hydra"})
    # of a job, the last word for a key is its own; those before are of the whole sweep
    words = command(arguments).overrides
    last = {word.partition("=")[0]: word for word in words}
    try:
        cfg = composed(arguments, [word for name, word in last.items() if name in [*groups, "hydra/launcher"]])
    except (HydraException, OmegaConfBaseException, ValueError):  # one of the chosen options is wrong too
        cfg = composed(arguments, [])
    there = [*groups, *keys(cfg, "")]
    if key in there:
        return f"{key} is a dictionary, and has not all of these keys; type +{key}.key=value to add one"
    group, _, value = key.partition(".")
    chosen = choices_of(cfg.hydra).get(group)
    known = [name.removeprefix(f"{group}.") for name in there if name.startswith(f"{group}.")]
    if not (value and chosen) or similar(value, known):
        return unknown(key, there)
    option = f"{group}={chosen}".replace("'", "").replace(" ", "")
    if len(last) < len(words):
        instead = "sweep over the options that have it and over the others in two commands, or in two lines of a grid"
    else:
        instead = f"{option} --help lists what it has"
    return f"{option} has no {value}; {instead}"


def keys(node: DictConfig, path: str) -> list[str]:
    """All keys below a node, with the path to it, that a command line can set."""
    found: list[str] = []
    for key in (key for key in node if key != "_target_"):
        found.append(path + str(key))
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            found += keys(child, f"{path}{key!s}.")
    return found
