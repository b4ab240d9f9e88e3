"""Sweeps that finish: grids, what is left to do, what became of each run, and what kills a sweep."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import CONF, GRIDS, Done, finished_in, here, hydra_at_work, listing, process, refused, started
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from states import SEARCH, counts, found_by_search, results, times

from budgetrun import status
from budgetrun.config import experiment, plain
from budgetrun.errors import UserError
from budgetrun.folder.run import FAILED, FINISHED, INTERRUPTED, MISSING, RUNNING, WAITING, RunFolder
from budgetrun.launch.compose import Composed, choices_of, task_part
from budgetrun.launch.grid import jobs_of
from budgetrun.launch.sweep import Job, checked, processes

SHORT = "epochs=0.2"  # 4 updates


@contextlib.contextmanager
def composing(line: str, folder: Path | None = None) -> Iterator[tuple[Composed, list[list[str]]]]:
    """What composes the jobs of a command line, and these jobs."""
    with hydra_at_work(folder) as hydra:
        whole = hydra.compose_config("config", [*shlex.split(line), "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        composed = Composed(hydra.config_loader, whole)
        yield composed, jobs_of(OmegaConf.to_container(whole.hydra.overrides.task, resolve=False), composed)


# ---- grids


def text(grid: str) -> str:
    return (CONF / "grid" / f"{grid}.yaml").read_text()


@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_has_as_many_runs_as_its_head_says_and_they_are_experiments(
    grid: str, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with composing(f"grid={grid}") as (composed, jobs):
        assert len(jobs) == int(re.findall(r"^# (\d+) runs?\b", text(grid), flags=re.M)[0])
        # then a job's id, or its first updates, depend on other jobs
        waits = any(word in text(grid) for word in ("sampler.file=", "tune=", "branches="))
        some = jobs if waits or full else jobs[:: 1 + len(jobs) // 20]
        runs, wrong = checked(some, composed, None, [])
        assert not wrong
        assert len({run.place for run in runs}) == len(some)
        places = {run.experiment.settings.output_dir for run in runs}
        assert f"outputs/{grid}" in places
        assert all(place.startswith(f"outputs/{grid}") for place in places)
        assert {FINISHED, WAITING} & {run.found for run in runs} == ({WAITING} if waits else set())
    commands = re.findall(r"^# .*python -m budgetrun (\S+)", text(grid), flags=re.M)
    assert set(commands) == {f"grid={grid}"}


def test_the_grid_of_hu_et_al_has_the_settings_of_their_code() -> None:
    """They decide the claim: with looks in evaluation mode and an epoch that keeps all, noise harms much less."""
    with composing("grid=hu2021_table1") as (composed, jobs):
        runs = [experiment(*composed(job)) for job in jobs[:: len(jobs) // 35]]
        assert {run.resolved["model"]["dropout"] for run in runs} == {0.3}
        backprop = [run.resolved["sampler"] for run in runs if run.names["sampler"] == "sb"]
        assert {(sampler["looks"], sampler["prime"], sampler["beta"]) for sampler in backprop} == {
            ("train", 0, 1),
            ("train", 0, 2),
        }
        seeds = Counter(next(o for o in job if o.startswith("seed=")) for job in jobs)
        assert seeds == {f"seed={seed}": 5 * 7 for seed in range(5)}


def test_command_line_values_take_precedence_over_a_grid_s_own() -> None:
    with composing("grid=smoke seed=7,8 budget=0.5 output_dir=elsewhere") as (_, jobs):
        assert {job[0] for job in jobs} == {"output_dir=elsewhere"}
        assert {o for job in jobs for o in job if o.startswith(("seed=", "budget="))} == {
            "seed=7",
            "seed=8",
            "budget=0.5",
        }
        # three samplers, two augmentations, one budget, two seeds; two samplers under noise
        assert len(jobs) == 3 * 2 * 1 * 2 + 2 * 1 * 2


def test_a_user_s_own_grid_is_a_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "mine" / "grid").mkdir(parents=True)
    (tmp_path / "mine" / "grid" / "ours.yaml").write_text(
        "# ours\ncommon: dataset=digits epochs=0.2\nsweeps:\n  - seed=0,1\n  - seed=1,2 aug=none,standard\n"
    )
    done = here("--config-dir mine grid=ours", tmp_path)
    assert done.code == 0, done.err
    # seed 1 with the standard augmentation is in both
    assert "5 runs: 5 missing; 5 to run, about" in done.out
    assert "5 of 5 runs are finished" in done.out
    assert len(list((tmp_path / "outputs" / "ours").glob("*/result.json"))) == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("grid=smok", ["grid=smok is not an option", "grid=smoke"]),
        ("grid=smoke,fashion", ["grid=smoke,fashion is more than one grid"]),
        ("grid=smoke sampler=uniform,foo", ["sampler=foo", "no job was started"]),
        ("grid=smoke budget=2", ["budget=2", "at most 1"]),
        ("--config-dir mine grid=empty", ["grid=empty has no sweeps"]),
        ("--config-dir mine grid=wrong", ["grid=wrong has no sweeps"]),
        ("--config-dir mine grid=rows", ["grid=rows has no sweeps"]),
        ("--config-dir mine grid=number", ["grid=number has no sweeps", "common"]),
        ("--config-dir mine grid=quote", ["grid=quote has a line that cannot be read", "No closing quotation"]),
        ("--config-dir mine grid=half", ["half.yaml", "line 3"]),
        ("--config-dir mine grid=launcher", ["hydra/launcher=joblib", "type it beside grid="]),
        ("grid=[smoke]", ["grid=[smoke] is not the name of a grid's file"]),
        ("grid=smoke +aug.crop.padding=2", ["aug.crop.padding already exists", "without the +"]),
        ("grid=smoke ~seed sampler=uniform aug=none budget=0.5", ["seed has no value", "no job was started"]),
        ("--config-dir mine grid=lost", ["sampler.file", "nowhere/*/scores.csv", "scores="]),
        ("--config-dir mine grid=itself", ["files that it makes itself", "output_dir"]),
        ("--config-dir mine grid=blame", ["epochs=-1", "greater than 0"]),
        ("--config-dir mine grid=two grid.rounds=2,1", ["grid.rounds=2,1 is more than one value"]),
        ("--config-dir mine grid=endless", ["grid=endless has rounds: 0", "whole number"]),
        ("--config-dir mine grid=once", ["grid=once has an each_round that is not a list"]),
    ],
)
def test_a_grid_that_cannot_run_starts_nothing(line: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine" / "grid").mkdir(parents=True)
    (tmp_path / "mine" / "grid" / "empty.yaml").write_text("# nothing\nsweeps: []\n")
    (tmp_path / "mine" / "grid" / "wrong.yaml").write_text("# not a list of words\nsweeps: [{sampler: is}]\n")
    (tmp_path / "mine" / "grid" / "rows.yaml").write_text("# a list alone\n- seed=0\n")
    (tmp_path / "mine" / "grid" / "number.yaml").write_text("# no words\ncommon: 5\nsweeps: [seed=0]\n")
    (tmp_path / "mine" / "grid" / "quote.yaml").write_text("# a quote\nsweeps: ['output_dir=\"a']\n")
    (tmp_path / "mine" / "grid" / "half.yaml").write_text("# half\nsweeps: [\n")
    (tmp_path / "mine" / "grid" / "launcher.yaml").write_text("# a launcher\nsweeps: [hydra/launcher=joblib seed=0]\n")
    for name, lines in {
        "lost": "sweeps: [sampler=subset sampler.file=nowhere/*/scores.csv]",
        "itself": "sweeps: [sampler=subset scores=random sampler.file=outputs/itself/*/scores.csv, scores=random]",
        "blame": "sweeps: [sampler=subset sampler.file=made/*/scores.csv, scores=random output_dir=made epochs=-1]",
        "two": "sweeps: [seed=0]\neach_round: ['seed=${round}']\nrounds: 1",
        "endless": "sweeps: [seed=0]\neach_round: [seed=1]\nrounds: 0",
        "once": "sweeps: [seed=0]\neach_round: seed=1\nrounds: 2",
    }.items():
        (tmp_path / "mine" / "grid" / f"{name}.yaml").write_text(f"# {name}\n{lines}\n")
    before = listing(tmp_path)
    refused(here(line, tmp_path), *words)
    assert listing(tmp_path) == before


def test_scores_of_other_labels_are_refused_before_the_first_job_starts(tmp_path: Path) -> None:
    noise = "noise=symmetric noise.rate=0.5"
    assert here(f"scores=loss {noise} {SHORT} output_dir=files", tmp_path).code == 0
    line = f"-m sampler=subset sampler.file=files/*/scores.csv {noise} {SHORT}"
    refused(here(f"{line} seed=0,1", tmp_path), "no job was started", "seed=1", "sampler.file", "labels")
    assert not list(tmp_path.glob("outputs/*/result.json"))
    assert here(f"{line} seed=0", tmp_path).code == 0


@pytest.mark.parametrize(
    "line",
    [
        "sampler=is sampler.pool=4 budget=0.25 seed=3",
        "dataset=cifar10 lr=0.3 aug=[randaugment,ricap] model.depth=50 model=resnet50",
        "noise=symmetric noise.rate=0.5 +aug.crop.padding=2 recipe=digits optimizer=adamw optimizer.betas=[0.5,0.9]",
        "schedule=cosine 'output_dir=outputs/${seed}' seed=2",
        "seed=0 ++seed=7 ++evaluations=3",
        "lr=0.05 'weight_decay=${lr}'",
        "lr=1e-5 seed=07 'output_dir=a/${lr}-${budget}/${seed}${precision}'",
        "'output_dir=o/${hydra:runtime.choices.sampler}/${now:%Y}'",
        "noise=cifar10n data_dir=elsewhere",
        "'output_dir=\"a b, {c} \\\\${seed}\"' 'data_dir=${oc.env:HOME}/x'",
        "sampler=proxy 'sampler.model={width: 3}' ~schedule.final +schedule.final=0.5",
        "dataset=image_folder aug=resized_crop dataset.crop=24 dataset.flip=false",
        "dataset=image_folder aug=resized_crop ++dataset.padding=null",
    ],
)
def test_a_job_is_composed_as_hydra_composes_it(line: str) -> None:
    job = [word.replace("+aug", "aug") for word in shlex.split(line)]
    with composing("seed=0") as (composed, _):
        composed([o for o in job if "." not in o.partition("=")[0]])  # the same options with other values before
        values, choices = composed(job)
        by_hydra = composed.loader.load_sweep_config(composed.whole, job)
        HydraConfig.instance().set_config(by_hydra)
        assert values == plain(task_part(by_hydra))
        assert choices == choices_of(by_hydra.hydra)


def test_values_of_the_augmentation_that_a_data_set_may_lack_take_hydra_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Composed, "by_hydra", None)
    with composing("seed=0") as (composed, _):
        assert composed(["dataset.padding=3", "dataset.flip=true"])[0]["aug"]["crop"]["padding"] == 3
        values = composed(["dataset=image_folder", "aug=resized_crop", "dataset.crop=24"])[0]["aug"]
        assert (values["resized_crop"]["size"], values["flip"]["allowed"]) == (24, True)
        assert composed(["aug=resized_crop"])[0]["aug"]["resized_crop"]["size"] is None


WORDS = {
    "sampler": st.sampled_from(["uniform", "is", "sb", "proxy"]),
    "aug": st.sampled_from(["none", "ricap", "[mixup]"]),
    "dataset": st.sampled_from(["digits", "cifar10"]),
    "schedule": st.sampled_from(["cosine", "step"]),
    "lr": st.floats(0.001, 1).map(str),
    "seed": st.integers(0, 9).map(str),
    "weight_decay": st.sampled_from(["${lr}", "0", "1e-4", "${noise.rate}"]),
    "noise": st.just("symmetric"),
    "noise.rate": st.sampled_from(["0.5", "${budget}"]),
    "budget": st.sampled_from(["1", "0.5"]),
    "output_dir": st.sampled_from(
        [
            "a",
            "'a b'",
            "a/${seed}",
            "${lr}-${weight_decay}/x${seed}",
            "a${image_size}${compile}",
            '"${now:%Y}"',
            "a/${now:%Y}/${seed}",
            "${hydra:job.name}",
            "${aug}/${seed}",
            "${no}/${seed}",
            "${dataset.mean}${lr}",
        ]
    ),
    "image_size": st.sampled_from(["null", "16"]),
    "dataset.mean": st.just("[0.5,0.25]"),
    "optimizer": st.just("adamw"),
    "model": st.just("wrn_28_2"),
    "+model.width": st.just("3"),
    "~schedule": st.just(""),
}


def test_any_job_is_composed_as_hydra_composes_it() -> None:
    def made(how: Any, job: list[str]) -> Any:
        try:
            return how(job)
        except (UserError, HydraException) as error:
            return str(error)

    def by_hydra(job: list[str]) -> Any:
        cfg = composed.loader.load_sweep_config(composed.whole, job)
        HydraConfig.instance().set_config(cfg)
        return plain(task_part(cfg)), choices_of(cfg.hydra)

    @settings(max_examples=15, deadline=None)
    @given(st.permutations(list(WORDS)), st.integers(1, 7), st.data())
    def holds(keys: list[str], count: int, data: st.DataObject) -> None:
        job = [f"{key}={data.draw(WORDS[key])}".removesuffix("=") for key in keys[:count]]
        assert made(composed, job) == made(by_hydra, job)

    with composing("seed=0") as (composed, _):  # once: it takes longer than a comparison
        holds()


# ---- what is left to do


def test_the_same_command_again_runs_just_what_is_missing(tmp_path: Path) -> None:
    here(f"-m seed=0,1 {SHORT}", tmp_path)
    before = {k: v for k, v in listing(tmp_path).items() if k.endswith("result.json")}
    done = here(f"-m seed=0,1,2 {SHORT}", tmp_path)
    assert "3 runs: 2 finished, 1 missing; 1 to run, about" in done.out
    assert done.out.count("test accuracy ") == 4 + 1, "one run of four evaluations, and its last line"
    assert before.items() <= listing(tmp_path).items()
    assert counts(tmp_path / "outputs") == {FINISHED: 3}


def test_what_failed_is_run_again_only_when_asked(tmp_path: Path) -> None:
    line = "-m lr=1e30,0.1 seed=0 epochs=1 evaluations=1"
    refused(here(line, tmp_path), "1 of 2 runs are not finished; the first: the loss became nan", "retry_failed=true")
    (failed,) = (tmp_path / "outputs").glob("*/failed.json")
    at = failed.stat().st_mtime_ns
    done = here(line, tmp_path)
    assert "2 runs: 1 finished, 1 failed\n" in done.out
    refused(done, "the loss became nan")
    assert failed.stat().st_mtime_ns == at, "it was not run again"
    refused(here(f"{line} retry_failed=true", tmp_path), "the loss became nan")
    assert failed.stat().st_mtime_ns > at


def test_a_run_that_failed_and_then_finishes_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from budgetrun.sampler.scan import Scan

    def full(self: Scan) -> None:
        raise MemoryError("no room")

    line = f"-m sampler=scan seed=0 {SHORT}"
    with monkeypatch.context() as broken:
        broken.setattr(Scan, "draw", full)
        done = here(line, tmp_path)
    assert done.code == 1
    assert "Traceback" in done.err, "a bug, which somebody has to see"
    (folder,) = (RunFolder(str(tmp_path / "outputs"), p.parent.name) for p in tmp_path.glob("outputs/*/failed.json"))
    assert folder.state().word == FAILED
    place = rf"test_sweeps\.py:{full.__code__.co_firstlineno + 1}"
    assert re.fullmatch(rf"\S+\.full \(\S*{place}\) raised MemoryError: no room", folder.state().detail)
    assert 'raise MemoryError("no room")' in json.loads(folder.failed_path.read_text())["traceback"]
    assert here(f"{line} retry_failed=true", tmp_path).code == 0
    assert folder.state().word == FINISHED
    assert not folder.failed_path.exists()


def test_a_single_run_that_failed_is_run_again_when_typed_again(tmp_path: Path) -> None:
    refused(here("lr=1e30 epochs=1 evaluations=1", tmp_path), "the loss became nan")
    assert counts(tmp_path / "outputs") == {FAILED: 1}
    refused(here("lr=1e30 epochs=1 evaluations=1", tmp_path), "the loss became nan")


def test_force_runs_the_whole_sweep_again_and_each_sweep_loads_the_data_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from budgetrun.dataset.digits import Digits

    really, loaded = Digits.load, []
    monkeypatch.setattr(Digits, "load", lambda self, folder: loaded.append(folder) or really(self, folder))
    here(f"-m seed=0,1,2 {SHORT}", tmp_path)
    assert len(loaded) == 2, "to check the jobs, and for all runs"
    done = here(f"-m seed=0,1,2 {SHORT} force=true", tmp_path)
    assert len(loaded) == 4
    assert "3 runs: 3 finished; 3 to run" in done.out
    results = {path: json.loads(path.read_text()) for path in tmp_path.rglob("result.json")}
    before = {path: json.loads(Path(f"{path}.previous").read_text()) for path in results}
    assert len(results) == 3
    alone = here(f"seed=2 {SHORT} output_dir=alone", tmp_path)
    assert [json.loads(p.read_text())["test_loss"] for p in (tmp_path / "alone").glob("*/result.json")] == [
        result["test_loss"] for result in results.values() if result["config"]["seed"] == 2
    ], alone.err
    assert [result["test_loss"] for result in results.values()] == [result["test_loss"] for result in before.values()]


def test_each_output_dir_of_a_sweep_has_its_runs(tmp_path: Path) -> None:
    assert here(f"-m seed=0 output_dir=here,there {SHORT}", tmp_path).code == 0
    assert {path.parts[-3] for path in tmp_path.rglob("result.json")} == {"here", "there"}


def test_half_a_result_is_set_aside_and_the_run_goes_on(tmp_path: Path) -> None:
    here(f"-m seed=0,1 {SHORT}", tmp_path)
    quiet = results(tmp_path)
    victim = next(iter((tmp_path / "outputs").glob("*-s1-*/result.json")))
    half = victim.read_bytes()[:200]
    victim.write_bytes(half)
    assert counts(tmp_path / "outputs") == {FINISHED: 1, INTERRUPTED: 1}
    assert victim.read_bytes() == half, "asking changes nothing"
    done = here(f"-m seed=0,1 {SHORT}", tmp_path)
    assert done.code == 0, done.err
    assert "set aside as result.json.corrupt" in done.out
    assert results(tmp_path) == quiet
    assert (victim.parent / "result.json.corrupt").read_bytes() == half


# ---- status


def say(folder: Path | str, capsys: pytest.CaptureFixture[str]) -> Done:
    code = status.main([str(folder)])
    out, err = capsys.readouterr()
    return Done(code, out, err, Path(folder))


def test_status_tells_every_state_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / "outputs"
    here("-m seed=0,1,2 lr=0.1,1e30 epochs=1 evaluations=1", tmp_path)
    interrupted = next(iter(outputs.glob("*-s2-*/result.json")))
    interrupted.unlink()
    here("-m seed=0 epochs=1 evaluations=1", tmp_path)
    plan = outputs / ".sweeps" / "more.json"
    plan.write_text(json.dumps({"digits-cnn-uniform-standard-b1-s9-00000000": ["seed=9"]}))
    with started("seed=5 epochs=1000 evaluations=100000", tmp_path) as running:
        until = time.monotonic() + 60
        while RUNNING not in counts(outputs) and time.monotonic() < until:
            time.sleep(0.1)
        before = {path: content for path, content in listing(outputs).items() if "-s5-" not in path}
        done = say(outputs, capsys)
        assert {path: content for path, content in listing(outputs).items() if "-s5-" not in path} == before
        assert counts(outputs) == {FINISHED: 2, RUNNING: 1, INTERRUPTED: 1, FAILED: 3, MISSING: 1}
        running.kill()
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == f"{outputs}: 8 runs"
    heads = [line.split() for line in lines if re.match(r" +\d+ \w+$", line)]
    assert heads == [["2", "finished"], ["1", "running"], ["1", "interrupted"], ["3", "failed"], ["1", "missing"]]
    (who,) = (line for line in lines if "-s5-" in line)
    assert re.search(rf"process {running.pid} on \S+$", who)
    assert sum("the loss became nan" in line for line in lines) == 3
    assert counts(outputs) == {FINISHED: 2, INTERRUPTED: 2, FAILED: 3, MISSING: 1}, "a dead process is seen at once"


def test_status_says_when_all_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here(f"-m seed=0,1 {SHORT}", tmp_path)
    done = say(tmp_path / "outputs", capsys)
    assert (done.code, done.out) == (0, f"{tmp_path / 'outputs'}: 2 runs\n     2 finished\n")


@pytest.mark.parametrize("content", ["5", "null", "[[1]]", '"word"', '{"half'])
def test_an_invalid_plan_does_not_break_status(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here(f"-m seed=0 {SHORT}", tmp_path)
    (tmp_path / "outputs" / ".sweeps" / "broken.json").write_text(content)
    assert say(tmp_path / "outputs", capsys).out.endswith(": 1 run\n     1 finished\n")


def test_status_of_something_other_than_a_folder_of_runs_gives_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, words in ((tmp_path, "there is no run in"), (tmp_path / "nowhere", "cannot be read")):
        done = say(folder, capsys)
        assert (done.code, done.out) == (2, "")
        assert re.fullmatch(rf"status: .*{words}.*; name the output_dir of a sweep\n", done.err)


def test_status_of_ten_thousand_runs_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    from cli import environment

    here(f"-m seed=0 {SHORT}", tmp_path)
    command = [sys.executable, "-X", "importtime", "-m", "budgetrun.status", "outputs"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert not {"torch", "hydra", "numpy", "pandas"} & set(re.findall(r"\|\s+([\w.]+)$", done.stderr, flags=re.M))


# ---- what happens to sweeps


def wait_for(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_two_sweeps_started_at_once_share_the_runs_and_run_none_twice(tmp_path: Path) -> None:
    line = "-m seed=range(4) epochs=3 evaluations=1"
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    here(line, quiet)
    with started(line, tmp_path) as one:
        wait_for(lambda: list(tmp_path.glob("outputs/*/running.json")))
        two = here(line, tmp_path)
        out, err = one.communicate(timeout=200)
    assert results(tmp_path / "outputs") == results(quiet)
    assert counts(tmp_path / "outputs") == {FINISHED: 4}
    logs = [path.read_text() for path in (tmp_path / "outputs").glob("*/train.log")]
    assert [log.count("100.0% of the budget") for log in logs] == [1] * 4
    assert 0 in (one.returncode, two.code), out + err + two.out + two.err


LONG = "-m seed=0,1,2 epochs=6 evaluations=4"  # long enough to be stopped in the middle


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The results of the long sweep when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("quiet")
    done = here(LONG, folder)
    assert done.code == 0, done.err
    return results(folder)


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_that_is_asked_to_stop_saves_and_the_next_start_goes_on(
    launcher: str, quiet: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    line = f"{LONG} hydra/launcher={launcher}"
    outputs = tmp_path / "outputs"
    with started(f"{line}{' hydra.launcher.n_jobs=2' if launcher == 'joblib' else ''}", tmp_path) as sweep:
        wait_for(lambda: outputs.is_dir() and len(list(outputs.glob("*/metrics.jsonl"))) >= 2)
        sweep.send_signal(signal.SIGTERM)
        _, err = sweep.communicate(timeout=100)
    assert sweep.returncode == 143
    assert re.search(r"^budgetrun: interrupted; .*run the same command again to go on$", err, flags=re.M), err
    assert INTERRUPTED in counts(outputs), "nothing was interrupted"
    assert RUNNING not in counts(outputs)
    saved = [p for p in outputs.glob("*/checkpoint.pt") if not (p.parent / "result.json").exists()]
    assert saved
    assert here(LONG, tmp_path).code == 0
    assert results(outputs) == quiet


@pytest.mark.full  # quick runs kill a worker below, and whole sweeps at random moments in test_soak.py
def test_a_killed_worker_does_not_lose_the_sweep(quiet: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    line = f"{LONG} checkpoint_every=0.1 hydra/launcher=joblib hydra.launcher.n_jobs=2"
    outputs = tmp_path / "outputs"
    with started(line, tmp_path) as sweep:
        wait_for(lambda: list(outputs.glob("*/checkpoint.pt")))
        signs = [json.loads(path.read_text()) for path in outputs.glob("*/running.json")]
        assert {sign["parent"] for sign in signs} == {sweep.pid}
        os.kill(signs[0]["pid"], signal.SIGKILL)
        out, err = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, err
    assert re.search(r"^a worker was killed; runs that are left and go on: [123]$", out, flags=re.M)
    assert "3 of 3 runs are finished" in out
    often = {"checkpoint_every": 0.1}  # a setting of the folder and not of the experiment
    assert results(outputs) == {name: {**r, "config": {**r["config"], **often}} for name, r in quiet.items()}


def test_workers_save_and_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    # one run: joblib starts a second worker beside its worker, which never gets a job
    line = "-m seed=0 epochs=4000 evaluations=4000 hydra/launcher=joblib hydra.launcher.n_jobs=4"
    sweep = started(line, tmp_path)
    wait_for(lambda: any(p.stat().st_size for p in outputs.glob("*/metrics.jsonl")))
    sweep.kill()
    out, err = sweep.communicate(timeout=30)  # waits for all processes that have its streams
    assert counts(outputs) == {INTERRUPTED: 1}
    assert len(list(outputs.glob("*/checkpoint.pt"))) == 1
    assert not re.search("Joblib|Launching|#0", out + err), "neither joblib's constructor nor its job list is shown"


BAD = """
import os
import time
from dataclasses import dataclass
from pathlib import Path

