"""Files that cannot be trusted: each is named in one line, the others are read, and no terminal obeys what they say."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cli import Done
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import aggregate, called, read_latex, read_markdown, refused, result, write
from test_aggregate import nobody

from budgetrun import status
from budgetrun.folder.reading import DEEPEST, parse
from budgetrun.folder.run import FAILED, FINISHED, INTERRUPTED, RunFolder
from budgetrun.report import page as report
from budgetrun.tables import cache
from budgetrun.tables.runs import cell_of, read, value_in

DEEP = 100_000 * "[" + 100_000 * "]"
NASTY = "a\x1b[31mb\r\x00|&\u2028=c"


@contextlib.contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """End whatever waits forever."""

    def ended(*_: Any) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def write_words(folder: Path, seed: int, sampler: str, **changes: Any) -> None:
    """Write a run of a sampler whose name cannot be a folder's."""
    (write(folder, seed=seed) / "result.json").write_text(json.dumps(result(seed=seed, sampler=sampler, **changes)))


def tell(folder: Path) -> Done:
    return called(status.main, folder)


# ---- results

WORDS = json.dumps(result())
DAMAGED: dict[str, tuple[str | bytes, str]] = {
    "nested without end": (DEEP, "it is nested too deep"),
    "nested in objects without end": (100_000 * '{"a":', "it is nested too deep"),
    "nested as deep as Python can": (WORDS.replace('"c0ffee"', 900 * "[" + 900 * "]"), "it is nested too deep"),
    "a key twice": (WORDS[:-1] + ', "test_accuracy": 0.9}', "it has test_accuracy more than once"),
    "a setting twice": (WORDS.replace('"batch_size"', '"batch_size": 1, "batch_size"'), "batch_size more than once"),
    "a setting in two ways": (WORDS.replace('"model": {"width"', '"model.width": 1, "model": {"width"'), "model.width"),
    "a setting beside its settings": (WORDS[:-1] + ', "seed": 7}', "seed is in its config and beside it"),
    "half a character": (WORDS.encode().replace(b"c0ffee", b"\xed\xa0\x80"), "codec"),
    "latin-1": (WORDS.encode().replace(b"c0ffee", b"\xe9"), "codec"),
    "more digits than Python reads": (WORDS.replace("0.5,", 5000 * "1" + ","), "digits"),
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "more than all right": ({"test_accuracy": 7.5}, "test_accuracy is not a number from 0 to 1 but 7.5"),
    "less than none right": ({"test_accuracy": -3}, "test_accuracy is not a number from 0 to 1 but -3"),
    "endlessly right": ({"test_accuracy": math.inf}, "test_accuracy is not a number from 0 to 1 but Infinity"),
    "a word for an accuracy": ({"test_accuracy": "0.5"}, "test_accuracy is not a number but 0.5"),
    "true for an accuracy": ({"test_accuracy": True}, "test_accuracy is not a number but true"),
    "null for an accuracy": ({"test_accuracy": None}, "it has no test_accuracy"),
    "a validation beyond 1": ({"val_accuracy": 1.01}, "val_accuracy is not a number from 0 to 1 but 1.01"),
    "half an update": ({"updates": 10.5}, "updates is not a whole number from 0 but 10.5"),
    "fewer than no updates": ({"updates": -1}, "updates is not a whole number from 0 but -1"),
    "a count that is no number": ({"examples_forward": math.nan}, "examples_forward is not a whole number"),
    "a number beyond floats": ({"flops": 10**400}, "flops is too large to compute with: 1000"),
    "a number without a square": ({"test_loss": 1e308}, "test_loss is too large"),
    "time that runs backwards": ({"seconds": -0.5}, "seconds is not a number from 0 but -0.5"),
    "a list for a loss": ({"test_loss": [1]}, "test_loss is not a number but [1]"),
    "no configuration": ({"config": {}}, "its config has no budget, epochs, batch_size, seed"),
    "batches of nothing": ({"batch_size": 0}, "batch_size is not a whole number from 1 but 0"),
    "batches of words": ({"batch_size": "64"}, "batch_size is not a number but 64"),
    "no budget": ({"budget": 0}, "budget is not a number above 0, at most 1 but 0"),
    "a list of seeds": ({"seed": [0, 1]}, "seed is not a number but [0, 1]"),
    "a number for an option": ({"sampler": 3}, "sampler is not a word but 3"),
    "a word for settings": (
        {"config": {**result()["config"], "model": "cnn"}},
        "its config has no values of model but",
    ),
    "no name": ({"run_id": None}, "it has no run_id"),
    "a number for a name": ({"run_id": 7}, "run_id is not a word but 7"),
    "a word that a terminal obeys": ({"updates": NASTY}, r"updates is not a number but a\x1b[31mb \x00|& =c"),
}


