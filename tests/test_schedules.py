"""Learning rates and momenta at every update: their published values, the warm-up and the horizon."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from cli import checked, composed
from tables import result, write
from torch import nn

from budgetrun.config import Experiment, experiment
from budgetrun.config import plain as plain_values
from budgetrun.contracts import Course, UserError
from budgetrun.schedule.cosine import Cosine
from budgetrun.schedule.exponential import Exponential
from budgetrun.schedule.linear import Linear
from budgetrun.schedule.one_cycle import OneCycle
from budgetrun.schedule.polynomial import Polynomial
from budgetrun.schedule.rex import REX
from budgetrun.schedule.trapezoid import Trapezoid
from budgetrun.tables.runs import read
from budgetrun.train import run
from budgetrun.training.budget import Budget
from budgetrun.training.checks import check_parts
from budgetrun.training.network import Network

CPU = torch.device("cpu")
CYCLE = OneCycle(0.3, "cos", 25, 1e4, True, 0.85, 0.95)
TINY = ("model.width=2", "epochs=1", "evaluations=1")  # of 22 updates


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # at 0, 1/4, 1/2, 1; REX: (1 - 1/4) / (1 - 1/8) = 6/7, (1/2) / (3/4) = 2/3
        (REX(final=0.0), [0.3, 0.3 * 6 / 7, 0.2, 0.0]),
        (REX(final=0.03), [0.3, 0.03 + 0.27 * 6 / 7, 0.21, 0.03]),
        (Polynomial(final=0.0, power=2), [0.3, 0.3 * 9 / 16, 0.3 / 4, 0.0]),
        (Polynomial(final=0.1, power=1), [0.3, 0.25, 0.2, 0.1]),
        (Exponential(final=0.003), [0.3, 0.3 / 10**0.5, 0.03, 0.003]),
        (Trapezoid(cooldown=0.2, final=0.0), [0.3, 0.3, 0.3, 0.0]),
        (Trapezoid(cooldown=1, final=0.1), [0.3, 0.25, 0.2, 0.1]),
    ],
)
def test_values_worked_out_by_hand(schedule: Any, expected: list[float]) -> None:
    np.testing.assert_allclose([schedule(0.3, p) for p in (0, 0.25, 0.5, 1)], expected, rtol=1e-12)


def test_a_trapezoid_stays_exactly_at_lr_and_then_falls_in_a_straight_line() -> None:
    trapezoid = Trapezoid(cooldown=0.2, final=1e-6)
    assert {trapezoid(0.1, p / 1000) for p in range(800)} == {0.1}
    assert trapezoid(0.1, 0.9) == pytest.approx((0.1 + 1e-6) / 2)
    assert trapezoid(0.1, 1) == 1e-6


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize(("part", "updates"), [(0.3, 2), (0.3, 7), (0.3, 100), (0.25, 100), (0.5, 3), (0.9, 41)])
def test_one_cycle_is_torch_s_at_every_update(strategy: Any, part: float, updates: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=updates, pct_start=part, anneal_strategy=strategy
    )
    ours = replace(CYCLE, pct_start=part, anneal_strategy=strategy)
    budget = Budget("updates", updates, 1, CPU)
    for update in range(updates):
        progress, size, _ = budget.on(Course())
        (group,) = optimizer.param_groups
        assert ours(0.4, progress, size) == pytest.approx(group["lr"], rel=1e-9)
        assert ours.momentum(progress, size) == pytest.approx(group["momentum"], rel=1e-12)
        budget.charge_update(1, 0)
        optimizer.step()
        if update + 1 < updates:
            theirs.step()


# ---- warm-up and horizon


def rates(schedule: Any, budget: Budget, course: Course) -> list[float]:
    """The learning rates of all updates of a budget, of at most 1."""
    found = []
    while budget.share < 1:
        progress, _, risen = budget.on(course)
        found.append(risen * schedule(1.0, progress))
        budget.charge_update(64, 10)
    return found


@pytest.mark.parametrize(("unit", "step"), [("updates", 1), ("examples", 64), ("flops", 640)])
def test_the_rate_rises_to_its_first_value_and_the_schedule_goes_over_the_rest(unit: str, step: int) -> None:
    found = rates(Linear(final=0.0), Budget(unit, 10 * step, step, CPU), Course(warmup=0.4))
    np.testing.assert_allclose(found, [1 / 4, 2 / 4, 3 / 4, 1, 1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-12)


def test_a_warm_up_is_torch_s_followed_by_the_schedule() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    lrs = torch.optim.lr_scheduler
    rising, falling = lrs.LinearLR(optimizer, 0.2, 1.0, 4), lrs.CosineAnnealingLR(optimizer, 14)
    theirs, both = [], lrs.SequentialLR(optimizer, [rising, falling], [5])
    for _ in range(20):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    np.testing.assert_allclose(
        rates(Cosine(0.0), Budget("updates", 20, 1, CPU), Course(warmup=0.25)), theirs, atol=1e-9
    )


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_with_the_full_horizon_the_rates_are_the_first_ones_of_the_full_run(warmup: float) -> None:
    full = rates(Linear(final=0.1), Budget("updates", 100, 1, CPU, full=100), Course(warmup=warmup))
    cut = rates(Linear(final=0.1), Budget("updates", 30, 1, CPU, full=100), Course("full", warmup))
    assert cut == full[:30]
    assert cut != rates(Linear(final=0.1), Budget("updates", 30, 1, CPU, full=100), Course(warmup=warmup))


def test_a_warm_up_that_leaves_less_than_an_update_still_trains() -> None:
    assert rates(CYCLE, Budget("updates", 1, 1, CPU), Course(warmup=0.9)) == [pytest.approx(1 / 25)]
    assert all(0 < rate <= 1 for rate in rates(Linear(0.1), Budget("updates", 3, 1, CPU), Course(warmup=0.9)))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("*/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_follows_the_course_and_sets_the_momentum_of_every_update(
    experiment_for: Callable[..., Experiment], tmp_path: Path
) -> None:
    seen: list[Any] = []
    update = Network.update

    def noting(network: Network, *given: Any) -> Any:
        loss = update(network, *given)
        seen.extend((group["lr"], group["betas"]) for group in network.optimizer.param_groups)
        return loss

    asked = ("schedule=one_cycle", "optimizer=adamw", "lr=0.004", "budget=0.5")
    with mock.patch.object(Network, "update", noting):
        run(experiment_for(*TINY, *asked))
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.004)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, total_steps=11)
    for number, (lr, betas) in enumerate(seen, 1):
        assert lr == pytest.approx(optimizer.param_groups[0]["lr"])
        assert betas == pytest.approx(optimizer.param_groups[0]["betas"])
        optimizer.step()
        if number < 11:
            theirs.step()
    assert len(seen) == 11


def test_a_full_horizon_and_a_warm_up_reach_the_runs(experiment_for: Callable[..., Experiment], tmp_path: Path) -> None:
    """22 updates in the full run, of which the budget allows 11; the last one has number 10, from 0."""
    run(experiment_for(*TINY, "budget=0.5", "lr=0.1", "schedule.horizon=full", "schedule.warmup=0.5"))
    assert lines_of(tmp_path)[-1]["lr"] == 0.1  # the last one of the warm-up
    run(experiment_for(*TINY, "budget=0.5", "lr=0.1", "schedule.horizon=full", f"output_dir={tmp_path}/full"))
    assert lines_of(tmp_path / "full")[-1]["lr"] == pytest.approx(0.1 + (1e-6 - 0.1) * 10 / 21)


# ---- what counts, and what is refused


def test_a_run_is_the_same_where_its_course_is_the_usual_one() -> None:
    plain = checked("schedule=cosine")
    assert checked("schedule=cosine", "schedule.warmup=0", "schedule.horizon=budget").run_id == plain.run_id
    others = {checked("schedule=cosine", f"schedule.{word}").run_id for word in ("warmup=0.1", "horizon=full")}
    assert len({plain.run_id, *others}) == 3
    cfg, choices = composed("schedule=cosine")
    before = {**plain_values(cfg), "schedule": {"_target_": "budgetrun.schedule.cosine.Cosine", "final": 0.0}}
    assert experiment(before, choices).run_id == plain.run_id
    assert plain.resolved["schedule"] == {
        "_target_": "budgetrun.schedule.cosine.Cosine",
        "final": 0.0,
        "horizon": "budget",
        "warmup": 0.0,
    }


def test_in_tables_runs_from_before_had_the_usual_course(tmp_path: Path) -> None:
    names = {**result()["names"], "schedule": "linear"}
    for run_id, course in (("now-s0-0000000a", {"horizon": "full", "warmup": 0.1}), ("then-s0-0000000b", {})):
        config = {**result()["config"], "schedule": {"final": 0.0, **course}}
        write(tmp_path, run_id=run_id, config=config, names=names)
    found = {(run["schedule.horizon"], run["schedule.warmup"]) for run in read([tmp_path]).runs}
    assert found == {("full", 0.1), ("budget", 0.0)}


@dataclass
class Own:
    """A schedule of one's own, which knows nothing of warm-up and horizon."""

    def __call__(self, lr: float, progress: float) -> float:
        return lr * (1 - progress)


