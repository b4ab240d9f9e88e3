"""SeTa."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import PLAUSIBLE, sampler_of, started
from scipy.stats import chisquare

from budgetrun.config import Experiment
from budgetrun.contracts import Context, UserError
from budgetrun.model.cnn import CNN
from budgetrun.sampler.seta import SeTa, groups_of
from budgetrun.train import run
from budgetrun.training.budget import model_flops


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_those_of_k_means_worked_out_by_hand(seed: int) -> None:
    """Three losses around 1, one at 10, two around 21; with four groups, the widest of these is cut as well."""
    losses = np.array([0.0, 1.0, 2.0, 10.0, 20.0, 22.0])
    assert groups_of(losses, 3, np.random.default_rng(seed)).tolist() == [0, 3, 4, 6]
    assert groups_of(losses, 6, np.random.default_rng(seed)).tolist() == list(range(7))


def test_equal_losses_make_equal_groups() -> None:
    assert groups_of(np.full(10, 0.5), 5, np.random.default_rng(0)).tolist() == [0, 2, 4, 6, 8, 10]


@settings(deadline=None, max_examples=100)
@given(values=st.lists(st.integers(0, 40), min_size=2, max_size=60), groups=st.integers(1, 8), seed=st.integers(0, 9))
def test_every_loss_is_in_the_group_of_the_nearest_mean(values: Any, groups: Any, seed: Any) -> None:
    losses = np.sort(np.array(values, float))
    edges = groups_of(losses, groups, np.random.default_rng(seed))
    assert edges[0] == 0
    assert edges[-1] == len(losses)
    assert len(edges) == groups + 1
    assert (np.diff(edges) >= 0).all()
    if losses[0] == losses[-1]:
        return
    parts = [part for part in np.split(losses, edges[1:-1]) if len(part)]
    means = np.array([part.mean() for part in parts])
    for part, mean in zip(parts, means, strict=True):
        assert (np.abs(part - mean)[:, None] <= np.abs(part[:, None] - means) + 1e-9).all()


def sliding(context_for: Callable[..., Context], n: int, **changes: Any) -> tuple[SeTa, Any]:
    """A SeTa that has begun its first epoch; two examples each have losses near 0, 10, 20, ..."""
    sampler, time = started(sampler_of("seta", ratio=0.0, **changes), context_for, n, 2)
    assert sorted(sampler.plan().tolist()) == list(range(n))
    sampler.latest.losses = (torch.arange(n) // 2 * 10 + torch.arange(n) % 2).float()
    return sampler, time


@pytest.mark.parametrize(
    ("groups", "window", "begins"),
    [(5, 0.9, [1, 0, 1, 0, 1]), (4, 0.5, [1, 2, 0, 1, 2]), (5, 1.0, [0, 0, 0, 0, 0]), (5, 0.3, [1, 2, 3, 0, 1])],
)
def test_the_window_slides_by_a_group_an_epoch_from_the_second_one_on(
    context_for: Callable[..., Context], groups: int, window: float, begins: list[int]
) -> None:
    """5 x 0.9 is 4 groups, 4 x 0.5 and 5 x 0.3 are 2; epoch t = 1, 2, ... begins with group t mod (G - W + 1)."""
    size = {(5, 0.9): 4, (4, 0.5): 2, (5, 1.0): 5, (5, 0.3): 2}[groups, window]
    sampler, _ = sliding(context_for, 2 * groups, groups=groups, window=window)
    for begin in begins:
        assert sorted(sampler.plan().tolist()) == list(range(2 * begin, 2 * (begin + size)))


def test_the_order_of_an_epoch_is_random(context_for: Callable[..., Context]) -> None:
    sampler, _ = sliding(context_for, 4, groups=2, window=0.5)
    orders = Counter(tuple(sampler.plan().tolist()) for _ in range(2000))
    assert set(orders) == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert chisquare(list(orders.values())).pvalue > PLAUSIBLE


def test_an_example_that_was_not_seen_is_always_kept(context_for: Callable[..., Context]) -> None:
    sampler, _ = sliding(context_for, 10, window=0.2)
    sampler.latest.losses[[0, 9]] = torch.tensor([torch.inf, torch.nan])
    kept = [set(sampler.plan().tolist()) for _ in range(10)]
    assert all({0, 9} <= each for each in kept)
    assert len(set(map(frozenset, kept))) == 5  # groups of 1, 2, 2, 2 and 1 others


def test_a_random_part_is_left_out_and_once_delta_is_spent_that_alone(context_for: Callable[..., Context]) -> None:
    sampler, time = started(sampler_of("seta"), context_for, 45, 9)
    assert len(sampler.plan()) == 40  # int(0.9 x 45)
    sampler.latest.losses = torch.arange(45.0)
    time.at = 0.874
    assert 16 <= len(sampler.plan()) < 40
    time.at = 0.875
    parts = [sampler.plan().tolist() for _ in range(900)]
    assert {len(set(part)) for part in parts} == {40}
    left_out = torch.bincount(torch.tensor([i for part in parts for i in set(range(45)) - set(part)]), minlength=45)
    assert chisquare(left_out).pvalue > PLAUSIBLE


def test_a_window_without_an_example_is_the_whole_part(context_for: Callable[..., Context]) -> None:
    """Two losses cannot fill three groups: every third window of one group has none."""
    sampler, _ = sliding(context_for, 6, groups=3, window=0.34)
    sampler.latest.losses = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    kept = [sorted(sampler.plan().tolist()) for _ in range(3)]
    assert sorted(kept) == [[0, 1, 2], [0, 1, 2, 3, 4, 5], [3, 4, 5]]


def test_a_run_costs_what_uniform_costs_and_counts_what_it_leaves_out(
    experiment_for: Callable[..., Experiment],
) -> None:
    experiment = experiment_for("sampler=seta", "epochs=3", "model.width=2", "evaluations=1")
    result = run(experiment)
    _, update = model_flops(CNN(width=2).build(1, 10), torch.Size([1, 8, 8]))
    assert (result["updates"], result["flops"], result["looking_updates"]) == (66, 66 * 64 * update, 0)
    assert result["keep_rate"] == 4224 / (4224 + experiment.sampler.dropped)
    assert 0.4 < result["keep_rate"] < 0.9


def test_more_groups_than_examples_are_a_sentence(context_for: Callable[..., Context]) -> None:
    with pytest.raises(UserError, match=r"sampler.groups=50 is more than the 18 examples of an epoch"):
        started(sampler_of("seta", groups=50), context_for, 20, 4)


@pytest.mark.parametrize("wrong", [{"window": 0.0}, {"window": 1.1}, {"window": 0.05}, {"delta": 1.1}, {"groups": 0}])
def test_values_that_make_no_sense_for_seta_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))}="):
        SeTa(**({"ratio": 0.1, "groups": 5, "window": 0.9, "delta": 0.875} | wrong))
