"""Memorization: examples that a network gets right only if it was trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Context


@dataclass
class Memorization:
    """How much likelier an example's label is predicted by a network that was trained on it than by one that was not.

    `mem_i = (part of the runs with i that predict its label) - (part of the runs without i that do)`, over many runs,
    each on a part of the data that is drawn at random. A run's file counts both cases, `in, in_correct, out,
    out_correct`; the counts of all files that are read together are added, and the score follows. So one file alone has
    no score, and every example must be in the data of some runs and missing in that of others: with 70% each, some 40
    runs for 1,438 examples, 60 for 60,000. That is what makes it defined; with 40 runs, it is known to about 0.15, and
    theirs are 2,000. An example counts as trained on if an image of it was in any update of this run,
    so the run must begin from scratch, without init_from.
    Source: Feldman & Zhang 2020, equation 1, and their code for MNIST, which trains on 70%.
    Cost of a file: its run, and `n F` at the end. Influence on test examples is left out.
    """

    kind: ClassVar = "memorization"
    from_scratch: ClassVar[bool] = True

    def start(self, context: Context) -> None:
        self.context = context
        self.visited = torch.zeros(context.n, dtype=torch.bool, device=context.device)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        self.visited[batch.index] = True

    def scores(self) -> dict[str, Tensor]:
        predicted = torch.cat([self.context.look(batch)[1].argmax(1) for batch in self.context.everything()])
        correct = predicted == self.context.labels
        of = {"in": self.visited, "out": ~self.visited}
        return {
            name: column.float()
            for case, there in of.items()
            for name, column in ((case, there), (f"{case}_correct", there & correct))
        }

    def state_dict(self) -> dict[str, Any]:
        return {"visited": self.visited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.visited = state["visited"]
