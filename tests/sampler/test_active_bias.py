"""Active bias: SPV, STC, WPV, WTC."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import PLAUSIBLE, RICAPPED, batch_of, logits_with, mixed_batch, sampler_of, started
from scipy.stats import chisquare

from budgetrun.contracts import Context, UserError
from budgetrun.sampler.active_bias import ActiveBias


def told(sampler: ActiveBias, example: int, *probabilities: float) -> None:
    """One visit of the example for each probability of its label, of 4 classes."""
    for p in probabilities:
        sampler.observe(batch_of([example], [example % 4]), torch.zeros(1), logits_with([p], [example % 4], 4))


def test_the_variance_score_is_the_number_worked_out_by_hand(context_for: Callable[..., Context]) -> None:
    """Visits of 0.2, 0.6: v = 0.04, q = sqrt(0.04 + 0.04^2 / 1); of 0.1, 0.5, 0.9: v = 0.32 / 3 and |H| - 1 = 2."""
    sampler, _ = started(sampler_of("spv"), context_for, 4, 2)
    told(sampler, 0, 0.2, 0.6)
    told(sampler, 1, 0.1, 0.5, 0.9)
    told(sampler, 2, 0.3)  # one visit has no variance
    v = 0.32 / 3
    q = [0.0416**0.5, (v + v**2 / 2) ** 0.5]
    expected = torch.tensor([*q, sum(q) / 2, sum(q) / 2], dtype=torch.float64)
    torch.testing.assert_close(sampler.unsure(), expected, atol=1e-6, rtol=0)


def test_the_closeness_score_is_the_number_worked_out_by_hand(context_for: Callable[..., Context]) -> None:
    sampler, _ = started(sampler_of("stc"), context_for, 4, 2)
    told(sampler, 0, 0.2, 0.6)
    told(sampler, 1, 0.1, 0.5, 0.9)
    told(sampler, 2, 0.3)
    q = [0.4 * 0.6, 0.25, 0.21]
    expected = torch.tensor([*q, sum(q) / 3], dtype=torch.float64)
    torch.testing.assert_close(sampler.unsure(), expected, atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=60)
@given(
    visits=st.lists(
        st.lists(st.tuples(st.integers(0, 7), st.floats(0.01, 0.99)), min_size=1, max_size=6), min_size=1, max_size=8
    ),
    score=st.sampled_from(["variance", "closeness"]),
)
def test_active_bias_equals_a_slow_reference_that_keeps_every_probability(
    context_for: Callable[..., Context], visits: Any, score: Any
) -> None:
    sampler = ActiveBias(score=score, use="draw", warmup=0, epsilon=0.2)
    sampler.start(context_for(8, 4))
    history = defaultdict(list)
    for batch in visits:
        examples = [i for i, _ in batch]
        labels = [i % 4 for i in examples]
        sampler.observe(
            batch_of(examples, labels), torch.zeros(len(batch)), logits_with([p for _, p in batch], labels, 4)
        )
        for i, p in batch:
            history[i].append(p)
    known = {}
    for i, p in history.items():
        if score == "variance" and len(p) > 1:
            known[i] = np.sqrt(np.var(p) + np.var(p) ** 2 / (len(p) - 1))
        elif score == "closeness":
            known[i] = np.mean(p) * (1 - np.mean(p))
    typical = np.mean(list(known.values())) if known else 0.0
    q = np.array([known.get(i, typical) for i in range(8)])
    np.testing.assert_allclose(sampler.unsure(), q, atol=2e-3 if score == "variance" else 1e-6)
    np.testing.assert_allclose(sampler.preference(), (q + 0.2) / (q + 0.2).mean(), atol=0.02)


def test_an_example_that_was_always_solved_has_no_variance_after_many_visits(
    context_for: Callable[..., Context],
) -> None:
    """Sums in float32 would give 0.0005 or more here, as much as examples that do change late in training."""
    sampler, _ = started(sampler_of("spv"), context_for, 4, 2)
    told(sampler, 0, *[0.9999] * 200)
    assert 0 <= sampler.unsure()[0] < 1e-6


@pytest.mark.parametrize("score", ["variance", "closeness"])
@pytest.mark.parametrize("epsilon", [None, 0.2])
def test_examples_are_drawn_with_replacement_in_proportion_to_score_plus_epsilon(
    context_for: Callable[..., Context], score: str, epsilon: float | None
) -> None:
    sampler = ActiveBias(score=score, use="draw", warmup=0.1, epsilon=epsilon)
    started(sampler, context_for, 5, 10, progress=0.5)
    histories = [(0.9, 0.99), (0.1, 0.9), (0.4, 0.6), (0.01, 0.02), (0.3,)]
    for i, history in enumerate(histories):
        told(sampler, i, *history)
    if score == "variance":
        q = [np.sqrt(np.var(h) + np.var(h) ** 2) for h in histories[:4]]
        q = np.array([*q, np.mean(q)])
    else:
        q = np.array([np.mean(h) * (1 - np.mean(h)) for h in histories])
    p = q + (q.mean() if epsilon is None else epsilon)
    assert p.max() / p.min() > 1.2
    times = torch.zeros(5)
    for _ in range(1000):
        batch = sampler.draw()
        assert batch.weight is None
        times += torch.bincount(batch.drawn, minlength=5)
    assert chisquare(times, p / p.sum() * 10_000).pvalue > PLAUSIBLE


@pytest.mark.parametrize("name", ["spv", "stc"])
def test_the_draw_of_an_epoch_holds_int_n_times_budget_examples_by_what_is_known_then(
    context_for: Callable[..., Context], name: str
) -> None:
    """30% of 40: a draw is of 12. What is learnt on the way counts from the next draw on."""
    sampler, _ = started(sampler_of(name, warmup=0, epsilon=0.0), context_for, 40, 4, fraction=0.3)
    for i in range(40):
        told(sampler, i, *((0.1, 0.9) if i < 3 else (1 - 1e-9, 1 - 1e-9)))
    drawn = [sampler.draw().drawn]
    for i in range(40):
        told(sampler, i, *[1 - 1e-9] * 1000 if i < 3 else (0.1, 0.9))
    drawn += [sampler.draw().drawn for _ in range(3)]
    assert set(torch.cat(drawn[:3]).tolist()) <= {0, 1, 2}
    assert len(set(drawn[3].tolist()) - {0, 1, 2}) >= 3


@pytest.mark.parametrize("name", ["spv", "stc", "wpv", "wtc"])
def test_the_warm_up_is_shuffled_passes_that_weigh_nothing_until_the_pass_in_which_it_ends_is_over(
    context_for: Callable[..., Context], name: str
) -> None:
    sampler, time = started(sampler_of(name, warmup=0.5), context_for, 24, 8)
    rows = []
    for update in range(12):
        time.at = update / 11  # 0.5 is passed before update 6, at the end of the second pass
        batch = sampler.draw()
        rows.append(batch)
        p = torch.where(batch.drawn < 12, 0.9 if update // 3 % 2 else 0.1, 0.999).tolist()
        sampler.observe(batch, torch.zeros(8), logits_with(p, batch.label[:, 0].tolist(), 4))
    passes = [torch.cat([batch.drawn for batch in rows[i : i + 3]]) for i in (0, 3, 6, 9)]
    assert all(sorted(order.tolist()) == list(range(24)) for order in passes[:2])
    if name in ("wpv", "wtc"):
        assert all(torch.equal(batch.weight, torch.ones(8)) for batch in rows[:6])
        assert all(sorted(order.tolist()) == list(range(24)) for order in passes)
        weight, drawn = torch.cat([batch.weight for batch in rows[6:]]), torch.cat(passes[2:])
        assert weight[drawn < 12].min() > weight[drawn >= 12].max()
    else:
        assert all(batch.weight is None for batch in rows)
        assert any(len(set(order.tolist())) < 24 for order in passes[2:])  # with replacement
        drawn = torch.cat(passes[2:])
        assert (drawn < 12).sum() > (drawn >= 12).sum()


@pytest.mark.parametrize("name", ["wpv", "wtc"])
def test_the_weights_of_a_batch_are_in_proportion_to_score_plus_epsilon_with_mean_1(
    context_for: Callable[..., Context], name: str
) -> None:
    sampler, _ = started(sampler_of(name, epsilon=0.1), context_for, 6, 4, progress=0.5)
    histories = [(0.9, 0.99), (0.1, 0.9), (0.4, 0.6), (0.01, 0.02), (0.3, 0.4), (0.5, 0.5)]
    for i, history in enumerate(histories):
        told(sampler, i, *history)
    q = sampler.unsure()
    for _ in range(3):
        batch = sampler.draw()
        expected = q[batch.drawn] + 0.1
        torch.testing.assert_close(batch.weight.double(), expected / expected.mean(), atol=1e-6, rtol=1e-5)


def test_a_batch_of_the_end_of_the_warm_up_and_the_beginning_of_what_follows_weighs_them_alike(
    context_for: Callable[..., Context],
) -> None:
    """All examples have the same q = 0.16: the weights of both parts are 1, not 1 and 0.16 before they are scaled."""
    sampler, time = started(sampler_of("wtc", warmup=0.5), context_for, 6, 4)
    for i in range(6):
        told(sampler, i, 0.2)
    sampler.draw()
    time.at = 0.6
    torch.testing.assert_close(sampler.draw().weight, torch.ones(4))


@pytest.mark.parametrize("name", ["wpv", "wtc"])
def test_a_mixed_image_has_its_sources_weights_by_share(context_for: Callable[..., Context], name: str) -> None:
    sampler, _ = started(sampler_of(name, epsilon=0.0), context_for, 12, 12, progress=0.5, aug=RICAPPED)
    generator = torch.Generator().manual_seed(7)
    for i in range(12):
        told(sampler, i, *torch.rand(3, generator=generator).tolist())
    batch = sampler.draw()
    by_share = (batch.share * sampler.unsure()[batch.index].float()).sum(1)
    torch.testing.assert_close(batch.weight, by_share / by_share.mean())
    assert batch.weight.std() > 0.05


def test_a_mixed_image_is_a_visit_of_each_source_by_share_with_its_own_label(
    context_for: Callable[..., Context],
) -> None:
    """Example 1 is a quarter of row 0, where its label has 0.2, and half of row 1, where it has 0.7."""
    sampler, _ = started(sampler_of("stc"), context_for, 4, 2)
    batch = mixed_batch([[0, 1], [1, 3]], 4, [[0.75, 0.25], [0.5, 0.5]], drawn=[0, 1])
    sampler.observe(batch, torch.zeros(2), torch.tensor([[0.6, 0.2, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]]).log())
    p = (0.25 * 0.2 + 0.5 * 0.7) / 0.75
    q = [0.6 * 0.4, p * (1 - p), 0.1 * 0.9]
    expected = torch.tensor([q[0], q[1], sum(q) / 3, q[2]], dtype=torch.float64)  # example 2 was not shown
    torch.testing.assert_close(sampler.unsure(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["spv", "stc", "wpv", "wtc"])
@pytest.mark.parametrize("probability", [None, 1.0, float("nan")])
@pytest.mark.parametrize("epsilon", [None, 0.0])
def test_where_nothing_is_known_or_all_is_solved_active_bias_is_uniform(
    context_for: Callable[..., Context], name: str, probability: float | None, epsilon: float | None
) -> None:
    sampler, _ = started(sampler_of(name, warmup=0, epsilon=epsilon), context_for, 8, 8)
    if probability is not None:
        labels = [i % 4 for i in range(8)]
        certain = 200.0 * probability * F.one_hot(torch.tensor(labels), 4)
        for _ in range(3):
            sampler.observe(batch_of(list(range(8)), labels), torch.zeros(8), certain)
    times = torch.zeros(8)
    for _ in range(1000):
        batch = sampler.draw()
        times += torch.bincount(batch.drawn, minlength=8)
        assert batch.weight is None or torch.equal(batch.weight, torch.ones(8))
    assert chisquare(times).pvalue > PLAUSIBLE


@pytest.mark.parametrize("name", ["wpv", "wtc"])
def test_a_batch_of_solved_examples_weighs_1_each_when_epsilon_is_0(
    context_for: Callable[..., Context], name: str
) -> None:
    sampler, _ = started(sampler_of(name, warmup=0, epsilon=0.0), context_for, 8, 2)
    for i in range(8):
        told(sampler, i, *((0.2, 0.6) if i == 0 else (1.0, 1.0)))
    for _ in range(4):
        batch = sampler.draw()
        expected = [2.0 if i == 0 else 0.0 for i in batch.drawn.tolist()] if 0 in batch.drawn else [1.0, 1.0]
        torch.testing.assert_close(batch.weight, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": "entropy"},
        {"use": "both"},
        {"warmup": 1.5},
        {"warmup": -0.1},
        {"epsilon": -1.0},
        {"epsilon": float("inf")},
    ],
)
def test_values_that_make_no_sense_for_active_bias_are_refused(wrong: Any) -> None:
    fields = {"score": "variance", "use": "draw", "warmup": 0.1, "epsilon": None}
    with pytest.raises(ValueError, match=r"is not one of|must be"):
        ActiveBias(**(fields | wrong))


def test_more_examples_than_torch_can_draw_from_are_refused_before_anything_is_made(
    context_for: Callable[..., Context],
) -> None:
    many = replace(context_for(8, 4), n=2**24 + 1)
    with pytest.raises(UserError, match=r"at most 16,777,216 examples.*not 16,777,217; set sampler\.use=weight"):
        sampler_of("spv").start(many)
