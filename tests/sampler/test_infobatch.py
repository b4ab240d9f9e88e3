"""InfoBatch."""

from __future__ import annotations

import copy
import io
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import PLAUSIBLE, sampler_of, started
from scipy.stats import chi2, chisquare
from torch import Tensor

from budgetrun.aug.mixup import Mixup
from budgetrun.contracts import Batch, Context
from budgetrun.loss.cross_entropy import CrossEntropy
from budgetrun.sampler.infobatch import InfoBatch


def pruning(context_for: Callable[..., Context], n: int, batch_size: int, losses: Tensor, **options: Any) -> InfoBatch:
    """An InfoBatch past its first epoch, which knows these losses."""
    ratio = options.pop("ratio", 0.5)
    sampler, _ = started(InfoBatch(ratio=ratio, delta=0.875), context_for, n, batch_size, **options)
    sampler.latest.losses = losses
    return sampler


def test_the_first_epoch_of_infobatch_is_a_full_pass_and_weighs_1(context_for: Callable[..., Context]) -> None:
    sampler, _ = started(sampler_of("infobatch"), context_for, 30, 10)
    batches = [sampler.draw() for _ in range(3)]
    assert sorted(torch.cat([batch.drawn for batch in batches]).tolist()) == list(range(30))
    assert all(torch.equal(batch.weight, torch.ones(10)) for batch in batches)


@pytest.mark.parametrize("ratio", [0.5, 0.2])
def test_an_easy_example_is_dropped_with_the_ratio_and_by_a_chance_of_its_own(
    context_for: Callable[..., Context], ratio: float
) -> None:
    """The mean loss is 2: three examples are below it, and the one that is exactly at it is not easy."""
    losses = torch.tensor([1.0, 3.0, 1.5, 2.0, 0.5, 4.0])
    sampler = pruning(context_for, 6, 2, losses, ratio=ratio)
    easy = [0, 2, 4]
    kept: Counter[tuple[int, ...]] = Counter()
    for _ in range(4000):
        order, weight = sampler.plan()
        drawn = order.tolist()
        assert len(set(drawn)) == len(drawn)
        assert {1, 3, 5} <= set(drawn)
        expected = torch.tensor([1 / (1 - ratio) if i in easy else 1.0 for i in drawn])
        torch.testing.assert_close(weight, expected)
        kept[tuple(i for i in easy if i in drawn)] += 1
    sets = [c for k in range(4) for c in itertools.combinations(easy, k)]
    expected = [4000 * (1 - ratio) ** len(c) * ratio ** (3 - len(c)) for c in sets]
    assert chisquare([kept[c] for c in sets], expected).pvalue > PLAUSIBLE


def test_the_order_of_a_pruned_epoch_is_random(context_for: Callable[..., Context]) -> None:
    sampler = pruning(context_for, 4, 2, torch.tensor([1.0, 1.0, 1.0, 9.0]))
    orders = Counter(order for _ in range(6000) if len(order := tuple(sampler.plan()[0].tolist())) == 2)
    possible = [(i, 3) for i in range(3)] + [(3, i) for i in range(3)]
    assert chisquare([orders[order] for order in possible]).pvalue > PLAUSIBLE


@settings(deadline=None, max_examples=40)
@given(value=st.floats(0, 1e6, width=32), n=st.integers(1, 3000))
def test_when_all_losses_are_equal_nothing_is_dropped(context_for: Callable[..., Context], value: Any, n: Any) -> None:
    """A mean in float32 may come out above what it is the mean of, and all would be easy."""
    sampler = pruning(context_for, n, 2, torch.full((n,), value))
    order, weight = sampler.plan()
    assert len(order) == n
    assert (weight == 1).all()


def test_an_example_that_was_not_seen_is_kept_and_does_not_count_in_the_mean(
    context_for: Callable[..., Context],
) -> None:
    """The mean of those seen is 2; with 3 for the unseen, as in the published code, it would be 2.5 and 2.2 be easy."""
    losses = torch.tensor([1.0, 2.2, 2.8, torch.inf, torch.inf, torch.inf])
    sampler = pruning(context_for, 6, 2, losses)
    plans = [sampler.plan() for _ in range(50)]
    assert all({1, 2, 3, 4, 5} <= set(order.tolist()) for order, _ in plans)
    assert {len(order) for order, _ in plans} == {5, 6}
    assert all((weight[order != 0] == 1).all() for order, weight in plans)


