"""Curricula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from samplers import file_of, sampler_of, started

from budgetrun.contracts import Context, UserError

# at x = 1/2, of 1,000 from 200 on
HALF_WAY = {
    "linear": 600,  # 0.2 + 0.8 / 2
    "quad": 400,  # 0.2 + 0.8 / 4
    "root": 765,  # 0.2 + 0.8 x 0.70711 = 0.76569
    "step": 200,
    "exp": 205,  # (e^5 - 1) / (e^10 - 1) = 1 / (e^5 + 1) = 0.0066929: 0.20535
    "log": 944,  # 1 + ln(0.5000454) / 10 = 0.930694: 0.94456
    "fixed_exponential": 380,  # 0.2 x 1.9^3 > 1: three steps, of which one is done
}


@pytest.mark.parametrize("pace", HALF_WAY)
def test_the_part_that_takes_part_grows_as_published(context_for: Callable[..., Context], pace: str) -> None:
    sampler, time = started(
        sampler_of("pacing", order="random", pace=pace, first=0.2, until=0.5), context_for, 1000, 10
    )
    for progress, count in ((0.0, 200), (0.25, HALF_WAY[pace]), (0.5, 1000), (1.0, 1000)):
        time.at = progress
        assert sampler.count() == count


def test_the_steps_of_hacohen_and_weinshall_are_those_of_their_program(context_for: Callable[..., Context]) -> None:
    """Of 2,500 from 100 on, 1.9 times as many at 1/6, 2/6, ... of the way: 190, 361, 685.9, 1303.21, 2476.099."""
    sampler, time = started(
        sampler_of("pacing", order="random", pace="fixed_exponential", first=0.04, until=0.6), context_for, 2500, 10
    )
    counts = []
    for sixth in range(7):
        time.at = sixth * 0.1 + 0.001
        counts.append(sampler.count())
    assert counts == [100, 190, 361, 685, 1303, 2476, 2500]


def test_there_are_at_least_as_many_as_fill_a_batch_and_at_most_all(context_for: Callable[..., Context]) -> None:
    for n, count in ((100, 30), (20, 20)):
        sampler, _ = started(sampler_of("pacing", order="random", first=0.01), context_for, n, 30)
        assert sampler.count() == count


@pytest.mark.parametrize(
    ("order", "balanced", "ranked"),
    [
        ("lowest", False, [4, 0, 6, 2, 1, 5, 3, 7]),
        ("highest", False, [7, 3, 5, 1, 2, 6, 0, 4]),
        ("lowest", True, [4, 1, 0, 5, 6, 3, 2, 7]),
        ("highest", True, [7, 2, 3, 6, 5, 0, 1, 4]),
    ],
)
def test_the_order_is_that_of_the_scores_or_of_the_classes_in_turn(
    context_for: Callable[..., Context], order: str, balanced: bool, ranked: list[int]
) -> None:
    """Even examples are of class 0 and odd ones of class 1, which is harder; in file order, the last comes first."""
    score = {0: 0.2, 2: 0.4, 4: 0.1, 6: 0.3, 1: 0.5, 3: 0.7, 5: 0.6, 7: 0.8}
    index = list(reversed(range(8)))
    sampler, _ = started(
        sampler_of("pacing", order=order, balanced=balanced),
        context_for,
        8,
        2,
        classes=2,
        read_scores=file_of([score[i] for i in index], index),
    )
    assert sampler.ranked.tolist() == ranked


def test_a_pass_goes_over_what_takes_part_when_it_begins(context_for: Callable[..., Context]) -> None:
    sampler, time = started(
        sampler_of("pacing", first=0.25, until=1.0, balanced=False),
        context_for,
        16,
        2,
        read_scores=file_of([float(i) for i in range(16)]),
    )
    for progress, count in ((0.0, 4), (0.34, 8), (1.0, 16)):  # 0.25 + 0.75 x 0.34 = 0.505
        time.at = progress
        first = sampler.draw()
        time.at = 1.0  # grows within the pass: of no effect
        drawn = torch.cat([first.drawn, *(sampler.draw().drawn for _ in range(count // 2 - 1))])
        assert sorted(drawn.tolist()) == list(range(count))
        assert first.weight is None


def test_equal_scores_are_ranked_at_random_and_a_random_order_reads_no_file(
    context_for: Callable[..., Context],
) -> None:
    for changes in ({}, {"order": "random"}):
        orders = set()
        for seed in range(5):
            sampler = sampler_of("pacing", **changes)
            equal = {"read_scores": file_of([1.0] * 8)} if not changes else {}
            sampler.start(context_for(8, 2, seed=seed, **equal))
            orders.add(tuple(sampler.ranked.tolist()))
        assert len(orders) == 5
    assert sampler.file is None


def test_every_example_needs_a_score(context_for: Callable[..., Context]) -> None:
    with pytest.raises(UserError, match=r"given by the context has no score for 2 of 6 examples"):
        sampler_of("pacing").start(context_for(6, 2, read_scores=file_of([1.0] * 4)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"file": None}, "file is not set"),
        ({"order": "easy"}, "order=easy is not one of lowest, highest, random"),
        ({"pace": "cubic"}, "pace=cubic is not one of linear, .*, fixed_exponential"),
    ],
)
def test_a_curriculum_that_there_is_not_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        sampler_of("pacing", **wrong)
