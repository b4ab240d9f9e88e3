"""The values that explain a result, against numbers worked out by hand and against runs whose choices are known."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli import here
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Data
from budgetrun.train import run
from budgetrun.training.budget import Budget
from budgetrun.training.diagnostics import Diagnostics
from budgetrun.training.summary import in_words
from budgetrun.training.views import Views

CPU = torch.device("cpu")
FORWARD, UPDATE = 3, 10  # FLOPs of an image


def observed(
    labels: list[int], corrupted: list[bool] | None = None, device: str = "cpu", sampler: Any = None
) -> Diagnostics:
    """Diagnostics of a run over examples with these labels that has done nothing yet."""
    y, there = torch.tensor(labels, device=device), torch.device(device)
    images = torch.zeros(len(y), 1, 2, 2, dtype=torch.uint8, device=device)
    mask = None if corrupted is None else torch.tensor(corrupted, device=device)
    data = Data(images, y, images, y, [0.5], [0.5], flip=False, padding=0, classes=max(labels) + 1, corrupted=mask)
    return Diagnostics(data, Budget("updates", 100, 1, there), Views(data, [], None), sampler)


def update(
    diagnostics: Diagnostics,
    index: list[Any],
    *,
    share: list[list[float]] | None = None,
    weight: list[float] | None = None,
    looked: int = 0,
) -> None:
    """One update as the loop makes it: looks, observe, charge."""
    with diagnostics.drawing():
        if looked:
            diagnostics.budget.charge_look(looked, FORWARD)
    device = diagnostics.labels.device
    rows = torch.tensor(index, device=device).view(len(index), -1)
    shares = torch.ones(rows.shape, device=device) if share is None else torch.tensor(share, device=device)
    weights = None if weight is None else torch.tensor(weight, device=device)
    images = torch.zeros(len(index), 1, 2, 2, device=device)
    diagnostics.observe(Batch(images, rows, diagnostics.labels[rows], shares, drawn=rows[:, 0], weight=weights))
    diagnostics.budget.charge_update(len(index), UPDATE)


def h(*counts: float) -> float:
    """Entropy in nats of these counts."""
    return -sum(c / sum(counts) * math.log(c / sum(counts)) for c in counts if c)


# ---- which examples


def test_examples_visited_alike_have_the_entropy_log_n_and_all_classes() -> None:
    diagnostics = observed([0, 1, 2, 3, 0, 1, 2, 3])
    for _ in range(3):
        update(diagnostics, list(range(8)))
    line = diagnostics.line()
    assert line["visits_entropy"] == pytest.approx(math.log(8), abs=1e-12)
    assert line["selected_class_entropy"] == pytest.approx(1, abs=1e-12)


def test_the_entropy_of_visits_is_that_worked_out_by_hand() -> None:
    diagnostics = observed([0, 0, 1, 2])
    update(diagnostics, [0, 1])
    update(diagnostics, [2, 2])
    line = diagnostics.line()
    # 1/4, 1/4, 1/2 and 0: half of log 4 and half of log 2
    assert line["visits_entropy"] == pytest.approx(1.5 * math.log(2), abs=1e-12)
    # the classes: 1/2, 1/2 and 0 of three
    assert line["selected_class_entropy"] == pytest.approx(math.log(2) / math.log(3), abs=1e-12)


def test_a_single_example_has_no_entropy_and_a_single_class_all_of_it() -> None:
    diagnostics = observed([0, 0, 0])
    update(diagnostics, [1, 1])
    line = diagnostics.line()
    assert (line["visits_entropy"], line["selected_class_entropy"]) == (0, 1)


def test_an_image_of_four_sources_is_a_visit_of_each_by_its_share() -> None:
    diagnostics = observed([0, 1, 2, 3, 4], corrupted=[True, False, False, False, False])
    update(diagnostics, [[0, 1, 2, 3], [1, 1, 0, 2]], share=[[0.5, 0.25, 0.125, 0.125], [0.5, 0.25, 0.25, 0.0]])
    line = diagnostics.line()
    # example 0: 0.5 + 0.25; 1: 0.25 + 0.75; 2: 0.125; 3: 0.125; every image is one visit in total
    assert line["visits_entropy"] == pytest.approx(h(0.75, 1, 0.125, 0.125), abs=1e-6)
    assert line["selected_class_entropy"] == pytest.approx(h(0.75, 1, 0.125, 0.125) / math.log(5), abs=1e-6)
    assert line["selected_corrupted"] == pytest.approx(0.75 / 2, abs=1e-6)


def test_an_image_of_weight_0_is_not_a_visit_and_one_of_any_other_weight_is() -> None:
    diagnostics = observed([0, 1, 2], corrupted=[False, False, True])
    update(diagnostics, [0, 1, 2, 2], weight=[0.25, 7.0, 0.0, 0.0])
    line = diagnostics.line()
    assert line["visits_entropy"] == pytest.approx(math.log(2))
    assert line["selected_corrupted"] == 0


def test_the_share_of_corrupted_examples_is_of_all_visits_and_lately_of_those_since_the_last_line() -> None:
    diagnostics = observed([0, 1, 0, 1], corrupted=[True, False, False, False])
    update(diagnostics, [0, 1, 2, 3])
    first = diagnostics.line()
    update(diagnostics, [0, 0, 0, 1])
    update(diagnostics, [1, 1, 2, 2])
    second = diagnostics.line()
    update(diagnostics, [1, 2])
    third = diagnostics.line()
    assert {line["corrupted"] for line in (first, second, third)} == {0.25}
    assert [line["selected_corrupted"] for line in (first, second, third)] == pytest.approx([1 / 4, 4 / 12, 4 / 14])
    assert [line["selected_corrupted_lately"] for line in (first, second, third)] == pytest.approx([1 / 4, 3 / 8, 0])


def test_the_extremes_are_the_most_and_the_least_visited_with_equal_ones_in_any_order() -> None:
    diagnostics = observed([0] * 8)
    for index in ([5, 5, 3], [5, 3, 0], [2, 6, 1]):  # visits: 5 three, 3 two, 0 1 2 6 one, 4 7 none
        update(diagnostics, index)
    most, least = diagnostics.extremes(3).split(3)
    assert (most.tolist()[:2], least.tolist()[0] in (0, 1, 2, 6)) == ([5, 3], True)
    assert set(least.tolist()[1:]) == {4, 7}
    assert sorted(diagnostics.extremes(100).tolist()) == list(range(8)), "no example is in both halves"
    assert sorted(observed([0] * 1000).extremes(500).tolist()) == list(range(1000))
    assert observed([0] * 1000).extremes(8).tolist() != list(range(8)) + list(range(992, 1000)), "by number"


def test_clean_data_have_no_share_of_corrupted_examples() -> None:
    diagnostics = observed([0, 1])
    update(diagnostics, [0, 1])
    assert not [key for key in diagnostics.line() if "corrupted" in key]


# ---- what choosing costs


def test_what_looks_cost_is_counted_by_hand() -> None:
    diagnostics = observed([0, 1, 0, 1])
    update(diagnostics, [0, 1])  # two candidates, both trained on
    update(diagnostics, [0, 1], looked=6)
    update(diagnostics, [2, 3], looked=10)
    update(diagnostics, [2, 3])
    line = diagnostics.line()
    assert line["looking_updates"] == 2 / 4
    assert line["keep_rate"] == 8 / (2 + 6 + 10 + 2)
    assert line["selection_flops"] == 16 * FORWARD / (16 * FORWARD + 8 * UPDATE)


def test_without_a_look_everything_is_kept_and_nothing_is_spent_on_choosing() -> None:
    diagnostics = observed([0, 1, 0, 1])
    for _ in range(5):
        update(diagnostics, [0, 1, 1])
    line = diagnostics.line()
    assert (line["keep_rate"], line["looking_updates"], line["selection_flops"]) == (1, 0, 0)


def test_what_a_sampler_drops_without_a_look_is_among_the_candidates() -> None:
    diagnostics = observed([0, 1, 0, 1], sampler=SimpleNamespace(dropped=2.5))
    update(diagnostics, [0, 1])
    update(diagnostics, [2, 3], looked=6)
    assert diagnostics.line()["keep_rate"] == 4 / (2 + 6 + 2.5)


def test_what_is_spent_outside_of_the_draw_is_not_spent_on_choosing() -> None:
    """A scorer looks after the draw."""
    diagnostics = observed([0, 1, 0, 1])
    for _ in range(2):
        update(diagnostics, [0, 1], looked=5)
        diagnostics.budget.charge_look(100, FORWARD)
    update(diagnostics, [0, 1])
    line = diagnostics.line()
    assert line["keep_rate"] == 6 / (5 + 5 + 2)
    assert line["looking_updates"] == 2 / 3
    assert line["selection_flops"] == 10 * FORWARD / (210 * FORWARD + 6 * UPDATE)


def test_flops_of_a_second_network_are_spent_on_choosing() -> None:
    diagnostics = observed([0, 1])
    with diagnostics.drawing():
        diagnostics.budget.flops += 40
    update(diagnostics, [0, 1])
    assert diagnostics.line()["selection_flops"] == 40 / 60


def test_the_effective_batch_is_kish_s_over_the_batch_size_and_1_for_an_update_without_weights() -> None:
    diagnostics = observed([0, 1, 2, 3])
    update(diagnostics, [0, 1, 2], weight=[1.0, 1.0, 2.0])  # 4^2 / 6 of 3
    assert diagnostics.line()["effective_batch"] == pytest.approx(16 / 18)
    update(diagnostics, [0, 1, 2, 3], weight=[5.0, 0.0, 0.0, 0.0])  # one of 4
    update(diagnostics, [0, 1])
    update(diagnostics, [0, 1], weight=[0.3, 0.3])
    assert diagnostics.line()["effective_batch"] == pytest.approx((16 / 18 + 1 / 4 + 1 + 1) / 4)


def test_an_update_whose_weights_are_all_0_has_an_effective_batch_of_0() -> None:
    diagnostics = observed([0, 1])
    update(diagnostics, [0, 1], weight=[1.0, 1.0])
    update(diagnostics, [0, 1], weight=[0.0, 0.0])
    assert diagnostics.line()["effective_batch"] == pytest.approx(1 / 2)


def test_a_method_without_weights_has_no_effective_batch() -> None:
    diagnostics = observed([0, 1])
    update(diagnostics, [0, 1])
    assert "effective_batch" not in diagnostics.line()


def test_time_in_draw_that_is_not_augmentation_is_spent_on_choosing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    diagnostics = observed([0, 1])
    for _ in range(3):
        diagnostics.budget.start()
        with diagnostics.drawing():
            now += 2  # looking
            with diagnostics.viewing:
                now += 4
        now += 10  # the update
        diagnostics.budget.stop()
        now += 100  # an evaluation
    assert diagnostics.line()["selection_seconds"] == pytest.approx(2 / 16)


@pytest.mark.parametrize("weight", [None, [1.0, 0.5, 0.0]])
def test_observing_an_update_reads_nothing_from_the_device(weight: list[float] | None) -> None:
    """Tensors on the meta device have no values: reading one raises."""
    diagnostics = observed([0, 1, 2, 0], corrupted=[True, False, True, False], device="meta")
    update(diagnostics, [0, 1, 1], weight=weight, looked=9)
    update(diagnostics, [[0, 1], [1, 2], [2, 2]], share=[[0.5, 0.5]] * 3, weight=weight)
    assert (diagnostics.looking, diagnostics.candidates) == (1, 12)


# ---- the state


@settings(deadline=None, max_examples=30)
@given(
    updates=st.lists(
        st.tuples(st.integers(0, 2**20), st.integers(0, 30), st.booleans(), st.booleans()), min_size=2, max_size=12
    ),
    data=st.data(),
)
def test_resumed_values_are_those_without_an_interruption(updates: Any, data: Any) -> None:
    """updates: seed of the batch, images looked at, whether it is weighted, whether an evaluation follows."""
    saved_after = data.draw(st.integers(1, len(updates) - 1))
    examples = [0, 1, 2, 0, 1, 2], [True, False, False, True, False, False]

    def train(diagnostics: Diagnostics, first: int, last: int) -> list[dict[str, float]]:
        lines = []
        for seed, looked, weighted, evaluated in updates[first:last]:
            random = np.random.default_rng(seed)
            weight = random.random(4).astype(np.float32).tolist() if weighted else None
            update(diagnostics, random.integers(6, size=4).tolist(), weight=weight, looked=looked)
            if evaluated or last == len(updates):
                lines.append(diagnostics.line())
                del lines[-1]["selection_seconds"]
        return lines

    whole = observed(*examples)
    expected = [*train(whole, 0, saved_after), *train(whole, saved_after, len(updates))]
    before, after = observed(*examples), observed(*examples)
    lines = train(before, 0, saved_after)
    file = io.BytesIO()
    torch.save([before.state_dict(), before.budget.state_dict()], file)
    file.seek(0)
    for part, state in zip((after, after.budget), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert [*lines, *train(after, saved_after, len(updates))] == expected


def test_the_clocks_go_on_from_where_they_were() -> None:
    before, after = observed([0, 1]), observed([0, 1])
    before.drawn.total, before.viewing.total = 5.0, 2.0
    after.load_state_dict(before.state_dict())
    after.budget.seconds = 12.0
    assert after.line()["selection_seconds"] == 0.25


# ---- real runs on the digits

ALWAYS = {
    "visits_entropy",
    "selected_class_entropy",
    "keep_rate",
    "looking_updates",
    "selection_seconds",
    "selection_flops",
}
OF_NOISE = {"corrupted", "selected_corrupted", "selected_corrupted_lately"}


@pytest.fixture
def lines_of(experiment_for: Callable[..., Experiment], tmp_path: Path) -> Any:
    """The lines of a run's metrics.jsonl, the last of which is in result.json too."""

    def lines(*overrides: str) -> list[dict[str, float]]:
        result = run(experiment_for("evaluations=4", *overrides))
        folder = Path(tmp_path) / result["run_id"]
        found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        written = json.loads((folder / "result.json").read_text())
        assert len(found) == 4
        for line in found:
            assert line.keys() >= ALWAYS
            assert all(math.isfinite(value) for value in line.values())
        assert {key: written[key] for key in found[-1] if key not in ("progress", "lr")}.items() <= found[-1].items()
        return found

    return lines


