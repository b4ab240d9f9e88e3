"""Helpers for the states and results of runs: whether two are bit-identical, and what stops a run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

from budgetrun import status

# everything that may differ: times, and the code's commit, which may be made while the tests run
CLOCKS = (
    "seconds",
    "selection_seconds",
    "drawing",
    "viewing",
    "seconds_total",
    "commit",
    "commits",
    "commits_before",
    "dirty",
)


class Killed(BaseException):
    """Stops a run as abruptly as possible inside one process: none of our code catches it."""


def kill() -> None:
    raise Killed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in CLOCKS}
    if isinstance(value, list):
        return [without_clocks(v) for v in value]
    return value


def assert_identical(one: Any, other: Any, where: str = "") -> None:
    """Equal in structure, and every tensor in every bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_identical(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_identical(a, b, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_ends_alike(one: Path, other: Path) -> None:
    """Two runs' folders have the same name, weights, state, metrics and result, but for the clocks."""
    assert one.name == other.name
    first, second = (torch.load(d / "checkpoint.pt", weights_only=True) for d in (one, other))
    assert_identical(without_clocks(first), without_clocks(second), "checkpoint")
    first, second = (json.loads((d / "result.json").read_text()) for d in (one, other))
    assert_identical(without_clocks(first), without_clocks(second), "result")
    lines = [[json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()] for d in (one, other)]
    assert_identical(without_clocks(lines[0]), without_clocks(lines[1]), "metrics")
    assert len(lines[0]) >= 5


SEARCH = """
# a search in two rounds, in the wrong order
common: epochs=1 evaluations=1 batch_size=32 checkpoint_every=0.05
rounds: 2
each_round:
  - >-
    sampler=subset sampler.base=rounds/${before}/*/kept.csv sampler.file=rounds/${before}/*/scores.csv
    sampler.add=0.1 scores=ensemble scores.members=3 seed=0,1 output_dir=rounds/${round}
sweeps:
  - sampler=subset sampler.base=rounds/${rounds}/*/kept.csv init_from=rounds/0/*-s${seed}-*/checkpoint.pt
  - sampler=subset sampler.file=rounds/start/*/scores.csv sampler.add=0.1 scores=ensemble seed=0,1 output_dir=rounds/0
  - scores=random budget=0.05 output_dir=rounds/start
"""


def found_by_search(folder: Path) -> dict[Path, bytes]:
    """What a search in rounds passes on from run to run."""
    names = ("kept.csv", "scores.csv", "sums.npy")
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.name in names}


# options that make a method act within the few updates of a test
AT_WORK = {
    "is": "sampler.threshold=0",  # the gate is open, so that it looks
    "vr": "sampler.threshold=0",
    "sb": "sampler.stale=2 sampler.prime=0.3",
    "sb_batchwise": "sampler.begin=0 sampler.interrupt=3",
    "osgd": "sampler.thresholds=[0.000001]",
}


def results(cwd: Path) -> dict[str, dict[str, Any]]:
    """The results below a folder, without what differs between two runs of the same experiment."""
    clocks = ("seconds", "selection_seconds", "seconds_total", "commit", "dirty", "commits_before")
    read = [json.loads(path.read_bytes()) for path in cwd.rglob("result.json")]
    return {r["run_id"]: {key: value for key, value in r.items() if key not in clocks} for r in read}


def counts(folder: Path) -> dict[str, int]:
    words = [state.word for state in status.states(folder).values()]
    return {word: words.count(word) for word in words}


def times(outputs: Path) -> dict[Path, int]:
    """When each run was finished."""
    return {path: path.stat().st_mtime_ns for path in outputs.glob("*/result.json")}


def assert_as_quiet(outputs: Path, quiet: Path, finished: dict[Path, int]) -> None:
    """Results and states are bit for bit those of the quiet sweep, and no finished run was run again."""
    assert finished.items() <= times(outputs).items()
    assert results(outputs) == results(quiet)
    for path in quiet.glob("*/checkpoint.pt"):
        one, other = (torch.load(p, weights_only=True) for p in (path, outputs / path.parent.name / path.name))
        assert_identical(without_clocks(one), without_clocks(other), path.parent.name)
