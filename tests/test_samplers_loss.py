"""Samplers that go by the losses of candidates and batches: stale and floored selective backprop, selective backprop by
batches, ordered SGD, hard mini-batches."""

from __future__ import annotations

import io
import itertools
from collections import Counter, deque
from collections.abc import Callable
from math import comb

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli import TRAINING, here, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from budgetrun.aug.crop import Crop
from budgetrun.aug.mixup import Mixup
from budgetrun.aug.ricap import RICAP
from budgetrun.contracts import Batch, Random, UserError
from budgetrun.loss.cross_entropy import CrossEntropy
from budgetrun.model.cnn import CNN
from budgetrun.sampler.batchwise_selective_backprop import BatchwiseSelectiveBackprop
from budgetrun.sampler.hard_batches import HardBatches
from budgetrun.sampler.ordered_sgd import OrderedSGD
from budgetrun.sampler.selective_backprop import SelectiveBackprop
from budgetrun.train import run
from budgetrun.training.budget import model_flops

CPU = torch.device("cpu")
PLAUSIBLE = 1e-3  # a fixed seed either passes always or never; a wrong distribution is far below
B = 64  # images per update, of digits' recipe
EPOCH = TRAINING // B
TINY = ("model.width=2", "epochs=1", "evaluations=1")


class Looking:
    """Losses and logits an example, to look up; what was looked at, in order, and in which mode."""

    def __init__(self, losses: Tensor, logits: Tensor | None = None) -> None:
        self.losses = losses
        self.logits = torch.zeros(len(losses), 4) if logits is None else logits
        self.looks: list[Batch] = []
        self.modes: list[bool] = []

    def __call__(self, batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
        self.looks.append(batch)
        self.modes.append(training)
        assert len(self.looks) < 20_000, "the sampler looks on without end"
        return self.losses[batch.drawn], self.logits[batch.drawn]

    @property
    def drawn(self) -> Tensor:
        return torch.cat([batch.drawn for batch in self.looks])


class Stamp:
    """Writes into every image which view it is, counted from 1, so that a test can tell two views of an example."""

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


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---- selective backprop: floor, mode of the looks


def sb(**options) -> SelectiveBackprop:
    plain = {"beta": 2.0, "history": 1024, "prime": 0.0, "stale": 1, "floor": 0.0, "looks": "eval"}
    return SelectiveBackprop(**(plain | options))


@settings(deadline=None, max_examples=60)
@given(
    batches=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=10),
    history=st.integers(1, 20),
    beta=st.floats(0, 5),
    floor=st.floats(0, 1),
)
def test_sb_keeps_with_the_strict_percentile_to_the_power_of_beta_but_never_below_the_floor(
    context_for, batches, history, beta, floor
):
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
    context_for, beta, floor
):
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


def test_with_a_floor_equal_losses_are_kept_at_its_rate_and_end_nothing(context_for):
    look = Looking(torch.full((500,), 0.5))
    sampler = sb(floor=0.25)
    sampler.start(context_for(500, 10, look=look))
    trained = [sampler.draw() for _ in range(200)]
    kept = sum(map(len, trained)) + sum(map(len, sampler.queue))
    candidates = len(look.drawn)
    # 8000 candidates: a binomial count within four standard deviations
    assert abs(kept - candidates / 4) < 4 * (candidates * 0.25 * 0.75) ** 0.5


def test_nearly_equal_losses_end_a_search_that_keeps_next_to_nothing(context_for):
    losses = torch.zeros(2000)
    losses[0] = 1  # one of an epoch, of twenty for an update
    look = Looking(losses)
    sampler = sb()
    sampler.start(context_for(2000, 20, look=look))
    with pytest.raises(UserError, match=r"kept 1\d of its last 26\d\d\d candidates .* nearly all equal"):
        sampler.draw()


def test_the_most_selective_of_searches_ends_and_looks_at_no_more_at_once_than_there_are(context_for):
    look = Looking(torch.rand(2000, generator=torch.Generator().manual_seed(0)))
    sampler = sb(beta=1000)
    sampler.start(context_for(2000, 4, look=look))
    trained = torch.cat([sampler.draw().drawn for _ in range(4)])
    assert (look.losses[trained] > 0.97).all()
    assert max(map(len, look.looks)) == 2000