def test_uniform_sampling_looks_at_nothing_and_visits_all_examples_and_labels_alike(lines_of: Any) -> None:
    lines = lines_of("sampler=uniform", "epochs=10", "budget=0.5", "noise=symmetric")
    for line in lines:
        assert (line["keep_rate"], line["looking_updates"], line["selection_flops"]) == (1, 0, 0)
        assert line["corrupted"] == pytest.approx(0.25, abs=1e-3)
        assert line["selected_corrupted"] == pytest.approx(0.25, abs=0.02)
        assert line.keys() >= OF_NOISE
        assert "effective_batch" not in line
        assert 0 <= line["selection_seconds"] < 1
    # 10 draws of half of the examples: visits are binomial, of mean 5 and variance 2.5, which costs var / (2 mean^2)
    assert lines[-1]["visits_entropy"] == pytest.approx(math.log(1438) - 0.05, abs=0.01)
    assert lines[-1]["selected_class_entropy"] > 0.999


def test_scan_over_the_whole_budget_has_the_largest_entropy_there_is(lines_of: Any) -> None:
    lines = lines_of("sampler=scan", "epochs=16", "batch_size=719", "model.width=2")
    assert lines[-1]["visits_entropy"] == pytest.approx(math.log(1438), abs=1e-9)


def test_selective_backprop_selects_more_corrupted_examples_than_there_are(lines_of: Any) -> None:
    lines = lines_of("sampler=sb", "epochs=20", "budget=0.5", "noise=symmetric")
    last = lines[-1]
    # noise is hard: 25% of the labels are 53% of the visits at beta 2, the epoch of priming included
    assert last["selected_corrupted"] > 1.7 * last["corrupted"]
    assert last["selected_corrupted_lately"] > last["selected_corrupted"]
    # the epoch of priming, then a third of the candidates
    assert last["keep_rate"] == pytest.approx(1 / 3, abs=0.05)
    primed = 23 / 220
    assert last["looking_updates"] == pytest.approx(1 - primed, abs=0.001)


