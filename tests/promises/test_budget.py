"""What a run may spend and does spend, in every unit, and how the learning rate follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import SAMPLERS, needed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from budgetrun.config import Experiment
from budgetrun.contracts import UNITS, UserError
from budgetrun.model.cnn import CNN
from budgetrun.model.resnet import ResNet
from budgetrun.schedule.constant import Constant
from budgetrun.schedule.cosine import Cosine
from budgetrun.schedule.linear import Linear
from budgetrun.schedule.step import Step
from budgetrun.train import run
from budgetrun.training.budget import Budget, model_flops

CPU = torch.device("cpu")
B = 64  # images per update, of digits' recipe
EPOCH = 22  # updates: floor(1,438 / 64)
TINY = ("model.width=2", "epochs=1", "evaluations=1")


def clock(unit: str, updates: int, batch_size: int = 8) -> Budget:
    """A budget of this many uniform updates, at four per second."""
    cost = {"updates": 1, "examples": batch_size, "flops": batch_size * 10, "seconds": 0.25}[unit]
    return Budget(unit, updates * cost, cost, CPU)


# ---- the clock


@settings(deadline=None)
@given(unit=st.sampled_from(UNITS), updates=st.integers(1, 300), batch_size=st.integers(1, 200))
def test_uniform_updates_are_exactly_as_many_as_the_budget_allows_in_any_unit(
    unit: Any, updates: Any, batch_size: Any
) -> None:
    budget = clock(unit, updates, batch_size)
    progress = []
    while budget.spent < budget.allowed:
        progress.append(budget.progress)
        budget.charge_update(batch_size, flops=10)
        budget.seconds += 0.25
    assert budget.realised() == {
        "updates": updates,
        "examples_forward": updates * batch_size,
        "examples_backward": updates * batch_size,
        "flops": updates * batch_size * 10,
        "seconds": updates / 4,
    }
    np.testing.assert_allclose(progress, np.linspace(0, 1, updates), rtol=1e-12)


@settings(deadline=None)
@given(updates=st.integers(1, 100), looks=st.lists(st.integers(0, 40), min_size=1, max_size=20))
def test_looks_use_up_a_budget_of_flops_to_one_batch_and_none_of_updates(updates: Any, looks: Any) -> None:
    by_flops, by_updates = clock("flops", updates), clock("updates", updates)
    before = -1
    for budget in (by_flops, by_updates):
        done = 0
        while budget.spent < budget.allowed:
            before = budget.spent
            budget.charge_look(looks[done % len(looks)], flops=3)
            budget.charge_update(8, flops=10)
            assert 0 <= budget.progress <= 1
            done += 1
        assert budget.updates == done
        looked = sum(looks[k % len(looks)] for k in range(done))
        assert budget.examples_forward == 8 * done + looked
        assert budget.examples_backward == 8 * done
        assert budget.flops == 3 * looked + 10 * 8 * done
        assert before < budget.allowed <= budget.spent
    assert by_updates.updates == updates
    assert by_flops.updates <= updates


def test_seconds_stand_still_outside_of_start_and_stop() -> None:
    budget = clock("seconds", 4)
    budget.stop()
    assert budget.spent == 0
    budget.seconds = 0.75
    assert budget.spent == 0.75
    assert budget.progress == 1.0  # as at the last of four updates of 0.25 s
    budget.start()
    assert budget.seconds_now() >= 0.75
    budget.stop()
    stopped = budget.spent
    assert budget.spent == budget.seconds_now() == stopped >= 0.75


def test_a_budget_of_one_update_is_all_at_its_first_learning_rate() -> None:
    for unit in UNITS:
        assert clock(unit, 1).progress == 0.0


def test_a_budget_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    budget = clock("flops", 20)
    for _ in range(7):
        budget.charge_look(5, flops=3)
        budget.charge_update(8, flops=10)
    budget.seconds = 1.5
    other = clock("flops", 3)
    other.load_state_dict(budget.state_dict())
    for each in (budget, other):
        each.charge_look(2, flops=3)
        each.charge_update(8, flops=10)
    assert other.realised() == budget.realised()
    assert (other.progress, other.allowed, other.step) == (budget.progress, budget.allowed, budget.step)


# ---- learning rates


@given(lr=st.floats(1e-3, 10), final=st.floats(0, 1e-3), updates=st.integers(2, 500))
def test_the_linear_schedule_is_numpy_s_linspace_over_the_updates(lr: Any, final: Any, updates: Any) -> None:
    progress = np.arange(updates) / (updates - 1)
    rates = [Linear(final)(lr, p) for p in progress]
    np.testing.assert_allclose(rates, np.linspace(lr, final, updates), rtol=1e-9, atol=lr * 1e-15)
    assert rates[0] == lr


def torch_rates(updates: int, lr: float, make: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_cosine_schedule_is_torch_s_over_the_updates() -> None:
    ours = [Cosine(final=0.01)(0.3, t / 99) for t in range(100)]
    theirs = torch_rates(100, 0.3, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=99, eta_min=0.01))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_step_schedule_is_torch_s_with_milestones_as_parts_of_the_budget() -> None:
    ours = [Step(milestones=[0.25, 0.8], factor=0.1)(0.5, t / 100) for t in range(101)]
    theirs = torch_rates(101, 0.5, lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [25, 80], gamma=0.1))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_the_constant_schedule_is_constant() -> None:
    assert {Constant()(0.3, t / 10) for t in range(11)} == {0.3}


@pytest.mark.parametrize("milestones", [[0.5, 0.2], [0.5, 0.5], [0.0], [1.0], [-0.1]])
def test_milestones_that_make_no_sense_are_refused(milestones: list[float]) -> None:
    with pytest.raises(ValueError, match="must increase and lie in"):
        Step(milestones=milestones, factor=0.1)


# ---- FLOPs


def test_the_flops_of_a_small_network_are_those_counted_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 1, stride=2, bias=False),
        nn.Flatten(),
        nn.Linear(5 * 3 * 4, 7),
    )
    first = 2 * 3 * 3 * 3 * 4 * (6 * 8)  # 2 k k c_in c_out h w
    second = 2 * 1 * 1 * 4 * 5 * (3 * 4)
    last = 2 * (5 * 3 * 4) * 7
    forward, update = model_flops(net, (3, 6, 8))
    assert forward == first + second + last
    # the backward pass does each layer twice, for weights and inputs; the first has no input to differentiate
    assert update - forward == first + 2 * second + 2 * last


def test_the_flops_of_the_cifar_resnet18_are_those_of_its_layers() -> None:
    """1.11 GFLOP forward (0.56 billion multiplications), three times that in total, less the stem's input gradient."""
    stem = 2 * 9 * 3 * 64 * 32**2
    stages = 4 * 2 * 9 * 64 * 64 * 32**2
    for channels, size in ((128, 16), (256, 8), (512, 4)):
        stages += 2 * size**2 * (9 * channels * channels // 2 + 3 * 9 * channels**2 + channels * channels // 2)
    forward, update = model_flops(ResNet(18, "small", "torch").build(3, 10), (3, 32, 32))
    assert forward == stem + stages + 2 * 512 * 10
    assert update == 3 * forward - stem
    assert forward / 1e9 == pytest.approx(1.11, abs=0.005)
    assert update / 1e9 == pytest.approx(3.33, abs=0.01)


def test_counting_flops_leaves_the_model_as_it_was() -> None:
    net = CNN(width=4).build(1, 10)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model_flops(net, (1, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.device == CPU for p in net.parameters())


def test_a_model_that_does_not_fit_the_images_gives_one_sentence() -> None:
    with pytest.raises(UserError, match="does not fit images of 1x2x2"):
        model_flops(CNN(width=4).build(1, 10), (1, 2, 2))


# ---- real runs on the digits


@pytest.fixture
def result_of(experiment_for: Callable[..., Experiment]) -> Any:
    def result(*overrides: str) -> Any:
        return run(experiment_for(*TINY, *overrides))

    return result


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_does_the_same_number_of_updates(result_of: Any, sampler: str, tmp_path: Path) -> None:
    result = result_of(f"sampler={sampler}", "budget=0.3", *needed(sampler, tmp_path).split())
    assert result["updates"] == round(0.3 * EPOCH) == 7
    smaller = {
        "sb_batchwise": 6 * B + B // 2,  # of updates 0 to 6, 4 is between half and nine tenths of the run
        "atk": 7 * B // 2,
        "growing_batches": 2 * B // 4 + 3 * B // 2 + 2 * B,
    }
    trained_on = smaller.get(sampler, 7 * B)
    assert result["examples_backward"] == trained_on
    assert result["examples_forward"] >= trained_on


@pytest.mark.parametrize("unit", ["updates", "examples", "flops"])
def test_uniform_spends_the_same_in_every_unit(result_of: Any, unit: str) -> None:
    result = result_of(f"budget_unit={unit}", "budget=0.5")
    _, update = model_flops(CNN(width=2).build(1, 10), (1, 8, 8))
    spent = [result[key] for key in ("updates", "examples_forward", "examples_backward", "flops")]
    assert spent == [11, 11 * B, 11 * B, 11 * B * update]


@pytest.mark.parametrize(("unit", "updates"), [("updates", 11), ("examples", 4), ("flops", 4)])
def test_further_views_of_an_image_are_paid_for(result_of: Any, unit: str, updates: int) -> None:
    """Three passes for each image: 11 updates cost what 33 do, and what pays 11 pays four, the last in part."""
    result = result_of(f"budget_unit={unit}", "budget=0.5", "aug=augmix_consistency")
    _, update = model_flops(CNN(width=2).build(1, 10), (1, 8, 8))
    spent = [result[key] for key in ("updates", "examples_forward", "examples_backward", "flops")]
    assert spent == [updates, 3 * updates * B, 3 * updates * B, 3 * updates * B * update]
    assert result["keep_rate"] == 1


def test_a_budget_in_seconds_is_spent_and_counts_less_than_all_the_time(result_of: Any) -> None:
    result = result_of("budget_unit=seconds", "full_seconds=0.5", "budget=0.4")
    assert 0.2 <= result["seconds"] < result["seconds_total"]
    assert result["updates"] >= 1


def test_the_first_update_is_made_even_where_its_seconds_are_gone(
    result_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Budget.start

    def late(budget: Any) -> None:
        begin(budget)
        budget._since -= 1

    monkeypatch.setattr(Budget, "start", late)
    assert result_of("budget_unit=seconds", "full_seconds=0.5", "budget=0.4")["updates"] == 1


IS_OPEN = ("sampler=is", "sampler.threshold=0")  # looks at 3 batches in all but the first update
SB_PRIMED = ("sampler=sb", "sampler.prime=0")


def test_every_look_of_is_is_charged(result_of: Any) -> None:
    result = result_of(*IS_OPEN, "budget=0.5")
    forward, update = model_flops(CNN(width=2).build(1, 10), (1, 8, 8))
    assert result["updates"] == 11
    assert result["examples_backward"] == 11 * B
    assert result["examples_forward"] == 11 * B + 10 * 3 * B
    assert result["flops"] == 11 * B * update + 10 * 3 * B * forward


def test_every_look_of_sb_is_charged(result_of: Any) -> None:
    result = result_of(*SB_PRIMED, "budget=0.5")
    forward, update = model_flops(CNN(width=2).build(1, 10), (1, 8, 8))
    looked = result["examples_forward"] - result["examples_backward"]
    assert result["updates"] == 11
    assert looked % B == 0
    assert looked >= 11 * B
    assert result["flops"] == 11 * B * update + looked * forward


def test_a_budget_of_flops_lets_is_do_only_the_updates_that_it_can_pay(result_of: Any) -> None:
    result = result_of(*IS_OPEN, "budget_unit=flops", "budget=0.5")
    forward, update = model_flops(CNN(width=2).build(1, 10), (1, 8, 8))
    allowed, spent, updates = 11 * B * update, 0, 0
    while spent < allowed:
        spent += B * update + (3 * B * forward if updates else 0)
        updates += 1
    assert updates < 7  # an open update costs nearly twice a uniform one
    assert (result["updates"], result["flops"]) == (updates, spent)


def test_a_budget_of_flops_ends_sb_within_one_update(result_of: Any) -> None:
    result = result_of(*SB_PRIMED, "budget_unit=flops", "budget=1")
    _, update = model_flops(CNN(width=2).build(1, 10), (1, 8, 8))
    assert result["flops"] >= EPOCH * B * update
    assert result["updates"] < EPOCH


def test_a_budget_of_examples_counts_what_is_trained_on_and_not_what_is_looked_at(result_of: Any) -> None:
    result = result_of(*IS_OPEN, "budget_unit=examples", "budget=0.5")
    assert (result["updates"], result["examples_backward"]) == (11, 11 * B)


def test_the_learning_rates_of_a_run_are_the_linspace_of_its_updates(result_of: Any, tmp_path: Path) -> None:
    result = result_of("budget=0.5", "evaluations=11", "lr=0.2", "schedule.final=0.001")
    (file,) = Path(tmp_path).glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    expected = np.linspace(0.2, 0.001, 11)
    np.testing.assert_allclose(
        [line["lr"] for line in lines], [expected[line["updates"] - 1] for line in lines], rtol=1e-12
    )
    assert len(lines) >= 9
    assert lines[-1]["lr"] == pytest.approx(0.001, rel=1e-12)
    assert lines[-1]["updates"] == result["updates"] == 11


def test_a_budget_below_one_update_gives_one_sentence(result_of: Any) -> None:
    with pytest.raises(UserError, match="is not even one"):
        result_of("budget=0.001")