from budgetrun.sampler.scan import Scan


@dataclass
class Bad(Scan):
    how: str
    drawn = 0

    def draw(self):
        self.drawn += 1
        if self.how == "exits":
            raise SystemExit(0)
        if self.how == "marked" and Path("mark").exists():
            time.sleep(0.2)
            if self.drawn == 3:
                Path("mark").unlink()
                os._exit(7)
        if self.how == "dies":
            os._exit(7)
        return super().draw()
"""


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """Options for a sampler that ends its process; sampler.how says how."""
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "mine" / "sampler").mkdir(parents=True)
    (tmp_path / "mine" / "sampler" / "bad.yaml").write_text("# ends its process\n_target_: bad.Bad\nhow: well\n")
    return f"--config-dir mine -m sampler=bad evaluations=1 {SHORT}"


def test_a_run_that_leaves_the_process_is_a_failure_and_the_others_run(bad: str, tmp_path: Path) -> None:
    done = process(f"{bad} sampler.how=exits,well", tmp_path)
    assert done.code == 1
    assert "1 of 2 runs are finished" in done.out
    assert "failed: " in done.out
    assert "a part of the run called sys.exit(0)" in done.out
    assert counts(tmp_path / "outputs") == {FINISHED: 1, FAILED: 1}


def test_a_run_that_always_kills_its_worker_is_named_and_all_others_finish_forced_ones_too(
    bad: str, tmp_path: Path
) -> None:
    """One of three dies always, one once, after its earlier result was set aside and state saved, and one never."""
    bad += " checkpoint_every=0.1"
    assert here(f"{bad} sampler.how=well,marked", tmp_path).code == 0
    before, quiet = times(tmp_path / "outputs"), results(tmp_path / "outputs")
    (tmp_path / "mark").touch()
    parallel = "hydra/launcher=joblib hydra.launcher.n_jobs=2"
    done = process(f"{bad} {parallel} sampler.how=dies,marked,well force=true", tmp_path)
    assert not (tmp_path / "mark").exists()
    assert done.code == 1
    assert "2 of 3 runs are finished" in done.out
    assert re.search(r"^a worker was killed; runs that are left and go on: [123]$", done.out, flags=re.M)
    assert done.out.count(": its worker was killed 3 times; does the run need more memory?") == 1
    assert "1 of 3 runs are not finished; the first: its worker was killed 3 times" in done.err
    assert counts(tmp_path / "outputs") == {FINISHED: 2, INTERRUPTED: 1}
    for words in ("sampler=bad .*sampler.how=well ", "budget=1: "):  # each line of what runs at once
        assert re.search(rf"^#\d {words}", done.out, re.M)
    after = times(tmp_path / "outputs")
    assert before.keys() == after.keys()
    assert all(after[path] > before[path] for path in after), "left as it was"
    for name, result in results(tmp_path / "outputs").items():
        result["config"]["force"] = False
        assert result == quiet[name]
    assert "goes on from update" in done.out, "forced only once"


# ---- jobs that read the files of other jobs


def search_in(folder: Path) -> str:
    (folder / "mine" / "grid").mkdir(parents=True)
    (folder / "mine" / "grid" / "search.yaml").write_text(SEARCH)
    return f"--config-dir {folder}/mine grid=search"


@pytest.fixture
def search(tmp_path: Path) -> str:
    return search_in(tmp_path)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The search that nothing disturbs; it is not changed."""
    folder = tmp_path_factory.mktemp("searched")
    return finished_in(folder, search_in(folder))


