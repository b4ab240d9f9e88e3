"""KAKURENBO, and the learning rate that it asks for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from samplers import PLAUSIBLE, TINY, Looking, batch_of, logits_with, mixed_batch, sampler_of, started
from scipy.stats import chisquare

from budgetrun.config import Experiment
from budgetrun.contracts import Context
from budgetrun.model.cnn import CNN
from budgetrun.sampler.kakurenbo import Kakurenbo
from budgetrun.train import run
from budgetrun.training.budget import model_flops


def hiding(context_for: Callable[..., Context], n: int, batch_size: int, **options: Any) -> tuple[Kakurenbo, Any]:
    """A KAKURENBO in its first epoch, and the clock."""
    own = {key: options.pop(key) for key in list(options) if key in Kakurenbo.__annotations__}
    sampler, time = started(sampler_of("kakurenbo", **own), context_for, n, batch_size, **options)
    sampler.plan()
    return sampler, time


def test_of_the_lowest_losses_those_predicted_rightly_and_confidently_are_hidden_worked_out_by_hand(
    context_for: Callable[..., Context],
) -> None:
    """Of 10 examples, int(0.45 x 10) = 4 are candidates, 0 to 3: 1 is wrong, 2 not sure; 4 is sure, no candidate."""
    sampler, _ = hiding(context_for, 10, 5, fraction=0.45, tau=0.65)
    label = [0] * 10
    logits = logits_with([0.9, 0.01, 0.6, 0.7, 0.95, 0.9, 0.9, 0.9, 0.9, 0.9], label, 4)
    losses = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0])
    for rows in (slice(0, 5), slice(5, 10)):
        sampler.observe(batch_of(list(range(10))[rows], label[rows]), losses[rows], logits[rows])
    torch.testing.assert_close(sampler.sure[:5], torch.tensor([0.9, 0.0, 0.6, 0.7, 0.95]))
    order = sampler.plan()
    assert sorted(sampler.hidden.tolist()) == [0, 3]
    assert sorted(order.tolist()) == [1, 2, 4, 5, 6, 7, 8, 9]


def test_confidence_is_that_of_an_image_s_classes_or_as_published_of_a_class_s_images(
    context_for: Callable[..., Context],
) -> None:
    """exp(logits) are (3, 2) and (1, 6): 3/5 and 6/7; or, of the columns, 3/4 and 2/8, then 1/4 and 6/8."""
    logits = torch.tensor([[3.0, 2.0], [1.0, 6.0]]).log()
    for confidence, expected in (("classes", [3 / 5, 6 / 7]), ("batch", [3 / 4, 6 / 8])):
        sampler, _ = hiding(context_for, 2, 2, confidence=confidence)
        sampler.observe(batch_of([0, 1], [0, 1]), torch.ones(2), logits)
        torch.testing.assert_close(sampler.sure, torch.tensor(expected))
        sampler.observe(batch_of([0, 1], [0, 0]), torch.ones(2), logits)
        torch.testing.assert_close(sampler.sure, torch.tensor([expected[0], 0]))


def test_a_mixed_image_moves_the_confidence_of_each_source_by_its_share(context_for: Callable[..., Context]) -> None:
    """The image is predicted as class 0 with 0.8: right for 3/4 of it, example 0, and wrong for example 1."""
    sampler, _ = hiding(context_for, 2, 2)
    sampler.sure = torch.tensor([0.4, 0.6])
    sampler.observe(mixed_batch([[0, 1]], 4, [[0.75, 0.25]], [0]), torch.ones(1), logits_with([0.8], [0], 4))
    torch.testing.assert_close(sampler.sure, torch.tensor([0.25 * 0.4 + 0.75 * 0.8, 0.75 * 0.6]))


def test_nothing_is_hidden_in_the_first_epoch_nor_before_it_was_seen(context_for: Callable[..., Context]) -> None:
    sampler, _ = started(sampler_of("kakurenbo", fraction=0.9), context_for, 30, 10)
    drawn = torch.cat([sampler.draw().drawn for _ in range(3)])
    assert sorted(drawn.tolist()) == list(range(30))
    assert len(sampler.plan()) == 30  # nothing was observed


def test_what_may_be_hidden_falls_at_the_milestones_and_the_rate_with_it(context_for: Callable[..., Context]) -> None:
    """F is 0.3, times 1, 0.8, 0.6 and 0.4: 30, 24, 18 and 12 of 100; the factor is 1 / (1 - F)."""
    for scale_lr in (True, False):
        sampler, time = started(sampler_of("kakurenbo", scale_lr=scale_lr), context_for, 100, 10)
        sampler.draw()
        assert sampler.lr_factor == 1
        factors = {}
        for at, count in ((0.0, 30), (0.29, 30), (0.3, 24), (0.59, 24), (0.6, 18), (0.8, 12), (1.0, 12)):
            time.at = at
            sampler.hidden = sampler.hidden[:0]
            sampler.latest.losses, sampler.sure = torch.rand(100), torch.ones(100)
            assert len(sampler.plan()) == 100 - count
            factors[count] = sampler.lr_factor
        expected = {30: 1 / 0.7, 24: 1 / 0.76, 18: 1 / 0.82, 12: 1 / 0.88}
        assert factors == pytest.approx(expected if scale_lr else dict.fromkeys(expected, 1.0))


@pytest.mark.parametrize("looks", ["eval", "train"])
def test_the_hidden_are_looked_at_when_their_epoch_ends_and_move_back_if_they_are_predicted_wrongly(
    context_for: Callable[..., Context], looks: str
) -> None:
    """20 examples, half of which may be hidden: 10, in parts of 4, 3 and 3. Then 1 and 3 are wrong, and 5 is hard."""
    losses, label = torch.arange(20.0), [i % 4 for i in range(20)]
    p = torch.full((20,), 0.9)
    look = Looking(losses, logits_with(p.tolist(), label, 4))
    options = {"fraction": 0.5, "milestones": [], "factors": [], "looks": looks}
    sampler, _ = started(sampler_of("kakurenbo", **options), context_for, 20, 4, look=look)

    def train(updates: int) -> list[int]:
        drawn = []
        for _ in range(updates):
            batch = sampler.draw()
            sampler.observe(batch, look.losses[batch.drawn], look.logits[batch.drawn])
            drawn += batch.drawn.tolist()
        return drawn

    train(5)
    assert not look.candidates
    assert not sampler.takes_long
    assert set(train(2)) < set(range(10, 20))
    assert sampler.dropped == pytest.approx(10 * 0.8)
    assert set(sampler.hidden.tolist()) == set(range(10))
    p[1] = p[3] = 0.01
    look.losses, look.logits = losses.clone(), logits_with(p.tolist(), label, 4)
    look.losses[5] = 99.0
    assert sampler.takes_long  # with two images left, the next batch begins an epoch
    train(1)
    assert sorted(len(batch) for batch in look.candidates) == [3, 3, 4]
    assert sorted(look.drawn.tolist()) == list(range(10))
    assert look.modes == [looks == "train"] * 3
    assert set(sampler.hidden.tolist()) == {0, 2, 4, 6, 7, 8, 9, 10}  # 10, in the place of 5, is a candidate now


def test_equal_losses_are_hidden_at_random_and_the_order_of_the_rest_is_random(
    context_for: Callable[..., Context],
) -> None:
    sampler, _ = hiding(context_for, 3, 3, fraction=0.34, milestones=[], factors=[])
    orders: Counter[tuple[int, ...]] = Counter()
    for _ in range(3000):
        sampler.latest.losses, sampler.sure, sampler.hidden = torch.zeros(3), torch.ones(3), sampler.hidden[:0]
        orders[tuple(sampler.plan().tolist())] += 1
    assert len(orders) == 6
    assert chisquare(list(orders.values())).pvalue > PLAUSIBLE


def test_losses_that_are_not_numbers_hide_nothing(context_for: Callable[..., Context]) -> None:
    sampler, _ = hiding(context_for, 6, 2, fraction=0.9)
    sampler.latest.losses, sampler.sure = torch.full((6,), torch.nan), torch.full((6,), torch.nan)
    assert len(sampler.plan()) == 6


@pytest.mark.parametrize("unit", ["updates", "flops"])
def test_a_run_is_charged_for_its_looks_and_its_learning_rate_is_the_schedule_s_times_the_factor(
    experiment_for: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unit: str
) -> None:
    """Digits: 22.5 updates of 64 per whole epoch; from the second one on, the rate is 0.1 / (1 - 0.5)."""
    hidden, really = [], Kakurenbo.plan

    def plan(self: Kakurenbo) -> Any:
        order = really(self)
        assert len(order) + len(self.hidden) == 1438
        hidden.append(len(self.hidden))
        return order

    monkeypatch.setattr(Kakurenbo, "plan", plan)
    own = ["fraction=0.5", "tau=0.2", "milestones=[]", "factors=[]"]
    line = [*TINY, "epochs=5", "evaluations=110", "schedule=constant", "lr=0.1", f"budget_unit={unit}"]
    experiment = experiment_for("sampler=kakurenbo", *(f"sampler.{option}" for option in own), *line)
    result = run(experiment)
    looked = sum(hidden[:-1])
    assert 0 == hidden[0] < hidden[-1]
    assert looked > 500
    forward, update = model_flops(CNN(width=2).build(1, 10), torch.Size([1, 8, 8]))
    assert result["examples_forward"] - result["examples_backward"] == looked
    assert result["flops"] == result["updates"] * 64 * update + looked * forward
    if unit == "updates":
        assert result["updates"] == 110
    else:
        allowed = 110 * 64 * update
        assert result["updates"] < 110
        assert allowed <= result["flops"] < allowed + 64 * update + max(hidden) * forward
    assert result["selection_flops"] == pytest.approx(looked * forward / result["flops"])
    (metrics,) = Path(experiment.settings.output_dir).glob(f"{experiment.run_id}/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert len(lines) > 80
    # the 23rd batch begins the second epoch
    assert all(line["lr"] == (0.1 if line["updates"] <= 22 else 0.2) for line in lines)


@pytest.mark.parametrize(
    "wrong",
    [
        {"milestones": [0.6, 0.3], "factors": [0.8, 0.6]},
        {"milestones": [0.3, 0.3], "factors": [0.8, 0.6]},
        {"milestones": [1.0], "factors": [0.8]},
        {"factors": [0.8, 0.6]},
        {"factors": [0.8, 0.6, 1.1]},
        {"tau": 0.0},
        {"confidence": "images"},
        {"looks": "both"},
    ],
)
def test_values_that_make_no_sense_for_kakurenbo_are_refused(wrong: dict[str, Any]) -> None:
    published = {"fraction": 0.3, "milestones": [0.3, 0.6, 0.8], "factors": [0.8, 0.6, 0.4], "tau": 0.7}
    published |= {"confidence": "classes", "scale_lr": True, "looks": "eval"}
    with pytest.raises(ValueError, match=rf"^({'|'.join(wrong)})="):
        Kakurenbo(**(published | wrong))
