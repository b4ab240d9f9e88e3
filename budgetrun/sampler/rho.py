"""RHO: the examples whose loss can still be reduced, given a file of irreducible losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from budgetrun.contracts import Batch, Context, UserError, several_paths
from budgetrun.sampler._looking import check_looks


@dataclass
class RHO:
    """Look at a uniform pool of `pool x b` images; train on the b of highest loss minus irreducible loss, unweighted.

    The irreducible loss of an example is that of a network trained on held-out data alone; it is read from a file:
    `train_on=validation validation=0.5 scores=loss scores.of=validation` makes it, and the same `validation=0.5` uses
    it. A mixed image has the mean of its sources' losses, by share (ours). The view that was looked at is trained on.
    Source: Mindermann et al. 2022, and their code (pool 10: 32 of 320; CIFAR-10 in two halves). Their
    held-out network is the checkpoint of lowest validation loss, ours the last one. They train with AdamW at 0.001:
    with SGD at 0.1, a pool of 10 collapses on half of the digits (36%; 3: 98.9%, uniform 98.3%; budget 0.3, one seed).
    Cost of an update: `pool b F + b (F + B)`; the result's `flops_before` is the file's.

    file: path; with * or ?, or commas, several files together, as in sampler=subset. pool: multiple of the batch size.
    looks: "train", in training mode as their code does (BatchNorm uses the pool, part by part, and learns from it), or
    "eval". looks_scale: size of the images in looks, of each side, in `(0, 1]`; bilinear.
    """

    neutral: ClassVar = {"looks_scale": 1.0}

    file: str | None
    pool: float
    looks: str
    looks_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.file:
            raise ValueError(
                "file is not set: it names the irreducible losses, as a run with train_on=validation validation=0.5 "
                "scores=loss scores.of=validation writes them"
            )
        if not 1 <= self.pool <= 1000:
            raise ValueError(f"pool={self.pool} must be in [1, 1000] (batches looked at for one trained on)")
        check_looks(self.looks_scale, self.looks)
        self.file = several_paths("file", self.file)

    def start(self, context: Context) -> None:
        assert self.file is not None
        self.context = context
        columns = context.read_scores(self.file)
        if len(columns["index"]) < context.n:
            missing = context.n - len(columns["index"])
            raise UserError(f"sampler.file: {self.file} has no irreducible loss for {missing} of {context.n} examples")
        self.irreducible = columns["score"]
        self.size = int(self.pool * context.batch_size)
        self.stream = context.stream(context.permutation)

    def draw(self) -> Batch:
        pool = self.stream.take(self.size)
        losses, _ = self.context.look(pool, self.looks == "train", self.looks_scale)
        reducible = losses - pool.of_sources(self.irreducible)
        return pool[reducible.topk(self.context.batch_size).indices]

    def observe(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)
