"""(l) Two processes against one: `python -m benchmarks.together [override ...]`; three minutes, and two free cores.

The same run in one process, and in two that torchrun starts, with one thread each: the seconds that count, which
leave out starting and evaluating. Overrides are for all runs: another model, `device=cuda`, `--processes 4`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = [
    "dataset=fashion_mnist budget=0.02 sampler=uniform",
    "dataset=fashion_mnist budget=0.02 sampler=is sampler.pool=3 sampler.threshold=0",
    "dataset=digits epochs=10",  # an update of 2 ms, so that gathering weighs
    "dataset=cifar10 dataset._target_=benchmarks.images.RandomImages +dataset.n=1280 model=resnet18 epochs=1",
]
COMMON = ["evaluations=1", "checkpoint_every=1e9", "force=true"]


def seconds(count: int, line: list[str], folder: Path) -> float:
    """What the budget's clock says at the end of a run in so many processes."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    command = [sys.executable, *start, "-m", "budgetrun", *line, *COMMON, f"output_dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (path,) = folder.glob("*/result.json")
    found: float = json.loads(path.read_text())["seconds"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.together", description=__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"| | one process, s | {options.processes} processes, s | ratio |\n| --- | --- | --- | --- |")
    for run in RUNS:
        line, found = [*run.split(), *options.overrides], []
        for _ in range(options.rounds):  # in turns; the fastest of each counts, as other work only slows
            with tempfile.TemporaryDirectory() as folder:
                found.append([seconds(count, line, Path(folder) / str(count)) for count in (1, options.processes)])
        alone, together = map(min, zip(*found, strict=True))
        print(f"| `{' '.join(line)}` | {alone:.2f} | {together:.2f} | {alone / together:.2f} |", flush=True)


if __name__ == "__main__":
    main()
