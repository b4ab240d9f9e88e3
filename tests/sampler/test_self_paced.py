"""Self-paced learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from samplers import Looking, sampler_of, started
from torch import Tensor

from budgetrun.contracts import Context, UserError

LOSSES = torch.tensor([0.7, 0.1, 0.5, 0.2, 0.8, 0.3, 0.6, 0.4])  # from low to high: 1 3 5 7 2 6 0 4


def passed(sampler: Any, draws: int, losses: Tensor) -> list[int]:
    """The examples of so many batches, in order of their number; the network learns their losses."""
    drawn = []
    for _ in range(draws):
        batch = sampler.draw()
        sampler.observe(batch, losses[batch.drawn], torch.zeros(len(batch), 4))
        assert batch.weight is None
        drawn += batch.drawn.tolist()
    return sorted(drawn)


def test_a_pass_goes_over_the_part_of_lowest_latest_loss(context_for: Callable[..., Context]) -> None:
    sampler, time = started(sampler_of("self_paced", first=0.5, until=0.8, refresh=False), context_for, 8, 2)
    assert passed(sampler, 4, LOSSES) == list(range(8))
    assert passed(sampler, 2, 1.05 - LOSSES) == [1, 3, 5, 7]  # of loss 0.95, 0.85, 0.75 and 0.65 from now on
    time.at = 0.4  # 0.5 + 0.5 x 0.4 / 0.8 is six of eight
    assert passed(sampler, 3, LOSSES) == [0, 2, 4, 5, 6, 7]
    time.at = 0.8
    assert passed(sampler, 4, LOSSES) == list(range(8))


def test_with_refresh_a_pass_over_a_part_begins_with_a_look_at_everything(
    context_for: Callable[..., Context],
) -> None:
    look = Looking(LOSSES)
    sampler, time = started(sampler_of("self_paced", first=0.5, until=0.8), context_for, 8, 2, look=look)
    assert not sampler.takes_long
    assert passed(sampler, 4, 1 - LOSSES) == list(range(8))
    assert not look.candidates
    assert sampler.takes_long
    assert passed(sampler, 2, LOSSES) == [1, 3, 5, 7]
    assert look.drawn.tolist() == list(range(8))
    assert not any(look.modes)
    time.at = 0.8
    assert not sampler.takes_long
    assert passed(sampler, 4, LOSSES) == list(range(8))
    assert len(look.drawn) == 8


def weighed(context_for: Callable[..., Context], use: str, losses: list[float], progress: float = 0.0) -> Tensor:
    """Weights of a batch with these losses, the latest losses of all being 0 to 7 and the first half easy: up to 3."""
    sampler, _ = started(sampler_of("self_paced", use=use, first=0.5), context_for, 8, 4, progress=progress)
    for _ in range(2):
        batch = sampler.draw()
        sampler.observe(batch, batch.drawn.float(), torch.zeros(4, 4))
        assert batch.weight.tolist() == [1, 1, 1, 1]  # in the first pass, all are
    batch = sampler.draw()
    sampler.observe(batch, torch.tensor(losses), torch.zeros(4, 4))
    return batch.weight


def test_as_weights_the_images_above_the_threshold_count_nothing(context_for: Callable[..., Context]) -> None:
    torch.testing.assert_close(weighed(context_for, "weight", [1, 3, 5, 2]), torch.tensor([4 / 3, 4 / 3, 0, 4 / 3]))
    assert weighed(context_for, "weight", [4, 5, 5, 9]).tolist() == [0, 0, 0, 0]
    assert weighed(context_for, "weight", [4, 5, 5, 9], progress=0.5).tolist() == [1, 1, 1, 1]


def test_soft_weights_are_those_of_autoassist_s_baseline(context_for: Callable[..., Context]) -> None:
    """1 - l / 3 is 1, 1/8, 1/27 and below 0: with 0.01, weights of 1.01, 0.51, 0.343333, 0.01, of mean 0.468333."""
    found = weighed(context_for, "soft", [0, 3 * 7 / 8, 3 * 26 / 27, 5])
    expected = torch.tensor([1.01, 0.51, 0.343333, 0.01]) / 0.468333
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # all are easy: up to 7, of which 1 - l / 7 is 1, 1/8, 1/27, and 0
    found = weighed(context_for, "soft", [0, 7 * 7 / 8, 7 * 26 / 27, 8], progress=0.5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use", ["draw", "weight", "soft"])
def test_where_all_is_solved_it_goes_on(context_for: Callable[..., Context], use: str) -> None:
    sampler, _ = started(sampler_of("self_paced", use=use, refresh=False), context_for, 8, 2)
    for _ in range(12):
        batch = sampler.draw()
        sampler.observe(batch, torch.zeros(2), torch.zeros(2, 4))
        assert batch.weight is None or batch.weight.tolist() == [1, 1]


def test_a_use_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match="use=both is not one of draw, weight, soft"):
        sampler_of("self_paced", use="both")
