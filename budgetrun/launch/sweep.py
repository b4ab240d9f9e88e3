"""A sweep: all jobs are checked before the first one starts, only missing runs are run, and every run is reported.

Hydra's launchers launch the jobs. A launcher that breaks because a worker was killed is restarted for the jobs left.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from budgetrun.config import Experiment, experiment, typed
from budgetrun.contracts import Selects
from budgetrun.digits import quantity, short
from budgetrun.errors import STOPPING, Interrupted, UserError, heard, in_own_code
from budgetrun.folder import lock
from budgetrun.folder.lock import Busy
from budgetrun.folder.plan import counted, waiting, write_plan
from budgetrun.folder.run import FAILED, FINISHED, INTERRUPTED, MISSING, RUNNING, WAITING, RunFolder, State
from budgetrun.folder.scorefile import NotThere
from budgetrun.identity import expect, made_files, real, same_but_budget
from budgetrun.launch.closing import after_sweep
from budgetrun.launch.compose import Composed, typed_as
from budgetrun.launch.explain import explain
from budgetrun.launch.grid import jobs_of
from budgetrun.launch.preflight import Preflight
from budgetrun.launch.preview import preview
from budgetrun.launch.slurm import SlurmLauncher
from budgetrun.launch.tuning import experiment_of
from budgetrun.launch.workers import check_alone
from budgetrun.training.data import shared
from budgetrun.training.machine import count_gpus, find_device
from budgetrun.training.progress import duration

LOCAL = (".BasicLauncher", ".JoblibLauncher")  # the launchers that run jobs on this machine
DEEPEST = 100  # how many runs may need each other's files one after the other
KILLED = 3  # the sweep goes on without a run whose worker was killed this often while no other ran
Errors = dict[Path, BaseException]


class Job:
    """A checked job of a sweep: its overrides and its run."""

    def __init__(self, overrides: list[str], experiment: Experiment) -> None:
        self.overrides, self.experiment = overrides, experiment
        self.folder = RunFolder(experiment.settings.output_dir, experiment.run_id)
        self.found = self.folder.state().word  # before the sweep
        self.place = real(str(self.folder.path))
        self.reads = made_files(experiment.resolved)  # files in other runs' folders
        self.after: set[Path] = set()  # the folders of other jobs of the sweep whose files it reads
        self.tuning: set[Path] = set()  # and of those by which its value is chosen

    def is_wanted(self) -> bool:
        """Whether the sweep should run it. Not if another process is running it, nor if it failed, unless asked."""
        settings = self.experiment.settings
        again = {FINISHED: settings.force, FAILED: settings.force or settings.retry_failed}
        return again.get(self.found, self.found in (MISSING, WAITING, INTERRUPTED))

    def is_unsure(self) -> bool:
        """Whether its id depends on other runs."""
        return bool(self.reads or self.experiment.tuning)

    def makes(self) -> list[Path]:
        """The files that other runs may read once it is finished."""
        made = [self.folder.checkpoint_path]
        made += [self.folder.scores_path] if self.experiment.scores is not None else []
        made += [self.folder.features_path] if self.experiment.settings.save_features else []
        return made + ([self.folder.kept_path] if isinstance(self.experiment.sampler, Selects) else [])

    def ends(self) -> list[int | None]:
        """When its result and its failure were written, which tells new ones from those before the sweep."""
        paths = self.folder.result_path, self.folder.failed_path
        return [path.stat().st_mtime_ns if path.exists() else None for path in paths]

    def ended_since(self, before: list[int | None]) -> bool:
        """Whether there is a new result or failure. A forced run sets the old ones aside when it begins."""
        return any(now is not None and now != then for now, then in zip(self.ends(), before, strict=True))


def sweep(
    words: Sequence[str],
    whole: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    batch_size: int | None,
    table: bool = True,
) -> list[Path]:
    """Check all jobs that the typed words describe, launch those that are wanted, and report; returns their folders.

    whole: the configuration of the sweep. batch_size: how many jobs a launcher gets at a time, None for all. table:
    whether to print the table of the runs. Raises UserError if a job cannot run, before any is started, and if not all
    runs are finished at the end.
    """
    check_alone()
    check_asked(whole)
    composed = Composed(context.config_loader, whole)
    preflight = Preflight() if whole.hydra.launcher._target_.endswith(LOCAL) else None
    typed = [*flags(whole), *words]
    jobs, wrong = checked(jobs_of(words, composed), composed, preflight, typed)
    if whole.get("dry_run") or any(job.experiment.settings.dry_run for job in jobs):
        runs = [(job.experiment, job.found, job.is_wanted()) for job in jobs]
        preview(runs, [(" ".join(overrides), why) for overrides, why in wrong], preflight)
        return []
    if wrong:
        (job, sentence), more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(f"no job was started, because this one cannot run: {' '.join(job)}: {sentence}{more}")
    with open_dict(whole):
        whole.output_dir = jobs[0].experiment.settings.output_dir  # for the launchers' own files
    cluster = slurm_launcher(whole)
    wanted = [job for job in jobs if job.is_wanted()]
    finished = [job for job in jobs if job.found == FINISHED]
    print(f"{counted([job.found for job in jobs])}{expected(finished, wanted, preflight)}", flush=True)
    preflight = None  # and its copy of the data: each run has its own
    write_plan(
        {job.folder.path: job.overrides for job in jobs},
        {job.folder.path: job.after for job in jobs},
        {job.folder.path: job.tuning for job in jobs},
    )
    errors: Errors = {}
    if cluster is not None:
        running = [str(job.folder.path) for job in jobs if job.found == RUNNING]
        for ready, left in rounds(jobs, wanted):
            cluster.queue({str(job.folder.path): by_itself(job, whole) for job in ready}, running)
            if not cluster.wait:
                if left:
                    print(f"  waiting for others: {quantity(len(left), 'run')}; the same command submits what waits")
                close(jobs, table)
                return [job.folder.path for job in jobs]
    else:
        with stopping(wanted), sharing():
            for ready, _ in rounds(jobs, wanted):
                errors |= launched(ready, whole, context, task, batch_size or len(ready))
    report(jobs, errors, typed)
    close(jobs, table)
    return [job.folder.path for job in jobs]


def close(jobs: list[Job], table: bool) -> None:
    """Print the table of a sweep's runs, tuning runs not included, or the command for it."""
    of_tuning = tuning_places(jobs)
    shown = [(job.experiment, job.folder.result_path) for job in jobs if job.place not in of_tuning]
    if table and shown:
        print(after_sweep(shown), flush=True)