def damaged(folder: Path) -> dict[Path, str]:
    """A complete run, with 0.25, and one of each damaged kind. Returns the damaged files and what to say of each."""
    write(folder, seed=0, test_accuracy=0.25)
    said = {}
    for number, (content, words) in enumerate([*DAMAGED.values(), *WRONG.values()], 1):
        path = write(folder, seed=number) / "result.json"
        if isinstance(content, dict):
            whole = {k: v for k, v in content.items() if k in ("config", "run_id")}
            changes = {"seed": number, **{k: v for k, v in content.items() if k not in whole}}
            content = json.dumps({**result(**changes), **whole})
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        said[path] = words
    return said


def test_a_damaged_result_is_named_with_its_reason_and_every_other_is_read(tmp_path: Path) -> None:
    said = damaged(tmp_path)
    done = aggregate(tmp_path, "--rows", "sampler")
    assert (done.code, read_markdown(done.out)[0][1]) == (0, ["uniform", "25.00"])
    lines = sorted(done.err.splitlines())
    assert len(lines) == len(said)
    for line, path in zip(lines, sorted(said), strict=True):
        assert line.startswith(f"skipped {path}: ")
        assert said[path] in line
        assert line.isprintable()
        assert len(line) < len(str(path)) + 200


def test_report_and_status_name_damaged_results_too(tmp_path: Path) -> None:
    said = damaged(tmp_path)
    done = called(report.main, tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "1 run of cnn on digits" in done.out
    page = (tmp_path / "report.html").read_text()
    assert all(f"{path}: " in page for path in said)
    done = tell(tmp_path)
    assert (done.code, done.err) == (1, "")
    assert f"{1:6} {FINISHED}\n{len(said):6} {INTERRUPTED}\n" in done.out
    assert done.out.count("result.json cannot be used (") == len(said)
    assert all(line.isprintable() for line in done.out.splitlines())


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**320) | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=5), values, max_size=2),
    max_leaves=4,
)
COMMANDS = [
    [],
    ["--format", "runs"],
    ["--format", "latex", "--metric", "test_loss,flops"],
    ["--metric", "epochs_to_generalise,test_accuracy_best_on_test"],
    ["--baseline", "seed=0", "--metric", "test_accuracy,flops,seconds"],
]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_reader_breaks_whatever_a_file_contains(data: st.DataObject) -> None:
    """At any key of a result, of its configuration, and of an evaluation."""
    lines = [{"progress": k / 2, "test_accuracy": k / 4, "updates": k, "flops": k, "seconds": k} for k in (1, 2)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, lines, seed=0)
        path = write(folder, lines, seed=1)
        whole = {**result(seed=1), "lines": lines, "n_training": 640}
        inner = data.draw(st.sampled_from([whole, whole["config"], whole["names"], lines[1]]))
        inner[data.draw(st.sampled_from([*inner, "new"]))] = data.draw(ANY)
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (path / "result.json").write_text(json.dumps({k: v for k, v in whole.items() if k != "lines"}))
        for command in COMMANDS:
            done = aggregate(folder, *command)
            assert done.code == 0 or len(done.err.splitlines()) >= 1
            assert all(line.isprintable() for line in (done.out + done.err).split("\n"))
        tell(folder)


# ---- the other files