@pytest.mark.parametrize(("looks", "training"), [("eval", False), ("train", True)])
def test_sb_looks_in_the_mode_that_it_is_told(context_for, looks, training):
    look = Looking(torch.rand(40, generator=torch.Generator().manual_seed(0)))
    sampler = sb(looks=looks)
    sampler.start(context_for(40, 8, look=look))
    for _ in range(5):
        sampler.draw()
    assert set(look.modes) == {training}


# ---- selective backprop with stale looks


def spied(sampler: SelectiveBackprop) -> list[Tensor]:
    """The losses by which the sampler decides, a tensor a decision."""
    seen, really = [], sampler.keep

    def keep(losses: Tensor) -> Tensor:
        seen.append(losses.clone())
        return really(losses)

    sampler.keep = keep
    return seen


@pytest.mark.parametrize("stale", [2, 3])
def test_stale_sb_looks_at_every_example_once_in_every_nth_epoch_and_at_none_in_between(context_for, stale):
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


def test_stale_sb_decides_by_the_losses_of_the_last_look_and_not_of_an_earlier_one(context_for):
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


def test_stale_sb_keeps_hard_examples_by_the_same_power_law_in_epochs_without_a_look(context_for):
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


def test_chance_decides_anew_in_every_stale_epoch(context_for):
    n = 400
    sampler = sb(stale=3, beta=1)
    sampler.start(context_for(n, 10, look=Looking(torch.rand(n, generator=torch.Generator().manual_seed(1)))))
    kept: list[set[int]] = [set(), set(), set()]
    while sampler.taken < 3 * n:
        epoch = sampler.taken // n
        for i in sampler.draw().drawn.tolist():
            kept[epoch].add(i)
    assert len(kept[1] & kept[2]) < 0.85 * min(map(len, kept))  # 2/3 of either, where the same losses decide


def test_a_stale_epoch_trains_on_fresh_views_of_what_it_keeps_and_makes_no_others(context_for):
    n, stamp = 80, Stamp()
    look = Looking(torch.rand(n, generator=torch.Generator().manual_seed(2)))
    sampler = sb(stale=2, beta=1)
    sampler.start(context_for(n, 8, look=look, aug=(stamp,)))
    batches = []
    while sampler.taken < 2 * n:
        batches.append(sampler.draw())
    looked = {s for batch in look.looks for s in stamps(batch)}
    trained = [s for batch in [*batches, *sampler.queue] for s in stamps(batch)]
    assert len(set(trained)) == len(trained)  # no view is trained on twice
    fresh = [s for s in trained if s not in looked]
    assert len(looked) == n
    assert sorted({*looked, *fresh}) == list(range(1, n + len(fresh) + 1))
    assert 20 < len(fresh) < 60  # about half of the 80 candidates


def test_under_mixing_a_look_tells_an_example_the_mean_by_share_of_the_losses_of_its_images(context_for):
    """Against a loop over images and sources; RICAP leaves some examples out of every image."""
    n = 120
    generator = torch.Generator().manual_seed(5)
    rows: list[tuple[Batch, Tensor]] = []

    def look(batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
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


def test_a_priming_that_ends_within_an_epoch_is_followed_by_looks_to_the_end_of_that_epoch_and_in_the_next(context_for):
    """n = 40 and b = 16: three batches prime 48, so 32 of epoch 1 are looked at, 40 of epoch 2, none of 3, 40 of 4."""
    n = 40
    look = Looking(torch.rand(n, generator=torch.Generator().manual_seed(0)))
    sampler = sb(stale=2, prime=1.0)
    sampler.start(context_for(n, 16, look=look))
    primed = [sampler.draw() for _ in range(3)]
    assert not look.looks
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


def test_equal_losses_end_a_stale_search_with_a_sentence_too(context_for):
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
def test_options_of_sb_that_make_no_sense_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        sb(**bad)


# ---- selective backprop by batches


def by_batches(**options) -> BatchwiseSelectiveBackprop:
    always = {"keep": 0.5, "begin": 0.0, "end": 1.0, "interrupt": 0, "looks": "train"}
    return BatchwiseSelectiveBackprop(**(always | options))


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
    context_for, size, keep, count
):
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
    context_for, keep, count
):
    stamp, look = Stamp(), Looking(torch.rand(640, generator=torch.Generator().manual_seed(0)))
    sampler = by_batches(keep=keep)
    sampler.start(context_for(640, 64, look=look, aug=(stamp,)))
    for number in range(12):
        batch = sampler.draw()
        assert len(batch) == count
        assert batch.weight is None
        assert len(look.looks) == number + 1
        seen = dict(zip(stamps(look.looks[-1]), look.looks[-1].drawn.tolist(), strict=True))
        assert len(seen) == 64
        assert len(set(stamps(batch))) == count
        assert [seen[s] for s in stamps(batch)] == batch.drawn.tolist()


