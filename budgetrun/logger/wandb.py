"""Weights & Biases: the evaluations of a run as a run of a project, online or offline."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from budgetrun.contracts import Tracked
from budgetrun.files import write_text
from budgetrun.logger._values import noted

MODES = ("online", "offline")


@dataclass
class WandB:
    """Values over updates, the configuration (`sampler/pool`: W&B takes no dots in names), and the result as summary.

    Its files are in the folder `wandb` of the run's folder. A run that goes on has the same id there, which the file
    wandb.id holds, and writes its record anew: W&B cannot go on with a run offline, and what is synchronised last under
    an id replaces what was there.
    """

    project: str
    entity: str | None
    mode: str | None

    needs: ClassVar = {"wandb": "budgetrun[wandb]"}

    def __post_init__(self) -> None:
        if self.mode not in (None, *MODES):
            raise ValueError(f"mode={self.mode} must be one of {', '.join(MODES)}, or null")

    def open(self, run: Tracked, lines: Sequence[Mapping[str, Any]]) -> None:
        import wandb

        before = list((run.folder / "wandb").glob("offline-run-*"))
        note = run.folder / "wandb.id"
        if (known := noted(note)) is None:
            write_text(note, known := secrets.token_hex(8))
        about = {"run_id": run.run_id, "folder": str(run.folder), **run.config}
        quiet = wandb.Settings(silent=True, console="off", reinit="create_new")
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=known,
            name=run.run_id,
            group=run.group,
            tags=run.tags,
            config={name.replace(".", "/"): value for name, value in about.items()},
            dir=run.folder,
            mode=self.mode,
            settings=quiet,
        )
        for line in lines:
            self.log(line)
        for folder in before:
            shutil.rmtree(folder)

    def log(self, line: Mapping[str, Any]) -> None:
        self.run.log(dict(line), step=line["updates"], commit=True)

    def close(self, state: str, result: Mapping[str, Any]) -> None:
        self.run.summary.update({name.replace(".", "/"): value for name, value in result.items()})
        self.run.finish(exit_code=0 if state == "finished" else 1)
