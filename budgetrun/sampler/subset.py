"""Training on a subset that another run has chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.acquisition import ACQUISITIONS
from budgetrun.contracts import Batch, Context, UserError, path


@dataclass
class Subset:
    """Shuffled passes over the examples with the highest, or the lowest, scores in a file; the others are never seen.

    A run with scores=... writes the file. A column `weight` in it weights the losses, normalised to mean 1 over the
    subset. Equal scores are ranked at random.
    Source: the second phase of forgetting events, EL2N, GraNd, ensembles, k-center, herding and one-off core-sets; see
    the scores for the papers.
    Cost of an update: `b (F + B)`; the result's `flops_before` is the file's.

    file: path; with * or ?, or commas, several files: they are averaged, or, if scores=ensemble made them, one ensemble
    of all their members. acquisition: the score of an ensemble, see there; null for the one that its run names. keep:
    part of the examples, in `(0, 1]`, or null for all that are in the file. order: "highest" or "lowest" scores are
    kept. balanced: the same part of every class.
    """

    neutral: ClassVar = {"acquisition": None}

    file: str | None
    acquisition: str | None
    keep: float | None
    order: str
    balanced: bool

    def __post_init__(self) -> None:
        if not self.file:
            raise ValueError(
                "file is not set: it names a file of scores, as a run with scores=forgetting, or another, writes it"
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep} must be greater than 0 and at most 1, or null for all of the file")
        if self.acquisition not in (None, *ACQUISITIONS):
            raise ValueError(f"acquisition={self.acquisition} is not one of {', '.join(ACQUISITIONS)}")
        if self.order not in ("highest", "lowest"):
            raise ValueError(f"order={self.order} is not one of highest, lowest")

        self.file = ",".join(path("file", part) for part in self.file.split(","))

    def start(self, context: Context) -> None:
        assert self.file is not None
        self.context = context
        columns = context.read_scores(self.file, self.acquisition)
        shuffled = torch.randperm(len(columns["index"]), generator=context.random.device, device=context.device)
        score = columns["score"][shuffled]
        ranked = columns["index"][shuffled[score.argsort(descending=self.order == "highest", stable=True)]]
        if self.keep is None:
            self.kept = ranked
        elif self.balanced:
            classes = [context.labels == c for c in range(context.classes)]
            kept = [self.first(self.keep, ranked[of_class[ranked]], int(of_class.sum())) for of_class in classes]
            self.kept = torch.cat(kept)
        else:
            self.kept = self.first(self.keep, ranked, context.n)
        if not len(self.kept):
            raise UserError(f"sampler.keep={self.keep:g} keeps none of the {context.n} examples; set it higher")
        self.weight: Tensor | None = None  # of the kept
        if "weight" in columns:
            weight = torch.zeros(context.n, device=context.device)
            weight[columns["index"]] = columns["weight"]
            mean = weight[self.kept].mean()
            if weight.min() < 0 or not mean > 0:
                raise UserError(f"sampler.file: {self.file} has weights that are negative, or all 0; it cannot be used")
            self.weight = weight[self.kept] / mean
        self.stream = context.stream(self.plan)

    def first(self, keep: float, ranked: Tensor, examples: int) -> Tensor:
        """The first of `ranked`: this part of a number of examples."""
        count = round(keep * examples)
        if count > len(ranked):
            of = "a class" if self.balanced else "all"
            raise UserError(
                f"sampler.keep={keep:g} is {count} of {examples} examples of {of}, and {self.file} scores only "
                f"{len(ranked)} of them; set keep lower, or to null for these, or score more"
            )
        return ranked[:count]

    def plan(self) -> Tensor | tuple[Tensor, Tensor]:
        order = torch.randperm(len(self.kept), generator=self.context.random.device, device=self.context.device)
        return self.kept[order] if self.weight is None else (self.kept[order], self.weight[order])

    def draw(self) -> Batch:
        return self.stream.take(self.context.batch_size)

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
