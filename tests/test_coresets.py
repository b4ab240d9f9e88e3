"""Core-sets against brute force and slow implementations of the definitions."""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from cli import here, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from budgetrun.aug.mixup import Mixup
from budgetrun.contracts import Batch, Context, UserError
from budgetrun.coreset.choice import Seen, bias_gradients, choose, groups
from budgetrun.coreset.contextual_diversity import ContextualDiversity
from budgetrun.coreset.craig import Craig, craig
from budgetrun.coreset.glister import Glister, in_rounds, stochastic
from budgetrun.coreset.gradmatch import GradMatch, factored, gradmatch
from budgetrun.coreset.graph_cut import GraphCut
from budgetrun.coreset.herding import Herding, herding
from budgetrun.coreset.k_center import KCenter, k_center_greedy
from budgetrun.coreset.log_determinant import LogDeterminant
from budgetrun.coreset.per_batch import CraigPB, GradMatchPB
from budgetrun.model.cnn import CNN
from budgetrun.sampler.coreset import CoreSet
from budgetrun.scores.coreset import CoreSetScores
from budgetrun.training.budget import model_flops

SIZES = {"m": st.integers(2, 14), "dim": st.integers(1, 4), "seed": st.integers(0, 1000)}


def points(m: int, dim: int, seed: int) -> Tensor:
    return torch.randn(m, dim, generator=torch.Generator().manual_seed(seed))


# ---- k-center


@settings(deadline=None, max_examples=60)
@given(**SIZES, count=st.integers(1, 14))
def test_k_center_always_takes_the_point_farthest_from_all_that_are_chosen(
    m: Any, dim: Any, seed: Any, count: Any
) -> None:
    features, count = points(m, dim, seed), min(m, count)
    chosen = k_center_greedy(features, count, torch.tensor([seed % m])).tolist()
    assert chosen[0] == seed % m
    assert len(set(chosen)) == count
    x = features.double().numpy()
    for k in range(1, count):
        distance = [min(np.linalg.norm(x[i] - x[j]) for j in chosen[:k]) for i in range(m)]
        assert distance[chosen[k]] == pytest.approx(max(distance), abs=1e-3)


def test_k_center_covers_within_twice_the_best_radius_of_any_choice() -> None:
    features = points(10, 2, 3)
    distance = torch.cdist(features, features)
    best = min(float(distance[:, list(centers)].amin(1).max()) for centers in itertools.combinations(range(10), 3))
    found = k_center_greedy(features, 3, torch.tensor([0]))
    assert float(distance[:, found].amin(1).max()) <= 2 * best


def test_points_that_coincide_are_not_chosen_twice() -> None:
    same = torch.ones(5, 3)
    assert sorted(k_center_greedy(same, 5, torch.tensor([2])).tolist()) == [0, 1, 2, 3, 4]
    assert sorted(herding(same, 5).tolist()) == [0, 1, 2, 3, 4]
    assert sorted(craig(same, 5)[0].tolist()) == [0, 1, 2, 3, 4]


# ---- gradients of the last layer: graph cut, log-determinant; and contextual diversity


def seen_of(m: int, dim: int, seed: int, classes: int = 3) -> Seen:
    generator = torch.Generator().manual_seed(seed)
    features, logits = torch.randn(m, dim, generator=generator), torch.randn(m, classes, generator=generator)
    return Seen(features, logits, torch.arange(m) % classes)


def cosines(seen: Seen) -> Any:
    """Of the gradients of the last layer's weights and bias, as torch differentiates them, [m, m]."""
    rows = []
    for feature, logit, label in zip(seen.features, seen.logits, seen.labels, strict=True):
        weight = torch.zeros(len(logit), len(feature), requires_grad=True)
        bias = torch.zeros(len(logit), requires_grad=True)
        F.cross_entropy((logit + weight @ feature + bias)[None], label[None]).backward()
        assert weight.grad is not None
        assert bias.grad is not None
        rows.append(torch.cat([weight.grad.flatten(), bias.grad]).double().numpy())
    x = np.array(rows)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def by(method: Any, seen: Seen, count: int) -> list[int]:
    chosen, weight = method(seen, None, count, torch.Generator().manual_seed(0))
    assert weight is None
    assert len(set(chosen.tolist())) == count
    return chosen.tolist()


