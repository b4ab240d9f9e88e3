"""A sweep works as in Hydra: a five-line plain Hydra application chooses the same jobs with the same values."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import optuna  # noqa: F401  its log keeps the stderr of its first import, which must not be a test's
import pytest
import yaml
from cli import CHECKOUT, CONF, here, listing, refused
from omegaconf import DictConfig, OmegaConf

from budgetrun.launch import plugins

SHORT = "epochs=0.1 evaluations=1"  # two updates
COMPARED = ("budget", "seed", "lr", "weight_decay", "epochs", "output_dir", "sampler", "aug", "schedule", "model")


def by_hydra(line: str, cwd: Path) -> list[dict[str, Any]]:
    """The configurations of the jobs of a command line as Hydra and its own sweeper make them."""
    found: list[Any] = []

    def app(cfg: DictConfig) -> None:
        found.append(OmegaConf.to_container(cfg, resolve=True))

    plugins.register()
    line = f"{line} hydra/sweeper=basic hydra/hydra_logging=none"
    with mock.patch.object(sys, "argv", ["app", *shlex.split(line)]), contextlib.chdir(cwd):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(app)()
    return found


def as_trained(cwd: Path) -> list[dict[str, Any]]:
    """The configurations of all runs below a folder."""
    return [yaml.safe_load(path.read_text()) for path in cwd.rglob("config.yaml") if path.parent.name[0] != "."]


def essence(configurations: list[dict[str, Any]]) -> list[str]:
    """What to compare, in any order; 1 and 1.0 are the same number."""

    def number(text: str) -> float:
        return float(text)

    words = [json.dumps({key: c[key] for key in COMPARED}) for c in configurations]
    return sorted(json.dumps(json.loads(text, parse_int=number), sort_keys=True) for text in words)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An empty folder beside a folder `cn` with a user's own configurations."""
    for name, text in {
        "mine": "lr: 0.42",
        "params": "hydra: {sweeper: {params: {seed: '3,4', lr: '0.2,0.3'}}}",
        "timed": "output_dir: o/${now:%H%M%S%f}",
        "nested": "weight_decay: ${eval:lr}\nlr: 0.3",
        "setting": "lr: ${oc.decode:${oc.env:OWN_LR}}\nhydra: {job: {env_set: {OWN_LR: '0.25'}}}",
        "grid": "hydra: {mode: MULTIRUN, sweeper: {params: {seed: 'range(2)'}}}",
    }.items():
        file = tmp_path / "cn" / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"defaults: [config, _self_]\n{text.replace('${eval:lr}', '${lr}')}\n")
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "-m lr=0.05,0.02 'weight_decay=${lr},0.5'",
        "--config-dir cn -cn mine -m budget=0.5,1",
        "--config-dir cn -cn params -m seed=7",
        "--config-dir cn -cn params -m hydra.sweeper.max_batch_size=3 budget=1",
        "--config-dir cn -cn nested -m lr=0.1,0.2",
        "--config-dir cn -cn grid lr=0.1,0.3",
        "--config-dir cn -cn setting -m seed=0,1",
        "hydra.mode=MULTIRUN hydra.job.chdir=true 'seed=range(2)'",
        "-m 'seed=choice(1,2)' 'lr=sort(0.3,0.1)'",
        "-m 'sampler=glob([u*,sca*])' 'output_dir=\"a b\"'",
        "-m seed=1 seed=2,3 lr=0.1 ++lr=0.2",
        "-m noise=symmetric,asymmetric model=resnet9,cnn model.width=2 seed=0",
        "-m ~schedule.final +schedule.final=0.05,0.01",
        "-m schedule=cosine,linear schedule.final=0.01 'aug=[ricap],[]'",
        "seed=3 model.width=2",
    ],
)
def test_the_jobs_and_their_values_are_those_of_hydra(line: str, own: Path) -> None:
    line = f"{line} {SHORT}"
    done = here(line, own)
    assert done.code == 0, done.err
    assert not done.err
    trained = as_trained(own)
    expected = by_hydra(line, own)
    assert essence(trained) == essence(expected)
    assert len(trained) == len(expected) >= 1
    # and each run is where its configuration says, relative to where the command was typed
    assert all(len(list((own / run["output_dir"]).glob("*/result.json"))) >= 1 for run in trained)


