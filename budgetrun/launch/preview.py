"""What a command would run, before it does: its runs, what became of each, whether it can run, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from budgetrun.config import Experiment
from budgetrun.errors import UserError
from budgetrun.folder.run import RunFolder
from budgetrun.launch.preflight import Preflight
from budgetrun.training.progress import duration


def preview(
    runs: Sequence[tuple[Experiment, bool]], wrong: Sequence[tuple[str, str]] = (), preflight: Preflight | None = None
) -> None:
    """Print a line for each run, and what those cost that the command would run.

    runs: each with whether it would. wrong: what was typed for those that cannot run, with the reason. preflight: what
    checked them, None where this machine does not run them. Raises UserError where one cannot run.
    """
    total = 0.0
    for experiment, is_wanted in runs:
        folder = RunFolder(experiment.settings.output_dir, experiment.run_id)
        word, costs = folder.state().word, ""
        if preflight is not None and is_wanted:
            updates, seconds = preflight.updates(experiment), preflight.seconds(experiment)
            flops = updates * experiment.settings.batch_size * preflight.flops_of(experiment.model, experiment)[1]
            costs = f": {updates:,} updates, {flops:.3g} FLOPs, about {duration(seconds)}"
            total += seconds
        print(f"{word:<12} {folder.path}{costs}")
    for typed, why in wrong:
        print(f"cannot run   {typed}: {why}")
    count = len(runs) + len(wrong)
    time = f"; about {duration(total)} one after the other, looks and evaluations not counted" if total else ""
    print(f"dry_run: {count} runs, nothing was started{time}")
    if wrong:
        raise UserError(f"{len(wrong)} of {count} runs cannot run; the first: {wrong[0][0]}: {wrong[0][1]}")
