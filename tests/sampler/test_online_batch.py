"""Online batch selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from samplers import PLAUSIBLE, RICAPPED, Looking, sampler_of, started
from scipy.stats import chisquare
from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.sampler.online_batch import OnlineBatchSelection


def published_probabilities(n: int, s: float) -> np.ndarray:
    """P of the ranks 1 to n, as the formula stands."""
    p = np.exp(np.log(s) / n) ** -np.arange(1.0, n + 1)
    return p / p.sum()


@pytest.mark.parametrize(
    ("pressure", "final", "progress", "s"),
    [(100, 1, 0, 100), (100, 1, 0.5, 10), (100, 1, 1, 1), (8, 2, 0.5, 4), (1, 1, 0.3, 1)],
)
def test_ranks_are_drawn_with_the_probability_of_the_formula_at_the_pressure_of_the_moment(
    context_for: Callable[..., Context], pressure: int, final: int, progress: float, s: int
) -> None:
    sampler = OnlineBatchSelection(pressure=pressure, final=final, refresh=0, sort=1)
    started(sampler, context_for, 20, 8, progress)
    ranks = sampler.ranks(20_000)
    assert len(ranks) == 20_000
    counts = np.bincount(ranks, minlength=20)
    assert chisquare(counts, published_probabilities(20, s) * 20_000).pvalue > PLAUSIBLE


def test_the_first_rank_is_as_much_likelier_than_the_last_as_the_pressure_says_among_many() -> None:
    p = published_probabilities(60_000, 100)
    assert p[0] / p[-1] == pytest.approx(100, rel=1e-3)


def test_of_a_million_ranks_the_last_ones_too_have_each_a_chance_of_their_own(
    context_for: Callable[..., Context],
) -> None:
    """In float32 there is less than one number u a rank there: some would never be drawn and others twice as often."""
    sampler = OnlineBatchSelection(pressure=100, final=1, refresh=0, sort=1)
    started(sampler, context_for, 10, 8)
    sampler.context.n = 1_000_000
    counts = torch.bincount(sampler.ranks(10_000_000), minlength=1_000_000)[-20_000:].double()
    expected = torch.from_numpy(published_probabilities(1_000_000, 100))[-20_000:] * 10_000_000  # 0.47 each
    # counts of so many draws are Poisson's: these ratios have mean 1 and a variance of 2 + 1 / 0.47
    assert float(((counts - expected).square() / expected).mean()) == pytest.approx(1, abs=0.06)


def observed(sampler: OnlineBatchSelection, losses: Tensor, batch: Batch) -> None:
    sampler.observe(batch, losses[batch.drawn], torch.zeros(len(batch), 4))


def test_after_the_first_pass_examples_are_drawn_by_the_rank_of_their_loss(context_for: Callable[..., Context]) -> None:
    losses = torch.rand(15, generator=torch.Generator().manual_seed(2))
    sampler, _ = started(sampler_of("online_batch", sort=1), context_for, 15, 5)
    first = [sampler.draw() for _ in range(3)]
    for batch in first:
        observed(sampler, losses, batch)
    assert sorted(torch.cat([batch.drawn for batch in first]).tolist()) == list(range(15))
    times = torch.zeros(15)
    for _ in range(2000):
        batch = sampler.draw()
        assert len(batch) == 5
        assert batch.weight is None
        times += torch.bincount(batch.drawn, minlength=15)
    by_rank = times[losses.argsort(descending=True)]
    assert chisquare(by_rank, published_probabilities(15, 100) * 10_000).pvalue > PLAUSIBLE


def test_the_first_pass_of_online_batch_is_whole_updates_and_none_looks(context_for: Callable[..., Context]) -> None:
    sampler, _ = started(sampler_of("online_batch"), context_for, 11, 4)
    drawn = [sampler.draw().drawn for _ in range(3)]
    assert sorted(torch.cat(drawn)[:11].tolist()) == list(range(11))
    assert sampler.updates == 3
    sampler.draw()  # context_for refuses every look


def test_equal_losses_are_ranked_in_random_order(context_for: Callable[..., Context]) -> None:
    """Half of the examples are solved and half are not: within each half every example is as likely."""
    losses = torch.tensor([0.0, 1.0] * 4)
    sampler, _ = started(sampler_of("online_batch", sort=1), context_for, 8, 8)
    observed(sampler, losses, sampler.draw())
    times = sum(torch.bincount(sampler.draw().drawn, minlength=8) for _ in range(1000))
    p = published_probabilities(8, 100)
    expected = np.where(losses == 1, p[:4].mean(), p[4:].mean()) * 8000
    # 8 draws share a ranking, so that the counts spread more than those of independent draws
    assert np.abs(times.numpy() / expected - 1).max() < 0.2


def test_examples_of_which_nothing_is_known_rank_first(context_for: Callable[..., Context]) -> None:
    sampler, _ = started(sampler_of("online_batch"), context_for, 5, 5)
    sampler.latest.losses = torch.tensor([1.0, torch.inf, 9.0, 3.0, torch.inf])
    ranking = sampler.ranking().tolist()
    assert set(ranking[:2]) == {1, 4}
    assert ranking[2:] == [2, 3, 0]


def test_examples_are_ranked_anew_after_so_many_updates_and_not_before(context_for: Callable[..., Context]) -> None:
    sampler, _ = started(sampler_of("online_batch", sort=4), context_for, 16, 4)
    rankings = []
    for update in range(20):
        sampler.latest.losses = torch.rand(16, generator=torch.Generator().manual_seed(update))
        sampler.draw()
        rankings.append(tuple(sampler.ranked.tolist()))
    assert len(set(rankings[4:8])) == len(set(rankings[8:12])) == len(set(rankings[12:16])) == 1
    assert len(set(rankings[4:])) == 4
    for update in (4, 8, 12, 16):  # by the losses of that moment
        losses = torch.rand(16, generator=torch.Generator().manual_seed(update))
        assert rankings[update] == tuple(losses.argsort(descending=True).tolist())


def test_a_refresh_looks_at_every_example_as_it_is_and_ranks_by_what_it_saw(
    context_for: Callable[..., Context],
) -> None:
    """n / b = 5 updates per epoch: a refresh every 2 epochs is before the updates 10, 20 and 30, counted from 0."""
    look = Looking(torch.rand(20, generator=torch.Generator().manual_seed(3)))
    sampler, _ = started(sampler_of("online_batch", refresh=2, sort=1000), context_for, 20, 4, look=look, aug=RICAPPED)
    looked = []
    for _ in range(32):
        batch = sampler.draw()
        looked.append(sum(map(len, look.candidates)))
        sampler.observe(batch, torch.rand(4), torch.zeros(4, 4))
        if looked[-1] and len(looked) in (11, 21, 31):
            assert sampler.ranked.tolist() == look.losses.argsort(descending=True).tolist()
            look.losses = look.losses.roll(1)
    assert looked == [0] * 10 + [20] * 10 + [40] * 10 + [60] * 2
    for batch in look.candidates:
        assert batch.index.shape[1] == 1
        assert torch.equal(batch.images, sampler.context.view.plain(batch.drawn).images)
    assert sorted(look.drawn.tolist()) == sorted(list(range(20)) * 3)


def test_fewer_examples_than_a_batch_are_drawn_with_repetition(context_for: Callable[..., Context]) -> None:
    sampler, _ = started(sampler_of("online_batch"), context_for, 3, 8)
    for _ in range(5):
        batch = sampler.draw()
        assert len(batch) == 8
        observed(sampler, torch.rand(3), batch)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pressure": 0.5},
        {"final": 0.0},
        {"refresh": -1.0},
        {"sort": 0},
        {"pressure": float("inf")},
        {"final": float("nan")},
    ],
)
def test_values_that_make_no_sense_for_online_batch_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        OnlineBatchSelection(**({"pressure": 100.0, "final": 1.0, "refresh": 0.0, "sort": 1} | wrong))
