"""What a command says at its end is true, and the command that it names runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from cli import Done, here

from budgetrun.launch.closing import again
from budgetrun.training.summary import against_uniform

TINY = "epochs=0.2 evaluations=1"


def next_of(done: Done) -> str:
    """The arguments of the command that the last line names."""
    assert done.code == 0, done.err
    line = done.out.splitlines()[-1]
    assert line.startswith("next, ")
    return line.partition("python -m budgetrun ")[2]


def test_the_commands_that_runs_name_run_and_lead_from_a_method_to_the_table_of_three_seeds(tmp_path: Path) -> None:
    first = here(f"sampler=is sampler.pool=2 {TINY}", tmp_path)
    assert (
        "sampler=is, aug=standard, seed=0\nbudget=1: 4 of the 4 updates of a full training run (0.2 epochs)"
        in first.out
    )
    baseline = next_of(first)
    assert baseline == f"sampler=uniform {TINY}"
    last = here(baseline, tmp_path).out.splitlines()[-1]
    assert last.startswith("next, the table: python -m budgetrun.aggregate outputs --rows sampler,aug --cols budget ")
    seeds = next_of(here(f"sampler=is {TINY} sampler.pool=2 force=true", tmp_path))
    assert seeds == f"-m sampler=is {TINY} sampler.pool=2 seed=0,1,2", "uniform sampling has no pool"
    swept = here(seeds, tmp_path)
    assert "of n = 3 runs" in swept.out
    assert "table:  python -m budgetrun.aggregate outputs --rows sampler --cols budget\n" in swept.out


@pytest.mark.parametrize(
    ("typed", "sampler", "seeds", "expected"),
    [
        ("budget=0.3 sampler=subset sampler.file='a b.csv' select=top", "uniform", False, "budget=0.3 sampler=uniform"),
        (
            "--config-dir mine aug=[ricap]",
            "uniform",
            False,
            "--config-dir mine 'aug=[ricap]' sampler=uniform",
        ),
        ("seed=3 sampler=is force=true", "uniform,is", True, "-m sampler=uniform,is seed=0,1,2"),
        ("+sampler.x=1 ~noise 'output_dir=a=b'", "uniform", False, "'~noise' output_dir=a=b sampler=uniform"),
    ],
)
def test_the_next_command_keeps_what_was_typed(typed: str, sampler: str, seeds: bool, expected: str) -> None:
    assert again(shlex.split(typed), sampler, seeds) == f"python -m budgetrun {expected}"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"flops": 193, "flops_uniform": 100}, " (1.9 times those of uniform sampling for as many updates)"),
        ({"flops": 100, "flops_uniform": 100}, " (as many as uniform sampling for as many updates)"),
        (
            {"flops": 100, "flops_uniform": 100, "flops_before": 50},
            " (as many as uniform sampling for as many updates, or 1.5 times with the runs that made its files)",
        ),
        ({"flops": 100}, ""),
        ({"flops": None, "flops_uniform": 100}, ""),
    ],
)
def test_a_run_says_what_it_cost_against_uniform_sampling(result: dict[str, Any], said: str) -> None:
    assert against_uniform({"names": {"sampler": "is"}, **result}) == said
    assert against_uniform({"names": {"sampler": "uniform"}, **result}) == ""


def test_each_unit_of_the_budget_has_its_plan_and_a_sweep_its_tables(tmp_path: Path) -> None:
    done = here(f"-m budget=0.5 budget_unit=examples,flops {TINY}", tmp_path)
    assert done.code == 0, done.err
    assert "budget=0.5: 128 of the 256 images trained on of a full training run (0.2 epochs)" in done.out
    assert "budget=0.5: 1.199e8 of the 2.399e8 FLOPs, looks included, of a full training run" in done.out
    assert "--rows sampler --cols budget,budget_unit\n" in done.out
