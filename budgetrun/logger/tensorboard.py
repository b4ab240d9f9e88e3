"""TensorBoard: the evaluations of a run as event files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from budgetrun.contracts import Tracked
from budgetrun.logger._values import numbers, text


@dataclass
class TensorBoard:
    """Scalars over updates, the configuration and the result as text, and all of them for its page HPARAMS.

    The files are in the run's folder, so that `tensorboard --logdir outputs` names runs by their ids. A run that goes
    on writes its record anew: what the checkpoint does not hold would otherwise be there twice.
    """

    needs: ClassVar = {"tensorboard": "budgetrun[tensorboard]"}

    def open(self, run: Tracked, lines: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        before = list(run.folder.glob("events.out.tfevents.*"))
        # a TensorBoard that is open forgets what it has read of this run
        self.writer = SummaryWriter(str(run.folder), purge_step=0)
        self.file: Any = self.writer._get_file_writer()  # add_hparams would make a second file
        config = {k: v if type(v) in (str, bool, int, float) else text(v) for k, v in run.config.items()}
        shown = ["test_accuracy", "test_loss", *(["val_accuracy", "val_loss"] if run.config["validation"] else [])]
        begin, values, self.end = hparams(config, dict.fromkeys(shown, 0.0))
        for summary in (begin, values):
            self.file.add_summary(summary)
        about = {"run_id": run.run_id, "folder": str(run.folder), "group": run.group, **run.config}
        self.writer.add_text("configuration", table(about))
        for line in lines:
            self.add(line)
        self.writer.flush()
        for path in before:
            path.unlink()

    def log(self, line: Mapping[str, Any]) -> None:
        self.add(line)
        self.writer.flush()

    def add(self, line: Mapping[str, Any]) -> None:
        for name, value in numbers(line).items():
            self.writer.add_scalar(name, value, line["updates"])

    def close(self, state: str, result: Mapping[str, Any]) -> None:
        if result:
            self.writer.add_text("result", table(result))
            self.file.add_summary(self.end)
        self.writer.close()


def table(values: Mapping[str, Any]) -> str:
    """Names and values in Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text(value)} |" for name, value in values.items())])