def kept(path: Path) -> tuple[dict[str, Any], list[int]]:
    first, header, *rows = path.read_text().splitlines()
    assert header == "index"
    return json.loads(first.removeprefix("#")), [int(row) for row in rows]


def test_a_search_in_rounds_is_one_command_and_says_what_led_to_what(
    search: str, searched: Done, tmp_path: Path
) -> None:
    listed = here(f"{search} dry_run=true", tmp_path)
    assert [line.split()[0] for line in listed.out.splitlines()[:8]].count("waiting") == 7
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}
    done, tmp_path = searched, searched.cwd
    assert "8 runs: 7 waiting, 1 missing; 8 to run" in done.out
    planned = {line.split()[1].rstrip(":") for line in listed.out.splitlines()[:8]}
    assert planned == {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("result.json")}
    subsets = [{tuple(kept(p)[1]) for p in tmp_path.glob(f"rounds/{n}/*/kept.csv")} for n in range(3)]
    assert [len(of_round) for of_round in subsets] == [1, 1, 1], "the runs of a round share their subset"
    first, second, third = (set(next(iter(of_round))) for of_round in subsets)
    assert (len(first), len(second), len(third)) == (144, 288, 432)
    assert first < second < third
    flops = {path.parent.name: json.loads(path.read_text())["flops"] for path in tmp_path.rglob("result.json")}
    (path,) = tmp_path.glob("outputs/search/*/kept.csv")
    about, indices = kept(path)
    assert set(indices) == third
    led = {run.name for place in ("start", "0", "1") for run in (tmp_path / "rounds" / place).glob("*-s?-*")}
    assert about["runs"].keys() == led, "what the last round learnt has not led to its subset"
    assert all(spent >= flops[run] for run, spent in about["runs"].items()), "and their looks at the end"
    result = json.loads((path.parent / "result.json").read_text())
    assert result["flops_before"] == about["flops"] == sum(about["runs"].values())
    again = here(search, tmp_path)
    assert again.out.startswith("8 runs: 8 finished\n8 of 8 runs are finished\n")
    assert "test accuracy" not in again.out, "nothing was run, only the table follows"