def test_losses_that_are_not_numbers_drop_nothing(context_for: Callable[..., Context]) -> None:
    sampler = pruning(context_for, 6, 2, torch.full((6,), torch.nan))
    assert len(sampler.plan()[0]) == 6


def test_past_delta_epochs_are_full_passes_again_and_weigh_1(context_for: Callable[..., Context]) -> None:
    losses = torch.arange(40.0)
    sampler, time = started(sampler_of("infobatch"), context_for, 40, 10, progress=0.874)
    sampler.latest.losses = losses
    assert len(sampler.plan()[0]) < 40
    time.at = 0.875
    for _ in range(5):
        order, weight = sampler.plan()
        assert sorted(order.tolist()) == list(range(40))
        assert (weight == 1).all()


def lengths_of_epochs(sampler: InfoBatch) -> list[int]:
    """How many examples each epoch has that the sampler plans from here on."""
    plan, lengths = sampler.plan, []

    def measured() -> tuple[Tensor, Tensor]:
        order, weight = plan()
        lengths.append(len(order))
        return order, weight

    sampler.stream.plan = measured
    return lengths


@pytest.mark.parametrize("ahead", [0, 8, 100])
def test_what_infobatch_has_dropped_is_that_of_the_epochs_it_went_through_and_a_part_of_the_one_under_way(
    context_for: Callable[..., Context], ahead: int
) -> None:
    sampler = pruning(context_for, 40, 8, torch.arange(40.0))
    sampler.context.view.ahead = ahead
    kept = lengths_of_epochs(sampler)
    assert sampler.dropped == 0
    for update in range(1, 101):
        sampler.draw()
        *whole, now = kept
        of_now = 8 * update - sum(whole)  # of the epoch under way, this many are taken
        by_hand = sum(40 - k for k in whole) + (40 - now) * of_now / now
        assert sampler.dropped == pytest.approx(by_hand)
    # half of the half that is easy
    assert sampler.dropped / (sampler.dropped + 800) == pytest.approx(0.25, abs=0.05)
    again = pruning(context_for, 40, 8, torch.arange(40.0))
    again.load_state_dict(copy.deepcopy(sampler.state_dict()))
    assert again.dropped == sampler.dropped  # a run that is cut here goes on counting


def test_with_ratio_0_infobatch_is_shuffled_passes(context_for: Callable[..., Context]) -> None:
    sampler = pruning(context_for, 20, 10, torch.arange(20.0), ratio=0.0)
    for _ in range(4):
        batches = [sampler.draw() for _ in range(2)]
        assert sorted(torch.cat([batch.drawn for batch in batches]).tolist()) == list(range(20))
        assert all(torch.equal(batch.weight, torch.ones(10)) for batch in batches)


@pytest.mark.parametrize("ahead", [0, 8, 100])
def test_a_batch_of_two_epochs_takes_each_epoch_s_own_weights(context_for: Callable[..., Context], ahead: int) -> None:
    """The losses change places with every plan, so that an example is easy in one epoch and hard in the next.

    ahead: images that are augmented at once, from a batch at a time to a whole draw.
    """
    sampler = pruning(context_for, 24, 8, torch.arange(24.0))
    sampler.context.view.ahead = ahead
    plan, plans = sampler.plan, []

    def recorded() -> tuple[Tensor, Tensor]:
        plans.append(plan())
        sampler.latest.losses = sampler.latest.losses.flip(0)
        return plans[-1]

    sampler.stream.plan = recorded
    batches = [sampler.draw() for _ in range(400)]
    drawn, weight = torch.cat([b.drawn for b in batches]), torch.cat([b.weight for b in batches])
    assert torch.equal(drawn, torch.cat([order for order, _ in plans])[:3200])
    assert torch.equal(weight, torch.cat([weight for _, weight in plans])[:3200])
    both = [b for b in batches if any(len(set(b.weight[b.drawn == i].tolist())) == 2 for i in range(24))]
    assert len(both) > 5  # the same example in one batch, with another weight of each epoch


