"""A value that is tuned for each cell: how it is chosen, what a run with it is, and what happens to a sweep of such."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tables
import torch
from cli import Done, before_update, composer, finished_in, here, refused, values_of
from hypothesis import given, settings
from hypothesis import strategies as st
from states import Killed, assert_as_quiet, counts, kill, results, times

from budgetrun.config import Experiment, experiment
from budgetrun.errors import UserError
from budgetrun.folder.run import FAILED, FINISHED, MISSING, WAITING, RunFolder
from budgetrun.launch.tuning import Tuning, chosen, experiment_of

SHORT = "epochs=0.2 evaluations=1"  # 4 updates


def tuned(*overrides: str) -> Experiment:
    """The experiment of a job of a sweep."""
    composed = composer()
    return experiment_of(
        *composed(overrides), lambda changes: experiment(*composed(composed.changed(overrides, changes)))
    )


def end(folder: Path, val_accuracy: float | None, **more: Any) -> None:
    """Write the end of a tuning run by hand. val_accuracy: None if the run diverged."""
    folder.mkdir(parents=True)
    if val_accuracy is None:
        (folder / "failed.json").write_text('{"reason": "the loss became nan", "diverged_after": 7}')
    else:
        result = tables.result(val_accuracy=val_accuracy, flops=100, **more) | {"run_id": folder.name}
        (folder / "result.json").write_text(json.dumps(result))


def choice(
    folder: Path, accuracies: Sequence[Sequence[float | None]], test: Sequence[float] = ()
) -> tuple[Any, dict[str, Any]]:
    """What is chosen of values 0, 1, 2, ..., given the validation accuracies of each value's runs."""
    folders = []
    for value, of_value in enumerate(accuracies):
        for seed, accuracy in enumerate(of_value):
            folders.append(RunFolder(str(folder), f"run-s{seed}-{value:08x}"))
            end(folders[-1].path, accuracy, **({"test_accuracy": test[value]} if test else {}))
    seeds = list(range(len(accuracies[0])))
    return chosen(Tuning("lr", list(range(len(accuracies))), seeds, 0.1), folders)


# ---- what is chosen


@pytest.mark.parametrize(
    ("accuracies", "best", "means"),
    [
        ([[0.5, 0.7], [0.6, 0.8], [0.9, 0.3]], 1, [0.6, 0.7, 0.6]),  # the mean, not the best run
        ([[0.5], [0.75], [0.75]], 1, [0.5, 0.75, 0.75]),  # the first of equals
        ([[0.75], [0.5], [0.75]], 0, [0.75, 0.5, 0.75]),
        ([[139 / 143, 141 / 143], [140 / 143, 140 / 143]], 0, [0.979020979021] * 2),  # equal counts are equal
        ([[140 / 143, 140 / 143], [139 / 143, 141 / 143]], 0, [0.979020979021] * 2),
        ([[0.5, 0.5], [1.0, None]], 0, [0.5, None]),  # one run of it diverged
        ([[None], [0.25], [None]], 1, [None, 0.25, None]),
        ([[0.5], [math.nan]], 0, [0.5, None]),
    ],
)
def test_the_value_with_the_best_mean_validation_accuracy_is_chosen(
    accuracies: list[list[float | None]], best: int, means: list[float | None], tmp_path: Path
) -> None:
    value, said = choice(tmp_path, accuracies)
    assert (value, said["tuned"]["value"], said["tuned"]["means"]) == (best, best, means)
    names = [f"run-s{seed}-{value:08x}" for value, of_value in enumerate(accuracies) for seed in range(len(of_value))]
    assert said["tuned"]["runs"] == names
    flat = [accuracy for of_value in accuracies for accuracy in of_value]
    assert said["tuned"]["diverged"] == [name for name, one in zip(names, flat, strict=True) if one is None]
    assert said["flops_tuning"] == sum(7 if accuracy is None else 100 for accuracy in flat), "what diverged cost too"