def test_a_keep_whose_powers_are_0_in_float32_takes_the_hardest(context_for):
    """keep = 0.01: (1/2 / 256)^99 is 1e-268, and the hardest fifth has all but 1e-10 of the chance."""
    losses = torch.rand(256, generator=torch.Generator().manual_seed(0))
    sampler = by_batches(keep=0.01)
    sampler.start(context_for(256, 256, look=Looking(losses)))
    drawn = torch.cat([sampler.draw().drawn for _ in range(50)])
    assert len(drawn) == 50 * 2
    assert (losses[drawn] > losses.sort().values[204]).all()


def test_of_equal_losses_every_example_is_as_likely(context_for):
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
def test_it_chooses_in_a_part_of_the_run_and_is_interrupted_as_published(context_for, interrupt, epoch):
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
    assert len(look.looks) == sum(chosen)


def test_an_end_of_1_holds_the_last_update_and_a_smaller_one_does_not(context_for):
    for end, size in ((1.0, 2), (0.99, 4)):
        sampler = by_batches(end=end)
        sampler.start(context_for(8, 4, look=Looking(torch.arange(8.0)), progress=lambda: 1.0))
        assert len(sampler.draw()) == size


def test_a_keep_of_1_is_plain_sgd_without_a_look(context_for):
    look = Looking(torch.rand(12))
    sampler = by_batches(keep=1.0)
    sampler.start(context_for(12, 4, look=look))
    drawn = torch.cat([sampler.draw().drawn for _ in range(3)])
    assert sorted(drawn.tolist()) == list(range(12))
    assert not look.looks


@pytest.mark.parametrize(("looks", "training"), [("eval", False), ("train", True)])
def test_a_batch_is_looked_at_in_the_mode_that_is_told(context_for, looks, training):
    look = Looking(torch.rand(12))
    sampler = by_batches(looks=looks)
    sampler.start(context_for(12, 4, look=look))
    sampler.draw()
    assert look.modes == [training]


def test_a_batch_larger_than_the_data_is_chosen_from_like_any_other(context_for):
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
def test_options_of_sb_batchwise_that_make_no_sense_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        by_batches(**bad)


# ---- ordered SGD


def osgd(**options) -> OrderedSGD:
    plain = {"thresholds": [0.8, 0.9, 0.95, 0.995], "backward": "all", "accuracy": "running"}
    return OrderedSGD(**(plain | options))


def logits_right_for(label: Tensor, right: int) -> Tensor:
    """Logits [B, 4] whose largest is the label in the first `right` rows and another class in the rest."""
    predicted = label.clone()
    predicted[right:] = (predicted[right:] + 1) % 4
    return F.one_hot(predicted, 4).float()


def published_q(accuracies: list[float], s: int) -> list[int]:
    """q of each epoch, given the training accuracy at the end of the one before; at least 1."""
    q, qs = s, [s]
    for accuracy in accuracies:
        for threshold, part in ((0.8, 2), (0.9, 4), (0.95, 8), (0.995, 16)):
            if accuracy >= threshold:
                q = min(q, max(1, int(s / part)))
        qs.append(q)
    return qs