def test_an_option_s_name_in_a_folder_s_name_is_that_of_the_job(own: Path) -> None:
    where = "'output_dir=o/${hydra:runtime.choices.sampler}'"
    assert here(f"{where} {SHORT}", own).code == 0
    done = here(f"-m {where} sampler=uniform,scan {SHORT}", own)
    assert done.code == 0, done.err
    assert "2 runs: 1 finished, 1 missing" in done.out
    assert {run["output_dir"] for run in as_trained(own)} == {"o/uniform", "o/scan"}


def test_a_grid_that_a_configuration_chooses_is_a_sweep(own: Path) -> None:
    (own / "cn" / "grid").mkdir()
    (own / "cn" / "grid" / "ours.yaml").write_text("# ours\nsweeps: ['seed=0,1 weight_decay=${lr}', seed=1 lr=0.3]\n")
    (own / "cn" / "whole.yaml").write_text(
        f"defaults: [config, override grid: ours, _self_]\n{SHORT.replace(' ', chr(10)).replace('=', ': ')}\n"
    )
    done = here("--config-dir cn -cn whole lr=0.2,0.3", own)
    assert done.code == 0, done.err
    assert "6 of 6 runs are finished" in done.out
    runs = {(run["seed"], run["lr"], run["weight_decay"]) for run in as_trained(own)}
    assert runs == {(0, 0.2, 0.2), (0, 0.3, 0.3), (1, 0.2, 0.2), (1, 0.3, 0.3), (1, 0.2, 0.0001), (1, 0.3, 0.0001)}


def test_the_time_in_a_folder_s_name_is_that_of_the_whole_sweep(own: Path) -> None:
    done = here(f"--config-dir cn -cn timed -m seed=0,1 {SHORT}", own)
    assert done.code == 0, done.err
    assert "2 of 2 runs are finished" in done.out
    assert len({run["output_dir"] for run in as_trained(own)}) == 1


CALLBACK = """
from pathlib import Path

from hydra.experimental.callback import Callback


class Said(Callback):
    def say(self, what):
        with Path("said").open("a") as file:
            file.write(f"{what}\\n")

    def on_multirun_start(self, config, **_):
        self.say("multirun_start")

    def on_multirun_end(self, config, **_):
        self.say("multirun_end")

    def on_job_start(self, config, **_):
        self.say(f"job_start {config.seed}")

    def on_job_end(self, config, job_return, **_):
        self.say(f"job_end {0 <= job_return.return_value <= 1}")
"""


def test_callbacks_of_a_sweep_are_called(own: Path) -> None:
    (own / "said_by.py").write_text(CALLBACK)
    (own / "cn" / "called.yaml").write_text(
        "defaults: [config, _self_]\nhydra: {callbacks: {said: {_target_: said_by.Said}}}\n"
    )
    assert here(f"--config-dir cn -cn called -m seed=0,1 {SHORT}", own).code == 0
    assert (own / "said").read_text().splitlines() == [
        "multirun_start",
        "job_start 0",
        "job_end True",
        "job_start 1",
        "job_end True",
        "multirun_end",
    ]