def tuning_places(jobs: list[Job]) -> set[Path]:
    """The folders of the runs by which the values of others are chosen."""
    return {place for job in jobs for place in job.tuning}


def rounds(jobs: list[Job], wanted: list[Job]) -> Iterator[tuple[list[Job], list[Job]]]:
    """The wanted jobs that need not wait, and those that still do, round by round until no more can start."""
    left, begun = wanted, False
    while left or not begun:
        pending = {job.place for job in left}
        needed = {place for job in left for place in job.after | job.tuning} - pending
        states = {job.place: job.folder.state() for job in jobs if job.place in needed}
        no_file = pending | {place for place, state in states.items() if state.word != FINISHED}
        no_accuracy = pending | {place for place, state in states.items() if not state.has_tuned}
        waits = {job.place for job in left if job.after & no_file or job.tuning & no_accuracy}
        ready = [job for job in left if job.place not in waits]
        left = [job for job in left if job.place in waits]
        if not ready and begun:
            return
        yield ready, left
        begun = True


def check_asked(whole: DictConfig) -> None:
    """Raises UserError if Hydra is asked for folders that no run would use, or for no workers or jobs at all."""
    asked: Any = OmegaConf.to_container(whole.hydra.sweep, resolve=False)
    for key, ours in (("dir", "${output_dir}"), ("subdir", ".")):
        if asked[key] != ours:
            raise UserError(
                f"hydra.sweep.{key}={asked[key]} has no effect: a run's folder is named by its configuration; "
                "set output_dir, the folder that contains them all"
            )
    if (size := whole.hydra.sweeper.max_batch_size) is not None and size < 1:
        raise UserError(
            f"hydra.sweeper.max_batch_size={size} allows no jobs at all; set it to 1 or more, or null for all"
        )
    if whole.hydra.launcher.get("n_jobs") == 0:
        raise UserError("hydra.launcher.n_jobs=0 allows no workers at all; set how many, or -1 for one per core or GPU")


