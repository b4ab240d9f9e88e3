"""What a command says at its end: what to compare a run with, the table of a sweep, and the command to try next.

Does not import torch, which a run that is already finished does not need.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetrun import processes
from budgetrun.digits import short
from budgetrun.folder.run import read_result
from budgetrun.identity import ELSEWHERE, readable

if TYPE_CHECKING:
    from budgetrun.config import Experiment

BASELINE = "uniform"
METHOD = ("sampler", "select")  # the groups in which a method and its baseline differ
LINES = 30  # the longest table at the end of a sweep


# ---- a run


def after_run(result: Mapping[str, Any], path: Path, typed: Sequence[str]) -> str:
    """The baseline of a finished run, if it is there, and the next command; "" if no user typed this one.

    path: of the result. typed: the arguments of the command.
    """
    if processes.size() > 1 or "SLURM_JOB_ID" in os.environ:  # another program starts it
        return ""
    names, sampler = result["names"], result["names"]["sampler"]
    if sampler == BASELINE:
        if not beside(result, path, "*"):
            return f"next, three seeds: {again(typed, seeds=True)}"
        folder, where = str(path.parent.parent), f"dataset={names['dataset']}"
        return f"next, the table: {table_command([folder], ['sampler', 'aug'], ['budget'], where, compared=True)}"
    if not (found := beside(result, path, BASELINE)):
        return f"next, uniform sampling to compare with: {again(typed, BASELINE)}"
    base = found[0]
    flops, seconds = ("unknown" if base[name] is None else short(base[name], 3) for name in ("flops", "seconds"))
    own_values = any(key_of(word).startswith(("sampler.", *METHOD[1:])) for word in typed)
    both = sampler if own_values else f"{BASELINE},{sampler}"  # the baseline has no such values
    return (
        f"uniform sampling, with all else equal: test accuracy {100 * base['test_accuracy']:.2f} %, {flops} FLOPs, "
        f"{seconds} s\nnext, three seeds: {again(typed, both, seeds=True)}"
    )


def beside(result: Mapping[str, Any], path: Path, sampler: str) -> list[dict[str, Any]]:
    """The finished runs in the same output_dir that differ from a run in nothing but the sampler.

    sampler: its option, or * for any other.
    """

    def rest(one: Mapping[str, Any]) -> dict[str, Any]:
        tuned = one["config"].get("tune", {}).get("key", "")  # its value was chosen for each sampler
        apart = {*METHOD, *ELSEWHERE, tuned.partition(".")[0]}
        names = {group: name for group, name in one["names"].items() if group not in METHOD}
        return {"names": names, **{key: value for key, value in one["config"].items() if key not in apart}}

    names = {group: name for group, name in result["names"].items() if group != "select"} | {"sampler": "=any="}
    pattern = glob.escape(readable(names, result["config"])).replace("=any=", sampler)
    found = []
    for other in sorted(path.parent.parent.glob(f"{pattern}-????????/{path.name}")):
        with contextlib.suppress(OSError, ValueError):
            if other != path and rest(one := read_result(other)) == rest(result):
                found.append(one)
    return found


def again(typed: Sequence[str], sampler: str | None = None, seeds: bool = False) -> str:
    """The typed command with another sampler, without what belongs to the one typed, or as a sweep over three seeds."""
    words = [word for word in typed if key_of(word) not in ("force", "retry_failed", "dry_run")]
    if sampler == BASELINE:
        words = [word for word in words if not key_of(word).startswith(("sampler.", *METHOD[1:]))]
    if sampler is not None:
        place = next((place for place, word in enumerate(words) if key_of(word) == "sampler"), len(words))
        words[place : place + 1] = [f"sampler={sampler}"]
    if seeds:
        words = ["-m", *(word for word in words if key_of(word) != "seed"), "seed=0,1,2"]
    return shlex.join(["python", "-m", "budgetrun", *words])


def key_of(word: str) -> str:
    """The key of an override; "" of a flag."""
    key, equals, _ = word.lstrip("+~").partition("=")
    return key if equals and not key.startswith("-") else ""


def table_command(
    folders: Sequence[str], rows: Sequence[str], columns: Sequence[str], where: str = "", compared: bool = False
) -> str:
    """The command that prints a table of the runs in these folders. compared: with uniform sampling."""
    chosen = [*folders, "--rows", ",".join(rows), "--cols", ",".join(columns)]
    chosen += ["--where", where] if where else []
    chosen += ["--baseline", f"sampler={BASELINE}"] if compared else []
    return shlex.join(["python", "-m", "budgetrun.aggregate", *chosen])


# ---- a sweep


def after_sweep(experiments: Iterable[tuple[Experiment, Path]]) -> str:
    """The table of finished runs, and the commands for it and for the report.

    experiments: each with the path of its result. What varies decides the rows and columns, as in the report. If some
    are not finished, or the table is long, there are only the commands.
    """
    from budgetrun.folder.reading import flat
    from budgetrun.tables.layout import laid_out
    from budgetrun.tables.runs import of_any_seed, settings_and_all
    from budgetrun.tables.table import laid_out as sheet_of
    from budgetrun.tables.table import markdown, tabulate

    runs, settings, folders, finished = [], dict[str, None](), dict[str, None](), True
    for experiment, path in experiments:
        try:
            names, run = settings_and_all(read_result(path))
        except (OSError, ValueError):
            finished = False
            run = {**flat(experiment.resolved), **experiment.names}
            names = list(run)
        runs.append(of_any_seed(run))
        settings |= dict.fromkeys(names)
        folders[str(path.parent.parent)] = None
    for run in runs:
        run.setdefault("tune", "none")
    layout = laid_out(runs, settings, None, None)
    rows, samplers = [*layout.panels[0].where, *layout.rows], {run.get("sampler") for run in runs}
    compared = BASELINE in samplers and len(samplers) > 1
    said = []
    if finished:
        table = tabulate(runs, rows, layout.columns, "test_accuracy")
        said = [markdown(sheet_of(table)), ""] if len(table.row_keys) <= LINES else []
    return "\n".join(
        [
            *said,
            f"table:  {table_command([*folders], rows, layout.columns, compared=compared)}",
            f"report: {shlex.join(['python', '-m', 'budgetrun.report', *folders])}",
        ]
    )
