"""With a real Slurm: jobs save when they are stopped, go on when they start again, and end as a quiet run ends.

`scripts/one_node_slurm.sh start` sets one up. On a cluster, the tests submit jobs of a few seconds.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import CHECKOUT, Done, environment, here, process, refused, started
from states import SEARCH, assert_as_quiet, assert_identical, found_by_search, times, without_clocks

from budgetrun.launch.command import composed
from budgetrun.launch.plugins import register
from budgetrun.launch.sweep import slurm_launcher

# a sampler that takes its time until there is a file `fast`
SLOW = """
import time
from dataclasses import dataclass
from pathlib import Path

from budgetrun.sampler.uniform import Uniform


@dataclass
class Slow(Uniform):
    def draw(self):
        if not Path("fast").exists():
            time.sleep(0.2)
        return super().draw()
"""
SLOWLY = "sampler=slow epochs=3 evaluations=33"


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def slurm() -> None:
    """Skip the test if there is no Slurm, or if it does not answer."""
    try:
        asked("sinfo")
    except (OSError, subprocess.SubprocessError):
        pytest.skip("there is no Slurm here; scripts/one_node_slurm.sh start sets one up")


@pytest.fixture
def cwd(slurm: None, tmp_path: Path) -> Iterator[Path]:
    """A folder that jobs run in, with the slow sampler; no job of the test is left behind."""
    write_slow(tmp_path)
    yield tmp_path
    for line in asked("squeue", "--me", "--noheader", "--format=%A %Z").splitlines():
        job, _, place = line.strip().partition(" ")
        if Path(place).is_relative_to(tmp_path):  # and not those of somebody else's tests
            subprocess.run(["scancel", job], check=False)


def write_slow(folder: Path) -> None:
    (folder / "mine" / "sampler").mkdir(parents=True)
    (folder / "slow_sampler.py").write_text(SLOW)
    (folder / "mine" / "sampler" / "slow.yaml").write_text("_target_: slow_sampler.Slow\n")


def sweep(line: str, cwd: Path) -> Done:
    options = "hydra.launcher.timeout_min=10 hydra.launcher.cpus_per_task=1"
    return process(f"-m --config-dir mine hydra/launcher=submitit_slurm {options} {line}", cwd)


def number(done: Done) -> str:
    """The job that a sweep was submitted as."""
    found = re.search(r"submitted \d+ runs? as job (\d+)", done.out)
    assert found, done.out + done.err
    return found[1]


def about(job: str) -> dict[str, str]:
    """What Slurm knows of a job."""
    return dict(re.findall(r"(\S+?)=(\S*)", asked("scontrol", "show", "job", "--oneliner", job)))


def state(job: str) -> str:
    return about(job)["JobState"]


def eventually(what: Callable[[], Any], seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, asked("squeue", "--states=all")
        time.sleep(0.2)
    return found


def folder(cwd: Path, seed: int) -> Path | None:
    return next(iter(cwd.glob(f"outputs/*-s{seed}-*")), None)


def lines(cwd: Path, seed: int) -> int:
    """How many evaluations a run has written."""
    path = folder(cwd, seed)
    return len((path / "metrics.jsonl").read_text().splitlines()) if path and (path / "metrics.jsonl").exists() else 0


def update(cwd: Path, seed: int) -> int:
    """The update that a run's checkpoint was made at."""
    path = folder(cwd, seed)
    assert path is not None
    return torch.load(path / "checkpoint.pt", weights_only=True)["budget"]["updates"]


def job_log(cwd: Path, job: str) -> str:
    """What a job has printed so far; nothing before Slurm has made its file."""
    path = cwd / "outputs" / ".submitit" / job / f"{job}_0_log.out"
    return path.read_text() if path.exists() else ""