def test_the_looks_of_a_scorer_do_not_count_as_the_sampler_s(lines_of: Any) -> None:
    without = lines_of("sampler=sb", "sampler.prime=0", "epochs=2", "model.width=2")
    scored = lines_of("sampler=sb", "sampler.prime=0", "epochs=2", "model.width=2", "scores=ensemble")
    for one, other in zip(without, scored, strict=True):
        assert one["keep_rate"] == other["keep_rate"] < 0.5
        assert one["looking_updates"] == other["looking_updates"]
        assert one["selection_flops"] * one["flops"] == pytest.approx(other["selection_flops"] * other["flops"])
    looked = (scored[-1]["examples_forward"] - without[-1]["examples_forward"]) / 1438
    assert looked == round(looked) >= 2


def test_the_keep_rate_of_infobatch_is_that_of_its_epochs(experiment_for: Callable[..., Experiment]) -> None:
    experiment = experiment_for("sampler=infobatch", "epochs=8", "model.width=4")
    result = run(experiment)
    candidates = result["examples_backward"] + experiment.sampler.dropped
    assert result["keep_rate"] == result["examples_backward"] / candidates
    # it drops nothing in the first epoch and the last eighth, and in between half of the easy examples, which are most
    assert 0.55 < result["keep_rate"] < 0.85
    assert (result["looking_updates"], result["selection_flops"]) == (0, 0)


