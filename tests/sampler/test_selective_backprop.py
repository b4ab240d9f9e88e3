"""Selective backprop, its floor, modes and stale looks."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import Looking, Stamp, sampler_of, sb, stamps
from torch import Tensor

from budgetrun.aug.ricap import RICAP
from budgetrun.contracts import Batch, Context, UserError
from budgetrun.sampler.selective_backprop import SelectiveBackprop


@settings(deadline=None, max_examples=60)
@given(
    batches=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=10),
    history=st.integers(1, 20),
    beta=st.floats(0, 5),
)
def test_the_chance_is_the_strict_percentile_in_a_history_that_holds_the_candidates(
    context_for: Callable[..., Context], batches: Any, history: Any, beta: Any
) -> None:
    sampler = SelectiveBackprop(beta=beta, history=history, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(10, 5))
    past: deque[float] = deque(maxlen=history)
    for losses in batches:
        chance = sampler.keep(torch.tensor(losses, dtype=torch.float32))
        past.extend(losses)
        expected = [(sum(h < loss for h in past) / len(past)) ** beta for loss in losses]
        np.testing.assert_allclose(chance, expected, atol=1e-6)


def test_the_history_is_the_last_1024_losses(context_for: Callable[..., Context]) -> None:
    """Losses 0, 1, 2, ... in batches of 128: a batch's own are the highest 128 of the 1024 remembered."""
    sampler = sampler_of("sb")
    sampler.start(context_for(10, 5))
    for start in range(0, 2048, 128):
        chance = sampler.keep(torch.arange(start, start + 128).float())
    torch.testing.assert_close(chance, (torch.arange(896, 1024) / 1024) ** 2)


def test_the_priming_epoch_trains_on_everything_without_looking(context_for: Callable[..., Context]) -> None:
    look = Looking(torch.rand(64, generator=torch.Generator().manual_seed(0)))
    sampler = SelectiveBackprop(beta=3, history=1024, prime=1.0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(64, 16, look=look))
    primed = torch.cat([sampler.draw().drawn for _ in range(4)])
    assert sorted(primed.tolist()) == list(range(64))
    assert not look.candidates
    assert len(sampler.losses) == 0
    sampler.draw()
    assert look.candidates


def test_with_beta_0_every_candidate_is_trained_on_in_the_order_of_the_stream(
    context_for: Callable[..., Context],
) -> None:
    look = Looking(torch.ones(30))
    sampler = SelectiveBackprop(beta=0, history=1024, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(30, 8, look=look))
    drawn = torch.cat([sampler.draw().drawn for _ in range(9)])
    assert torch.equal(drawn, look.drawn)


def test_kept_candidates_queue_up_in_order_and_none_is_lost(context_for: Callable[..., Context]) -> None:
    """In one pass every example is a candidate once, so that order and completeness can be read off the numbers."""
    n = 4000
    losses = torch.rand(n, generator=torch.Generator().manual_seed(1))
    look = Looking(losses)
    sampler = SelectiveBackprop(beta=2, history=1024, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(n, 40, look=look, aug=(RICAP(beta=0.3, draw="image"),)))
    batches = [sampler.draw() for _ in range(25)]
    assert all(len(batch) == 40 for batch in batches)
    candidates = look.drawn.tolist()
    assert len(set(candidates)) == len(candidates)
    place = {example: position for position, example in enumerate(candidates)}
    trained = [place[i] for batch in batches for i in batch.drawn.tolist()]
    waiting = [place[i] for batch in sampler.queue for i in batch.drawn.tolist()]
    assert len(waiting) < 40
    assert trained + waiting == sorted(trained + waiting)
    # and in the very views that were looked at
    views = Batch.cat(look.candidates)
    assert torch.equal(Batch.cat(batches).images, views[torch.tensor(trained)].images)
    assert torch.equal(Batch.cat(batches).index, views[torch.tensor(trained)].index)


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_about_one_in_beta_plus_one_is_kept_and_the_hard_win_by_the_power_law(
    context_for: Callable[..., Context], beta: float
) -> None:
    n = 40_000
    losses = torch.rand(n, generator=torch.Generator().manual_seed(4))
    look = Looking(losses)
    sampler = SelectiveBackprop(beta=beta, history=1024, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(n, 64, look=look))
    trained = torch.cat([sampler.draw().drawn for _ in range(120)])
    assert len(trained) / len(look.drawn) == pytest.approx(1 / (beta + 1), rel=0.05)
    # of what is kept, the share below the loss x is x^(beta + 1)
    fifths = torch.bincount((losses[trained] * 5).long(), minlength=5) / len(trained)
    expected = torch.diff((torch.arange(6) / 5) ** (beta + 1))
    torch.testing.assert_close(fifths, expected, atol=0.015, rtol=0)


