"""The help page, built from the comments in conf/."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from budgetrun.launch.command import options_in

HEAD = """\
budgetrun: training under a budget. Spend it on choosing samples cleverly, or on more varied data?

  python -m budgetrun [group=option ...] [key=value ...]        one run
  python -m budgetrun -m group=option,option key=value,value    every combination, one run each
  python -m budgetrun grid=option [key=value ...]               a whole table
"""

TAIL = """\
Examples
  python -m budgetrun sampler=is budget=0.3 aug=ricap
  python -m budgetrun dataset=fashion_mnist sampler=p_sgd budget=0.3
  python -m budgetrun noise=symmetric noise.rate=0.5 sampler=sb sampler.beta=1
  python -m budgetrun budget=0.3 budget_unit=flops sampler=is sampler.pool=5 validation=0.1
  python -m budgetrun -m sampler=uniform,p_sgd,is budget=0.2,0.3,0.5 aug=standard,ricap seed=0,1,2
  python -m budgetrun grid=smoke
then
  python -m budgetrun.status outputs/smoke
  python -m budgetrun.aggregate outputs/smoke --rows noise,sampler,aug --cols budget
  python -m budgetrun.report outputs/smoke

sampler=is --help is about that option alone; --cfg job shows those of the whole run. --config-dir DIR adds your
own YAML files. A finished run is not run again, an interrupted one goes on. Results: output_dir/<run>/result.json.
Tab completion: eval "$(budgetrun -sc install=bash)"
Exit codes: 0 done, 1 failed (one sentence on stderr says why), above 128 stopped by a signal
(130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1, 140 SIGUSR2) and saved.
"""


REST = "--help alone lists every group, option and value; --cfg job in its place shows the values of the whole run."

ORDER = [
    "dataset",
    "recipe",
    "model",
    "freeze",
    "sampler",
    "select",
    "aug",
    "noise",
    "loss",
    "optimizer",
    "schedule",
    "scores",
    "logger",
    "tune",
    "grid",
]


def help_page(conf: Path, cfg: DictConfig | None = None) -> str:
    """Groups with their options, root values with their defaults and units, examples.

    cfg: the configuration of a command line. If it chooses options, the page is about these alone. Options are also
    those of the folders that it was composed from.
    """
    sources = cfg.hydra.runtime.config_sources if cfg is not None else []
    folders = [Path(source.path) for source in sources if source.schema == "file"] or [conf]
    if cfg is not None and (about := of_chosen(cfg, folders)):
        return "\n".join([*about, "", REST]).replace("$", "$$")
    lines = [HEAD, "Groups"]
    root = (conf / "config.yaml").read_text()
    default = dict(re.findall(r"^  - (\w+): (\w+)", root, flags=re.M)) | {"recipe": "set by the data set"}
    own = {path.name for folder in folders for path in folder.iterdir() if path.is_dir() and path.name.isidentifier()}
    for group in [*sorted(default, key=ORDER.index), *sorted(own - {*default, "hydra"})]:
        lines.append(f"  {group} (default: {default.get(group, 'none; +' + group + '=... adds one')})")
        found = {name: path for folder in folders for name, path in options_in(folder / group).items()}
        lines += [f"    {name:<18} {description(path)}" for name, path in sorted(found.items())]
    if cfg is not None:
        lines += ["", "Values of the default options"]
        for group in sorted(default.keys() - {"recipe", "grid"}, key=ORDER.index):
            lines += values_of(group, cfg, folders)
    lines += ["", "Values at the root (a recipe may change them)"]
    for_every = re.compile(r"^schedule:.*\n((?:  .*\n)+)", flags=re.M)
    flat = for_every.sub(lambda block: re.sub(r"^  ", "schedule.", block[1], flags=re.M), root)
    for key, value, comment in re.findall(r"^([\w.]+): (\S+) # (.*)$", flat, flags=re.M):
        lines.append(f"  {key + '=' + value:<22} {comment}" if "$" not in value else f"  {key:<22} {comment}")
    # Hydra uses the page as a template, in which a dollar sign is written twice
    return "\n".join([*lines, "", TAIL]).replace("$", "$$")


def of_chosen(cfg: DictConfig, folders: list[Path]) -> list[str]:
    """What the options that a command line chooses are, and their values."""
    typed = dict(word.lstrip("+").split("=", 1) for word in cfg.hydra.overrides.task if "=" in word)
    lines = []
    for group, option in typed.items():
        if option != cfg.hydra.runtime.choices.get(group):  # a value, or several options
            continue
        file = file_of(group, option, folders)
        lines += [f"{group}={option}" + (f": {description(file)}" if file else ""), *values_of(group, cfg, folders)]
    return lines


def file_of(group: str, option: str | None, folders: list[Path]) -> Path | None:
    """The file of an option, in the first of the folders that has it."""
    return next((path for folder in folders if (path := options_in(folder / group).get(str(option)))), None)


def values_of(group: str, cfg: DictConfig, folders: list[Path]) -> list[str]:
    """A line for each value of the group's chosen options, with the comment that the option's file has on it."""
    file = file_of(group, cfg.hydra.runtime.choices.get(group), folders)
    comments = dict(re.findall(r"^(\w+): .*? # (.*)$", file.read_text(), flags=re.M)) if file else {}

    def walk(values: Any, path: str) -> list[str]:
        lines: list[str] = []
        for key, value in values.items():
            if isinstance(value, dict):
                lines += walk(value, f"{path}.{key}")
            elif key != "_target_":
                shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
                lines.append(f"  {f'{path}.{key}={shown}':<28} {comments.get(key, '')}".rstrip())
        return lines

    values: Any = cfg.get(group) or OmegaConf.create({})
    with contextlib.suppress(OmegaConfBaseException):
        return walk(OmegaConf.to_container(values, resolve=True), group)
    return walk(OmegaConf.to_container(values, resolve=False), group)  # one cannot be resolved yet


def description(option: Path) -> str:
    """The first comment of a YAML file that is neither a Hydra directive nor its own path, as copied from docs."""
    comments = (
        line[2:]
        for line in option.read_text().splitlines()
        if line.startswith("# ") and "@package" not in line and not line.endswith(f"/{option.name}")
    )
    return next(comments, "")