def assert_as_if_nothing_had_happened(cwd: Path, line: str, seeds: list[int]) -> None:
    """Weights, state, metrics and result are bit for bit those of runs in a quiet folder, but for the clocks."""
    quiet = cwd / "quiet"
    write_slow(quiet)
    (quiet / "fast").touch()
    done = here(f"-m --config-dir mine {line} seed={','.join(map(str, seeds))}", quiet)
    assert done.code == 0, done.err
    for seed in seeds:
        ours, theirs = folder(cwd, seed), folder(quiet, seed)
        assert ours is not None
        assert theirs is not None
        assert ours.name == theirs.name
        states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (ours, theirs)]
        assert_identical(*map(without_clocks, states), "checkpoint")
        results = [json.loads((f / "result.json").read_text()) for f in (ours, theirs)]
        assert_identical(*map(without_clocks, results), "result")
        metrics = [[json.loads(x) for x in (f / "metrics.jsonl").read_text().splitlines()] for f in (ours, theirs)]
        assert_identical(*map(without_clocks, metrics), "metrics")
        assert len(metrics[0]) == 33


# ---- submitting


def test_a_sweep_is_an_array_of_jobs_with_a_limit_and_ends_with_the_summary(cwd: Path) -> None:
    (cwd / "fast").touch()
    done = sweep(f"hydra.launcher.array_parallelism=1 hydra.launcher.cpus_per_task=2 {SLOWLY} seed=0,1", cwd)
    assert done.code == 0, done.out + done.err
    assert "2 of 2 runs are finished" in done.out
    job = number(done)
    assert f"scancel {job}" in done.out
    assert about(f"{job}_0")["ArrayTaskThrottle"] == "1"
    assert [state(f"{job}_{i}") for i in range(2)] == ["COMPLETED"] * 2
    for seed in range(2):
        path = folder(cwd, seed)
        assert path is not None
        # the tests' own environment says 1
        assert json.loads((path / "result.json").read_text())["threads"] == 2


def test_a_sweep_that_does_not_wait_leaves_at_once_and_submits_only_what_is_missing_the_next_time(cwd: Path) -> None:
    line = f"hydra.launcher.wait=false {SLOWLY}"
    first = sweep(f"{line} seed=0,1", cwd)
    assert first.code == 0, first.err
    assert not list(cwd.glob("outputs/*/result.json"))
    again = sweep(f"{line} seed=0,1", cwd)
    assert again.code == 0, again.err
    assert "already in the queue: 2 runs" in again.out
    assert "submitted" not in again.out
    assert number(first) in again.out
    more = sweep(f"{line} seed=0,1,2", cwd)
    assert "submitted 1 run " in more.out
    (cwd / "fast").touch()
    last = sweep(f"{SLOWLY} seed=0,1,2", cwd)
    assert last.code == 0, last.out + last.err
    assert "3 of 3 runs are finished" in last.out
    assert "submitted" not in last.out
    assert_as_if_nothing_had_happened(cwd, SLOWLY, [0, 1, 2])


def test_a_failed_run_is_a_failed_job_and_the_other_runs_of_its_job_go_on(cwd: Path) -> None:
    (cwd / "fast").touch()
    done = sweep(f"hydra.launcher.runs_per_job=2 {SLOWLY} seed=0,1 lr=0.1,1e30", cwd)
    assert done.code == 1, done.out
    job = number(done)
    assert [state(f"{job}_{i}") for i in range(2)] == ["FAILED", "FAILED"]
    assert "2 of 4 runs are finished" in done.out
    assert f"job {job}_0 is FAILED" in done.out
    assert "1 of 2 runs failed" in job_log(cwd, f"{job}_0")
    assert "Traceback" not in done.out + done.err + job_log(cwd, f"{job}_0")
    again = sweep(f"{SLOWLY} seed=0,1 lr=0.1", cwd)
    assert again.code == 0, again.err
    assert "submitted" not in again.out


def test_what_slurm_refuses_is_reported_in_its_words_and_nothing_is_written(cwd: Path) -> None:
    refused(sweep("hydra.launcher.partition=nowhere seed=0,1", cwd), "Slurm rejected the job", "partition")
    assert not [path for path in (cwd / "outputs" / ".submitit").rglob("*") if path.is_file()]


def test_more_jobs_than_slurm_accepts_at_a_time_must_share_jobs(cwd: Path) -> None:
    most = int(re.findall(r"MaxArraySize\s*= (\d+)", asked("scontrol", "show", "config"))[0])
    register()
    options = ["hydra/launcher=submitit_slurm", f"hydra.launcher.submitit_folder={cwd}/%j"]
    launcher = slurm_launcher(composed([], options))
    assert launcher is not None
    with pytest.raises(Exception, match=r"runs_per_job=2 or more"):
        launcher.submit({str(i): [] for i in range(most + 1)})


