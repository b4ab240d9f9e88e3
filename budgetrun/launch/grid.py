"""From the command line to the jobs of a sweep: every combination, as Hydra's own sweeper makes them, or a grid's.

A grid is an option of the group `grid`: a YAML file with `sweeps`, a list of what would be typed after
`python -m budgetrun -m`, and `common`, what all of them begin with. Command-line values take precedence over the grid's
values for the same keys. Interpolations are resolved in each job.

A grid may have rounds, whose jobs read files that jobs of the round before make: `each_round`, a list like `sweeps`, is
repeated as often as `rounds` says, with the numbers `${round}`, from 1, and `${before}`, which is one less. In all of
its lines, `${rounds}` is the number of rounds. `grid.rounds=5` on the command line changes it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from budgetrun.errors import UserError
from budgetrun.launch.compose import Composed
from budgetrun.launch.tuning import tuning_of


def jobs_of(typed: Sequence[str], composed: Composed) -> list[list[str]]:
    """The overrides of each job, each job once, in the order of the command line or of the grid's file.

    The tuning runs of jobs come last.

    typed: the key=value parts of a command line, without Hydra's own. Raises UserError if a grid's file is not a grid,
    or if there is no job at all.
    """
    jobs: dict[tuple[str, ...], None] = {}
    for line in sweeps(typed, composed):
        jobs |= dict.fromkeys(combinations(map(composed.parse, line)))
    for job in list(jobs):
        jobs |= dict.fromkeys(map(tuple, tuning_jobs(job, composed)))
    if not jobs:
        empty = [o for o in typed if not list(combinations([composed.parse(o)]))]
        raise UserError(f"this sweep has no runs: {' '.join(empty)} has no value")
    return [list(job) for job in jobs]


def tuning_jobs(job: Sequence[str], composed: Composed) -> list[list[str]]:
    """The overrides of the runs by which a value of the job is chosen; none if the job cannot be composed."""
    if not composed.whole.get("tune") and not any(o.startswith("tune") for o in job):
        return []  # at once: composing a thousand jobs takes a second
    with contextlib.suppress(Exception):  # which is said where all jobs are checked
        values, _ = composed(job)
        if (tuning := tuning_of(values)) is not None:
            return [composed.changed(job, changes) for changes in tuning.runs(values["output_dir"])]
    return []


def combinations(overrides: Iterable[Override]) -> Iterable[tuple[str, ...]]:
    """Every combination of the values of the overrides; the last override of a key takes precedence."""
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            words = [override.get_value_element_as_str()]
        elif override.is_discrete_sweep():
            words = list(override.sweep_string_iterator())
        else:
            raise UserError(
                f"{override.input_line} is for a sweeper that searches, such as hydra/sweeper=optuna; "
                "without one, list the values: key=1,2,3 or key=range(1,4)"
            )
        values[key] = [f"{key}={word}" for word in words]
    return itertools.product(*values.values())


def sweeps(typed: Sequence[str], composed: Composed) -> list[list[str]]:
    """The typed overrides alone, or each of a grid's sweeps followed by them."""
    grid = composed.whole.get("grid") and OmegaConf.to_container(composed.whole.grid, resolve=False)
    chosen = [composed.parse(o) for o in typed if o.startswith("grid=")]
    others = [o for o in typed if not o.startswith(("grid=", "grid."))]
    if several := [o for o in typed if o.startswith("grid.") and composed.parse(o).is_sweep_override()]:
        raise UserError(f"{several[0]} is more than one value for one grid; set one")
    if any(override.is_sweep_override() for override in chosen):
        raise UserError(f"{chosen[-1].input_line} is more than one grid; run them one after the other")
    if grid is None:
        if chosen:  # in hydra.sweeper.params, which Hydra reads after it has composed the sweep
            raise UserError(
                f"{chosen[-1].input_line} has no effect in hydra.sweeper.params; "
                "type it, or choose it in the defaults list"
            )
        return [others]
    name = composed.whole.hydra.runtime.choices.get("grid")
    if not isinstance(name, str):
        raise UserError(f"{chosen[-1].input_line} is not the name of a grid's file, without quotes and brackets")
    words = [[f"output_dir=outputs/{name}", *line, *others] for line in lines_of(grid, name)]
    # where a configuration file and not the command line chooses the grid, each job would be a sweep itself
    return words if chosen else [[*line, "~grid"] for line in words]


def numbered(line: str, numbers: Mapping[str, int]) -> str:
    """A line with its numbers of rounds filled in; other interpolations are left to the jobs."""
    return re.sub(r"\$\{(\w+)\}", lambda word: str(numbers.get(word[1], word[0])), line)


def lines_of(grid: Any, name: str) -> list[list[str]]:
    """The words of each line of a grid's file, after the words that are common to all lines."""
    common, lines = (grid.get("common") or "", grid.get("sweeps")) if isinstance(grid, dict) else ("", None)
    repeated = grid.get("each_round") or [] if isinstance(grid, dict) else []
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in [common, *lines]):
        raise UserError(
            f"grid={name} has no sweeps; list there what would be typed after python -m budgetrun -m, "
            "and put into common what all of them begin with"
        )
    if not isinstance(repeated, list) or not all(isinstance(line, str) for line in repeated):
        raise UserError(f"grid={name} has an each_round that is not a list like sweeps")
    rounds = grid.get("rounds", 0)
    if type(rounds) is not int or (repeated and rounds < 1):
        raise UserError(
            f"grid={name} has rounds: {rounds}; it must be a whole number, how often each_round is repeated"
        )
    numbers = [{"rounds": rounds, "round": n, "before": n - 1} for n in range(1, rounds + 1)]
    lines = [numbered(common + " " + line, {"rounds": rounds}) for line in lines]
    lines += [numbered(common + " " + line, of_round) for of_round in numbers for line in repeated]
    try:
        words = [shlex.split(line) for line in lines]
    except ValueError as error:
        raise UserError(f"grid={name} has a line that cannot be read ({error})") from error
    if whole := [word for line in words for word in line if word.startswith(("hydra", "grid="))]:
        raise UserError(f"grid={name} has {whole[0]} in a line, but it is for a whole sweep; type it beside grid=")
    return words
