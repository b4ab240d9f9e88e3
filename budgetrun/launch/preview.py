"""Previews what a command would run: its runs, the state of each, whether it can run, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from budgetrun.config import Experiment
from budgetrun.contracts import passes
from budgetrun.digits import quantity, short
from budgetrun.errors import UserError
from budgetrun.folder.run import RunFolder
from budgetrun.launch.preflight import Preflight
from budgetrun.training.progress import duration


def preview(
    runs: Sequence[tuple[Experiment, str, bool]],
    wrong: Sequence[tuple[str, str]] = (),
    preflight: Preflight | None = None,
) -> None:
    """Print one line per run, and the cost of the runs that the command would start.

    runs: each experiment, the state of its run, and whether the command would run it. wrong: the overrides of each run
    that cannot run, and why. preflight: what checked the runs; None if this machine does not run them. Raises UserError
    if one cannot run.
    """
    total = 0.0
    for experiment, word, is_wanted in runs:
        folder, costs = RunFolder(experiment.settings.output_dir, experiment.run_id), ""
        if preflight is not None and is_wanted:
            updates, seconds = preflight.updates(experiment), preflight.seconds(experiment)
            images = updates * experiment.settings.batch_size * passes(experiment.aug)
            flops = images * preflight.flops_of(experiment.model, experiment)[1]
            costs = f": {updates:,} updates, {short(flops, 3)} FLOPs, about {duration(seconds)}"
            total += seconds
        print(f"{word:<12} {folder.path}{costs}")
    for typed, why in wrong:
        print(f"cannot run   {typed}: {why}")
    count = len(runs) + len(wrong)
    time = f"; about {duration(total)} one after the other, looks and evaluations not counted" if total else ""
    print(f"dry_run: {quantity(count, 'run')}, nothing was started{time}")
    if wrong:
        raise UserError(f"{len(wrong)} of {count} runs cannot run; the first: {wrong[0][0]}: {wrong[0][1]}")
