"""Metrics derived from a run's evaluations: every number is worked out by hand, and unknown values are reported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import aggregate, read_markdown, refused, table_of, write

from budgetrun.aggregate import parser
from budgetrun.tables.derived import DERIVED, Options, Undefined, updates_an_epoch

HU = ("--baseline", "sampler=scan", "--metric", "speedup_examples")


def evaluations(accuracies: list[float], a_step: int = 100, **more: list[Any]) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl: one evaluation every a_step images; an update of ten images takes half a second."""
    return [
        {
            "test_accuracy": accuracy,
            "updates": number * a_step // 10,
            "examples_backward": number * a_step,
            "seconds": number * a_step / 20,
            **{name: values[number - 1] for name, values in more.items()},
        }
        for number, accuracy in enumerate(accuracies, 1)
    ]


def run(folder: Path, accuracies: list[float], a_step: int = 100, lines: Any = None, **changes: Any) -> Path:
    found = evaluations(accuracies, a_step) if lines is None else lines
    return write(folder, found, test_accuracy=accuracies[-1], **changes)


def value(folder: Path, metric: str, *options: str) -> float:
    """The value of the only cell."""
    ((line),) = table_of(folder, "--metric", metric, *options)
    return float(line["mean"])


# ---- what scoring costs


def test_the_cost_of_files_is_shared_by_trainings_and_pays_after_some(tmp_path: Path) -> None:
    for seed, before in ((0, 1000), (1, 1001)):
        whole = {"sampler": "uniform", "budget": 1.0, "flops": 500, "flops_before": 0, "seed": seed}
        run(tmp_path / f"whole{seed}", [0.9], **whole)
        run(tmp_path / f"part{seed}", [0.8], **(whole | {"sampler": "subset", "flops": 250, "flops_before": before}))
    chosen = ("--where", "sampler=subset")
    assert value(tmp_path, "flops_total", *chosen) == 1250.5
    assert value(tmp_path, "flops_total", "--trainings", "10", *chosen) == 350.05
    done = aggregate(tmp_path, "--metric", "pays_after", "--baseline", "sampler=uniform", "--format", "csv")
    assert "subset,standard,1,4.5," in done.out  # 1000 / 250 trainings, and one more than 1001 / 250
    assert done.err.count("it costs no less than its baseline, however many share its files") == 2, "the whole runs"
    refused(aggregate(tmp_path, "--metric", "pays_after"), "pays_after needs a baseline")


# ---- last, best by validation, best on the test set


def test_the_accuracy_at_the_best_validation_is_not_the_last_and_not_the_best(tmp_path: Path) -> None:
    lines = evaluations([0.5, 0.7, 0.9, 0.6], val_accuracy=[0.1, 0.8, 0.7, 0.8])
    run(tmp_path, [0.6], lines=lines)
    assert value(tmp_path, "test_accuracy") == 0.6
    assert value(tmp_path, "test_accuracy_at_best_validation") == 0.7, "of two that are best, the first"
    assert value(tmp_path, "test_accuracy_best_on_test") == 0.9
    assert value(tmp_path, "test_error") == pytest.approx(0.4)


def test_the_best_on_test_warns_wherever_it_is_shown(tmp_path: Path) -> None:
    run(tmp_path, [0.9, 0.5])
    for form in ("md", "latex"):
        out = aggregate(tmp_path, "--metric", "test_accuracy_best_on_test", "--format", form).out
        assert "OPTIMISTIC: the test set itself chose" in out
    assert "OPTIMISTIC" not in aggregate(tmp_path).out


def test_shares_are_shown_in_per_cent(tmp_path: Path) -> None:
    run(tmp_path, [0.25])
    lines, caption = read_markdown(aggregate(tmp_path, "--metric", "test_error,test_accuracy_best_on_test").out)
    assert lines[1][2:] == ["75.00", "25.00"]
    assert caption.startswith("test_error, %; test_accuracy_best_on_test, %: ")


def test_without_validation_the_best_by_it_is_refused_with_the_reason(tmp_path: Path) -> None:
    run(tmp_path, [0.5])
    refused(
        aggregate(tmp_path, "--metric", "test_accuracy_at_best_validation"),
        "none of the 1 runs chosen has test_accuracy_at_best_validation",
        "its evaluations have no val_accuracy",
    )


