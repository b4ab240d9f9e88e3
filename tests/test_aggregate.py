"""Tables of runs: the numbers are right, each run counts once, and what is left out or mixed is reported."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cli import CHECKOUT, TRAINING, Done, environment, here
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import aggregate, by_hand, read_latex, read_markdown, refused, result, table_of, write

from budgetrun.identity import ELSEWHERE
from budgetrun.tables.plot import COLOURS, DASHES, MARKERS, figure
from budgetrun.tables.runs import CIRCUMSTANCES, REPEATS
from budgetrun.tables.table import Cell, Table, caption, entry, laid_out, latex, markdown, tabulate, word

PROBE = CHECKOUT / "scripts" / "aggregate.py"


# ---- numbers


def test_a_cell_is_mean_and_sample_standard_deviation_of_its_runs(tmp_path: Path) -> None:
    for seed, accuracy in enumerate([0.90, 0.92, 0.97]):  # mean 0.93; squares 0.0009 + 0.0001 + 0.0016 over 2
        write(tmp_path, seed=seed, test_accuracy=accuracy)
    ((row),) = table_of(tmp_path)
    assert (row["sampler"], row["aug"], row["budget"], row["n"]) == ("uniform", "standard", "0.3", "3")
    assert float(row["mean"]) == pytest.approx(0.93, rel=1e-15)
    assert float(row["std"]) == pytest.approx(math.sqrt(0.0013), rel=1e-12)
    lines, caption = read_markdown(aggregate(tmp_path).out)
    assert lines == [["sampler", "aug", "budget=0.3"], ["uniform", "standard", "93.00 ± 3.61"]]
    assert caption == "test_accuracy, %: mean ± standard deviation (ddof=1) of n = 3 runs"


@pytest.mark.parametrize("form", ["md", "latex"])
def test_one_run_has_no_deviation(form: str, tmp_path: Path) -> None:
    write(tmp_path, test_accuracy=0.25)
    out = aggregate(tmp_path, "--format", form).out
    lines, caption = {"md": read_markdown, "latex": read_latex}[form](out)
    assert lines[1] == ["uniform", "standard", "25.00"]
    assert caption == "test_accuracy, %: one run per cell"
    assert table_of(tmp_path)[0]["std"] == ""


def test_equal_runs_deviate_by_exactly_0(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, seed=seed, test_accuracy=0.1)
    ((row),) = table_of(tmp_path)
    assert (row["mean"], row["std"]) == ("0.1", "0.0")


SETTINGS = {"sampler": ["is", "sb"], "aug": ["none", "mix_up%"], "budget": [0.1, 0.25, 1.0], "lr": [1e-6, 0.1234567891]}
MEASURED = {
    "test_accuracy": st.floats(0, 1),
    "test_loss": st.floats(-1e12, 1e12, allow_subnormal=False),
    "flops": st.integers(0, 10**22),
}


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_rows_and_columns_are_what_fractions_give_in_all_three_forms(data: st.DataObject) -> None:
    shown = data.draw(st.permutations(sorted(SETTINGS)))
    cut = data.draw(st.integers(1, len(shown) - 1))
    rows, columns = shown[:cut], shown[cut:]
    metric = data.draw(st.sampled_from(sorted(MEASURED)))
    combination = st.tuples(*(st.sampled_from(SETTINGS[name]) for name in shown))
    values = data.draw(
        st.dictionaries(combination, st.lists(MEASURED[metric], min_size=1, max_size=4), max_size=8, min_size=1)
    )
    with tempfile.TemporaryDirectory() as folder:
        for key, found in values.items():
            for seed, value in enumerate(found):
                write(Path(folder), **dict(zip(shown, key, strict=True)), seed=seed, **{metric: value})
        options = ["--rows", ",".join(rows), "--cols", ",".join(columns), "--metric", metric]
        as_csv = table_of(folder, *options)
        md = read_markdown(aggregate(folder, *options).out)
        assert read_latex(aggregate(folder, *options, "--format", "latex").out) == md
    expected = {tuple(map(word, key)): (*by_hand(found), len(found)) for key, found in values.items()}

    # CSV: every number in full, and the missing cells
    got = {tuple(line[name] for name in shown): line for line in as_csv}
    assert len(got) == len(as_csv) == len({k[:cut] for k in expected}) * len({k[cut:] for k in expected})
    assert {key for key, line in got.items() if line["n"] != "0"} == expected.keys()
    for key, line in got.items():
        mean, std, n = expected.get(key, (None, None, 0))
        assert int(line["n"]) == n
        assert line["mean"] == "" if mean is None else float(line["mean"]) == pytest.approx(mean, rel=1e-12, abs=1e-300)
        assert line["std"] == "" if std is None else float(line["std"]) == pytest.approx(std, rel=1e-9, abs=1e-12)

    # Markdown and LaTeX: the same as shown
    (head, *body), caption = md
    numbers = {n for *_, n in expected.values()}
    keys_of_columns = [tuple(part.partition("=")[2] for part in heading.split(", ")) for heading in head[cut:]]
    assert len({(line[0], *line[1:cut]) for line in body}) == len(body)
    for line in body:
        for column, told in zip(keys_of_columns, line[cut:], strict=True):
            if (key := (*line[:cut], *column)) not in expected:
                assert told == "—"
                assert caption.endswith("; — is missing")
                continue
            mean, std, n = expected[key]
            full = float(got[key]["mean"]), None if std is None else float(got[key]["std"])
            check_digits(metric, *full, told.removesuffix(f" (n={n})"))
            assert told.endswith(f"(n={n})") == (len(numbers) > 1)
    assert all(str(n) in caption or numbers == {1} for n in numbers)


def check_digits(metric: str, mean: float, std: float | None, told: str) -> None:
    """Two decimals of percentages, else two digits of the deviation and at most six of the mean; 4 if it is alone."""
    shown, _, end = told.removeprefix("(").partition(")e")
    parts = [Decimal(part.replace(",", "")).scaleb(int(end or 0)) for part in shown.split(" ± ")]
    assert len(parts) == (2 if std else 1)
    if metric == "test_accuracy":
        assert shown == f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if std else "")
        return
    largest = max(abs(mean), std or 0)
    assert ("e" in told) == (largest > 1e-300 and not 1e-4 <= largest < 1e6)
    if not std:
        digits = max(4, len(str(int(largest)))) if largest < 1e6 else 4
        assert math.isclose(parts[0], mean, rel_tol=0.5 * 10 ** (1 - digits) * (1 + 1e-9), abs_tol=1e-300)
        return
    last = max(Decimal(f"{std:.1e}").as_tuple().exponent, Decimal(f"{largest:.5e}").as_tuple().exponent)
    for part, full in zip(parts, (mean, std), strict=True):
        assert abs(part - Decimal(full)) <= Decimal(10) ** last / 2 * Decimal(1 + 1e-9), "rounded there, not before"
        assert part % Decimal(10) ** last == 0, "no further digit"


@pytest.mark.parametrize(
    ("mean", "std", "shown"),
    [
        (0.3657, 0.02046, "0.366 ± 0.020"),
        (26.38, 0.0, "26.38"),
        (2.721, 3.254, "2.7 ± 3.3"),
        (0.5, 0.0996, "0.50 ± 0.10"),
        (264, None, "264"),
        (24234, 0.0, "24,234"),
        (24234.4, 1187.0, "24,200 ± 1,200"),
        (1.58316e10, 0.0, "1.583e10"),
        (2.91e10, 4.01e8, "(2.910 ± 0.040)e10"),
        (1e-6, None, "1e-6"),
        (3e-5, 4e-6, "(3.00 ± 0.40)e-5"),
        (0.0, 0.0, "0"),
        (-0.001, 0.1, "0.00 ± 0.10"),
        (0.5, 1e-13, "0.500000 ± 0.000000"),
        (math.inf, None, "inf"),
    ],
)
def test_a_deviation_decides_how_many_digits_are_shown(mean: float, std: float | None, shown: str) -> None:
    table = Table([], [], "test_loss", [()], [()], {((), ()): Cell(mean, std, 2)})
    assert entry(table, (), ()) == shown
    assert table.has_alike() == ("without ±: equal in all runs" in caption(table)) == (std == 0)


def test_several_metrics_are_in_one_table_and_shares_in_per_cent(tmp_path: Path) -> None:
    """The share of corrupted examples beside the accuracy; a run on clean data has none."""
    for seed, (accuracy, share) in enumerate([(0.5, 0.4), (0.6, 0.5)]):
        noisy: dict[str, Any] = {"noise": "symmetric", "noise.rate": 0.25, "selected_corrupted": share}
        write(tmp_path, seed=seed, test_accuracy=accuracy, **noisy)
        write(tmp_path, seed=seed, test_accuracy=accuracy + 0.3)
    options = ["--rows", "sampler", "--cols", "noise.rate,budget_unit", "--metric", "test_accuracy,selected_corrupted"]
    done = aggregate(tmp_path, *options)
    assert (done.code, done.err) == (0, "")
    lines, caption = read_markdown(done.out)
    assert lines == [
        [
            "sampler",
            "test_accuracy, noise.rate=0.25, budget_unit=updates",
            "test_accuracy, noise.rate=—, budget_unit=updates",
            "selected_corrupted, noise.rate=0.25, budget_unit=updates",
            "selected_corrupted, noise.rate=—, budget_unit=updates",
        ],
        ["uniform", "55.00 ± 7.07", "85.00 ± 7.07", "45.00 ± 7.07", "—"],
    ]
    statistic = "mean ± standard deviation (ddof=1) of n = 2 runs"
    assert caption == f"test_accuracy, %; selected_corrupted, %: {statistic}; — is missing"
    clean = aggregate(tmp_path, *options, "--where", "noise=none").out
    assert f"test_accuracy, %: {statistic}; selected_corrupted, %: no run has one; — is" in clean
    assert read_latex(aggregate(tmp_path, *options, "--format", "latex").out) == (lines, caption)
    rows = table_of(tmp_path, *options)
    assert [(row["noise.rate"], row["metric"], row["n"]) for row in rows] == [
        ("0.25", "test_accuracy", "2"),
        ("0.25", "selected_corrupted", "2"),
        ("", "test_accuracy", "2"),
        ("", "selected_corrupted", "0"),
    ]
    assert float(rows[1]["mean"]) == pytest.approx(0.45, rel=1e-15)


def test_a_further_metric_that_is_not_finite_or_that_no_run_has_is_reported(tmp_path: Path) -> None:
    write(tmp_path, test_accuracy=0.5, keep_rate=float("nan"))
    done = aggregate(tmp_path, "--metric", "test_accuracy,keep_rate")
    assert "keep_rate is nan" in done.err
    assert read_markdown(done.out)[0][1][2:] == ["50.00", "nan"]
    refused(aggregate(tmp_path, "--metric", "test_accuracy,keep_rat"), "keep_rat;", "did you mean keep_rate?")
    refused(aggregate(tmp_path, "--metric", ","), "--metric names no number")


def test_numbers_are_sorted_as_numbers_and_words_as_words(tmp_path: Path) -> None:
    for budget, sampler in itertools.product([1.0, 0.05, 0.3, 1e-6], ["sb", "is"]):
        write(tmp_path, budget=budget, sampler=sampler)
    lines, _ = read_markdown(aggregate(tmp_path).out)
    assert lines[0][2:] == ["budget=1e-06", "budget=0.05", "budget=0.3", "budget=1"]
    assert [line[0] for line in lines[1:]] == ["is", "sb"]


def test_settings_that_differ_in_the_tenth_digit_are_two_columns(tmp_path: Path) -> None:
    for number, lr in enumerate([0.1234567891, 0.1234567892]):
        write(tmp_path, lr=lr, test_accuracy=number / 2)
    lines, _ = read_markdown(aggregate(tmp_path, "--cols", "lr").out)
    assert lines == [["sampler", "aug", "lr=0.1234567891", "lr=0.1234567892"], ["uniform", "standard", "0.00", "50.00"]]


def test_seeds_too_large_for_a_float_stay_apart(tmp_path: Path) -> None:
    for number, seed in enumerate([2**62, 2**62 + 1]):
        write(tmp_path, seed=seed, test_accuracy=number / 2)
    assert [(row["seed"], row["mean"]) for row in table_of(tmp_path, "--cols", "seed")] == [
        (str(2**62), "0.0"),
        (str(2**62 + 1), "0.5"),
    ]
    assert table_of(tmp_path, "--where", f"seed={2**62 + 1}")[0]["mean"] == "0.5"


def test_a_whole_number_stays_whole_where_some_runs_have_no_such_setting(tmp_path: Path) -> None:
    write(tmp_path, sampler="is", **{"sampler.pool": 3}, test_accuracy=0.75)
    write(tmp_path, sampler="uniform")
    lines, _ = read_markdown(aggregate(tmp_path, "--rows", "sampler.pool,sampler").out)
    assert [line[:2] for line in lines[1:]] == [["3", "is"], ["—", "uniform"]]


def test_settings_are_shown_as_they_are_typed(tmp_path: Path) -> None:
    write(tmp_path, deterministic=True, **{"dataset.mean": [0.5, 1.0]})
    line = table_of(tmp_path, "--rows", "deterministic,full_seconds,dataset.mean")[0]
    assert (line["deterministic"], line["full_seconds"], line["dataset.mean"]) == ("true", "null", "[0.5,1]")
    assert [word(value) for value in (1.0, 1e6, 1e300, 10**20, 1e-6, 0.1 + 0.2, math.nan)] == [
        "1",
        "1000000",
        "1e+300",
        "1" + 20 * "0",
        "1e-06",
        "0.30000000000000004",
        "nan",
    ]


# ---- each run once


def ns(done: Done) -> list[int]:
    """n of every cell of a CSV."""
    assert done.code == 0, done.err
    return [int(line["n"]) for line in csv.DictReader(io.StringIO(done.out))]


def test_a_tree_given_twice_nested_or_linked_counts_once_silently(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path / "outputs" / "more", seed=seed)
    (tmp_path / "link").symlink_to(tmp_path / "outputs")
    (tmp_path / "outputs" / "more" / "circle").symlink_to(tmp_path / "outputs")
    for folders in (["outputs", "outputs"], ["outputs", "outputs/more"], ["outputs/more", "."], ["link", "outputs"]):
        done = aggregate(*folders, "--format", "csv", cwd=tmp_path)
        assert ns(done) == [2]
        assert done.err == ""


def test_a_run_that_is_linked_into_the_folder_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "scratch")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / path.name).symlink_to(path)
    assert ns(aggregate(tmp_path / "outputs", "--format", "csv")) == [1]


def test_a_copy_of_a_run_counts_once_and_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "first", test_accuracy=0.25)
    copy = shutil.copytree(path, tmp_path / "a" / "second" / "copy")
    shutil.copytree(path, tmp_path / "b" / "copy")
    done = aggregate(tmp_path / "a", tmp_path / "b", "--format", "csv")
    assert ns(done) == [1]
    assert done.err == (
        f"skipped {copy / 'result.json'}: it is the same run as {path / 'result.json'}\n"
        f"skipped 1 of the runs in {tmp_path / 'b'}, which {tmp_path / 'a'} has too\n"
    )


def test_results_set_aside_by_forced_and_repaired_runs_do_not_count(tmp_path: Path) -> None:
    path = write(tmp_path, test_accuracy=0.75)
    for name in ("result.json.previous", "result.json.previous1", "result.json.corrupt", ".result.json.partial"):
        (path / name).write_text(json.dumps(result(test_accuracy=0.0, seed=7)))
    assert [(row["mean"], row["n"]) for row in table_of(tmp_path)] == [("0.75", "1")]


# ---- what is missing, and what is skipped


@pytest.mark.parametrize("form", ["md", "latex"])
def test_a_cell_without_runs_is_shown_as_missing(form: str, tmp_path: Path) -> None:
    write(tmp_path, sampler="is", budget=0.2)
    write(tmp_path, sampler="sb", budget=0.5)
    lines, caption = {"md": read_markdown, "latex": read_latex}[form](aggregate(tmp_path, "--format", form).out)
    assert [line[2:] for line in lines[1:]] == [["50.00", "—"], ["—", "50.00"]]
    assert caption.endswith("; — is missing")


def test_a_row_whose_runs_all_lack_the_metric_stays_as_missing_and_they_are_named(tmp_path: Path) -> None:
    write(tmp_path, sampler="is", val_accuracy=0.5)
    lacking = write(tmp_path, sampler="sb")
    null = write(tmp_path, sampler="scan", val_accuracy=None)
    done = aggregate(tmp_path, "--metric", "val_accuracy")
    lines, _ = read_markdown(done.out)
    assert [(line[0], line[2]) for line in lines[1:]] == [("is", "50.00"), ("sb", "—"), ("scan", "—")]
    assert sorted(done.err.splitlines()) == sorted(
        f"skipped {path / 'result.json'}: it has no val_accuracy" for path in (lacking, null)
    )


def test_an_unfinished_run_is_skipped_and_named_and_other_folders_are_not(tmp_path: Path) -> None:
    write(tmp_path, seed=0)
    path = write(tmp_path, seed=1)
    (path / "result.json").rename(path / "result.json.corrupt")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("budget: 1.0")
    done = aggregate(tmp_path, "--format", "csv")
    assert ns(done) == [1]
    assert done.err == f"skipped {path}: it is not finished\n"


def without(key: str) -> str:
    return json.dumps({k: v for k, v in result().items() if k != key})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b'{"status": "fin', "Unterminated"),
        (b"\xff\xfe\x00", "codec"),
        (b"null", "not the result of a finished run"),
        (b"[1, 2]", "not the result of a finished run"),
        (b'{"accuracy": 0.9}', "not the result of a finished run"),
        (json.dumps({**result(), "status": "running"}).encode(), "not the result of a finished run"),
        (without("flops").encode(), "it has no flops"),
        (without("names").encode(), "it has no names"),
        (json.dumps({**result(), "config": [1]}).encode(), "config"),
    ],
)
def test_an_invalid_result_is_skipped_with_its_reason(content: bytes, why: str, tmp_path: Path) -> None:
    write(tmp_path, seed=0)
    path = write(tmp_path, seed=1) / "result.json"
    path.write_bytes(content)
    done = aggregate(tmp_path, "--format", "csv")
    assert ns(done) == [1]
    (line,) = done.err.splitlines()
    assert line.startswith(f"skipped {path}: ")
    assert why in line


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Act as a user without rights to others' files if root runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_cannot_be_read_is_skipped_with_its_reason(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    write(outputs, seed=0)
    file = write(outputs, seed=1) / "result.json"
    folder = write(outputs, seed=2)
    file.chmod(0)
    folder.chmod(0)
    tmp_path.chmod(0o755)
    with contextlib.chdir(tmp_path), nobody():
        done = aggregate("outputs", "--format", "csv")
    folder.chmod(0o755)
    assert ns(done) == [1]
    assert sorted(done.err.splitlines()) == sorted(
        [
            f"skipped {file.relative_to(tmp_path)}: it cannot be read (Permission denied)",
            f"skipped {folder.relative_to(tmp_path)}: it cannot be read (Permission denied)",
        ]
    )


def test_a_link_to_nowhere_is_skipped_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path, seed=0)
    path = write(tmp_path, seed=1) / "result.json"
    path.unlink()
    path.symlink_to("nowhere")
    done = aggregate(tmp_path, "--format", "csv")
    assert ns(done) == [1]
    assert done.err == f"skipped {path}: it cannot be read (No such file or directory)\n"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_shown_as_it_is_and_its_run_is_named(value: float, tmp_path: Path) -> None:
    write(tmp_path, seed=0, test_loss=1.0)
    path = write(tmp_path, seed=1, test_loss=value)
    write(tmp_path, sampler="sb", test_loss=2.0)
    done = aggregate(tmp_path, "--metric", "test_loss")
    lines, _ = read_markdown(done.out)
    assert [line[2] for line in lines[1:]] == ["2 (n=1)", f"{value} (n=2)"]
    assert done.err == f"note: test_loss is {value} in {path / 'result.json'}, and so is the mean of its cell\n"


def test_infinities_of_both_signs_have_no_mean(tmp_path: Path) -> None:
    for seed, value in enumerate([math.inf, -math.inf]):
        write(tmp_path, seed=seed, test_loss=value)
    assert read_markdown(aggregate(tmp_path, "--metric", "test_loss").out)[0][1][2] == "nan"


@pytest.mark.parametrize(("metric", "shown"), [("commit", "c0ffee"), ("dirty", "false"), ("sampler", "uniform")])
def test_a_metric_that_is_not_a_number_is_refused(metric: str, shown: str, tmp_path: Path) -> None:
    write(tmp_path)
    refused(aggregate(tmp_path, "--metric", metric), f"{metric} is not a number but {shown}")


def test_an_empty_folder_gives_one_sentence_that_names_it(tmp_path: Path) -> None:
    sentence = refused(aggregate(tmp_path))
    assert sentence == f"aggregate: there is no finished run in {tmp_path}"
    refused(aggregate(tmp_path / "nowhere"), "nowhere", "not a folder")
    refused(aggregate(cwd=tmp_path), "outputs is not a folder")


# ---- choosing


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    for sampler, noise, budget in itertools.product(["is", "sb"], ["none", "symmetric"], [0.3, 0.5]):
        write(tmp_path, sampler=sampler, noise=noise, budget=budget, test_accuracy=budget, epochs=1e6)
    write(tmp_path, sampler="mine", deterministic=True, batch_size=128, **{"sampler.pool": 3, "dataset.mean": [0.1, 2]})
    return tmp_path


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("", 9),
        ("budget=0.3", 5),
        ("budget=.30", 5),
        ("budget=3e-1", 5),
        ("sampler=is", 4),
        ("sampler=is,noise=none", 2),
        (" sampler=is , noise=none,", 2),
        ("sampler=is,noise=none,budget=0.5", 1),
        ("deterministic=true", 1),
        ("deterministic=false", 8),
        ("full_seconds=null", 9),
        ("sampler.pool=3", 1),
        ("sampler.pool=3.0", 1),
        ("batch_size=128", 1),
        ("dataset.mean=[0.1,2]", 1),
        ("dataset.mean=[0.10, 2.0],sampler=mine", 1),
        ("epochs=1000000", 8),
        ("epochs=1e6", 8),
        ("seed=0", 9),
        ("test_accuracy=0.3", 4),
    ],
)
def test_where_keeps_exactly_the_runs_with_these_settings(where: str, count: int, grid: Path) -> None:
    cells = table_of(grid, "--where", where, "--rows", "sampler,noise,deterministic,batch_size,epochs,dataset.mean")
    assert sum(int(cell["n"]) for cell in cells) == count


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("sampler=foo", ["sampler is is, mine, sb, not foo"]),
        ("sampler=is,budget=0.4", ["budget is 0.3, 0.5, not 0.4"]),
        ("sampler=is,sampler.pool=3", ["sampler.pool is not set, not 3"]),
        ("seed=0,seed=1", ["seed is 0, not 1"]),
        ("samler=is", ["no run has samler; did you mean sampler?"]),
        ("pool=3", ["no run has pool; did you mean sampler.pool?"]),
        ("sampler", ["--where sampler", "setting=value"]),
    ],
)
def test_a_condition_that_nothing_meets_is_refused_with_the_values_there_are(
    where: str, words: list[str], grid: Path
) -> None:
    refused(aggregate(grid, "--where", where), *words)


@pytest.mark.parametrize(
    ("option", "typed", "nearest"),
    [
        ("--rows", "smapler", "sampler"),
        ("--rows", "sampler,ugh", "aug"),
        ("--cols", "bugdet", "budget"),
        ("--cols", "batchsize", "batch_size"),
        ("--metric", "test_acuracy", "test_accuracy"),
        ("--metric", "loss", "test_loss"),
        ("--metric", "acc", "test_accuracy"),
        ("--rows", "padding", "aug.crop.padding"),
    ],
)
def test_a_name_that_no_run_has_is_refused_with_the_nearest(
    option: str, typed: str, nearest: str, tmp_path: Path
) -> None:
    write(tmp_path)
    refused(aggregate(tmp_path, option, typed), typed.split(",")[-1], f"did you mean {nearest}?")


def test_a_name_without_a_close_match_is_refused_with_all_names(tmp_path: Path) -> None:
    write(tmp_path)
    refused(aggregate(tmp_path, "--rows", "xyzzy"), "xyzzy", "runs have ", "sampler", "aug.crop.padding", "seconds")


@pytest.mark.parametrize("option", ["--rows", "--cols"])
def test_no_rows_or_no_columns_are_refused(option: str, tmp_path: Path) -> None:
    write(tmp_path)
    refused(aggregate(tmp_path, option, " ,"), f"{option} names no setting")


def test_a_setting_may_be_row_and_column_and_the_metric_a_row(tmp_path: Path) -> None:
    for budget in (0.3, 0.5):
        write(tmp_path, budget=budget, test_accuracy=budget)
    lines, _ = read_markdown(aggregate(tmp_path, "--rows", "budget,test_accuracy", "--cols", "budget").out)
    assert lines[1:] == [["0.3", "0.3", "30.00", "—"], ["0.5", "0.5", "—", "50.00"]]


# ---- what is averaged over unseen


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("epochs", [10.0, 40.0]),
        ("sampler.pool", [3, 5]),
        ("sampler._target_", ["mine.A", "mine.B"]),
        ("budget_unit", ["flops", "updates"]),
        ("noise", ["none", "symmetric"]),
        ("full_seconds", [7.5, None]),
        ("aug.flip", [None, True]),
        ("commit", ["c0ffee", "decaf"]),
        ("dataset_fingerprint", ["abc", "abd"]),
        ("device", ["cpu (x86_64)", "cuda (NVIDIA H100)"]),
        ("dirty", [False, True]),
    ],
)
def test_runs_of_one_cell_that_differ_in_more_than_the_seed_are_reported(
    key: str, values: list[Any], tmp_path: Path
) -> None:
    for seed, value in enumerate(values):
        write(tmp_path, seed=seed, **{key: value})
    done = aggregate(tmp_path, "--format", "csv")
    assert ns(done) == [2]
    (line,) = done.err.splitlines()
    assert line.startswith(f"note: cells average over {key} ({word(values[0])}, {word(values[1])})")
    assert aggregate(tmp_path, "--cols", key).err == ""
    if key in result()["config"] or key == "noise":
        assert aggregate(tmp_path, "--where", f"{key}={word(values[0])}").err == ""


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"lr": 0.1}, {"sampler": "is", "lr": 0.05}, "note: cells differ in lr too (0.05, 0.1); add it to"),
        ({"aug.flip": True}, {"sampler": "is", "aug": "mixup", "aug.alpha": 1.0}, "note: cells differ in aug too"),
        ({"epochs": 10.0}, {"sampler": "sb", "epochs": 40.0}, "note: cells differ in epochs too (10, 40); add it to"),
        ({}, {"sampler": "is", "sampler.pool": 5}, ""),
        ({}, {"sampler": "subset", "select": "top"}, ""),
        ({"dataset": "digits", "epochs": 10.0}, {"dataset": "cifar10", "epochs": 90.0}, ""),
        ({"lr": 0.1, "tune.key": "lr"}, {"sampler": "is", "lr": 0.05, "tune.key": "lr"}, ""),
    ],
)
def test_what_tells_cells_apart_besides_what_a_table_shows_is_reported(
    one: dict[str, Any], other: dict[str, Any], said: str, tmp_path: Path
) -> None:
    for seed, values in itertools.product((0, 1), (one, other)):
        write(tmp_path, seed=seed, **values)
    by_rows = aggregate(tmp_path, "--rows", "sampler,dataset").err
    assert by_rows.startswith(said)
    assert len(by_rows.splitlines()) == bool(said)
    if said:
        name = said.split()[4]
        assert aggregate(tmp_path, "--rows", f"sampler,{name}").err == ""
        compared = aggregate(tmp_path, "--rows", "sampler,dataset", "--baseline", "sampler=uniform").err
        assert f"cells differ in {name} too" in compared
        assert f"differs in {name}" in compared


def test_a_setting_that_one_of_the_runs_does_not_have_is_reported(tmp_path: Path) -> None:
    write(tmp_path, seed=0, **{"aug.flip": True})
    write(tmp_path, seed=1)
    assert "average over aug.flip (, true)" in aggregate(tmp_path).err


def test_files_of_each_seed_make_one_row_by_the_method_that_made_them(tmp_path: Path) -> None:
    for method, seed in itertools.product(("el2n", "random"), (0, 1)):
        file = f"files/{method}/*-s{seed}-*/scores.csv"
        write(tmp_path, sampler="subset", select="top", seed=seed, scored_by=method, **{"sampler.file": file})
    write(tmp_path, seed=0)
    write(tmp_path, seed=1)
    done = aggregate(tmp_path, "--rows", "sampler.scored_by", "--baseline", "sampler=uniform")
    assert done.err == ""
    assert "| el2n              | 50.00      |" in done.out
    assert "| random            | 50.00      |" in done.out
    assert done.out.count("| +0.00      | —            | 2 |") == 2, "each has its partners"
    of_subsets = "sampler=subset,sampler.scored_by=random"
    done_so = aggregate(tmp_path, "--rows", "sampler.scored_by", "--baseline", of_subsets)
    assert "| el2n              | 0.3    | +0.00 " in done_so.out
    by_file = aggregate(tmp_path, "--rows", "sampler.file", "--where", "sampler=subset").out
    assert by_file.count("| 50.00 ") == by_file.count("scores.csv") == by_file.count("/*-s*-*/") == 2
    published = tmp_path / "runs.csv"
    published.write_text(aggregate(tmp_path, "--format", "runs").out)
    assert published.read_text().count("files/el2n/*-s1-*/scores.csv") == 1
    again = aggregate(published, "--rows", "sampler.scored_by", "--baseline", "sampler=uniform")
    assert again.out == done.out
    # but two files for one seed are two things
    later = {"sampler.file": "files/later/*-s0-*/scores.csv"}
    write(tmp_path, sampler="subset", select="top", seed=0, scored_by="el2n", **later)
    done = aggregate(tmp_path, "--rows", "sampler.scored_by")
    assert "average over sampler.file (files/el2n/*-s*-*/scores.csv, files/later/*-s*-*/scores.csv)" in done.err


def test_an_option_that_is_averaged_over_is_reported_without_all_its_values(tmp_path: Path) -> None:
    write(tmp_path, sampler="is", **{"sampler.pool": 3, "sampler._target_": "a.IS"})
    write(tmp_path, sampler="sb", **{"sampler.beta": 1, "sampler._target_": "a.SB"})
    write(
        tmp_path,
        sampler="is",
        dataset="svhn",
        dataset_fingerprint="other",
        **{"sampler.pool": 3, "sampler._target_": "a.IS"},
    )
    notes = aggregate(tmp_path, "--rows", "aug").err.splitlines()
    assert [re.search(r"over (\S+) ", note)[1] for note in notes] == ["dataset", "sampler"]


def test_seeds_and_places_are_averaged_over_silently(tmp_path: Path) -> None:
    for seed in range(3):
        places = {"data_dir": f"d{seed}", "output_dir": f"o{seed}", "checkpoint_every": seed, "force": seed > 0}
        write(tmp_path, seed=seed, **places, **{"dataset.system": f"/{seed}"})
    assert table_of(tmp_path)[0]["n"] == "3"


def test_everything_that_is_not_part_of_a_run_s_identity_may_differ_or_is_reported() -> None:
    assert {*REPEATS, *CIRCUMSTANCES} >= set(ELSEWHERE)
    assert set(REPEATS) - set(ELSEWHERE) == {"seed", "dataset.system"}


def test_runs_that_lack_the_metric_do_not_count_as_averaged(tmp_path: Path) -> None:
    write(tmp_path, seed=0, epochs=1.0, val_accuracy=0.5)
    write(tmp_path, seed=1, epochs=2.0)
    assert "average" not in aggregate(tmp_path, "--metric", "val_accuracy").err


# ---- forms


AWKWARD = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=8).map(str.strip)


@settings(deadline=None, max_examples=200)
@given(words=st.lists(AWKWARD.filter(lambda w: w and "\\" not in w and "---" not in w), min_size=1, max_size=3))
def test_any_words_come_back_from_markdown_and_latex(words: list[str]) -> None:
    table = tabulate([{"x_y": w, "z": "[*] %", "m": 1.0} for w in words], ["x_y", "z"], ["z"], "m")
    expected = [[w, "[*] %", "1"] for (w, _) in table.row_keys]
    assert {w for (w, _) in table.row_keys} == set(words)
    for lines, _ in (read_latex(latex(laid_out(table))), read_markdown(markdown(laid_out(table)))):
        if len(words) == len(set(words)):
            assert lines == [["x_y", "z", "z=[*] %"], *expected]


def test_a_backslash_is_set_by_latex_as_one() -> None:
    table = tabulate([{"a": "\\alpha{", "m": 1.0}], ["a"], ["a"], "m")
    assert read_latex(latex(laid_out(table)))[0][1] == ["\\alpha{", "1"]


def test_latex_compiles(tmp_path: Path) -> None:
    if (compiler := shutil.which("pdflatex")) is None:
        pytest.skip("there is no LaTeX on this machine; the structure is checked by the other tests")
    for number, name in enumerate(["[0.3]", "*", "a_b%&#$", "{~^}<|>\\"]):
        write(tmp_path, sampler=name, budget=0.1 * number)
    body = aggregate(tmp_path, "--format", "latex").out
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "table.tex").write_text(document)
    command = [compiler, "-halt-on-error", "-interaction=nonstopmode", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


# ---- pictures


def drawn(table: Table) -> dict[str, tuple[list[float], list[float], list[tuple[float, float] | None]]]:
    """For every line of a picture: x, y, and the ends of its error bars."""
    (axes,) = figure(table).axes
    found = {}
    for container in axes.containers:
        line, _, (bars,) = container.lines
        ends = [(s[0][1], s[1][1]) if len(s) and not math.isnan(s[0][1]) else None for s in bars.get_segments()]
        found[container.get_label()] = ([*map(float, line.get_xdata())], [*map(float, line.get_ydata())], ends)
    assert list(found) == [text.get_text() for text in axes.get_legend().get_texts()]
    return found


def runs(*values: tuple[str, str, float, list[float]]) -> list[dict[str, Any]]:
    return [
        {"sampler": sampler, "aug": aug, "budget": budget, "test_accuracy": accuracy, "test_loss": accuracy}
        for sampler, aug, budget, accuracies in values
        for accuracy in accuracies
    ]


def test_the_points_and_bars_of_a_picture_are_the_cells_of_the_table() -> None:
    table = tabulate(
        runs(
            ("is", "none", 0.1, [0.5, 0.6, 0.7]),
            ("is", "none", 0.5, [0.8, 0.9]),
            ("is", "none", 1.0, [0.9]),
            ("is", "mixup", 0.5, [0.25, 0.75]),
            ("sb", "none", 1.0, [0.1, 0.2]),
            ("sb", "none", 0.1, [0.0, 0.0]),
        ),
        ["sampler", "aug"],
        ["budget"],
        "test_accuracy",
    )
    lines = drawn(table)
    assert set(lines) == {"is, none", "is, mixup", "sb, none"}
    for label, (x, y, bars) in lines.items():
        row = tuple(label.split(", "))
        cells = [table.cells.get((row, (budget,))) for budget in ("0.1", "0.5", "1")]
        assert x == pytest.approx([0.1, 0.5, 1.0], abs=0.04 * 0.9 / 2 + 1e-9)
        assert y == pytest.approx([c.mean * 100 if c else math.nan for c in cells], nan_ok=True)
        expected = [(c.mean - c.std, c.mean + c.std) if c and c.std is not None else None for c in cells]
        for bar, ends in zip(bars, expected, strict=True):
            assert (bar is None) == (ends is None)
            assert bar is None or bar == pytest.approx((ends[0] * 100, ends[1] * 100))
    assert math.isnan(lines["sb, none"][1][1]), "the line goes through a missing cell"
    assert len({x[0] for x, _, _ in lines.values()}) == 3, "error bars hide each other"


def test_a_loss_is_drawn_unscaled_and_what_is_not_finite_not_at_all() -> None:
    table = tabulate(
        runs(("is", "none", 0.1, [0.5, 1.5]), ("is", "none", 0.5, [math.inf])), ["sampler"], ["budget"], "test_loss"
    )
    ((_, y, _),) = drawn(table).values()
    assert y == pytest.approx([1.0, math.nan], nan_ok=True)
    assert figure(table).axes[0].get_ylabel() == "test loss"


def test_further_columns_are_lines_of_their_own() -> None:
    values = [{"s": "is", "budget": b, "noise": n, "m": b + len(n)} for b in (0.1, 0.2) for n in ("none", "symmetric")]
    lines = drawn(tabulate(values, ["s"], ["budget", "noise"], "m"))
    assert {label: y for label, (_, y, _) in lines.items()} == {
        "is, none": pytest.approx([4.1, 4.2]),
        "is, symmetric": pytest.approx([9.1, 9.2]),
    }


def test_twelve_methods_with_six_augmentations_all_look_different() -> None:
    names = itertools.product((f"s{i}" for i in range(12)), (f"a{i}" for i in range(6)))
    table = tabulate(runs(*((s, a, 0.1, [0.5]) for s, a in names)), ["sampler", "aug"], ["budget"], "test_accuracy")
    lines = [container.lines[0] for container in figure(table).axes[0].containers]
    looks = {(line.get_color(), line.get_marker(), str(line._dash_pattern)) for line in lines}
    assert len(looks) == len(lines) == 72
    assert math.lcm(len(COLOURS), len(MARKERS)) == 56
    assert len(DASHES) == 7


@pytest.mark.parametrize("ending", ["svg", "png", "pdf", "SVG"])
def test_a_picture_is_written_beside_the_table_and_twice_the_same(ending: str, tmp_path: Path) -> None:
    for budget, seed in itertools.product([0.3, 0.5], range(2)):
        write(tmp_path / "runs", budget=budget, seed=seed)
    plain = aggregate(tmp_path / "runs")
    contents = []
    for name in ("one", "two"):
        done = aggregate(tmp_path / "runs", "--plot", tmp_path / f"{name}.{ending}")
        assert (done.code, done.err, done.out) == (0, "", plain.out)
        contents.append((tmp_path / f"{name}.{ending}").read_bytes())
    assert contents[0] == contents[1]
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending.lower()]
    end = {"svg": b"</svg>", "png": b"IEND\xaeB`\x82", "pdf": b"%%EOF"}[ending.lower()]
    assert contents[0].startswith(start)
    assert contents[0].rstrip().endswith(end)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"one.{ending}", "runs", f"two.{ending}"]


def test_a_plot_has_room_for_words_of_hundreds_of_characters(tmp_path: Path) -> None:
    for budget, sampler in itertools.product((0.2, 0.5), ("is", "w" * 700, "two words " * 60)):
        write(tmp_path / "runs", budget=budget, sampler=sampler, run_id=f"{sampler[:3]}-{budget}")
    done = aggregate(tmp_path / "runs", "--plot", tmp_path / "x.svg")  # a warning of matplotlib is an error here
    assert done.code == 0, done.err
    assert (tmp_path / "x.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("plot", "words"),
    [
        ("x.xyz", ["x.xyz", ".svg, .png or .pdf"]),
        ("x", ["x does not end"]),
        ("", [".svg, .png or .pdf"]),
        ("nowhere/x.svg", ["nowhere/x.svg cannot be written"]),
        ("folder.svg", ["folder.svg cannot be written"]),
        ("runs/x.svg --cols sampler", ["sampler is not a number", "--cols budget"]),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_and_nothing_is_written(
    plot: str, words: list[str], tmp_path: Path
) -> None:
    write(tmp_path / "runs")
    (tmp_path / "folder.svg").mkdir()
    before = sorted(tmp_path.rglob("*"))
    path, *options = plot.split(" ")
    refused(aggregate("runs", "--plot", path, *options, cwd=tmp_path), *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_picture_that_fails_half_way_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "runs")
    (tmp_path / "x.svg").write_text("earlier")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(aggregate("runs", "--plot", "x.svg", cwd=tmp_path), "x.svg cannot be written", "No space left")
    assert (tmp_path / "x.svg").read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "x.svg"]


# ---- real runs, as processes


def test_a_table_of_real_runs_forced_and_interrupted_ones_included(tmp_path: Path) -> None:
    done = here("-m epochs=1 budget=0.5 seed=0,1", tmp_path)
    assert done.code == 0, done.err
    assert here("epochs=1 budget=0.5 seed=1 force=true", tmp_path).code == 0
    assert here("epochs=1 budget=0.3 seed=0", tmp_path).code == 0
    (unfinished,) = (p for p in (tmp_path / "outputs").glob("*-b0.3-*"))
    (unfinished / "result.json").unlink()
    results = [json.loads(p.read_text()) for p in tmp_path.glob("outputs/*/result.json")]
    assert len(results) == 2
    assert {r["n_training"] for r in results} == {TRAINING}
    mean, std = by_hand([r["test_accuracy"] for r in results])
    command = [sys.executable, "-X", "importtime", str(PROBE)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    lines, caption = read_markdown(ran.stdout)
    assert lines == [["sampler", "aug", "budget=0.5"], ["uniform", "standard", f"{100 * mean:.2f} ± {100 * std:.2f}"]]
    assert caption == "test_accuracy, %: mean ± standard deviation (ddof=1) of n = 2 runs"
    said = [line for line in ran.stderr.splitlines() if not line.startswith("import time:")]
    assert said == [f"skipped {unfinished.relative_to(tmp_path)}: it is not finished"]
    imported = set(re.findall(r"\|\s+([\w.]+)$", ran.stderr, flags=re.M))
    assert "budgetrun.aggregate" in imported
    assert not imported & {"torch", "torchvision", "numpy", "pandas", "matplotlib", "hydra", "sklearn"}, "it is slow"


def test_it_works_as_a_module_and_fails_with_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "budgetrun.aggregate", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    refused(Done(done.returncode, done.stdout, done.stderr, tmp_path), "nowhere")


def test_a_reader_of_only_the_head_gets_no_traceback(tmp_path: Path) -> None:
    for seed in range(300):  # more than a pipe holds
        write(tmp_path, seed=seed)
    command = f"{sys.executable} -m budgetrun.aggregate {tmp_path} --format runs | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("dataset._target_,")


def test_the_format_runs_has_one_line_per_run_with_settings_and_numbers(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.5, 0.625)):
        write(tmp_path, seed=seed, test_accuracy=accuracy)
    done = aggregate(tmp_path, "--format", "runs")
    lines = list(csv.DictReader(io.StringIO(done.out)))
    found = {(line["seed"], float(line["test_accuracy"]), line["dataset.mean"]) for line in lines}
    assert found == {("0", 0.5, "[0.305]"), ("1", 0.625, "[0.305]")}