PLACED: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", PLACED)
@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "failed.json", cache.NAME, ".sweeps/x.json"])
def test_something_other_than_a_file_keeps_nobody_waiting(name: str, kind: str, tmp_path: Path) -> None:
    write(tmp_path, seed=0, test_accuracy=0.25)
    folder = write(tmp_path, seed=1)
    path = (tmp_path if name.startswith(".") else folder) / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if name == "failed.json":
        (folder / "result.json").unlink()
    PLACED[kind](path)
    with no_longer_than(30), mock.patch.object(cache, "WORTH", 1):
        runs = aggregate(tmp_path, "--metric", "test_accuracy,test_accuracy_best_on_test")
        found = tell(tmp_path)
    assert runs.code == 0
    named = {"result.json": 1, "failed.json": 1}.get(name, 0)
    assert runs.err.count("skipped") == named
    assert found.code == (1 if named or name.startswith(".sweeps") else 0)
    assert (str(path) in found.err) == name.startswith(".sweeps")
    assert (f"{name} cannot be used (" in found.out) == bool(named)


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (DEEP, "nested too deep"),
        ("[1]", "not the plan of a sweep"),
        ('{"a": ["x=1"], "a": []}', "a more than once"),
        ('{"a": "x=1"}', "a has no list of overrides"),
        ('{"a": null}', "a has no list of overrides"),
        ('{"a": ["x=1", 2]}', "a has no list of overrides"),
        ('{"../a": ["x=1"]}', "../a is not the name of a folder"),
        ('{"a\\u0000": []}', r"a\x00 is not the name"),
        (json.dumps({300 * "a": []}), "is not the name"),
        ('{"\\ud800": []}', "codec"),
        ("\ufeff{}x", "Extra data"),
    ],
)
def test_an_invalid_plan_is_named_with_what_is_not_known_then(plan: str, why: str, tmp_path: Path) -> None:
    write(tmp_path, seed=0)
    (tmp_path / ".sweeps").mkdir()
    (tmp_path / ".sweeps" / "whole.json").write_text(json.dumps({"planned": ["sampler=\x1b[1mis"]}))
    (tmp_path / ".sweeps" / "x.json").write_text(plan)
    done = tell(tmp_path)
    (line,) = done.err.splitlines()
    assert line.startswith(f"status: skipped {tmp_path / '.sweeps' / 'x.json'}: ")
    assert why in line
    assert line.endswith("; runs that only this sweep planned are not known")
    assert f"{1:6} finished\n{1:6} missing\n" in done.out
    assert done.code == 1


def test_a_sweep_with_an_invalid_plan_is_not_all_finished_and_is_on_the_page(tmp_path: Path) -> None:
    write(tmp_path, seed=0)
    (tmp_path / ".sweeps").mkdir()
    (tmp_path / ".sweeps" / "x.json").write_text("3")
    assert tell(tmp_path).code == 1
    assert called(report.main, tmp_path).code == 0
    assert "x.json: it is not the plan of a sweep" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "word", "said"),
    [
        (json.dumps({"reason": f"no {NASTY}"}), FAILED, r"no a\x1b[31mb \x00|& =c"),
        (DEEP, INTERRUPTED, "failed.json cannot be used (it is nested too deep)"),
        ('{"reason": 3}', INTERRUPTED, "failed.json cannot be used (it has no reason)"),
        ("[]", INTERRUPTED, "failed.json cannot be used (it has no reason)"),
    ],
)
def test_why_a_run_failed_is_reported_in_one_line(content: str, word: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, seed=0)
    (path / "result.json").unlink()
    (path / "failed.json").write_text(content)
    state = RunFolder(str(tmp_path), path.name).state()
    assert (state.word, state.detail) == (word, said)


def test_the_result_of_another_run_does_not_count_as_this_one_s(tmp_path: Path) -> None:
    one, other = write(tmp_path, seed=0), write(tmp_path, seed=1)
    (other / "result.json").write_bytes((one / "result.json").read_bytes())
    state = RunFolder(str(tmp_path), other.name).state()
    assert (state.word, state.detail) == (
        INTERRUPTED,
        f"result.json cannot be used (it is that of another run, {one.name})",
    )
    assert RunFolder(str(tmp_path), other.name).finished() is None
    assert (other / "result.json.corrupt").exists()


