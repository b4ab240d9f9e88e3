"""Hard mini-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetrun.contracts import Context, UserError
from budgetrun.sampler.hard_batches import HardBatches


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
    context_for: Callable[..., Context], count: Any, delta: Any, seed: Any, ties: Any, shuffle: Any
) -> None:
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


def test_batches_in_the_order_of_the_data_are_slices_of_it_and_what_fills_none_is_never_trained_on(
    context_for: Callable[..., Context],
) -> None:
    sampler = HardBatches(delta=1.0, shuffle=False)
    sampler.start(context_for(14, 4))
    drawn = [sampler.draw().drawn.tolist() for _ in range(9)]
    assert drawn == 3 * [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_shuffled_batches_are_cut_once_from_one_order_of_the_seed(context_for: Callable[..., Context]) -> None:
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


def test_a_hard_batch_is_trained_on_until_the_others_are_as_hard_worked_out_by_hand(
    context_for: Callable[..., Context],
) -> None:
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
def test_less_than_one_batch_a_round_is_a_sentence(
    context_for: Callable[..., Context], n: int, batch_size: int, delta: float
) -> None:
    sampler = HardBatches(delta=delta, shuffle=True)
    with pytest.raises(UserError, match=f"sampler.delta={delta:g} of the {n // batch_size} batches is not even one"):
        sampler.start(context_for(n, batch_size))


@pytest.mark.parametrize("delta", [0.0, -0.5, 1.01, float("nan")])
def test_a_delta_that_is_no_part_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        HardBatches(delta=delta, shuffle=True)