@pytest.mark.parametrize(("held_out", "metric"), [("", "test_accuracy"), ("validation=0.3", "val_accuracy")])
def test_optuna_maximises_the_accuracy_without_being_told(held_out: str, metric: str, own: Path) -> None:
    search = "-m hydra/sweeper=optuna hydra.sweeper.n_trials=4 hydra.sweeper.n_jobs=2 hydra.sweeper.sampler.seed=1"
    done = here(f"{search} 'lr=tag(log,interval(0.0001,0.3))' epochs=0.5 evaluations=1 {held_out}", own)
    assert done.code == 0, done.err
    results = [json.loads(path.read_bytes()) for path in own.glob("outputs/*/result.json")]
    assert len(results) == 4
    accuracies = [result[metric] for result in results]
    assert max(accuracies) > min(accuracies)
    best = yaml.safe_load((own / "outputs" / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(accuracies)
    assert f"Best value: {max(accuracies)}" in done.out
    (winner,) = (r for r in results if r[metric] == max(accuracies))
    assert best["best_params"]["lr"] == pytest.approx(winner["config"]["lr"], rel=1e-11)


def test_the_user_s_options_of_a_sweeper_take_precedence(own: Path) -> None:
    done = here(
        "-m hydra/sweeper=optuna hydra.sweeper.direction=minimize hydra.sweeper.n_trials=1 "
        f"'lr=interval(0.1,0.2)' {SHORT}",
        own,
    )
    assert done.code == 0, done.err
    assert "Directions: ['minimize']" in done.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-m 'seed=range(2,0)'", ["sweep has no runs", "seed=range(2,0)"]),
        ("-m 'lr=interval(0.1,0.2)'", ["lr=interval(0.1,0.2)", "hydra/sweeper=optuna"]),
        ("'sampler={pool: 5}'", ["sampler={pool: 5} is not an option", "sampler.key=value"]),
        ("-m 'sampler={pool: 5},is'", ["sampler={pool: 5}"]),
        ("hydra.run.dir=x", ["hydra.run.dir=x has no effect", "output_dir=x"]),
        ("--config-dir cn -cn elsewhere", ["hydra.run.dir=here has no effect", "output_dir=here"]),
        ("-m hydra.sweep.dir=x seed=0,1", ["hydra.sweep.dir=x has no effect", "output_dir"]),
        ("-m hydra.sweep.subdir=x seed=0,1", ["hydra.sweep.subdir=x has no effect", "output_dir"]),
        ("-m hydra/launcher=joblib hydra.launcher.n_jobs=0 seed=0,1", ["hydra.launcher.n_jobs=0"]),
        ("-m seed=0 hydra.launcher.n_jobs=0", ["hydra.launcher.n_jobs"]),
        ("grid=smoke hydra.mode=RUN", ["hydra.mode"]),
        ("-m 'hydra.sweeper.params={grid: smoke}'", ["grid=smoke has no effect in hydra.sweeper.params"]),
        ("-m hydra.sweeper.max_batch_size=0 seed=0,1", ["max_batch_size=0"]),
        ("-m hydra.sweeper.max_batch_size=-1 seed=0,1", ["max_batch_size=-1"]),
        ("-m hydra.sweeper.max_batch_size=x seed=0,1", ["max_batch_size=x"]),
        ("-m hydra/sweeper=optuna hydra.sweeper.n_trials=0 'lr=interval(0.1,0.2)'", ["optuna", "No trials"]),
        ("-m hydra/sweeper=optuna hydra.sweeper.n_jobs=0 'lr=interval(0.1,0.2)'", ["hydra_plugins", "zero"]),
        ("-m grid=smoke hydra/sweeper=basic", ["other sweepers"]),
        ("-m seed=0,1 hydra/sweeper=nothing", ["nothing"]),
        ("-m seed=0,1 'output_dir=o/${hydra:job.num}'", ["job.num"]),
        ("-m hydra/sweeper=optuna hydra/launcher=submitit_slurm 'lr=interval(0.1,0.2)'", ["hydra/sweeper=budgetrun"]),
        ("-m hydra/sweeper=optuna dry_run=true hydra.sweeper.n_trials=1 'lr=interval(0.1,0.2)'", ["dry_run=true"]),
        ("--cfg nope", ["--cfg", "'nope'", "--help"]),
        ("--multirum seed=0", ["--multirum", "--help"]),
        ("-m -r seed=0", ["Only one of"]),
    ],
)
def test_what_hydra_would_do_otherwise_is_refused_in_one_sentence(line: str, words: list[str], own: Path) -> None:
    (own / "cn" / "elsewhere.yaml").write_text("defaults: [config, _self_]\nhydra: {run: {dir: here}}\n")
    before = [path for path in listing(own) if path.endswith("result.json")]
    refused(here(f"{line} {SHORT}", own), *words)
    assert [path for path in listing(own) if path.endswith("result.json")] == before == []