def slurm_launcher(whole: DictConfig) -> SlurmLauncher | None:
    """The launcher if it is Slurm's, else None; raises UserError if its options make no sense or Slurm is missing."""
    if not whole.hydra.launcher._target_.endswith(".SlurmQueue"):
        return None
    options: Any = OmegaConf.to_container(whole.hydra.launcher, resolve=True)
    del options["_target_"]
    launcher: SlurmLauncher = typed(SlurmLauncher, options, "hydra.launcher.")
    launcher.check()
    return launcher


def flags(whole: DictConfig) -> list[str]:
    """The flags of a command line that name the configuration of the sweep."""
    sources = {source.provider: source.path for source in whole.hydra.runtime.config_sources}
    named = ["--config-path", sources["main"], "--config-name", whole.hydra.job.config_name]
    return [*named, "--config-dir", sources["command-line"]] if "command-line" in sources else named


def by_itself(job: Job, whole: DictConfig) -> list[str]:
    """The command line that runs a job of the sweep by itself."""
    of_the_sweep = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode")
    rest = [o for o in whole.hydra.overrides.hydra if not o.lstrip("+~").startswith(of_the_sweep)]
    # the folder that the sweep expects, since ${now:...} gives a different time in the job
    return [*flags(whole), *rest, *job.overrides, f"output_dir={typed_as(job.experiment.settings.output_dir)}"]


def checked(
    jobs: Iterable[list[str]], composed: Composed, preflight: Preflight | None, typed: Sequence[str]
) -> tuple[list[Job], list[tuple[list[str], str]]]:
    """The jobs, one per run, and the overrides of those that cannot run, each with the sentence that says why.

    typed: the command line of the sweep. A job may read files that another job makes, or have tuning runs: then its id
    depends on the other's. Such jobs are built again until all ids are known.
    """
    overrides = list(jobs)
    built: dict[int, Job] = {}

    @functools.cache
    def untuned(job: tuple[str, ...]) -> Experiment:
        return experiment(*composed(job))

    def build(job: list[str]) -> Job:
        return Job(job, experiment_of(*composed(job), lambda changes: untuned(tuple(composed.changed(job, changes)))))

    # why a job cannot run; those that only lack a file come last: whoever would make it may be the one to blame
    wrong: dict[int, tuple[bool, str]] = {}

    def attempt(number: int, check: bool) -> None:
        try:
            if not check:
                built[number] = build(overrides[number])
            elif preflight is not None and built[number].is_wanted():
                preflight(built[number].experiment)
            wrong.pop(number, None)
        except Exception as error:
            built.pop(number, None)
            if (sentence := explain(in_own_code(error) or error, [*typed, *overrides[number]])) is None:
                raise
            wrong[number] = isinstance(error, NotThere), sentence

    try:
        unsure: Iterable[int] = range(len(overrides))
        expected: set[Path] = set()
        for _ in range(DEEPEST):
            for number in unsure:
                attempt(number, check=False)
            untuned.cache_clear()
            unsure = [number for number in unsure if number in wrong or built[number].is_unsure()]
            unmade = [job for job in built.values() if job.is_wanted() or job.found != FINISHED]
            before, expected = expected, {file for job in unmade for file in job.makes()}
            if expected == before or not unsure:
                break
            expect(expected)
        else:
            itself = next(
                number for number in unsure if number in built and not before.issuperset(built[number].makes())
            )
            why = "it reads files that it makes itself, or that depend on it; set another output_dir for them"
            wrong[itself] = False, why
            del built[itself]
        for number in list(built):
            attempt(number, check=True)
    finally:
        expect([])
    found: dict[Path, Job] = {}
    for number in sorted(built):
        same = found.setdefault(built[number].place, built[number]).experiment.logger.keys()
        if same != (other := built[number].experiment.logger.keys()):
            both = ",".join(sorted(same | other))
            wrong[number] = False, f"another job is the same run with another logger; logger=[{both}] has both"
    trunks = [job for job in found.values() if job.experiment.settings.earlier and job.is_wanted()]
    for job in found.values():
        job.after = {path.parent for path in job.reads} & found.keys() | begun_in(job, trunks)
        job.tuning = {real(str(path)) for path in job.experiment.tuning} & found.keys()
        job.found = waiting(State(job.found), job.after, job.tuning).word
    return list(found.values()), [
        (overrides[number], wrong[number][1]) for number in sorted(wrong, key=lambda number: (wrong[number][0], number))
    ]


