"""A finished run that is typed again is found at once; anything that might make it another run is checked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import Done, checked, copied, environment, finished_in, here

from budgetrun.launch import known
from budgetrun.train import run

LINE = "epochs=0.2 evaluations=1 sampler=is"


@pytest.fixture(scope="module")
def first_once(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return finished_in(tmp_path_factory.mktemp("first"), LINE)


@pytest.fixture
def first(first_once: Done, tmp_path: Path) -> Done:
    """The finished run in the test's own folder."""
    return copied(first_once, tmp_path)


def built(line: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the parts of the experiment are built when the line is typed again."""
    reached: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr("budgetrun.config.experiment", lambda *given: reached.append(given) or 1 / 0)
        here(line, cwd)
    return bool(reached)


def test_it_is_found_without_torch_and_says_the_same(first: Done) -> None:
    ask = "import sys; from budgetrun.__main__ import main; code = main(); sys.exit(code or 'torch' in sys.modules)"
    again = subprocess.run(
        [sys.executable, "-c", ask, *LINE.split()], cwd=first.cwd, env=environment(), capture_output=True, text=True
    )
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[0] == "already finished, not run again (force=true runs it again)"
    assert again.stdout.splitlines()[1:] == first.out.splitlines()[-4:]


def other_code(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "code", lambda: "another version")


def named_file(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cwd / "bound").write_text("now the value of sampler.score is the name of a file, whose content counts")


def no_result(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = cwd.rglob("result.json")
    path.unlink()


def other_result(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = cwd.rglob("result.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_id": "digits-s0-00000000"}))


def no_record(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = (cwd / "outputs" / known.FOLDER).iterdir()
    path.write_text("../elsewhere")


@pytest.mark.parametrize("change", [other_code, named_file, no_result, other_result, no_record])
def test_what_has_changed_is_checked(
    change: Callable[[Path, pytest.MonkeyPatch], None], first: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not built(LINE, first.cwd, monkeypatch)
    change(first.cwd, monkeypatch)
    assert built(LINE, first.cwd, monkeypatch)


@pytest.mark.parametrize("more", ["seed=1", "force=true", "dry_run=true", "sampler.pool=4", "~aug"])
def test_another_line_is_checked(more: str, first: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(f"{LINE} {more}", first.cwd, monkeypatch)


def test_a_user_s_own_class_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seen.py").write_text("from budgetrun.sampler.scan import Scan as Seen\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = "epochs=0.2 evaluations=1 sampler=scan sampler._target_=seen.Seen"
    assert here(line, tmp_path).code == 0
    assert built(line, tmp_path, monkeypatch)
    assert not list(tmp_path.glob(f"outputs/{known.FOLDER}"))


def test_a_finished_run_is_shown_on_a_machine_without_its_device(tmp_path: Path) -> None:
    line = f"model.width=2 epochs=1 evaluations=1 output_dir={tmp_path}"
    first = run(checked(*line.split()))
    assert run(checked(*line.split(), "device=cuda:9")) == first