def test_steps_of_a_range_are_the_numbers_that_a_user_types(tmp_path: Path) -> None:
    assert here("-m 'budget=range(0.1,0.35,0.1)' epochs=0.5 evaluations=1", tmp_path).code == 0
    done = here("-m budget=0.1,0.2,0.3 epochs=0.5 evaluations=1", tmp_path)
    assert "3 runs: 3 finished\n" in done.out
    budgets = {json.loads(path.read_bytes())["config"]["budget"] for path in tmp_path.glob("outputs/*/result.json")}
    assert budgets == {0.1, 0.2, 0.3}


# ---- a sweep that only says what it would do


def test_a_dry_run_of_a_sweep_lists_its_runs_and_starts_nothing(tmp_path: Path) -> None:
    here(f"-m seed=0 {SHORT}", tmp_path)
    before = listing(tmp_path)
    done = here(f"-m seed=0,1 sampler=uniform,is dry_run=true {SHORT}", tmp_path)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == ["finished", "missing", "missing", "missing", "dry_run:"]
    # an image: three convolutions on 8x8, 4x4 and 2x2 pixels and a linear layer, forward, and backward to the weights
    # and to what comes before them, but for the first
    first, rest = 2 * 9 * 64 * 16, 2 * 9 * (16 * 16 * 32 + 4 * 32 * 64) + 2 * 256 * 10
    flops = 2 * 64 * (2 * first + 3 * rest)
    assert json.loads(next(tmp_path.glob("outputs/*/result.json")).read_bytes())["flops"] == flops
    assert flops == 119930880
    assert all(": 2 updates, 1.2e8 FLOPs, about " in line for line in lines[1:4])
    assert re.fullmatch(r"dry_run: 4 runs, nothing was started; about \S+ \w+ one after the other, .*", lines[-1])
    assert listing(tmp_path) == before
    planned = {Path(line.split()[1].rstrip(":")).name for line in lines[:-1]}
    here(f"-m seed=0,1 sampler=uniform,is {SHORT}", tmp_path)
    assert planned == {path.parent.name for path in tmp_path.glob("outputs/*/result.json")}


def test_a_dry_run_counts_what_would_be_run_again_and_not_what_failed(tmp_path: Path) -> None:
    failed = here(f"seed=0 {SHORT}", tmp_path).folder
    done = here(f"-m seed=0,1 force=true dry_run=true {SHORT}", tmp_path)
    assert re.search(r"^finished .*: 2 updates", done.out, flags=re.M)
    assert re.search(r"^finished .*: 2 updates", here(f"seed=0 force=true dry_run=true {SHORT}", tmp_path).out)
    (failed / "result.json").unlink()
    (failed / "failed.json").write_text('{"reason": "it broke"}')
    done = here(f"-m seed=0 dry_run=true {SHORT}", tmp_path)
    assert re.search(r"^failed +outputs/\S+$", done.out, flags=re.M), done.out
    assert re.search(r"^failed .*: 2 updates", here(f"-m seed=0 retry_failed=true dry_run=true {SHORT}", tmp_path).out)