@settings(deadline=None, max_examples=40)
@given(
    right=st.lists(st.integers(150, 200), min_size=1, max_size=7),
    s=st.sampled_from([4, 10, 20, 40, 200]),
    backward=st.sampled_from(["rows", "all"]),
)
def test_q_follows_the_training_accuracy_of_the_epoch_before_and_only_shrinks(context_for, right, s, backward):
    """Epochs of 200 images of which `right` are predicted right; 160, 180, 190 and 199 are exactly at a threshold."""
    counts: list[int] = []

    def look(batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(batch)), logits_right_for(batch.label[:, 0], counts[-1])

    sampler = osgd(backward=backward)
    sampler.start(context_for(200, s, look=look))
    expected = published_q([r / 200 for r in right], s)
    for epoch, r in enumerate([*right, 0]):
        for update in range(200 // s):
            counts.append(min(s, max(0, r - s * update)))
            batch = sampler.draw()
            assert sampler.q == expected[epoch]
            assert len(batch) == (expected[epoch] if backward == "rows" else s)
            if len(batch) == s:
                sampler.observe(batch, torch.zeros(s), logits_right_for(batch.label[:, 0], counts[-1]))
            else:
                sampler.observe(batch, torch.zeros(len(batch)), torch.zeros(len(batch), 4))


def test_the_weighted_loss_has_the_gradient_of_the_mean_of_the_q_largest(context_for):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 4, generator=generator).requires_grad_()
    sampler = osgd()
    sampler.start(context_for(32, 16))
    for q in (16, 8, 3, 1):
        sampler.q = q
        batch = sampler.draw()
        losses = CrossEntropy(0.0)(logits, batch)
        sampler.observe(batch, losses.detach(), logits.detach())
        if q == 16:
            assert batch.weight is None
            continue
        assert float(batch.weight.sum()) == pytest.approx(16)
        assert sorted(set(batch.weight.tolist())) == [0, pytest.approx(16 / q)]
        (weighted,) = torch.autograd.grad((losses * batch.weight).mean(), logits, retain_graph=True)
        largest = sorted(range(16), key=lambda i: -float(losses[i].detach()))[:q]
        (expected,) = torch.autograd.grad(sum(losses[i] for i in largest) / q, logits)
        torch.testing.assert_close(weighted, expected)


def test_equal_losses_still_make_exactly_q_rows(context_for):
    for backward in ("rows", "all"):
        look = Looking(torch.ones(32))
        sampler = osgd(backward=backward)
        sampler.start(context_for(32, 16, look=look))
        sampler.q = 4
        batch = sampler.draw()
        sampler.observe(batch, torch.ones(len(batch)), torch.zeros(len(batch), 4))
        trained = len(batch) if batch.weight is None else int((batch.weight > 0).sum())
        assert trained == 4


def test_with_rows_the_whole_batch_is_looked_at_in_training_mode_and_its_hardest_are_trained_on(context_for):
    stamp, look = Stamp(), Looking(torch.rand(64, generator=torch.Generator().manual_seed(1)))
    sampler = osgd(backward="rows")
    sampler.start(context_for(64, 16, look=look, aug=(stamp,)))
    assert len(sampler.draw()) == 16
    assert not look.looks
    sampler.q = 4
    batch = sampler.draw()
    assert look.modes == [True]
    (looked,) = look.looks
    assert len(looked) == 16
    hardest = sorted(range(16), key=lambda i: -float(look.losses[looked.drawn[i]]))[:4]
    assert sorted(stamps(batch)) == sorted(stamps(looked)[i] for i in hardest)
    assert batch.weight is None


