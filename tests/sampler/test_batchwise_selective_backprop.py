"""Selective backprop by batches."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from samplers import PLAUSIBLE, Looking, Stamp, by_batches, stamps
from scipy.stats import chisquare

from budgetrun.contracts import Context


def drawn_in_turn(chances: np.ndarray, count: int) -> dict[frozenset[int], float]:
    """The probability of every set of `count` places when each is drawn by chance from those that are left."""
    sets: dict[frozenset[int], float] = Counter()
    for order in itertools.permutations(range(len(chances)), count):
        probability, left = 1.0, chances.sum()
        for place in order:
            probability *= chances[place] / left
            left -= chances[place]
        sets[frozenset(order)] += probability
    return sets


@pytest.mark.parametrize(("size", "keep", "count"), [(4, 0.5, 2), (5, 0.4, 2), (5, 0.7, 3), (6, 0.2, 1)])
def test_a_part_of_a_batch_is_drawn_without_replacement_by_the_percentiles_to_the_power_of_1_over_keep_minus_1(
    context_for: Callable[..., Context], size: int, keep: float, count: int
) -> None:
    losses = torch.tensor([0.3, 0.1, 2.0, 0.7, 0.2, 1.1])[:size]
    ranks = losses.argsort().argsort()
    sampler = by_batches(keep=keep)
    sampler.start(context_for(size, size, look=Looking(losses)))
    times = Counter(frozenset(ranks[sampler.draw().drawn].tolist()) for _ in range(6000))
    sets = drawn_in_turn(((np.arange(size) + 0.5) / size) ** (1 / keep - 1), count)
    expected = np.array(list(sets.values()))
    assert expected.max() > 2 * expected.min()
    assert chisquare([times[places] for places in sets], 6000 * expected).pvalue > PLAUSIBLE


@pytest.mark.parametrize(("keep", "count"), [(0.5, 32), (0.3, 19), (0.99, 63), (1 / 64, 1)])
def test_the_part_is_int_of_keep_times_the_batch_of_distinct_images_in_the_views_that_were_looked_at(
    context_for: Callable[..., Context], keep: float, count: int
) -> None:
    stamp, look = Stamp(), Looking(torch.rand(640, generator=torch.Generator().manual_seed(0)))
    sampler = by_batches(keep=keep)
    sampler.start(context_for(640, 64, look=look, aug=(stamp,)))
    for number in range(12):
        batch = sampler.draw()
        assert len(batch) == count
        assert batch.weight is None
        assert len(look.candidates) == number + 1
        seen = dict(zip(stamps(look.candidates[-1]), look.candidates[-1].drawn.tolist(), strict=True))
        assert len(seen) == 64
        assert len(set(stamps(batch))) == count
        assert [seen[s] for s in stamps(batch)] == batch.drawn.tolist()


def test_a_keep_whose_powers_are_0_in_float32_takes_the_hardest(context_for: Callable[..., Context]) -> None:
    """keep = 0.01: (1/2 / 256)^99 is 1e-268, and the hardest fifth has all but 1e-10 of the chance."""
    losses = torch.rand(256, generator=torch.Generator().manual_seed(0))
    sampler = by_batches(keep=0.01)
    sampler.start(context_for(256, 256, look=Looking(losses)))
    drawn = torch.cat([sampler.draw().drawn for _ in range(50)])
    assert len(drawn) == 50 * 2
    assert (losses[drawn] > losses.sort().values[204]).all()


def test_of_equal_losses_every_example_is_as_likely(context_for: Callable[..., Context]) -> None:
    sampler = by_batches()
    sampler.start(context_for(12, 4, look=Looking(torch.full((12,), 0.5))))
    times = torch.zeros(12)
    for draw in range(9000):
        batch = sampler.draw()
        # one batch of each pass, so that the counts are of independent draws
        times += torch.bincount(batch.drawn[:1], minlength=12) * (draw % 3 == 0)
    assert chisquare(times.numpy()).pvalue > PLAUSIBLE


def published_rule(duration: float, place: int, begin: float, end: float, interrupt: int) -> bool:
    return begin <= duration < end and (interrupt == 0 or (place + 1) % interrupt != 0)


@pytest.mark.parametrize("interrupt", [0, 2, 3])
@pytest.mark.parametrize("epoch", [5, 8])  # the count of batches begins anew in every epoch
def test_it_chooses_in_a_part_of_the_run_and_is_interrupted_as_published(
    context_for: Callable[..., Context], interrupt: int, epoch: int
) -> None:
    updates = 41
    look = Looking(torch.rand(4 * epoch, generator=torch.Generator().manual_seed(0)))
    done = 0
    sampler = by_batches(begin=0.5, end=0.9, interrupt=interrupt)
    sampler.start(context_for(4 * epoch, 4, look=look, progress=lambda: done / (updates - 1)))
    sizes = []
    for _ in range(updates):
        sizes.append(len(sampler.draw()))
        done += 1
    chosen = [published_rule(t / (updates - 1), t % epoch, 0.5, 0.9, interrupt) for t in range(updates)]
    assert 0 < sum(chosen) < updates / 2
    assert sizes == [2 if c else 4 for c in chosen]
    assert len(look.candidates) == sum(chosen)


def test_an_end_of_1_holds_the_last_update_and_a_smaller_one_does_not(context_for: Callable[..., Context]) -> None:
    for end, size in ((1.0, 2), (0.99, 4)):
        sampler = by_batches(end=end)
        sampler.start(context_for(8, 4, look=Looking(torch.arange(8.0)), progress=lambda: 1.0))
        assert len(sampler.draw()) == size


def test_a_keep_of_1_is_plain_sgd_without_a_look(context_for: Callable[..., Context]) -> None:
    look = Looking(torch.rand(12))
    sampler = by_batches(keep=1.0)
    sampler.start(context_for(12, 4, look=look))
    drawn = torch.cat([sampler.draw().drawn for _ in range(3)])
    assert sorted(drawn.tolist()) == list(range(12))
    assert not look.candidates


@pytest.mark.parametrize(("looks", "training"), [("eval", False), ("train", True)])
def test_a_batch_is_looked_at_in_the_mode_that_is_told(
    context_for: Callable[..., Context], looks: str, training: bool
) -> None:
    look = Looking(torch.rand(12))
    sampler = by_batches(looks=looks)
    sampler.start(context_for(12, 4, look=look))
    sampler.draw()
    assert look.modes == [training]


def test_a_batch_larger_than_the_data_is_chosen_from_like_any_other(context_for: Callable[..., Context]) -> None:
    look = Looking(torch.arange(5.0))
    sampler = by_batches()
    sampler.start(context_for(5, 12, look=look))
    assert [len(sampler.draw()) for _ in range(3)] == [6] * 3


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"keep": 0.0}, "keep=0.0 must be in"),
        ({"keep": 1.1}, "keep=1.1 must be in"),
        ({"begin": 0.9, "end": 0.5}, "begin=0.9, end=0.5 must be parts"),
        ({"begin": -0.1}, "begin=-0.1"),
        ({"end": 1.5}, "end=1.5"),
        ({"interrupt": 1}, "interrupt=1 must be 0"),
        ({"interrupt": -2}, "interrupt=-2 must be 0"),
        ({"looks": "test"}, "looks=test is not one of"),
    ],
)
def test_options_of_sb_batchwise_that_make_no_sense_are_refused(bad: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        by_batches(**bad)