def test_a_job_that_reads_the_file_of_another_is_submitted_when_that_is_finished(cwd: Path) -> None:
    (cwd / "mine" / "grid").mkdir()
    (cwd / "mine" / "grid" / "chain.yaml").write_text(
        "common: epochs=1 evaluations=1\n"
        "sweeps:\n"
        "  - sampler=subset sampler.base=one/*/kept.csv sampler.file=one/*/scores.csv sampler.add=0.1 seed=0,1\n"
        "  - sampler=subset sampler.file=start/*/scores.csv sampler.add=0.1 scores=ensemble output_dir=one\n"
        "  - scores=random output_dir=start\n"
    )
    first = sweep("hydra.launcher.wait=false grid=chain", cwd)
    assert first.code == 0, first.err
    assert "4 runs: 3 waiting, 1 missing" in first.out
    assert "waiting for others: 3 runs; the same command submits what waits" in first.out
    done = sweep("grid=chain", cwd)  # waits for the first job too, and submits two rounds
    assert done.code == 0, done.err
    assert done.out.count("submitted ") == 2
    assert "4 of 4 runs are finished" in done.out


def test_runs_whose_value_is_tuned_are_submitted_after_their_tuning_runs(cwd: Path) -> None:
    line = "epochs=0.2 evaluations=1 tune=lr tune.values=[1e30,0.1] tune.seeds=[7] seed=0,1"
    first = sweep(f"hydra.launcher.wait=false {line}", cwd)
    assert first.code == 0, first.err
    assert "4 runs: 2 waiting, 2 missing" in first.out
    assert "waiting for others: 2 runs; the same command submits what waits" in first.out
    done = sweep(line, cwd)  # waits for the first two
    assert done.code == 0, done.err
    assert done.out.count("submitted ") == 1
    assert "3 of 4 runs are finished" in done.out
    assert "; its value is not chosen" in done.out
    tuned = [json.loads(path.read_text()) for path in cwd.glob("outputs/*/result.json")]
    assert [result["config"]["lr"] for result in tuned] == [0.1, 0.1]


def test_ctrl_c_while_a_sweep_waits_leaves_the_jobs_alone_and_says_how_to_cancel_them(cwd: Path) -> None:
    line = f"-m --config-dir mine hydra/launcher=submitit_slurm hydra.launcher.timeout_min=10 {SLOWLY} seed=0"
    running = started(line, cwd)
    eventually(lambda: lines(cwd, 0))
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    job = number(Done(running.returncode, out, err, cwd))
    assert (running.returncode, err) == (
        130,
        f"budgetrun: interrupted; the jobs go on without you; scancel {job} cancels them\n",
    ), out
    assert state(job) == "RUNNING"


# ---- stopping


def stopped_by(cwd: Path, jobs: dict[int, tuple[str, list[str]]]) -> None:
    """Do something to each running job, by seed, and check that it starts again from where it was."""
    before = {job: int(about(job)["Restarts"]) for job, _ in jobs.values()}
    for _, command in jobs.values():
        asked(*command)
    for seed, (job, _) in jobs.items():
        path = folder(cwd, seed)
        assert path is not None
        log = path / "train.log"
        eventually(lambda log=log, job=job: log.read_text().count("goes on from update") == before[job] + 1)
        assert int(about(job)["Restarts"]) == before[job] + 1


def kill(job: str) -> None:
    """End the processes of a job as the kernel does if memory runs out."""
    steps = asked("scontrol", "listpids", about(job)["JobId"]).splitlines()[1:]
    for pid in [int(pid) for pid, _, step, *_ in map(str.split, steps) if step == "0"]:
        with contextlib.suppress(ProcessLookupError):  # its parent ended first
            os.kill(pid, signal.SIGKILL)


