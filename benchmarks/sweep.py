"""(f) Runs a minute of a sweep, by how it is launched: `python -m benchmarks.sweep dataset=digits budget=0.3`.

The runs differ in their seed alone. `model=resnet18 device=cuda --jobs 1,2,4` shows how many runs a GPU holds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

from benchmarks.start import ENVIRONMENT, ROOT


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("overrides", nargs="*", default=["dataset=digits", "budget=0.3"], help="as of a run")
    parser.add_argument("--runs", type=int, default=12, help="how many (default: 12)")
    parser.add_argument("--jobs", default="2", help="at once, by joblib, as in 2,4,8 (default: 2)")
    options = parser.parse_args()
    typed, seeds = options.overrides, range(options.runs)
    several = ["-m", *typed, f"seed={','.join(map(str, seeds))}"]
    ways = {
        "a process a run, one after another": [[*typed, f"seed={seed}"] for seed in seeds],
        "one process for all": [several],
        **{
            f"joblib, {jobs} processes": [[*several, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"]]
            for jobs in options.jobs.split(",")
        },
    }
    print(f"\n### (f) A sweep: {options.runs} runs of `{' '.join(typed)}`\n")
    print("| launched as | seconds | runs a minute | of the first |\n| --- | --- | --- | --- |")
    first = None
    for name, lines in ways.items():
        seconds = took(lines)
        first = first or seconds
        print(f"| {name} | {seconds:.0f} | {60 * options.runs / seconds:.1f} | {first / seconds:.2f} |", flush=True)


def took(lines: list[list[str]]) -> float:
    """The seconds that these command lines take one after another, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        for line in lines:
            command = [sys.executable, "-m", "budgetrun", *line, f"data_dir={ROOT / 'data'}", f"output_dir={folder}"]
            subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