@settings(max_examples=25)
@given(data=st.data())
def test_the_test_set_never_chooses(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The choice is the same whatever the tuning runs' test accuracies are, and no value had a better mean."""
    counts_of = st.lists(st.integers(0, 4), min_size=2, max_size=2)
    correct = data.draw(st.lists(counts_of, min_size=2, max_size=4))
    accuracies = [[count / 4 for count in of_value] for of_value in correct]
    test = data.draw(st.permutations([0.1 * place for place in range(len(correct))]))
    ways = [choice(tmp_path_factory.mktemp("way"), accuracies, of_test) for of_test in ([], test, test[::-1])]
    assert ways[0] == ways[1] == ways[2]
    totals = [sum(of_value) for of_value in correct]
    assert ways[0][0] == totals.index(max(totals))


def test_a_run_that_is_missing_or_failed_for_another_reason_is_waited_for(tmp_path: Path) -> None:
    tuning = Tuning("lr", [0.1, 0.2], [7], 0.1)
    folders = [RunFolder(str(tmp_path), f"run-s7-0000000{n}") for n in range(2)]
    end(folders[0].path, 0.5)
    with pytest.raises(UserError, match=r"lr is chosen by 2 tuning runs, and .*-s7-00000001 is missing; .* -m runs"):
        chosen(tuning, folders)
    folders[1].path.mkdir()
    folders[1].failed_path.write_text('{"reason": "no room", "diverged_after": null}')
    with pytest.raises(UserError, match="-s7-00000001 is failed"):
        chosen(tuning, folders)


def test_with_nothing_left_to_choose_one_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"all of tune.values=\[0, 1\] diverged .*; list others as well"):
        choice(tmp_path, [[0.5, None], [None, 0.5]])


# ---- what a tuned run is


LINE = ("tune=lr", "tune.values=[0.1,0.3]", "tune.seeds=[10,11]", "budget=0.3", "seed=1")


def test_the_ids_are_those_of_every_version_and_machine() -> None:
    assert tuned(*LINE).run_id == "digits-cnn-uniform-standard-b0.3-s1-2c5c7399"


@pytest.mark.parametrize(
    ("line", "same"),
    [
        (("tune.values=[1e-1,0.30000000000000004]",), True),
        (("lr=0.7",), True),  # which is not used
        (("output_dir=elsewhere", "device=cpu"), True),
        (("tune.values=[0.3,0.1]",), False),  # of equals, another one is chosen
        (("tune.values=[0.1,0.3,1]",), False),
        (("tune.seeds=[10]",), False),
        (("tune.validation=0.2",), False),
        (("seed=2",), False),
        (("batch_size=32",), False),
        (("weight_decay=0.1",), False),
        (("weight_decay=${lr}",), False),
    ],
)
def test_the_same_experiment_has_the_same_id(line: tuple[str, ...], same: bool) -> None:
    assert (tuned(*LINE, *line).run_id == tuned(*LINE).run_id) is same


def test_a_value_that_follows_the_tuned_one_tells_runs_apart_and_is_that_of_the_choice(tmp_path: Path) -> None:
    here = (f"output_dir={tmp_path / 'runs'}", *LINE)
    fixed, follows = tuned(*here, "weight_decay=0.1"), tuned(*here, "weight_decay=${lr}")
    assert fixed.resolved == follows.resolved, "with the first value"
    assert fixed.run_id != follows.run_id
    for path, accuracy in zip(follows.tuning, [0.5, 0.5, 0.6, 0.6], strict=True):
        end(path, accuracy)
    assert follows.choose is not None
    found = follows.choose()
    assert (found.settings.lr, found.settings.weight_decay) == (0.3, 0.3)
    assert (found.resolved["lr"], found.resolved["weight_decay"]) == (0.3, 0.3)
    assert found.run_id == follows.run_id
    assert found.resolved["tune"] == {"key": "lr", "values": [0.1, 0.3], "seeds": [10, 11], "validation": 0.1}


