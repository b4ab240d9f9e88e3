"""From a command line to the jobs of a sweep: every combination of what is typed, or of a grid's file.

A grid is an option of the group `grid`: a YAML file with `sweeps`, a list of what would be typed after
`python -m budgetrun -m`, and `common`, what all of them begin with. What is typed beside `grid=` takes the place of the
grid's own words for the same keys.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from budgetrun.composing import Compose, is_grid
from budgetrun.errors import UserError


def jobs_of(typed: Iterable[str], compose: Compose) -> list[list[str]]:
    """The overrides of each job, each job once, in the order of the command line or of the grid's file.

    typed: the key=value parts of a command line, without Hydra's own. Raises UserError where a grid's file is none.
    """
    # it lists the options that glob() chooses from
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    jobs: dict[tuple[str, ...], None] = {}
    for line in sweeps(list(typed), compose):
        (batch,) = BasicSweeper.split_arguments(parser.parse_overrides(line), max_batch_size=None)
        jobs |= dict.fromkeys(map(tuple, batch))  # a key's last value counts
    return [list(job) for job in jobs]


def sweeps(typed: list[str], compose: Compose) -> list[list[str]]:
    """What is typed, or each of a grid's sweeps with what is typed behind it."""
    names = [o.partition("=")[2] for o in typed if is_grid(o)]
    if not names:
        return [typed]
    if len(names) > 1 or "," in names[0]:
        raise UserError(f"grid={','.join(names)} is more than one grid; run one after the other")
    if not re.fullmatch(r"[\w./-]*", names[0]):
        raise UserError(f"grid={names[0]} is not the name of a grid's file, without quotes and brackets")
    file: Any = OmegaConf.to_container(compose([f"grid={names[0]}"]))  # interpolations are the jobs' own
    grid = file.get("grid")
    common, lines = (grid.get("common") or "", grid.get("sweeps")) if isinstance(grid, dict) else ("", None)
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in [common, *lines]):
        raise UserError(
            f"grid={names[0]} has no sweeps, a list of what would be typed after python -m budgetrun -m, "
            "and in common what all begin with"
        )
    try:
        words = [[*shlex.split(common), *shlex.split(line)] for line in lines]
    except ValueError as error:
        raise UserError(f"grid={names[0]} has a line that cannot be read ({error})") from error
    if whole := [word for line in words for word in line if word.startswith(("hydra", "grid="))]:
        raise UserError(f"grid={names[0]} has {whole[0]} in a line, which is of a whole sweep; type it beside grid=")
    others = [o for o in typed if not is_grid(o)]
    return [[f"output_dir=outputs/{names[0]}", *line, *others] for line in words]
