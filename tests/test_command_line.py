"""What a user types: every option, every combination, one folder per experiment, help, sweeps."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli import (
    CHECKOUT,
    CONF,
    FILES,
    OPTIONS,
    Done,
    composed,
    composer,
    environment,
    here,
    listing,
    needed,
    process,
    refused,
)
from omegaconf import OmegaConf
from tables import called

from budgetrun.aggregate import main as aggregate
from budgetrun.contracts import fits
from budgetrun.errors import in_own_code


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_into_a_checked_experiment_gives_exactly_its_class_s_fields_and_has_a_description(
    group: str, option: str, tmp_path: Path
) -> None:
    from hydra.utils import get_object

    from budgetrun.config import COURSE, experiment
    from budgetrun.launch.help import description

    if option == "timm":
        pytest.importorskip("timm", reason="the extra timm is not installed")
    sampler = "subset" if group == "select" else option
    chosen = [f"{group}={option}", *(["sampler=subset"] if group == "select" else [])]
    values, names = composer()([*chosen, *needed(sampler, tmp_path, " ".join(chosen)).split()])
    assert names[group] == option
    built = experiment(values, names)
    assert group in ("recipe", "logger") or built.names[group] == option
    text = description(CONF / group / f"{option}.yaml")
    assert 8 <= len(text) <= 100, text
    if group == "recipe":  # a recipe has no class
        return
    parts = values[group]
    for part in parts.values() if group in ("aug", "logger") else [parts] if parts else []:
        kind = get_object(part.pop("_target_"))
        if dataclasses.is_dataclass(kind):
            of_group = set(COURSE) if group == "schedule" else set()
            assert set(part) == {f.name for f in dataclasses.fields(kind)} | of_group
        else:
            kind(**part, params=[__import__("torch").zeros(1)], lr=0.1)


def test_no_component_file_is_without_a_yaml() -> None:
    from budgetrun.config import GROUPS

    for group in (*GROUPS, "coreset"):
        targets = set(
            re.findall(rf"budgetrun\.{group}\.(\w+)\.", " ".join(p.read_text() for p in CONF.rglob("*.yaml")))
        )
        files = {p.stem for p in (CHECKOUT / "budgetrun" / group).glob("[!_]*.py")}  # _name.py is a helper of its group
        assert files - {"choice"} == targets


@pytest.mark.parametrize(
    "line",
    [
        "budget=.30 epochs=1 sampler=is",
        "epochs=1.0 sampler=is budget=3e-1",
        "sampler=is budget=0.3 epochs=1 device=cpu checkpoint_every=7 data_dir=elsewhere",
        "sampler=is sampler.pool=3.0 budget=0.3 epochs=1",
        "sampler=is sampler.pool=3 recipe=digits budget=0.30000 epochs=1 seed=0 lr=1e-1",
        "sampler=is budget=0.3 epochs=1 aug.crop.padding=1 optimizer.momentum=0.90 schedule.final=0.000001",
        "sampler=is budget=0.3 epochs=1 optimizer.nesterov=False optimizer.momentum=9e-1",
        "-m budget=.3 epochs=1 sampler=is",
        "-m sampler=is budget=0.30,3e-1 epochs=1",
    ],
)
def test_the_same_experiment_lands_in_the_same_folder_however_it_is_typed(line: str, tmp_path: Path) -> None:
    from budgetrun.config import experiment

    cfg, names = composed("sampler=is", "budget=0.3", "epochs=1")
    done = here(line, tmp_path)
    assert done.code == 0, done.err
    assert done.folder.name == experiment(cfg, names).run_id


@pytest.mark.parametrize(
    "line",
    [
        "sampler=sb sampler.beta=2",
        "aug=cutmix aug.cutmix.alpha=1",
        "noise=symmetric noise.rate=0.250",
        "aug=randaugment aug.randaugment.magnitude=4.0",
        "optimizer.momentum=0.90",
        "schedule=cosine schedule.final=0",
        "dataset.mean=[0.30500]",
    ],
)
def test_a_default_typed_out_in_another_way_is_the_same_experiment(line: str) -> None:
    from budgetrun.config import experiment

    choices = [word for word in line.split() if "." not in word.partition("=")[0]]
    assert experiment(*composed(*line.split())).run_id == experiment(*composed(*choices)).run_id


@pytest.mark.parametrize(
    "line",
    [
        "seed=1",
        "budget=0.2999",
        "sampler=uniform",
        "aug=none",
        "lr=0.05",
        "model.width=8",
        "evaluations=3",
        "validation=0.1",
        "batch_size=32",
        "budget_unit=flops",
        "optimizer.nesterov=true",
        "schedule.final=0.01",
        "dataset.mean=[0.3]",
        "image_size=8",
    ],
)
def test_another_experiment_lands_in_another_folder(line: str) -> None:
    from budgetrun.config import experiment

    one, other = (
        experiment(*composed("sampler=is", "budget=0.3")),
        experiment(*composed("sampler=is", "budget=0.3", line)),
    )
    assert one.run_id != other.run_id


RECIPES = [option for group, option in OPTIONS if group == "recipe"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_command_line_values_take_precedence_over_every_recipe(recipe: str) -> None:
    from budgetrun.config import experiment

    typed = {"model": "wrn_28_2", "aug": "mixup", "optimizer": "adamw", "schedule": "cosine"}
    values = {"epochs": 3, "batch_size": 7, "lr": 0.5, "weight_decay": 0.25, "image_size": 9}
    words = [f"{key}={value}" for key, value in {**typed, **values}.items()]
    built = experiment(*composed("dataset=cifar10", f"recipe={recipe}", *words))
    assert typed.items() <= built.names.items()
    assert values.items() <= vars(built.settings).items()


def test_the_recipe_of_hu_trains_a_wide_network_with_nesterov_and_two_steps_of_a_fifth() -> None:
    import torch

    from budgetrun.config import experiment

    built = experiment(*composed("dataset=cifar10", "recipe=hu2021"))
    settings = built.settings
    assert (settings.epochs, settings.batch_size, settings.lr, settings.weight_decay) == (100, 128, 0.1, 5e-4)
    rates = [built.schedule(settings.lr, progress) for progress in (0, 0.599, 0.6, 0.799, 0.8, 1)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004])
    group = built.optimizer.build([torch.nn.Parameter(torch.zeros(1))], 0.1, 5e-4).param_groups[0]
    assert (group["nesterov"], group["momentum"]) == (True, 0.9)
    assert built.names["model"] == "wrn_28_10"
    assert built.names["aug"] == "standard"


def test_the_recipe_of_sahayam_is_stl10_s_own() -> None:
    from budgetrun.config import experiment

    built = experiment(*composed("dataset=stl10"))
    settings = built.settings
    assert (settings.epochs, settings.batch_size, settings.lr, settings.weight_decay) == (100, 512, 0.005, 0)
    assert settings.image_size == 128
    assert [built.schedule(0.005, progress) for progress in (0, 0.5, 1)] == [0.005] * 3
    assert built.aug == []
    assert built.names["model"] == "resnet18_imagenet"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("[ricap]", "ricap"),
        ("['ricap']", "ricap"),
        ("[none,ricap]", "ricap"),
        ("[ricap,ricap]", "ricap"),
        ("[]", "none"),
        ("[none]", "none"),
        ("none", "none"),
    ],
)
def test_a_list_of_one_option_is_that_option(typed: str, name: str) -> None:
    from budgetrun.config import experiment

    one, other = (experiment(*composed(f"aug={option}")) for option in (typed, name))
    assert one.names == other.names
    assert one.names["aug"] == name
    assert one.run_id == other.run_id


def test_augmentations_chosen_together_are_named_together_in_their_order(tmp_path: Path) -> None:
    done = here("-m aug=[randaugment,ricap],[ricap,randaugment] epochs=0.1", tmp_path)
    assert done.code == 0, done.err
    results = [json.loads(p.read_text()) for p in tmp_path.glob("outputs/*/result.json")]
    assert {r["names"]["aug"]: list(r["config"]["aug"]) for r in results} == {
        "randaugment+ricap": ["randaugment", "crop", "flip", "ricap"],
        "ricap+randaugment": ["crop", "flip", "ricap", "randaugment"],
    }
    assert sorted(r["run_id"].rpartition("-b1-")[0] for r in results) == [
        "digits-cnn-uniform-randaugment+ricap",
        "digits-cnn-uniform-ricap+randaugment",
    ]


def test_augmentations_that_a_yaml_file_lists_are_named_by_their_steps(tmp_path: Path) -> None:
    (tmp_path / "mine" / "recipe").mkdir(parents=True)
    (tmp_path / "mine" / "recipe" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /aug: [randaugment, ricap]\nepochs: 0.1\n"
    )
    done = here("--config-dir mine recipe=mine", tmp_path)
    assert done.code == 0, done.err
    assert done.result["names"]["aug"] == "randaugment+crop+flip+ricap"


def test_a_finished_run_is_not_run_again_and_says_so(finished: Done, tmp_path: Path) -> None:
    before = listing(finished.folder)
    again = here("budget=.5 epochs=1", tmp_path)
    assert again.code == 0
    assert "not run again" in again.out
    assert f"test accuracy {100 * finished.result['test_accuracy']:.2f} %" in again.out
    assert "result.json" in again.out
    after = listing(finished.folder)
    del before[str(finished.folder / "train.log")], after[str(finished.folder / "train.log")]
    assert after == before


def test_force_runs_it_again_and_keeps_the_earlier_result(finished: Done, tmp_path: Path) -> None:
    (finished.folder / "result.json").write_text(json.dumps({**finished.result, "test_accuracy": 0.125}))
    again = here("budget=0.5 epochs=1 force=true", tmp_path)
    assert again.code == 0, again.err
    assert "not run again" not in again.out
    assert again.result["test_accuracy"] != 0.125
    kept = list(again.folder.glob("result.json.previous*"))
    assert [json.loads(p.read_text())["test_accuracy"] for p in kept] == [0.125]


def test_forcing_twice_loses_no_result(finished: Done, tmp_path: Path) -> None:
    (finished.folder / "result.json").write_text(json.dumps({**finished.result, "test_accuracy": 0.125}))
    here("budget=0.5 epochs=1 force=true", tmp_path)
    done = here("budget=0.5 epochs=1 force=true", tmp_path)
    assert 0.125 in [json.loads(p.read_text())["test_accuracy"] for p in done.folder.glob("result*")]


def test_an_evaluation_at_every_update_is_possible(tmp_path: Path) -> None:
    done = here("budget=0.5 epochs=1 evaluations=100000 validation=0.1", tmp_path)
    assert done.code == 0, done.err
    assert len((done.folder / "metrics.jsonl").read_text().splitlines()) == done.result["updates"] == 10
    assert "val_accuracy" in done.result


# ---- help


def test_help_names_every_group_option_and_root_value_without_importing_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "budgetrun", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    imported = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, flags=re.M))
    assert "hydra" in imported
    assert not imported & {"torch", "torchvision", "numpy", "sklearn", "pandas", "scipy", "tqdm"}
    words = re.findall(r"^\s{2,4}(\w+)(?:=\S*)?\s", done.stdout, flags=re.M)
    for group, option in [*OPTIONS, ("tune", "lr"), ("grid", "tuned")]:
        assert group in words
        assert option in words
    for key in set(OmegaConf.load(CONF / "config.yaml")) - {"defaults", "hydra"}:
        assert key in words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["-h", "--help", "-m --help", "--help budget=0.3"])
def test_help_is_the_same_page_however_it_is_asked_for(line: str, tmp_path: Path) -> None:
    done = here(line, tmp_path)
    assert done.code == 0
    assert done.out.startswith("budgetrun: ")
    assert len(re.findall(r"^  python -m budgetrun ", done.out.partition("Examples")[2], flags=re.M)) >= 5
    assert max(map(len, done.out.splitlines())) <= 120


def test_help_with_an_option_is_about_that_option(tmp_path: Path) -> None:
    said = here("sampler=is --help", tmp_path).out.splitlines()
    assert said[0].startswith("sampler=is: importance sampling")
    assert re.fullmatch(r"  sampler.pool=3 +batches looked at for one trained on", said[1])
    assert len(said) < 14
    assert "--help alone" in said[-1]


def test_the_examples_of_the_help_page_are_valid() -> None:
    from budgetrun.config import experiment
    from budgetrun.launch.help import help_page

    examples = re.findall(r"^  python -m budgetrun (?:-m )?(.*)$", help_page(CONF).partition("Examples")[2], flags=re.M)
    assert len(examples) >= 5
    for line in examples:
        if "grid=" in line:  # grids have their own tests
            continue
        typed = [word.partition("=") for word in line.split()]
        values = [[f"{key}={one}" for one in value.split(",")] for key, _, value in typed]
        for number in range(max(map(len, values))):  # every value once
            assert experiment(*composed(*(words[number % len(words)] for words in values))).run_id


def test_the_configuration_is_shown_without_running(tmp_path: Path) -> None:
    done = here("sampler=is budget=0.3 --cfg job --resolve", tmp_path)
    assert done.code == 0
    assert "pool: 3" in done.out
    assert not list(tmp_path.iterdir())


# ---- sweeps


def test_a_sweep_runs_every_combination_once_and_exits_with_0(tmp_path: Path) -> None:
    line = "-m sampler=uniform,sb budget=0.3,0.5 epochs=1 seed=0,1"
    done = here(line, tmp_path)
    assert done.code == 0, done.err
    results = [json.loads(p.read_text()) for p in tmp_path.glob("outputs/*/result.json")]
    assert len(results) == 8
    assert len({(r["names"]["sampler"], r["config"]["budget"], r["config"]["seed"]) for r in results}) == 8
    assert "8 of 8" in done.out
    before = {k: v for k, v in listing(tmp_path).items() if k.endswith(("result.json", "checkpoint.pt"))}
    again = here(line, tmp_path)
    assert again.code == 0
    assert again.out.startswith("8 runs: 8 finished\n8 of 8 runs are finished\n| sampler | budget=0.3 ")
    command = "python -m budgetrun.aggregate outputs --rows sampler --cols budget"
    report = "report: python -m budgetrun.report outputs"
    assert again.out.endswith(f"table:  {command} --baseline sampler=uniform\n{report}\n")
    assert called(aggregate, *shlex.split(command)[3:], cwd=tmp_path).out in again.out, "the same table"
    assert before == {k: v for k, v in listing(tmp_path).items() if k.endswith(("result.json", "checkpoint.pt"))}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-m budget=0.3,0.5,2 epochs=1", ["budget=2", "at most 1"]),
        ("-m sampler=uniform,foo epochs=1", ["sampler=foo", "uniform"]),
        ("-m epochs=1 aug=none,ricap batch_size=64,1", ["batch_size=1", "aug=ricap"]),
        ("-m epochs=1 sampler=is sampler.pool=3,0", ["sampler.pool=0"]),
        ("-m epochs=1 bugdet=0.3,0.5", ["bugdet", "budget"]),
        ("-m epochs=1 sampler=null,is", ["sampler=null"]),
        ("-m epochs=1 device=cpu,cuda:99", ["device=cuda:99"]),
        ("-m epochs=1 noise=asymmetric noise.map=pairs,cifar100", ["noise.map=cifar100", "100 classes"]),
        ("-m epochs=1 noise=none,cifar10n", ["noise.file=data/CIFAR-10_human.pt is not there"]),
        ("-m epochs=1,0.001", ["epochs=0.001"]),
        ("-m epochs=1 sampler=uniform,glister", ["validation", "sampler=glister"]),
        ("-m epochs=1 scores=none,glister", ["validation", "scores=glister"]),
        ("-m epochs=1 seed=0,1 sampler=subset sampler.file=/dev/null", ["sampler.file", "/dev/null"]),
        ("-m epochs=1 batch_size=64,5000", ["batch_size=5000"]),
        ("-m epochs=1 dataset.mean=[0.3],[0.3,0.3]", ["dataset.mean"]),
        ("-m epochs=1 image_size=8,2", ["image_size=2", "1x2x2"]),
        ("-m epochs=1 logger=none,csv", ["the same run with another logger", "logger=[csv] has both"]),
        ("epochs=1 aug=none,ricap", ["aug=none,ricap is several", "aug=[none,ricap] has them all, -m runs each"]),
        ("--multir epochs=1 budget=0.5,2", ["budget=2"]),
        ("epochs=1 -m budget=0.5,2 --config-dir . seed=0", ["budget=2"]),
        ("hydra.mode=MULTIRUN epochs=1 budget=0.5,2", ["budget=2"]),
    ],
)
def test_a_sweep_with_one_senseless_job_starts_none(line: str, words: list[str], tmp_path: Path) -> None:
    done = here(line, tmp_path)
    assert not list(tmp_path.rglob("result.json")), "a job was started"
    refused(done, *words)
    assert not list(tmp_path.rglob("*.*")), "something was written"


def test_a_sweep_with_a_job_that_fails_goes_on_names_it_and_exits_with_1(tmp_path: Path) -> None:
    done = here("-m lr=1e30,0.1 epochs=1", tmp_path)
    assert len(list(tmp_path.rglob("result.json"))) == 1
    assert "failed: lr=1e+30 epochs=1: the loss became nan" in done.out
    assert re.search(r"^  failed: outputs/\S+-b1-s0-\w{8}: the loss became nan", done.out, flags=re.M)
    assert done.code == 1
    refused(done, "1 of 2 runs are not finished", "the loss became nan", "retry_failed=true")


BUGGY = """
from dataclasses import dataclass
from budgetrun.sampler.scan import Scan

