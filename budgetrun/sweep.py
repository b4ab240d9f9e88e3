"""A sweep: all jobs are checked before the first one starts, only what is missing is run, and all is accounted for.

Hydra's launchers launch the jobs. One that breaks because a worker was killed is started again for those that are left.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from budgetrun import lock, status
from budgetrun.composing import Compose, composer, config_dir, overrides_of, own
from budgetrun.config import Experiment, build, choices_of, experiment
from budgetrun.contracts import Settings
from budgetrun.errors import Interrupted, UserError, heard
from budgetrun.explain import explain
from budgetrun.fit import Fit
from budgetrun.grid import jobs_of
from budgetrun.job import task
from budgetrun.lock import Busy
from budgetrun.progress import duration
from budgetrun.results import FAILED, FINISHED, INTERRUPTED, MISSING, RUNNING, STATES, RunFolder
from budgetrun.slurm import SlurmLauncher

LOCAL = (".BasicLauncher", ".JoblibLauncher")  # those that run the jobs on this machine
KILLED = 3  # times that a run's worker was killed while no other ran, after which the sweep goes on without it
Errors = dict[Path, BaseException]


class Job:
    """A checked job of a sweep: what was typed for it, and the run that it is."""

    def __init__(self, overrides: list[str], experiment: Experiment) -> None:
        self.overrides, self.experiment = overrides, experiment
        self.folder = RunFolder(experiment.settings.output_dir, experiment.run_id)

    def is_wanted(self, word: str) -> bool:
        """Whether the sweep is to run it in this state: not what another runs, nor what failed unless asked."""
        settings = self.experiment.settings
        again = {FINISHED: settings.force, FAILED: settings.force or settings.retry_failed}
        return again.get(word, word in (MISSING, INTERRUPTED))

    def ends(self) -> list[int | None]:
        """When its result and its failure were written: those from before the sweep are not what it is to make."""
        paths = self.folder.result_path, self.folder.failed_path
        return [path.stat().st_mtime_ns if path.exists() else None for path in paths]

    def ended_since(self, before: list[int | None]) -> bool:
        """Whether there is a result or a failure that was not; a forced run sets the old ones aside as it begins."""
        return any(now is not None and now != then for now, then in zip(self.ends(), before, strict=True))


def sweep(arguments: list[str], conf: Path, app: Callable[[], Any]) -> int:
    """Check all jobs of the command line, launch those that are wanted, report; the exit code."""
    with composer(arguments, conf) as compose:
        whole = compose([*overrides_of(arguments), "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        if not whole.hydra.sweeper._target_.endswith(".BasicSweeper"):  # it chooses a job by the results of others
            app()
            return 0
        fit = Fit() if whole.hydra.launcher._target_.endswith(LOCAL) else None
        jobs = check(arguments, conf, compose, whole, fit)
        with open_dict(whole):
            whole.hydra.hydra_logging = whole.hydra.job_logging  # with which launchers name the jobs
            whole.output_dir = jobs[0].experiment.settings.output_dir  # for files of their own
        cluster = slurm_launcher(whole)
        found = {job: job.folder.state().word for job in jobs}
        wanted = [job for job in jobs if job.is_wanted(found[job])]
        finished = [job for job in jobs if found[job] == FINISHED]
        print(f"{len(jobs)} runs: {', '.join(counted(found.values()))}{expected(finished, wanted, fit)}", flush=True)
        status.write_plan({job.folder.path: job.overrides for job in jobs})
        if cluster is not None:
            running = [str(job.folder.path) for job in jobs if found[job] == RUNNING]
            flags = ["--config-dir", str(folder)] if (folder := config_dir(arguments)) else []
            cluster.launch({str(job.folder.path): [*flags, *job.overrides] for job in wanted}, running)
            return report(jobs, {}, arguments, conf) if cluster.wait else 0
        with stopping(wanted):
            errors = launched(wanted, whole)
    return report(jobs, errors, arguments, conf)


def slurm_launcher(whole: DictConfig) -> SlurmLauncher | None:
    """The launcher, where it is Slurm's; raises UserError where its options make no sense, or it is missing."""
    if not whole.hydra.launcher._target_.endswith(".SlurmLauncher"):
        return None
    launcher: SlurmLauncher = build(OmegaConf.to_container(whole.hydra.launcher, resolve=True), "hydra.launcher.")
    launcher.check()
    return launcher


def check(arguments: list[str], conf: Path, compose: Compose, whole: DictConfig, fit: Fit | None) -> list[Job]:
    """All jobs of the command line, each run once.

    Raises UserError that names the first job that makes no sense, and why.
    """
    composed = Composed(compose, list(whole.hydra.overrides.hydra))
    jobs: dict[Path, Job] = {}
    wrong = []
    for overrides in jobs_of(whole.hydra.overrides.task, compose):
        try:
            checked = experiment(*composed(overrides))
            if fit is not None:
                fit(checked)
            job = Job(overrides, checked)
            jobs.setdefault(job.folder.path, job)
        except Exception as error:
            wrong.append((overrides, error))
    if wrong:
        overrides, first = wrong[0]
        if (sentence := explain(first, [*arguments, *overrides], conf)) is None:
            raise first
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(f"no job was started, because this one cannot run: {' '.join(overrides)}: {sentence}{more}")
    return list(jobs.values())


