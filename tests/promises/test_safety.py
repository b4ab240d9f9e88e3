"""Bad input and bad luck: one clear sentence, exit code not 0, no traceback, nothing lost."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import SAMPLERS, Done, before_update, environment, here, listing, needed, process, refused, started
from torch.utils._python_dispatch import TorchDispatchMode

from budgetrun.dataset.fashion_mnist import FashionMNIST
from budgetrun.dataset.image_folder import ImageFolder
from budgetrun.noise.human import Human
from budgetrun.sampler.rho import RHO

# command line, and words that the sentence must have
SENSELESS = [
    ("budget=0", "budget=0", "greater than 0"),
    ("budget=-1", "budget=-1"),
    ("budget=1.5", "budget=1.5", "at most 1"),
    ("budget=abc", "budget=abc", "number"),
    ("budget=nan", "budget=nan"),
    ("budget=", "budget="),
    ("budget=null", "budget="),
    ("budget=0.3,0.5", "budget=0.3,0.5"),
    ("sampler=foo", "sampler=foo", "uniform"),
    ("sampler=unifrom", "sampler=uniform"),
    ("sampler=", "sampler"),
    ("sampler=null", "sampler=null"),
    ("noise=null", "noise=null"),
    ("model=null", "model=null"),
    ("sampler=3", "sampler=3"),
    ("~sampler", "sampler"),
    ("bugdet=0.3", "bugdet", "budget"),
    ("+bugdet=0.3", "bugdet", "budget"),
    ("smapler=is", "smapler", "sampler"),
    ("sampler=subset", "sampler.file", "scores="),
    ("sampler=subset sampler.file=nowhere.csv", "sampler.file", "nowhere.csv"),
    ("sampler=subset sampler.file=. sampler.keep=0", "sampler.keep=0"),
    ("sampler=subset sampler.file=. sampler.order=up", "sampler.order=up"),
    ("sampler=rho", "sampler.file", "train_on=validation"),
    ("sampler=rho sampler.file=. sampler.looks=both", "sampler.looks=both"),
    ("sampler=rho sampler.file=. sampler.pool=0", "sampler.pool=0"),
    ("train_on=validation", "train_on=validation", "set validation"),
    ("sampler=proxy sampler.pool=0", "sampler.pool=0"),
    ("sampler=is sampler.pol=3", "sampler.pol", "sampler.pool"),
    ("sampler=is +sampler.pol=3", "sampler.pol", "sampler.pool"),
    ("aug=ricap aug.ricap.bta=3", "aug.ricap.bta", "aug.ricap.beta"),
    ("optimizer.momentun=0.5", "optimizer.momentun", "optimizer.momentum"),
    ("model.width=abc", "model.width=abc", "whole number"),
    ("aug.crop.padding=1.5", "aug.crop.padding=1.5"),
    ("aug.crop.padding=-1", "aug.crop.padding=-1"),
    ("sampler=is sampler.pool=abc", "sampler.pool=abc"),
    ("noise=symmetric noise.rate=2", "noise.rate=2"),
    ("noise=symmetric noise.over=some", "noise.over=some", "others, all"),
    ("noise=asymmetric noise.map=cifar", "noise.map=cifar ", "cifar100"),
    ("noise=asymmetric noise.map=cifar100", "noise.map=cifar100", "10"),
    ("noise=instance noise.rate=-1", "noise.rate=-1"),
    ("noise=shuffle_pixels noise.rate=1", "noise.rate=1"),
    ("noise=gaussian_pixels noise.fresh=often", "noise.fresh=often", "true or false"),
    ("noise=cifar10n", "noise.file=data/CIFAR-10_human.pt", "github.com"),
    ("noise=cifar10n noise.labels=best", "noise.labels=best", "worse_label"),
    ("noise=cifar100n noise.file=null", "noise.file"),
    ("schedule=step schedule.milestones=0.5", "schedule.milestones=0.5"),
    ("optimizer.momentum=abc", "optimizer.momentum=abc"),
    ("optimizer.nesterov=maybe epochs=0.1", "optimizer.nesterov=maybe"),
    ("optimizer=adamw optimizer.betas=[0.9] epochs=0.1", "optimizer.betas=[0.9]"),
    ("+optimizer.lr=3 epochs=0.1", "optimizer.lr"),
    ("dataset.mean=[0.1,0.2]", "dataset.mean"),
    ("dataset.std=[0] epochs=0.1", "dataset.std"),
    ("dataset.mean=[nan] epochs=0.1", "dataset.mean"),
    ("dataset.padding=-1", "padding=-1"),
    ("aug.crop=3", "aug.crop"),
    ("aug=ricap batch_size=0", "batch_size=0"),
    ("aug=ricap batch_size=1", "batch_size=1", "aug=ricap"),
    ("aug=[standard,ricap] batch_size=1", "batch_size=1", "aug=standard+ricap"),
    ("sampler=[is,sb]", "sampler=[is,sb]", "-m sampler=is,sb"),
    ("batch_size=100000", "batch_size=100000", "1438"),
    ("epochs=0.001", "epochs"),
    ("epochs=nan", "epochs=nan"),
    ("image_size=0", "image_size=0", "at least 1"),
    ("image_size=32.5", "image_size=32.5", "whole number", "null"),
    ("image_size=10000000", "image_size=10000000", "memory"),
    ("dataset=mini_imagenet dataset.size=0", "dataset.size=0"),
    ("dataset=mini_imagenet dataset.train=0", "dataset.train=0"),
    ("dataset=image_folder dataset.size=0", "dataset.size=0"),
    ("dataset=image_folder dataset.channels=4", "dataset.channels=4"),
    ("dataset=image_folder dataset.mean=0.5", "dataset.mean=0.5", "list of numbers", "null"),
    ("model=resnet50 model.depth=34", "model.depth=34"),
    ("model=resnet101 model.stem=7x7", "model.stem=7x7", "small", "imagenet"),
    ("model=densenet121 model.stem=7x7", "model.stem=7x7"),
    ("model=efficientnet_b4 model.stem=7x7", "model.stem=7x7"),
    ("model=efficientnet_b4 model.variant=b5", "model.variant=b5"),
    ("model=efficientnet_v2_s model.stochastic_depth=1", "model.stochastic_depth=1"),
    ("model=mobilenet_v3_small model.stem=7x7", "model.stem=7x7"),
    ("model=mobilenet_v3_small model.dropout=-0.1", "model.dropout=-0.1"),
    ("validation=0.999", "validation=0.999"),
    ("validation=1", "validation=1"),
    ("seed=-1", "seed=-1"),
    ("seed=1.5", "seed=1.5"),
    ("evaluations=0", "evaluations=0"),
    ("lr=0", "lr=0"),
    ("precision=fp16", "precision=fp16"),
    ("budget_unit=second", "budget_unit=second", "seconds"),
    ("full_seconds=3", "full_seconds=3"),
    ("device=cuda:99", "device=cuda:99"),
    ("device=tpu", "device=tpu"),
    ("device=cpu:7", "device=cpu:7", "auto, cpu, cuda"),
    ("epochs=1e308", "epochs=1e+308", "at most"),
    ("lr=1e-300", "lr=1e-300", "float32"),
    ("lr=1e-7", "lr=1e-07", "schedule.final"),
    ("budget_unit=seconds full_seconds=1e-300", "full_seconds=1e-300", "at least 0.001"),
    ("budget_unit=seconds full_seconds=0.001", "full_seconds=0.001", "880 updates"),
    ("checkpoint_every=inf", "checkpoint_every=inf"),
    ("data_dir=''", "data_dir=''"),
    ("output_dir=\\'~nobody_of_this_name/x\\'", "output_dir=~nobody_of_this_name/x", "home"),
    ("dataset.mean=[128]", "dataset.mean=[128.0]", "scaled to [0, 1]"),
    ("dataset=cifar10 dataset.std=[0.2,0.2]", "dataset.std=[0.2, 0.2]", "3 numbers"),
    ("aug=[ricap,mixup]", "aug=[ricap,mixup]", "cannot be mixed again"),
    ("-m aug=[mixup,cutmix],ricap", "aug=[mixup,cutmix]", "no job was started"),
    ("dataset=image_folder aug=[cutmix,mixup]", "aug=[cutmix,mixup]"),
    ("aug=mixup aug.mixup.alpha=1e300", "aug.mixup.alpha=1e+300", "1e6"),
    ("dataset.padding=100000", "aug.crop.padding=100000", "8x8", "200008x200008"),
    ("-m aug.crop.padding=9,1", "aug.crop.padding=9", "no job was started"),
    ("aug=randaugment aug.randaugment.operations=1000000000", "operations=1000000000", "100"),
    ("sampler=sb sampler.beta=1e9", "sampler.beta=1000000000.0", "1000"),
    ("noise=symmetric noise.rate=1e-300", "noise.rate=1e-300", "none of the 1438"),
    ("model.width=1000000", "90,000,183,000,010 weights", "memory", "they take 655 TiB", "batch_size"),
    ("-m model.width=1000000 seed=0,1", "memory", "TiB", "no job was started"),
    ("sampler=proxy sampler.model.width=1000000", "memory", "TiB"),
    ("image_size=100000", "1,797 images of 100000x100000", "memory", "16 TiB"),
    ("device=meta", "device=meta"),
    ("model._target_=nowhere.Model", "nowhere.Model"),
    ("model._target_=os.system", "model"),
    (
        "+noise._target_=budgetrun.aug.flip.Flip +noise.allowed=true",
        "noise._target_=budgetrun.aug.flip.Flip cannot be used",
    ),
    (
        "loss=cross_entropy loss._target_=budgetrun.schedule.linear.Linear +loss.final=0.5 ~loss.smoothing",
        "loss._target_",
        "Linear",
    ),
    (
        "sampler=proxy sampler.model._target_=budgetrun.optimizer.sgd.SGD ~sampler.model.width "
        "+sampler.model.momentum=0.9 +sampler.model.nesterov=false",
        "sampler.model._target_",
    ),
    ("foo", "foo"),
    ("a=b=c", "a=b=c"),
    ("--foo", "--foo"),
]


@pytest.mark.parametrize("case", SENSELESS, ids=lambda case: case[0])
def test_senseless_input_is_refused_in_one_sentence_and_nothing_is_written(
    case: tuple[str, ...], tmp_path: Path
) -> None:
    line, *words = case
    refused(here(line, tmp_path), *words)
    assert not list(tmp_path.iterdir()), "something was written"


def test_a_tilde_is_a_home_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BUDGETRUN_DATA", "~/data")
    needed("subset", tmp_path)
    done = here("sampler=subset sampler.file=\\'~/given.csv,~/given.cs?\\' output_dir=\\'~/out\\' epochs=0.1", tmp_path)
    assert done.code == 0, done.err
    (result,) = (tmp_path / "out").glob("*/result.json")
    config = json.loads(result.read_text())["config"]
    assert config["data_dir"] == str(tmp_path / "data")
    assert config["sampler"]["file"] == f"{tmp_path}/given.csv,{tmp_path}/given.cs?"
    others = [
        (FashionMNIST(mean=[0.3], std=[0.4], flip=True, padding=2, system="~/x"), "system"),
        (ImageFolder("~/x", 8, 3, mean=None, std=None, flip=True, padding=2), "root"),
        (Human("~/x", "worse_label"), "file"),
        (RHO("~/x", pool=2, looks="eval"), "file"),
    ]
    assert all(getattr(part, name) == str(tmp_path / "x") for part, name in others)
    assert not list(tmp_path.glob("~*"))


SMALL = """
from dataclasses import dataclass
from torch import nn

