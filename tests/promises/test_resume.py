"""An interrupted run ends where an uninterrupted one ends, bit for bit."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import FILES, KINDS, before_update, checked, here, needed, sampler_class, started
from states import AT_WORK, Killed, assert_ends_alike, interrupt, kill

from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Context
from budgetrun.errors import Interrupted
from budgetrun.folder import run as results
from budgetrun.train import run
from budgetrun.training.draws import Draws
from budgetrun.training.looks import Looks, SecondNetwork

MIXING = ["mixup", "cutmix", "ricap", "randaugment"]


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """As Hydra sets it: train.log says that a run goes on."""
    caplog.set_level("INFO", "budgetrun")


def both(line: str, tmp_path: Path, sampler: str, stops: list[tuple[int, Any]]) -> tuple[Path, Path]:
    """The folders of the command line, uninterrupted, and stopped before each of these updates and continued."""
    once = checked(*line.split())  # composed once for all of its runs, which takes longer than a few updates

    def folder_of(name: str) -> Path:
        return tmp_path / name / "outputs" / once.run_id

    def run_in(name: str, **settings: Any) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        made = copy.deepcopy(once)
        with contextlib.chdir(tmp_path / name):
            run(replace(made, settings=replace(made.settings, **settings)))

    run_in("whole", checkpoint_every=1000.0)  # what is recorded stays as typed
    for update, action in stops:
        with before_update(update, sampler, action), pytest.raises(Killed if action is kill else Interrupted):
            run_in("parts")
        assert not (folder_of("parts") / "result.json").exists()
    run_in("parts")
    assert (folder_of("parts") / "train.log").read_text().count("goes on from update") == len(stops)
    return folder_of("whole"), folder_of("parts")


@pytest.mark.parametrize("sampler", KINDS)
def test_a_run_that_is_interrupted_and_killed_ends_bit_for_bit_like_an_uninterrupted_one(
    sampler: str, tmp_path: Path
) -> None:
    """Stopped in the second epoch, of 17 updates, and again three later; test_combinations.py stops in the first."""
    line = f"sampler={sampler} aug=ricap budget=0.8 epochs=2 evaluations=7 batch_size=32 {AT_WORK.get(sampler, '')}"
    line += " checkpoint_every=0 validation=0.6 noise=symmetric"  # these have to be restored too
    line += needed(sampler, tmp_path, line)
    assert_ends_alike(*both(line, tmp_path, sampler, [(19, interrupt), (3, kill)]))


@pytest.mark.parametrize("sampler", ["kakurenbo", "bandit", "ucb", "seta"])
def test_a_sampler_that_leaves_out_a_part_of_an_epoch_ends_alike_when_it_is_stopped_in_a_later_one(
    sampler: str, tmp_path: Path
) -> None:
    """287 examples are 9 updates: it is stopped in an epoch that left some out, and killed before the next one ends."""
    line = f"sampler={sampler} epochs=5 validation=0.8 batch_size=32 lr=0.05 evaluations=7 checkpoint_every=0"
    line += " sampler.tau=0.2 sampler.fraction=0.6" if sampler == "kakurenbo" else ""
    whole, parts = both(line, tmp_path, sampler, [(20, interrupt), (7, kill)])
    assert_ends_alike(whole, parts)
    result = json.loads((whole / "result.json").read_text())
    assert result["keep_rate"] < 0.95
    assert (result["looking_updates"] > 0) == (sampler == "kakurenbo")


@pytest.mark.parametrize("aug", MIXING)
def test_mixing_augmentations_continue_with_the_same_random_numbers(aug: str, tmp_path: Path) -> None:
    line = f"sampler=sb sampler.prime=0.5 aug={aug} budget=0.5 epochs=2 evaluations=5"
    line += f" aug.{aug}.draw=image" if aug != "randaugment" else ""
    assert_ends_alike(*both(line, tmp_path, "sb", [(12, interrupt)]))


def test_noise_that_is_new_at_each_access_continues_with_the_same_random_numbers(tmp_path: Path) -> None:
    line = "sampler=is sampler.threshold=0 noise=gaussian_pixels noise.fresh=true budget=0.5 epochs=1 evaluations=5"
    assert_ends_alike(*both(line, tmp_path, "is", [(6, interrupt)]))


def test_dropout_optimizer_state_and_schedule_continue(tmp_path: Path) -> None:
    line = "model=wrn_28_2 model.depth=10 model.width=1 model.dropout=0.3 optimizer=adamw lr=0.01 schedule=step"
    stops = [(4, interrupt), (3, interrupt)]
    assert_ends_alike(*both(f"{line} budget=0.5 epochs=1 evaluations=5", tmp_path, "uniform", stops))


def test_an_interruption_at_the_very_last_update_is_finished_by_the_next_start(tmp_path: Path) -> None:
    line = "sampler=uniform budget=0.5 epochs=1 evaluations=5"
    assert_ends_alike(*both(line, tmp_path, "uniform", [(11, interrupt)]))  # 11 of 11


def test_evaluations_after_the_checkpoint_are_not_written_twice(tmp_path: Path) -> None:
    # one checkpoint at update 5, then a kill at 10 with metrics written in between
    line = "sampler=uniform budget=1 epochs=1 evaluations=22 checkpoint_every=1000"
    assert_ends_alike(*both(line, tmp_path, "uniform", [(5, interrupt), (9, kill)]))


@pytest.mark.parametrize(
    ("line", "kind", "method", "call", "update"),
    [
        # the second choice of a core-set, each of 23 passes. The images have new random pixels at each access, and the
        # learning rate is that of the FLOPs spent
        (
            "sampler=gradmatch sampler.warmup=0 sampler.fraction=0.1 sampler.every=3 noise=gaussian_pixels "
            "noise.fresh=true budget_unit=flops evaluations=22",
            Looks,
            "embed",
            40,
            6,
        ),
        # the first draw of a process may always take long
        ("sampler=proxy sampler.pool=20", SecondNetwork, "look", 1, 0),
        # these looks are in training mode
        ("sampler=sb sampler.beta=100 sampler.prime=0.5 sampler.looks=train sampler.history=64", Looks, "look", 3, 13),
        # the first looks after the priming, about which nothing is known
        ("sampler=sb sampler.beta=0.5 sampler.prime=0.5", Looks, "look", 1, 12),
        # the gate opens after the first update
        ("sampler=is sampler.pool=40 sampler.threshold=0", Looks, "look", 1, 1),
        ("sampler=uniform scores=ensemble scores.members=3", Looks, "look", 30, 14),  # the second member
        ("sampler=uniform", torch.nn.Module, "eval", 3, 11),  # the third evaluation
    ],
    ids=["core-set", "pool", "sb", "sb's first looks", "gate", "ensemble", "evaluation"],
)
def test_what_takes_long_is_broken_off_at_once_and_the_state_before_it_goes_on(
    line: str, kind: Any, method: str, call: int, update: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"budget=0.5 epochs=2 evaluations=6 {line}"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    uninterrupted = here(line, whole)
    assert uninterrupted.code == 0, uninterrupted.err
    really, called = getattr(kind, method), 0

    def interrupted(self: Any, *given: Any, **named: Any) -> Any:
        nonlocal called
        called += 1
        if called == call:
            interrupt()
        return really(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(kind, method, interrupted)
        done = here(line, parts)
    assert (done.code, called) == (130, call), "it was not broken off at once"
    assert f"saved at update {update};" in done.err
    continued = here(line, parts)
    assert continued.code == 0, continued.err
    assert_ends_alike(uninterrupted.folder, continued.folder)


def test_the_state_is_kept_before_draws_that_are_long_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not before each draw of an epoch whose plan took long: with a million examples, copies took most of it."""
    times = iter([0.0, 2.0, 2.0, 4.0, 4.0, 4.1])
    monkeypatch.setattr("budgetrun.training.draws.time.thread_time", lambda: next(times))
    draws, kept = Draws(), []
    for _ in range(3):
        kept.append(draws.may_take_long)
        with draws.timed():
            pass
    assert [*kept, draws.may_take_long] == [True, True, True, False]