@pytest.mark.parametrize("ahead", [0, 8, 100])
def test_the_weights_of_what_is_left_of_an_epoch_are_saved(context_for: Callable[..., Context], ahead: int) -> None:
    losses = torch.arange(40.0)
    sampler = pruning(context_for, 40, 4, losses)
    sampler.context.view.ahead = ahead
    sampler.draw()
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    expected = [sampler.draw() for _ in range(6)]
    file.seek(0)
    other = pruning(context_for, 40, 4, losses, seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    for batch in expected:
        again = other.draw()
        assert torch.equal(again.drawn, batch.drawn)
        assert torch.equal(again.weight, batch.weight)
    assert len(set(torch.cat([batch.weight for batch in expected]).tolist())) == 2


def test_the_mixed_images_of_infobatch_have_their_sources_weights_by_share(context_for: Callable[..., Context]) -> None:
    losses = torch.arange(24.0)
    sampler = pruning(context_for, 24, 6, losses, aug=(Mixup(alpha=0.3, draw="image"),))
    weights = torch.where(losses < losses.mean(), 2.0, 1.0)
    for _ in range(10):
        batch = sampler.draw()
        torch.testing.assert_close(batch.weight, (batch.share * weights[batch.index]).sum(1))
        assert batch.index.shape[1] == 2


@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_an_epoch_s_weighted_gradient_is_the_full_pass_s_on_average(
    context_for: Callable[..., Context], ratio: float
) -> None:
    """A linear model on 48 images, 2500 epochs through the stream: every entry within 4.5 standard errors.

    The entries depend on each other, since only the easy examples vary: Hotelling's test takes all of them at once.
    """
    weights = (0.02 * torch.randn(4, 192, generator=torch.Generator().manual_seed(11))).requires_grad_()

    def gradients(batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss [B] and its gradient [B, 4 x 192] of each image."""
        pixels = batch.images.float().flatten(1) / 255
        logits = pixels @ weights.T * 20
        losses = CrossEntropy(0.0)(logits, batch)
        (by_logit,) = torch.autograd.grad(losses.sum(), logits)
        return losses.detach(), (by_logit[:, :, None] * pixels[:, None, :] * 20).flatten(1)

    context = context_for(48, 8)
    losses, each = gradients(context.view(torch.arange(48)))
    sampler = pruning(context_for, 48, 8, losses, ratio=ratio)
    lengths = lengths_of_epochs(sampler)
    rows: list[tuple[Tensor, Tensor]] = []
    while len(lengths) <= 2500:
        batch = sampler.draw()
        rows.append((batch.drawn, batch.weight))
    drawn, weight = (torch.cat(column) for column in zip(*rows, strict=True))
    assert len(drawn) / len(rows) == 8
    cuts = [*lengths[:2500], len(drawn) - sum(lengths[:2500])]
    epochs = list(zip(drawn.split(cuts), weight.split(cuts), strict=True))[:2500]
    each = each.double()
    sums = torch.stack([(w[:, None] * each[i]).sum(0) / 48 for i, w in epochs])
    easy = losses < losses.mean()
    assert 10 < easy.sum() < 40
    assert np.mean(lengths) == pytest.approx(48 - ratio * float(easy.sum()), abs=0.5)
    error = (sums.mean(0) - each.mean(0)) / (sums.std(0) / 2500**0.5)
    assert error.abs().max() < 4.5
    _, scale, directions = torch.linalg.svd(sums - sums.mean(0), full_matrices=False)
    rank = int(easy.sum())
    hotelling = 2500**2 * ((directions[:rank] @ (sums.mean(0) - each.mean(0))) / scale[:rank]).square().sum()
    assert chi2.sf(float(hotelling), rank) > PLAUSIBLE
    # without the weights it is another direction: the test can tell
    unweighted = each[~easy].sum(0) / 48 + (1 - ratio) * each[easy].sum(0) / 48
    assert ((unweighted - each.mean(0)) / (sums.std(0) / 2500**0.5)).abs().max() > 20


@pytest.mark.parametrize("wrong", [{"ratio": 1.0}, {"ratio": -0.1}, {"delta": 1.1}, {"delta": -0.5}])
def test_values_that_make_no_sense_for_infobatch_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        InfoBatch(**({"ratio": 0.5, "delta": 0.875} | wrong))
