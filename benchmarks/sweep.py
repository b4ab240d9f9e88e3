"""(f) Runs per minute of a sweep, by how it is launched: `python -m benchmarks.sweep dataset=digits budget=0.3`.

Before that, the processor seconds that a sweep of 1,000 jobs takes to check them, and to find all of them finished. The
runs that are launched differ in their seed alone. `model=resnet18 device=cuda --jobs 1,2,4` shows how many a GPU holds.
`--data fashion_mnist,cifar10` measures instead what a run takes to get its data, loaded and shared, in turns.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.start import ENVIRONMENT, ROOT
from budgetrun.config import experiment
from budgetrun.launch import plugins
from budgetrun.launch.command import composed
from budgetrun.launch.compose import task_part
from budgetrun.training.data import prepare


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("overrides", nargs="*", default=["dataset=digits", "budget=0.3"], help="as of a run")
    parser.add_argument("--runs", type=int, default=12, help="how many (default: 12)")
    parser.add_argument("--jobs", default="2", help="at once, by joblib, as in 2,4,8 (default: 2)")
    parser.add_argument("--grid", type=int, default=1000, help="jobs that are only checked (default: 1000; 0: none)")
    parser.add_argument("--data", help="data sets whose loading is measured, and nothing else")
    options = parser.parse_args()
    if options.data:
        loading(options.data.split(","))
        return
    if options.grid:
        start_of(options.grid)
    typed, seeds = options.overrides, range(options.runs)
    several = ["-m", *typed, f"seed={','.join(map(str, seeds))}"]
    ways = {
        "one process per run, one after another": [[*typed, f"seed={seed}"] for seed in seeds],
        "one process for all": [several],
        **{
            f"joblib, {jobs} processes": [[*several, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"]]
            for jobs in options.jobs.split(",")
        },
    }
    print(f"\n### (f) A sweep: {options.runs} runs of `{' '.join(typed)}`\n")
    print("| launched as | seconds | runs per minute | of the first |\n| --- | --- | --- | --- |")
    first = None
    for name, lines in ways.items():
        seconds = took(lines)
        first = first or seconds
        print(f"| {name} | {seconds:.0f} | {60 * options.runs / seconds:.1f} | {first / seconds:.2f} |", flush=True)


def loading(names: list[str], rounds: int = 7) -> None:
    """Print the processor seconds of a run's data, from its files and from the run before."""
    torch.set_num_threads(1)
    plugins.register()
    print("| data | loaded, s | shared, s | shared / loaded (median) |\n| --- | --- | --- | --- |")
    for name in names:
        cfg = composed([], [f"dataset={name}", "device=cpu"])
        made = experiment(task_part(cfg), cfg.hydra.runtime.choices)
        times: dict[bool, list[float]] = {False: [], True: []}
        prepare(replace(made, shares_data=True))
        for _ in range(rounds):
            for shares, spent in times.items():
                began = time.process_time()
                prepare(replace(made, shares_data=shares))
                spent.append(time.process_time() - began)
        ratio = median(shared / loaded for loaded, shared in zip(*times.values(), strict=True))
        print(f"| {name} | {median(times[False]):.3f} | {median(times[True]):.3f} | {ratio:.3f} |", flush=True)


def start_of(jobs: int) -> None:
    """Print the processor time of a sweep's start where all jobs are to be checked, and where all are finished."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "-m",
            "sampler=uniform,p_sgd,is,sb",
            "budget=0.1,0.2,0.3,0.4,0.5",
            "aug=standard,ricap",
            "epochs=2",
            f"output_dir={folder}",
        ]
        line = [*options, f"seed=range({jobs // 40})"]
        check, listed = spent([*line, "dry_run=true"])
        spent(["epochs=0.1", f"output_dir={folder}"])
        result = json.loads(next(Path(folder).glob("*/result.json")).read_bytes())
        for run in re.findall(r"^missing +(\S+?):", listed, flags=re.M):
            Path(run).mkdir()
            Path(run, "result.json").write_text(json.dumps({**result, "run_id": Path(run).name}))
        again, said = spent(line)
    print(
        f"\n### (f) The start of a sweep of {jobs} jobs, {len(re.findall('^missing', listed, flags=re.M))} of digits\n"
    )
    print(f"| what is done | processor seconds |\n| --- | --- |\n| check all of them | {check:.1f} |")
    print(f"| find {re.findall('^([0-9]+ of [0-9]+)', said, flags=re.M)[-1]} finished | {again:.1f} |", flush=True)


def spent(line: list[str]) -> tuple[float, str]:
    """The processor seconds of a command line, and what it says."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "budgetrun", *line]
    done = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


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
