"""Runs as they are read: a CSV of runs is as good as their folders, and a cache is never older than a result."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import aggregate, refused, result, table_of, write

from budgetrun.errors import UserError
from budgetrun.folder.run import read_result
from budgetrun.tables import cache
from budgetrun.tables.cache import NAME, Cache
from budgetrun.tables.runs import curve, frame, read, select, value_of, varying
from budgetrun.tables.table import word

# ---- a CSV of runs


def write_sweep(folder: Path) -> None:
    for sampler, budget, seed in itertools.product(["is", "uniform"], [0.3, 1.0], range(3)):
        lines = [
            {
                "test_accuracy": (at + seed) / 20,
                "val_accuracy": at / 10,
                "updates": at,
                "flops": at,
                "examples_backward": 64 * at,
                "seconds": at / 7,
            }
            for at in (3, 5, 8)
        ]
        own = {"sampler.pool": 3, "sampler.threshold": None, "sampler.weights": True} if sampler == "is" else {}
        write(
            folder,
            lines,
            sampler=sampler,
            budget=budget,
            seed=seed,
            test_accuracy=(8 + seed) / 20 + len(own) / 9,
            n_training=64,
            keep_rate=math.nan if seed == 2 else 0.5,
            **own,
        )


def as_csv(folder: Path, path: Path) -> Path:
    done = aggregate(folder, "--format", "runs")
    assert done.code == 0, done.err
    path.write_text(done.out)
    return path


def test_in_a_notebook_each_run_is_one_row(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    rows = frame([tmp_path])
    assert len(rows) == 12
    means = rows[rows.sampler == "uniform"].groupby("budget").test_accuracy.mean()
    assert means.to_dict() == pytest.approx({0.3: 0.45, 1.0: 0.45})
    assert set(rows["sampler.pool"].dropna()) == {3}


COMMANDS = [
    [],
    ["--baseline", "sampler=uniform"],
    ["--metric", "test_accuracy_at_best_validation,epochs_to_generalise"],
    ["--rows", "sampler,sampler.pool,sampler.weights,sampler.threshold", "--cols", "budget,dataset.mean"],
    ["--metric", "speedup_seconds", "--baseline", "sampler=uniform"],
    ["--where", "sampler.weights=true"],
    ["--metric", "keep_rate"],
    ["--metric", "flops,test_loss", "--cols", "seed"],
    ["--rows", "aug"],
]


@pytest.mark.parametrize("form", ["md", "csv", "runs"])
def test_a_csv_of_runs_gives_every_table_that_their_folders_give(form: str, tmp_path: Path) -> None:
    write_sweep(tmp_path / "outputs")
    path = as_csv(tmp_path / "outputs", tmp_path / "runs.csv")
    for command in COMMANDS:
        from_folders = aggregate(tmp_path / "outputs", *command, "--format", form)
        from_csv = aggregate(path, *command, "--format", form)
        assert from_folders.code == 0, from_folders.err
        assert (from_csv.out, from_csv.err) == (from_folders.out, from_folders.err), command


def test_its_columns_are_settings_then_run_id_then_what_was_measured(tmp_path: Path) -> None:
    write_sweep(tmp_path / "outputs")
    names = next(csv.reader(as_csv(tmp_path / "outputs", tmp_path / "runs.csv").open()))
    before = names[: names.index("run_id")]
    assert {"sampler", "sampler.pool", "budget", "seed", "epochs"} <= set(before)
    assert not {"test_accuracy", "flops", "commit", "path", "curve.updates"} & set(before)


def test_a_run_that_is_in_a_folder_and_in_a_csv_counts_once(tmp_path: Path) -> None:
    write_sweep(tmp_path / "outputs")
    path = as_csv(tmp_path / "outputs", tmp_path / "runs.csv")
    done = aggregate(tmp_path / "outputs", path, "--format", "csv")
    assert {line["n"] for line in csv.DictReader(io.StringIO(done.out))} == {"3"}
    assert done.err == f"skipped 12 of the runs in {path}, which {tmp_path / 'outputs'} has too\n"


def test_evaluations_are_those_in_the_csv_and_not_those_in_the_run_s_former_folder(tmp_path: Path) -> None:
    write_sweep(tmp_path / "outputs")
    path = as_csv(tmp_path / "outputs", tmp_path / "runs.csv")
    lines = list(csv.DictReader(path.open()))
    without = tmp_path / "without.csv"
    with without.open("w", newline="") as file:
        writer = csv.DictWriter(file, [n for n in lines[0] if not n.startswith("curve.")], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    refused(aggregate(without, "--metric", "test_accuracy_best_on_test"), "its evaluations have no test_accuracy")
    assert aggregate(without).out == aggregate(path).out


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=8),
    st.from_regex(r"\A[0-9]{1,4}e[0-9]{1,4}\Z"),
)


@given(value=VALUES)
def test_a_value_is_read_as_one_of_the_same_word_and_a_number_as_a_number(value: Any) -> None:
    read_back = value_of(word(value))
    if isinstance(value, int | float):
        assert read_back == value
    elif value is None:
        assert read_back is None
    else:
        assert word(read_back) == value or (isinstance(read_back, float | list) and set(value) & set(".["))


def test_a_commit_of_digits_and_an_e_stays_a_commit() -> None:
    assert value_of("123e4567") == "123e4567"
    assert value_of("0012") == "0012"
    assert math.isnan(value_of("nan"))
    assert value_of("[0.5,null]") == [0.5, None]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is not a CSV of --format runs: it has no column run_id"]),
        ("a,b\n1,2\n", ["is not a CSV of --format runs"]),
        ("sampler,aug,budget,mean,std,n\nis,none,0.3,0.5,,1\n", ["it has no column run_id"]),
        ("HEAD\nshort,1\n", ["line 2", "it has 2 values for"]),
        ("HEAD\nrun,high,1,1,1,1,1,path\n", ["line 2: test_accuracy is not a number but high"]),
        ("HEAD\nrun,,1,1,1,1,1,path\n", ["line 2: test_accuracy is not a number but missing"]),
        ("HEAD\n", ["there is no finished run in"]),
        (b"\xff\xfe,\x00", ["cannot be read"]),
    ],
)
def test_a_csv_that_is_not_one_of_runs_is_refused_in_one_sentence(
    content: Any, words: list[str], tmp_path: Path
) -> None:
    head = "run_id,test_accuracy,updates,examples_forward,examples_backward,flops,seconds,path"
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.replace("HEAD", head).encode())
    refused(aggregate(path), str(path), *words)


def test_a_csv_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(aggregate(tmp_path / "no.csv"), "no.csv", "No such file")
    refused(aggregate(tmp_path / "no.txt"), "no.txt", "not a folder")


def test_evaluations_are_lists_in_order_and_a_gap_is_none(tmp_path: Path) -> None:
    path = write(tmp_path, [{"updates": 1, "test_accuracy": 0.1}, {"updates": 2}])
    assert curve({"path": str(path / "result.json")}) == {"updates": [1, 2], "test_accuracy": [0.1, None]}
    assert curve({"path": str(tmp_path / "nowhere" / "result.json")}) == {}


def test_runs_are_chosen_by_any_of_their_tags_and_keep_them_in_a_csv(tmp_path: Path) -> None:
    for seed, tags in enumerate([["a", "table 2"], ["2024"], None]):  # the last one is from before there were tags
        path = write(tmp_path, seed=seed) / "result.json"
        made = json.loads(path.read_text())
        made["config"] |= {} if tags is None else {"tags": tags}
        path.write_text(json.dumps(made))
    table = tmp_path / "runs.csv"
    table.write_text(aggregate(tmp_path, "--format", "runs").out)
    for place in (tmp_path, table):
        runs = read([place]).runs
        assert sorted(run["tags"] for run in runs) == [[], ["2024"], ["a", "table 2"]]
        chosen = {typed: [run["seed"] for run in select(runs, typed)] for typed in ("tags=table 2", "tags=2024")}
        assert chosen == {"tags=table 2": [0], "tags=2024": [1]}
        assert [run["seed"] for run in select(runs, "tags=a,tags=table 2")] == [0]
        with pytest.raises(UserError, match=r"leaves no run: tags is \[2024\], \[\], \[a,table 2\], not b"):
            select(runs, "tags=b")


def test_settings_vary_where_their_words_do() -> None:
    runs = [{"a": 3, "b": True, "c": [1], "d": 0.5}, {"a": 3.0, "b": 1, "c": [1], "d": 0.5, "e": None}]
    assert varying(runs, "abcdef") == ["b", "e"]


# ---- the cache


@pytest.fixture
def worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache for three runs, as otherwise for hundreds."""
    monkeypatch.setattr(cache, "WORTH", 3)