def test_a_dry_run_of_one_run_says_what_it_costs_and_starts_nothing(tmp_path: Path) -> None:
    done = here(f"dry_run=true {SHORT}", tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith("missing      outputs/digits-cnn-uniform-standard-b1-s0-")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_names_every_run_that_cannot_be(tmp_path: Path) -> None:
    done = here(f"-m budget=0.5,7,9 dry_run=true {SHORT}", tmp_path)
    assert len(re.findall(r"^missing ", done.out, flags=re.M)) == 1
    assert len(re.findall(r"^cannot run   .*budget=[79].*at most 1", done.out, flags=re.M)) == 2
    refused(done, "2 of 3 runs cannot run", "budget=7")
    assert not list(tmp_path.iterdir())


# ---- what a shell and --help say of a folder of options of the user's own


@pytest.fixture
def options(own: Path) -> Path:
    for name, text in {
        "sampler/mine": "# ours\n_target_: x.Mine\npool: 3 # batches",
        "model/wide/mine": "# wide\n_target_: x.Wide",
        "study/first": "# @package _global_\n# a study\nlr: 0.3",
    }.items():
        (own / "cn" / name).parent.mkdir(parents=True, exist_ok=True)
        (own / "cn" / f"{name}.yaml").write_text(f"{text}\n")
    return own


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("budgetrun --config-dir cn sampler=m", "sampler=mine"),
        ("budgetrun -cd cn sampler=mine sampler.p", "sampler.pool="),
        ("budgetrun sampler=m -cd=cn", "sampler=mine"),
        ("budgetrun sampler=m", ""),
        ("budgetrun sampler=is sampler.po", "sampler.pool="),
        ("budgetrun -cd cn +stu", "+study="),
        ("budgetrun -cd cn +study=", "+study=first"),
        ("budgetrun budget", "budget= budget_unit="),
        ("budgetrun sampler=nothing sampler.p", ""),
        ("budgetrun -cd nowhere sampler=m", ""),
        ("budgetrun --config-dir", ""),
        ("budgetrun 'lr=0.3 sam", ""),
    ],
)
def test_a_shell_completes_what_the_line_s_folders_have(
    line: str, words: str, options: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    done = here("-sc query=bash", options)
    assert (done.out.strip(), done.err) == (words, "")


def test_help_lists_the_options_of_the_user_s_folder_and_the_values_of_the_chosen_ones(options: Path) -> None:
    said = here("--config-dir cn --help", options).out
    of_options = here("--config-dir cn --help sampler=mine aug=ricap dataset=digits", options).out
    for page, line in (
        (said, r"    mine +ours"),
        (said, r"    wide/mine +wide"),
        (said, r"  study \(default: none; \+study=... adds one\)\n    first +a study"),
        (of_options, r"sampler=mine: ours\n  sampler.pool=3 +batches"),
        (of_options, r"  aug.ricap.beta=0.3"),
        (of_options, r"  aug.crop.padding=1"),
        (of_options, r"  dataset.flip=false"),
    ):
        assert re.search(rf"^{line}$", page, flags=re.M), line
    assert not re.search(r"^    mine ", here("--help", options).out, flags=re.M)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sampler=mien", ["did you mean sampler=mine?"]),
        ("sampler=null", ["sampler=null is not an option", "mine"]),
        ("'sampler={pool: 3}'", ["is not an option"]),
        ("model=wide/mien", ["did you mean model=wide/mine?"]),
        ("stduy=first", ["did you mean study?"]),
        ("sampler=mine sampler.pol=3", ["did you mean sampler.pool?"]),
        (
            "dataset=torchvision 'dataset.options={a: 1}'",
            ["dataset.options is a dictionary", "+dataset.options.key=value"],
        ),
    ],
)
def test_what_is_mistyped_is_compared_with_the_options_of_the_user_s_folder(
    line: str, words: list[str], options: Path
) -> None:
    refused(here(f"--config-dir cn {line}", options), *words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-m sampler=is,vr sampler.looks=train sampler.threshold=null", ["2 runs"]),
        ("-m sampler=rho,subset sampler.file=nowhere.csv", ["sampler=rho", "nowhere.csv"]),
        ("-m sampler=uniform,is sampler.pool=4", ["sampler=uniform has no pool", "two commands", "lines of a grid"]),
        ("-m sampler=is,sb sampler.pol=4", ["sampler.pol", "did you mean sampler.pool?"]),
        ("sampler.pool=4", ["sampler=uniform has no pool; sampler=uniform --help"]),
    ],
)
def test_values_of_options_that_are_swept_over_belong_to_the_jobs(line: str, words: list[str], own: Path) -> None:
    done = here(f"{line} dry_run=true {SHORT}", own)
    if "2 runs" in words:
        assert done.code == 0, done.err
        assert "dry_run: 2 runs" in done.out
    else:
        refused(done, *words)


def test_a_folder_that_is_mistyped_is_named(options: Path) -> None:
    refused(here("--config-dir c sampler=mine", options), "--config-dir: there is no folder", "c;")


# ---- how


def test_hydra_s_inner_parts_are_imported_in_one_file_at_most() -> None:
    files = [path for path in (CHECKOUT / "budgetrun").rglob("*.py") if "hydra._internal" in path.read_text()]
    assert len(files) <= 1
