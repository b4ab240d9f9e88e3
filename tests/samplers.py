"""Shared by the tests of samplers: samplers, batches, and what they look at."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from cli import FROM_FILES, TRAINING, Done, here, values_of
from torch import Tensor

from budgetrun.aug.ricap import RICAP
from budgetrun.config import build
from budgetrun.contracts import Batch, Context, Random, Sampler
from budgetrun.sampler.batchwise_selective_backprop import BatchwiseSelectiveBackprop
from budgetrun.sampler.importance import ImportanceSampling
from budgetrun.sampler.ordered_sgd import OrderedSGD
from budgetrun.sampler.selective_backprop import SelectiveBackprop
from budgetrun.sampler.subset import Subset

CPU = torch.device("cpu")


PLAUSIBLE = 1e-3  # a fixed seed either passes always or never; a wrong distribution is far below


def sampler_of(name: str, **changes: Any) -> Any:
    """The sampler of a YAML file, with these fields changed."""
    given = {"file": "given by the context"} if name in FROM_FILES else {}
    return build({**values_of("sampler", name), **given, **changes}, "sampler.", Sampler)


def importance(**changes: Any) -> ImportanceSampling:
    """`is` as published, but from shuffled passes, so that a pool of n images is all of them; these fields changed."""
    published = {"pool": 3, "threshold": None, "momentum": 0.9, "score": "bound", "weights": True}
    published |= {"looks": "eval", "replacement": False}
    return ImportanceSampling(**(published | changes))


def opened(sampler: ImportanceSampling) -> None:
    """Set the gate's average far above any threshold."""
    sampler.load_state_dict({**sampler.state_dict(), "tau": torch.tensor(9.0)})


def batch_of(index: list[int], label: list[int]) -> Batch:
    rows = torch.tensor(index)
    return Batch(
        torch.zeros(len(rows), 1, 1, 1),
        rows[:, None],
        torch.tensor(label)[:, None],
        torch.ones(len(rows), 1),
        drawn=rows,
    )


def mixed_batch(index: list[list[int]], classes: int, share: list[list[float]], drawn: list[int]) -> Batch:
    """Rows of K sources, where the label of an example is its number modulo the classes."""
    sources = torch.tensor(index)
    return Batch(
        torch.zeros(len(index), 1, 1, 1), sources, sources % classes, torch.tensor(share), drawn=torch.tensor(drawn)
    )


def logits_with(probability: list[float], label: list[int], classes: int) -> Tensor:
    """Logits [B, classes] whose softmax gives each label its probability, the others sharing the rest evenly."""
    p = torch.tensor(probability, dtype=torch.float64)
    rest = ((1 - p) / (classes - 1))[:, None].expand(-1, classes)
    return rest.scatter(1, torch.tensor(label)[:, None], p[:, None]).log().float()


class Looking:
    """Losses and logits per example, to look up; records what was looked at, in order, and in which mode."""

    def __init__(self, losses: Tensor, logits: Tensor | None = None) -> None:
        self.losses = losses
        self.logits = torch.zeros(len(losses), 4) if logits is None else logits
        self.candidates: list[Batch] = []
        self.modes: list[bool] = []

    def __call__(self, batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        self.candidates.append(batch)
        self.modes.append(training)
        assert len(self.candidates) < 20_000, "the sampler looks on without end"
        return self.losses[batch.drawn], self.logits[batch.drawn]

    @property
    def drawn(self) -> Tensor:
        return torch.cat([batch.drawn for batch in self.candidates])


OURS = ("infobatch", "online_batch", "spv", "stc", "vr", "wpv", "wtc")


RICAPPED = (RICAP(beta=0.3, draw="image"),)


def clock(progress: float = 0.0) -> SimpleNamespace:
    """A progress through the budget that a test sets by hand."""
    return SimpleNamespace(at=progress)


def started(
    sampler: Any, context_for: Callable[..., Context], n: int, batch_size: int, progress: float = 0.0, **options: Any
) -> tuple[Any, SimpleNamespace]:
    """The sampler, started over n examples, and its clock."""
    time = clock(progress)
    sampler.start(context_for(n, batch_size, progress=lambda: time.at, **options))
    return sampler, time


B = 64  # images per update, of digits' recipe


EPOCH = TRAINING // B


TINY = ("model.width=2", "epochs=1", "evaluations=1")


class Stamp:
    """Writes into each image which view it is, counted from 1, to tell two views of an example apart."""

    image_wise = True

    def __init__(self) -> None:
        self.views = 0

    def __call__(self, batch: Batch, random: Random) -> Batch:
        stamps = torch.arange(self.views + 1, self.views + len(batch) + 1)
        self.views += len(batch)
        images = stamps.float()[:, None, None, None].expand(-1, 3, 8, 8)
        return Batch(images, batch.index, batch.label, batch.share, batch.drawn)


def stamps(batch: Batch) -> list[int]:
    return batch.images[:, 0, 0, 0].long().tolist()


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def sb(**options: Any) -> SelectiveBackprop:
    plain = {"beta": 2.0, "history": 1024, "prime": 0.0, "stale": 1, "floor": 0.0, "looks": "eval"}
    return SelectiveBackprop(**(plain | options))


def by_batches(**options: Any) -> BatchwiseSelectiveBackprop:
    always = {"keep": 0.5, "begin": 0.0, "end": 1.0, "interrupt": 0, "looks": "train"}
    return BatchwiseSelectiveBackprop(**(always | options))


def osgd(**options: Any) -> OrderedSGD:
    plain = {"thresholds": [0.8, 0.9, 0.95, 0.995], "backward": "all", "accuracy": "running", "keep": 1.0}
    return OrderedSGD(**(plain | options))


def file_of(score: list[float], index: list[int] | None = None, **more: list[float]) -> Callable[..., Any]:
    """What a context reads from any file. more: further columns."""
    columns = {"index": torch.tensor(index or list(range(len(score)))), "score": torch.tensor(score)}
    return lambda file, acquisition=None: columns | {name: torch.tensor(column) for name, column in more.items()}


def subset(
    context: Any, keep: float | None = 0.5, order: str = "highest", balanced: bool = False, **options: Any
) -> Subset:
    nothing = dict.fromkeys(("acquisition", "base", "add", "drop"))
    fixed = {"file": "scores.csv", "keep": keep, "order": order, "balanced": balanced, "quota": "natural"}
    sampler = Subset(**(nothing | fixed | options))
    sampler.start(context)
    return sampler


def ran(line: str, cwd: Path) -> tuple[Done, dict[str, Any]]:
    """Run a command that must succeed in a folder of many runs; returns it and its result."""
    before = set(cwd.glob("outputs/*/result.json"))
    done = here(line, cwd)
    assert done.code == 0, done.err
    paths = set(cwd.glob("outputs/*/result.json")) - before
    return done, json.loads(paths.pop().read_text()) if paths else {}