@pytest.mark.parametrize("backward", ["rows", "all"])
def test_an_example_is_trained_on_as_often_as_the_ordered_loss_weighs_its_rank(context_for, backward):
    """gamma_j = sum over l < q of C(j-1, l) C(n-j, s-l-1) / C(n, s), j the rank from the hardest (their theorem 1)."""
    n, s, q = 12, 4, 1
    losses = torch.rand(n, generator=torch.Generator().manual_seed(3))
    rank = losses.argsort(descending=True).argsort()
    sampler = osgd(backward=backward, thresholds=[])
    sampler.start(context_for(n, s, look=Looking(losses)))
    sampler.q = q
    times = torch.zeros(n)
    for draw in range(9000):
        batch = sampler.draw()
        sampler.observe(batch, losses[batch.drawn], torch.zeros(len(batch), 4))
        if draw % 3 == 0:  # one batch of each pass, so that the counts are of independent draws
            trained = batch.drawn if batch.weight is None else batch.drawn[batch.weight > 0]
            times += torch.bincount(rank[trained], minlength=n)
    gamma = [sum(comb(j - 1, k) * comb(n - j, s - k - 1) for k in range(q)) / comb(n, s) for j in range(1, n + 1)]
    assert gamma[0] > 0.3
    assert times[n - s + q :].sum() == 0  # the easiest are never the hardest of four
    expected = 3000 * np.array(gamma)[: n - s + q]
    assert chisquare(times.numpy()[: n - s + q], expected).pvalue > PLAUSIBLE


def test_a_mixed_image_is_right_by_the_share_of_the_class_that_is_predicted(context_for):
    """Two images worked out by hand: 0.75 of class 1, of which one source of 0.5 and one of 0.25; none of class 3."""
    sampler = osgd()
    sampler.start(context_for(8, 2))
    label = torch.tensor([[1, 0, 1], [0, 2, 2]])
    share = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    batch = Batch(torch.zeros(2, 1, 1, 1), label, label, share, drawn=torch.arange(2))
    sampler.observe(batch, torch.zeros(2), F.one_hot(torch.tensor([1, 3]), 4).float())
    assert float(sampler.right) == pytest.approx(0.75)


@pytest.mark.parametrize("n", [40, 41, 33])
def test_a_pass_looks_at_every_example_once_between_two_epochs_in_training_mode_and_sets_q_by_it(context_for, n):
    """The training forward passes are all wrong, the pass is right in 36 of 40 (or as many of the others)."""
    label = torch.arange(n) % 4
    logits = logits_right_for(label, -(-9 * n // 10))
    look = Looking(torch.zeros(n), logits)
    sampler = osgd(accuracy="pass")
    sampler.start(context_for(n, 8, look=look))
    wrong = torch.zeros(8, 4)
    for _ in range(n // 8):
        assert not look.looks
        batch = sampler.draw()
        sampler.observe(batch, torch.zeros(8), logits_right_for(batch.label[:, 0], 0))
    batch = sampler.draw()
    assert sampler.q == 2  # a quarter
    assert sorted(look.drawn.tolist()) == list(range(n))
    assert all(look.modes)
    assert all(4 <= len(part) <= 8 for part in look.looks)
    sampler.observe(batch, torch.zeros(8), wrong)
    looked = len(look.looks)
    sampler.draw()
    assert len(look.looks) == looked


def test_without_thresholds_it_is_plain_sgd(context_for):
    sampler = osgd(thresholds=[])
    sampler.start(context_for(24, 6))
    for _ in range(3):
        batches = [sampler.draw() for _ in range(4)]
        assert sorted(torch.cat([b.drawn for b in batches]).tolist()) == list(range(24))
        for b in batches:
            sampler.observe(b, torch.rand(6), logits_right_for(b.label[:, 0], 6))
            assert b.weight is None


def test_an_epoch_shorter_than_a_batch_is_one_update(context_for):
    sampler = osgd(thresholds=[0.5])
    sampler.start(context_for(5, 8))
    batch = sampler.draw()
    sampler.observe(batch, torch.zeros(8), logits_right_for(batch.label[:, 0], 8))
    sampler.draw()
    assert sampler.q == 4


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"thresholds": [0.9, 0.8]}, "must increase and lie in"),
        ({"thresholds": [0.0]}, "must increase and lie in"),
        ({"thresholds": [0.5, 80.0]}, "must increase and lie in"),
        ({"thresholds": [float("nan")]}, "must increase and lie in"),
        ({"backward": "half"}, "backward=half is not one of rows, all"),
        ({"accuracy": "test"}, "accuracy=test is not one of running, pass"),
    ],
)
def test_options_of_ordered_sgd_that_make_no_sense_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        osgd(**bad)