def test_a_job_that_is_told_to_stop_saves_goes_back_to_the_queue_and_ends_as_if_nothing_had_happened(
    cwd: Path,
) -> None:
    job = number(sweep(f"hydra.launcher.wait=false {SLOWLY} seed=0,1", cwd))
    one, other = f"{job}_0", f"{job}_1"
    eventually(lambda: lines(cwd, 0) and lines(cwd, 1))
    stopped_by(cwd, {0: (one, ["scancel", "--signal=USR2", one]), 1: (other, ["scancel", "--signal=TERM", other])})
    stopped_by(cwd, {0: (one, ["scancel", "--signal=USR1", one]), 1: (other, ["scontrol", "requeue", other])})
    (cwd / "fast").touch()
    done = sweep(f"{SLOWLY} seed=0,1", cwd)
    assert done.code == 0, done.out + done.err
    assert [state(one), state(other)] == ["COMPLETED"] * 2
    assert_as_if_nothing_had_happened(cwd, SLOWLY, [0, 1])


def test_the_tasks_of_a_job_train_one_run_together_and_go_on_after_a_requeue(cwd: Path) -> None:
    line = f"hydra.launcher.tasks_per_node=2 {SLOWLY} seed=0"
    job = number(sweep(f"hydra.launcher.wait=false {line}", cwd))
    eventually(lambda: lines(cwd, 0))
    stopped_by(cwd, {0: (job, ["scancel", "--signal=USR2", job])})
    (cwd / "fast").touch()
    done = sweep(line, cwd)
    assert done.code == 0, done.out + done.err
    eventually(lambda: state(job) == "COMPLETED")
    path = folder(cwd, 0)
    assert path is not None
    assert json.loads((path / "result.json").read_text())["processes"] == 2


def test_a_cancelled_job_saves_and_a_killed_one_goes_on_from_its_last_checkpoint(cwd: Path) -> None:
    line = f"{SLOWLY} checkpoint_every=0.5"
    job = number(sweep(f"hydra.launcher.wait=false {line} seed=0,1", cwd))
    eventually(lambda: lines(cwd, 0) >= 4 and lines(cwd, 1) >= 4)
    asked("scancel", f"{job}_0")
    kill(f"{job}_1")
    eventually(lambda: (state(f"{job}_0"), state(f"{job}_1")) == ("CANCELLED", "FAILED"))
    assert "saved at update" in job_log(cwd, f"{job}_0")
    at = [update(cwd, 0), update(cwd, 1)]
    assert min(at) > 1
    (cwd / "fast").touch()
    done = sweep(f"{line} seed=0,1", cwd)
    assert done.code == 0, done.out + done.err
    for seed in range(2):
        assert f"goes on from update {at[seed]}" in job_log(cwd, f"{number(done)}_{seed}")
    assert_as_if_nothing_had_happened(cwd, line, [0, 1])


def test_a_sweep_whose_jobs_are_killed_at_random_moments_ends_as_a_quiet_one(cwd: Path, kills: int) -> None:
    line = f"sampler=uniform,is aug=none,ricap seed=range({max(2, kills // 4)}) epochs=2 checkpoint_every=0.05"
    options = "hydra.launcher.name=soak hydra.launcher.runs_per_job=2"
    queue = "squeue", "--me", "--noheader", "--name=soak", "--format=%i"
    chance, outputs, killed = random.Random(0), cwd / "outputs", 0
    finished: dict[Path, int] = {}

    def one_more(than: int) -> bool:
        return len(times(outputs)) > than or not asked(*queue)

    for _ in range(kills):
        sweep(f"hydra.launcher.wait=false {options} {line}", cwd)
        eventually(functools.partial(one_more, len(finished)))
        time.sleep(chance.uniform(0, 1))
        if running := asked(*queue, "--states=RUNNING").split():
            kill(chance.choice(running))
            killed += 1
        now = times(outputs)
        assert finished.items() <= now.items(), "what is finished stays as it is"
        finished = now
    assert killed > 0
    assert len(finished) > 0
    done = sweep(f"{options} {line}", cwd)
    assert done.code == 0, done.out + done.err
    (cwd / "quiet").mkdir()
    assert here(f"-m {line}", cwd / "quiet").code == 0
    assert_as_quiet(outputs, cwd / "quiet" / "outputs", finished)


