"""Two phases through the command line: one run writes scores, others use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cli import here, listing, refused
from samplers import ran

from budgetrun.config import Experiment
from budgetrun.model.cnn import CNN
from budgetrun.training.budget import model_flops


def test_one_run_writes_scores_and_others_of_any_seed_use_them(tmp_path: Path) -> None:
    _, first = ran("scores=forgetting epochs=3 validation=0.1", tmp_path)
    file = f"outputs/{first['run_id']}/scores.csv"
    rows = (tmp_path / file).read_text().splitlines()[2:]
    score = {int(i): float(s) for i, s, _ in (row.split(",") for row in rows)}
    assert first["flops_before"] == 0
    for seed in (0, 1):
        line = f"sampler=subset sampler.file={file} sampler.keep=0.2 budget=0.5 epochs=3 validation=0.1 seed={seed}"
        _, second = ran(line, tmp_path)
        made = json.loads((tmp_path / file).read_text().splitlines()[0].removeprefix("#"))
        assert second["flops_before"] == made["flops"] == first["flops"]
        # 259 of 1,294 are trained on: 30 updates of 64 visit each of them 7 or 8 times
        visits = torch.load(tmp_path / "outputs" / second["run_id"] / "checkpoint.pt")["diagnostics"]["visits"]
        kept = set(visits.nonzero()[:, 0].tolist())
        assert len(kept) == 259
        assert min(score[i] for i in kept) >= max(score[i] for i in score.keys() - kept)
    # and a file of scores made by a run that used one states the cost of both
    line = f"sampler=subset sampler.file={file} sampler.keep=0.5 budget=0.5 epochs=1 validation=0.1 scores=random"
    _, third = ran(line, tmp_path)
    made = json.loads((tmp_path / f"outputs/{third['run_id']}/scores.csv").read_text().splitlines()[0][1:])
    assert made["flops"] == first["flops"] + third["flops"]


def test_the_files_of_several_runs_are_averaged_and_their_costs_added(tmp_path: Path) -> None:
    made = [ran(f"scores=random epochs=1 seed={seed}", tmp_path)[1] for seed in (0, 1)]
    _, used = ran("sampler=subset 'sampler.file=outputs/*-random-*/scores.csv' epochs=1", tmp_path)
    assert used["flops_before"] == sum(one["flops"] for one in made)
    assert (used["scored_by"], made[0]["scored_by"]) == ("random", None)
    scores = [(tmp_path / f"outputs/{one['run_id']}/scores.csv").read_text().splitlines()[2:] for one in made]
    mean = np.array([[float(row.split(",")[1]) for row in rows] for rows in scores]).mean(0)
    visits = torch.load(tmp_path / "outputs" / used["run_id"] / "checkpoint.pt")["diagnostics"]["visits"].numpy()
    assert (visits > 0).sum() == 719
    assert mean[visits > 0].min() > mean[visits == 0].max()
    by_name = ",".join(f"outputs/{one['run_id']}/scores.csv" for one in made)
    done = here(f"sampler=subset 'sampler.file=\"{by_name}\"' epochs=1", tmp_path)
    assert "not run again" in done.out  # the same files, so the same experiment


def test_scores_of_other_data_or_labels_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    _, first = ran("scores=loss epochs=1 validation=0.1 noise=symmetric", tmp_path)
    use = f"sampler=subset sampler.file=outputs/{first['run_id']}/scores.csv epochs=1"
    before = listing(tmp_path)
    refused(here(f"{use} validation=0.2 noise=symmetric", tmp_path), "sampler.file", "validation part must be the same")
    refused(here(f"{use} noise=symmetric", tmp_path), "made for other data")
    refused(here(f"{use} validation=0.1", tmp_path), "the noise, its seed")
    refused(here(f"{use} validation=0.1 noise=symmetric seed=1", tmp_path), "the noise, its seed")
    assert listing(tmp_path) == before
    ran(f"{use} validation=0.1 noise=symmetric lr=0.05", tmp_path)


def test_rho_s_two_commands_and_which_part_a_file_is_about(tmp_path: Path) -> None:
    made_by = "train_on=validation validation=0.5 scores=loss scores.of=validation model.width=2 epochs=2"
    _, first = ran(made_by, tmp_path)
    file = f"outputs/{first['run_id']}/scores.csv"
    line = f"sampler=rho sampler.file={file} validation=0.5 model.width=2 epochs=1 budget=0.5"
    _, second = ran(line, tmp_path)
    forward, update = model_flops(CNN(width=2).build(1, 10), torch.Size((1, 8, 8)))
    updates = second["updates"]
    assert updates == round(0.5 * (719 // 64))
    assert second["examples_forward"] == 11 * 64 * updates
    assert second["flops"] == updates * 64 * (10 * forward + update)
    assert second["dataset_fingerprint"] == first["dataset_fingerprint"]
    # 719 of 1,438 and their 719 others: only the scores of the right half are taken
    _, wrong = ran("train_on=validation validation=0.5 scores=loss epochs=1", tmp_path)
    refused(
        here(f"sampler=rho sampler.file=outputs/{wrong['run_id']}/scores.csv validation=0.5", tmp_path),
        "sampler.file",
        "which part is trained on",
    )


def test_the_content_of_the_file_is_part_of_the_experiment_and_its_path_is_not(
    tmp_path: Path, experiment_for: Callable[..., Experiment]
) -> None:
    def run_id(file: str) -> str:
        identity: str = experiment_for("sampler=subset", f"sampler.file={file}").run_id
        return identity

    for name, text in [("a", "same"), ("b", "same"), ("c", "other")]:
        (tmp_path / name).write_text(text)
    one, same, other = (run_id(f"{tmp_path}/{name}") for name in "abc")
    assert one == same
    assert one != other
    assert run_id(f"{tmp_path}/[ab]".replace("[ab]", "?")) not in (one, other)  # three files


def test_a_run_can_begin_with_the_weights_of_another(tmp_path: Path) -> None:
    _, first = ran("epochs=2 model.width=2", tmp_path)
    line = "epochs=0.05 model.width=2 lr=1e-12 schedule=constant weight_decay=0 evaluations=1"  # it learns nothing
    _, second = ran(f"{line} 'init_from=outputs/*-s0-*/checkpoint.pt'", tmp_path)
    assert abs(second["test_accuracy"] - first["test_accuracy"]) < 0.02  # one update moves the means of BatchNorm
    assert second["flops_before"] == first["flops"]
    _, alone = ran(line, tmp_path)
    assert alone["test_accuracy"] < 0.5 < first["test_accuracy"]
    assert alone["run_id"] != second["run_id"]
    # the content and not the path decides the id: the same file by its name
    path = f"outputs/{first['run_id']}/checkpoint.pt"
    assert "not run again" in here(f"{line} init_from={tmp_path}/{path}", tmp_path).out
    before = listing(tmp_path)
    refused(here(f"{line} 'init_from=outputs/*/checkpoint.pt'", tmp_path), "is 3 files", "name one")
    refused(here(f"{line} init_from={path} model.width=3", tmp_path), "weights of another network", "[2, 1, 3, 3]")
    # a sweep checks it for all jobs before the first starts
    refused(here(f"-m {line} seed=1,2 init_from={path} model.width=2,3", tmp_path), "another network", "[2, 1, 3, 3]")
    refused(here(f"{line} init_from=nothing.pt", tmp_path), "init_from: nothing.pt is not the checkpoint of a run")
    refused(here(f"{line} init_from=outputs/{first['run_id']}/scores.csv", tmp_path), "scores.csv does not exist")
    assert listing(tmp_path) == before