def test_a_process_that_is_asked_to_stop_does_not_finish_its_choice_first(tmp_path: Path) -> None:
    line = "sampler=gradmatch sampler.warmup=0 sampler.balanced=false sampler.fraction=0.9"  # it takes half a minute
    running = started(line, tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("outputs/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1)
    running.terminate()
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143
    assert "saved at update 0;" in err


def test_a_process_killed_at_an_arbitrary_moment_continues_to_the_same_end(tmp_path: Path) -> None:
    line = "sampler=is sampler.threshold=0 aug=ricap budget=0.5 epochs=8 evaluations=6"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    running = started(line + " checkpoint_every=0", parts)
    deadline = time.monotonic() + 120
    while not list(parts.glob("outputs/*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL, "it ended before it was killed"
    continued = here(line, parts)
    assert continued.code == 0, continued.err
    assert "goes on from update" in continued.out
    uninterrupted = here(line, whole)
    assert_ends_alike(uninterrupted.folder, continued.folder)
    # a kill may leave a hidden scratch file
    assert {p.name for p in continued.folder.iterdir() if not p.name.startswith(".")} == FILES


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    line = "budget=0.5 epochs=1"
    with before_update(5, "uniform", interrupt):
        done = here(line, tmp_path)
    assert done.code == 130
    path = done.folder / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "dataset fingerprint": "0" * 16}, path)
    before = path.read_bytes()
    again = here(line, tmp_path)
    assert again.code == 1
    assert "fingerprint" in again.err
    assert "Traceback" not in again.err
    assert path.read_bytes() == before


def test_a_checkpoint_that_only_half_can_be_loaded_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a sampler's state had changed: by then the model, the optimizer and part of the sampler are loaded."""
    line = "sampler=sb sampler.prime=0.5 aug=ricap validation=0.1 budget=0.5 epochs=2 evaluations=5"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    fresh = here(line, whole)
    with before_update(9, "sb", interrupt):
        assert here(line, parts).code == 130
    kind = sampler_class("sb")
    really = kind.load_state_dict

    def load(self: Any, state: dict[str, Any]) -> None:
        really(self, state)
        raise KeyError("a state that it had not then")

    monkeypatch.setattr(kind, "load_state_dict", load)
    done = here(line, parts)
    assert done.code == 0, done.err
    assert "'a state that it had not then'): set aside as checkpoint.pt.corrupt" in done.out
    assert "goes on" not in done.out
    assert_ends_alike(fresh.folder, done.folder)


@dataclass
class Wandering:
    """Scores that are a sum of random numbers, one per update."""

    def start(self, context: Context) -> None:
        self.context, self.sum = context, torch.zeros(context.n, device=context.device)

    def observe(self, batch: Batch, losses: torch.Tensor, logits: torch.Tensor) -> None:
        self.sum += torch.rand(self.context.n, generator=self.context.random.device, device=self.context.device)

    def scores(self) -> dict[str, torch.Tensor]:
        return {"score": self.sum}

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sum = state["sum"]


def test_the_randomness_of_scores_goes_on_from_where_it_was(experiment_for: Any) -> None:
    def experiment() -> Experiment:
        found: Experiment = experiment_for("epochs=1", "model.width=2", "evaluations=1")
        return replace(found, scores=Wandering())

    folder = Path(experiment().settings.output_dir) / experiment().run_id
    run(experiment())
    whole = (folder / "scores.csv").read_text()
    shutil.rmtree(folder)
    with before_update(9, "uniform", interrupt), pytest.raises(KeyboardInterrupt, match="saved at update 9"):
        run(experiment())
    run(experiment())
    assert (folder / "scores.csv").read_text() == whole


def test_the_commit_of_a_run_is_that_of_its_process_s_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b@c", *command], cwd=tmp_path, check=True)

    monkeypatch.setattr(results, "__file__", str(tmp_path / "budgetrun" / "folder" / "run.py"))
    git("init", "-q")
    (tmp_path / "conf").mkdir()
    results.commit.cache_clear()
    try:
        for content in "ab":
            (tmp_path / "conf" / "x.yaml").write_text(content)
            git("add", ".")
            git("commit", "-qm", content)
            head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()
            assert (results.commit() == (head, False)) == (content == "a")
    finally:
        results.commit.cache_clear()


def test_a_run_that_goes_on_with_other_code_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "sampler=scan epochs=1 evaluations=2"
    for source, stop in (("a" * 40, 5), ("b" * 40, 8), ("c" * 40, 10**6)):
        monkeypatch.setattr("budgetrun.training.checkpoint.commit", lambda source=source: (source, False))
        with before_update(stop, "scan", interrupt):
            done = here(line, tmp_path)
        told = "goes on with that of " + source in done.out
        assert told == (source[0] != "a")
    assert done.result["commit"] == "c" * 40
    assert done.result["commits_before"] == ["a" * 40, "b" * 40]
    untouched = here(f"{line} seed=1 output_dir=other", tmp_path)
    (result,) = (tmp_path / "other").glob("*/result.json")
    assert untouched.code == 0
    assert json.loads(result.read_text())["commits_before"] == []
