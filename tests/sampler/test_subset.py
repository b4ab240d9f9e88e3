"""Subsets by a file of scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import file_of, subset

from budgetrun.aug.mixup import Mixup
from budgetrun.contracts import Context, UserError


def test_the_highest_or_the_lowest_scores_are_kept(context_for: Callable[..., Context]) -> None:
    read = file_of([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.4])
    assert set(subset(context_for(8, 2, read_scores=read), 0.5).kept.tolist()) == {1, 6, 4, 3}
    assert set(subset(context_for(8, 2, read_scores=read), 0.5, "lowest").kept.tolist()) == {2, 5, 0, 7}
    assert set(subset(context_for(8, 2, read_scores=read), 1.0).kept.tolist()) == set(range(8))


def test_balanced_keeps_the_same_part_of_every_class(context_for: Callable[..., Context]) -> None:
    # labels go 0, 1, 0, 1, ...: the even examples are the harder ones
    read = file_of([9.0, 1, 8, 2, 7, 3, 6, 4])
    context = context_for(8, 2, classes=2, read_scores=read)
    assert set(subset(context, 0.5).kept.tolist()) == {0, 2, 4, 6}
    assert set(subset(context, 0.5, balanced=True).kept.tolist()) == {0, 2, 7, 5}
    assert set(subset(context, 0.5, "lowest", balanced=True).kept.tolist()) == {6, 4, 1, 3}


@settings(deadline=None, max_examples=40)
@given(
    scores=st.lists(st.integers(0, 3), min_size=2, max_size=40),
    keep=st.floats(0.05, 1),
    seed=st.integers(0, 5),
    balanced=st.booleans(),
)
def test_the_kept_are_as_many_as_asked_for_and_none_of_the_others_ranks_above_them(
    context_for: Callable[..., Context], scores: Any, keep: Any, seed: Any, balanced: Any
) -> None:
    context = context_for(len(scores), 2, seed=seed, read_scores=file_of([float(s) for s in scores]))
    groups = [range(c, len(scores), 4) for c in range(4)] if balanced else [range(len(scores))]
    if not sum(round(keep * len(group)) for group in groups):
        with pytest.raises(UserError, match="keeps none"):
            subset(context, keep, balanced=balanced)
        return
    kept = set(subset(context, keep, balanced=balanced).kept.tolist())
    for group in groups:
        chosen, others = kept & set(group), set(group) - kept
        assert len(chosen) == round(keep * len(group))
        assert min((scores[i] for i in chosen), default=9) >= max((scores[i] for i in others), default=-1)


def test_equal_scores_are_ranked_at_random(context_for: Callable[..., Context]) -> None:
    times = torch.zeros(20)
    for seed in range(400):
        kept = subset(context_for(20, 2, seed=seed, read_scores=file_of([1.0] * 20)), 0.25).kept
        times[kept] += 1
    assert times.sum() == 2000
    assert 60 < times.min() < times.max() < 140  # 100 with a standard deviation of 8.7


# ---- rounds


def test_a_round_adds_the_best_of_the_rest_or_drops_the_worst(context_for: Callable[..., Context]) -> None:
    scores = file_of([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.4])
    base = torch.tensor([1, 2, 4])
    context = context_for(8, 2, read_scores=scores, read_kept=lambda file: base)
    # 6 has 0.8 and 3 has 0.5
    assert subset(context, base="kept.csv", add=0.25).selection().tolist() == [1, 2, 3, 4, 6]
    assert subset(context, base="kept.csv", drop=0.25).selection().tolist() == [1]
    assert subset(context, base="kept.csv", drop=0.25, order="lowest").selection().tolist() == [2]
    assert subset(context, add=0.25).selection().tolist() == [1, 6]  # from nothing
    assert subset(context, file=None, base="kept.csv").selection().tolist() == [1, 2, 4]  # as it is
    assert subset(context, drop=0.25).selection().tolist() == [0, 1, 3, 4, 6, 7]  # from everything
    # labels go 0, 1, 0, 1, ...
    context = context_for(8, 2, classes=2, read_scores=scores, read_kept=lambda file: base)
    assert subset(context, base="kept.csv", add=0.25, balanced=True).selection().tolist() == [1, 2, 3, 4, 6]
    assert subset(context, drop=0.5, balanced=True).selection().tolist() == [1, 3, 4, 6]


@settings(deadline=None, max_examples=60)
@given(
    scores=st.lists(st.integers(0, 3), min_size=4, max_size=40),
    parts=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    grows=st.booleans(),
    seeds=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_rounds_are_nested_whatever_the_seed_and_end_as_one_round_with_the_same_scores(
    context_for: Callable[..., Context], scores: Any, parts: Any, grows: Any, seeds: Any
) -> None:
    n, read = len(scores), file_of([float(s) for s in scores])

    def rounds(shares: list[float], seed: int) -> list[set[int]]:
        kept = torch.arange(0)
        found = []
        for number, share in enumerate(shares):
            context = context_for(n, 2, seed=seed, read_scores=read, read_kept=lambda file, kept=kept: kept)
            change = {"add": share} if grows else {"drop": share}
            kept = subset(context, base="kept.csv" if number else None, **change).selection()
            found.append(set(kept.tolist()))
        return found

    shares = [part * (n // 12 + 1) / n for part in parts]  # of whole numbers of examples, so that parts add up
    if round(sum(shares) * n) >= n:
        return
    one, other = (rounds(shares, seed) for seed in seeds)
    assert one == other
    assert all(smaller < larger for smaller, larger in itertools.pairwise(one if grows else one[::-1]))
    assert one[-1] == rounds([sum(shares)], 0)[0]
    others = set(range(n)) - one[-1]
    assert min(scores[i] for i in one[-1]) >= max(scores[i] for i in others)


def test_a_round_that_cannot_be_is_a_sentence(context_for: Callable[..., Context]) -> None:
    context = context_for(8, 2, read_scores=file_of([1.0] * 8), read_kept=lambda file: torch.arange(3))
    with pytest.raises(UserError, match=r"add=0.75 is 6 of 8 examples of all, and .* only 5 that base has not"):
        subset(context, base="kept.csv", add=0.75)
    with pytest.raises(UserError, match=r"drop=0.5 is 4 of 8 examples of all, and .* only 3 that base has"):
        subset(context, base="kept.csv", drop=0.5)
    with pytest.raises(UserError, match=r"sampler.drop=0.375 keeps none of the 8 examples"):
        subset(context, base="kept.csv", drop=0.375)
    with pytest.raises(UserError, match=r"sampler.add=0.01 of 8 examples is none"):
        subset(context, base="kept.csv", add=0.01)
    weighted = context_for(4, 2, read_scores=file_of([1.0] * 4, weight=[1.0] * 4))
    with pytest.raises(UserError, match="has weights, which a subset in rounds cannot have"):
        subset(weighted, add=0.5)
    changes: dict[str, Any]
    for changes, words in [
        ({"add": 0.1, "drop": 0.1}, "two different rounds"),
        ({"base": "kept.csv"}, "file=scores.csv has no effect with base alone"),
        ({"add": 0.0}, "add=0.0 must be"),
        ({"drop": 1.0}, "drop=1.0 must be"),
    ]:
        with pytest.raises(ValueError, match=words):
            subset(context, **changes)


# ---- passes and weights


def test_every_pass_goes_through_the_kept_examples_once_in_a_new_order(context_for: Callable[..., Context]) -> None:
    sampler = subset(context_for(30, 4, read_scores=file_of([float(i) for i in range(30)])), 0.4)
    drawn = torch.cat([sampler.draw().drawn for _ in range(9)]).view(3, 12)  # 12 are kept
    assert all(sorted(one) == list(range(18, 30)) for one in drawn.tolist())
    assert len({tuple(one) for one in drawn.tolist()}) == 3
    assert sampler.draw().weight is None


def test_the_weights_of_the_file_have_mean_1_over_the_subset(context_for: Callable[..., Context]) -> None:
    read = file_of([1.0, 4, 3, 2], index=[5, 0, 2, 3], weight=[9.0, 1, 2, 6])
    sampler = subset(context_for(6, 3, read_scores=read), 0.5)  # 0, 2, 3 with weights 1, 2, 6
    batch = sampler.draw()
    weight = dict(zip(batch.drawn.tolist(), batch.weight.tolist(), strict=True))
    assert weight == pytest.approx({0: 1 / 3, 2: 2 / 3, 3: 2.0})


def test_a_mixed_image_has_the_mean_weight_of_its_sources_by_share(context_for: Callable[..., Context]) -> None:
    read = file_of([0.0] * 8, weight=[float(i) for i in range(8)])
    sampler = subset(context_for(8, 8, read_scores=read, aug=(Mixup(alpha=1.0, draw="image"),)), 1.0)
    batch = sampler.draw()
    by_hand = [
        sum(float(s) * int(i) / 3.5 for i, s in zip(row, share, strict=True))
        for row, share in zip(batch.index, batch.share, strict=True)
    ]
    np.testing.assert_allclose(batch.weight, by_hand, rtol=1e-5)
    assert (batch.share > 0).all()


def test_a_file_that_scores_too_few_examples_is_a_sentence(context_for: Callable[..., Context]) -> None:
    with pytest.raises(UserError, match=r"keep=0.9 is 7 of 8 examples of all, and scores.csv scores only 4"):
        subset(context_for(8, 2, read_scores=file_of([1.0] * 4)), 0.9)
    with pytest.raises(UserError, match=r"keep=0.5 is 1 of 2 examples of a class, and scores.csv scores only 0"):
        subset(context_for(8, 2, read_scores=file_of([1.0] * 4, index=[0, 1, 4, 5])), 0.5, balanced=True)


def test_without_keep_all_that_the_file_scores_are_kept(context_for: Callable[..., Context]) -> None:
    read = file_of([0.3, 0.9, 0.1], index=[5, 2, 7])
    assert sorted(subset(context_for(8, 2, read_scores=read), None).kept.tolist()) == [2, 5, 7]


@pytest.mark.parametrize("weight", [[1.0, -1, 1, 1], [0.0] * 4])
def test_weights_that_cannot_be_used_are_a_sentence(context_for: Callable[..., Context], weight: list[float]) -> None:
    with pytest.raises(UserError, match="weights that are negative, or all 0"):
        subset(context_for(4, 2, read_scores=file_of([1.0] * 4, weight=weight)), 1.0)
