"""Epsilon-greedy and UCB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from samplers import PLAUSIBLE, batch_of, mixed_batch, sampler_of, started
from scipy.stats import chisquare

from budgetrun.config import Experiment
from budgetrun.contracts import Context
from budgetrun.model.cnn import CNN
from budgetrun.sampler.bandit import Bandit
from budgetrun.train import run
from budgetrun.training.budget import model_flops


def bandit(
    context_for: Callable[..., Context], n: int, batch_size: int, name: str = "bandit", **changes: Any
) -> Bandit:
    return started(sampler_of(name, **changes), context_for, n, batch_size)[0]  # type: ignore[no-any-return]


def test_mean_and_variance_of_the_losses_move_as_worked_out_by_hand(context_for: Callable[..., Context]) -> None:
    """Losses 4, 2, 2, alpha 1/2: m is 4, 3, 2.5; v is 0, then (2 - 4)^2 / 2 = 2, then 2 / 2 + (2 - 3)^2 / 2 = 1.5."""
    sampler = bandit(context_for, 3, 1, alpha=0.5)
    seen = []
    for loss in (4.0, 2.0, 2.0):
        sampler.observe(batch_of([1], [1]), torch.tensor([loss]), torch.zeros(1, 4))
        seen.append((sampler.mean.losses[1].item(), sampler.variance[1].item()))
    assert seen == [(4, 0), (3, 2), (2.5, 1.5)]
    assert sampler.mean.losses[[0, 2]].tolist() == [torch.inf] * 2


def test_a_mixed_image_moves_its_sources_by_alpha_times_the_share(context_for: Callable[..., Context]) -> None:
    """Loss 4, alpha 1/2, shares 3/4 and 1/4: steps 3/8 and 1/8 from means of 2 and 8."""
    sampler = bandit(context_for, 2, 1, alpha=0.5)
    sampler.mean.losses = torch.tensor([2.0, 8.0])
    sampler.observe(mixed_batch([[0, 1]], 4, [[0.75, 0.25]], [0]), torch.tensor([4.0]), torch.zeros(1, 4))
    torch.testing.assert_close(sampler.mean.losses, torch.tensor([2 + 3 / 8 * 2, 8 - 1 / 8 * 4]))
    torch.testing.assert_close(sampler.variance, torch.tensor([3 / 8 * 4, 1 / 8 * 16]))


@pytest.mark.parametrize(("name", "best"), [("bandit", {0, 1, 2}), ("ucb", {2, 3, 4})])
def test_the_highest_scores_are_chosen_and_the_others_at_random(
    context_for: Callable[..., Context], name: str, best: set[int]
) -> None:
    """Of 12, int(0.35 x 12) = 4: int(0.3 x 4) = 1 at random. By m: 0, 1, 2; by m + 2 v: 4 (12), 3 (10), 2 (9)."""
    sampler = bandit(context_for, 12, 4, name, keep=0.35, epsilon=0.3, confidence=2.0)
    sampler.mean.losses = torch.tensor([8.0, 7.0, 6.0, 4.0, 2.0, *[1.0] * 7])
    sampler.variance = torch.tensor([0.0, 0.0, 1.5, 3.0, 5.0, *[0.0] * 7])
    others: Counter[int] = Counter()
    for _ in range(1800):
        chosen = sampler.choice().tolist()
        assert len(set(chosen)) == 4
        assert best < set(chosen)
        others.update(set(chosen) - best)
    assert set(others) == set(range(12)) - best
    assert chisquare(list(others.values())).pvalue > PLAUSIBLE


def test_equal_scores_rank_in_random_order_and_unseen_examples_first(context_for: Callable[..., Context]) -> None:
    sampler = bandit(context_for, 6, 2, keep=0.5, epsilon=0.0)
    sampler.mean.losses = torch.tensor([torch.inf, 5.0, 5.0, 5.0, 5.0, 1.0])
    times = sum(torch.bincount(sampler.choice(), minlength=6) for _ in range(2000)).tolist()
    assert (times[0], times[5]) == (2000, 0)
    assert chisquare(times[1:5]).pvalue > PLAUSIBLE / 10


def test_after_a_whole_pass_every_so_many_passes_the_part_is_chosen_anew(context_for: Callable[..., Context]) -> None:
    """20 examples in batches of 5: a pass of 20, then passes of 10, two of each part. Losses rise with the number."""
    sampler = bandit(context_for, 20, 5, keep=0.5, epsilon=0.0, alpha=1.0, every=2)
    losses, drawn = torch.arange(1.0, 21.0), []
    for update in range(12):
        batch = sampler.draw()
        assert batch.weight is None
        # after the first pass, one that is trained on is learnt: its loss falls to 0
        sampler.observe(batch, losses[batch.drawn] * (update < 4), torch.zeros(5, 4))
        drawn += batch.drawn.tolist()
        if update == 3:
            assert sampler.dropped == 0
    passes = [drawn[:20], *(drawn[at : at + 10] for at in range(20, 60, 10))]
    low, high = list(range(10)), list(range(10, 20))
    assert [sorted(each) for each in passes] == [low + high, high, high, low, low]
    assert sampler.dropped == 40


def test_at_keep_1_it_is_shuffled_passes(context_for: Callable[..., Context]) -> None:
    sampler = bandit(context_for, 20, 10, keep=1.0)
    for _ in range(4):
        batches = [sampler.draw() for _ in range(2)]
        assert sorted(torch.cat([batch.drawn for batch in batches]).tolist()) == list(range(20))


def test_a_run_costs_what_uniform_costs_and_keeps_the_part(experiment_for: Callable[..., Experiment]) -> None:
    """66 updates of 64 on 1,438 digits: 1,438 of the first pass, then 2,786 of passes that leave out as many."""
    result = run(experiment_for("sampler=ucb", "epochs=3", "model.width=2", "evaluations=1"))
    _, update = model_flops(CNN(width=2).build(1, 10), torch.Size([1, 8, 8]))
    assert (result["updates"], result["flops"], result["looking_updates"]) == (66, 66 * 64 * update, 0)
    assert result["keep_rate"] == pytest.approx(4224 / (4224 + 2786))


@pytest.mark.parametrize("wrong", [{"score": "max"}, {"epsilon": 1.1}, {"epsilon": -0.1}, {"keep": 0.0}])
def test_values_that_make_no_sense_for_the_bandit_are_refused(wrong: dict[str, Any]) -> None:
    plain = {"score": "mean", "keep": 0.5, "epsilon": 0.1, "alpha": 0.8, "confidence": 1.0, "every": 1}
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))}="):
        Bandit(**(plain | wrong))