@pytest.mark.parametrize("content", ["", "[1]\n", '{"test_accuracy": 0.', "null\n"])
def test_evaluations_that_cannot_be_read_are_not_known(content: str, tmp_path: Path) -> None:
    path = run(tmp_path, [0.5], seed=0)
    (path / "metrics.jsonl").write_text(content)
    run(tmp_path, [0.5], seed=1)
    done = aggregate(tmp_path, "--metric", "test_accuracy_best_on_test")
    assert f"skipped {path / 'result.json'}: its evaluations are not known" in done.err
    assert done.code == 0


# ---- epochs to generalise


def test_epochs_until_0_99_of_the_last_accuracy_by_hand(tmp_path: Path) -> None:
    """0.99 of 0.8 is 0.792: the third evaluation, after 30 updates of 4 per epoch."""
    run(tmp_path, [0.5, 0.791, 0.793, 0.7, 0.8], n_training=300, batch_size=64)
    assert value(tmp_path, "epochs_to_generalise") == 30 / (300 // 64) == 7.5
    assert value(tmp_path, "epochs_to_generalise", "--share", "0.9") == 20 / 4
    assert value(tmp_path, "epochs_to_generalise", "--share", "1") == 50 / 4


def test_a_later_higher_accuracy_is_not_what_is_reached(tmp_path: Path) -> None:
    """0.99 of the run's own final accuracy, not of its best: the first evaluation already reaches it."""
    run(tmp_path, [0.6, 0.9, 0.6], n_training=64)
    assert value(tmp_path, "epochs_to_generalise") == 10


@given(per_epoch=st.integers(1, 600), epochs=st.integers(1, 300), budget=st.floats(0.01, 1))
def test_the_updates_of_an_epoch_are_those_of_the_data_also_where_the_result_has_no_n(
    per_epoch: int, epochs: int, budget: float
) -> None:
    known = {
        "batch_size": 64,
        "epochs": float(epochs),
        "budget": budget,
        "budget_unit": "updates",
        "updates": round(budget * epochs * per_epoch),
    }
    assert updates_an_epoch({**known, "n_training": 64 * per_epoch + 63}) == per_epoch
    if budget * epochs > 1:
        assert updates_an_epoch(known) == per_epoch
    else:
        with pytest.raises(Undefined, match="no n_training"):
            updates_an_epoch(known)
    with pytest.raises(Undefined):
        updates_an_epoch({**known, "budget_unit": "flops"})


# ---- speed-up


def test_the_speedup_is_the_ratio_of_what_is_spent_until_the_threshold_by_hand(tmp_path: Path) -> None:
    """Scan ends at an error of 0.10, so 0.12 has to be reached: scan does after 400 images, sb after 150 of its own."""
    run(tmp_path, [0.5, 0.7, 0.87, 0.88, 0.9], sampler="scan")
    run(tmp_path, [0.5, 0.8, 0.89, 0.91, 0.85], a_step=50, sampler="sb")
    lines = {line["sampler"]: line for line in table_of(tmp_path, *HU)}
    assert float(lines["sb"]["mean"]) == pytest.approx(400 / 150)
    assert float(lines["scan"]["mean"]) == 1
    lines = {x["sampler"]: x for x in table_of(tmp_path, *HU, "--threshold", "3")}  # 0.7: after 200 and 100
    assert float(lines["sb"]["mean"]) == 2


def test_seconds_are_counted_as_seconds(tmp_path: Path) -> None:
    run(tmp_path, [0.5, 0.9], sampler="scan")
    slow = [{**line, "seconds": 4 * line["seconds"]} for line in evaluations([0.95, 0.95])]
    run(tmp_path, [0.95], lines=slow, sampler="sb")
    options = ("--baseline", "sampler=scan", "--metric", "speedup_examples,speedup_seconds")
    lines, caption = read_markdown(aggregate(tmp_path, *options).out.split("\n\n| sampler")[0])
    assert [line[2:] for line in lines[1:]] == [["2", "0.5"], ["1", "1"]]
    assert "our definition, inferred from Hu et al. 2021" in caption


def test_a_run_that_never_reaches_the_threshold_has_no_speedup_and_is_named(tmp_path: Path) -> None:
    run(tmp_path, [0.5, 0.9], sampler="scan")
    path = run(tmp_path, [0.5, 0.879], sampler="sb")
    done = aggregate(tmp_path, *HU)
    lines, _ = read_markdown(done.out.split("\n\n| sampler")[0])
    assert [(line[0], line[2]) for line in lines[1:]] == [("sb", "—"), ("scan", "1")]
    assert done.err == f"skipped {path / 'result.json'}: it never reaches an error of 0.1200\n"


def test_each_seed_has_its_own_partner_and_threshold(tmp_path: Path) -> None:
    """Seed 0: 0.12, reached by scan after 200 and by sb after 100. Seed 1: 0.6, after 100 and 100."""
    for seed, accuracies in enumerate(([0.1, 0.9], [0.4, 0.5])):
        run(tmp_path, accuracies, sampler="scan", seed=seed)
        run(tmp_path, [0.9, 0.9], sampler="sb", seed=seed)
    line = next(line for line in table_of(tmp_path, *HU) if line["sampler"] == "sb")
    assert (float(line["mean"]), line["n"]) == (1.5, "2")


def test_an_error_of_exactly_the_threshold_is_reached_whatever_rounding_says(tmp_path: Path) -> None:
    """The baseline's own final error, at a factor of 1: 1 - 0.9 and 1.0 x (1 - 0.9) are the same."""
    for place in range(40):
        accuracy = 0.5 + place / 100
        run(tmp_path / str(place), [0.1, accuracy], sampler="scan")
        run(tmp_path / str(place), [accuracy, 0.1], sampler="sb")
        line = table_of(tmp_path / str(place), *HU, "--threshold", "1")[0]
        assert (line["sampler"], float(line["mean"])) == ("sb", 2)


def test_a_run_without_a_partner_has_no_speedup_and_is_named(tmp_path: Path) -> None:
    run(tmp_path, [0.5, 0.9], sampler="scan")
    path = run(tmp_path, [0.5, 0.9], sampler="sb", epochs=1.0)
    done = aggregate(tmp_path, *HU)
    assert f"skipped {path / 'result.json'}: it has no partner with sampler=scan" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--metric", "speedup_seconds"], ["speedup_seconds", "--baseline sampler=uniform"]),
        ([*HU, "--threshold", "0.9"], ["--threshold 0.9 is not 1 or more"]),
        ([*HU, "--threshold", "nan"], ["--threshold nan"]),
        ([*HU, "--threshold", "inf"], ["--threshold inf"]),
        (["--share", "0"], ["--share 0 is not above 0"]),
        (["--share", "1.1"], ["--share 1.1"]),
        (["--trainings", "0"], ["--trainings 0 is not 1 or more"]),
        (["--metric", "speedup_exampels"], ["did you mean speedup_examples?"]),
    ],
)
def test_options_out_of_range_are_refused_in_one_sentence(options: list[str], words: list[str], tmp_path: Path) -> None:
    run(tmp_path, [0.5], sampler="scan")
    run(tmp_path, [0.5], sampler="sb")
    refused(aggregate(tmp_path, *options), *words)


