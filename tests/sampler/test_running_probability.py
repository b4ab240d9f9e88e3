"""p-SGD and c-SGD."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import PLAUSIBLE, batch_of, logits_with, mixed_batch
from scipy.stats import chisquare

from budgetrun.aug.mixup import Mixup
from budgetrun.aug.ricap import RICAP
from budgetrun.contracts import Context
from budgetrun.sampler.running_probability import RunningProbability


def test_p_sgd_probabilities_are_those_worked_out_by_hand(context_for: Callable[..., Context]) -> None:
    sampler = RunningProbability(score="probability", credit="sources")
    sampler.start(context_for(4, 2))
    sampler.observe(batch_of([0, 1], [0, 1]), torch.zeros(2), logits_with([0.9, 0.2], [0, 1], 4))
    sampler.observe(batch_of([0], [0]), torch.zeros(1), logits_with([0.5], [0], 4))
    # a = (0.1 + 0.5) / 2 and 0.8; the unseen get the largest; the mean 0.675 is added; the sum is 2.7 + 4 x 0.675
    torch.testing.assert_close(sampler.scores(), torch.tensor([0.3, 0.8, 0.8, 0.8]))
    expected = torch.tensor([0.975, 1.475, 1.475, 1.475]) / 5.4
    torch.testing.assert_close(sampler.probabilities(), expected)


def test_c_sgd_takes_the_mean_first_and_then_the_product(context_for: Callable[..., Context]) -> None:
    sampler = RunningProbability(score="confusion", credit="sources")
    sampler.start(context_for(4, 2))
    sampler.observe(batch_of([0, 1], [0, 1]), torch.zeros(2), logits_with([0.9, 0.2], [0, 1], 4))
    sampler.observe(batch_of([0], [0]), torch.zeros(1), logits_with([0.5], [0], 4))
    # 0.3 x 0.7 for the one seen twice (the mean of 0.1 x 0.9 and 0.5 x 0.5 would be 0.17); the unseen get 0.8 x 0.2
    torch.testing.assert_close(sampler.scores(), torch.tensor([0.21, 0.16, 0.16, 0.16]))
    expected = (torch.tensor([0.21, 0.16, 0.16, 0.16]) + 0.1725) / (0.69 + 4 * 0.1725)
    torch.testing.assert_close(sampler.probabilities(), expected)


@settings(deadline=None, max_examples=60)
@given(
    visits=st.lists(
        st.lists(st.tuples(st.integers(0, 7), st.floats(0.01, 0.99)), min_size=1, max_size=6), min_size=1, max_size=8
    ),
    score=st.sampled_from(["probability", "confusion"]),
    credit=st.sampled_from(["sources", "as_published"]),
)
def test_scores_are_the_running_means_of_all_visits_for_any_sequence_of_visits(
    context_for: Callable[..., Context], visits: Any, score: Any, credit: Any
) -> None:
    sampler = RunningProbability(score=score, credit=credit)
    sampler.start(context_for(8, 4))
    mean, times = [-1.0] * 8, [0] * 8
    for batch in visits:
        examples = [i for i, _ in batch]
        labels = [i % 4 for i in examples]
        sampler.observe(
            batch_of(examples, labels), torch.zeros(len(batch)), logits_with([p for _, p in batch], labels, 4)
        )
        for i, p in batch:  # the update of the released code, one visit after the other
            mean[i] = (times[i] * mean[i] + (1 - p)) / (times[i] + 1)
            times[i] += 1
    a = np.array([m if t else max(mean) for m, t in zip(mean, times, strict=True)])
    s = a if score == "probability" else a * (1 - a)
    np.testing.assert_allclose(sampler.scores(), s, atol=1e-5)
    smoothed = s + s.mean()
    np.testing.assert_allclose(sampler.probabilities(), smoothed / smoothed.sum(), atol=1e-5)
    assert sampler.probabilities().min() > 1 / (2 * 8) - 1e-6


@pytest.mark.parametrize("score", ["probability", "confusion"])
def test_the_first_epoch_is_uniform(context_for: Callable[..., Context], score: str) -> None:
    pairs: Counter[tuple[int, ...]] = Counter()
    for seed in range(1200):
        sampler = RunningProbability(score=score, credit="sources")
        sampler.start(context_for(4, 2, fraction=0.5, seed=seed))
        pairs[tuple(sampler.draw().drawn.tolist())] += 1
    assert chisquare([pairs[pair] for pair in itertools.permutations(range(4), 2)]).pvalue > PLAUSIBLE


@pytest.mark.parametrize("score", ["probability", "confusion"])
@pytest.mark.parametrize("probability", [1.0, 0.0])
def test_when_all_have_the_same_extreme_score_every_example_is_as_likely(
    context_for: Callable[..., Context], score: str, probability: float
) -> None:
    sampler = RunningProbability(score=score, credit="sources")
    sampler.start(context_for(6, 6))
    labels = [i % 4 for i in range(6)]
    certain = F.one_hot(torch.tensor(labels), 4) * (200.0 if probability else -200.0)
    sampler.observe(batch_of(list(range(6)), labels), torch.zeros(6), certain)
    torch.testing.assert_close(sampler.probabilities(), torch.full((6,), 1 / 6))


@pytest.mark.parametrize("score", ["probability", "confusion"])
def test_an_epoch_holds_int_n_times_budget_examples_and_none_twice(
    context_for: Callable[..., Context], score: str
) -> None:
    sampler = RunningProbability(score=score, credit="sources")
    sampler.start(context_for(50, 4, fraction=0.33))  # 16 per epoch
    for _ in range(6):
        epoch = [sampler.draw() for _ in range(4)]
        drawn = torch.cat([batch.drawn for batch in epoch])
        assert len(set(drawn.tolist())) == 16
        labels = (drawn % 4).tolist()
        # easy below 25, hard above
        p = torch.where(drawn < 25, 0.99, 0.01).tolist()
        sampler.observe(batch_of(drawn.tolist(), labels), torch.zeros(16), logits_with(p, labels, 4))


@pytest.mark.parametrize("score", ["probability", "confusion"])
def test_examples_are_drawn_as_often_as_the_definition_says_and_in_random_order(
    context_for: Callable[..., Context], score: str
) -> None:
    """Of 4 examples 2 are drawn: {i, j} has probability p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j), in either order."""
    sampler = RunningProbability(score=score, credit="sources")
    sampler.start(context_for(4, 2, fraction=0.5))
    labels = [0, 1, 2, 3]
    sampler.observe(batch_of([0, 1, 2, 3], labels), torch.zeros(4), logits_with([0.99, 0.9, 0.5, 0.1], labels, 4))
    p = sampler.probabilities().double().numpy()
    assert p.max() / p.min() > 2
    pairs = list(itertools.permutations(range(4), 2))
    probability = [(p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])) / 2 for i, j in pairs]
    draws = Counter(tuple(sampler.draw().drawn.tolist()) for _ in range(6000))
    expected = 6000 * np.array(probability) / sum(probability)
    assert chisquare([draws[pair] for pair in pairs], expected).pvalue > PLAUSIBLE


def test_hard_examples_are_drawn_more_by_p_sgd_and_undecided_ones_by_c_sgd(context_for: Callable[..., Context]) -> None:
    times = {}
    for score in ("probability", "confusion"):
        sampler = RunningProbability(score=score, credit="sources")
        sampler.start(context_for(30, 3, fraction=0.1))
        examples, labels = list(range(30)), [i % 4 for i in range(30)]
        p = [0.999] * 10 + [0.5] * 10 + [0.001] * 10
        sampler.observe(batch_of(examples, labels), torch.zeros(30), logits_with(p, labels, 4))
        sampler.draw()  # the epoch planned before is over
        drawn = torch.cat([sampler.draw().drawn for _ in range(1000)])
        times[score] = torch.bincount(drawn // 10, minlength=3).tolist()
    easy, undecided, hard = times["probability"]
    assert easy < 0.6 * undecided < 0.6 * hard
    easy, undecided, hard = times["confusion"]
    assert max(easy, hard) < 0.4 * undecided


@pytest.mark.parametrize(("n", "fraction"), [(7, 0.2), (500, 0.3), (50_000, 0.1)])
def test_a_draw_is_what_torch_multinomial_draws(context_for: Callable[..., Context], n: int, fraction: float) -> None:
    """Bit for bit, so that runs of versions that called it are the same."""
    sampler = RunningProbability(score="probability", credit="sources")
    sampler.start(context_for(n, 2, fraction=fraction))
    sampler.total = torch.rand(n, generator=torch.Generator().manual_seed(3))
    sampler.visits = torch.ones(n)
    random = torch.Generator()
    random.set_state(sampler.context.random.device.get_state())
    drawn = torch.multinomial(sampler.probabilities(), sampler.count, replacement=False, generator=random)
    expected = drawn[torch.randperm(sampler.count, generator=random)]
    assert torch.equal(sampler.plan(), expected)


def test_at_the_whole_budget_p_sgd_draws_everything_once_an_epoch(context_for: Callable[..., Context]) -> None:
    sampler = RunningProbability(score="probability", credit="sources")
    sampler.start(context_for(24, 6))
    for _ in range(4):
        batches = [sampler.draw() for _ in range(4)]
        assert sorted(torch.cat([b.drawn for b in batches]).tolist()) == list(range(24))
        for b in batches:
            sampler.observe(b, torch.zeros(6), torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))


def test_credit_to_sources_is_a_mean_weighted_by_share_of_each_source_s_own_label(
    context_for: Callable[..., Context],
) -> None:
    """Two rows worked out by hand: example 1 is a quarter of row 0 and half of row 1."""
    sampler = RunningProbability(score="probability", credit="sources")
    sampler.start(context_for(4, 2))
    batch = mixed_batch([[0, 1], [1, 3]], 4, [[0.75, 0.25], [0.5, 0.5]], drawn=[0, 1])
    probabilities = torch.tensor([[0.6, 0.2, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    sampler.observe(batch, torch.zeros(2), probabilities.log())
    a_1 = (0.25 * (1 - 0.2) + 0.5 * (1 - 0.7)) / 0.75
    torch.testing.assert_close(sampler.scores(), torch.tensor([0.4, a_1, 0.9, 0.9]))  # example 2 is unseen


def test_credit_as_published_goes_to_the_drawn_example_in_full(context_for: Callable[..., Context]) -> None:
    """Row 0 was drawn for example 2, of which it shows nothing: its score is updated all the same."""
    sampler = RunningProbability(score="probability", credit="as_published")
    sampler.start(context_for(4, 2))
    batch = mixed_batch([[0, 1], [1, 3]], 4, [[0.75, 0.25], [0.5, 0.5]], drawn=[2, 1])
    probabilities = torch.tensor([[0.6, 0.2, 0.15, 0.05], [0.1, 0.7, 0.1, 0.1]])
    sampler.observe(batch, torch.zeros(2), probabilities.log())
    torch.testing.assert_close(sampler.scores(), torch.tensor([0.85, 0.3, 0.85, 0.85]))


@pytest.mark.parametrize("mixing", [RICAP(beta=0.3, draw="image"), Mixup(alpha=0.3, draw="image")])
@pytest.mark.parametrize("credit", ["sources", "as_published"])
def test_credit_under_mixing_equals_a_slow_reference_over_several_epochs(
    context_for: Callable[..., Context], mixing: Mixup | RICAP, credit: str
) -> None:
    sampler = RunningProbability(score="probability", credit=credit)
    context = context_for(40, 8, fraction=0.5, aug=(mixing,))
    sampler.start(context)
    generator = torch.Generator().manual_seed(3)
    total, visits = np.zeros(40), np.zeros(40)
    for _ in range(12):
        batch = sampler.draw()
        logits = torch.randn(8, 4, generator=generator)
        sampler.observe(batch, torch.zeros(8), logits)
        p = logits.double().softmax(1).numpy()
        for row in range(8):
            if credit == "as_published":
                i = int(batch.drawn[row])
                sources = [(i, i % 4, 1.0)]
            else:
                sources = [
                    (int(i), int(i) % 4, float(s)) for i, s in zip(batch.index[row], batch.share[row], strict=True)
                ]
            for i, label, share in sources:
                total[i] += share * (1 - p[row, label])
                visits[i] += share
    seen = visits > 0
    assert 5 < seen.sum() < 40
    a = np.where(seen, total / np.maximum(visits, 1e-30), 0)
    np.testing.assert_allclose(sampler.scores(), np.where(seen, a, a.max()), atol=1e-5)