class Composed:
    """Configurations of jobs; Hydra composes each choice of options once, and values are put into copies of it.

    Composing takes 0.2 s, so that a grid of a thousand runs would take minutes. Hydra itself sets values last.
    """

    def __init__(self, compose: Compose, hydra_overrides: list[str]) -> None:
        self.compose, self.hydra_overrides = compose, hydra_overrides
        self.values = {f.name for f in dataclasses.fields(Settings)}
        self.known: dict[tuple[str, ...], tuple[DictConfig, dict[str, Any]]] = {}

    def __call__(self, overrides: list[str]) -> tuple[DictConfig, dict[str, Any]]:
        """The configuration of a job, without Hydra's part, and the option chosen in each group."""
        values = [o for o in overrides if "." in (key := o.partition("=")[0].lstrip("+~")) or key in self.values]
        options = tuple(o for o in overrides if o not in values)
        if options not in self.known:
            cfg = self.compose([*options, *self.hydra_overrides])
            self.known[options] = own(cfg), choices_of(cfg.hydra)
        cfg = copy.deepcopy(self.known[options][0])
        ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), cfg)
        return cfg, self.known[options][1]


def counted(states: Iterable[str]) -> list[str]:
    """How many runs are in which state, in words."""
    counts = Counter(states)
    return [f"{counts[word]} {word}" for word in STATES if counts[word]]


def expected(finished: list[Job], wanted: list[Job], fit: Fit | None) -> str:
    """How long the wanted ones will take, in words: as long as the finished ones, or as their updates take here."""
    if not wanted:
        return ""
    took = [(job, result["seconds_total"]) for job in finished if (result := job.folder.finished())]
    if fit is None:
        each = f", {duration(sum(s for _, s in took) / len(took))} each so far" if took else ""
        return f"; {len(wanted)} to run{each}"
    seconds = sum(fit.seconds(job.experiment) for job in wanted)
    if took:
        seconds *= sum(s for _, s in took) / sum(fit.seconds(job.experiment) for job, _ in took)
        return f"; {len(wanted)} to run, about {duration(seconds)} one after the other"
    return f"; {len(wanted)} to run, about {duration(seconds)} of updates here, looks and evaluations not counted"


def launched(jobs: list[Job], whole: DictConfig) -> Errors:
    """Run the jobs by Hydra's launcher; what those raised that did not finish, by folder.

    Killed workers take the others with them. Where none of the jobs ended before that, the halves are launched one
    after the other, until the one that kills its worker is alone; the others finish.
    """
    errors: Errors = {}
    ends = {job.folder.path: job.ends() for job in jobs}
    batches, alone = [jobs] if jobs else [], Counter[Path]()
    while batches:
        batch = batches.pop(0)
        try:
            for job, done in zip(batch, launch(batch, whole), strict=True):
                if done.status is JobStatus.FAILED and not isinstance(done._return_value, Busy):
                    errors[job.folder.path] = done._return_value
            continue
        except BrokenExecutor:
            states = {job: job.folder.state().word for job in batch}
        left = [job for job in batch if not job.ended_since(ends[job.folder.path])]
        left.sort(key=lambda job: states[job] != MISSING)  # those that had begun last: one of them is to blame
        alone.update(job.folder.path for job in left if len(batch) == 1)
        if left and alone[path := left[0].folder.path] == KILLED:
            errors[path] = UserError(f"its worker was killed {KILLED} times; does the run need more memory?")
            continue
        half = len(left) // 2 if len(left) == len(batch) else 0
        batches[:0] = [part for part in (left[:half], left[half:]) if part]
        print(f"a worker was killed; runs that are left and go on: {sum(map(len, batches))}", flush=True)
    return errors


def launch(jobs: list[Job], whole: DictConfig) -> Sequence[JobReturn]:
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(whole))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=whole)
    return launcher.launch([job.overrides for job in jobs], initial_job_idx=0)


@contextlib.contextmanager
def stopping(jobs: list[Job]) -> Iterator[None]:
    """Ctrl-C and SIGTERM let the runs in this process's workers save, before its launcher kills the workers."""

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.default_int_handler)  # the second time stops at once
        asked: set[tuple[Path, int]] = set()
        until = time.monotonic() + 60
        while time.monotonic() < until and (running := workers()):
            for _, pid in running - asked:  # also a worker that has saved one run and begun another
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            asked |= running
            time.sleep(0.05)
        raise Interrupted("run the same command again to go on", signum)

    def workers() -> set[tuple[Path, int]]:
        holders = [(job.folder.path, who) for job in jobs if (who := lock.holder(job.folder.path))]
        ours = socket.gethostname(), os.getpid()
        return {(path, who["pid"]) for path, who in holders if (who["host"], who["parent"]) == ours}

    with heard((signal.SIGINT, signal.SIGTERM), stop):
        yield


def report(jobs: list[Job], errors: Errors, arguments: list[str], conf: Path) -> int:
    """Say what became of the runs; raises UserError where one is not finished, or its error where that is a bug."""
    states = {job.folder: job.folder.state() for job in jobs}
    left = {folder: state for folder, state in states.items() if state.word != FINISHED}
    print(f"{len(jobs) - len(left)} of {len(jobs)} runs are finished")
    reasons = []
    for folder, state in left.items():
        error = errors.get(folder.path)
        reason = (error and explain(error, arguments, conf)) or state.detail
        log = f" (see {folder.log_path})" if folder.log_path.exists() else ""
        print(f"  {state.word}: {folder.path}{reason and ': '}{reason}{log}")
        reasons.append(reason or state.word)
    for error in errors.values():
        if explain(error, arguments, conf) is None:
            raise error
    if left:
        again = "; retry_failed=true runs the failed ones again" if FAILED in {s.word for s in left.values()} else ""
        raise UserError(f"{len(left)} of {len(jobs)} runs are not finished; the first: {reasons[0]}{again}")
    return 0
