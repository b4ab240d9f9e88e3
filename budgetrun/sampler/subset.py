"""Training on a subset that the scores of earlier runs choose: at once, or in rounds that make it grow or shrink."""

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
    The subset is in kept.csv of the run's folder. `base` alone is that subset again. With `add` or `drop`, it is the
    next round of a search: `base` and the best of the rest, or `base` without its worst. It depends on the files alone
    and not on the run's seed, so that the runs of a round share it: equal scores are ranked in one fixed random order.
    Source: the second phase of forgetting events, EL2N, GraNd, ensembles, k-center, herding and one-off core-sets; see
    the scores for the papers. Rounds: Chitta et al. 2020; what a round adds or drops is our definition.
    Cost of an update: `b (F + B)`; the result's `flops_before` is that of all runs that led to the files.

    file: path; with * or ?, or commas, several files: they are averaged, or, if scores=ensemble made them, one ensemble
    of all their members. acquisition: the score of an ensemble, see there; null for the one that its run names. keep:
    part of the examples, in `(0, 1]`, or null for all that are in the file. base: kept.csv of an earlier run; several
    files must keep the same; null: nothing for `add`, everything for `drop`. add, drop: part of all examples, in
    `(0, 1]` and `(0, 1)`; `keep` has no effect then. order: whether the "highest" or the "lowest" scores are best.
    balanced: the same part of every class.
    """

    neutral: ClassVar = {"acquisition": None, "base": None, "add": None, "drop": None}

    file: str | None
    acquisition: str | None
    keep: float | None
    base: str | None
    add: float | None
    drop: float | None
    order: str
    balanced: bool

    def __post_init__(self) -> None:
        again = self.base and self.add is None and self.drop is None
        if again and self.file:
            raise ValueError(f"file={self.file} has no effect with base alone; set add or drop too, or leave it out")
        if not again and not self.file:
            raise ValueError(
                "file is not set: it names a file of scores, as a run with scores=forgetting, or another, writes it"
            )
        if self.add is not None and self.drop is not None:
            raise ValueError(f"add={self.add:g} and drop={self.drop:g} are for two different rounds; set one to null")
        if self.add is not None and not 0 < self.add <= 1:
            raise ValueError(f"add={self.add} must be greater than 0 and at most 1: a part of all examples")
        if self.drop is not None and not 0 < self.drop < 1:
            raise ValueError(f"drop={self.drop} must be greater than 0 and less than 1: a part of all examples")
        if again or self.add is not None or self.drop is not None:
            self.keep = None
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep} must be greater than 0 and at most 1, or null for all of the file")
        if self.acquisition not in (None, *ACQUISITIONS):
            raise ValueError(f"acquisition={self.acquisition} is not one of {', '.join(ACQUISITIONS)}")
        if self.order not in ("highest", "lowest"):
            raise ValueError(f"order={self.order} is not one of highest, lowest")

        self.file = self.file and ",".join(path("file", part) for part in self.file.split(","))
        self.base = self.base and ",".join(path("base", part) for part in self.base.split(","))

    def start(self, context: Context) -> None:
        self.context = context
        self.weight: Tensor | None = None  # of the kept
        if self.file is None:
            assert self.base is not None
            self.kept = context.read_kept(self.base)
        else:
            self.choose(context.read_scores(self.file, self.acquisition))
        self.stream = context.stream(self.plan)

    def choose(self, columns: dict[str, Tensor]) -> None:
        """Set what is kept, and its weights, by the columns of a file of scores."""
        context = self.context
        grows, shrinks = self.add is not None, self.drop is not None
        if grows or shrinks:
            if "weight" in columns:
                raise UserError(f"sampler.file: {self.file} has weights, which a subset in rounds cannot have")
            order = torch.Generator().manual_seed(0)  # of equal scores, the same in all runs and on all devices
            shuffled = torch.randperm(len(columns["index"]), generator=order).to(context.device)
        else:
            shuffled = torch.randperm(len(columns["index"]), generator=context.random.device, device=context.device)
        score = columns["score"][shuffled]
        ranked = columns["index"][shuffled[score.argsort(descending=self.order == "highest", stable=True)]]
        if grows or shrinks:
            self.kept = self.next_round(ranked)
        elif self.keep is None:
            self.kept = ranked
        else:
            self.kept = self.first("keep", ranked)
        if not len(self.kept):
            raise UserError(f"sampler.{self.asked()} keeps none of the {context.n} examples; keep more")
        if "weight" in columns:
            weight = torch.zeros(context.n, device=context.device)
            weight[columns["index"]] = columns["weight"]
            mean = weight[self.kept].mean()
            if weight.min() < 0 or not mean > 0:
                raise UserError(f"sampler.file: {self.file} has weights that are negative, or all 0; it cannot be used")
            self.weight = weight[self.kept] / mean

    def asked(self) -> str:
        """How much is kept, as configured."""
        return " ".join(f"{name}={value:g}" for name in ("keep", "add", "drop") if (value := getattr(self, name)))

    def selection(self) -> Tensor:
        return self.kept

    def first(self, name: str, ranked: Tensor) -> Tensor:
        """The first of `ranked`, as many as the option of this name says; of each class, if they are balanced."""
        part, labels = getattr(self, name), self.context.labels
        found = []
        for label in range(self.context.classes) if self.balanced else [None]:
            there = ranked if label is None else ranked[labels[ranked] == label]
            of = len(labels) if label is None else int((labels == label).sum())
            if (count := round(part * of)) > len(there):
                which = {"keep": "of them", "add": "that base has not", "drop": "that base has"}[name]
                raise UserError(
                    f"sampler.{name}={part:g} is {count} of {of} examples of {'all' if label is None else 'a class'}, "
                    f"and {self.file} scores only {len(there)} {which}; set {name} lower, or score more"
                )
            found.append(there[:count])
        return torch.cat(found)

    def next_round(self, ranked: Tensor) -> Tensor:
        """The base and the best of the rest, or the base without its worst; in the order of the examples."""
        kept = torch.zeros(self.context.n, dtype=torch.bool, device=self.context.device)
        if self.base:
            kept[self.context.read_kept(self.base)] = True
        elif self.drop is not None:
            kept[:] = True
        if self.add is not None:
            changed = self.first("add", ranked[~kept[ranked]])
        else:
            changed = self.first("drop", ranked[kept[ranked]].flip(0))
        if not len(changed):
            raise UserError(f"sampler.{self.asked()} of {self.context.n} examples is none; set it higher")
        kept[changed] = self.add is not None
        return kept.nonzero()[:, 0]

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