def test_a_search_whose_sweep_and_jobs_are_killed_in_its_second_round_ends_as_a_quiet_one(cwd: Path) -> None:
    (cwd / "mine" / "grid").mkdir()
    (cwd / "mine" / "grid" / "search.yaml").write_text(SEARCH)
    quiet = cwd / "quiet"
    quiet.mkdir()
    assert here(f"--config-dir {cwd}/mine grid=search epochs=8", quiet).code == 0
    for earlier in ("start", "0", "1"):
        shutil.copytree(quiet / "rounds" / earlier, cwd / "rounds" / earlier)
    options = "hydra.launcher.timeout_min=10 hydra.launcher.cpus_per_task=1 hydra.launcher.name=search"
    line = f"--config-dir mine grid=search epochs=8 hydra/launcher=submitit_slurm {options}"
    with started(line, cwd) as running:
        eventually(lambda: list(cwd.glob("rounds/2/*/kept.csv")))
        running.kill()
        jobs = asked("squeue", "--me", "--noheader", "--name=search", "--format=%i", "--states=RUNNING").split()
        for job in jobs:
            kill(job)
    assert jobs
    assert not list(cwd.glob("outputs/search/*/result.json"))
    done = process(line, cwd)
    assert done.code == 0, done.out + done.err
    assert "8 of 8 runs are finished" in done.out
    assert found_by_search(cwd / "rounds") == found_by_search(quiet / "rounds")
    assert found_by_search(cwd / "outputs") == found_by_search(quiet / "outputs")


def test_a_preempted_job_goes_on_later_with_time_to_save_and_without(cwd: Path) -> None:
    if "graceful" not in (partitions := asked("sinfo", "--noheader", "--format=%R").split()):
        pytest.skip(f"this Slurm has no partitions of scripts/one_node_slurm.sh but {', '.join(partitions)}")
    jobs = [
        number(sweep(f"hydra.launcher.wait=false hydra.launcher.partition={partition} {SLOWLY} seed={seed}", cwd))
        for seed, partition in enumerate(("main", "graceful"))
    ]
    eventually(lambda: lines(cwd, 0) and lines(cwd, 1))
    everything = ["sbatch", "--partition=urgent", "--exclusive", f"--output={cwd / 'urgent'}", "--wrap=true"]
    stopped_by(cwd, {0: (jobs[0], everything), 1: (jobs[1], ["true"])})
    (cwd / "fast").touch()
    done = sweep(f"{SLOWLY} seed=0,1", cwd)
    assert done.code == 0, done.out + done.err
    assert_as_if_nothing_had_happened(cwd, SLOWLY, [0, 1])


def test_a_run_longer_than_the_time_limit_takes_several_jobs(cwd: Path) -> None:
    options = "hydra.launcher.wait=false hydra.launcher.timeout_min=1 hydra.launcher.signal_delay_s=30"
    job = number(sweep(f"{SLOWLY} seed=0 epochs=6 {options}", cwd))
    eventually(lambda: about(job)["Restarts"] == "1")
    # a busy machine may have spent the first job on its imports
    eventually(lambda: "goes on from update" in job_log(cwd, job), seconds=400)
    (cwd / "fast").touch()
    eventually(lambda: state(job) == "COMPLETED")
    assert "SIGUSR2" in (log := job_log(cwd, job)), log


def test_a_failed_run_is_not_tried_again_when_its_job_starts_again(cwd: Path) -> None:
    line = f"hydra.launcher.wait=false hydra.launcher.runs_per_job=2 {SLOWLY} seed=0 lr=1e30,0.1"
    job = number(sweep(line, cwd))
    eventually(lambda: "update 2:" in job_log(cwd, job))
    asked("scancel", "--signal=USR2", job)
    (cwd / "fast").touch()
    eventually(lambda: state(job) == "FAILED")
    log = job_log(cwd, job)
    assert "goes on from update" in log
    assert "1 of 2 runs failed" in log
    assert log.count("try a smaller lr") == 1


