"""The state of every sampler: saved in the midst of its work, it goes on as if it had not stopped."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli import SAMPLERS
from samplers import (
    CPU,
    OURS,
    Looking,
    batch_of,
    by_batches,
    file_of,
    importance,
    osgd,
    sampler_of,
    sb,
    started,
    through_a_file,
)
from torch import Tensor

from budgetrun.aug.crop import Crop
from budgetrun.aug.mixup import Mixup
from budgetrun.aug.ricap import RICAP
from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Context, Random
from budgetrun.sampler.hard_batches import HardBatches
from budgetrun.sampler.selective_backprop import SelectiveBackprop
from budgetrun.train import run


def train_on(sampler: Any, look: Looking, logits: Tensor, updates: int) -> list[Batch]:
    batches = []
    for _ in range(updates):
        batch = sampler.draw()
        batches.append(batch)
        sampler.observe(batch, look.losses[batch.drawn], logits[batch.drawn])
    return batches


class Counting:
    """A second network whose losses shift with every update that it makes."""

    def __init__(self, look: Looking) -> None:
        self.inner, self.updates = look, 0

    def look(self, batch: Batch, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        losses, logits = self.inner(batch)
        return losses.roll(self.updates), logits

    def learn(self, batch: Batch) -> None:
        self.updates += 1

    def state_dict(self) -> dict[str, int]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.updates = state["updates"]


STATEFUL = [
    *((name, lambda name=name: sampler_of(name)) for name in SAMPLERS),
    ("is_open", lambda: importance(pool=3, threshold=0.0, momentum=0.9)),
]


@pytest.mark.parametrize("updates", [0, 3, 11])
@pytest.mark.parametrize("make", [m for _, m in STATEFUL], ids=[name for name, _ in STATEFUL])
def test_a_sampler_goes_on_from_a_saved_file_as_if_it_had_not_stopped(
    context_for: Callable[..., Context], make: Callable[..., Any], updates: int
) -> None:
    """Through torch.save and torch.load(weights_only=True), in the priming epoch (3 updates) and after it (11)."""
    generator = torch.Generator().manual_seed(8)
    logits = 3 * torch.randn(40, 4, generator=generator)
    look = Looking(F.cross_entropy(logits, torch.arange(40) % 4, reduction="none"))
    held = batch_of(list(range(10)), [i % 4 for i in range(10)])
    mixing = (RICAP(beta=0.3, draw="image"),)

    def started(aug_random: Random) -> Any:
        sampler = make()
        context = context_for(
            40,
            8,
            fraction=0.45,
            aug=mixing,
            aug_random=aug_random,
            look=lambda batch, training=False, scale=1.0: (look(batch)[0], logits[batch.drawn]),
            embed=lambda batch, scale=1.0: (logits[batch.drawn, :3], logits[batch.drawn]),
            validation=held,
            second=lambda model: Counting(look),
            read_scores=file_of(look.losses.tolist(), weight=(1 + look.losses).tolist()),
        )
        sampler.start(context)
        return sampler, context.random

    aug_random = Random.seeded(0, "aug", CPU)
    sampler, random = started(aug_random)
    train_on(sampler, look, logits, updates)
    file = io.BytesIO()
    states = {"sampler": sampler.state_dict(), "random": random.state_dict(), "aug": aug_random.state_dict()}
    torch.save(states, file)
    on = train_on(sampler, look, logits, 14)

    file.seek(0)
    states = torch.load(file, weights_only=True)
    aug_random = Random.seeded(99, "aug", CPU)
    sampler, random = started(aug_random)
    sampler.load_state_dict(states["sampler"])
    random.load_state_dict(states["random"])
    aug_random.load_state_dict(states["aug"])
    again = train_on(sampler, look, logits, 14)
    for before, after in zip(on, again, strict=True):
        for name, value in vars(before).items():
            other = getattr(after, name)
            assert (value is None and other is None) or torch.equal(value, other), name


def test_images_that_wait_in_the_queue_of_sb_are_saved(context_for: Callable[..., Context]) -> None:
    look = Looking(torch.rand(200, generator=torch.Generator().manual_seed(6)))
    sampler = SelectiveBackprop(beta=1, history=64, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(200, 10, look=look))
    while sum(map(len, sampler.queue)) < 2:
        sampler.draw()
    waiting = Batch.cat(sampler.queue)
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    other = SelectiveBackprop(beta=1, history=64, prime=0, stale=1, floor=0.0, looks="eval")
    other.start(context_for(200, 10, look=look, seed=1))
    other.load_state_dict(torch.load(file, weights_only=True))
    first = other.draw()
    assert torch.equal(first.drawn[: len(waiting)], waiting.drawn)
    assert torch.equal(first.images[: len(waiting)], waiting.images)


def test_the_samplers_of_the_configuration_are_the_six_of_the_papers() -> None:
    assert set(SAMPLERS) >= {"scan", "uniform", "p_sgd", "c_sgd", "is", "sb"}


def test_a_class_of_which_there_is_no_example_does_not_matter(context_for: Callable[..., Context]) -> None:
    """5 classes, of which the last has no example."""
    for name in OURS:
        sampler, _ = started(
            sampler_of(name),
            context_for,
            20,
            4,
            progress=0.5,
            classes=4,
            look=lambda batch, training=False, scale=1.0: (torch.rand(len(batch)), torch.randn(len(batch), 5)),
        )
        for _ in range(20):
            batch = sampler.draw()
            assert len(batch) == 4
            sampler.observe(batch, torch.rand(4), torch.randn(4, 5))
            assert batch.weight is None or batch.weight.isfinite().all()


BUSY = [
    *((name, {"warmup": 0}) for name in ("spv", "stc", "wpv", "wtc")),
    ("vr", {"threshold": 0.0}),
    ("online_batch", {"refresh": 0.4, "sort": 3}),
    ("infobatch", {}),
    ("self_paced", {"use": "weight"}),
    ("self_paced", {"use": "soft"}),
    ("self_paced", {"refresh": False}),
]


@pytest.mark.parametrize("updates", [3, 5, 7, 11])
@pytest.mark.parametrize(("name", "changes"), BUSY, ids=[name for name, _ in BUSY])
def test_a_sampler_in_the_midst_of_its_work_goes_on_as_if_it_had_not_stopped(
    context_for: Callable[..., Context], name: str, changes: dict[str, Any], updates: int
) -> None:
    """5 updates are an epoch: at any other a draw is open, with the weights of what is left of it."""
    test_a_sampler_goes_on_from_a_saved_file_as_if_it_had_not_stopped(
        context_for, lambda: sampler_of(name, **changes), updates
    )


@pytest.mark.parametrize("name", OURS)
def test_a_run_of_three_epochs_goes_through_all_of_the_method_and_costs_what_is_said(
    experiment_for: Callable[..., Experiment], name: str
) -> None:
    """The digits in 66 updates of 64, with RICAP: 22.5 updates per pass, and 44 or more after the first one."""
    refresh = ["sampler.refresh=1"] if name == "online_batch" else []
    opened = ["sampler.threshold=0"] if name == "vr" else []
    words = [f"sampler={name}", "aug=ricap", "budget=1", "epochs=3", "model.width=2", "evaluations=3"]
    result = run(experiment_for(*words, *refresh, *opened))
    looked = {"online_batch": 1438, "vr": 65 * 128}.get(name, 0)  # before update 44; before all but the first
    assert result["updates"] == 66
    assert result["examples_backward"] == 66 * 64
    assert result["examples_forward"] == 66 * 64 + looked
    assert ("effective_batch" in result) == (name in ("infobatch", "wpv", "wtc"))
    if "effective_batch" in result:
        assert 0.5 < result["effective_batch"] < 0.999
    # 2.94 shuffled passes are 0.003 from visiting all alike; the weights of wpv and wtc are no visits
    uneven = np.log(1438) - result["visits_entropy"]
    assert uneven < 0.005 if name in ("wpv", "wtc") else uneven > 0.01


AT_WORK = {
    "sb_stale": lambda: sb(stale=2, prime=0.5, floor=0.1, looks="train"),
    "sb_stale_of_three": lambda: sb(stale=3, beta=1),
    "sb_batchwise": lambda: by_batches(interrupt=3),
    "osgd_rows": lambda: osgd(thresholds=[0.05, 0.1], backward="rows"),
    "osgd_all_pass": lambda: osgd(thresholds=[0.05, 0.1], backward="all", accuracy="pass"),
    "hard_batches": lambda: HardBatches(delta=0.5, shuffle=True),
    "hard_batches_in_order": lambda: HardBatches(delta=0.7, shuffle=False),
}


@pytest.mark.parametrize("updates", [1, 4, 6, 13])
@pytest.mark.parametrize("name", AT_WORK)
def test_a_sampler_saved_in_the_middle_of_an_epoch_goes_on_as_if_it_had_not_stopped(
    context_for: Callable[..., Context], name: str, updates: int
) -> None:
    generator = torch.Generator().manual_seed(8)
    logits = 2 * torch.randn(44, 4, generator=generator)
    losses = F.cross_entropy(logits, torch.arange(44) % 4, reduction="none")
    steps = (Crop(padding=1), Mixup(alpha=0.3, draw="image"))

    def started(seed: int) -> Any:
        sampler, aug_random = AT_WORK[name](), Random.seeded(seed, "aug", CPU)
        context = context_for(
            44, 8, seed=seed, aug=steps, aug_random=aug_random, look=Looking(losses, logits), progress=lambda: 0.5
        )
        sampler.start(context)
        return sampler, {"random": context.random, "aug": aug_random}

    def train(sampler: Any, count: int) -> list[Batch]:
        batches = []
        for update in range(count):
            batch = sampler.draw()
            sampler.observe(batch, losses[batch.drawn] * (1 + update % 3), logits[batch.drawn])
            batches.append(batch)
        return batches

    sampler, randoms = started(0)
    train(sampler, updates)
    states = through_a_file({"sampler": sampler.state_dict(), **{k: r.state_dict() for k, r in randoms.items()}})
    on = train(sampler, 15)
    again, randoms = started(1)  # of another seed: everything comes from the file
    again.load_state_dict(states["sampler"])
    for key, random in randoms.items():
        random.load_state_dict(states[key])
    for before, after in zip(on, train(again, 15), strict=True):
        for field, value in vars(before).items():
            other = getattr(after, field)
            assert (value is None and other is None) or torch.equal(value, other), field
