"""Uniform draws."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import torch
from samplers import PLAUSIBLE, sampler_of
from scipy.stats import chisquare

from budgetrun.contracts import Context
from budgetrun.sampler.scan import Scan
from budgetrun.sampler.uniform import Uniform


def test_uniform_draws_each_epoch_without_replacement_and_drops_none_of_it(context_for: Callable[..., Context]) -> None:
    sampler = Uniform()
    sampler.start(context_for(100, 8, fraction=0.3))
    drawn = torch.cat([sampler.draw().drawn for _ in range(15)])  # 120 images are 4 epochs of 30
    epochs = drawn.view(4, 30).tolist()
    assert [len(set(epoch)) for epoch in epochs] == [30] * 4
    assert len({frozenset(epoch) for epoch in epochs}) == 4


def test_uniform_draws_every_subset_equally_often_and_independently_of_the_last_one(
    context_for: Callable[..., Context],
) -> None:
    sampler = Uniform()
    sampler.start(context_for(5, 2, fraction=0.4))
    epochs = [frozenset(sampler.draw().drawn.tolist()) for _ in range(4000)]
    counts = Counter(epochs)
    assert chisquare([counts[frozenset(pair)] for pair in itertools.combinations(range(5), 2)]).pvalue > PLAUSIBLE
    # two random pairs of five examples share 0, 1 or 2 of them with probabilities 3/10, 6/10, 1/10
    shared = Counter(len(a & b) for a, b in zip(epochs[::2], epochs[1::2], strict=True))
    assert chisquare([shared[k] for k in range(3)], [600, 1200, 200]).pvalue > PLAUSIBLE


def test_uniform_at_the_whole_budget_is_scan(context_for: Callable[..., Context]) -> None:
    uniform, scan = Uniform(), Scan()
    uniform.start(context_for(50, 8))
    scan.start(context_for(50, 8))
    for _ in range(20):
        assert torch.equal(uniform.draw().drawn, scan.draw().drawn)


def test_rs2_is_uniform_by_another_name() -> None:
    assert sampler_of("rs2") == Uniform()