@settings(deadline=None, max_examples=40)
@given(**SIZES, count=st.integers(1, 14), coverage=st.sampled_from([1.0, 2.0, 0.5]))
def test_graph_cut_takes_what_is_similar_to_all_and_unlike_the_chosen(
    m: Any, dim: Any, seed: Any, count: Any, coverage: Any
) -> None:
    seen, count = seen_of(m, dim, seed), min(m, count)
    s = cosines(seen)
    chosen = by(GraphCut(coverage=coverage), seen, count)

    def value(subset: list[int]) -> float:
        return float(coverage * s[:, subset].sum() - s[np.ix_(subset, subset)].sum())

    for k in range(count):
        values = [value([*chosen[:k], j]) for j in range(m) if j not in chosen[:k]]
        assert value(chosen[: k + 1]) == pytest.approx(max(values), abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(**SIZES, count=st.integers(1, 14))
def test_log_determinant_takes_what_the_chosen_explain_least(m: Any, dim: Any, seed: Any, count: Any) -> None:
    seen, count = seen_of(m, dim, seed), min(m, count)
    s = cosines(seen)
    chosen = by(LogDeterminant(), seen, count)

    def left(subset: list[int], j: int) -> float:  # the squared distance to the span of the chosen
        inner = s[np.ix_(subset, subset)]
        return float(s[j, j] - s[j, subset] @ np.linalg.pinv(inner, rcond=1e-9) @ s[subset, j]) if subset else 1.0

    for k in range(count):
        others = [left(chosen[:k], j) for j in range(m) if j not in chosen[:k]]
        assert left(chosen[:k], chosen[k]) == pytest.approx(max(others), abs=1e-3)


def test_log_determinant_takes_a_copy_last_where_the_wrong_sign_takes_it_first() -> None:
    seen = Seen(torch.tensor([[1.0, 0], [1, 0], [0, 1], [-1, 1]]), torch.zeros(4, 3), torch.tensor([0, 0, 0, 0]))
    assert by(LogDeterminant(), seen, 4)[-1] in (0, 1)
    assert set(by(LogDeterminant(), seen, 3)) in ({0, 2, 3}, {1, 2, 3})
    large = Seen(torch.ones(1, 499).expand(40000, -1), torch.ones(1, 81).expand(40000, -1), torch.zeros(40000).long())
    with pytest.raises(UserError, match=r"LogDeterminant keeps 40000 numbers for each of 40000 .*6 GiB; choose fewer"):
        LogDeterminant()(large, None, 40000, torch.Generator())


def test_what_the_log_determinant_cannot_tell_apart_is_drawn_at_random() -> None:
    # gradients of 3 classes and 2 features have 2 x 3 dimensions: of 40, the first 6 explain all others
    seen = seen_of(40, 2, 0)
    found = [LogDeterminant()(seen, None, 26, torch.Generator().manual_seed(seed))[0].tolist() for seed in range(200)]
    assert len({tuple(one[:6]) for one in found}) == 1
    assert {len(set(one)) for one in found} == {26}
    others = sorted(set(range(40)) - set(found[0][:6]))
    often = torch.tensor([one[6:] for one in found]).flatten().bincount(minlength=40)[others] / 200
    torch.testing.assert_close(often, torch.full((34,), 20 / 34), atol=0.15, rtol=0)  # a deviation of 0.035


@settings(deadline=None, max_examples=40)
@given(**SIZES, count=st.integers(1, 14))
def test_contextual_diversity_takes_the_farthest_prediction(m: Any, dim: Any, seed: Any, count: Any) -> None:
    seen, count = seen_of(m, dim, seed), min(m, count)
    seen.logits[0, 0] = 300  # p of the others is 0 in float32
    chosen = by(ContextualDiversity(), seen, count)
    log_p = seen.logits.double().log_softmax(1)
    p = log_p.exp()
    kl = [[float((p[i] * (log_p[i] - log_p[j])).sum()) for j in range(m)] for i in range(m)]
    for k in range(1, count):
        distance = [min(kl[i][j] + kl[j][i] for j in chosen[:k]) for i in range(m)]
        assert distance[chosen[k]] == pytest.approx(max(distance), rel=1e-3, abs=1e-4)


# ---- herding


@settings(deadline=None, max_examples=60)
@given(**SIZES, count=st.integers(1, 14))
def test_herding_takes_the_point_that_brings_the_mean_nearest(m: Any, dim: Any, seed: Any, count: Any) -> None:
    features, count = points(m, dim, seed), min(m, count)
    chosen = herding(features, count).tolist()
    x = features.double().numpy()
    for k in range(count):
        left = [i for i in range(m) if i not in chosen[:k]]
        error = {i: np.linalg.norm(x[[*chosen[:k], i]].mean(0) - x.mean(0)) for i in left}
        assert error[chosen[k]] == pytest.approx(min(error.values()), abs=1e-4)


def test_the_mean_of_the_herded_is_much_nearer_than_that_of_a_random_choice() -> None:
    features = points(400, 8, 0)
    error = float((features[herding(features, 40)].mean(0) - features.mean(0)).norm())
    orders = [torch.randperm(400, generator=torch.Generator().manual_seed(s))[:40] for s in range(50)]
    assert error < 0.3 * min(float((features[o].mean(0) - features.mean(0)).norm()) for o in orders)


# ---- CRAIG


def facility_location(similarity: np.ndarray, chosen: list[int]) -> float:
    return float(similarity[:, chosen].max(1).sum()) if chosen else 0.0


@settings(deadline=None, max_examples=60)
@given(**SIZES, count=st.integers(1, 14))
def test_craig_is_the_greedy_choice_for_facility_location_and_counts_the_nearest(
    m: Any, dim: Any, seed: Any, count: Any
) -> None:
    gradients, count = points(m, dim, seed), min(m, count)
    index, weights = craig(gradients, count)
    x = gradients.double().numpy()
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    similarity = distance.max() - distance
    chosen = index.tolist()
    assert len(set(chosen)) == count
    for k in range(count):
        value = {i: facility_location(similarity, [*chosen[:k], i]) for i in range(m) if i not in chosen[:k]}
        assert value[chosen[k]] == pytest.approx(max(value.values()), abs=1e-4)
    nearest = [chosen[int(np.argmin(distance[i, chosen]))] for i in range(m)]
    assert weights.tolist() == [nearest.count(i) for i in chosen]
    assert weights.sum() == m


def test_craig_reaches_its_guarantee_against_the_best_of_all_choices() -> None:
    gradients = points(11, 3, 5)
    distance = torch.cdist(gradients, gradients).numpy()
    similarity = distance.max() - distance
    best = max(facility_location(similarity, list(c)) for c in itertools.combinations(range(11), 4))
    assert facility_location(similarity, craig(gradients, 4)[0].tolist()) >= (1 - 1 / np.e) * best


def test_craig_s_gains_do_not_drift_over_many_choices() -> None:
    gradients = points(1500, 10, 1)  # more rows than are updated at once
    index, weights = craig(gradients, 150)
    distance = torch.cdist(gradients.double(), gradients.double())
    similarity = distance.max() - distance
    best = torch.zeros(1500, dtype=torch.float64)
    for point in index.tolist():
        gains = (similarity - best[:, None]).clamp(min=0).sum(0)
        assert float(gains[point]) == pytest.approx(float(gains.max()), rel=1e-5)
        best = torch.maximum(best, similarity[:, point])
    assert weights.sum() == 1500


def test_craig_refuses_what_does_not_fit_into_memory() -> None:
    with pytest.raises(UserError, match=r"CRAIG compares 40000 examples with each other, which takes 6 GiB"):
        craig(torch.zeros(40000, 1), 3)


# ---- GRAD-MATCH

ONES = torch.ones(14, 1)  # a gradient is the outer product of an error and an input


def pursuit(g: np.ndarray, count: int, regularization: float) -> tuple[list[int], np.ndarray]:
    """The definition in numpy: least squares by an augmented system, and the most negative weight dropped."""
    target = g.sum(0)
    chosen: list[int] = []
    weights = np.zeros(0)
    for _ in range(count):
        left = target - g[chosen].T @ weights
        product = [-np.inf if i in chosen else float(g[i] @ left) for i in range(len(g))]
        if max(product) <= 1e-6 * np.abs(g @ target).max():
            break
        chosen.append(int(np.argmax(product)))
        while True:
            a = np.vstack([g[chosen].T, np.sqrt(regularization) * np.eye(len(chosen))])
            weights = np.linalg.lstsq(a, np.concatenate([target, np.zeros(len(chosen))]), rcond=None)[0]
            if weights.min() >= 0:
                break
            chosen.pop(int(weights.argmin()))
            weights = np.delete(weights, weights.argmin())
    return chosen, weights


@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(2, 14),
    dim=st.integers(3, 8),
    width=st.integers(1, 4),
    seed=st.integers(0, 1000),
    count=st.integers(1, 14),
    regularization=st.sampled_from([0.01, 0.5, 10.0]),
)
def test_gradmatch_is_orthogonal_matching_pursuit_with_positive_weights(
    m: Any, dim: Any, width: Any, seed: Any, count: Any, regularization: Any
) -> None:
    errors, inputs = points(m, dim, seed).double(), points(m, width, seed + 1).double()
    index, weights = gradmatch(errors, inputs, min(m, count), regularization)
    gradients = (errors[:, :, None] * inputs[:, None, :]).flatten(1)
    chosen, expected = pursuit(gradients.numpy(), min(m, count), regularization)
    assert index.tolist() == chosen
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-3, atol=1e-5)


