"""The benchmarks say in one sentence what they cannot do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli import CHECKOUT


@pytest.mark.parametrize(
    ("device", "why"), [("cuda:99", "device=cuda:99 is not on this machine"), ("gpu", "device=gpu must be one of")]
)
def test_a_missing_device_gives_one_sentence(device: str, why: str) -> None:
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--device", device]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("benchmarks: ")
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_missing_data_give_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT))
    from benchmarks import __main__ as benchmarks

    missing = ["dataset=image_folder", f"dataset.root={tmp_path / 'nothing'}", "dataset.size=8"]
    monkeypatch.setattr(benchmarks, "CASES", [benchmarks.Case("images of the user's", missing, 1, 1, 1)])
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--smoke", "--only", "a", "--device", "cpu"])
    assert benchmarks.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("benchmarks: ")
    assert str(tmp_path / "nothing") in said
    assert len(said.splitlines()) == 1
