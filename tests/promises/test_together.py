"""Several processes that train one run make the same choices as one process, and the same network up to rounding."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import CHECKOUT, KINDS, environment, here, needed
from together import trained

TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
# batches that do not divide, and 50 updates; what a sampler needs to be at work in them
COMMON = "batch_size=31 epochs=1.1 evaluations=2 lr=0.05"
AT_WORK = {
    "is": "sampler.threshold=0 sampler.pool=2",
    "vr": "sampler.threshold=0",
    "sb": "sampler.prime=0",
    "sb_batchwise": "sampler.begin=0 sampler.interrupt=3",
    "osgd": "sampler.backward=rows sampler.thresholds=[0.001,0.3,0.4,0.5]",
    # several epochs, in which it hides some and looks at them
    "kakurenbo": "validation=0.6 epochs=2.75 sampler.tau=0.15 sampler.fraction=0.5",
    "seta": "validation=0.6 epochs=2.75",
    # rounding decides between equals, so that a second choice may differ
    "craig": "sampler.every=null sampler.fraction=0.3",
}


def lines(folder: Path) -> list[str]:
    of_samplers = [f"{COMMON} sampler={s} {AT_WORK.get(s, '')}{needed(s, folder)}" for s in KINDS]
    mixed = f"{COMMON} aug=ricap noise=symmetric validation=0.1 scores=ensemble scores.members=3"
    mixed += " freeze=backbone freeze.until=0.5"
    return [*of_samplers, mixed, f"{COMMON} scores=grand save_features=true"]


def started(count: int, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    env = environment(PYTHONPATH=os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")]))
    return subprocess.Popen(
        [*TOGETHER, str(count), *arguments], env=env, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def of(count: int, folder: Path, *lines: str) -> list[Any]:
    """What so many processes found together."""
    running = started(count, str(CHECKOUT / "tests" / "together.py"), str(folder), *lines, cwd=folder)
    _, err = running.communicate(timeout=600)
    assert running.returncode == 0, err[-3000:]
    found: list[Any] = torch.load(folder / "found.pt", weights_only=False)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, of(2, folder, *lines(folder))


def assert_same(found: Any, alone: Any) -> None:
    assert len(found["drawn"]) == len(alone["drawn"]) >= 45
    for number, (one, other) in enumerate(zip(found["drawn"], alone["drawn"], strict=True)):
        assert all(map(torch.equal, one, other)), f"update {number + 1}"
    for name, weights in alone["weights"].items():
        torch.testing.assert_close(found["weights"][name], weights, rtol=0, atol=1e-5)
    spent = ("updates", "examples_forward", "examples_backward", "flops", "visits_entropy")
    assert {key: found["result"][key] for key in spent} == {key: alone["result"][key] for key in spent}
    for key in ("test_loss", "train_loss"):
        assert found["result"][key] == pytest.approx(alone["result"][key], abs=1e-5)


@pytest.mark.parametrize("number", range(len(KINDS) + 2))
def test_two_processes_choose_the_same_and_end_with_the_same_network(
    number: int, two: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    folder, found = two
    alone = trained(lines(folder)[number], tmp_path)
    assert_same(found[number], alone)
    assert (found[number]["result"]["processes"], alone["result"]["processes"]) == (2, 1)
    ours, theirs = (Path(one["folder"]) for one in (found[number], alone))
    files = [{p.name for p in folder.iterdir()} - {"train.log"} for folder in (ours, theirs)]
    assert files[0] == files[1]


def test_three_processes_do_too_where_some_have_no_row_of_a_batch(tmp_path: Path) -> None:
    asked = [
        f"{COMMON} sampler=osgd {AT_WORK['osgd']} batch_size=32",  # its batches end with two images
        f"{COMMON} sampler=is {AT_WORK['is']} aug=cutmix noise=symmetric",
        f"{COMMON} sampler=sb {AT_WORK['sb']} scores=el2n aug=augmix_consistency",
    ]
    for number, found in enumerate(of(3, tmp_path, *asked)):
        assert_same(found, trained(asked[number], tmp_path / "alone"))
        assert found["result"]["processes"] == 3


OWN = '''
from dataclasses import dataclass
from torch import nn

@dataclass
class Dropping:
    """With dropout, which draws from the random state of each process, and BatchNorm."""

    def build(self, channels, classes):
        layers = nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, classes)
        return nn.Sequential(*layers)
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "dropping.py").write_text(OWN)
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "dropping.yaml").write_text("# with dropout\n_target_: dropping.Dropping\n")
    return folder


def command(count: int, line: str, cwd: Path) -> subprocess.Popen[str]:
    return started(count, "-m", "budgetrun", *line.split(), cwd=cwd)


def result_in(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*/result.json")
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def test_a_run_of_two_processes_that_is_stopped_and_loses_one_ends_as_one_that_is_not(own: Path) -> None:
    line = "--config-dir conf model=dropping sampler=p_sgd epochs=24 evaluations=3 batch_size=63 checkpoint_every=0.2"
    quiet, disturbed = own / "quiet", own / "disturbed"
    out, err = command(2, f"{line} output_dir=quiet", own).communicate(timeout=300)
    assert out.count("test accuracy") == 4, out + err  # said by the first process alone
    for end in ("stopped", "killed"):
        running = command(2, f"{line} output_dir=disturbed", own)
        before = time.time_ns()
        while not any(p.stat().st_mtime_ns > before for p in disturbed.glob("*/checkpoint.pt")):
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        workers = [int(w) for w in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
        if end == "stopped":
            running.send_signal(signal.SIGTERM)
        else:
            os.kill(workers[-1], signal.SIGKILL)
        _, err = running.communicate(timeout=60)
        assert running.returncode != 0
        assert not list(disturbed.glob("*/result.json"))
        if end == "stopped":
            assert err.count("run the same command again to go on") == 1, err
            shutil.copytree(disturbed, own / "alone")  # with another number of processes it goes on too
            alone = here(f"{line} output_dir=alone", own)
            assert "goes on from update" in alone.out, alone.err
            assert result_in(own / "alone")["processes"] == 1
    out, err = command(2, f"{line} output_dir=disturbed", own).communicate(timeout=300)
    assert "goes on from update" in out
    one, other = result_in(quiet), result_in(disturbed)
    assert {k: one[k] for k in ("test_loss", "train_loss", "updates")} == {
        k: other[k] for k in ("test_loss", "train_loss", "updates")
    }
    weights = [torch.load(next(f.glob("*/checkpoint.pt")), weights_only=True)["model"] for f in (quiet, disturbed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_several_processes_cannot_do_is_said_once(tmp_path: Path) -> None:
    running = command(2, "epochs=1 output_dir=/proc/nowhere", tmp_path)
    _, err = running.communicate(timeout=120)
    assert running.returncode != 0
    (said,) = [one for one in err.splitlines() if one.startswith("budgetrun: ")]
    assert "set output_dir to a writable folder" in said


def test_a_sweep_of_several_processes_is_refused_before_they_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, sentences in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        done = here("-m seed=0,1", tmp_path)
        assert done.code == 1
        refusal = "2 processes were started together, which train one run; start sweeps without torchrun"
        assert done.err.count(refusal) == sentences, done.err