@dataclass
class Buggy(Scan):
    def draw(self):
        {error}
"""


@pytest.mark.parametrize("sweep", ["", "-m "])
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ("open('nowhere')", "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_in_a_component_gives_one_sentence_and_a_traceback_without_hydra_s_line(
    error: str, raised: str, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"buggy_{error[0]}_of_this_test"
    (tmp_path / f"{module}.py").write_text(BUGGY.format(error=error))
    monkeypatch.syspath_prepend(str(tmp_path))
    done = here(f"{sweep}sampler=scan sampler._target_={module}.Buggy epochs=0.1", tmp_path)
    assert "Error executing job" not in done.err + done.out
    assert done.code == 1
    first, *frames = done.err.splitlines()
    place = rf"\S*{module}\.py:8"
    assert re.search(rf" {module}\.Buggy\.draw \({place}\) raised {re.escape(raised)}", first)
    assert frames[0] == "Traceback (most recent call last):"
    (frame,) = (line for line in frames if line.startswith("  File "))
    assert f"{module}.py" in frame
    assert frames[-2] == raised
    assert frames[-1].startswith("HYDRA_FULL_ERROR=1 ")
    failure = json.loads((done.folder / "failed.json").read_text())
    assert failure["reason"] in first
    assert "budgetrun/train.py" in failure["traceback"], "the whole of it"
    assert (f"sampler._target_={module}.Buggy epochs=0.1: " in done.out) == bool(sweep), "the log names the job"


def test_an_error_of_one_s_own_code_names_the_part_and_its_line_through_a_pickle_and_one_of_ours_is_none() -> None:
    def helper() -> None:
        raise KeyError("depth")

    def part() -> None:
        helper()

    def fails(work: Callable[[], object]) -> Exception:
        """What it raises, as the commands see it: without this test's own frame."""
        with pytest.raises(Exception, match=r"\S") as raised:
            work()
        return raised.value.with_traceback(raised.tb.tb_next)

    line = helper.__code__.co_firstlineno + 1
    said = pickle.loads(pickle.dumps(in_own_code(fails(part))))
    assert re.fullmatch(rf"\S+\.part \(\S*test_command_line\.py:{line}\) raised KeyError: 'depth'", str(said))
    (note,) = said.__notes__
    assert note.count("  File ") == 2
    assert in_own_code(fails(functools.partial(fits, None, None))) is None, "raised in budgetrun"
    assert in_own_code(fails(Path("nowhere").read_text)) is None, "raised in Python's library"
    read = str(in_own_code(fails(lambda: Path("nowhere").read_text())))
    assert read.endswith(" raised FileNotFoundError: [Errno 2] No such file or directory: 'nowhere'")