def test_forced_runs_are_forced_once_however_often_their_job_starts(cwd: Path) -> None:
    line = f"{SLOWLY} epochs=1 evaluations=11 seed=0,1"
    (cwd / "fast").touch()
    assert here(f"-m --config-dir mine {line}", cwd).code == 0
    (cwd / "fast").unlink()
    job = number(sweep(f"hydra.launcher.wait=false hydra.launcher.runs_per_job=2 force=true {line}", cwd))
    eventually(lambda: 0 < lines(cwd, 1) < 11)
    stopped_by(cwd, {1: (job, ["scancel", "--signal=USR2", job])})
    (cwd / "fast").touch()
    eventually(lambda: state(job) == "COMPLETED")
    for seed in range(2):
        assert len(list(cwd.glob(f"outputs/*-s{seed}-*/result.json*"))) == 2, "the one before and the one after"


def test_the_readmes_script_for_sbatch_saves_and_goes_on(cwd: Path) -> None:
    script = (CHECKOUT / "docs" / "sweeps.md").read_text().partition("<!-- sbatch -->\n```\n")[2].partition("```")[0]
    assert script.count("python -m budgetrun sampler=is budget=0.3 aug=ricap") == 1
    mine = f"{sys.executable} -m budgetrun --config-dir mine {SLOWLY} seed=0"
    script = script.replace("python -m budgetrun sampler=is budget=0.3 aug=ricap", mine)
    (cwd / "script.sh").write_text(script.replace("--cpus-per-task=4", "--cpus-per-task=1"))
    submit = ["sbatch", "--parsable", f"--output={cwd / 'log'}", "script.sh"]
    asked_for = subprocess.run(submit, cwd=cwd, env=environment(), capture_output=True, text=True, check=True)
    job = asked_for.stdout.strip()
    eventually(lambda: lines(cwd, 0))
    stopped_by(cwd, {0: (job, ["scancel", "--signal=USR1", job])})
    (cwd / "fast").touch()
    eventually(lambda: state(job) == "COMPLETED")
    assert "run the same command again to go on" in (cwd / "log").read_text()
    assert_as_if_nothing_had_happened(cwd, SLOWLY, [0])


# ---- without a Slurm


def test_without_slurm_one_sentence_says_so_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = shutil.which("git")
    monkeypatch.setenv("PATH", str(Path(git).parent) if git and not (Path(git).parent / "sbatch").exists() else "")
    refused(here("-m hydra/launcher=submitit_slurm epochs=1 seed=0,1", tmp_path), "no sbatch", "login node")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_submitit_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    refused(here("-m hydra/launcher=submitit_slurm epochs=1 seed=0,1", tmp_path), "budgetrun[slurm]")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("timeout_min=0", ["timeout_min=0", "greater than 0"]),
        ("runs_per_job=0", ["runs_per_job=0"]),
        ("signal_delay_s=3600", ["signal_delay_s=3600", "timeout_min=60"]),
        ("max_num_timeout=-1", ["max_num_timeout=-1", "at least 0"]),
        ("nodes=0", ["nodes=0", "greater than 0"]),
        ("tasks_per_node=0", ["tasks_per_node=0", "greater than 0"]),
        ("mem_gb=much", ["hydra.launcher.mem_gb=much", "number"]),
        ("wait=perhaps", ["hydra.launcher.wait=perhaps", "true or false"]),
        ("partiton=gpu", ["partiton", "partition"]),
    ],
)
def test_senseless_options_are_refused(option: str, words: list[str], tmp_path: Path) -> None:
    refused(here(f"-m hydra/launcher=submitit_slurm hydra.launcher.{option} epochs=1 seed=0,1", tmp_path), *words)
    assert not list(tmp_path.iterdir()), "something was written"


def job_of(submitted: str) -> subprocess.CompletedProcess[str]:
    """A job without runs, whose process gets a signal after Python has restored the signal handlers."""
    program = f"""
import os, signal, sys
from budgetrun.folder.run import commit
from budgetrun.launch.slurm import Allocation

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), signum=signal.SIGUSR2):  # names are gone by then
        kill(pid, signum)

sys.late = Late()
signal.signal(signal.SIGUSR2, lambda *_: None)
Allocation({{}}, {submitted})()
"""
    return subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)


def test_a_job_whose_code_was_changed_after_the_submission_says_so() -> None:
    assert "it was commit 0123abc, now it is" in job_of("('0123abc', False)").stderr
    assert job_of("commit()").stderr == ""


def test_a_signal_in_the_last_moments_of_a_job_does_not_make_it_a_failed_one() -> None:
    assert job_of("commit()").returncode == 0
