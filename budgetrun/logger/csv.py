"""metrics.csv: the evaluations of a run for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from budgetrun.contracts import Tracked
from budgetrun.files import write_text


@dataclass
class CSV:
    """One line per evaluation. The first column is the run's id, so that the files of several runs can be joined."""

    def open(self, run: Tracked, lines: Sequence[Mapping[str, Any]]) -> None:
        self.run, self.lines = run, list(lines)
        self.write()

    def log(self, line: Mapping[str, Any]) -> None:
        self.lines.append(line)
        if line.keys() <= self.names.keys():
            with self.path.open("a") as file:
                file.write(self.rows([line]))
        else:  # the first evaluation, or the first one with weights
            self.write()

    def close(self, state: str, result: Mapping[str, Any]) -> None:
        pass

    def write(self) -> None:
        """Write all of it."""
        self.path = self.run.folder / "metrics.csv"
        self.names = dict.fromkeys(["run_id", *(name for line in self.lines for name in line)])
        write_text(self.path, self.rows([{name: name for name in self.names}, *self.lines]))

    def rows(self, lines: Iterable[Mapping[str, Any]]) -> str:
        """Lines as text; a value that one lacks is empty."""
        made = io.StringIO()
        writer = csv.DictWriter(made, self.names, lineterminator="\n")
        writer.writerows({"run_id": self.run.run_id, **line} for line in lines)
        return made.getvalue()