def test_importance_sampling_with_an_open_gate_looks_before_all_updates_but_the_first(lines_of: Any) -> None:
    lines = lines_of("sampler=is", "sampler.threshold=0", "epochs=2")
    last, updates = lines[-1], 44
    assert last["updates"] == updates
    assert last["looking_updates"] == (updates - 1) / updates
    assert last["keep_rate"] == updates / (1 + 3 * (updates - 1))
    looked = 3 * 64 * (updates - 1)
    assert looked == last["examples_forward"] - last["examples_backward"]
    assert 0.1 < last["selection_flops"] < 1
    assert 0 < last["effective_batch"] < 1
    assert not OF_NOISE & last.keys()


def test_the_effective_batch_of_importance_sampling_is_that_of_its_weights(
    lines_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from budgetrun.training import diagnostics

    seen: list[Tensor | None] = []
    really = diagnostics.Diagnostics.observe

    def observe(self: Diagnostics, batch: Batch) -> None:
        seen.append(batch.weight)
        really(self, batch)

    monkeypatch.setattr(diagnostics.Diagnostics, "observe", observe)
    lines = lines_of("sampler=is", "sampler.threshold=0", "epochs=1")
    kish = [1.0 if w is None else float(w.double().sum() ** 2 / w.double().square().sum() / len(w)) for w in seen]
    assert seen[0] is None
    assert lines[-1]["effective_batch"] == pytest.approx(np.mean(kish), rel=1e-5)


def test_mixed_images_are_visits_of_their_sources(lines_of: Any) -> None:
    """RICAP spreads every draw over four examples, so that p-SGD's visits are more alike than without."""
    plain = lines_of("sampler=p_sgd", "budget=0.3", "epochs=20", "aug=none")
    mixed = lines_of("sampler=p_sgd", "budget=0.3", "epochs=20", "aug=ricap")
    assert plain[-1]["visits_entropy"] < mixed[-1]["visits_entropy"] < math.log(1438)


GATED, LOOKING = {"threshold": None, "looks": "eval"}, {"looks": "eval"}


@pytest.mark.parametrize(
    ("sampler", "values", "words"),
    [
        ({}, {"keep_rate": 1.0, "looking_updates": 0.0}, ""),
        ({}, {"keep_rate": None, "looking_updates": None}, ""),
        (GATED, {"keep_rate": 1.0, "looking_updates": 0.0}, "the gate never opened: this was uniform sampling"),
        (
            GATED | {"replacement": True},
            {"keep_rate": 1.0, "looking_updates": 0.0},
            "the gate never opened: this was uniform sampling, with replacement",
        ),
        (
            GATED,
            {"keep_rate": 0.5, "looking_updates": 0.25},
            "the gate was open for 25% of the updates; it kept 50% of its candidates",
        ),
        (LOOKING, {"keep_rate": 1.0, "looking_updates": 0.0}, "it never looked: this was uniform sampling"),
        (
            LOOKING,
            {"keep_rate": 0.9, "looking_updates": 0.999},
            "it looked for over 99% of the updates; it kept 90% of its candidates",
        ),
        (
            LOOKING,
            {"keep_rate": 0.312, "looking_updates": 1.0, "selection_flops": 0.5, "selection_seconds": 0.004},
            "it kept 31% of what it looked at; choosing took 50% of the FLOPs and 0.4% of the time",
        ),
        (
            {"ratio": 0.5},
            {"keep_rate": 1.0, "looking_updates": 0.0, "effective_batch": 1.0},
            "it dropped nothing: this was uniform sampling",
        ),
        (
            {"ratio": 0.5},
            {"keep_rate": 0.8, "looking_updates": 0.0, "effective_batch": 0.9},
            "it kept 80% of its candidates; its weights made a batch count as 90% of one",
        ),
        (
            {},
            {"corrupted": 0.2, "selected_corrupted": 0.4},
            "40% of what it trained on is corrupted, and 20% of the data",
        ),
    ],
)
def test_a_result_says_in_one_line_what_the_method_did(
    sampler: dict[str, Any], values: dict[str, Any], words: str
) -> None:
    assert in_words({"config": {"sampler": sampler}, **values}) == words


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sampler=uniform", None),
        ("sampler=is", "the gate never opened: this was uniform sampling"),
        ("sampler=is sampler.threshold=0", "the gate was open for 75% of the updates; it kept 40% of its candidates; "),
        ("sampler=sb sampler.prime=9", "it never looked: this was uniform sampling"),
        ("sampler=sb sampler.prime=0 sampler.floor=1", "choosing took "),
    ],
)
def test_a_run_ends_with_what_its_method_did(line: str, said: str | None, tmp_path: Path) -> None:
    done = here(f"{line} epochs=0.2 evaluations=1", tmp_path)
    told = done.out.splitlines()
    place = next(number for number, line in enumerate(told) if line.endswith("result.json"))
    assert said is None or f": {said}" in told[place - 1], done.out
    assert done.out.count("uniform: ") == 0