LAST: list[tuple[str, str]] = [
    ('{"progress": 0.5, "test_accuracy": 0.25}', "50% of the budget, test accuracy 25.00 %"),
    ('{"progress": 0.5}', "not evaluated yet"),
    ('{"progress": 0.5, "test_accuracy": 7.5}', "metrics.jsonl cannot be used (test_accuracy is not a number from 0"),
    ('{"progress": "half", "test_accuracy": 0.5}', "metrics.jsonl cannot be used (progress is not a number but half)"),
    (f'{{"progress": 0.5, "test_accuracy": {10**400}}}', "metrics.jsonl cannot be used (test_accuracy is too large"),
    (DEEP, "metrics.jsonl cannot be used (line 2: it is nested too deep)"),
    ('"progress"', "metrics.jsonl cannot be used (line 2: it has no keys)"),
    ('{"progress": 0.5, "test_', "metrics.jsonl cannot be used (line 2: Unterminated string"),
]


@pytest.mark.parametrize(("line", "said"), LAST)
def test_the_progress_of_a_run_is_that_of_its_last_evaluation(line: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, seed=0)
    (path / "result.json").unlink()
    (path / "metrics.jsonl").write_text('{"progress": 0.25, "test_accuracy": 0.125}\n' + line)
    assert f"{path.name}: {said}" in tell(tmp_path).out


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"test_accuracy": 7.5}, "test_accuracy is not a number from 0 to 1 but 7.5"),
        ({"test_accuracy": "high"}, "test_accuracy is not a number but high"),
        ({"progress": -1}, "progress is not a number from 0 to 1 but -1"),
        ({"updates": 1e300}, "updates is too large"),
    ],
)
def test_impossible_evaluations_are_in_no_number_and_are_named(wrong: dict[str, Any], why: str, tmp_path: Path) -> None:
    lines = [{"progress": k / 2, "test_accuracy": k / 4, "updates": k} for k in (1, 2)]
    write(tmp_path, lines, seed=0, evaluations=2)
    path = write(tmp_path, [lines[0], lines[1] | wrong], seed=1, evaluations=2) / "result.json"
    best = aggregate(tmp_path, "--metric", "test_accuracy_best_on_test")
    assert read_markdown(best.out)[0][1][2] == "50.00"
    assert best.err.startswith(f"skipped {path}: its evaluations are not known ({why}")
    runs = aggregate(tmp_path, "--format", "runs")
    assert {line["curve.updates"] for line in csv.DictReader(io.StringIO(runs.out))} == {"[1, 2]", ""}
    assert runs.err.startswith(f"note: {path} is included without its evaluations ({why}")
    assert called(report.main, tmp_path).code == 0
    assert f"{path}: it has no learning curve ({why}" in (tmp_path / "report.html").read_text()


def test_a_setting_that_is_one_value_here_and_several_there_has_a_page(tmp_path: Path) -> None:
    for seed, unit in enumerate(["updates", ["updates"], {"unit": "updates"}]):
        write(tmp_path, seed=seed, budget_unit=unit)
    assert called(report.main, tmp_path).code == 0
    assert "[updates]" in (tmp_path / "report.html").read_text()


def test_a_run_with_an_invalid_number_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    write(tmp_path, seed=0, rate=0.5)
    path = write(tmp_path, seed=1, rate="fast")
    done = aggregate(tmp_path, "--metric", "rate")
    assert read_markdown(done.out)[0][1][2] == "0.5"
    assert done.err == f"skipped {path / 'result.json'}: its rate is not a number but fast\n"


@pytest.mark.parametrize(("n_training", "why"), [(63, "its batches are larger than its training data")])
def test_an_epoch_without_updates_is_undefined(n_training: int, why: str, tmp_path: Path) -> None:
    write(tmp_path, [{"test_accuracy": 0.5, "updates": 1}], n_training=n_training)
    refused(aggregate(tmp_path, "--metric", "epochs_to_generalise"), why)


def test_a_cache_that_was_edited_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, seed=0, test_accuracy=0.25)
    with mock.patch.object(cache, "WORTH", 1):
        read([tmp_path])
        path = tmp_path / cache.NAME
        text = path.read_text()
        assert text.count("0.25,") == 1
        for wrong in (text.replace("0.25,", "7.50,"), text.replace("0.25,", "null,"), json.dumps(json.loads(text))):
            path.write_text(wrong)
            assert [run["test_accuracy"] for run in read([tmp_path]).runs] == [0.25]
            assert path.read_text() == text, "it is written anew"


