"""The rules that choose a subset by scores, and the quotas of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import here, needed, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import file_of, ran, subset
from torch import Tensor

from budgetrun.apportion import evenly, in_proportion
from budgetrun.contracts import Context, Rule, UserError, check_choice
from budgetrun.select.beta import Beta
from budgetrun.select.draw import Draw
from budgetrun.select.stratified import Stratified
from budgetrun.select.top import Top
from budgetrun.select.window import Window

RULES: list[Rule] = [
    Top(best=True),
    Top(best=False),
    Window(skip=0.0),
    Stratified(cut=0.0, strata=5),
    Draw(temperature=None, mix=0.5),
    Draw(temperature=0.1, mix=0.0),
    Beta(power=4.0),
]


def chosen(rule: Rule, count: int, seed: int = 0, **columns: list[float]) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return rule({name: torch.tensor(column) for name, column in columns.items()}, count, generator).tolist()


def kept(context: Context, **options: Any) -> list[int]:
    return subset(context, **options).selection().tolist()


@settings(deadline=None, max_examples=60)
@given(
    scores=st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), min_size=1, max_size=30),
    part=st.floats(0, 1),
    seed=st.integers(0, 3),
    rule=st.sampled_from(RULES),
)
def test_every_rule_chooses_as_many_as_asked_each_once_and_the_same_by_the_same_seed(
    scores: list[float], part: float, seed: int, rule: Rule
) -> None:
    scores = [*scores, 1.0]  # a draw needs one that is not 0
    count = round(part * len(scores))
    mean_p = [1 - score for score in scores]
    found = chosen(rule, count, seed, score=scores, mean_p=mean_p)
    assert len(found) == len(set(found)) == count
    assert set(found) <= set(range(len(scores)))
    assert found == chosen(rule, count, seed, score=scores, mean_p=mean_p)


def test_top_bottom_and_window() -> None:
    score = [0.3, 0.9, 0.1, 0.5, 0.7]
    assert chosen(Top(best=True), 2, score=score) == [1, 4]
    assert chosen(Top(best=False), 2, score=score) == [2, 0]
    assert chosen(Window(skip=0.2), 2, score=score) == [4, 3]
    assert chosen(Window(skip=0.0), 2, score=score) == [1, 4]
    with pytest.raises(UserError, match=r"select.skip=0.6 leaves 2 of 5 examples, and 3 are to be chosen"):
        chosen(Window(skip=0.6), 3, score=score)


# ---- strata


def test_each_stratum_gives_the_same_number_or_all_that_it_has() -> None:
    assert evenly([50, 2, 10], 21) == [10, 2, 9]  # 21 // 3 = 7 > 2; 19 // 2 = 9; 10
    assert evenly([5, 5, 5], 7) == [2, 2, 3]
    assert evenly([1, 0, 4], 5) == [1, 0, 4]
    # twelve scores in four strata of width 0.25: [0, 0.25), [0.25, 0.5), [0.5, 0.75) and [0.75, 1], the last closed
    score = [0.0, 0.05, 0.1, 0.15, 0.2, 0.24, 0.3, 0.4, 0.6, 0.76, 0.9, 1.0]
    strata = Counter(min(int(score[i] * 4), 3) for i in chosen(Stratified(cut=0.0, strata=4), 7, score=score))
    # the sizes are 6, 2, 1, 3: the third gives 7 // 4 = 1, the second 6 // 3 = 2, the fourth 4 // 2 = 2, the first 2
    assert strata == {0: 2, 1: 2, 2: 1, 3: 2}
    # negative scores: the best is in the last stratum, not lost
    assert 3 in chosen(Stratified(cut=0.0, strata=2), 2, score=[-4.0, -3.9, -3.8, -1.0])
    # the best quarter is cut first, and the range of the others divided
    assert set(chosen(Stratified(cut=0.25, strata=2), 2, score=[0.0, 0.01, 0.02, 0.1, 0.11, 0.12, 90, 100])) <= set(
        range(6)
    )
    assert chosen(Stratified(cut=0.0, strata=3), 2, score=[0.5, 0.5]) in ([0, 1], [1, 0])
    # and within a stratum at random: 3 of 10, a standard deviation of 0.01
    shares = times(Stratified(cut=0.0, strata=1), 3, draws=2000, score=[float(i) for i in range(10)])
    torch.testing.assert_close(shares, torch.full((10,), 0.3), atol=0.05, rtol=0)
    with pytest.raises(UserError, match=r"select.cut=0.5 leaves 2 of 4 examples, and 3"):
        chosen(Stratified(cut=0.5, strata=2), 3, score=[1.0, 2, 3, 4])


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8), part=st.floats(0, 1))
def test_numbers_that_are_even_add_up_and_differ_by_one_where_there_are_enough(sizes: list[int], part: float) -> None:
    count = round(part * sum(sizes))
    gives = evenly(sizes, count)
    assert sum(gives) == count
    assert all(0 <= give <= size for give, size in zip(gives, sizes, strict=True))
    full = [give for give, size in zip(gives, sizes, strict=True) if give < size]
    assert max(gives) - min(full, default=max(gives)) <= 1


def test_numbers_in_proportion_are_capped_and_add_up() -> None:
    assert in_proportion([1, 2, 1], [10, 10, 10], 8) == [2, 4, 2]
    # 12 x 0.75 = 9 is more than 4: the others share 8 as 1 to 2
    assert in_proportion([1, 9, 2], [10, 4, 10], 12) == [3, 4, 5]  # 2.67 and 5.33
    assert in_proportion([0, 1], [5, 3], 6) == [3, 3]  # weight 0 gives what no other can
    assert in_proportion([0, 0], [5, 3], 4) == [2, 2]
    assert in_proportion([0.1, 0.1, 0.1], [9, 9, 9], 10) in ([4, 3, 3], [3, 4, 3], [3, 3, 4])


@settings(deadline=None)
@given(groups=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30)), min_size=1, max_size=8), part=st.floats(0, 1))
def test_numbers_in_proportion_never_exceed_a_group(groups: list[tuple[float, int]], part: float) -> None:
    weights, sizes = zip(*groups, strict=True)
    count = round(part * sum(sizes))
    gives = in_proportion(weights, sizes, count)
    assert sum(gives) == count
    assert all(0 <= give <= size for give, size in zip(gives, sizes, strict=True))
    # of groups that could give more, one with a larger weight gives at least as many, up to one for rounding
    able = [one for one in zip(weights, gives, sizes, strict=True) if one[0] > 0 and one[1] < one[2]]
    assert all(give >= other - 1 for weight, give, _ in able for less, other, _ in able if weight >= less)


# ---- draws


def times(rule: Rule, count: int, draws: int = 4000, **columns: list[float]) -> Tensor:
    """How often each example is chosen, as a part of the draws."""
    n, generator = len(columns["score"]), torch.Generator().manual_seed(0)
    tensors = {name: torch.tensor(column) for name, column in columns.items()}
    found = torch.cat([rule(tensors, count, generator) for _ in range(draws)])
    return found.bincount(minlength=n) / draws


def test_a_draw_follows_the_scores_the_softmax_or_the_mixture() -> None:
    # 4,000 draws: a standard deviation of at most 0.008
    proportional = times(Draw(temperature=None, mix=0.0), 1, score=[1.0, 2, 5, 0])
    torch.testing.assert_close(proportional, torch.tensor([0.125, 0.25, 0.625, 0]), atol=0.03, rtol=0)
    assert proportional[3] == 0
    mixed = times(Draw(temperature=None, mix=0.4), 1, score=[1.0, 2, 5, 0])
    torch.testing.assert_close(mixed, torch.tensor([0.175, 0.25, 0.475, 0.1]), atol=0.03, rtol=0)
    soft = times(Draw(temperature=0.5, mix=0.0), 1, score=[0.0, -0.5, -1])  # 1 : 1/e : 1/e^2
    torch.testing.assert_close(soft, torch.tensor([0.665, 0.245, 0.090]), atol=0.03, rtol=0)
    # at a temperature near 0 it is the top, although nearly all shares are 0 in float64
    spread = [float(i * 37 % 1000) / 25 for i in range(1000)]
    cold = chosen(Draw(temperature=1e-9, mix=0.0), 500, score=spread)
    assert cold == chosen(Top(best=True), 500, score=spread)
    uniform = chosen(Draw(temperature=1e-9, mix=1.0), 500, score=spread)
    assert 200 < len(set(uniform) & set(cold)) < 300
    # two of three without replacement: the first by 4/7, 2/7, 1/7, the second in proportion to what is left
    two = times(Draw(temperature=None, mix=0.0), 2, score=[4.0, 2, 1])
    first, second, third = 4 / 7, 2 / 7, 1 / 7
    either = torch.tensor(
        [
            first + second * 4 / 5 + third * 4 / 6,
            second + first * 2 / 3 + third * 2 / 6,
            third + first * 1 / 3 + second * 1 / 5,
        ]
    )
    torch.testing.assert_close(two, either, atol=0.03, rtol=0)
    with pytest.raises(UserError, match=r"needs scores that are not negative.* set select.temperature"):
        chosen(Draw(temperature=None, mix=0.0), 1, score=[-1.0, 2])


def test_beta_draws_easier_examples_if_less_is_kept() -> None:
    # equal scores and mean_p all over [0, 1], the ten of the highest score at 0.15 in the mean: what is drawn first
    # follows the density. With r left out, b = 15 * 0.85 * (1 - r^4) and a = 16 - b, so that the mean is a / 16
    grid = [(i + 0.5) / 1000 for i in range(1000)]
    score = [1.0] * 999 + [1.00005] + [1.0001 + i / 1e6 for i in range(10)]
    mean_p = grid[:999] + [0.99] + [0.06 + 0.02 * i for i in range(10)]
    columns = {"score": torch.tensor(score), "mean_p": torch.tensor(mean_p)}
    for r, mean in ((0.7, 0.3944), (0.9, 0.7260)):
        count = round((1 - r) * len(score))
        generator = torch.Generator().manual_seed(0)
        first = [Beta(power=4.0)(columns, count, generator)[0] for _ in range(3000)]
        found = columns["mean_p"][torch.stack(first)]
        assert abs(found.mean() - mean) < 0.01, r  # a standard deviation of 0.12 / sqrt(3000) = 0.002
    with pytest.raises(UserError, match="needs the column mean_p"):
        chosen(Beta(power=4.0), 1, score=[1.0, 2])
    with pytest.raises(UserError, match="needs scores that are not negative"):
        chosen(Beta(power=4.0), 1, score=[-1.0, 2], mean_p=[0.1, 0.2])
    # twice the score, twice the chance
    shares = times(Beta(power=4.0), 1, score=[1.0, 2, 1], mean_p=[0.4, 0.4, 0.4])
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.5, 0.25]), atol=0.03, rtol=0)


# ---- in a subset


def test_a_rule_chooses_class_by_class_and_quotas_say_how_many(context_for: Callable[..., Context]) -> None:
    # labels go 0, 1, 2, 3, 0, ...: of ten examples, three are of 0 and of 1, two of 2 and of 3
    read = file_of([float(i) for i in range(10)])
    context = context_for(10, 2, read_scores=read, select=Window(skip=0.34))
    assert kept(context, keep=0.4) == [6, 5, 4, 3]  # the best 3 of all are left out
    assert kept(context, keep=0.3, balanced=True) == [4, 5, 2, 3]  # of each class 1, after the best 1
    context = context_for(10, 2, read_scores=read)
    assert kept(context, keep=0.6, balanced=True) == [8, 4, 9, 5, 6, 7]
    assert kept(context, keep=0.7, balanced=True, quota="equal") == [8, 4, 9, 5, 6, 7, 3]
    with pytest.raises(ValueError, match="quota=equal is for a subset that is chosen class by class"):
        kept(context, keep=0.5, quota="equal")
    assert kept(context_for(10, 2, read_scores=read, select=Top(best=False)), keep=0.2) == [0, 1]
    assert kept(context_for(10, 2, read_scores=read, select=Top(best=False)), keep=0.2, order="lowest") == [9, 8]


def test_a_round_adds_by_any_rule_the_same_in_all_runs(context_for: Callable[..., Context]) -> None:
    read = file_of([float(i % 7) for i in range(40)])
    base = torch.tensor([1, 2, 3])
    for rule in (Draw(temperature=None, mix=0.2), Stratified(cut=0.1, strata=4)):
        found = [
            kept(
                context_for(40, 2, seed=seed, read_scores=read, select=rule, read_kept=lambda file: base),
                base="kept.csv",
                add=0.25,
            )
            for seed in (0, 1)
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 13
        assert set(found[0]) > {1, 2, 3}
    context = context_for(40, 2, read_scores=read, select=Window(skip=0.1))
    with pytest.raises(UserError, match=r"sampler.drop leaves out the worst; it goes with select=top or bottom"):
        kept(context, drop=0.25)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "returns nothing"),
        (torch.tensor([True, False, True]), r"returns torch.bool \[3\], and must return positions"),
        (torch.tensor([[0, 1]]), r"returns torch.int64 \[1, 2\]"),
        (torch.tensor([0]), "returns 1 positions for count=2"),
        (torch.tensor([1, 1]), "of them 1 different"),
        (torch.tensor([0, 3]), r"in 0 \.\. 2"),
        (torch.tensor([-1, 0]), r"in 0 \.\. 2"),
    ],
)
def test_what_a_rule_returns_must_be_positions_each_once(found: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_choice(found, RULES[0], there=3, count=2)
    check_choice(torch.tensor([2, 0]), RULES[0], there=3, count=2)


def test_a_rule_is_part_of_the_experiment_and_refused_where_it_has_no_effect(tmp_path: Path) -> None:
    line = f"sampler=subset sampler.keep=0.3 budget=0.5 epochs=1{needed('subset', tmp_path)}"
    _, top = ran(line, tmp_path)
    assert "not run again" in here(f"{line} select=top", tmp_path).out
    _, drawn = ran(f"{line} select=draw select.mix=0.1", tmp_path)
    assert (top["names"]["select"], drawn["names"]["select"]) == ("top", "draw")
    assert "-subset-draw-" in drawn["run_id"]
    assert drawn["config"]["select"]["mix"] == 0.1
    _, uniform = ran("budget=0.5 epochs=1", tmp_path)
    assert "select" not in uniform["names"]
    refused(here("select=draw", tmp_path), "select=draw has no effect with sampler=uniform; it is for sampler=subset")
    refused(here(f"{line} select=beta", tmp_path), "select=beta needs the column mean_p in sampler.file")
    refused(here(f"{line} select=window select.skip=1", tmp_path), "select.skip=1.0 must be at least 0 and less than 1")


def test_the_quota_by_recall_takes_more_of_the_classes_that_the_scoring_run_got_wrong(
    tmp_path: Path, context_for: Callable[..., Context]
) -> None:
    # labels go 0, 1, 2, 3: of 8 to choose of 40, with the recalls 0.9, 0.9, 0.5, 0.9 class 2 gives 5/8 of them
    recall = [0.5 if i % 4 == 2 else 0.9 for i in range(40)]
    read = file_of([float(i) for i in range(40)], recall=recall)
    found = kept(context_for(40, 2, read_scores=read), keep=0.2, balanced=True, quota="recall")
    assert Counter(i % 4 for i in found) == {0: 1, 1: 1, 2: 5, 3: 1}
    with pytest.raises(UserError, match=r"needs the column recall in scores\.csv; a run with scores"):
        kept(context_for(40, 2, read_scores=file_of([1.0] * 40)), keep=0.2, balanced=True, quota="recall")
    done, first = ran("scores=random epochs=1 budget=0.2 validation=0.2", tmp_path)
    lines = (done.folder / "scores.csv").read_text().splitlines()
    assert lines[1] == "index,score,recall"
    # the recalls of the classes (see test_looks.py), weighted by their held-out examples, are the held-out accuracy
    column = np.array([float(line.split(",")[2]) for line in lines[2:]])
    assert len(set(column)) > 3
    assert abs(column.mean() - first["val_accuracy"]) < 0.01  # the classes are nearly of the same size
    line = f"sampler=subset sampler.file={done.folder / 'scores.csv'} sampler.keep=0.3 sampler.balanced=true"
    ran(f"{line} sampler.quota=recall budget=0.2 epochs=1 validation=0.2", tmp_path)
