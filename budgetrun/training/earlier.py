"""The files of earlier runs that a run reads."""

from __future__ import annotations

from torch import Tensor

from budgetrun.contracts import Data
from budgetrun.folder import features, scorefile
from budgetrun.training.budget import Budget
from budgetrun.training.data import digest


class Earlier:
    """Reads files of earlier runs to the run's device. What they cost to make is counted in the budget's `before`.

    scored_by: the methods of the scores that were read, such as el2n, each once.
    """

    def __init__(self, fingerprint: str, data: Data, budget: Budget) -> None:
        self.run = {"dataset_fingerprint": fingerprint, "labels_fingerprint": digest(data.labels)}
        self.n, self.budget = len(data.labels), budget
        self.scored_by: list[str] = []

    def scores(self, file: str, acquisition: str | None = None) -> dict[str, Tensor]:
        columns, runs, methods = scorefile.read(file, "sampler.file", self.run, self.n, acquisition)
        scorefile.count(self.budget.before, runs)
        self.scored_by += [method for method in methods if method not in self.scored_by]
        return {name: column.to(self.budget.device) for name, column in columns.items()}

    def kept(self, file: str) -> Tensor:
        index, runs = scorefile.read_kept(file, "sampler.base", self.run, self.n)
        scorefile.count(self.budget.before, runs)
        return index.to(self.budget.device)

    def features(self, file: str) -> Tensor:
        found, runs = features.read(file, self.run, self.n)
        scorefile.count(self.budget.before, runs)
        return found.to(self.budget.device)
