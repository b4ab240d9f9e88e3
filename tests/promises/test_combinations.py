"""Every sampler with every augmentation and every noise: it trains, spends its budget exactly, and can be interrupted.

Some run covers each pair of them, and each pair with a unit of the budget. Every fifth of these runs is interrupted.
With --full, runs cover every combination, and all are interrupted.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli import AUGS, NOISES, SAMPLERS, before_update, checked, needed
from states import AT_WORK, assert_ends_alike, interrupt

from budgetrun.contracts import passes
from budgetrun.dataset.digits import Digits
from budgetrun.errors import Interrupted
from budgetrun.model.cnn import CNN
from budgetrun.train import run
from budgetrun.training.budget import model_flops

UNITS = ("updates", "examples", "flops")  # in seconds no two runs spend the same
B = 64  # images per update, of digits' recipe
# fewer looks, or a network smaller than that of two channels
CHEAPER = {
    "rho": "sampler.pool=2",
    "craig": "sampler.every=30",
    "gradmatch_pb": "sampler.every=3",
    "proxy": "sampler.model.width=1",
}


# done once for all runs, as it takes longer than a few updates: composing, reading the data, counting FLOPs
parts_of = functools.cache(checked)
DIGITS = Digits(mean=[0.305], std=[0.3757], flip=False, padding=1).load("")
FLOPS = {width: model_flops(CNN(width).build(1, 10), torch.Size([1, 8, 8])) for width in (1, 2)}


def combinations(full: bool) -> list[tuple[str, str, str, str, bool]]:
    """Sampler, augmentation, noise and unit of each run, and whether it is interrupted."""
    if full:
        units = itertools.cycle(UNITS)
        return [(*each, next(units), True) for each in itertools.product(SAMPLERS, AUGS, NOISES)]
    # every sampler with every augmentation; in these, noises and units cycle at different rates
    return [
        (sampler, aug, NOISES[(i + j) % len(NOISES)], UNITS[(i + 2 * j) % len(UNITS)], (2 * i + j) % 5 == 0)
        for (i, sampler), (j, aug) in itertools.product(enumerate(SAMPLERS), enumerate(AUGS))
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "unit" in metafunc.fixturenames:
        names = "sampler", "aug", "noise", "unit", "cut"
        metafunc.parametrize(names, combinations(metafunc.config.getoption("--full")))


def test_every_pair_is_in_one_of_the_combinations() -> None:
    kinds = SAMPLERS, AUGS, NOISES, UNITS
    for one, other in itertools.combinations(range(4), 2):
        there = {(each[one], each[other]) for each in combinations(full=False)}
        assert there == set(itertools.product(kinds[one], kinds[other]))
    for one in range(4):
        assert {each[one] for each in combinations(full=False) if each[4]} == set(kinds[one])


def test_every_combination_trains_spends_its_budget_and_ends_the_same_bit_for_bit_when_it_is_cut(
    sampler: str,
    aug: str,
    noise: str,
    unit: str,
    cut: bool,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # composed by themselves, as Hydra takes a quarter of a second for each combination
    with_aug, with_noise = (parts_of(part, f"data_dir={people}") for part in (f"aug={aug}", f"noise={noise}"))
    epochs = 1 if unit == "updates" else passes(with_aug.aug)  # for as many updates
    line = f"sampler={sampler} {AT_WORK.get(sampler, '')} {CHEAPER.get(sampler, '')}"
    line += f" model.width=2 device=cpu data_dir={people} output_dir=outputs{needed(sampler, people)}"
    # with FLOPs, enough for several updates although choices cost some, and an evaluation after each that says its cost
    budget, evaluations = (0.8, 100) if unit == "flops" else (0.3, 5)
    of_unit = {"budget_unit": unit, "budget": budget, "epochs": epochs, "evaluations": evaluations}
    base = parts_of(*line.split())
    experiment = replace(
        base,
        settings=replace(base.settings, **of_unit),
        resolved=base.resolved | of_unit | {"aug": with_aug.resolved["aug"]},
        aug=with_aug.aug,
        noise=with_noise.noise,
    )

    monkeypatch.setattr(Digits, "load", lambda self, folder: DIGITS)
    monkeypatch.setattr(
        "budgetrun.training.network.model_flops", lambda net, shape, classes: FLOPS[net[0].out_channels]
    )

    def run_in(name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        run(copy.deepcopy(experiment))
        return tmp_path / name / "outputs" / experiment.run_id

    whole = run_in("whole")

    result = json.loads((whole / "result.json").read_text())
    assert (result["n_corrupted"] > 0) == (noise != "none")
    allowed = round(result["config"]["budget"] * epochs * (result["n_training"] // B))  # uniform updates
    if unit == "updates":
        assert result["updates"] == allowed
    elif unit == "examples":  # to less than a batch, or than an update if that passes several views
        assert allowed <= result["examples_backward"] // B < allowed + passes(experiment.aug)
    else:  # the update that reaches it is the last
        spent = [json.loads(line)["flops"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
        assert len(spent) == result["updates"]
        assert spent[-2] < allowed * B * FLOPS[2][1] <= spent[-1] == result["flops"]

    if not cut:
        return
    with before_update(4, sampler, interrupt), pytest.raises(Interrupted):
        run_in("cut")
    assert_ends_alike(whole, run_in("cut"))