def test_what_waits_for_a_run_that_failed_is_said_to_wait(search: str, tmp_path: Path, capsys: Any) -> None:
    from budgetrun.scores.random import RandomScores

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(RandomScores, "scores", lambda self: refuse())
        done = here(search, tmp_path)
    refused(done, "8 of 8 runs are not finished")
    assert done.out.count("  waiting: ") == 7
    assert "waiting: rounds/0/" in done.out
    assert ": for digits-cnn-uniform-standard-random-b0.05-s0-" in done.out
    said = say(tmp_path / "rounds" / "0", capsys)
    assert "     2 waiting" in said.out


def test_a_job_waits_for_a_file_that_a_link_leads_to_and_reads_it_once(search: str, tmp_path: Path) -> None:
    (tmp_path / "rounds").mkdir()
    (tmp_path / "link").symlink_to("rounds")
    line = "seed=0 output_dir=rounds/start scores=random epochs=0.2"
    reader = "sampler=subset 'sampler.file=\"link/start/*/scores.csv,rounds/start/*/scores.csv\"' epochs=0.2"
    (tmp_path / "mine" / "grid" / "two.yaml").write_text(f"sweeps:\n  - {line}\n  - {reader}\n")
    done = here(f"--config-dir {tmp_path}/mine grid=two", tmp_path)
    assert done.code == 0, done.err
    assert "2 runs: 1 waiting, 1 missing" in done.out
    (path,) = tmp_path.glob("outputs/two/*/kept.csv")
    assert len(kept(path)[0]["parents"]) == 1