def test_equal_losses_end_with_a_sentence_and_not_in_an_endless_search(context_for: Callable[..., Context]) -> None:
    sampler = SelectiveBackprop(beta=2, history=1024, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(50, 10, look=Looking(torch.full((50,), 0.5))))
    with pytest.raises(UserError, match="all equal"):
        sampler.draw()


def test_losses_that_become_equal_end_the_search_also_when_some_images_wait_in_the_queue(
    context_for: Callable[..., Context],
) -> None:
    look = Looking(torch.rand(50, generator=torch.Generator().manual_seed(0)))
    sampler = SelectiveBackprop(beta=2, history=100, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(50, 10, look=look))
    while not sum(map(len, sampler.queue)):
        sampler.draw()
    look.losses = torch.full((50,), 0.5)
    with pytest.raises(UserError, match="all equal"):  # not at once: the history still holds lower losses
        [sampler.draw() for _ in range(10)]


def test_losses_that_are_not_numbers_do_not_make_an_endless_search(context_for: Callable[..., Context]) -> None:
    """They may be trained on, where the loop notices them, or end in a sentence."""
    look = Looking(torch.full((50,), float("nan")))
    sampler = SelectiveBackprop(beta=2, history=100, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(50, 10, look=look))
    with contextlib.suppress(UserError):
        assert len(sampler.draw()) == 10


@settings(deadline=None, max_examples=60)
@given(
    batches=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=10),
    history=st.integers(1, 20),
    beta=st.floats(0, 5),
    floor=st.floats(0, 1),
)
def test_sb_keeps_with_the_strict_percentile_to_the_power_of_beta_but_never_below_the_floor(
    context_for: Callable[..., Context], batches: Any, history: Any, beta: Any, floor: Any
) -> None:
    sampler = sb(beta=beta, history=history, floor=floor)
    sampler.start(context_for(10, 5))
    past: deque[float] = deque(maxlen=history)
    for losses in batches:
        chance = sampler.keep(torch.tensor(losses, dtype=torch.float32))
        past.extend(losses)
        expected = [max(floor, (sum(h < loss for h in past) / len(past)) ** beta) for loss in losses]
        np.testing.assert_allclose(chance, expected, atol=1e-6)


@pytest.mark.parametrize(("beta", "floor"), [(1.0, 0.3), (3.0, 0.05), (2.0, 0.5), (2.0, 1.0), (0.0, 0.4)])
def test_sb_looks_at_once_at_as_many_candidates_as_the_power_law_above_the_floor_keeps_on_average(
    context_for: Callable[..., Context], beta: float, floor: float
) -> None:
    """The mean of max(floor, u^beta) over uniform u, by a sum over 100,000 values of u."""
    u = (np.arange(100_000) + 0.5) / 100_000
    rate = np.maximum(floor, u**beta).mean()
    look = Looking(torch.rand(40_000, generator=torch.Generator().manual_seed(4)))
    sampler = sb(beta=beta, floor=floor)
    sampler.start(context_for(40_000, 64, look=look))
    assert sampler.candidates_for_one == pytest.approx(1 / rate, rel=1e-4)
    trained = torch.cat([sampler.draw().drawn for _ in range(100)])
    waiting = sum(map(len, sampler.queue))
    assert (len(trained) + waiting) / len(look.drawn) == pytest.approx(rate, rel=0.05)
    # of what is kept, each fifth of the losses has the share that the law says
    fifths = torch.bincount((look.losses[trained] * 5).long(), minlength=5) / len(trained)
    expected = np.maximum(floor, u**beta).reshape(5, -1).sum(1) / np.maximum(floor, u**beta).sum()
    torch.testing.assert_close(fifths.double(), torch.tensor(expected), atol=0.02, rtol=0)