def test_hydra_s_own_report_of_an_error_is_shown_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("BUDGETRUN_EXPLAINS", raising=False)
    done = here("lr=1e30 epochs=1", tmp_path)
    assert done.code == 1
    assert "Error executing job with overrides: ['lr=1e30', 'epochs=1']" in done.err
    assert "Traceback" in done.err


@pytest.mark.parametrize(
    ("line", "count"), [("seed=range(3)", 3), ("sampler=glob(*_sgd)", 2), ("'seed=choice(1,2)'", 2)]
)
def test_hydras_own_sweep_syntax_works(line: str, count: int, tmp_path: Path) -> None:
    done = here(f"-m epochs=0.1 {line}", tmp_path)
    assert done.code == 0, done.err
    assert len(list(tmp_path.rglob("result.json"))) == count


# ---- a user's own component


OWN = """
from dataclasses import dataclass
from budgetrun.sampler.scan import Scan

@dataclass
class Mine(Scan):
    strength: float
"""


@pytest.mark.parametrize("sweep", ["", "-m "])
def test_a_user_adds_a_sampler_with_one_yaml_and_one_python_file(
    sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_sampler_of_this_test.py").write_text(OWN)
    (tmp_path / "mine" / "sampler").mkdir(parents=True)
    (tmp_path / "mine" / "sampler" / "mine.yaml").write_text(
        "# mine\n_target_: my_sampler_of_this_test.Mine\nstrength: 1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    done = here(f"{sweep}--config-dir mine sampler=mine sampler.strength=2 budget=0.3 epochs=1", tmp_path)
    assert done.code == 0, done.err
    assert done.result["names"]["sampler"] == "mine"
    refused(here(f"{sweep}--config-dir mine sampler=mine sampler.strenght=2", tmp_path), "sampler.strength")


# ---- as a process


def test_the_command_works_as_a_process_from_any_folder(tmp_path: Path) -> None:
    done = process("sampler=is budget=0.3 aug=ricap epochs=1", tmp_path)
    assert done.code == 0, done.err
    assert done.err == ""
    assert "\r" not in done.out
    assert str(Path("outputs", done.folder.name, "result.json")) in done.out
    assert [p.name for p in tmp_path.iterdir()] == ["outputs"]
    assert {p.name for p in done.folder.iterdir()} - {".lock"} == FILES
    promised = """run_id status config test_accuracy test_loss updates examples_forward examples_backward flops seconds
        seconds_total n_parameters dataset_fingerprint commit dirty versions device"""
    assert set(promised.split()) <= set(done.result)
    assert done.result["run_id"] == done.folder.name
    assert done.result["config"] == OmegaConf.to_container(OmegaConf.load(done.folder / "config.yaml"))


def test_the_same_steps_in_another_order_are_another_experiment() -> None:
    from budgetrun.config import experiment, run_id

    built = experiment(*composed("aug=randaugment"))
    turned = {**built.resolved, "aug": dict(reversed(built.resolved["aug"].items()))}
    assert run_id(built.names, built.resolved) == built.run_id != run_id(built.names, turned)