def begun_in(job: Job, trunks: Iterable[Job]) -> set[Path]:
    """The run with the largest budget that makes the first updates of this job too, see training/branches.py."""
    settings = job.experiment.settings
    if settings.force or job.found != MISSING:
        return set()
    of = [
        trunk
        for trunk in trunks
        if settings.budget in trunk.experiment.settings.earlier
        and real(str(trunk.folder.path.parent)) == job.place.parent
        and same_but_budget(trunk.experiment, settings.budget) == job.experiment.run_id
    ]
    return {max(of, key=lambda trunk: trunk.experiment.settings.budget).place} if of else set()


def expected(finished: list[Job], wanted: list[Job], preflight: Preflight | None) -> str:
    """How long the wanted runs will take, in words, estimated from the finished ones or by timing updates here."""
    if not wanted:
        return ""
    said = [(job, (job.folder.finished() or {}).get("seconds_total")) for job in finished]
    took = [(job, seconds) for job, seconds in said if seconds is not None and math.isfinite(seconds)]
    if preflight is None:
        each = f", {duration(sum(s for _, s in took) / len(took))} each so far" if took else ""
        return f"; {len(wanted)} to run{each}"
    seconds = sum(preflight.seconds(job.experiment) for job in wanted)
    if took:
        seconds *= sum(s for _, s in took) / sum(preflight.seconds(job.experiment) for job, _ in took)
        return f"; {len(wanted)} to run, about {duration(seconds)} one after the other"
    return f"; {len(wanted)} to run, about {duration(seconds)} of updates here, looks and evaluations not counted"


def processes(asked: int, jobs: list[Job]) -> int:
    """How many processes joblib starts; -1, its default, is one per GPU if the runs are on GPUs, else one per core."""
    from joblib import effective_n_jobs

    devices = {job.experiment.settings.device for job in jobs}
    if asked == -1 and any(find_device(device).type == "cuda" for device in devices):
        return count_gpus()
    return int(effective_n_jobs(asked))