def refuse() -> Any:
    raise UserError("not now")


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.full)])
def test_a_search_that_is_killed_in_its_second_round_ends_as_a_quiet_one(
    launcher: str, search: str, searched: Done, tmp_path: Path
) -> None:
    quiet, killed = searched.cwd, tmp_path / "killed"
    killed.mkdir()
    with started(f"{search} hydra/launcher={launcher}", killed, first=os.setsid) as sweep:
        wait_for(lambda: list(killed.glob("rounds/2/*/kept.csv")))
        os.killpg(sweep.pid, signal.SIGKILL)
    assert counts(killed / "rounds" / "1") == {FINISHED: 2}
    assert not list(killed.glob("outputs/search/*/result.json"))
    assert here(search, killed).code == 0
    assert results(killed) == results(quiet)
    assert found_by_search(killed) == found_by_search(quiet)


# ---- what workers and disks do


def test_workers_take_turns_on_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from budgetrun.training.machine import own_gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [own_gpu(worker) for worker in (None, 1, 2, 3, 4)] == [None, "cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert own_gpu(2) is None


def test_by_default_joblib_starts_one_process_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from cli import checked

    def at_once(asked: int, *devices: str) -> int:
        return processes(asked, [Job([], checked(f"device={device}")) for device in devices])

    cores = at_once(-1, "cpu", "cpu")
    assert at_once(-1, "auto") == (torch.cuda.device_count() or cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert at_once(-1, "auto") == at_once(-1, "cpu", "cuda:1") == 3
    assert at_once(-1, "cpu") == cores
    assert at_once(6, "auto") == 6  # two per GPU


def test_a_folder_that_cannot_be_written_gives_one_sentence_and_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file where the folder would be")
    refused(here(f"-m seed=0,1 {SHORT}", tmp_path), "outputs cannot be written", "output_dir")


def test_a_sweep_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    import resource

    line = f"-m seed=0,1 {SHORT}"
    limit = 20_000  # bytes per file: less than a checkpoint has
    done = process(line, tmp_path, first=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "2 of 2 runs are not finished" in done.err
    assert "cannot be written" in done.err
    assert counts(tmp_path / "outputs") == {FAILED: 2}
    assert here(f"{line} retry_failed=true", tmp_path).code == 0
    assert counts(tmp_path / "outputs") == {FINISHED: 2}