@dataclass
class Clashing(Own):
    warmup: int = 3


def test_a_schedule_of_ones_own_has_a_course_too() -> None:
    own = checked("schedule=constant", f"schedule._target_={__name__}.Own", "schedule.warmup=0.5")
    assert rates(own.schedule, Budget("updates", 4, 1, CPU), own.course) == [0.5, 1, 1, 0]
    with pytest.raises(UserError, match=r"Clashing has a field warmup, which every schedule has; rename it"):
        checked("schedule=constant", f"schedule._target_={__name__}.Clashing")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("schedule.warmup=1", "schedule.warmup=1.0 must be in [0, 1)"),
        ("schedule.warmup=soon", "schedule.warmup=soon is not a number"),
        ("schedule.horizon=all", "schedule.horizon=all must be one of budget, full"),
        ("schedule=exponential schedule.final=0", "schedule.final=0 is never reached"),
        ("schedule=polynomial schedule.power=0", "schedule.power=0.0 must be greater than 0"),
        ("schedule=trapezoid schedule.cooldown=0", "schedule.cooldown=0.0 must be greater than 0"),
        ("schedule=one_cycle schedule.pct_start=1", "schedule.pct_start=1.0 must be in (0, 1)"),
        ("schedule=one_cycle schedule.anneal_strategy=up", "must be one of cos, linear"),
        ("schedule=one_cycle schedule.div_factor=0.5", "schedule.div_factor=0.5 must be in [1, 1e12]"),
        ("schedule=one_cycle schedule.base_momentum=0.96", "the first at most the second"),
        ("schedule=one_cycle optimizer.momentum=0", "schedule=one_cycle sets the momentum, and optimizer=sgd has none"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, words: str) -> None:
    with pytest.raises(UserError) as raised:
        check_parts(checked(*line.split()))
    assert words in str(raised.value)


def test_a_cycle_without_momentum_goes_with_every_optimizer() -> None:
    check_parts(checked("schedule=one_cycle", "optimizer.momentum=0", "schedule.cycle_momentum=false"))
