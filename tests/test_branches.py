"""Runs that begin as one: each ends as it would have ended alone, wherever the common run is interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import before_update, checked, here, refused
from states import assert_identical, interrupt, without_clocks

from budgetrun.contracts import UserError
from budgetrun.training.checks import check_parts

# 13, 22 and 44 updates; cool-downs begin after 10, 17 and 35
LINE = "schedule=trapezoid sampler=scan aug=mixup epochs=2 model.width=2 evaluations=5 branches=[0.3,0.5]"
SWEEP = f"-m {LINE} budget=0.3,0.5,1"


def ended(cwd: Path, budget: str) -> tuple[Any, Any, Any]:
    """The state, the result and the metrics of a run, but for what may differ."""
    (folder,) = (cwd / "outputs").glob(f"*-b{budget}-*")
    state = without_clocks(torch.load(folder / "checkpoint.pt", weights_only=True))
    result = without_clocks(json.loads((folder / "result.json").read_text()))
    state["budget"].pop("shared")
    state.pop("branches", None)
    shared = result.pop("flops_shared")
    lines = [without_clocks(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return shared / result["flops"] * result["updates"], [state, result], lines


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs, the smaller ones first, so that none begins in another."""
    cwd = tmp_path_factory.mktemp("alone")
    for budget in ("0.3", "0.5", "1"):
        assert here(f"{LINE} budget={budget}", cwd).code == 0
    return cwd


def assert_as_alone(cwd: Path, alone: Path, shared: dict[str, int]) -> None:
    for budget, updates in shared.items():
        common, *mine = ended(cwd, budget)
        nothing, *theirs = ended(alone, budget)
        assert (common, nothing) == (pytest.approx(updates), 0)
        assert_identical(mine, theirs)
        assert len(mine[1]) == 5


def test_the_cool_downs_of_one_trajectory_are_the_runs_themselves(tmp_path: Path, alone: Path) -> None:
    done = here(SWEEP, tmp_path)
    assert done.code == 0, done.err
    assert "1 missing, 2 waiting" in done.out or "2 waiting, 1 missing" in done.out
    assert done.out.count("goes on by itself from update") == 2
    assert_as_alone(tmp_path, alone, {"0.3": 10, "0.5": 17, "1": 0})
    flops = [json.loads(p.read_text())["flops"] for p in tmp_path.glob("outputs/*/result.json")]
    assert sum(flops) == 79 * 64 * 20352
    assert "together they took 6.773e7 FLOPs; each by itself, 1.029e8" in done.out
    assert "3 runs: 3 finished" in here(SWEEP, tmp_path).out


def test_an_interrupted_trajectory_leaves_the_same_runs(tmp_path: Path, alone: Path) -> None:
    """Interrupted between the two: the first one does not wait any more, and the second is still followed."""
    with before_update(14, "scan", interrupt):
        assert here(SWEEP, tmp_path).code == 130
    done = here(SWEEP, tmp_path)
    assert done.code == 0, done.err
    assert_as_alone(tmp_path, alone, {"0.3": 10, "0.5": 17, "1": 0})


def test_a_trajectory_that_has_begun_without_them_leaves_them_alone(tmp_path: Path, alone: Path) -> None:
    whole = f"{LINE} budget=1"
    with before_update(8, "scan", interrupt):
        assert here(whole.replace("[0.3,0.5]", "[]"), tmp_path).code == 130
    done = here(SWEEP, tmp_path)
    assert done.code == 0, done.err
    assert_as_alone(tmp_path, alone, {"0.3": 0, "0.5": 0, "1": 0})


def test_with_the_full_horizon_every_run_is_a_part_of_the_longest(tmp_path: Path) -> None:
    line = "sampler=scan epochs=1 model.width=2 evaluations=2 schedule.horizon=full branches=[0.5]"
    assert here(f"{line} budget=0.5 output_dir=alone/outputs", tmp_path).code == 0
    assert here(f"-m {line} budget=0.5,1", tmp_path).code == 0
    common, *mine = ended(tmp_path, "0.5")
    _, *theirs = ended(tmp_path / "alone", "0.5")
    for each in (mine, theirs):
        each[0][1]["config"].pop("output_dir")
    assert common == pytest.approx(11)
    assert_identical(mine, theirs)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("schedule=linear", "with schedule=linear, runs with other budgets have another learning rate"),
        ("schedule=trapezoid schedule.warmup=0.1", "without a warm-up"),
        ("schedule=trapezoid budget_unit=seconds", "cannot go with budget_unit=seconds"),
        ("schedule=trapezoid scores=aum", "cannot go with scores=aum"),
        ("schedule=trapezoid freeze=layers", "cannot go with freeze=layers"),
        ("schedule=trapezoid aug=progressive", "cannot go with aug=progressive"),
        ("branches=[0.3,2]", "branches=[0.3, 2.0] must be budgets, greater than 0 and at most 1"),
    ],
)
def test_runs_that_differ_from_the_beginning_are_refused(line: str, words: str) -> None:
    with pytest.raises(UserError) as raised:
        check_parts(checked("sampler=scan", "branches=[0.3]", *line.split()))
    assert words in str(raised.value)
    if "=[0.3,2]" not in line:
        check_parts(checked("sampler=scan", "branches=[0.3]", "budget=0.3", *line.split()))  # which no other one serves


def test_a_branch_of_less_than_one_update_is_refused(tmp_path: Path) -> None:
    done = here("schedule=trapezoid sampler=scan epochs=1 branches=[0.01]", tmp_path)
    refused(done, "branches=[0.01]: budget=0.01 of 22 updates is not even one")


@pytest.mark.parametrize("sampler", ["uniform", "infobatch"])
def test_a_sampler_that_follows_the_budget_is_refused(sampler: str, tmp_path: Path) -> None:
    line = "schedule=trapezoid epochs=1 model.width=2 branches=[0.3]"
    refused(here(f"{line} sampler={sampler}", tmp_path), "this sampler follows the budget", "sampler=scan")
    assert not list(tmp_path.glob("outputs/*/result.json"))
