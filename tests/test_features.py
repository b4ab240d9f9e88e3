"""Files of features, and the parts that compare examples by them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import TRAINING, here, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers import TINY, file_of, ran, subset

from budgetrun.contracts import Context, UserError
from budgetrun.coreset.choice import choose
from budgetrun.coreset.herding import Herding
from budgetrun.folder import features, scorefile
from budgetrun.scores.moderate import Moderate
from budgetrun.select.graph import Graph, chosen, graph

RUN = {"dataset_fingerprint": "a", "labels_fingerprint": "b"}


def saved(path: Path, stored: Any, **about: Any) -> str:
    np.savez(path, features=stored, about=json.dumps({"dataset_fingerprint": "a", **about}))
    return str(path)


def test_what_is_written_is_read_with_its_cost(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    of_all = torch.randn(7, 3)
    features.write(path, of_all.split(4), {**RUN, "flops": 9, "runs": {"one": 5, "two": 4}})
    found, runs = features.read(str(path), RUN, 7)
    assert torch.equal(found, of_all)
    assert runs == {"one": 5, "two": 4}
    # another network's, in a file of one's own: no cost is known
    found, runs = features.read(saved(path, of_all.numpy().astype(np.float16)), RUN, 7)
    assert torch.equal(found, of_all.half().float())
    assert runs == {str(path): 0}


def test_a_file_that_cannot_be_used_gives_one_sentence(tmp_path: Path) -> None:
    path, good = tmp_path / "features.npz", np.ones((4, 2))

    def says(message: str, pattern: str = str(path), n: int = 4) -> None:
        with pytest.raises(UserError, match=message):
            features.read(pattern, RUN, n)

    with pytest.raises(scorefile.NotThere, match=r"No such file.*a run with save_features=true writes one"):
        features.read("nowhere.npz", RUN, 4)
    path.write_text("index,score\n")
    says("not a NumPy archive")
    with path.open("wb") as file:
        np.save(file, good)
    says("not a NumPy archive")
    np.savez(path, good)
    says("about")
    np.savez(path, features=good, about="{")
    says("is not a file of features")
    np.savez(path, features=good, about="[]")
    says("does not say what it is about")
    saved(path, good, runs={"one": -1})
    says("flops")
    for strange in (np.ones(4), np.ones((4, 0)), np.array([["a", "b"]] * 4), np.array([{}] * 4, dtype=object)):
        saved(path, strange)
        says("features")
    saved(path, np.where(np.eye(4, 2) > 0, np.nan, 1))
    says("not all of its features are finite")
    saved(path, np.full((4, 2), 1e20))
    says("would overflow; scale them")
    saved(path, good, run_id=["x"])
    says("is not a file of features")
    saved(path, good, dataset_fingerprint="c")
    says(r"was made for other data \(c, and this is a")
    saved(path, good, labels_fingerprint="c")
    says("is about other examples")
    saved(path, good)
    says("has 4 examples, and this run trains on 5", n=5)
    saved(tmp_path / "more.npz", good)
    says("is 2 files", pattern=f"{tmp_path}/*.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    says("not a NumPy archive")
    path.write_bytes(whole.replace(np.float64(1).tobytes(), np.float64(2).tobytes(), 1))
    says("Bad CRC")
    path.unlink()
    os.mkfifo(path)
    says("not a NumPy archive")


def test_a_file_takes_the_place_of_a_look(context_for: Callable[..., Context]) -> None:
    of_all = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))

    def context(**others: Any) -> Context:
        return context_for(12, 4, classes=2, **others)

    looks = context(embed=lambda batch, scale=1.0: (of_all[batch.index[:, 0]], torch.zeros(len(batch), 2)))
    reads = context(read_features=lambda file: {"given.npz": of_all}[file])  # and refuses to look
    scores = []
    for seen, file in ((looks, None), (reads, "given.npz")):
        scorer = Moderate(features=file)
        scorer.start(seen)
        scores.append(scorer.scores()["score"])
    assert torch.equal(*scores)
    one, other = (
        choose(seen, Herding(features=file), 0.5, True, "round").index
        for seen, file in ((looks, None), (reads, "given.npz"))
    )
    assert torch.equal(one, other)


# ---- a choice on the graph


def by_hand(score: list[float], points: list[list[float]], neighbours: int, gamma: float, count: int) -> list[int]:
    """The definition, with a whole matrix of distances and no heap."""
    x, m = np.array(points, np.float32), len(score)
    distance = np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=2)
    near = np.zeros((m, m), bool)
    for i in range(m):
        others = [j for j in np.argsort(distance[i], kind="stable") if j != i][:neighbours]
        near[i, others] = near[others, i] = True
    value = np.array(score) + (near * np.exp(-distance)) @ np.array(score)
    found: list[int] = []
    for _ in range(count):
        best = max((i for i in range(m) if i not in found), key=lambda i: value[i])
        found.append(best)
        value -= near[best] * np.exp(-gamma * distance[best]) * value[best]
    return found


@settings(deadline=None, max_examples=100)
@given(data=st.data(), m=st.integers(1, 12), neighbours=st.integers(1, 6), gamma=st.sampled_from([0.0, 0.1, 2.0]))
def test_the_graph_chooses_as_by_definition(data: st.DataObject, m: int, neighbours: int, gamma: float) -> None:
    draws = np.random.default_rng(data.draw(st.integers(0, 10**6)))  # no ties
    score, points = draws.random(m), draws.normal(size=(m, 2))
    count = data.draw(st.integers(0, m))
    found = chosen(score, graph(points.astype(np.float32), neighbours), gamma, count)
    assert found == by_hand(score.tolist(), points.tolist(), neighbours, gamma, count)


def test_the_graph_prefers_the_hard_and_then_the_unlike() -> None:
    # three at one place, and one far away; the second is nearly as hard as the first
    columns = {"score": torch.tensor([1.0, 0.9, 0.1, 0.5]), "features": torch.tensor([[0.0], [0], [0], [50]])}
    rule = Graph(features="given.npz", neighbours=2, gamma=0.1, cut=0.0)
    # all three values at that place are 2.0: the first takes as much from the others, and the last still has nearly 0.5
    assert rule(columns, 2, torch.Generator()).tolist() == [0, 3]
    # without the hardest quarter: 0.9 and 0.1 see each other, and the last, at 0.5, is too far away
    assert Graph("given.npz", 1, 0.1, cut=0.25)(columns, 2, torch.Generator()).tolist() == [1, 3]
    # negative scores: the lowest counts as 0, so that a message never makes an example easier
    lower = {**columns, "score": columns["score"] - 7}
    assert rule(lower, 2, torch.Generator()).tolist() == [0, 3]
    # one example has no neighbours; examples at one place are never their own
    alone = {"score": torch.ones(1), "features": torch.zeros(1, 1)}
    assert rule(alone, 1, torch.Generator()).tolist() == [0]
    assert [to.tolist() for to, _ in graph(np.zeros((3, 1), np.float32), 2)] == [[1, 2], [0, 2], [0, 1]]


def test_a_subset_by_the_graph_is_chosen_class_by_class_of_the_examples_in_the_file(
    context_for: Callable[..., Context],
) -> None:
    of_all = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    score = torch.rand(16, generator=torch.Generator().manual_seed(1)).tolist()
    index = [i for i in range(20) if i % 5]
    context = context_for(
        20,
        4,
        classes=2,
        read_scores=file_of(score, index),
        read_features=lambda file: of_all,
        select=Graph("given.npz", neighbours=2, gamma=0.1, cut=0.0),
    )
    kept = subset(context, keep=0.2, balanced=True).selection().tolist()
    of_class = [[(i, s) for i, s in zip(index, score, strict=True) if i % 2 == label] for label in (0, 1)]
    expected = [
        rows[position][0]
        for rows in of_class
        for position in by_hand([s for _, s in rows], of_all[[i for i, _ in rows]].tolist(), 2, 0.1, 2)
    ]
    assert sorted(kept) == sorted(expected)


def test_a_cut_that_leaves_too_few_is_refused_before_features_are_read(context_for: Callable[..., Context]) -> None:
    rule = Graph("not there yet.npz", neighbours=2, gamma=0.1, cut=0.6)
    context = context_for(20, 4, classes=2, read_scores=file_of([1.0] * 20), select=rule)  # and refuses to read
    for options in ({"keep": 0.5, "balanced": True}, {"keep": None}):
        with pytest.raises(UserError, match=r"select\.cut=0\.6 leaves \d of \d+ examples, and \d+ are to be chosen"):
            subset(context, **options)


def test_a_run_writes_its_features_and_another_in_the_same_sweep_chooses_by_them(tmp_path: Path) -> None:
    (tmp_path / "conf" / "grid").mkdir(parents=True)
    tiny = " ".join(TINY)
    (tmp_path / "conf" / "grid" / "two.yaml").write_text(
        f"common: {tiny}\n"
        "sweeps:\n"
        "  - scores=el2n save_features=true output_dir=outputs/files\n"
        "  - >-\n"
        "    sampler=subset sampler.file=outputs/files/*/scores.csv sampler.keep=0.3 sampler.balanced=true\n"
        "    select=graph select.features=outputs/files/*/features.npz\n"
        "  - scores=prototypes scores.features=outputs/files/*/features.npz\n"
    )
    done = here("--config-dir conf grid=two", tmp_path)
    assert done.code == 0, done.err
    results = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / "two").glob("*/result.json")]
    (scored,) = (tmp_path / "outputs" / "files").glob("*/scores.csv")
    _, about = scorefile.parse(scored, "sampler.file")
    of_all, of_features = features.parse(scored.with_name("features.npz"))
    assert of_all.shape[0] == TRAINING
    result = json.loads(scored.with_name("result.json").read_text())
    forward = (of_features["flops"] - about["flops"]) / TRAINING
    assert about["flops"] - result["flops"] == TRAINING * forward  # each has looked at everything once
    assert [one["flops_before"] for one in results] == [of_features["flops"]] * 2
    (kept,) = (tmp_path / "outputs" / "two").glob("*subset-graph*/kept.csv")
    _, of_kept = scorefile.parse(kept, "sampler.base", kept=True)
    assert [name.split("/")[1] for name in of_kept["parents"]] == ["scores.csv", "features.npz"]
    refused(here(f"sampler=subset sampler.file={scored} select=graph", tmp_path), "select.features is not set")
    refused(here("scores=moderate scores.features=", tmp_path), "features='' is not a path")
    refused(here("'scores=moderate' 'scores.features=\"a,b.npz\"'", tmp_path), "a comma separates two")
    refused(here("scores=moderate scores.features=no.npz", tmp_path), "features: no.npz is not a file of features")
    damaged = scored.with_name("features.npz")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    refused(here(f"scores=moderate scores.features={damaged} {tiny}", tmp_path), "is not what its run made")
    assert ran(f"save_features=true {tiny}", tmp_path)[1]["flops_before"] == 0
