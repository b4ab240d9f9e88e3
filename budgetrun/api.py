"""budgetrun from Python, in a notebook or a script: the same experiments, ids and tables as on the command line.

Overrides are those of the command line: `budgetrun.run("sampler=is", "budget=0.3")`. A mistake raises UserError, with
the sentence that the command would print.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetrun.tables import runs

if TYPE_CHECKING:
    import pandas as pd

    from budgetrun.config import Experiment


def compose(*overrides: str, config_dir: str | Path | None = None) -> Experiment:
    """The checked experiment of a command line: its settings, its components and its run_id. Nothing is trained.

    config_dir: a folder with options of your own, as for --config-dir. Raises UserError for what cannot run.
    """
    from budgetrun.launch.notebook import experiment_of

    return experiment_of(overrides, config_dir)


def run(*overrides: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Train one run, or find it finished; returns what its result.json holds.

    An interrupted run goes on from its checkpoint. The logger `budgetrun` tells how it goes:
    `logging.basicConfig(level="INFO")` shows that. Raises UserError for what cannot run.
    """
    from budgetrun import train

    return train.run(compose(*overrides, config_dir=config_dir))


def sweep(*overrides: str, config_dir: str | Path | None = None) -> pd.DataFrame:
    """Run a sweep as the command with -m does: `sweep("sampler=uniform,is", "budget=0.1,0.3")`, `sweep("grid=smoke")`.

    Returns its runs, one per row, as `frame` does; without any if they are only submitted to Slurm. Runs that are
    finished are not run again. Raises UserError if a job cannot run, before any is started, and if not all are finished
    at the end.
    """
    from budgetrun.launch.notebook import swept

    return frame(*(folder for folder in swept(overrides, config_dir) if folder.is_dir()))


def frame(*places: str | Path) -> pd.DataFrame:
    """The finished runs below folders, or in CSVs of `--format runs`, one per row; by default those below outputs.

    The columns are settings, named as on the command line, and what result.json holds.
    """
    return runs.frame(places or ["outputs"])


def compare(
    *places: str | Path,
    baseline: str = "sampler=uniform",
    rows: str | Iterable[str] = "sampler,aug",
    columns: str | Iterable[str] = "budget",
    metric: str | Iterable[str] = "test_accuracy",
    where: str = "",
) -> pd.DataFrame:
    """One row per cell of a table: mean, std, n, and the difference from a baseline with interval and p-values.

    The arguments and the columns mean what they mean for `python -m budgetrun.aggregate --format csv`, see
    docs/tables.md. places: as for `frame`. Remarks, such as on settings that cells average over, are warnings. Raises
    UserError as that command does.
    """
    import pandas as pd

    from budgetrun.aggregate import analysed, every_cell, parser

    words = {"rows": rows, "cols": columns, "metric": metric}
    listed = {name: value if isinstance(value, str) else ",".join(value) for name, value in words.items()}
    options = {**listed, "baseline": baseline, "where": where}
    typed = [f"--{name}={value}" for name, value in options.items() if value]
    answer = analysed(parser().parse_args([*map(str, places or ["outputs"]), *typed]))
    for remark in answer.remarks:
        warnings.warn(remark, stacklevel=2)
    names, lines = every_cell(answer)
    return pd.DataFrame(lines, columns=names)