def test_a_folder_that_cannot_be_looked_into_does_not_stop_status(tmp_path: Path) -> None:
    path = write(tmp_path / "outputs", seed=0)
    write(tmp_path / "outputs", seed=1)
    path.chmod(0)
    tmp_path.chmod(0o755)
    with contextlib.chdir(tmp_path), nobody():
        done = tell(Path("outputs"))
    path.chmod(0o755)
    assert done.code == 1
    assert f"{path.name}: not evaluated yet, result.json cannot be used (Permission denied)" in done.out.replace(
        "metrics.jsonl cannot be used (Permission denied)", "not evaluated yet"
    )


def test_json_as_deep_as_a_configuration_may_be_is_read() -> None:
    assert parse(DEEPEST * "[" + DEEPEST * "]")
    with pytest.raises(ValueError, match="too deep"):
        parse((DEEPEST + 2) * "[" + (DEEPEST + 2) * "]")


# ---- a CSV of runs

TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)  # with lone surrogates and unprintable characters
SETTING = st.one_of(
    TEXT,
    st.sampled_from(["=1+1", "@a", "+a", "-a", "-0.5", "-inf", '"a"', "null", "1e5", "[1]", "\tx", "a\r\nb"]),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.none(),
    st.booleans(),
    st.lists(TEXT, max_size=2),
)


@given(value=SETTING)
def test_a_cell_gives_its_value_back_and_is_not_a_formula(value: Any) -> None:
    cell = cell_of(value)
    read_back = value_in(cell) if cell else ""
    assert read_back == value
    assert isinstance(read_back, bool | None) == isinstance(value, bool | None)
    assert cell.isprintable()
    if cell.startswith(("=", "+", "-", "@")):
        float(cell)


def test_a_csv_of_runs_with_any_words_is_read_back_and_harmless(tmp_path: Path) -> None:
    words = ["=1+1", "@SUM(A1)", "-2+3", "+x", "\x1b[2J", '"quoted"', "a,b\r\nc", "\ud800", "0.5", "null", "é±—"]
    for seed, word in enumerate(words):
        write_words(tmp_path / "runs", seed, word, **{"sampler.x": word, "=key": word, "loss_so_far": -0.5})
    found = aggregate(tmp_path / "runs", "--format", "runs")
    assert found.code == 0
    (tmp_path / "runs.csv").write_text(found.out, newline="")
    for line in csv.reader(io.StringIO(found.out)):
        for cell in line:
            assert cell.isprintable()
            assert not cell.startswith(("=", "+", "@"))
            assert not cell.startswith("-") or float(cell) == -0.5
    before, after = (
        {run["run_id"]: {k: v for k, v in run.items() if not k.startswith("curve.")} for run in read([place]).runs}
        for place in (tmp_path / "runs", tmp_path / "runs.csv")
    )
    assert before == after
    assert {run["=key"] for run in after.values()} == set(words)
    for form in ("csv", "md", "latex"):
        assert (
            aggregate(tmp_path / "runs.csv", "--format", form).out == aggregate(tmp_path / "runs", "--format", form).out
        )


def test_a_csv_of_cells_has_no_formula_and_keeps_its_numbers(tmp_path: Path) -> None:
    write(tmp_path, sampler="=1+1", test_loss=-0.5, lr=-0.5)
    done = aggregate(tmp_path, "--format", "csv", "--metric", "test_loss", "--rows", "sampler,lr")
    (line,) = csv.DictReader(io.StringIO(done.out))
    assert (line["sampler"], line["lr"], line["mean"]) == ('"=1+1"', "-0.5", "-0.5")


