"""The files of earlier runs that a run reads."""

from __future__ import annotations

import functools

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
        self.fingerprint, self.labels, self.budget = fingerprint, data.labels, budget
        self.n = len(data.labels)
        self.scored_by: list[str] = []

    @functools.cached_property
    def run(self) -> dict[str, str]:
        """The fingerprints of this run's data; most runs read no file, and need none."""
        return {"dataset_fingerprint": self.fingerprint, "labels_fingerprint": digest(self.labels)}

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