def test_with_a_floor_equal_losses_are_kept_at_its_rate_and_end_nothing(context_for: Callable[..., Context]) -> None:
    look = Looking(torch.full((500,), 0.5))
    sampler = sb(floor=0.25)
    sampler.start(context_for(500, 10, look=look))
    trained = [sampler.draw() for _ in range(200)]
    kept = sum(map(len, trained)) + sum(map(len, sampler.queue))
    candidates = len(look.drawn)
    # 8000 candidates: a binomial count within four standard deviations
    assert abs(kept - candidates / 4) < 4 * (candidates * 0.25 * 0.75) ** 0.5


def test_nearly_equal_losses_end_a_search_that_keeps_next_to_nothing(context_for: Callable[..., Context]) -> None:
    losses = torch.zeros(2000)
    losses[0] = 1  # one of an epoch, of twenty for an update
    look = Looking(losses)
    sampler = sb()
    sampler.start(context_for(2000, 20, look=look))
    with pytest.raises(UserError, match=r"kept 1\d of its last 26\d\d\d candidates .* nearly all equal"):
        sampler.draw()


def test_the_most_selective_of_searches_ends_and_looks_at_no_more_at_once_than_there_are(
    context_for: Callable[..., Context],
) -> None:
    look = Looking(torch.rand(2000, generator=torch.Generator().manual_seed(0)))
    sampler = sb(beta=1000)
    sampler.start(context_for(2000, 4, look=look))
    trained = torch.cat([sampler.draw().drawn for _ in range(4)])
    assert (look.losses[trained] > 0.97).all()
    assert max(map(len, look.candidates)) == 2000


@pytest.mark.parametrize(("looks", "training"), [("eval", False), ("train", True)])
def test_sb_looks_in_the_mode_that_it_is_told(context_for: Callable[..., Context], looks: str, training: bool) -> None:
    look = Looking(torch.rand(40, generator=torch.Generator().manual_seed(0)))
    sampler = sb(looks=looks)
    sampler.start(context_for(40, 8, look=look))
    for _ in range(5):
        sampler.draw()
    assert set(look.modes) == {training}


def spied(sampler: SelectiveBackprop) -> list[Tensor]:
    """The losses by which the sampler decides, a tensor a decision."""
    seen, really = [], sampler.keep

    def keep(losses: Tensor) -> Tensor:
        seen.append(losses.clone())
        return really(losses)

    sampler.keep = keep
    return seen


