"""Shuffled passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetrun.contracts import Context
from budgetrun.sampler.scan import Scan


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), draws=st.integers(1, 12))
def test_scan_visits_of_two_examples_never_differ_by_more_than_one(
    context_for: Callable[..., Context], n: Any, batch_size: Any, draws: Any
) -> None:
    sampler = Scan()
    sampler.start(context_for(n, batch_size))
    visits = torch.zeros(n, dtype=torch.int64)
    for _ in range(draws):
        drawn = sampler.draw().drawn
        assert len(drawn) == batch_size
        visits += torch.bincount(drawn, minlength=n)
        assert visits.max() - visits.min() <= 1


def test_scan_goes_through_a_new_order_in_every_pass(context_for: Callable[..., Context]) -> None:
    sampler = Scan()
    sampler.start(context_for(30, 10))
    passes = [tuple(torch.cat([sampler.draw().drawn for _ in range(3)]).tolist()) for _ in range(5)]
    assert all(sorted(order) == list(range(30)) for order in passes)
    assert len({*passes, tuple(range(30))}) == 6
