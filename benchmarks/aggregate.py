"""(e) How long the reader of runs takes, and how much memory: `python -m benchmarks.aggregate`.

A real run of a few updates is copied with other names, settings and accuracies.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

SAMPLERS = ["uniform", "scan", "is", "vr", "sb", "osgd", "p_sgd", "c_sgd", "spv", "wpv"]
AUGS = ["none", "standard", "mixup", "cutmix", "ricap"]
BUDGETS = [0.05, 0.1, 0.2, 0.3, 0.5]
NOISES = ["none", "symmetric", "asymmetric", "instance"]
READER = [sys.executable, "-m", "budgetrun.aggregate", "copies", "--rows", "sampler,aug", "--cols", "budget,noise"]
COMMANDS = {
    "a table, first call": READER,
    "the same, second call": READER,
    "with a comparison": [*READER, "--baseline", "sampler=uniform"],
    "of a metric of the evaluations": [*READER, "--metric", "test_accuracy_best_on_test"],
    "every run as CSV": [*READER, "--format", "runs"],
    "a table of that CSV": [word if word != "copies" else "runs.csv" for word in READER],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aggregate", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="how many (default: 10000)")
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), parser.parse_args().runs)


def measure(folder: Path, runs: int) -> None:
    """Print one line per command: seconds of the wall and of the processor, and the peak of its memory."""
    size = copies(a_run(folder), folder / "copies", runs)
    print(f"\n### (e) The reader of runs: {runs:,} runs, {size / 1e6:.0f} MB\n")
    print("| command | seconds | processor seconds | peak memory, MB |\n| --- | --- | --- | --- |")
    for name, command in COMMANDS.items():
        with (folder / ("runs.csv" if "runs" in command else "table")).open("w") as out:
            seconds, processor, memory = timed(command, folder, out)
        print(f"| {name} | {seconds:.1f} | {processor:.1f} | {memory:.0f} |", flush=True)


def timed(command: list[str], folder: Path, out: IO[str]) -> tuple[float, float, float]:
    """Seconds of the wall, seconds of the processor, and the peak of the memory in MB of a command in that folder."""
    began = time.perf_counter()
    started = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(started.pid, 0)
    assert status == 0, command
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def a_run(folder: Path) -> Path:
    """The folder of a real run of a few updates, made below `folder`."""
    command = [sys.executable, "-m", "budgetrun", "epochs=1", "budget=0.5", "sampler=is", "validation=0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (result,) = folder.glob("outputs/*/result.json")
    return result.parent


def copies(real: Path, folder: Path, runs: int) -> int:
    """Write the runs; the bytes of their results and evaluations."""
    result: dict[str, Any] = json.loads((real / "result.json").read_text())
    lines: list[dict[str, Any]] = [json.loads(line) for line in (real / "metrics.jsonl").read_text().splitlines()]
    numbers, size = random.Random(0), 0
    cells = list(itertools.product(SAMPLERS, AUGS, BUDGETS, NOISES))
    for number in range(runs):
        seed, (sampler, aug, budget, noise) = number // len(cells), cells[number % len(cells)]
        one = copy.deepcopy(result)
        one["names"] |= {"sampler": sampler, "aug": aug, "noise": noise}
        one["config"] |= {"budget": budget, "seed": seed}
        one["run_id"] = f"digits-cnn-{sampler}-{aug}-{noise}-b{budget}-s{seed}"
        for line in lines:
            line |= {"test_accuracy": numbers.random(), "val_accuracy": numbers.random()}
        one |= {"test_accuracy": lines[-1]["test_accuracy"], "flops": numbers.randrange(10**9, 10**10)}
        path = folder / one["run_id"]
        path.mkdir(parents=True)
        (path / "config.yaml").touch()
        (path / "train.log").touch()
        size += (path / "result.json").write_text(json.dumps(one, indent=2))
        size += (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return size


if __name__ == "__main__":
    main()
