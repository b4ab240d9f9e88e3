"""Training on a subset that the scores of earlier runs choose: at once, or in rounds that make it grow or shrink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from budgetrun.acquisition import ACQUISITIONS
from budgetrun.apportion import evenly, in_proportion
from budgetrun.contracts import Batch, ByFeatures, ChecksCount, Context, UserError, check_choice, several_paths
from budgetrun.select.top import Top


@dataclass
class Subset:
    """Shuffled passes over examples that are chosen by their scores in a file; the others are never seen.

    The rule that chooses is a group of its own, `select`; by default, it takes the best scores. A run with scores=...
    writes the file. A column `weight` in it weights the losses, normalised to mean 1 over the subset. Equal scores are
    ranked at random.
    The subset is in kept.csv of the run's folder. `base` alone is that subset again. With `add` or `drop`, it is the
    next round of a search: `base` and what the rule chooses of the rest, or `base` without its worst. It depends on the
    files alone and not on the run's seed, so that the runs of a round share it: the rule's randomness, and the order of
    equal scores, are always the same.
    Source: the second phase of forgetting events, EL2N, GraNd, ensembles, k-center, herding and one-off core-sets; see
    the scores for the papers. Rounds: Chitta et al. 2020; what a round adds or drops is our definition.
    Cost of an update: `b (F + B)`; the result's `flops_before` is that of all runs that led to the files.

    file: path; with * or ?, or commas, several files: they are averaged, or, if scores=ensemble made them, one ensemble
    of all their members; the counts of scores=memorization are added. acquisition: the score of an ensemble, see there;
    null for the one that its run names. keep: part of the examples, in `(0, 1]`, or null for all that are in the file.
    base: kept.csv of an earlier run; several files must keep the same; null: nothing for `add`, everything for `drop`.
    add, drop: part of all examples, in `(0, 1]` and `(0, 1)`; `keep` has no effect then. order: whether the "highest"
    or the "lowest" scores are best.
    balanced: choose class by class. quota: how many of each class then: "natural", the same part of each; "equal", the
    same number, or all of a class that has fewer, in which case the others give more; "recall", in proportion to the
    part of the class's held-out examples that the scoring run got wrong (DRoP, Vysogorets et al. 2025), a column of
    files made with validation=..., not charged, as evaluations are not. A class without errors gives nothing while
    others can; the authors' code truncates, so that it chooses fewer than asked, and removes items from the
    list that it iterates over. They choose at random within a class (select=draw select.mix=1), by five files.
    """

    neutral: ClassVar = {"acquisition": None, "base": None, "add": None, "drop": None, "quota": "natural"}

    file: str | None
    acquisition: str | None
    keep: float | None
    base: str | None
    add: float | None
    drop: float | None
    order: str
    balanced: bool
    quota: str

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
        if self.quota not in ("natural", "equal", "recall"):
            raise ValueError(f"quota={self.quota} is not one of natural, equal, recall")
        if self.quota != "natural" and not self.balanced:
            raise ValueError(f"quota={self.quota} is for a subset that is chosen class by class; set balanced=true")

        self.file, self.base = several_paths("file", self.file), several_paths("base", self.base)

    @property
    def picks(self) -> bool:
        return self.file is not None

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
        rounds = self.add is not None or self.drop is not None
        if rounds and "weight" in columns:
            raise UserError(f"sampler.file: {self.file} has weights, which a subset in rounds cannot have")
        if self.drop is not None and not isinstance(context.select, Top):
            raise UserError("sampler.drop leaves out the worst; it goes with select=top or bottom")
        # the choice of a round is the same in all runs and on all devices
        device = torch.device("cpu") if rounds else context.device
        self.random = torch.Generator().manual_seed(0) if rounds else context.random.device
        shuffled = torch.randperm(len(columns["index"]), generator=self.random, device=device)
        scored = {name: column.to(device)[shuffled] for name, column in columns.items()}
        if self.order == "lowest":
            scored["score"] = -scored["score"]
        if rounds:
            self.kept = self.next_round(scored).to(context.device)
        elif self.keep is None:
            self.kept = self.by_rule(scored, [(torch.arange(len(shuffled), device=device), len(shuffled))])
        else:
            self.kept = self.chosen("keep", scored)
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

    def chosen(self, name: str, scored: dict[str, Tensor]) -> Tensor:
        """What the rule chooses, as many as the option of this name says; class by class, if they are balanced."""
        part = getattr(self, name)
        shares = list(self.shares(part, scored))
        for there, of, count in shares:
            if count > len(there):
                which = {"keep": "of them", "add": "that base has not", "drop": "that base has"}[name]
                raise UserError(
                    f"sampler.{name}={part:g} is {count} of {of} examples of {'a class' if self.balanced else 'all'}, "
                    f"and {self.file} scores only {len(there)} {which}; set {name} lower, or score more"
                )
        return self.by_rule(scored, [(there, count) for there, _, count in shares if count])

    def by_rule(self, scored: dict[str, Tensor], shares: list[tuple[Tensor, int]]) -> Tensor:
        """What the rule chooses: of each share, which are rows, as many as it says."""
        rule, index = self.context.select, scored["index"]
        if isinstance(rule, ChecksCount):
            for there, count in shares:
                rule.check(len(there), count)
        if isinstance(rule, ByFeatures) and rule.features is not None:
            features = self.context.read_features(rule.features)
            scored = {**scored, "features": features[index.to(features.device)].to(index.device)}
        found = [index[:0]]
        for there, count in shares:
            columns = {key: column[there] for key, column in scored.items()}
            chosen = rule(columns, count, self.random)
            check_choice(chosen, rule, len(there), count)
            found.append(columns["index"][chosen])
        return torch.cat(found)

    def shares(self, part: float, scored: dict[str, Tensor]) -> Iterator[tuple[Tensor, int, int]]:
        """Of each class, or of all: the rows of its examples, how many examples it has, and how many to choose.

        part: of all examples, whether or not they are in the columns.
        """
        index = scored["index"]
        labels = self.context.labels.to(index.device)
        if not self.balanced:
            yield torch.arange(len(index), device=index.device), len(labels), round(part * len(labels))
            return
        own, classes = labels[index], self.context.classes
        rows = own.argsort(stable=True).split(own.bincount(minlength=classes).tolist())
        sizes = labels.bincount(minlength=classes).tolist()
        counts = [round(part * size) for size in sizes]
        there, total = list(map(len, rows)), min(round(part * len(labels)), len(index))
        if self.quota == "equal":
            counts = evenly(there, total)
        elif self.quota == "recall":
            if "recall" not in scored:
                raise UserError(
                    f"sampler.quota=recall needs the column recall in {self.file}; a run with scores=... and "
                    "validation=... writes it"
                )
            wrong = [1 - float(scored["recall"][row].mean()) if len(row) else 0.0 for row in rows]
            counts = in_proportion(wrong, there, total)
        yield from zip(rows, sizes, counts, strict=True)

    def next_round(self, scored: dict[str, Tensor]) -> Tensor:
        """The base and what the rule chooses of the rest, or the base without its worst; in the examples' order."""
        kept = torch.zeros(self.context.n, dtype=torch.bool)
        if self.base:
            kept[self.context.read_kept(self.base).cpu()] = True
        elif self.drop is not None:
            kept[:] = True
        rows = (kept[scored["index"]] == (self.drop is not None)).nonzero()[:, 0]
        if self.drop is not None:
            rows, scored["score"] = rows.flip(0), -scored["score"]  # the worst, and of equal ones the last
        changed = self.chosen("add" if self.add is not None else "drop", {k: v[rows] for k, v in scored.items()})
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