def opened(folder: Path) -> int:
    """How many results one reading opens."""
    with mock.patch("budgetrun.tables.runs.read_result", wraps=read_result) as reading:
        read([folder])
    return int(reading.call_count)


def write_three(folder: Path) -> list[Path]:
    return [write(folder, seed=seed, test_accuracy=seed / 4, versions={"budgetrun": "0.1.0"}) for seed in range(3)]


def test_a_second_reading_opens_nothing_and_finds_the_same(worth: None, tmp_path: Path) -> None:
    write_three(tmp_path)
    first = read([tmp_path])
    assert (tmp_path / NAME).is_file()
    assert opened(tmp_path) == 0
    second = read([tmp_path])
    assert (second.runs, second.settings, second.skipped) == (first.runs, first.settings, first.skipped)
    assert [list(run) for run in second.runs] == [list(run) for run in first.runs]


def test_a_cache_is_written_again_only_when_something_changed(worth: None, tmp_path: Path) -> None:
    write_three(tmp_path)
    read([tmp_path])
    before = (tmp_path / NAME).stat().st_ino
    read([tmp_path])
    assert (tmp_path / NAME).stat().st_ino == before
    write(tmp_path, seed=9)
    read([tmp_path])
    assert '"seed"' in (tmp_path / NAME).read_text()
    assert opened(tmp_path) == 0


