"""A batch-size schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from budgetrun.contracts import Context, UserError
from budgetrun.sampler.growing_batches import GrowingBatches


def test_batches_grow_at_the_milestones_and_no_example_is_dropped(context_for: Callable[..., Context]) -> None:
    """24 examples, three passes: 2 x 3 + 3 x 6 in the first, then 6 + 12 + ..."""
    progress = [0.0]
    context = replace(context_for(24, 12), progress=lambda: progress[0])
    sampler = GrowingBatches([0.25, 0.5, 1.0], [0.3, 0.6])
    assert sampler.sizes(12) == {3, 6, 12}
    sampler.start(context)
    drawn = []
    for at in (0.0, 0.29, 0.3, 0.45, 0.599, 0.6, 0.8, 1.0):
        progress[0] = at
        drawn.append(sampler.draw().drawn)
    assert [len(each) for each in drawn] == [3, 3, 6, 6, 6, 12, 12, 12]
    visits = torch.cat(drawn).bincount(minlength=24)
    assert visits.sum() == 60
    assert visits.max() - visits.min() <= 1


def test_parts_that_cannot_be_are_refused(context_for: Callable[..., Context]) -> None:
    for parts, milestones in (
        ([], []),
        ([0.0], []),
        ([1.5], []),
        ([0.5, 1], []),
        ([0.5, 1], [1.0]),
        ([1] * 3, [0.5, 0.5]),
    ):
        with pytest.raises(ValueError, match=r"^(parts|milestones)="):
            GrowingBatches(parts, milestones)
    with pytest.raises(UserError, match="not all one image"):
        GrowingBatches([0.05, 1.0], [0.5]).start(context_for(24, 12))