@dataclass
class Big:
    def build(self, channels, classes):
        return nn.Sequential(nn.Conv2d(channels, 4, 11), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""


def test_a_model_that_does_not_fit_the_image_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, cwd = tmp_path / "code", tmp_path / "cwd"
    code.mkdir()
    cwd.mkdir()
    (code / "big_model_of_this_test.py").write_text(SMALL)
    monkeypatch.syspath_prepend(str(code))
    refused(here("model._target_=big_model_of_this_test.Big ~model.width", cwd), "fit", "8x8")
    assert not list(cwd.iterdir()), "something was written"


# ---- folders and disks


DOWNLOADED = ["cifar10", "cifar100", "svhn", "fashion_mnist dataset.system=nowhere", "stl10"]


@pytest.mark.parametrize("dataset", [*DOWNLOADED, "mini_imagenet", "image_folder"])
def test_a_data_dir_that_cannot_be_read_or_written_is_named(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(here(f"dataset={dataset} data_dir=file epochs=1", tmp_path), "file")
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "something was written"


@pytest.mark.parametrize("output_dir", ["file", "file/below", "/proc/nowhere"])
def test_an_output_dir_that_cannot_be_written_is_named(output_dir: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(here(f"output_dir={output_dir} epochs=1", tmp_path), output_dir)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    refused(here(f"-m output_dir={output_dir} epochs=1 seed=0,1", tmp_path), output_dir)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def limit_files_to(size: int) -> Any:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_disk_that_cannot_take_the_files_stops_the_run_and_leaves_what_was_there(size: int, tmp_path: Path) -> None:
    line = "budget=0.5 epochs=1"
    first = here(f"{line} evaluations=2", tmp_path)  # another experiment's folder, and this one's checkpoint
    with before_update(5, "uniform", lambda: os.kill(os.getpid(), signal.SIGINT)):
        interrupted = here(line, tmp_path)
    assert interrupted.code == 130
    before = {k: v for k, v in listing(tmp_path).items() if k.endswith(("checkpoint.pt", "result.json"))}
    done = process(line, tmp_path, first=limit_files_to(size))
    refused(done, "cannot be written")
    assert not [p for p in tmp_path.rglob(".*") if p.is_file() and p.name != ".lock"], "scratch files are left"
    assert before == {k: v for k, v in listing(tmp_path).items() if k.endswith(("checkpoint.pt", "result.json"))}
    assert first.code == 0
    assert here(line, tmp_path).code == 0, "with room again the run ends"


def test_a_full_disk_stops_the_run_in_one_sentence(tmp_path: Path) -> None:
    disk = tmp_path / "outputs"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    try:
        refused(here("budget=0.5 epochs=1", tmp_path), "cannot be written", "checkpoint.pt", "No space left")
        assert not list(disk.glob("*/*.pt"))
        assert not list(disk.glob("*/result.json"))
        (disk / "fill").write_bytes(b"")
        with (disk / "fill").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        refused(here("budget=0.5 epochs=1 seed=1", tmp_path), "cannot be written")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ---- files that are broken


@pytest.fixture(scope="module")
def interrupted(finished_once: Done, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that finished, was begun again and interrupted; its first result and checkpoint are beside the second."""
    place = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(finished_once.cwd, place, dirs_exist_ok=True)
    folder = replace(finished_once, cwd=place).folder
    shutil.copy(folder / "checkpoint.pt", folder / "whole.pt")
    with before_update(5, "uniform", lambda: os.kill(os.getpid(), signal.SIGINT)):
        assert here("budget=0.5 epochs=1 force=true", place).code == 130
    return place


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"status": "finished"}', '{"status": "half"}', "\x00\xff"])
def test_a_corrupt_result_is_reported_and_set_aside_and_the_run_goes_on(
    text: str, finished: Done, tmp_path: Path
) -> None:
    accuracy = finished.result["test_accuracy"]
    (finished.folder / "result.json").write_bytes(text.encode("latin-1"))
    again = here("budget=0.5 epochs=1", tmp_path)
    assert again.code == 0, again.err
    assert again.result["test_accuracy"] == accuracy
    assert [p.read_bytes() for p in finished.folder.glob("result.json.*")] == [text.encode("latin-1")]
    assert "set aside" in again.out + again.err


def damaged(path: Path, kind: str) -> bytes:
    whole = path.read_bytes()
    match kind:
        case "empty":
            return b""
        case "truncated":
            return whole[: len(whole) // 2]
        case "text":
            return b"not a checkpoint"
        case "bits":  # in the middle of the weights
            return (
                whole[: len(whole) // 2]
                + bytes(b ^ 0xFF for b in whole[len(whole) // 2 :][:64])
                + whole[len(whole) // 2 + 64 :]
            )
    other = path.with_name("other")
    if kind in WRONG:
        state = torch.load(path, weights_only=True)
        torch.save({**state, **WRONG[kind](state)}, other)
    else:
        torch.save({"weights": torch.zeros(3)} if kind == "other" else [1, 2], other)
    content = other.read_bytes()
    other.unlink()
    return content


# checkpoints with everything that one must have, but with content that no run wrote
WRONG: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no model": lambda state: {"model": {}},
    "another model": lambda state: {"model": {name: torch.zeros(3) for name in state["model"]}},
    "other weights": lambda state: {"model": {name: 0 * value for name, value in state["model"].items()}},
    "no sampler": lambda state: {"sampler": None},
    "half a sampler": lambda state: {"sampler": {**state["sampler"], "left": None}},
    "a word for seconds": lambda state: {"seconds_total": "long"},
    "a smaller budget": lambda state: {"budget": {**state["budget"], "allowed": 6}},
    "an evaluation": lambda state: {"record": {**state["record"], "metrics": [{"test_accuracy": 7.5}]}},
    "another optimizer": lambda state: {"optimizer": {"state": {}, "param_groups": []}},
    "a number for a fingerprint": lambda state: {"dataset fingerprint": 3},
}


@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "bits", "other", "list", *WRONG])
def test_a_corrupt_checkpoint_is_reported_and_set_aside_and_the_run_starts_over(
    kind: str, interrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    (folder,) = (path.parent for path in tmp_path.glob("outputs/*/config.yaml"))
    expected = json.loads((folder / "result.json.previous").read_text())
    weights = torch.load(folder / "whole.pt", weights_only=True)["model"]
    content = damaged(folder / "checkpoint.pt", kind)
    (folder / "checkpoint.pt").write_bytes(content)
    done = here("budget=0.5 epochs=1", tmp_path)
    assert done.code == 0, done.err
    assert "set aside" in done.out + done.err
    assert [p.read_bytes() for p in folder.glob("checkpoint.pt.*")] == [content]
    assert done.result["test_accuracy"] == expected["test_accuracy"]
    again = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_something_other_than_a_file_in_the_place_of_a_run_s_files_does_not_keep_it_waiting(
    finished: Done, tmp_path: Path
) -> None:
    expected = finished.result["test_accuracy"]
    folder = next(path.parent for path in tmp_path.glob("outputs/*/config.yaml"))
    for name in (
        "checkpoint.pt",
        "metrics.jsonl",
        ".metrics.jsonl.partial",
        "train.log",
        "running.json",
        "failed.json",
        "result.json",
    ):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    done = here("budget=0.5 epochs=1", tmp_path)
    assert done.code == 0, done.err
    assert done.result["test_accuracy"] == expected
    assert done.out.count("it is not a file): set aside as") == 2


# ---- training that fails


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_loss_that_is_not_a_number_stops_with_step_and_learning_rate(sampler: str, tmp_path: Path) -> None:
    line = f"sampler={sampler} lr=1e9 budget=0.5 epochs=4" + (" sampler.threshold=0" if sampler in ("is", "vr") else "")
    done = here(f"{line} checkpoint_every=1000 {needed(sampler, tmp_path)}", tmp_path)
    refused(done, "update", "learning rate", "checkpoint", "lr")
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.rglob("checkpoint.pt")), "a checkpoint of a diverged model"


def test_a_diverged_run_names_its_last_good_checkpoint_and_keeps_it(tmp_path: Path) -> None:
    done = here("lr=1e9 budget=0.5 epochs=4 checkpoint_every=0", tmp_path)
    sentence = refused(done, "update", "learning rate")
    (path,) = tmp_path.rglob("checkpoint.pt")
    assert str(path.relative_to(tmp_path)) in sentence
    state = torch.load(path, weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())
    before = path.read_bytes()
    refused(here("lr=1e9 budget=0.5 epochs=4 checkpoint_every=0", tmp_path), str(path.relative_to(tmp_path)))
    assert path.read_bytes() == before


def test_weights_that_overflow_in_the_very_last_update_give_no_result(tmp_path: Path) -> None:
    done = here("lr=1e30 weight_decay=1e30 epochs=1 budget=0.05 evaluations=1", tmp_path)
    refused(done, "the weights became infinite or not a number by update 1 ", "there is no checkpoint yet")
    assert not list(tmp_path.rglob("result.json"))


class Waits(TorchDispatchMode):
    """Counts the booleans that the host waits for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.bool
        return func(*args, **(kwargs or {}))


def test_a_checkpoint_asks_only_once_whether_all_weights_are_finite(tmp_path: Path) -> None:
    with Waits() as waits:
        done = here("epochs=1 budget=0.05 evaluations=1", tmp_path)
    assert done.code == 0, done.err
    assert waits.count == 1, "once at the end of the run is enough"


@pytest.mark.parametrize("wrong", ["device=cuda:99", "output_dir=outputs data_dir=x device=meta"])
def test_a_forced_run_that_cannot_start_leaves_the_earlier_result_alone(
    wrong: str, finished: Done, tmp_path: Path
) -> None:
    before = {k: v for k, v in listing(tmp_path).items() if not k.endswith((".lock", "train.log"))}
    refused(here(f"budget=0.5 epochs=1 force=true {wrong}", tmp_path))
    assert before == {k: v for k, v in listing(tmp_path).items() if not k.endswith((".lock", "train.log"))}
    assert finished.result["status"] == "finished"


def test_an_interrupted_forced_run_goes_on_when_the_message_is_followed(finished: Done, tmp_path: Path) -> None:
    line = "budget=0.5 epochs=1 force=true"
    with before_update(5, "uniform", lambda: os.kill(os.getpid(), signal.SIGINT)):
        stopped = here(line, tmp_path)
    assert stopped.code == 130
    followed = line if "same command" in stopped.err and "without force" not in stopped.err else "budget=0.5 epochs=1"
    done = here(followed, tmp_path)
    assert "goes on from update 5" in done.out, stopped.err


# ---- interruption


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGUSR1, 138),
        pytest.param(signal.SIGUSR2, 140, marks=pytest.mark.full),
    ],
)
def test_ctrl_c_and_the_signals_of_batch_systems_save_and_leave_with_a_message(
    signum: int, code: int, tmp_path: Path
) -> None:
    line = "epochs=4000 evaluations=40000"
    running = started(line, tmp_path)
    wait_until(lambda: any(p.stat().st_size for p in tmp_path.glob("outputs/*/metrics.jsonl")))
    running.send_signal(signum)
    out, err = running.communicate(timeout=60)
    assert running.returncode == code, out + err
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    assert "saved at update" in err
    assert "go on" in err
    (path,) = tmp_path.rglob("checkpoint.pt")
    state = torch.load(path, weights_only=True)
    assert f"update {state['budget']['updates']};" in err
    assert not list(tmp_path.rglob("result.json"))


SLOW = """
import time
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Data:
    def load(self, folder):
        Path("reached").touch()
        time.sleep(60)
"""
SLOW_IMPORT = SLOW.replace("@dataclass", "Path('reached').touch()\ntime.sleep(60)\n\n@dataclass")


@pytest.mark.parametrize(
    ("signum", "code", "module", "sweep"),
    [
        (signal.SIGTERM, 143, SLOW, ""),
        pytest.param(signal.SIGUSR1, 138, SLOW, "", marks=pytest.mark.full),
        (signal.SIGTERM, 143, SLOW_IMPORT, "-m "),
        (signal.SIGINT, 130, SLOW, "-m "),
    ],
    ids=["SIGTERM-data", "SIGUSR1-data", "SIGTERM-import-sweep", "Ctrl-C-data-sweep"],
)
def test_a_signal_before_the_training_ends_it_with_a_message(
    signum: int, code: int, module: str, sweep: str, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(module)
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "slow.yaml").write_text("_target_: slow.Data\n")
    running = started(f"{sweep}--config-dir mine dataset=slow ~aug epochs=1", tmp_path)
    wait_until(lambda: (tmp_path / "reached").exists() or running.poll() is not None)
    running.send_signal(signum)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (code, "budgetrun: interrupted; nothing had to be saved\n"), out
    assert not (tmp_path / "outputs").exists()


def test_a_signal_that_is_ignored_from_the_start_stays_ignored(tmp_path: Path) -> None:
    """As nohup ignores a closed terminal, and a shell ignores Ctrl-C for what a script runs in the background."""
    ignored = signal.SIGHUP, signal.SIGINT

    def ignore() -> None:
        for signum in ignored:
            signal.signal(signum, signal.SIG_IGN)

    running = started("epochs=2 evaluations=40", tmp_path, first=ignore)
    wait_until(lambda: any(p.stat().st_size for p in tmp_path.glob("outputs/*/metrics.jsonl")))
    for signum in ignored:
        running.send_signal(signum)
    assert running.communicate(timeout=60)[1] == ""
    assert running.returncode == 0


def test_a_closed_terminal_lets_the_run_save(tmp_path: Path) -> None:
    terminal, of_the_run = pty.openpty()

    def login() -> None:
        os.setsid()
        fcntl.ioctl(of_the_run, termios.TIOCSCTTY, 0)
        for stream in range(3):
            os.dup2(of_the_run, stream)

    with started("epochs=4000 evaluations=40000", tmp_path, first=login) as running:
        try:
            os.close(of_the_run)
            wait_until(lambda: any(p.stat().st_size for p in tmp_path.glob("outputs/*/metrics.jsonl")))
            os.close(terminal)
            assert running.wait(60) == 128 + signal.SIGHUP
        finally:
            running.kill()
    assert len(list(tmp_path.rglob("checkpoint.pt"))) == 1


def test_a_second_ctrl_c_stops_at_once_and_says_what_is_lost(tmp_path: Path) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with before_update(5, "uniform", twice):
        done = here("epochs=1", tmp_path)
    assert done.code == 130
    assert done.err == "budgetrun: interrupted; stopped at once, so progress since the last checkpoint was not saved\n"
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_an_interrupted_sweep_saves_and_stops(tmp_path: Path) -> None:
    with before_update(5, "uniform", lambda: os.kill(os.getpid(), signal.SIGTERM)):
        done = here("-m epochs=1 seed=0,1,2", tmp_path)
    assert done.code == 143
    assert "saved at update 5" in done.err
    assert len(list(tmp_path.rglob("checkpoint.pt"))) == 1
    again = here("-m epochs=1 seed=0,1,2", tmp_path)
    assert again.code == 0, again.err
    assert "goes on from update 5" in again.out
    assert len(list(tmp_path.rglob("result.json"))) == 3


def test_signal_handlers_are_as_before_after_a_run(tmp_path: Path) -> None:
    before = [signal.getsignal(signum) for signum in signal.Signals]
    assert here("budget=0.5 epochs=1", tmp_path).code == 0
    assert [signal.getsignal(signum) for signum in signal.Signals] == before


# ---- output that cannot be written


@pytest.mark.parametrize("launcher", ["", "hydra/launcher=joblib hydra.launcher.n_jobs=2"], ids=["basic", "joblib"])
def test_a_reader_that_leaves_after_the_first_line_does_not_disturb_the_runs(launcher: str, tmp_path: Path) -> None:
    running = started(f"-m seed=0,1 epochs=0.2 evaluations=4 {launcher}", tmp_path)
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline().startswith("2 runs: ")
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(60) == 0
    assert len(list(tmp_path.glob("outputs/*/result.json"))) == 2


def full(stream: int) -> None:
    """Make every write to this stream fail for lack of space."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), stream)


def test_a_full_disk_under_stdout_is_reported_once_and_the_run_goes_on(tmp_path: Path) -> None:
    done = process("epochs=0.2 evaluations=4", tmp_path, first=lambda: full(1))
    assert done.code == 0
    assert done.err == "budgetrun: stdout cannot be written (No space left on device); a run goes on without it\n"
    assert done.result["updates"] == 4


def test_closed_streams_are_no_place_for_the_files_of_a_run(tmp_path: Path) -> None:
    done = process("epochs=0.2 evaluations=4", tmp_path, first=lambda: (os.close(1), os.close(2)))
    assert done.code == 0
    assert done.result["updates"] == 4
    assert "100.0% of the budget" in (done.folder / "train.log").read_text()


def test_an_answer_that_a_full_disk_cuts_off_is_a_failure(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "digits-cnn-uniform-b1-s0-00000000"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    command = [sys.executable, "-m", "budgetrun.status"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), preexec_fn=lambda: full(1), stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"stdout cannot be written (No space left on device)\n")


# ---- two at once


def test_a_second_process_on_the_same_experiment_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    seen = []

    def second() -> None:
        before = listing(tmp_path)
        seen.append(process("budget=0.5 epochs=1", tmp_path))
        assert listing(tmp_path) == before

    with before_update(5, "uniform", second):
        first = here("budget=0.5 epochs=1", tmp_path)
    assert first.code == 0, first.err
    refused(seen[0], f"is being worked on by process {os.getpid()} on ")
    assert json.loads((first.folder / "result.json").read_text())["updates"] == 11
