"""Uncertainty of an ensemble made of one run's checkpoints, or of those of several runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun import acquisition
from budgetrun.contracts import Batch, Context
from budgetrun.scores._points import passed


@dataclass
class Ensemble:
    """Uncertainty of the networks at `members` points of the run, evenly spaced, the last one at its end.

    With the softmax `p_e` of member e on the un-augmented image, and p their mean over the E members:
    entropy            H(p) = -sum_k p_k log p_k
    mutual_information H(p) - mean_e H(p_e)
    variation_ratio    1 - (members that predict the most predicted class) / E
    errors             members that predict another class than the label
    least_confidence   1 - max_k p_k
    margin             the second largest p_k minus the largest
    variance           of p_e(label) over the members
    Source: Chitta et al. 2020, who select a training subset with an ensemble of hundreds of checkpoints. The
    definitions are the standard ones. The points of the run are our choice; the paper's are not known to us.
    The sums over the members are kept beside the file of scores, so that the members of several runs, of any seeds and
    models, are one ensemble when their files are read together; the reader chooses the acquisition.
    All seven are columns of the file, for this run alone. Cost: `members x n F`, of which `n F` at the end.

    acquisition: which of the seven is the score, unless the reader says otherwise. members: at least 1;
    what compares members (mutual information, variation ratio, variance) needs 2.
    since: the part of the run without members, in `[0, 1)`; 0.5 leaves out the networks of its first half.
    """

    version: ClassVar = 2  # the sums of several files are added, where version 1 averaged what followed from each
    neutral: ClassVar = {"since": 0.0}

    members: int
    acquisition: str
    since: float

    def __post_init__(self) -> None:
        if not 1 <= self.members <= acquisition.MOST_MEMBERS:
            raise ValueError(
                f"members={self.members} must be at least 1 network, and at most {acquisition.MOST_MEMBERS:,}"
            )
        if self.acquisition not in acquisition.ACQUISITIONS:
            raise ValueError(f"acquisition={self.acquisition} is not one of {', '.join(acquisition.ACQUISITIONS)}")
        if self.members == 1 and self.acquisition in acquisition.COMPARING:
            raise ValueError(
                f"members=1 is one network, and acquisition={self.acquisition} compares several; set either"
            )
        if not 0 <= self.since < 1:
            raise ValueError(f"since={self.since} must be at least 0 and less than 1: a part of the run")

    def start(self, context: Context) -> None:
        self.context = context
        self.due = 0  # points of the run that have passed
        self.taken = 0  # members so far; fewer than points if one update passes several

    def passed(self) -> int:
        """How many points of the run have passed; `scores` takes the network at the last one."""
        return passed(self.context.progress(), self.members, self.since)

    @property
    def takes_long(self) -> bool:
        return self.passed() > self.due

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        if (due := self.passed()) > self.due:
            self.due = due
            self.take()

    @property
    def sums(self) -> Path:
        """The sums over the members so far, if there are any."""
        return self.context.state_folder / f"sums-{self.taken}.npy"

    @property
    def files(self) -> set[Path]:
        return {self.sums} if self.taken else set()

    def take(self) -> None:
        """Add a member, the current network. The sums go into a new file: a checkpoint may need the one before."""
        context, before, taken = self.context, self.sums, self.taken
        rows = acquisition.rows_of(context.classes, multiple=context.batch_size)

        def parts() -> Iterator[Any]:
            sums = acquisition.read(before, rows) if taken else None
            everything = context.everything()
            while batches := list(itertools.islice(everything, rows // context.batch_size)):
                p = torch.cat([context.look(batch)[1] for batch in batches]).softmax(1)
                member = acquisition.of_member(p, torch.cat([batch.label[:, 0] for batch in batches]))
                yield member if sums is None else acquisition.add(member, next(sums))

        context.state_folder.mkdir(exist_ok=True)
        self.taken += 1
        acquisition.write(self.sums, parts(), context.n, context.classes)

    def scores(self) -> dict[str, Tensor]:
        self.take()
        columns = {
            name: torch.from_numpy(column).float()
            for name, column in acquisition.finished([self.sums], self.taken).items()
        }
        return {"score": columns[self.acquisition], **columns}

    def state_dict(self) -> dict[str, Any]:
        return {"due": self.due, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.due, self.taken = state["due"], state["taken"]
        if self.taken:
            acquisition.shape(self.sums)  # raises an error if the file is not there, or not whole