def launched(jobs: list[Job], whole: DictConfig, context: HydraContext, task: TaskFunction, batch_size: int) -> Errors:
    """Run the jobs with Hydra's launcher, and return the errors of those that did not finish, by folder.

    A killed worker takes the others with it. If no job ended before that, the two halves of the jobs are launched one
    after the other, until the job that kills its worker is alone. The others finish.
    """

    asked = whole.hydra.launcher.get("n_jobs")
    line = OmegaConf.select(whole, "hydra.job_logging.formatters.simple.format")
    # where several runs write at once, each line begins with the number of its job
    label = [f"++hydra.job_logging.formatters.simple.format={typed_as('#${hydra:job.num} ' + line)}"] if line else []

    def launch(batch: list[Job], number: int) -> Sequence[JobReturn]:
        if asked is not None:
            from joblib import register_parallel_backend

            from budgetrun.launch.loky import Workers

            register_parallel_backend("loky", Workers)  # the name that Hydra's launcher asks for
            with open_dict(whole):
                # with one worker, joblib would run the jobs in this process, and a run that is killed would end it too
                whole.hydra.launcher.n_jobs = min(processes(asked, batch), max(2, len(batch)))
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=whole)
        more = label if asked is not None and len(batch) > 1 else []
        overrides = [[*job.overrides, *more, *(["force=false"] if job in begun else [])] for job in batch]
        return launcher.launch(overrides, initial_job_idx=number)

    errors: Errors = {}
    begun: list[Job] = []  # and interrupted: forced runs are forced only once
    ends = {job.folder.path: job.ends() for job in jobs}
    batches, alone = [jobs[i : i + batch_size] for i in range(0, len(jobs), batch_size or 1)], Counter[Path]()
    while batches:
        batch = batches.pop(0)
        try:
            for job, done in zip(batch, launch(batch, jobs.index(batch[0])), strict=True):
                if done.status is JobStatus.FAILED and not isinstance(done._return_value, Busy):
                    errors[job.folder.path] = done._return_value
            continue
        except BrokenExecutor:
            states = {job: job.folder.state().word for job in batch}
        left = [job for job in batch if not job.ended_since(ends[job.folder.path])]
        begun += [job for job in left if states[job] == INTERRUPTED != job.found]
        left.sort(key=lambda job: states[job] != MISSING)  # jobs that had begun go last: one of them is to blame
        alone.update(job.folder.path for job in left if len(batch) == 1)
        if left and alone[path := left[0].folder.path] == KILLED:
            errors[path] = UserError(f"its worker was killed {KILLED} times; does the run need more memory?")
            continue
        half = len(left) // 2 if len(left) == len(batch) else 0
        batches[:0] = [part for part in (left[:half], left[half:]) if part]
        print(f"a worker was killed; runs that are left and go on: {sum(map(len, batches))}", flush=True)
    return errors


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Around the runs of a sweep, which share loaded data: the next sweep of this process reads the files anew."""
    try:
        yield
    finally:
        shared.forget()
        if (workers := sys.modules.get("joblib.externals.loky")) is not None:  # joblib would keep them for the next
            workers.get_reusable_executor().shutdown(kill_workers=True)


@contextlib.contextmanager
def stopping(jobs: list[Job]) -> Iterator[None]:
    """On Ctrl-C, SIGTERM and similar, let the runs in this process's workers save before its launcher kills them."""

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.default_int_handler)  # a second signal stops at once
        asked: set[tuple[Path, int]] = set()
        until = time.monotonic() + 60
        while time.monotonic() < until and (running := workers()):
            for _, pid in running - asked:  # including a worker that has saved one run and begun another
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            asked |= running
            time.sleep(0.05)
        raise Interrupted("run the same command again to go on", signum)

    def workers() -> set[tuple[Path, int]]:
        holders = [(job.folder.path, who) for job in jobs if (who := lock.holder(job.folder.path))]
        ours = socket.gethostname(), os.getpid()
        return {(path, who["pid"]) for path, who in holders if (who["host"], who["parent"]) == ours}

    with heard(STOPPING, stop):
        yield


def report(jobs: list[Job], errors: Errors, typed: Sequence[str]) -> None:
    """Say what became of the runs; raises UserError if one is not finished, or its own error if that is a bug.

    typed: the command line of the sweep.
    """
    ended = {
        job.folder: State(FINISHED)
        if job.found == FINISHED and not job.is_wanted()
        else waiting(job.folder.state(), job.after, job.tuning)
        for job in jobs
    }
    left = {folder: state for folder, state in ended.items() if state.word != FINISHED}
    print(f"{len(jobs) - len(left)} of {len(jobs)} runs are finished")
    if not left and any(job.experiment.settings.earlier for job in jobs):
        results = [job.folder.finished() or {} for job in jobs]
        flops, shared = (sum(result.get(key) or 0 for result in results) for key in ("flops", "flops_shared"))
        print(f"  together they took {short(flops - shared)} FLOPs; each by itself, {short(flops)}")
    of_tuning = tuning_places(jobs)
    for job in jobs:
        if job.place in of_tuning and (state := ended[job.folder]).diverged_after is not None:
            print(f"  {state.word}: {job.folder.path}: {state.detail}; its value is not chosen")
            del left[job.folder]
    reasons = []
    for folder, state in left.items():
        error = errors.get(folder.path)
        reason = (error and explain(error, [*typed])) or state.detail
        file = folder.failed_path if state.word == FAILED and folder.failed_path.exists() else folder.log_path
        print(f"  {state.word}: {folder.path}{reason and ': '}{reason}{f' (see {file})' if file.exists() else ''}")
        reasons.append((state.word == WAITING, reason or state.word))
    for error in errors.values():
        if explain(error, [*typed]) is None:
            raise error
    if left:
        first = min(reasons, key=lambda reason: reason[0])[1]  # what waits is not to blame
        again = "; retry_failed=true runs the failed ones again" if FAILED in {s.word for s in left.values()} else ""
        failure = UserError(f"{len(left)} of {len(jobs)} runs are not finished; the first: {first}{again}")
        for note in next((notes for error in errors.values() if (notes := getattr(error, "__notes__", []))), []):
            failure.add_note(note)  # of the first that failed just now
        raise failure