# ---- hard mini-batches


def published_order(count: int, delta: float, loss_at: Callable[[int, int], float], updates: int) -> list[int]:
    """The batches that the released code trains on, as a loop over a list: which batch each update is on."""
    kept = list(range(count))
    stored = [0.0] * count
    order: list[int] = []
    hardest = int(delta * count)
    while len(order) < updates:
        if order:  # not the first pass
            kept = sorted(sorted(range(count), key=lambda i: (-stored[i], i))[:hardest])
        for i in kept:
            stored[i] = loss_at(i, len(order))
            order.append(i)
    return order[:updates]


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 9),
    delta=st.floats(0.05, 1),
    seed=st.integers(0, 99),
    ties=st.booleans(),
    shuffle=st.booleans(),
)
def test_rounds_are_over_the_batches_of_the_largest_stored_loss_in_the_order_of_the_data(
    context_for, count, delta, seed, ties, shuffle
):
    table = torch.randint(4 if ties else 4096, (count, 60), generator=torch.Generator().manual_seed(seed)) / 64
    sampler = HardBatches(delta=delta, shuffle=shuffle)
    context = context_for(4 * count + 2, 4)
    if int(delta * count) < 1:
        with pytest.raises(UserError, match="is not even one"):
            sampler.start(context)
        return
    sampler.start(context)
    number = {tuple(rows): i for i, rows in enumerate(sampler.batches.tolist())}
    order = []
    for update in range(60):
        batch = sampler.draw()
        order.append(number[tuple(batch.drawn.tolist())])
        # four losses whose mean is the batch's
        sampler.observe(batch, table[order[-1], update] + torch.tensor([-0.5, 0.5, 1.0, -1.0]), torch.zeros(4, 4))
    assert order == published_order(count, delta, lambda i, t: float(table[i, t % 60]), 60)