# ---- the entropy of visits


def test_the_entropy_is_shown_with_three_places_and_its_maximum(tmp_path: Path) -> None:
    run(tmp_path, [0.5], n_training=50_000, visits_entropy=10.77456)
    lines, caption = read_markdown(aggregate(tmp_path, "--metric", "visits_entropy").out)
    assert lines[1][2] == "10.775"
    assert caption == "visits_entropy: one run per cell; visits_entropy: in nats, at most ln N = 10.820"
    assert f"{math.log(50_000):.3f}" == "10.820"
    run(tmp_path, [0.5], seed=1, n_training=40_000, visits_entropy=10.5)
    assert "at most" not in aggregate(tmp_path, "--metric", "visits_entropy").out


def test_help_names_every_derived_metric_and_the_defaults() -> None:
    said = " ".join(parser().format_help().split())
    assert all(metric in said for metric in DERIVED)
    assert (Options().threshold, Options().share) == (1.2, 0.99)
    assert "(1.2)" in said
    assert "(0.99)" in said


def test_a_speedup_is_a_comparison_already_and_is_not_compared_again(tmp_path: Path) -> None:
    for seed in range(3):
        run(tmp_path, [0.5, 0.9], sampler="scan", seed=seed)
        run(tmp_path, [0.9, 0.9], sampler="sb", seed=seed)
    done = aggregate(tmp_path, "--baseline", "sampler=scan", "--metric", "speedup_examples,test_accuracy")
    assert "corrected for 1 comparison;" in done.out
    assert "pairs" not in table_of(tmp_path, *HU)[0]
