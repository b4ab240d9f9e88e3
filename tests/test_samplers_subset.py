"""Samplers that train on what an earlier run, or another network, has chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import Done, here, listing, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from budgetrun.aug.mixup import Mixup
from budgetrun.contracts import Batch, UserError
from budgetrun.model.cnn import CNN
from budgetrun.sampler.proxy import Proxy
from budgetrun.sampler.rho import RHO
from budgetrun.sampler.subset import Subset
from budgetrun.training.budget import model_flops


def file_of(
    score: list[float], index: list[int] | None = None, weight: list[float] | None = None
) -> Callable[..., Any]:
    """What a context reads from any file."""
    columns = {"index": torch.tensor(index or list(range(len(score)))), "score": torch.tensor(score)}
    return lambda file: columns | ({} if weight is None else {"weight": torch.tensor(weight)})


def subset(context: Any, keep: float | None, order: str = "highest", balanced: bool = False) -> Subset:
    sampler = Subset(file="scores.csv", keep=keep, order=order, balanced=balanced)
    sampler.start(context)
    return sampler


# ---- subset


def test_the_highest_or_the_lowest_scores_are_kept(context_for):
    read = file_of([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.4])
    assert set(subset(context_for(8, 2, read_scores=read), 0.5).kept.tolist()) == {1, 6, 4, 3}
    assert set(subset(context_for(8, 2, read_scores=read), 0.5, "lowest").kept.tolist()) == {2, 5, 0, 7}
    assert set(subset(context_for(8, 2, read_scores=read), 1.0).kept.tolist()) == set(range(8))


def test_balanced_keeps_the_same_part_of_every_class(context_for):
    # labels go 0, 1, 0, 1, ...: the even examples are the harder ones
    read = file_of([9.0, 1, 8, 2, 7, 3, 6, 4])
    context = context_for(8, 2, classes=2, read_scores=read)
    assert set(subset(context, 0.5).kept.tolist()) == {0, 2, 4, 6}
    assert set(subset(context, 0.5, balanced=True).kept.tolist()) == {0, 2, 7, 5}
    assert set(subset(context, 0.5, "lowest", balanced=True).kept.tolist()) == {6, 4, 1, 3}


@settings(deadline=None, max_examples=40)
@given(
    scores=st.lists(st.integers(0, 3), min_size=2, max_size=40),
    keep=st.floats(0.05, 1),
    seed=st.integers(0, 5),
    balanced=st.booleans(),
)
def test_the_kept_are_as_many_as_asked_for_and_none_of_the_others_ranks_above_them(
    context_for, scores, keep, seed, balanced
):
    context = context_for(len(scores), 2, seed=seed, read_scores=file_of([float(s) for s in scores]))
    groups = [range(c, len(scores), 4) for c in range(4)] if balanced else [range(len(scores))]
    if not sum(round(keep * len(group)) for group in groups):
        with pytest.raises(UserError, match="keeps none"):
            subset(context, keep, balanced=balanced)
        return
    kept = set(subset(context, keep, balanced=balanced).kept.tolist())
    for group in groups:
        chosen, others = kept & set(group), set(group) - kept
        assert len(chosen) == round(keep * len(group))
        assert min((scores[i] for i in chosen), default=9) >= max((scores[i] for i in others), default=-1)


def test_equal_scores_are_ranked_at_random(context_for):
    times = torch.zeros(20)
    for seed in range(400):
        kept = subset(context_for(20, 2, seed=seed, read_scores=file_of([1.0] * 20)), 0.25).kept
        times[kept] += 1
    assert times.sum() == 2000
    assert 60 < times.min() < times.max() < 140  # 100 with a standard deviation of 8.7


def test_every_pass_goes_through_the_kept_examples_once_in_a_new_order(context_for):
    sampler = subset(context_for(30, 4, read_scores=file_of([float(i) for i in range(30)])), 0.4)
    drawn = torch.cat([sampler.draw().drawn for _ in range(9)]).view(3, 12)  # 12 are kept
    assert all(sorted(one) == list(range(18, 30)) for one in drawn.tolist())
    assert len({tuple(one) for one in drawn.tolist()}) == 3
    assert sampler.draw().weight is None


def test_the_weights_of_the_file_have_mean_1_over_the_subset(context_for):
    read = file_of([1.0, 4, 3, 2], index=[5, 0, 2, 3], weight=[9.0, 1, 2, 6])
    sampler = subset(context_for(6, 3, read_scores=read), 0.5)  # 0, 2, 3 with weights 1, 2, 6
    batch = sampler.draw()
    weight = dict(zip(batch.drawn.tolist(), batch.weight.tolist(), strict=True))
    assert weight == pytest.approx({0: 1 / 3, 2: 2 / 3, 3: 2.0})


def test_a_mixed_image_has_the_mean_weight_of_its_sources_by_share(context_for):
    read = file_of([0.0] * 8, weight=[float(i) for i in range(8)])
    sampler = subset(context_for(8, 8, read_scores=read, aug=(Mixup(alpha=1.0, draw="image"),)), 1.0)
    batch = sampler.draw()
    by_hand = [
        sum(float(s) * int(i) / 3.5 for i, s in zip(row, share, strict=True))
        for row, share in zip(batch.index, batch.share, strict=True)
    ]
    np.testing.assert_allclose(batch.weight, by_hand, rtol=1e-5)
    assert (batch.share > 0).all()


def test_a_file_that_scores_too_few_examples_is_a_sentence(context_for):
    with pytest.raises(UserError, match=r"keep=0.9 is 7 of 8 examples of all, and scores.csv scores only 4"):
        subset(context_for(8, 2, read_scores=file_of([1.0] * 4)), 0.9)
    with pytest.raises(UserError, match=r"keep=0.5 is 1 of 2 examples of a class, and scores.csv scores only 0"):
        subset(context_for(8, 2, read_scores=file_of([1.0] * 4, index=[0, 1, 4, 5])), 0.5, balanced=True)


def test_without_keep_all_that_the_file_scores_are_kept(context_for):
    read = file_of([0.3, 0.9, 0.1], index=[5, 2, 7])
    assert sorted(subset(context_for(8, 2, read_scores=read), None).kept.tolist()) == [2, 5, 7]


@pytest.mark.parametrize("weight", [[1.0, -1, 1, 1], [0.0] * 4])
def test_weights_that_cannot_be_used_are_a_sentence(context_for, weight):
    with pytest.raises(UserError, match="weights that are negative, or all 0"):
        subset(context_for(4, 2, read_scores=file_of([1.0] * 4, weight=weight)), 1.0)


# ---- RHO


@pytest.mark.parametrize("looks", ["train", "eval"])
def test_rho_trains_on_the_highest_losses_minus_irreducible_losses_of_the_pool(context_for, looks):
    losses = torch.tensor([5.0, 4, 3, 2, 1, 6])
    irreducible = [4.9, 0.5, 2.9, 0.1, 0.2, 6.5]  # reducible: 0.1, 3.5, 0.1, 1.9, 0.8, -0.5
    pools = []

    def look(batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
        pools.append((batch, training))
        return losses[batch.drawn], torch.zeros(len(batch), 4)

    sampler = RHO(file="il.csv", pool=3, looks=looks)
    sampler.start(context_for(6, 2, look=look, read_scores=file_of(irreducible)))
    batch = sampler.draw()
    assert batch.drawn.tolist() == [1, 3]
    assert batch.weight is None
    ((pool, training),) = pools
    assert sorted(pool.drawn.tolist()) == list(range(6))
    assert training == (looks == "train")


def test_rho_subtracts_the_irreducible_losses_of_all_sources_and_trains_on_the_views_it_looked_at(context_for):
    pools = []

    def look(batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
        pools.append(batch)
        return torch.full((len(batch),), 5.0), torch.zeros(len(batch), 4)

    irreducible = torch.rand(12, generator=torch.Generator().manual_seed(0))
    sampler = RHO(file="il.csv", pool=3, looks="eval")
    aug = (Mixup(alpha=1.0, draw="image"),)
    sampler.start(context_for(12, 4, look=look, read_scores=file_of(irreducible.tolist()), aug=aug))
    for _ in range(5):
        batch, pool = sampler.draw(), pools[-1]
        reducible = [5 - float(share @ irreducible[index]) for index, share in zip(pool.index, pool.share, strict=True)]
        rows = np.argsort(reducible)[::-1][:4]
        assert torch.equal(batch.images, pool.images[rows.copy()])
        assert torch.equal(batch.drawn, pool.drawn[rows.copy()])


def test_rho_needs_the_irreducible_loss_of_every_example(context_for):
    sampler = RHO(file="il.csv", pool=3, looks="eval")
    with pytest.raises(UserError, match=r"il\.csv has no irreducible loss for 2 of 6 examples"):
        sampler.start(context_for(6, 2, read_scores=file_of([1.0] * 4)))


# ---- the proxy


class Small:
    """A second network that says these losses and remembers what it learnt from, and after how many looks."""

    def __init__(self, losses: Tensor) -> None:
        self.losses, self.looked, self.learnt = losses, [], []

    def look(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.looked.append(batch)
        return self.losses[batch.drawn], torch.zeros(len(batch), 4)

    def learn(self, batch: Batch) -> None:
        self.learnt.append((len(self.looked), batch))


def test_the_proxy_picks_what_it_finds_hardest_and_learns_from_the_same_views_once_an_update(context_for):
    small = Small(torch.rand(24, generator=torch.Generator().manual_seed(0)))
    asked = []
    sampler = Proxy(model=CNN(width=3), pool=2.0)
    aug = (Mixup(alpha=1.0, draw="image"),)
    sampler.start(context_for(24, 4, aug=aug, second=lambda model: asked.append(model) or small))
    assert asked == [CNN(width=3)]
    for update in range(1, 7):
        batch = sampler.draw()
        pool = small.looked[-1]
        assert len(small.looked) == len(small.learnt) == update
        assert len(pool) == 8  # no example is in it twice: there are 24
        rows = small.losses[pool.drawn].argsort(descending=True)[:4]
        assert torch.equal(batch.drawn, pool.drawn[rows])
        assert torch.equal(batch.images, pool.images[rows])
        after, learnt = small.learnt[-1]
        assert after == update
        assert torch.equal(learnt.images, batch.images)


def test_every_pass_of_the_proxy_is_charged_by_its_own_flops(tmp_path: Path) -> None:
    _, result = run("sampler=proxy sampler.pool=2 sampler.model.width=3 model.width=5 budget=0.5 epochs=1", tmp_path)
    forward_small, update_small = model_flops(CNN(width=3).build(1, 10), torch.Size((1, 8, 8)))
    _, update = model_flops(CNN(width=5).build(1, 10), torch.Size((1, 8, 8)))
    assert result["updates"] == 11
    assert result["flops"] == 11 * 64 * (update + 2 * forward_small + update_small)
    assert result["selection_flops"] == pytest.approx(1 - 11 * 64 * update / result["flops"])


def test_the_proxy_itself_is_trained_and_its_choice_depends_on_it(tmp_path: Path) -> None:
    _, result = run("sampler=proxy epochs=2", tmp_path)
    path = tmp_path / "outputs" / result["run_id"] / "checkpoint.pt"
    trained = torch.load(path)["sampler"]["proxy"]["net"]
    torch.manual_seed(0)
    fresh = CNN(width=4).build(1, 10).state_dict()
    assert trained.keys() == fresh.keys()
    assert trained["1.num_batches_tracked"] == 2 * 22  # once per update; looks are in evaluation mode
    assert result["visits_entropy"] < math.log(1438)


def test_a_nested_component_is_checked_and_is_part_of_the_experiment(tmp_path: Path, experiment_for) -> None:
    refused(here("sampler=proxy sampler.model.widht=3", tmp_path), "sampler.model.widht", "sampler.model.width")
    refused(here("sampler=proxy sampler.model.width=abc", tmp_path), "sampler.model.width=abc", "whole number")
    refused(here("sampler=proxy sampler.model.width=0", tmp_path), "sampler.model.width=0", "at least 1")
    refused(here("sampler=proxy sampler.model=3", tmp_path), "sampler.model")
    refused(here("sampler=proxy sampler.model._target_=nowhere.Model", tmp_path), "sampler.model._target_")
    refused(here("sampler=proxy ~sampler.model", tmp_path), "sampler.model has no value")
    narrow, same, wide = (experiment_for("sampler=proxy", f"sampler.model.width={w}") for w in ("4", "'4'", "8"))
    assert narrow.run_id == same.run_id != wide.run_id
    assert wide.sampler.model == CNN(width=8)
    assert wide.resolved["sampler"]["model"] == {"_target_": "budgetrun.model.cnn.CNN", "width": 8}


# ---- two phases through the command line


def run(line: str, cwd: Path) -> tuple[Done, dict[str, Any]]:
    """A command that ends well in a folder of many runs, and its result."""
    before = set(cwd.glob("outputs/*/result.json"))
    done = here(line, cwd)
    assert done.code == 0, done.err
    paths = set(cwd.glob("outputs/*/result.json")) - before
    return done, json.loads(paths.pop().read_text()) if paths else {}


def test_one_run_writes_scores_and_others_of_any_seed_use_them(tmp_path: Path) -> None:
    _, first = run("scores=forgetting epochs=3 validation=0.1", tmp_path)
    file = f"outputs/{first['run_id']}/scores.csv"
    rows = (tmp_path / file).read_text().splitlines()[2:]
    score = {int(i): float(s) for i, s in (row.split(",") for row in rows)}
    assert first["flops_before"] == 0
    for seed in (0, 1):
        line = f"sampler=subset sampler.file={file} sampler.keep=0.2 budget=0.5 epochs=3 validation=0.1 seed={seed}"
        _, second = run(line, tmp_path)
        made = json.loads((tmp_path / file).read_text().splitlines()[0].removeprefix("#"))
        assert second["flops_before"] == made["flops"] == first["flops"]
        # 259 of 1,294 are trained on: 30 updates of 64 visit each of them 7 or 8 times
        visits = torch.load(tmp_path / "outputs" / second["run_id"] / "checkpoint.pt")["diagnostics"]["visits"]
        kept = set(visits.nonzero()[:, 0].tolist())
        assert len(kept) == 259
        assert min(score[i] for i in kept) >= max(score[i] for i in score.keys() - kept)
    # and a file of scores made by a run that used one states the cost of both
    line = f"sampler=subset sampler.file={file} sampler.keep=0.5 budget=0.5 epochs=1 validation=0.1 scores=random"
    _, third = run(line, tmp_path)
    made = json.loads((tmp_path / f"outputs/{third['run_id']}/scores.csv").read_text().splitlines()[0][1:])
    assert made["flops"] == first["flops"] + third["flops"]


def test_the_files_of_several_runs_are_averaged_and_their_costs_added(tmp_path: Path) -> None:
    made = [run(f"scores=random epochs=1 seed={seed}", tmp_path)[1] for seed in (0, 1)]
    _, used = run("sampler=subset 'sampler.file=outputs/*-random-*/scores.csv' epochs=1", tmp_path)
    assert used["flops_before"] == sum(one["flops"] for one in made)
    scores = [(tmp_path / f"outputs/{one['run_id']}/scores.csv").read_text().splitlines()[2:] for one in made]
    mean = np.array([[float(row.split(",")[1]) for row in rows] for rows in scores]).mean(0)
    visits = torch.load(tmp_path / "outputs" / used["run_id"] / "checkpoint.pt")["diagnostics"]["visits"].numpy()
    assert (visits > 0).sum() == 719
    assert mean[visits > 0].min() > mean[visits == 0].max()
    by_name = ",".join(f"outputs/{one['run_id']}/scores.csv" for one in made)
    done = here(f"sampler=subset 'sampler.file=\"{by_name}\"' epochs=1", tmp_path)
    assert "not run again" in done.out  # the same files, so the same experiment


def test_scores_of_other_data_or_labels_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    _, first = run("scores=loss epochs=1 validation=0.1 noise=symmetric", tmp_path)
    use = f"sampler=subset sampler.file=outputs/{first['run_id']}/scores.csv epochs=1"
    before = listing(tmp_path)
    refused(here(f"{use} validation=0.2 noise=symmetric", tmp_path), "sampler.file", "validation part must be the same")
    refused(here(f"{use} noise=symmetric", tmp_path), "made for other data")
    refused(here(f"{use} validation=0.1", tmp_path), "the noise, its seed")
    refused(here(f"{use} validation=0.1 noise=symmetric seed=1", tmp_path), "the noise, its seed")
    assert listing(tmp_path) == before
    run(f"{use} validation=0.1 noise=symmetric lr=0.05", tmp_path)


def test_rho_s_two_commands_and_which_part_a_file_is_about(tmp_path: Path) -> None:
    made_by = "train_on=validation validation=0.5 scores=loss scores.of=validation model.width=2 epochs=2"
    _, first = run(made_by, tmp_path)
    file = f"outputs/{first['run_id']}/scores.csv"
    line = f"sampler=rho sampler.file={file} validation=0.5 model.width=2 epochs=1 budget=0.5"
    _, second = run(line, tmp_path)
    forward, update = model_flops(CNN(width=2).build(1, 10), torch.Size((1, 8, 8)))
    updates = second["updates"]
    assert updates == round(0.5 * (719 // 64))
    assert second["examples_forward"] == 11 * 64 * updates
    assert second["flops"] == updates * 64 * (10 * forward + update)
    assert second["dataset_fingerprint"] == first["dataset_fingerprint"]
    # 719 of 1,438 and their 719 others: only the scores of the right half are taken
    _, wrong = run("train_on=validation validation=0.5 scores=loss epochs=1", tmp_path)
    refused(
        here(f"sampler=rho sampler.file=outputs/{wrong['run_id']}/scores.csv validation=0.5", tmp_path),
        "sampler.file",
        "which part is trained on",
    )


def test_the_content_of_the_file_is_part_of_the_experiment_and_its_path_is_not(tmp_path: Path, experiment_for) -> None:
    def run_id(file: str) -> str:
        identity: str = experiment_for("sampler=subset", f"sampler.file={file}").run_id
        return identity

    for name, text in [("a", "same"), ("b", "same"), ("c", "other")]:
        (tmp_path / name).write_text(text)
    one, same, other = (run_id(f"{tmp_path}/{name}") for name in "abc")
    assert one == same
    assert one != other
    assert run_id(f"{tmp_path}/[ab]".replace("[ab]", "?")) not in (one, other)  # three files