def test_batches_in_the_order_of_the_data_are_slices_of_it_and_what_fills_none_is_never_trained_on(context_for):
    sampler = HardBatches(delta=1.0, shuffle=False)
    sampler.start(context_for(14, 4))
    drawn = [sampler.draw().drawn.tolist() for _ in range(9)]
    assert drawn == 3 * [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_shuffled_batches_are_cut_once_from_one_order_of_the_seed(context_for):
    def batches(seed: int) -> list[list[int]]:
        sampler = HardBatches(delta=1.0, shuffle=True)
        sampler.start(context_for(14, 4, seed=seed))
        passes = [[sampler.draw().drawn.tolist() for _ in range(3)] for _ in range(4)]
        assert passes == 4 * passes[:1]
        return passes[0]

    one, other = batches(0), batches(1)
    assert len({i for batch in one for i in batch}) == 12
    assert one == batches(0)
    assert one != other
    assert one != [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_hard_batch_is_trained_on_until_the_others_are_as_hard_worked_out_by_hand(context_for):
    """Four batches, two a round. Batch 1 stays at 9, the others lose 1 at every update: 5, 9, 4, 3 after the pass.

    Rounds: {0, 1} leaves 4, 9, 4, 3; then {0, 1} again (equal losses: the first), 3, 9, 4, 3; {1, 2}: 3, 9, 3, 3.
    """
    losses = [5.0, 9.0, 4.0, 3.0]
    sampler = HardBatches(delta=0.5, shuffle=False)
    sampler.start(context_for(8, 2))
    order = []
    for update in range(12):
        batch = sampler.draw()
        i = int(batch.drawn[0]) // 2
        order.append(i)
        if update >= 4 and i != 1:
            losses[i] -= 1
        sampler.observe(batch, torch.full((2,), losses[i]), torch.zeros(2, 4))
    assert order == [0, 1, 2, 3, 0, 1, 0, 1, 1, 2, 0, 1]


@pytest.mark.parametrize(("n", "batch_size", "delta"), [(40, 8, 0.19), (7, 8, 1.0)])
def test_less_than_one_batch_a_round_is_a_sentence(context_for, n, batch_size, delta):
    sampler = HardBatches(delta=delta, shuffle=True)
    with pytest.raises(UserError, match=f"sampler.delta={delta:g} of the {n // batch_size} batches is not even one"):
        sampler.start(context_for(n, batch_size))


@pytest.mark.parametrize("delta", [0.0, -0.5, 1.01, float("nan")])
def test_a_delta_that_is_no_part_is_refused(delta):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        HardBatches(delta=delta, shuffle=True)


# ---- the state of all of them, where they are at work


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
def test_a_sampler_saved_in_the_middle_of_an_epoch_goes_on_as_if_it_had_not_stopped(context_for, name, updates):
    generator = torch.Generator().manual_seed(8)
    logits = 2 * torch.randn(44, 4, generator=generator)
    losses = F.cross_entropy(logits, torch.arange(44) % 4, reduction="none")
    steps = (Crop(padding=1), Mixup(alpha=0.3, draw="image"))

    def started(seed: int):
        sampler, aug_random = AT_WORK[name](), Random.seeded(seed, "aug", CPU)
        context = context_for(
            44, 8, seed=seed, aug=steps, aug_random=aug_random, look=Looking(losses, logits), progress=lambda: 0.5
        )
        sampler.start(context)
        return sampler, {"random": context.random, "aug": aug_random}

    def train(sampler, count: int) -> list[Batch]:
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


# ---- real runs on the digits: what each update costs, and what a budget buys


@pytest.fixture
def result_of(experiment_for):
    return lambda *overrides: run(experiment_for(*TINY, *overrides))


def flops() -> tuple[int, int]:
    return model_flops(CNN(width=2).build(1, 10), (1, 8, 8))


ALWAYS = ("sampler=sb_batchwise", "sampler.begin=0", "sampler.end=1", "sampler.interrupt=0")


def test_sb_batchwise_pays_a_look_at_the_batch_and_an_update_on_the_part(result_of):
    result = result_of(*ALWAYS, "sampler.keep=0.3", "budget=0.5")
    forward, update = flops()
    assert result["updates"] == 11
    assert result["examples_backward"] == 11 * 19
    assert result["examples_forward"] == 11 * (64 + 19)
    assert result["flops"] == 11 * (64 * forward + 19 * update)


def test_sb_batchwise_by_default_chooses_from_half_to_nine_tenths_every_other_batch(result_of):
    result = result_of("sampler=sb_batchwise", "epochs=2")
    chosen = [t for t in range(44) if 0.5 <= t / 43 < 0.9 and t % 22 % 2 == 0]
    assert len(chosen) == 9
    assert result["updates"] == 44
    assert result["examples_backward"] == 44 * 64 - len(chosen) * 32
    assert result["examples_forward"] - result["examples_backward"] == len(chosen) * 64


def test_a_budget_of_examples_buys_sb_batchwise_more_updates_of_smaller_batches(result_of):
    result = result_of(*ALWAYS, "budget=0.5", "budget_unit=examples")
    assert result["examples_backward"] == 11 * 64
    assert result["updates"] == 22
    assert result_of(*ALWAYS, "sampler.keep=0.3", "budget=0.5", "budget_unit=examples")["updates"] == -(-11 * 64 // 19)


def test_a_budget_of_flops_ends_sb_batchwise_within_one_update(result_of):
    result = result_of(*ALWAYS, "budget=0.5", "budget_unit=flops")
    forward, update = flops()
    cost, allowed = 64 * forward + 32 * update, 11 * 64 * update
    assert result["updates"] == -(-allowed // cost)
    assert result["flops"] == result["updates"] * cost
    assert allowed <= result["flops"] < allowed + cost


def test_ordered_sgd_pays_what_its_docstring_says(result_of):
    """A threshold that the first epoch reaches in any case halves q for the second: 22 updates of 64, 22 of 32."""
    forward, update = flops()
    line = ("sampler=osgd", "epochs=2", "sampler.thresholds=[0.000001]")
    rows = result_of(*line, "sampler.backward=rows")
    assert (rows["updates"], rows["examples_backward"]) == (44, 22 * 64 + 22 * 32)
    assert rows["flops"] == 22 * 64 * update + 22 * (64 * forward + 32 * update)
    weighed = result_of(*line, "sampler.backward=all")
    assert (weighed["updates"], weighed["examples_backward"]) == (44, 44 * 64)
    assert weighed["flops"] == 44 * 64 * update
    assert weighed["effective_batch"] == pytest.approx(0.75)
    passed = result_of(*line, "sampler.backward=all", "sampler.accuracy=pass")
    assert passed["flops"] - weighed["flops"] == TRAINING * forward


def test_a_budget_of_flops_ends_ordered_sgd_within_one_update(result_of):
    forward, update = flops()
    result = result_of("sampler=osgd", "epochs=4", "sampler.thresholds=[0.000001]", "budget_unit=flops", "budget=0.5")
    allowed, cheap = 44 * 64 * update, 64 * forward + 32 * update
    after = -(-(allowed - 22 * 64 * update) // cheap)
    assert result["updates"] == 22 + after
    assert result["flops"] == 22 * 64 * update + after * cheap


def test_stale_looks_are_not_charged(result_of):
    """Without priming, one epoch of candidates in two or three is looked at."""
    forward, update = flops()
    looked = {}
    for stale in (1, 2, 3):
        result = result_of("sampler=sb", "sampler.prime=0", f"sampler.stale={stale}", "epochs=5")
        looked[stale] = result["examples_forward"] - result["examples_backward"]
        assert (result["updates"], result["examples_backward"]) == (5 * EPOCH, 5 * EPOCH * B)
        assert result["flops"] == 5 * EPOCH * B * update + looked[stale] * forward
    assert looked[1] > 13 * TRAINING  # about 15 epochs of candidates: one in three is kept
    for stale in (2, 3):  # to one epoch, that is begun or not at the end
        assert abs(looked[stale] - looked[1] / stale) < 1.2 * TRAINING
        # only whole epochs, but for the last
        assert looked[stale] % TRAINING == 0 or looked[stale] % TRAINING > 0.05 * TRAINING


def test_hard_batches_cost_what_uniform_costs_and_visit_the_batches_unevenly_unless_delta_is_1(result_of):
    _, update = flops()
    entropy = {}
    for delta in (0.2, 1.0):
        result = result_of("sampler=hard_batches", f"sampler.delta={delta}", "epochs=2", "budget_unit=flops")
        assert (result["updates"], result["flops"]) == (44, 44 * 64 * update)
        entropy[delta] = result["visits_entropy"]
    # 1,408 of the 1,438 examples are in the 22 batches, and each is visited twice
    assert entropy[1.0] == pytest.approx(np.log(22 * 64), abs=1e-6)
    assert entropy[0.2] < entropy[1.0] - 0.01


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sampler=hard_batches sampler.delta=0.04", ["sampler.delta=0.04 of the 22 batches is not even one"]),
        ("sampler=sb_batchwise sampler.keep=0.01", ["sampler.keep=0.01 of batch_size=64 is not even one image"]),
        ("sampler=sb_batchwise sampler.interrupt=1", ["sampler.interrupt=1 must be 0"]),
        ("sampler=osgd sampler.thresholds=[0.9,0.8]", ["sampler.thresholds=[0.9, 0.8] must increase"]),
        ("sampler=sb sampler.stale=0", ["sampler.stale=0 must be at least 1"]),
        ("sampler=sb sampler.stale=1.5", ["sampler.stale=1.5 is not a whole number"]),
    ],
)
def test_bad_options_are_one_sentence_on_the_command_line(line, words, tmp_path):
    done = here(f"{line} epochs=1", tmp_path)
    refused(done, *words)
    assert not list(tmp_path.rglob("*.*"))
