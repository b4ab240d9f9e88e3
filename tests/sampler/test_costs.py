"""Real runs on the digits: what each update costs, and what a budget buys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import TRAINING, here, refused
from samplers import EPOCH, TINY, B

from budgetrun.config import Experiment
from budgetrun.model.cnn import CNN
from budgetrun.train import run
from budgetrun.training.budget import model_flops


@pytest.fixture
def result_of(experiment_for: Callable[..., Experiment]) -> Any:
    return lambda *overrides: run(experiment_for(*TINY, *overrides))


def flops() -> tuple[int, int]:
    return model_flops(CNN(width=2).build(1, 10), (1, 8, 8))


ALWAYS = ("sampler=sb_batchwise", "sampler.begin=0", "sampler.end=1", "sampler.interrupt=0")


def test_sb_batchwise_pays_a_look_at_the_batch_and_an_update_on_the_part(result_of: Any) -> None:
    result = result_of(*ALWAYS, "sampler.keep=0.3", "budget=0.5")
    forward, update = flops()
    assert result["updates"] == 11
    assert result["examples_backward"] == 11 * 19
    assert result["examples_forward"] == 11 * (64 + 19)
    assert result["flops"] == 11 * (64 * forward + 19 * update)


def test_sb_batchwise_by_default_chooses_from_half_to_nine_tenths_every_other_batch(result_of: Any) -> None:
    result = result_of("sampler=sb_batchwise", "epochs=2")
    chosen = [t for t in range(44) if 0.5 <= t / 43 < 0.9 and t % 22 % 2 == 0]
    assert len(chosen) == 9
    assert result["updates"] == 44
    assert result["examples_backward"] == 44 * 64 - len(chosen) * 32
    assert result["examples_forward"] - result["examples_backward"] == len(chosen) * 64


def test_a_budget_of_examples_buys_sb_batchwise_more_updates_of_smaller_batches(result_of: Any) -> None:
    result = result_of(*ALWAYS, "budget=0.5", "budget_unit=examples")
    assert result["examples_backward"] == 11 * 64
    assert result["updates"] == 22
    assert result_of(*ALWAYS, "sampler.keep=0.3", "budget=0.5", "budget_unit=examples")["updates"] == -(-11 * 64 // 19)


def test_a_budget_of_flops_ends_sb_batchwise_within_one_update(result_of: Any) -> None:
    result = result_of(*ALWAYS, "budget=0.5", "budget_unit=flops")
    forward, update = flops()
    cost, allowed = 64 * forward + 32 * update, 11 * 64 * update
    assert result["updates"] == -(-allowed // cost)
    assert result["flops"] == result["updates"] * cost
    assert allowed <= result["flops"] < allowed + cost


def test_ordered_sgd_pays_what_its_docstring_says(result_of: Any) -> None:
    """A threshold that the first epoch reaches in any case halves q for the second: 22 updates of 64, 22 of 32."""
    forward, update = flops()
    line = ("sampler=osgd", "epochs=2", "sampler.thresholds=[0.000001]")
    rows = result_of(*line, "sampler.backward=rows")
    assert (rows["updates"], rows["examples_backward"]) == (44, 22 * 64 + 22 * 32)
    assert rows["flops"] == 22 * 64 * update + 22 * (64 * forward + 32 * update)
    weighed = result_of(*line, "sampler.backward=all")
    assert (weighed["updates"], weighed["examples_backward"]) == (44, 44 * 64)
    assert weighed["flops"] == 44 * 64 * update
    assert weighed["effective_batch"] == pytest.approx(0.75)
    passed = result_of(*line, "sampler.backward=all", "sampler.accuracy=pass")
    assert passed["flops"] - weighed["flops"] == TRAINING * forward


def test_a_budget_of_flops_ends_ordered_sgd_within_one_update(result_of: Any) -> None:
    forward, update = flops()
    result = result_of("sampler=osgd", "epochs=4", "sampler.thresholds=[0.000001]", "budget_unit=flops", "budget=0.5")
    allowed, cheap = 44 * 64 * update, 64 * forward + 32 * update
    after = -(-(allowed - 22 * 64 * update) // cheap)
    assert result["updates"] == 22 + after
    assert result["flops"] == 22 * 64 * update + after * cheap


def test_the_average_top_k_loss_pays_a_look_at_the_batch_and_an_update_on_the_k(result_of: Any) -> None:
    forward, update = flops()
    result = result_of("sampler=atk", "sampler.keep=0.3")
    assert (result["updates"], result["examples_backward"]) == (22, 22 * 19)
    assert result["flops"] == 22 * (64 * forward + 19 * update)


def test_gradient_norms_cost_a_forward_and_a_backward_pass_of_each_image_of_the_pool(result_of: Any) -> None:
    _, update = flops()
    result = result_of(
        "sampler=is", "sampler.score=gradient_norm", "sampler.threshold=0", "sampler.pool=2", "budget=0.3"
    )
    assert result["updates"] == 7  # the first finds the gate closed
    assert result["flops"] == 7 * 64 * update + 6 * 128 * update
    assert result["examples_forward"] == 7 * 64 + 6 * 128


def test_curricula_cost_what_uniform_costs_and_visit_what_comes_first_more_often(result_of: Any) -> None:
    _, update = flops()
    line = ("sampler=pacing", "sampler.order=random", "sampler.until=1", "epochs=2", "budget_unit=flops")
    entropy = {}
    for first in (0.1, 1.0):
        result = result_of(*line, f"sampler.first={first}")
        assert (result["updates"], result["flops"]) == (44, 44 * 64 * update)
        entropy[first] = result["visits_entropy"]
    assert entropy[0.1] < entropy[1.0] - 0.1


def test_self_paced_learning_looks_at_everything_before_each_pass_over_a_part(result_of: Any) -> None:
    """44 updates of 64 are 2,816 images: a pass over all 1,438, one over a part, and the beginning of a third."""
    forward, update = flops()
    line = ("sampler=self_paced", "sampler.first=0.5", "sampler.until=1", "epochs=2", "model.width=2")
    free = result_of(*line, "sampler.refresh=false")
    assert free["flops"] == 44 * 64 * update
    looked = result_of(*line)
    # the second begins at 22 of 43 (int(0.755 x 1438) = 1,086), the third at 39 (1,370)
    assert looked["flops"] == 44 * 64 * update + 2 * TRAINING * forward
    for use in ("weight", "soft"):
        weighed = result_of(*line, f"sampler.use={use}")
        assert weighed["flops"] == 44 * 64 * update
        assert 0.3 < weighed["effective_batch"] < 1


@pytest.mark.parametrize(("name", "choices"), [("craig_pb", 1), ("gradmatch_pb", 2)])
def test_a_choice_of_whole_batches_is_a_look_at_everything(name: str, choices: int, result_of: Any) -> None:
    """144 examples are 3 batches, whole but for the last of all, of 30: 5 updates of 64 begin a second pass."""
    forward, update = flops()
    result = result_of(f"sampler={name}", "budget=0.23")
    assert result["updates"] == 5
    assert result["flops"] == 5 * 64 * update + choices * TRAINING * forward


def test_stale_looks_are_not_charged(result_of: Any) -> None:
    """Without priming, one epoch of candidates in two or three is looked at."""
    forward, update = flops()
    looked = {}
    for stale in (1, 2, 3):
        result = result_of("sampler=sb", "sampler.prime=0", f"sampler.stale={stale}", "epochs=5")
        looked[stale] = result["examples_forward"] - result["examples_backward"]
        assert (result["updates"], result["examples_backward"]) == (5 * EPOCH, 5 * EPOCH * B)
        assert result["flops"] == 5 * EPOCH * B * update + looked[stale] * forward
    assert looked[1] > 13 * TRAINING  # about 15 epochs of candidates: one in three is kept
    for stale in (2, 3):  # to one epoch, that is begun or not at the end
        assert abs(looked[stale] - looked[1] / stale) < 1.2 * TRAINING
        # only whole epochs, but for the last
        assert looked[stale] % TRAINING == 0 or looked[stale] % TRAINING > 0.05 * TRAINING


def test_hard_batches_cost_what_uniform_costs_and_visit_the_batches_unevenly_unless_delta_is_1(result_of: Any) -> None:
    _, update = flops()
    entropy = {}
    for delta in (0.2, 1.0):
        result = result_of("sampler=hard_batches", f"sampler.delta={delta}", "epochs=2", "budget_unit=flops")
        assert (result["updates"], result["flops"]) == (44, 44 * 64 * update)
        entropy[delta] = result["visits_entropy"]
    # 1,408 of the 1,438 examples are in the 22 batches, and each is visited twice
    assert entropy[1.0] == pytest.approx(np.log(22 * 64), abs=1e-6)
    assert entropy[0.2] < entropy[1.0] - 0.01


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sampler=hard_batches sampler.delta=0.04", ["sampler.delta=0.04 of the 22 batches is not even one"]),
        ("sampler=sb_batchwise sampler.keep=0.01", ["sampler.keep=0.01 of batch_size=64 is not even one image"]),
        ("sampler=sb_batchwise sampler.interrupt=1", ["sampler.interrupt=1 must be 0"]),
        ("sampler=osgd sampler.thresholds=[0.9,0.8]", ["sampler.thresholds=[0.9, 0.8] must increase"]),
        ("sampler=sb sampler.stale=0", ["sampler.stale=0 must be at least 1"]),
        ("sampler=sb sampler.stale=1.5", ["sampler.stale=1.5 is not a whole number"]),
    ],
)
def test_bad_options_are_one_sentence_on_the_command_line(line: str, words: list[str], tmp_path: Path) -> None:
    done = here(f"{line} epochs=1", tmp_path)
    refused(done, *words)
    assert not list(tmp_path.rglob("*.*"))