@pytest.mark.parametrize("stale", [2, 3])
def test_stale_sb_looks_at_every_example_once_in_every_nth_epoch_and_at_none_in_between(
    context_for: Callable[..., Context], stale: int
) -> None:
    n = 90
    look = Looking(torch.rand(n, generator=torch.Generator().manual_seed(3)))
    sampler = sb(stale=stale)
    sampler.start(context_for(n, 8, look=look))
    decided = spied(sampler)
    while sampler.taken < 7 * n:
        sampler.draw()
    decisions = torch.cat(decided)[: 7 * n].view(7, n)
    for epoch in decisions:  # every example is a candidate once per epoch, looked at or not, with its own loss
        torch.testing.assert_close(epoch.sort().values, look.losses.sort().values, atol=0, rtol=0)
    epochs = look.drawn[: len(look.drawn) // n * n].view(-1, n)
    assert all(sorted(epoch.tolist()) == list(range(n)) for epoch in epochs)
    looked_before = len(range(0, 7, stale)) * n
    assert looked_before <= len(look.drawn) <= looked_before + n
    assert (7 * n - looked_before) / (7 * n) > 0.4  # what it is for: the forward passes that are not made


def test_stale_sb_decides_by_the_losses_of_the_last_look_and_not_of_an_earlier_one(
    context_for: Callable[..., Context],
) -> None:
    """The losses are other ones in every epoch: candidate i has the loss i + 1000 x the epoch of the look."""
    n, stale = 60, 3
    look = Looking(torch.arange(n).float())
    sampler = sb(stale=stale, beta=1, history=n)
    sampler.start(context_for(n, 4, look=look))
    decided = spied(sampler)
    while sampler.taken < 8 * n:
        look.losses = torch.arange(n) + 1000.0 * (sampler.taken // n)
        before = sampler.taken
        sampler.draw()
        assert sampler.taken - before <= 2 * n
    epochs = torch.cat(decided)[: 7 * n].view(7, n)
    # a draw may begin in one epoch and look in the next: its losses are of the epoch in which it began
    last = [float(epoch.div(1000, rounding_mode="floor").max()) for epoch in epochs]
    assert last == [0, 0, 0, 3, 3, 3, 6]
    for epoch in epochs:
        assert sorted((epoch % 1000).tolist()) == list(range(n))


def test_stale_sb_keeps_hard_examples_by_the_same_power_law_in_epochs_without_a_look(
    context_for: Callable[..., Context],
) -> None:
    n, beta = 20_000, 2.0
    losses = torch.rand(n, generator=torch.Generator().manual_seed(4))
    look = Looking(losses)
    sampler = sb(stale=1000, beta=beta)
    sampler.start(context_for(n, 64, look=look))
    while sampler.taken < n:
        sampler.draw()
    looked, taken = len(look.drawn), sampler.taken
    sampler.draw()  # may still hold what waited in the queue
    trained = torch.cat([sampler.draw().drawn for _ in range(200)])
    assert len(look.drawn) == looked == n
    assert len(trained) / (sampler.taken - taken) == pytest.approx(1 / (beta + 1), rel=0.05)
    fifths = torch.bincount((losses[trained] * 5).long(), minlength=5) / len(trained)
    expected = torch.diff((torch.arange(6) / 5) ** (beta + 1))
    torch.testing.assert_close(fifths, expected, atol=0.015, rtol=0)


def test_chance_decides_anew_in_every_stale_epoch(context_for: Callable[..., Context]) -> None:
    n = 400
    sampler = sb(stale=3, beta=1)
    sampler.start(context_for(n, 10, look=Looking(torch.rand(n, generator=torch.Generator().manual_seed(1)))))
    kept: list[set[int]] = [set(), set(), set()]
    while sampler.taken < 3 * n:
        epoch = sampler.taken // n
        for i in sampler.draw().drawn.tolist():
            kept[epoch].add(i)
    assert len(kept[1] & kept[2]) < 0.85 * min(map(len, kept))  # 2/3 of either, where the same losses decide


def test_a_stale_epoch_trains_on_fresh_views_of_what_it_keeps_and_makes_no_others(
    context_for: Callable[..., Context],
) -> None:
    n, stamp = 80, Stamp()
    look = Looking(torch.rand(n, generator=torch.Generator().manual_seed(2)))
    sampler = sb(stale=2, beta=1)
    sampler.start(context_for(n, 8, look=look, aug=(stamp,)))
    batches = []
    while sampler.taken < 2 * n:
        batches.append(sampler.draw())
    looked = {s for batch in look.candidates for s in stamps(batch)}
    trained = [s for batch in [*batches, *sampler.queue] for s in stamps(batch)]
    assert len(set(trained)) == len(trained)  # no view is trained on twice
    fresh = [s for s in trained if s not in looked]
    assert len(looked) == n
    assert sorted({*looked, *fresh}) == list(range(1, n + len(fresh) + 1))
    assert 20 < len(fresh) < 60  # about half of the 80 candidates


def test_under_mixing_a_look_tells_an_example_the_mean_by_share_of_the_losses_of_its_images(
    context_for: Callable[..., Context],
) -> None:
    """Against a loop over images and sources; RICAP leaves some examples out of every image."""
    n = 120
    generator = torch.Generator().manual_seed(5)
    rows: list[tuple[Batch, Tensor]] = []

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        losses = torch.rand(len(batch), generator=generator)
        rows.append((batch, losses))
        return losses, torch.zeros(len(batch), 4)

    sampler = sb(stale=2, beta=0)
    sampler.start(context_for(n, 12, look=look, aug=(RICAP(beta=0.3, draw="image"),)))
    while sampler.taken < n:
        sampler.draw()
    total, share = np.zeros(n), np.zeros(n)
    for batch, losses in rows:
        for row, loss in enumerate(losses.tolist()):
            for i, s in zip(batch.index[row].tolist(), batch.share[row].tolist(), strict=True):
                total[i] += s * loss
                share[i] += s
    expected = np.full(n, np.inf)
    expected[share > 0] = total[share > 0] / share[share > 0]
    assert 0 < np.isinf(expected).sum() < n / 4
    decided = spied(sampler)
    looked = len(rows)
    while sampler.taken < 2 * n:
        sampler.draw()
    assert len(rows) == looked
    np.testing.assert_allclose(np.sort(torch.cat(decided)[:n]), np.sort(expected), rtol=1e-5)


def test_a_priming_that_ends_within_an_epoch_is_followed_by_looks_to_the_end_of_that_epoch_and_in_the_next(
    context_for: Callable[..., Context],
) -> None:
    """n = 40 and b = 16: three batches prime 48, so 32 of epoch 1 are looked at, 40 of epoch 2, none of 3, 40 of 4."""
    n = 40
    look = Looking(torch.rand(n, generator=torch.Generator().manual_seed(0)))
    sampler = sb(stale=2, prime=1.0)
    sampler.start(context_for(n, 16, look=look))
    primed = [sampler.draw() for _ in range(3)]
    assert not look.candidates
    decided = spied(sampler)
    looked_by = {}
    for epoch in (1, 2, 3, 4):
        while sampler.taken < (epoch + 1) * n:
            sampler.draw()
        sizes = np.cumsum([48, *map(len, decided)])
        assert (epoch + 1) * n in sizes  # no decision is on candidates of two epochs
        looked_by[epoch] = len(look.drawn)
    # a draw that ends an epoch may go on to the next one
    assert 32 <= looked_by[1] <= 72
    assert looked_by[2] == 72
    assert 72 <= looked_by[3] <= 112
    assert looked_by[4] == 112
    assert sorted([*torch.cat([b.drawn for b in primed]).tolist()[40:], *look.drawn[:32].tolist()]) == list(range(n))
    assert sorted(look.drawn[32:72].tolist()) == list(range(n))


def test_equal_losses_end_a_stale_search_with_a_sentence_too(context_for: Callable[..., Context]) -> None:
    look = Looking(torch.rand(50, generator=torch.Generator().manual_seed(0)))
    sampler = sb(stale=100_000, history=100)
    sampler.start(context_for(50, 10, look=look))
    while sampler.taken < 50:
        sampler.draw()
    sampler.told[0] = 0.5 * sampler.told[1]
    with pytest.raises(UserError, match="all equal"):  # not at once: the history still holds lower losses
        [sampler.draw() for _ in range(20)]
    assert len(look.drawn) == 50


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"stale": 0}, "stale=0 must be at least 1"),
        ({"floor": -0.1}, "floor=-0.1 must be in"),
        ({"floor": 1.5}, "floor=1.5 must be in"),
        ({"looks": "test"}, "looks=test is not one of eval, train"),
    ],
)
def test_options_of_sb_that_make_no_sense_are_refused(bad: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sb(**bad)