def test_gradmatch_goes_on_as_defined_after_it_has_dropped_some(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, inputs = points(80, 4, 4).double(), points(80, 3, 5).double()
    solved, factor = [], torch.linalg.cholesky
    monkeypatch.setattr(torch.linalg, "cholesky", lambda gram: solved.append(len(gram)) or factor(gram))
    index, weights = gradmatch(errors, inputs, 80, 0.5)
    chosen, expected = pursuit((errors[:, :, None] * inputs[:, None, :]).flatten(1).numpy(), 80, 0.5)
    assert index.tolist() == chosen
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-3, atol=1e-5)
    assert len(solved) == 3  # one for each that was dropped
    assert solved[0] < len(chosen)  # and more were chosen after the first of them


def test_craig_in_parts_is_craig(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = points(70, 4, 6)
    whole = craig(gradients, 20)
    monkeypatch.setattr("budgetrun.coreset.craig.PAIRS", 500)  # 8 examples at a time
    index, weights = craig(gradients, 20)
    assert torch.equal(index, whole[0])
    assert torch.equal(weights, whole[1])


def test_craig_chooses_the_same_with_all_rows_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = points(70, 4, 6)
    whole = craig(gradients, 40)
    monkeypatch.setattr("budgetrun.coreset.craig.coming_nearer", lambda nearer, part: torch.arange(70).split(9))
    index, weights = craig(gradients, 40)
    assert torch.equal(index, whole[0])
    assert torch.equal(weights, whole[1])


def test_the_cholesky_factor_of_many_rows_in_parts_is_the_factor() -> None:
    rows = torch.randn(2100, 2100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = rows @ rows.T + torch.eye(2100, dtype=torch.float64)
    torch.testing.assert_close(factored(gram), torch.linalg.cholesky(gram), rtol=1e-9, atol=1e-9)


def test_gradmatch_with_room_for_all_is_the_non_negative_least_squares_of_scipy() -> None:
    # gradients that are nearly orthogonal, so that none is dropped on the way
    gradients = torch.eye(6).repeat(1, 2) * torch.arange(1, 7)[:, None] + 0.1 * points(6, 12, 0).abs()
    index, weights = gradmatch(gradients, ONES[:6], 6, 0.5)
    ordered = gradients[index].double().numpy()
    system = np.vstack([ordered.T, np.sqrt(0.5) * np.eye(6)])
    target = np.concatenate([gradients.double().sum(0).numpy(), np.zeros(6)])
    expected, _ = scipy.optimize.nnls(system, target)
    assert (expected > 0).all()
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-4)


def test_gradmatch_ends_when_nothing_is_left_to_match() -> None:
    # two directions, and two of the gradients carry all of them
    gradients = torch.tensor([[4.0, 0], [0, 3], [1, 0], [0, 1], [2, 0]])
    index, weights = gradmatch(gradients, ONES[:5], 5, 0.0)
    assert index.tolist() == [0, 1]
    torch.testing.assert_close(weights, torch.tensor([7 / 4, 4 / 3]))
    assert len(gradmatch(torch.zeros(4, 2), ONES[:4], 3, 0.5)[0]) == 0


def test_the_method_gradmatch_fills_up_with_random_others_of_weight_1() -> None:
    logits = torch.zeros(12, 2)
    seen = Seen(torch.randn(12, 3), logits, torch.zeros(12, dtype=torch.int64))  # twelve equal gradients
    filled = set()
    for seed in range(20):
        index, weights = GradMatch(gradients="bias", regularization=0.0)(
            seen, None, 5, torch.Generator().manual_seed(seed)
        )
        assert len(set(index.tolist())) == 5
        torch.testing.assert_close(weights, torch.tensor([12.0, 1, 1, 1, 1]))
        filled |= set(index[1:].tolist())
    assert len(filled) > 8


# ---- whole mini-batches


def test_squared_distances_move_the_choice_towards_what_is_far() -> None:
    """Of 0, 1, 2, 3, 20: the distances to 2 sum to 22 and to 3 to 23, their squares to 330 and 303."""
    points = torch.tensor([[0.0], [1], [2], [3], [20]])
    assert craig(points, 1)[0].tolist() == [2]
    index, weights = craig(points, 1, squared=True)
    assert (index.tolist(), weights.tolist()) == ([3], [5])


@settings(deadline=None, max_examples=30)
@given(m=st.integers(2, 23), size=st.integers(1, 6), seed=st.integers(0, 1000), part=st.floats(0.05, 1))
@pytest.mark.parametrize("gradients", ["last", "bias"])
def test_whole_batches_are_chosen_by_their_mean_gradients_and_weigh_all_their_examples_alike(
    gradients: str, m: Any, size: Any, seed: Any, part: Any
) -> None:
    seen, count = seen_of(m, 2, seed), math.ceil(part * m)
    parts = torch.randperm(m, generator=torch.Generator().manual_seed(seed)).split(size)
    rows = np.array(
        [
            np.outer(e, x if gradients == "last" else [1]).ravel()
            for e, x in zip(seen.errors().double().numpy(), seen.inputs().double().numpy(), strict=True)
        ]
    )
    means = np.array([rows[batch.numpy()].mean(0) for batch in parts])

    index, weights = CraigPB(size, gradients)(seen, None, count, torch.Generator().manual_seed(seed))
    batch_of = {int(i): number for number, batch in enumerate(parts) for i in batch}
    chosen = list(dict.fromkeys(batch_of[i] for i in index.tolist()))
    assert len(chosen) == math.ceil(count / size)
    assert index.tolist() == [int(i) for number in chosen for i in parts[number]]  # all of each, and nothing else
    distance = ((means[:, None] - means[None]) ** 2).sum(2)
    similarity = distance.max() - distance
    for k in range(len(chosen)):
        value = {i: facility_location(similarity, [*chosen[:k], i]) for i in range(len(parts)) if i not in chosen[:k]}
        assert value[chosen[k]] == pytest.approx(max(value.values()), abs=1e-4)
    of_batch = dict(zip((batch_of[i] for i in index.tolist()), weights.tolist(), strict=True))
    assert sum(of_batch.values()) == len(parts)
    assert weights.tolist() == [of_batch[batch_of[i]] for i in index.tolist()]

    index, weights = GradMatchPB(size, gradients, 0.5)(seen, None, count, torch.Generator().manual_seed(seed))
    expected, solved = pursuit(means, math.ceil(count / size), 0.5)
    matched = [int(i) for number in expected for i in parts[number]]
    assert index.tolist()[: len(matched)] == matched
    of_each = [w for number, w in zip(expected, solved, strict=True) for _ in parts[number]]
    np.testing.assert_allclose(weights[: len(matched)].numpy(), of_each, rtol=1e-3, atol=1e-5)
    assert len(set(index.tolist())) == len(index) == max(count, len(matched))
    assert weights[len(matched) :].tolist() == [1] * (len(index) - len(matched))  # random others


def test_too_many_gradients_of_batches_give_one_sentence() -> None:
    wide = Seen(torch.ones(1, 9999).expand(30000, -1), torch.ones(1, 10).expand(30000, -1), torch.zeros(30000).long())
    with pytest.raises(UserError, match=r"gradients of 30000 batches .* take 11 GiB; choose by its bias"):
        CraigPB(1, "last")(wide, None, 1, torch.Generator())
    for wrong in ({"size": 0}, {"gradients": "row"}):
        with pytest.raises(ValueError, match=r"^(size=0 must be|gradients=row is not)"):
            CraigPB(**({"size": 2, "gradients": "bias"} | wrong))


# ---- GLISTER


@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(2, 20),
    seed=st.integers(0, 1000),
    count=st.integers(1, 20),
    rounds=st.integers(1, 25),
    step=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_glister_takes_the_best_products_with_a_gradient_refreshed_by_autograd_every_round(
    m: Any, seed: Any, count: Any, rounds: Any, step: Any
) -> None:
    count = min(m, count)
    generator = torch.Generator().manual_seed(seed)
    logits, labels = 2 * torch.randn(m, 3, generator=generator), torch.randint(3, (m,), generator=generator)
    held, held_labels = 2 * torch.randn(7, 3, generator=generator), torch.randint(3, (7,), generator=generator)
    gradients = bias_gradients(logits, labels)
    chosen = in_rounds(gradients, held, held_labels, count, step, rounds).tolist()
    assert len(set(chosen)) == count
    ends = sorted({number * count // rounds for number in range(rounds + 1)})
    for start, end in itertools.pairwise(ends):
        gains = gains_by_autograd(gradients, held, held_labels, step, chosen[:start])
        left = [i for i in range(m) if i not in chosen[:end]]
        assert min(gains[i] for i in chosen[start:end]) >= max((gains[i] for i in left), default=-np.inf) - 1e-5


def gains_by_autograd(
    gradients: Tensor, held: Tensor, held_labels: Tensor, step: float, chosen: list[int]
) -> list[float]:
    """How much a small step along each gradient lowers the held-out loss, after the step along those chosen."""
    bias = (-step * gradients[chosen].sum(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(held + bias, held_labels), bias)
    return (gradients @ gradient).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("count", "rounds", "parts"), [(100, 15, [6, 7, 7] * 5), (16, 15, [1] * 14 + [2]), (4, 15, [1] * 4)]
)
def test_where_the_rounds_of_glister_do_not_divide_the_count_their_parts_differ_by_one(
    count: int, rounds: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, topk = [], torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda self, k: taken.append(k) or topk(self, k))
    in_rounds(points(200, 3, 0), points(7, 3, 1), torch.arange(7) % 3, count, 0.1, rounds)
    assert taken == parts


@settings(deadline=None, max_examples=40)
@given(m=st.integers(4, 20), seed=st.integers(0, 1000), count=st.integers(1, 4), step=st.sampled_from([0.0, 0.1, 3.0]))
def test_stochastic_glister_of_few_has_all_as_candidates_and_is_the_greedy_choice(
    m: Any, seed: Any, count: Any, step: Any
) -> None:
    """4.6 m / count candidates are no fewer than m."""
    gradients = bias_gradients(2 * points(m, 3, seed), torch.arange(m) % 3)
    held, held_labels = 2 * points(7, 3, seed + 1), torch.arange(7) % 3
    random = torch.Generator().manual_seed(seed)
    chosen = stochastic(gradients, held, held_labels, count, step, random).tolist()
    assert len(set(chosen)) == count
    for k in range(count):
        gains = gains_by_autograd(gradients, held, held_labels, step, chosen[:k])
        assert gains[chosen[k]] >= max(gains[i] for i in range(m) if i not in chosen[:k]) - 1e-5


def test_stochastic_glister_takes_the_best_of_as_many_random_candidates_as_published() -> None:
    """Of 20 gradients 10: always int(20 / 10 x ln 100) = 9 candidates, first of 20 and at last of the 11 left."""
    gradients = torch.arange(20.0)[:, None] * torch.tensor([[1.0, -1.0]])
    held, held_labels = torch.zeros(1, 2), torch.tensor([1])  # the larger, the better; with no step, always
    first, best_of_last = [], 0
    for seed in range(1500):
        chosen = stochastic(gradients, held, held_labels, 10, 0.0, torch.Generator().manual_seed(seed)).tolist()
        assert len(set(chosen)) == 10
        first.append(chosen[0])
        best_of_last += chosen[-1] == max(set(range(20)) - set(chosen[:-1]))
    chance = [math.comb(i, 8) / math.comb(20, 9) for i in range(20)]  # that i is the best of nine
    assert np.mean([i == 19 for i in first]) == pytest.approx(chance[19], abs=0.04)
    assert np.mean(first) == pytest.approx(sum(i * p for i, p in enumerate(chance)), abs=0.15)  # of eight, 0.23 less
    assert best_of_last / 1500 == pytest.approx(9 / 11, abs=0.03)


def test_glister_without_refreshing_takes_more_of_the_same_and_with_it_what_is_missing() -> None:
    # two classes that the network confuses with the third, which it always predicts
    labels = torch.arange(40) % 2
    gradients = bias_gradients(torch.tensor([0.0, 0, 3]).repeat(40, 1), labels)
    held = torch.tensor([[0.0, 0.0, 3.0]]).repeat(10, 1)
    held_labels = torch.tensor([0] * 6 + [1] * 4)  # class 0 is the greater part
    once = in_rounds(gradients, held, held_labels, 10, 1.0, 1)
    often = in_rounds(gradients, held, held_labels, 10, 1.0, 10)
    assert labels[once].tolist() == [0] * 10
    assert 0 < labels[often].sum() < 10


# ---- gradients


@pytest.mark.parametrize("labels", [[1] * 8, [0, 2] * 4], ids=["of one class", "of two"])
def test_gradmatch_by_row_matches_the_last_layer_s_gradients_of_each_example_s_own_class(labels: list[int]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    features, own = torch.randn(8, 4), torch.tensor(labels)
    seen = Seen(features, layer(features).detach(), own)
    rows = np.zeros((8, 3, 5))
    for i, label in enumerate(labels):
        loss = F.cross_entropy(layer(features[i : i + 1]), own[i : i + 1])
        weight, bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
        rows[i, label] = [*weight[label].tolist(), float(bias[label])]
    chosen, expected = pursuit(rows.reshape(8, 15), 3, 0.5)
    index, weights = GradMatch(gradients="row", regularization=0.5)(seen, None, 3, torch.Generator())
    assert index.tolist() == chosen
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-3, atol=1e-5)


def test_the_gradients_of_the_last_layer_are_autograd_s() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    features, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    seen = Seen(features, layer(features).detach(), labels)
    for row in range(6):
        loss = F.cross_entropy(layer(features[row : row + 1]), labels[row : row + 1])
        weight, bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
        torch.testing.assert_close(seen.errors()[row], bias)
        both = torch.cat([weight, bias[:, None]], dim=1)
        torch.testing.assert_close(torch.outer(seen.errors()[row], seen.inputs()[row]), both)


# ---- among the examples of a run


def context_that_sees(context_for: Any, n: int, batch_size: int, **others: Any) -> tuple[Context, dict[str, Any]]:
    """A context whose network has fixed outputs, for validation example i the same as for training example i + 3."""
    generator = torch.Generator().manual_seed(0)
    says = {what: torch.randn(n + 10, d, generator=generator) for what, d in (("features", 5), ("logits", 4))}
    looked: list[Tensor] = []

    def embed(batch: Batch, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        held = batch.images.shape[1] == 1
        rows = batch.drawn + 3 * held
        looked.append(rows)
        return says["features"][rows], says["logits"][rows]

    index = torch.arange(9)
    validation = Batch(torch.zeros(9, 1, 8, 8), index[:, None], (index % 3)[:, None], torch.ones(9, 1), drawn=index)
    context = context_for(n, batch_size, embed=embed, **({"validation": validation} | others))
    return context, says | {"looked": looked}


METHODS = [
    KCenter(features=None),
    Herding(features=None),
    Craig(),
    GradMatch(gradients="row", regularization=0.5),
    Glister(step=0.05, greedy="stochastic", rounds=3),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("balanced", [True, False])
def test_a_choice_is_that_of_the_method_among_each_class_or_among_all(
    context_for: Callable[..., Context], method: Any, balanced: bool
) -> None:
    context, says = context_that_sees(context_for, 42, 8)  # classes of 11, 11, 10, 10
    chosen = choose(context, method, 0.3, balanced, "round")
    seen = Seen(says["features"], says["logits"], torch.cat([context.labels, torch.zeros(10, dtype=torch.int64)]))
    held = Seen(says["features"][3:12], says["logits"][3:12], torch.arange(9) % 3)
    random = context_for(42, 8).random.device
    rows = [torch.arange(c, 42, 4) for c in range(4)] if balanced else [torch.arange(42)]
    counts = [3, 3, 3, 3] if balanced else [13]
    start = 0
    for among, count in zip(rows, counts, strict=True):
        index, weights = method(seen[among], held, count, random)
        mine = slice(start, start + count)
        assert torch.equal(chosen.index[mine], among[index])
        torch.testing.assert_close(chosen.place[mine], 1 - torch.arange(count) / len(among))
        if weights is None:
            assert chosen.weight is None
        else:
            ratio = chosen.weight[mine] / weights
            torch.testing.assert_close(ratio, ratio[:1].expand(count))
        start += count
    assert len(set(chosen.index.tolist())) == len(chosen.index) == start
    if chosen.weight is not None:
        assert float(chosen.weight.mean()) == pytest.approx(1)
    looked = torch.cat(says["looked"])
    needs = isinstance(method, Glister)
    assert sorted(looked.tolist()) == sorted([*range(42), *(range(3, 12) if needs else [])])  # each once, and no other


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ("round", 0.5, [2, 2, 1]),
        ("ceil", 0.5, [3, 2, 1]),
        ("equal", 0.5, [2, 2, 2]),
        ("ceil", 0.07, [1, 1, 1]),
        ("equal", 0.9, [3, 3, 2]),
    ],
)
def test_how_many_of_each_class_are_chosen(
    context_for: Callable[..., Context], counts: str, fraction: float, expected: list[int]
) -> None:
    """Of classes of 5, 3 and 2: half of all are 5, of which a class's share is 2.5, 1.5 and 1, and a third 1.7."""
    context = context_for(10, 5)
    context = dataclasses.replace(context, labels=torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]), classes=3)
    assert [count for _, count in groups(context, fraction, True, counts)] == expected
    ((rows, count),) = groups(context, fraction, False, counts)
    assert (len(rows), count) == (10, round(10 * fraction))


def core_set(
    method: Any = None, fraction: float = 0.25, every: int | None = None, warmup: int = 0, normalize: str = "set"
) -> CoreSet:
    return CoreSet(method or Craig(), fraction, every, warmup, balanced=True, counts="round", normalize=normalize)


def test_the_sampler_warms_up_on_everything_and_then_goes_through_the_core_set(
    context_for: Callable[..., Context],
) -> None:
    context, says = context_that_sees(context_for, 32, 8)
    sampler = core_set(warmup=2)
    sampler.start(context)
    for _ in range(2):
        batches = [sampler.draw() for _ in range(4)]
        assert sorted(torch.cat([b.drawn for b in batches]).tolist()) == list(range(32))
        assert all(b.weight is None for b in batches)
        assert not says["looked"]
    expected = choose(copy.copy(context), Craig(), 0.25, True, "round")
    weight = dict(zip(expected.index.tolist(), expected.weight.tolist(), strict=True))
    says["looked"].clear()
    for _ in range(5):
        batch = sampler.draw()  # one pass: 2 of each class
        assert sorted(batch.drawn.tolist()) == sorted(weight)
        assert {i: pytest.approx(w) for i, w in zip(batch.drawn.tolist(), batch.weight.tolist(), strict=True)} == weight
    assert len(torch.cat(says["looked"])) == 32  # once


def test_the_core_set_is_chosen_anew_after_so_many_passes(context_for: Callable[..., Context]) -> None:
    context, says = context_that_sees(context_for, 32, 8)
    sampler = core_set(every=3, warmup=1)
    sampler.start(context)
    [sampler.draw() for _ in range(4)]
    looks = []
    for _ in range(8):
        sampler.draw()
        looks.append(len(says["looked"]) // 4)  # of 32 images in batches of 8
        says["logits"].add_(torch.randn(42, 4, generator=torch.Generator().manual_seed(len(looks))))
    assert looks == [1, 1, 1, 2, 2, 2, 3, 3]


def test_the_end_of_a_pass_keeps_the_weights_that_it_was_chosen_with(context_for: Callable[..., Context]) -> None:
    context, says = context_that_sees(context_for, 32, 6)  # 16 are kept: batches of 6, 6, and 4 with 2 of the next pass
    sampler = core_set(fraction=0.5, every=1)
    sampler.start(context)
    first = [sampler.draw(), sampler.draw()]
    old = dict(zip(sampler.kept.tolist(), sampler.weight.tolist(), strict=True))
    says["logits"].mul_(-1)
    third = sampler.draw()
    new = dict(zip(sampler.kept.tolist(), sampler.weight.tolist(), strict=True))
    assert any(old[i] != new[i] for i in old.keys() & new.keys() & set(third.drawn[:4].tolist()))
    assert {int(i) for b in first for i in b.drawn} | set(third.drawn[:4].tolist()) == set(old)
    expected = [(old if row < 4 else new)[i] for row, i in enumerate(third.drawn.tolist())]
    assert third.weight.tolist() == expected


def test_a_batch_of_the_end_of_the_warm_up_and_the_first_of_the_core_set_has_weights_of_1_and_those_chosen(
    context_for: Callable[..., Context],
) -> None:
    context, _ = context_that_sees(context_for, 32, 5)  # 6 batches of 5, and 2 with 3 of the core-set
    sampler = core_set(warmup=1)
    sampler.start(context)
    assert all(sampler.draw().weight is None for _ in range(6))
    batch = sampler.draw()
    chosen = dict(zip(sampler.kept.tolist(), sampler.weight.tolist(), strict=True))
    assert batch.weight.tolist() == [1, 1, *(chosen[i] for i in batch.drawn[2:].tolist())]
    assert batch.weight[2:].ne(1).all()


@pytest.mark.parametrize("normalize", ["set", "batch"])
def test_weights_have_the_mean_1_in_the_core_set_or_in_each_batch(
    context_for: Callable[..., Context], normalize: str
) -> None:
    context, _ = context_that_sees(context_for, 32, 4)
    sampler = core_set(GradMatch(gradients="row", regularization=0.5), 0.5, normalize=normalize)
    sampler.start(context)
    batches = [sampler.draw() for _ in range(4)]
    assert sampler.weight.mean() == pytest.approx(1)
    weight = torch.zeros(32).index_put((sampler.kept,), sampler.weight)
    for batch in batches:
        own = weight[batch.drawn]
        assert float(own.mean()) != pytest.approx(1, abs=0.01)
        torch.testing.assert_close(batch.weight, own if normalize == "set" else own / own.mean())
    sampler.weight = torch.zeros_like(sampler.weight)
    sampler.stream = context.stream(sampler.plan)
    assert sampler.draw().weight.tolist() == [0] * 4


def test_a_mixed_image_of_a_core_set_has_the_mean_weight_of_its_sources(context_for: Callable[..., Context]) -> None:
    context, _ = context_that_sees(context_for, 40, 10, aug=(Mixup(alpha=1.0, draw="image"),))
    sampler = core_set()
    sampler.start(context)
    batch = sampler.draw()
    weight = torch.zeros(40).index_put((sampler.kept,), sampler.weight)
    assert set(batch.index.flatten().tolist()) == set(sampler.kept.tolist())
    torch.testing.assert_close(batch.weight, (batch.share * weight[batch.index]).sum(1))
    assert len(set(batch.weight.tolist())) > 1


def test_a_sampler_goes_on_choosing_as_if_it_had_not_stopped(context_for: Callable[..., Context]) -> None:
    for method in METHODS:
        context, _ = context_that_sees(context_for, 40, 4)
        sampler = core_set(method, every=2, warmup=1)
        sampler.start(context)
        [sampler.draw() for _ in range(13)]
        file = io.BytesIO()
        torch.save({"sampler": sampler.state_dict(), "random": context.random.state_dict()}, file)
        on = [sampler.draw() for _ in range(9)]
        file.seek(0)
        state = torch.load(file, weights_only=True)
        context, _ = context_that_sees(context_for, 40, 4, seed=5)
        again = core_set(method, every=2, warmup=1)
        again.start(context)
        again.load_state_dict(state["sampler"])
        context.random.load_state_dict(state["random"])
        for one in on:
            other = again.draw()
            assert torch.equal(one.drawn, other.drawn)
            assert (one.weight is None and other.weight is None) or torch.equal(one.weight, other.weight)


def test_choosing_none_gives_one_sentence(context_for: Callable[..., Context]) -> None:
    context, _ = context_that_sees(context_for, 40, 4)
    for part in (
        core_set(fraction=0.01),
        CoreSetScores(method=Herding(features=None), keep=0.01, balanced=True, counts="round"),
    ):
        with pytest.raises(UserError, match="not even one"):
            part.start(context)


# ---- on the digits


def test_every_choice_is_charged(tmp_path: Path) -> None:
    done = here("sampler=craig sampler.every=5 budget=0.5 epochs=1 model.width=2", tmp_path)
    assert done.code == 0, done.err
    forward, update = model_flops(CNN(width=2).build(1, 10), torch.Size((1, 8, 8)))
    # 144 of 1,438 are kept: 11 updates of 64 are 4.9 passes, of which only the first begins with a choice
    assert done.result["flops"] == 11 * 64 * update + 1438 * forward
    assert done.result["examples_forward"] == 11 * 64 + 1438


def test_glister_looks_at_the_held_out_examples_too(tmp_path: Path) -> None:
    done = here("sampler=glister validation=0.1 budget=0.5 epochs=1", tmp_path)
    assert done.code == 0, done.err
    assert done.result["examples_forward"] - done.result["examples_backward"] == 1438  # 1,294 and 144


@pytest.mark.parametrize("line", ["sampler=glister", "scores=glister"])
def test_glister_without_held_out_examples_gives_one_sentence(line: str, tmp_path: Path) -> None:
    refused(here(line, tmp_path), line, "set validation=")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scores", ["kcenter", "herding", "craig", "gradmatch", "glister", "graph_cut"])
def test_a_core_set_in_a_file_is_the_one_that_another_run_trains_on(scores: str, tmp_path: Path) -> None:
    first = here(f"scores={scores} scores.keep=0.1 validation=0.02 epochs=1", tmp_path)
    assert first.code == 0, first.err
    path = first.folder / "scores.csv"
    _, header, *rows = path.read_text().splitlines()
    table = dict(zip(header.split(","), np.array([row.split(",") for row in rows], dtype=float).T, strict=True))
    assert ("weight" in table) == (scores in ("craig", "gradmatch"))
    line = f"sampler=subset sampler.file={path} sampler.keep=null"
    second = here(f"{line} validation=0.02 epochs=1 output_dir=o", tmp_path)
    assert second.code == 0, second.err
    (result,) = tmp_path.glob("o/*/result.json")
    visits = torch.load(result.with_name("checkpoint.pt"))["diagnostics"]["visits"]
    visited = set(visits.nonzero()[:, 0].tolist())
    if "weight" not in table:
        assert visited == set(table["index"])
    else:  # an image of weight 0 does not count as a visit
        assert visited == set(table["index"][table["weight"] > 0])
    assert json.loads(result.read_text())["flops_before"] > first.result["flops"]


@pytest.mark.parametrize(
    "line",
    [
        "sampler=craig sampler.fraction=0",
        "sampler=craig sampler.every=0",
        "sampler=craig sampler.warmup=-1",
        "sampler=gradmatch sampler.method.gradients=all",
        "sampler=gradmatch sampler.counts=floor",
        "sampler=gradmatch sampler.normalize=class",
        "scores=herding scores.counts=floor",
        "sampler=glister sampler.method.greedy=naive",
        "sampler=gradmatch sampler.method.regularization=-1",
        "sampler=glister sampler.method.rounds=0",
        "sampler=glister sampler.method.step=-1",
        "scores=herding scores.keep=2",
    ],
)
def test_senseless_core_sets_are_refused(line: str, tmp_path: Path) -> None:
    refused(here(line, tmp_path), line.split()[1])
