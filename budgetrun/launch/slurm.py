"""A sweep as Slurm jobs, which save when they are stopped and go on when they start again.

Slurm's own commands (https://slurm.schedmd.com) and submitit do the work.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from budgetrun.digits import quantity
from budgetrun.errors import STOPPING, Interrupted, UserError, one_line
from budgetrun.folder.run import commit

log = logging.getLogger("budgetrun")

# the states in which Slurm is done with a job; a requeued job has a different state
ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)
SLOWEST = 30.0  # longest time in seconds between two queries to Slurm while a sweep waits


@dataclass
class SlurmLauncher:
    """Submits a sweep as a job array. It implements `hydra/launcher=submitit_slurm`.

    conf/hydra/launcher/submitit_slurm.yaml has the options' values and meanings. They are those of sbatch, under the
    names that hydra-submitit-launcher gives them, except for `wait` and `runs_per_job`, our own. So are the final state
    of a job (a failed run makes a FAILED job) and the handling of signals.
    """

    wait: bool
    runs_per_job: int
    array_parallelism: int

    partition: str | None
    account: str | None
    qos: str | None
    timeout_min: int
    signal_delay_s: int
    max_num_timeout: int

    cpus_per_task: int | None
    gpus_per_node: int | None
    mem_gb: float | None
    gres: str | None
    constraint: str | None
    exclude: str | None
    cpus_per_gpu: int | None
    gpus_per_task: int | None
    mem_per_gpu: str | None
    mem_per_cpu: str | None
    nodes: int
    tasks_per_node: int

    name: str
    comment: str | None
    additional_parameters: dict[str, Any] | None
    setup: list[str] | None
    submitit_folder: str
    stderr_to_stdout: bool

    def __post_init__(self) -> None:
        counts = "runs_per_job", "array_parallelism", "nodes", "tasks_per_node"
        for key in (*counts, "timeout_min", "cpus_per_task", "mem_gb"):
            if (value := getattr(self, key)) is not None and value <= 0:
                raise ValueError(f"{key}={value} must be greater than 0")
        for key in ("signal_delay_s", "max_num_timeout"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}={getattr(self, key)} must be at least 0")
        if self.signal_delay_s >= 60 * self.timeout_min:
            limit = f"the {60 * self.timeout_min} seconds of timeout_min={self.timeout_min}"
            raise ValueError(f"signal_delay_s={self.signal_delay_s} leaves nothing of {limit}")

    def check(self) -> None:
        """Raises UserError if Slurm or submitit is missing, before anything is written."""
        submitit_or_why()
        states()

    def queue(self, commands: Mapping[str, Sequence[str]], others: Collection[str] = ()) -> None:
        """Submit runs, each given by its folder and the command line that runs it alone, and `wait` for them.

        Runs that a job in the queue already has are not submitted again. others: folders of runs that are not
        submitted, but are waited for if a job has them. Raises UserError if Slurm refuses.
        """
        asked = commands.keys() | set(others)
        there = {job: runs for job, runs in self.queued().items() if asked & set(runs)}
        taken = {run for runs in there.values() for run in runs}
        new = {run: list(command) for run, command in commands.items() if run not in taken}
        if there:
            print(f"already in the queue: {quantity(len(asked & taken), 'run')}", flush=True)
        jobs = there | (self.submit(new) if new else {})
        if not jobs:
            return
        numbers = " ".join(sorted({job.partition("_")[0] for job in jobs}, key=int))
        print(f"  to see them:    squeue --me\n  to cancel them: scancel {numbers}", flush=True)
        if not self.wait:
            print("  run the same command again to submit what is missing then, and to sum up what is finished")
            return
        try:
            self.watch(jobs)
        except KeyboardInterrupt as interrupt:
            how = f"the jobs go on without you; scancel {numbers} cancels them"
            raise Interrupted(how, getattr(interrupt, "signum", signal.SIGINT)) from None

    def queued(self) -> dict[str, list[str]]:
        """The runs of every job submitted with this folder that Slurm is not done with, by job number."""
        submitit = submitit_or_why()
        active = [job for job, state in states().items() if state not in ENDED]
        jobs = [submitit.SlurmJob(self.submitit_folder, job) for job in active]
        do = {job.job_id: job.submission().function for job in jobs if job.paths.submitted_pickle.exists()}
        return {job: list(part.commands) for job, part in do.items() if isinstance(part, Allocation)}

    def submit(self, commands: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Submit runs as one job array, and return the runs of each job by its number."""
        submitit = submitit_or_why()
        runs = list(commands.items())
        size = self.runs_per_job
        here = commit()
        parts = [Allocation(dict(runs[i : i + size]), here) for i in range(0, len(runs), size)]
        if len(parts) > (most := longest_array()):
            enough = -(-len(runs) // most)
            raise UserError(
                f"Slurm accepts {most} jobs at a time here, and this sweep has {len(parts)}; "
                f"set hydra.launcher.runs_per_job={enough} or more"
            )
        folder = Path(submitit.core.utils.JobPaths.get_first_id_independent_folder(self.submitit_folder))
        folder.mkdir(parents=True, exist_ok=True)
        before = set(folder.iterdir())
        try:
            executor = submitit.SlurmExecutor(self.submitit_folder, max_num_timeout=self.max_num_timeout)
            executor.update_parameters(**self.parameters())
            with contextlib.redirect_stderr(io.StringIO()):  # submitit also prints there what it raises
                jobs = executor.submit_array(parts)
        except submitit.core.utils.UncompletedJobError as error:  # what sbatch said
            for path in set(folder.iterdir()) - before:
                path.unlink()
            raise UserError(f"Slurm rejected the job: {one_line(error)}") from error
        number = jobs[0].job_id.partition("_")[0]
        array = f", an array of {len(jobs)}" if len(jobs) > 1 else ""
        print(f"submitted {quantity(len(runs), 'run')} as job {number}{array}; the first log: {jobs[0].paths.stdout}")
        return {job.job_id: list(part.commands) for job, part in zip(jobs, parts, strict=True)}

    def parameters(self) -> dict[str, Any]:
        """The options under submitit's names, which are sbatch's."""
        ours = ("wait", "runs_per_job", "max_num_timeout", "submitit_folder")
        other = {"timeout_min": "time", "name": "job_name", "tasks_per_node": "ntasks_per_node"}
        values = {other.get(k, k): v for k, v in vars(self).items() if k not in (*ours, "mem_gb", "setup")}
        # a job that Slurm may not requeue could not go on after its time limit or a preemption
        values["additional_parameters"] = {"requeue": True} | (self.additional_parameters or {})
        if self.mem_gb is not None:
            values["mem"] = f"{round(1024 * self.mem_gb)}MB"
        # where Slurm does not confine a job to its CPUs, torch would start a thread for each CPU of the machine; since
        # Slurm 22.05, srun does not inherit the job's number of CPUs
        setup = [f"export OMP_NUM_THREADS={self.cpus_per_task or '${SLURM_CPUS_ON_NODE:-1}'}"]
        if self.cpus_per_task is not None:
            setup.append(f"export SRUN_CPUS_PER_TASK={self.cpus_per_task}")
        return values | {"setup": [*setup, *(self.setup or [])]}

    def watch(self, jobs: Mapping[str, list[str]]) -> None:
        """Return when Slurm is done with these jobs; until then, print how many run and wait, and which end badly."""
        submitit = submitit_or_why()
        left, said, pause = dict(jobs), "", 1.0
        while True:
            try:
                now = states()
            except UserError as error:  # slurmctld is restarting or busy; the jobs go on
                say = str(error)
            else:
                for job in [job for job in left if now.get(job, "COMPLETED") in ENDED]:
                    runs = left.pop(job)
                    if (state := now.get(job, "COMPLETED")) != "COMPLETED":
                        where = submitit.SlurmJob(self.submitit_folder, job).paths.stdout
                        print(f"job {job} is {state} ({some(runs)}); log: {where}", flush=True)
                running = sum(now[job] == "RUNNING" for job in left)
                say = f"Slurm: {running} jobs running, {len(left) - running} waiting, {len(jobs) - len(left)} ended"
            if say != said:
                print(f"{time.strftime('%H:%M:%S')} {say}", flush=True)
            if not left:
                return
            pause = min(SLOWEST, 1.3 * pause) if say == said else 1.0
            said = say
            time.sleep(pause)


@dataclass
class Allocation:
    """What one job does: its runs, one after another in one process. It is sent to the job and to the requeued job.

    If the job has several tasks, each calls it, and together they train each run.
    commands: the command line of each run by its folder. submitted: the commit of the code at submission, and whether
    there were changes since. failed: the runs that are not tried again when the job is requeued.
    """

    commands: dict[str, list[str]]
    submitted: tuple[str | None, bool | None]
    failed: list[str] = field(default_factory=list)

    def __call__(self) -> None:
        """Run what is not finished. The job ends as FAILED if a run failed; with several tasks, at once."""
        if several := int(os.environ.get("SLURM_NTASKS", 1)) > 1:
            together = submitit_or_why().helpers.TorchDistributedEnvironment()
            together.export(set_cuda_visible_devices=False, overwrite=True)
        if (now := commit()) != self.submitted:
            before, after = (f"{c}{' and changes' * bool(dirty)}" for c, dirty in (self.submitted, now))
            log.warning("the code has changed since the submission: it was commit %s, now it is %s", before, after)
        for folder, command in self.commands.items():
            if folder in self.failed:
                continue
            code = run(command)
            if code <= 128 or not (Path(folder) / "result.json").exists():  # it has begun, and is forced only once
                self.commands[folder] = [*command, "force=false"]
            if code > 128:
                hand_back(code - 128)
            if code:
                self.failed.append(folder)
                if several:  # the others may be waiting for this one
                    break
        for signum in STOPPING:  # Python removes its handlers before it exits; a finished job would look killed
            signal.signal(signum, signal.SIG_IGN)
        if self.failed:
            sys.exit(f"{len(self.failed)} of {len(self.commands)} runs failed: {some(self.failed)}")

    def checkpoint(self) -> Any:
        """For submitit: what the requeued job calls."""
        return submitit_or_why().helpers.DelayedSubmission(self)


def run(command: Sequence[str]) -> int:
    """Run the command line of one experiment in this process, and return its exit code."""
    sys.argv = ["budgetrun", *command, "hydra.mode=RUN"]
    code: Any = 0
    try:
        runpy.run_module("budgetrun", run_name="__main__")
    except SystemExit as end:
        code = end.code
    except Exception:  # a bug: its traceback belongs in the job's log, and the other runs go on
        traceback.print_exc()
        code = 1
    return int(code or 0)


def hand_back(signum: int) -> NoReturn:
    """Exit a job that has saved after this signal asked it to stop. Requeue it first if it should go on later.

    Slurm sends SIGUSR2 before the time limit, as submitit asks it to, and SIGTERM before a preemption that leaves time.
    The job is RUNNING then, and goes back to the queue. In any other state, Slurm has already decided: scancel and the
    time limit end the job, a preemption and `scontrol requeue` requeue it.
    """
    here = submitit_or_why().JobEnvironment()
    if signum != signal.SIGINT and states(f"--jobs={here.job_id}").get(here.job_id) == "RUNNING":
        signal.raise_signal(here._usr_sig())  # submitit's handler requeues the job, and exits
        if here.global_rank > 0:  # the first task does so; if another one ended before, Slurm might end that too
            time.sleep(60)
    sys.exit(128 + signum)


def states(*which: str) -> dict[str, str]:
    """The state of each job of this user that Slurm remembers, by its number, such as 12, or 12_3 in an array.

    which: options of squeue. Raises UserError if Slurm does not answer.
    """
    if shutil.which("squeue") is None or shutil.which("sbatch") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm needs Slurm, and there is no sbatch on this machine; "
            "run this on a login node of the cluster, or without hydra/launcher"
        )
    ask = ["squeue", f"--user={os.getuid()}", "--array", "--states=all", "--noheader", "--format=%i|%T", *which]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=120, check=True).stdout
    except subprocess.SubprocessError as error:
        why = getattr(error, "stderr", None) or error
        raise UserError(f"Slurm does not answer: {' '.join(str(why).split())}") from error
    return dict(line.split("|") for line in answer.split())


def longest_array() -> int:
    """How many jobs an array may have here."""
    answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=120).stdout
    found = [line.split("=")[1] for line in answer.splitlines() if line.startswith("MaxArraySize")]
    return int(found[0]) if found else 1001  # Slurm's default


def submitit_or_why() -> Any:
    """The submitit module; raises UserError if it is not installed."""
    try:
        import submitit
        import submitit.helpers
    except ImportError as error:
        raise UserError(
            "hydra/launcher=submitit_slurm needs submitit: python -m pip install 'budgetrun[slurm]'"
        ) from error
    return submitit


def some(names: Sequence[str]) -> str:
    """The first three of the names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
