"""A proxy network."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli import here, refused
from samplers import ran
from torch import Tensor

from budgetrun.aug.mixup import Mixup
from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Context
from budgetrun.model.cnn import CNN
from budgetrun.sampler.proxy import Proxy
from budgetrun.training.budget import model_flops


class Small:
    """A second network that says these losses and remembers what it learnt from, and after how many looks."""

    def __init__(self, losses: Tensor) -> None:
        self.losses, self.looked, self.learnt = losses, [], []

    def look(self, batch: Batch, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        self.looked.append(batch)
        return self.losses[batch.drawn], torch.zeros(len(batch), 4)

    def learn(self, batch: Batch) -> None:
        self.learnt.append((len(self.looked), batch))


def test_the_proxy_picks_what_it_finds_hardest_and_learns_from_the_same_views_once_an_update(
    context_for: Callable[..., Context],
) -> None:
    small = Small(torch.rand(24, generator=torch.Generator().manual_seed(0)))
    asked = []
    sampler = Proxy(model=CNN(width=3), pool=2.0)
    aug = (Mixup(alpha=1.0, draw="image"),)
    sampler.start(context_for(24, 4, aug=aug, second=lambda model: asked.append(model) or small))
    assert asked == [CNN(width=3)]
    for update in range(1, 7):
        batch = sampler.draw()
        pool = small.looked[-1]
        assert len(small.looked) == len(small.learnt) == update
        assert len(pool) == 8  # no example is in it twice: there are 24
        rows = small.losses[pool.drawn].argsort(descending=True)[:4]
        assert torch.equal(batch.drawn, pool.drawn[rows])
        assert torch.equal(batch.images, pool.images[rows])
        after, learnt = small.learnt[-1]
        assert after == update
        assert torch.equal(learnt.images, batch.images)


def test_every_pass_of_the_proxy_is_charged_by_its_own_flops(tmp_path: Path) -> None:
    _, result = ran("sampler=proxy sampler.pool=2 sampler.model.width=3 model.width=5 budget=0.5 epochs=1", tmp_path)
    forward_small, update_small = model_flops(CNN(width=3).build(1, 10), torch.Size((1, 8, 8)))
    _, update = model_flops(CNN(width=5).build(1, 10), torch.Size((1, 8, 8)))
    assert result["updates"] == 11
    assert result["flops"] == 11 * 64 * (update + 2 * forward_small + update_small)
    assert result["selection_flops"] == pytest.approx(1 - 11 * 64 * update / result["flops"])


def test_the_proxy_itself_is_trained_and_its_choice_depends_on_it(tmp_path: Path) -> None:
    _, result = ran("sampler=proxy epochs=2", tmp_path)
    path = tmp_path / "outputs" / result["run_id"] / "checkpoint.pt"
    trained = torch.load(path)["sampler"]["proxy"]["net"]
    torch.manual_seed(0)
    fresh = CNN(width=4).build(1, 10).state_dict()
    assert trained.keys() == fresh.keys()
    assert trained["1.num_batches_tracked"] == 2 * 22  # once per update; looks are in evaluation mode
    assert result["visits_entropy"] < math.log(1438)


def test_a_nested_component_is_checked_and_is_part_of_the_experiment(
    tmp_path: Path, experiment_for: Callable[..., Experiment]
) -> None:
    refused(here("sampler=proxy sampler.model.widht=3", tmp_path), "sampler.model.widht", "sampler.model.width")
    refused(here("sampler=proxy sampler.model.width=abc", tmp_path), "sampler.model.width=abc", "whole number")
    refused(here("sampler=proxy sampler.model.width=0", tmp_path), "sampler.model.width=0", "at least 1")
    refused(here("sampler=proxy sampler.model=3", tmp_path), "sampler.model")
    refused(here("sampler=proxy sampler.model._target_=nowhere.Model", tmp_path), "sampler.model._target_")
    refused(here("sampler=proxy ~sampler.model", tmp_path), "sampler.model has no value")
    narrow, same, wide = (experiment_for("sampler=proxy", f"sampler.model.width={w}") for w in ("4", "'4'", "8"))
    assert narrow.run_id == same.run_id != wide.run_id
    assert wide.sampler.model == CNN(width=8)
    assert wide.resolved["sampler"]["model"] == {"_target_": "budgetrun.model.cnn.CNN", "width": 8}