def test_tuning_runs_are_the_cell_s_own_with_other_seeds_and_shared_by_its_runs(tmp_path: Path) -> None:
    def read(seed: int) -> list[str]:
        file = "sampler.file=o/a-s${seed}-04919010/scores.csv"
        return [path.name for path in tuned(*LINE, "sampler=subset", file, f"seed={seed}").tuning]

    assert read(0) == read(1)
    alone = [
        experiment(*composer()(["sampler=subset", f"sampler.file=o/a-s{seed}-04919010/scores.csv", *of_run])).run_id
        for lr in (0.1, 0.3)
        for seed in (10, 11)
        for of_run in [["budget=0.3", "validation=0.1", f"lr={lr}", f"seed={seed}"]]
    ]
    assert read(0) == alone, "with the files of their seeds"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed=10", "seed=10 is one of tune.seeds=[10, 11], the seeds of the runs by which lr is chosen; test with"),
        ("tune.key=sampler", "tune.key=sampler cannot be tuned; name a value, such as lr"),
        ("tune.key=validation", "tune.key=validation cannot be tuned"),
        ("tune.values=[0.1]", "tune.values=[0.1] leaves nothing to choose"),
        ("tune.values=[0.1,0.10]", "makes the same run twice"),
        ("tune.seeds=[10,10]", "makes the same run twice"),
        ("tune.seeds=[]", "tune.seeds=[] leaves no tuning runs"),
        ("tune.key=checkpoint_every", "tune.key=checkpoint_every must change what a run is"),
        ("tune.values=[0.1,-1]", "lr=-1.0 must be in"),
        ("tune.values=[0.1,high]", "lr=high is not a number"),
        ("tune.validation=0", "tune.validation=0.0 must be in (0, 1)"),
        ("tune.seeds=[a]", "tune.seeds=['a'] is not a list of whole numbers"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_sentence(line: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        tuned(*LINE, line)
    assert words in str(refusal.value)


def test_a_component_s_value_can_be_tuned() -> None:
    found = tuned(*LINE, "sampler=is", "tune.key=sampler.pool", "tune.values=[2,3]")
    assert len(set(found.tuning)) == 4
    assert found.resolved["sampler"]["pool"] == 2


def test_the_option_s_file_has_the_fields_of_its_class() -> None:
    assert set(values_of("tune", "lr")) == {field.name for field in dataclasses.fields(Tuning)}
    assert values_of("tune", "none") == {}


# ---- sweeps


def grid(folder: Path, *lines: str) -> str:
    """The command for a grid of these lines."""
    (folder / "mine" / "grid").mkdir(parents=True, exist_ok=True)
    listed = "".join(f"  - {line}\n" for line in lines)
    (folder / "mine" / "grid" / "g.yaml").write_text(f"common: {SHORT} checkpoint_every=0 seed=0,1\nsweeps:\n{listed}")
    return f"--config-dir {folder}/mine grid=g"


UNTUNED = "lr=0.01,0.1"
OF_TWO = "tune=lr tune.values=[0.01,0.1] tune.seeds=[7]"
TUNED = f"sampler=uniform,p_sgd {OF_TWO}"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / "checkpoint.pt", weights_only=True)["model"]


@pytest.fixture(scope="module")
def quiet_once(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("quiet")
    return finished_in(folder, grid(folder, TUNED, UNTUNED))


def test_a_sweep_runs_the_tuning_runs_and_then_each_run_with_the_best_value(quiet_once: Done) -> None:
    assert "12 runs: 4 waiting, 8 missing" in quiet_once.out
    outputs = quiet_once.cwd / "outputs"
    assert counts(outputs / "g") == {FINISHED: 8}
    tuning = results(outputs / "g_tuning")
    assert len(tuning) == 4
    assert {(r["config"]["seed"], r["config"]["validation"]) for r in tuning.values()} == {(7, 0.1)}
    everything = results(outputs / "g")
    of_step = {"tuned": [r for r in everything.values() if "tuned" in r]}
    assert len(of_step["tuned"]) == 4
    for result in of_step["tuned"]:
        sampler, config = result["names"]["sampler"], result["config"]
        cell = {r["config"]["lr"]: r for r in tuning.values() if r["names"]["sampler"] == sampler}
        best = max((0.01, 0.1), key=lambda lr: cell[lr]["val_accuracy"])
        assert (config["lr"], result["tuned"]["value"], config["validation"]) == (best, best, 0)
        assert result["tuned"]["runs"] == [cell[lr]["run_id"] for lr in (0.01, 0.1)]
        assert (result["names"]["tune"], result["flops_before"]) == ("lr", 0)
        assert result["flops_tuning"] == sum(r["flops"] for r in cell.values()) > 0
        if sampler != "uniform":
            continue
        untuned = (r for r in everything.values() if "tuned" not in r)
        (alone,) = (r for r in untuned if (r["config"]["lr"], r["config"]["seed"]) == (best, config["seed"]))
        assert alone["run_id"] != result["run_id"]
        assert "tune" not in alone["config"]
        assert (alone["test_accuracy"], alone["flops_tuning"]) == (result["test_accuracy"], 0)
        one, other = (weights(outputs / "g" / r["run_id"]) for r in (alone, result))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_command_again_has_nothing_to_do_and_a_run_typed_alone_is_found(quiet_once: Done) -> None:
    again = here("--config-dir mine grid=g", quiet_once.cwd)
    assert again.out.startswith("12 runs: 12 finished\n12 of 12 runs are finished\n| ")
    assert again.out.endswith("\nreport: python -m budgetrun.report outputs/g\n"), "tuning runs are in no table"
    assert "test accuracy" not in again.out, "nothing was run"
    line = f"{SHORT} checkpoint_every=0 output_dir=outputs/g {OF_TWO} seed=1 sampler=p_sgd"
    assert "already finished, not run again" in finished_in(quiet_once.cwd, line).out


def test_a_run_typed_alone_needs_its_tuning_runs(quiet_once: Done, tmp_path: Path) -> None:
    line = f"{SHORT} checkpoint_every=0 output_dir=outputs/g {OF_TWO}"
    refused(here(line, tmp_path), "lr is chosen by 2 tuning runs", "is missing", "the same command with -m")
    assert not list(tmp_path.glob("outputs/*/*"))
    shutil.copytree(quiet_once.cwd / "outputs" / "g_tuning", tmp_path / "outputs" / "g_tuning")
    finished_in(tmp_path, line)
    (path,) = tmp_path.glob("outputs/g/*/result.json")
    ((name, alone),) = results(path.parent).items()
    assert results(quiet_once.cwd / "outputs")[name] == alone


def test_a_dry_run_lists_the_tuning_runs_too_and_starts_nothing(tmp_path: Path) -> None:
    done = finished_in(tmp_path, f"{grid(tmp_path, TUNED)} dry_run=true")
    words = [line.split()[0] for line in done.out.splitlines()]
    assert (words.count("waiting"), words.count("missing")) == (4, 4)
    assert "dry_run: 8 runs, nothing was started" in done.out
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_with_a_tuning_seed_among_its_seeds_starts_nothing(tmp_path: Path) -> None:
    done = here(f"{grid(tmp_path, TUNED)} seed=0,7", tmp_path)
    refused(done, "no job was started", "seed=7 is one of tune.seeds=[7]", "test with other seeds")
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_that_is_killed_while_it_tunes_and_while_it_tests_ends_as_a_quiet_one(
    quiet_once: Done, tmp_path: Path
) -> None:
    line = grid(tmp_path, TUNED, UNTUNED)
    outputs, states = tmp_path / "outputs", []
    # uniform makes 4 updates in each of 4 untuned runs, 2 tuning runs and 2 tuned runs
    for number in (22, 6):
        with before_update(number, "uniform", kill), pytest.raises(Killed):
            here(line, tmp_path)
        states.append(counts(outputs / "g"))
    assert [state.get(WAITING, 0) for state in states] == [4, 0]
    assert states[1][MISSING] == 3
    done = {folder: times(outputs / folder) for folder in ("g", "g_tuning")}
    assert [len(of_folder) for of_folder in done.values()] == [4, 4]
    finished_in(tmp_path, line)
    for folder in done:
        assert_as_quiet(outputs / folder, quiet_once.cwd / "outputs" / folder, done[folder])


def test_what_diverges_is_not_chosen_and_is_no_failure_of_the_sweep(tmp_path: Path) -> None:
    line = grid(tmp_path, "tune=lr tune.values=[1e30,0.1] tune.seeds=[7]")
    for states in ("2 waiting, 2 missing", "3 finished, 1 failed"):
        done = finished_in(tmp_path, line)
        assert f"4 runs: {states}" in done.out
        assert "3 of 4 runs are finished" in done.out
        assert "became infinite or not a number" in done.out
        assert "; its value is not chosen" in done.out
    (failed,) = tmp_path.glob("outputs/g_tuning/*/failed.json")
    spent = json.loads(failed.read_text())["diverged_after"]
    (other,) = results(tmp_path / "outputs" / "g_tuning").values()
    for result in results(tmp_path / "outputs" / "g").values():
        assert (result["config"]["lr"], result["tuned"]["diverged"]) == (0.1, [failed.parent.name])
        assert result["tuned"]["means"] == [None, pytest.approx(other["val_accuracy"])]
        assert result["flops_tuning"] == spent + other["flops"]
    assert 0 < spent <= other["flops"]


def test_a_run_waits_for_a_tuning_run_that_failed_until_that_is_finished(tmp_path: Path) -> None:
    line = grid(tmp_path, OF_TWO)
    listed = here(f"{line} dry_run=true", tmp_path)
    broken = tmp_path / next(word for word in listed.out.split() if "g_tuning/" in word).rstrip(":")
    broken.mkdir(parents=True)
    (broken / "failed.json").write_text('{"reason": "the disk was full"}')
    refused(here(line, tmp_path), "3 of 4 runs are not finished; the first: the disk was full")
    assert counts(tmp_path / "outputs" / "g") == {WAITING: 2}
    assert counts(tmp_path / "outputs" / "g_tuning") == {FINISHED: 1, FAILED: 1}
    assert "4 of 4 runs are finished" in finished_in(tmp_path, f"{line} retry_failed=true").out


def test_a_run_does_not_go_on_with_another_value(tmp_path: Path) -> None:
    with before_update(10, "uniform", kill), pytest.raises(Killed):
        here(grid(tmp_path, OF_TWO), tmp_path)
    assert len(list(tmp_path.glob("outputs/g/*/checkpoint.pt"))) == 1
    for path in tmp_path.glob("outputs/g_tuning/*/result.json"):
        result = json.loads(path.read_text())
        path.write_text(json.dumps(result | {"val_accuracy": 1 - result["val_accuracy"]}))
    refused(here(grid(tmp_path, OF_TWO), tmp_path), "was made with tuned value 0.", "force=true starts over")