def test_a_cache_of_another_format_is_ignored(worth: None, tmp_path: Path) -> None:
    write_three(tmp_path)
    read([tmp_path])
    content = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps({**content, "form": content["form"] - 1}))
    assert opened(tmp_path) == 3


def test_few_runs_are_read_without_a_cache(tmp_path: Path) -> None:
    write_three(tmp_path)
    read([tmp_path])
    assert not (tmp_path / NAME).exists()


def test_a_result_that_changed_in_any_way_is_read_anew(worth: None, tmp_path: Path) -> None:
    """Replaced by one of the same size and time, as if the clock was set back; overwritten; removed; and added."""
    paths = [path / "result.json" for path in write_three(tmp_path)]
    read([tmp_path])
    stat = paths[0].stat()
    other = paths[0].with_name("other")
    other.write_text(json.dumps(result(seed=0, test_accuracy=0.9)))
    assert other.stat().st_size == stat.st_size
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(paths[0])
    assert opened(tmp_path) == 1
    assert [run["test_accuracy"] for run in read([tmp_path]).runs if run["seed"] == 0] == [0.9]

    paths[1].write_text(json.dumps(result(seed=1, test_accuracy=0.8125)))
    paths[2].unlink()
    write(tmp_path, seed=7, test_accuracy=0.1)
    assert opened(tmp_path) == 2
    found = read([tmp_path])
    assert sorted((run["seed"], run["test_accuracy"]) for run in found.runs) == [(0, 0.9), (1, 0.8125), (7, 0.1)]
    assert len(found.skipped) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"form": 1}',
        b'{"form": 0, "shapes": [], "runs": {}}',
        b'{"form": 1, "shapes": 3, "runs": {}}',
    ],
)
def test_an_invalid_cache_is_replaced_silently(worth: None, content: bytes, tmp_path: Path) -> None:
    write_three(tmp_path)
    (tmp_path / NAME).write_bytes(content)
    done = aggregate(tmp_path)
    assert (done.code, done.err) == (0, "")
    assert opened(tmp_path) == 0


def test_a_folder_that_cannot_be_written_is_read_all_the_same(worth: None, tmp_path: Path) -> None:
    write_three(tmp_path)
    with mock.patch("tempfile.mkstemp", side_effect=PermissionError(13, "Permission denied")):
        assert len(read([tmp_path]).runs) == 3
    full = OSError(28, "No space left on device")
    with mock.patch("budgetrun.tables.cache.Path.replace", side_effect=full):
        assert len(read([tmp_path]).runs) == 3
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(NAME)]


def test_a_folder_that_is_moved_keeps_its_cache(worth: None, tmp_path: Path) -> None:
    write_three(tmp_path / "a")
    read([tmp_path / "a"])
    (tmp_path / "a").rename(tmp_path / "b")
    assert opened(tmp_path / "b") == 0
    assert all(str(tmp_path / "b") in run["path"] for run in read([tmp_path / "b"]).runs)


def test_metrics_that_were_derived_are_not_remembered(worth: None, tmp_path: Path) -> None:
    write_three(tmp_path)
    assert table_of(tmp_path, "--metric", "test_error")
    assert all("test_error" not in run for run in read([tmp_path]).runs)
    assert Cache(str(tmp_path)).known
