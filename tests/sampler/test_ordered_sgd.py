"""Ordered SGD."""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import PLAUSIBLE, Looking, Stamp, osgd, sampler_of, stamps
from scipy.stats import chisquare
from torch import Tensor

from budgetrun.contracts import Batch, Context
from budgetrun.loss.cross_entropy import CrossEntropy


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
def test_q_follows_the_training_accuracy_of_the_epoch_before_and_only_shrinks(
    context_for: Callable[..., Context], right: Any, s: Any, backward: Any
) -> None:
    """Epochs of 200 images of which `right` are predicted right; 160, 180, 190 and 199 are exactly at a threshold."""
    counts: list[int] = []

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
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


def test_the_weighted_loss_has_the_gradient_of_the_mean_of_the_q_largest(context_for: Callable[..., Context]) -> None:
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


def test_equal_losses_still_make_exactly_q_rows(context_for: Callable[..., Context]) -> None:
    for backward in ("rows", "all"):
        look = Looking(torch.ones(32))
        sampler = osgd(backward=backward)
        sampler.start(context_for(32, 16, look=look))
        sampler.q = 4
        batch = sampler.draw()
        sampler.observe(batch, torch.ones(len(batch)), torch.zeros(len(batch), 4))
        trained = len(batch) if batch.weight is None else int((batch.weight > 0).sum())
        assert trained == 4


def test_with_rows_the_whole_batch_is_looked_at_in_training_mode_and_its_hardest_are_trained_on(
    context_for: Callable[..., Context],
) -> None:
    stamp, look = Stamp(), Looking(torch.rand(64, generator=torch.Generator().manual_seed(1)))
    sampler = osgd(backward="rows")
    sampler.start(context_for(64, 16, look=look, aug=(stamp,)))
    assert len(sampler.draw()) == 16
    assert not look.candidates
    sampler.q = 4
    batch = sampler.draw()
    assert look.modes == [True]
    (looked,) = look.candidates
    assert len(looked) == 16
    hardest = sorted(range(16), key=lambda i: -float(look.losses[looked.drawn[i]]))[:4]
    assert sorted(stamps(batch)) == sorted(stamps(looked)[i] for i in hardest)
    assert batch.weight is None


@pytest.mark.parametrize("backward", ["rows", "all"])
def test_an_example_is_trained_on_as_often_as_the_ordered_loss_weighs_its_rank(
    context_for: Callable[..., Context], backward: str
) -> None:
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


def test_a_mixed_image_is_right_by_the_share_of_the_class_that_is_predicted(
    context_for: Callable[..., Context],
) -> None:
    """Two images worked out by hand: 0.75 of class 1, of which one source of 0.5 and one of 0.25; none of class 3."""
    sampler = osgd()
    sampler.start(context_for(8, 2))
    label = torch.tensor([[1, 0, 1], [0, 2, 2]])
    share = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    batch = Batch(torch.zeros(2, 1, 1, 1), label, label, share, drawn=torch.arange(2))
    sampler.observe(batch, torch.zeros(2), F.one_hot(torch.tensor([1, 3]), 4).float())
    assert float(sampler.right) == pytest.approx(0.75)


@pytest.mark.parametrize("n", [40, 41, 33])
def test_a_pass_looks_at_every_example_once_between_two_epochs_in_training_mode_and_sets_q_by_it(
    context_for: Callable[..., Context], n: int
) -> None:
    """The training forward passes are all wrong, the pass is right in 36 of 40 (or as many of the others)."""
    label = torch.arange(n) % 4
    logits = logits_right_for(label, -(-9 * n // 10))
    look = Looking(torch.zeros(n), logits)
    sampler = osgd(accuracy="pass")
    sampler.start(context_for(n, 8, look=look))
    wrong = torch.zeros(8, 4)
    for _ in range(n // 8):
        assert not look.candidates
        batch = sampler.draw()
        sampler.observe(batch, torch.zeros(8), logits_right_for(batch.label[:, 0], 0))
    batch = sampler.draw()
    assert sampler.q == 2  # a quarter
    assert sorted(look.drawn.tolist()) == list(range(n))
    assert all(look.modes)
    assert all(4 <= len(part) <= 8 for part in look.candidates)
    sampler.observe(batch, torch.zeros(8), wrong)
    looked = len(look.candidates)
    sampler.draw()
    assert len(look.candidates) == looked


def test_without_thresholds_it_is_plain_sgd(context_for: Callable[..., Context]) -> None:
    sampler = osgd(thresholds=[])
    sampler.start(context_for(24, 6))
    for _ in range(3):
        batches = [sampler.draw() for _ in range(4)]
        assert sorted(torch.cat([b.drawn for b in batches]).tolist()) == list(range(24))
        for b in batches:
            sampler.observe(b, torch.rand(6), logits_right_for(b.label[:, 0], 6))
            assert b.weight is None


@pytest.mark.parametrize(("keep", "k", "weights"), [(0.5, 2, [0.0, 2.0, 2.0, 0.0]), (0.8, 3, [4 / 3, 4 / 3, 4 / 3, 0])])
def test_the_average_top_k_loss_is_the_mean_of_the_k_largest_at_all_times(
    context_for: Callable[..., Context], keep: float, k: int, weights: list[float]
) -> None:
    """Of the losses 1, 3, 2, 0.5: their mean is 2.5 for k = 2 and 2 for k = 3, whatever the training accuracy."""
    losses = torch.tensor([1.0, 3, 2, 0.5])
    sampler = sampler_of("atk", keep=keep, backward="all")
    sampler.start(context_for(12, 4))
    for _ in range(7):  # more than two epochs
        batch = sampler.draw()
        sampler.observe(batch, losses, logits_right_for(batch.label[:, 0], 4))
        torch.testing.assert_close(batch.weight, torch.tensor(weights))
        assert float(batch.mean(losses)) == pytest.approx({2: 2.5, 3: 2.0}[k])
    assert sampler_of("atk", keep=keep).sizes(4) == {4, k}


def test_the_least_k_is_the_maximum_loss_and_thresholds_lower_k_where_they_ask_for_less(
    context_for: Callable[..., Context],
) -> None:
    sampler = sampler_of("atk", keep=0.01)
    losses = torch.arange(12.0)
    look = Looking(losses)
    sampler.start(context_for(12, 4, look=look))
    assert sampler.draw().drawn.tolist() == [int(look.drawn.max())]
    both = osgd(keep=0.375, thresholds=[0.5, 0.6])
    both.start(context_for(8, 8))
    assert both.q == 3
    for right, q in ((4, 3), (5, 2)):  # half, which is no less than 3, and a quarter
        batch = both.draw()
        both.observe(batch, torch.zeros(8), logits_right_for(batch.label[:, 0], right))
        both.draw()
        both.right.zero_()
        assert both.q == q
        both.updates = 0


def test_an_epoch_shorter_than_a_batch_is_one_update(context_for: Callable[..., Context]) -> None:
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
        ({"keep": 0.0}, "keep=0.0 must be greater than 0 and at most 1"),
    ],
)
def test_options_of_ordered_sgd_that_make_no_sense_are_refused(bad: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        osgd(**bad)