CELLS = {
    "test_accuracy": "0.5",
    "updates": "11",
    "examples_forward": "704",
    "examples_backward": "704",
    "flops": "10",
    "seconds": "2.5",
    "path": "x",
}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"test_accuracy": "7.5"}, "line 2: test_accuracy is not a number from 0 to 1 but 7.5"),
        ({"updates": "-1"}, "line 2: updates is not a whole number from 0 but -1"),
        ({"path": ""}, "path is not a word but missing"),
        ({"flops": 400 * "1"}, "flops is too large"),
        ({"flops": 5000 * "1"}, "flops is not a number but 1111"),
        ({"batch_size": "0"}, "batch_size is not a whole number from 1 but 0"),
        ({"curve.updates": "3"}, "curve.updates is not a list of one value per evalua"),
        ({"curve.updates": '["a"]'}, "updates is not a number but a"),
        (
            {"curve.updates": "[1,2]", "curve.test_accuracy": "[0.5]"},
            "curve.test_accuracy is not a list of one value per",
        ),
        ({"curve.updates": "[1]", "curve.test_accuracy": "[7.5]"}, "test_accuracy is not a number from 0 to 1 but 7.5"),
    ],
)
def test_a_csv_of_what_no_run_measures_is_refused(changes: dict[str, str], why: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    cells = {"seed": "0", "run_id": "a", **CELLS, **changes}
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([cells, cells.values()])
    refused(aggregate(path), str(path), why)


def test_a_csv_with_two_columns_of_a_name_and_one_that_is_a_fifo_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"run_id,{','.join(CELLS)},flops\na,{','.join(CELLS.values())},1\n")
    refused(aggregate(path), "two columns flops")
    os.mkfifo(tmp_path / "fifo.csv")
    with no_longer_than(30):
        refused(aggregate(tmp_path / "fifo.csv"), "it is not a file")


def test_a_csv_with_the_mark_that_spreadsheets_put_first_and_one_of_many_evaluations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    cells = {"seed": "0", "run_id": "a", **CELLS, "curve.updates": json.dumps([*range(50_000)])}
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([cells, cells.values()])
    (run,) = read([path]).runs
    assert (run["seed"], len(run["curve.updates"])) == (0, 50_000)


# ---- what is printed


@pytest.mark.parametrize("form", ["md", "latex"])
def test_no_word_breaks_a_table_or_reaches_the_terminal_as_a_command(form: str, tmp_path: Path) -> None:
    write_words(tmp_path, 0, NASTY, aug="x\ny", **{f"sampler.{NASTY}": NASTY})
    rows = f"sampler,sampler.{NASTY.replace(',', '')}"
    done = aggregate(tmp_path, "--rows", rows, "--cols", "aug", "--format", form, "--baseline", "aug=nothing\x1b[5m")
    assert done.code == 1
    assert done.err.rstrip("\n").isprintable()
    done = aggregate(tmp_path, "--rows", rows, "--cols", "aug", "--format", form)
    assert all(line.isprintable() for line in done.out.split("\n"))
    lines, _ = {"md": read_markdown, "latex": read_latex}[form](done.out)
    shown = r"a\x1b[31mb \x00|& =c"
    assert lines == [["sampler", f"sampler.{shown}", "aug=x y"], [shown, shown, "50.00"]]


def in_ascii(main: Callable[[list[str]], int], *arguments: Any) -> tuple[int, str]:
    """A command's exit code and everything that it prints on a terminal that has only ASCII."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for _ in range(2)]
    with mock.patch.object(sys, "stdout", streams[0]), mock.patch.object(sys, "stderr", streams[1]):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        for stream in streams:
            stream.flush()
    return code, "".join(stream.buffer.getvalue().decode("ascii") for stream in streams)


def test_a_terminal_of_ascii_gets_the_same_in_other_words(tmp_path: Path) -> None:
    for seed, budget in ((0, 0.3), (1, 0.3), (0, 0.5)):
        write(tmp_path, sampler="é" if budget == 0.5 else "is", seed=seed, budget=budget, test_accuracy=0.25 + seed / 2)
    from budgetrun.aggregate import main

    code, out = in_ascii(main, tmp_path)
    assert code == 0
    assert r"\xe9" in out
    assert "50.00 +- 35.36" in out
    assert " - " in out
    assert "mean +- sd" in in_ascii(main, "--help")[1]
    path = tmp_path / "half\udcff"
    path.mkdir()
    (path / "config.yaml").touch()
    code, out = in_ascii(status.main, tmp_path)
    assert r"half\udcff: not evaluated yet" in out or "missing" in out
    out = in_ascii(report.main, tmp_path, "--out", tmp_path / "\udce9.html")[1]
    assert out.startswith(f"{tmp_path}/\\udce9.html: ")
