"""The latest losses of the examples."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import CPU, batch_of, mixed_batch

from budgetrun.sampler._history import LatestLosses


def test_a_whole_image_replaces_the_loss_exactly_and_leaves_the_others() -> None:
    latest = LatestLosses(4, CPU)
    latest.observe(batch_of([2, 0], [0, 0]), torch.tensor([3.0, 0.5]))
    assert latest.losses.tolist() == [0.5, torch.inf, 3.0, torch.inf]
    latest.observe(batch_of([2], [0]), torch.tensor([1e-8]))  # 3 + (1e-8 - 3) would be 0
    assert latest.losses.tolist() == [0.5, torch.inf, float(torch.tensor(1e-8)), torch.inf]


def test_an_example_drawn_twice_has_the_mean_of_its_two_losses() -> None:
    latest = LatestLosses(2, CPU)
    latest.observe(batch_of([1, 1], [0, 0]), torch.tensor([1.0, 4.0]))
    assert latest.losses.tolist() == [torch.inf, 2.5]


def test_a_mixed_image_moves_each_source_s_loss_towards_its_own_by_share() -> None:
    """Row 0 is 3/4 of example 0 and 1/4 of 1; row 1 is half of 1 and half of 2, of which nothing was known."""
    latest = LatestLosses(5, CPU)
    latest.observe(batch_of([0, 1, 3], [0, 0, 0]), torch.tensor([2.0, 4.0, 7.0]))
    latest.observe(mixed_batch([[0, 1], [1, 2]], 4, [[0.75, 0.25], [0.5, 0.5]], drawn=[0, 1]), torch.tensor([1.0, 3.0]))
    mean_1 = (0.25 * 1 + 0.5 * 3) / 0.75
    expected = torch.tensor([0.25 * 2 + 0.75 * 1, 0.25 * 4 + 0.75 * mean_1, 3.0, 7.0, torch.inf])
    torch.testing.assert_close(latest.losses, expected)


@settings(deadline=None, max_examples=60)
@given(
    batches=st.lists(
        st.lists(
            st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 9)),
            min_size=1,
            max_size=6,
        ),
        min_size=1,
        max_size=6,
    )
)
def test_the_latest_losses_equal_a_slow_reference_for_any_sequence_of_mixed_batches(batches: Any) -> None:
    latest, known = LatestLosses(6, CPU), {}
    for rows in batches:
        seen = defaultdict(list)
        for i, j, share, loss in rows:
            seen[i].append((share, loss))
            seen[j].append((1 - share, loss))
        for i, visits in seen.items():
            total = sum(share for share, _ in visits)
            if total > 0:
                mean, step = sum(share * loss for share, loss in visits) / total, min(total, 1)
                known[i] = (1 - step) * known[i] + step * mean if i in known else mean
        pairs, shares = [[i, j] for i, j, _, _ in rows], [[share, 1 - share] for _, _, share, _ in rows]
        batch = mixed_batch(pairs, 4, shares, drawn=[i for i, _ in pairs])
        latest.observe(batch, torch.tensor([loss for *_, loss in rows]))
    np.testing.assert_allclose(latest.losses, [known.get(i, np.inf) for i in range(6)], atol=1e-4, rtol=1e-5)
