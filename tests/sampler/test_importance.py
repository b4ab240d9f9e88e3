"""Importance sampling by the bound (`is`) and by the loss (`vr`), and the flag that opens its gate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from samplers import CPU, PLAUSIBLE, importance, opened, sampler_of
from scipy.stats import chisquare
from torch import Tensor

from budgetrun.aug.ricap import RICAP
from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Context, Random
from budgetrun.loss.cross_entropy import CrossEntropy
from budgetrun.sampler._flag import Flag
from budgetrun.sampler.importance import ImportanceSampling
from budgetrun.train import run


def bound_of(logits: Tensor, batch: Batch) -> Tensor:
    """||softmax - sum_k share_k onehot(label_k)||, [B]."""
    onehot = torch.zeros_like(logits).scatter_add(1, batch.label, batch.share)
    return (logits.softmax(1) - onehot).norm(dim=1)


@pytest.mark.parametrize("loss", ["cross_entropy", "label_smoothing", "focal"])
def test_the_bound_is_that_of_the_loss_that_a_run_trains_with(
    loss: str, experiment_for: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, found = [], []
    really_seen, really_updated = ImportanceSampling.seen, ImportanceSampling.update

    def seen(self: ImportanceSampling, batch: Batch, losses: Tensor, logits: Tensor) -> Tensor:
        passes.append((batch, logits))
        return really_seen(self, batch, losses, logits)

    def update(self: ImportanceSampling, score: Tensor) -> Tensor:
        found.append(really_updated(self, score))
        return found[-1]

    monkeypatch.setattr(ImportanceSampling, "seen", seen)
    monkeypatch.setattr(ImportanceSampling, "update", update)
    experiment = experiment_for(f"loss={loss}", "sampler=is", "sampler.threshold=0", "aug=ricap", "budget=0.01")
    run(experiment)
    assert len(passes) == 9
    for (batch, logits), g in zip(passes, found, strict=True):
        exact = logits.double().requires_grad_()
        (gradient,) = torch.autograd.grad(experiment.loss(exact, batch).sum(), exact)
        norm = gradient.norm(dim=1)
        torch.testing.assert_close(g.double(), norm / norm.sum(), atol=1e-7, rtol=1e-4)


def test_tau_is_the_published_formula(context_for: Callable[..., Context]) -> None:
    sampler = importance(pool=3, threshold=None, momentum=0.0)
    context = context_for(16, 16)
    sampler.start(context)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 3.0, 20.0):
        logits = scale * torch.randn(16, 4, generator=generator)
        batch = context.view(torch.arange(16))
        g = sampler.update(sampler.seen(batch, torch.zeros(16), logits)).double().numpy()
        bound = bound_of(logits, batch).double().numpy()
        np.testing.assert_allclose(g, bound / bound.sum(), rtol=1e-5)
        published = (1 - ((g - 1 / 16) ** 2).sum() / (g**2).sum()) ** -0.5
        assert float(sampler.tau) == pytest.approx(published, rel=1e-4)


@pytest.mark.parametrize(("pool", "threshold"), [(3, 2.0), (5, 8 / 3), (1, 4 / 3)])
def test_the_gate_opens_at_the_published_threshold(
    context_for: Callable[..., Context], pool: int, threshold: float
) -> None:
    sampler = importance(pool=pool, threshold=None, momentum=0.9)
    sampler.start(context_for(640, 128))
    assert sampler.gate == pytest.approx(threshold)  # (B + 3b) / (3b)


def one_hard(batch: Batch, hard: int) -> Tensor:
    """Logits that are certain of every label, but certain of a wrong one for the row `hard`."""
    label = batch.label[:, 0].clone()
    if hard >= 0:
        label[hard] = (label[hard] + 1) % 4
    return 100.0 * F.one_hot(label, 4)


def test_the_gate_opens_and_closes_at_the_updates_worked_out_by_hand(context_for: Callable[..., Context]) -> None:
    """b = 16 and one hard image: g is 1 for it and tau = sqrt(16) = 4, so the average is 4 (1 - 0.9^t).

    It passes 2, the threshold of a pool of 3 b, at t = 7. Then a pool of 48 in which nothing is left to learn has
    tau = 1: 1 + (2.0868 - 1) 0.9^t stays above 2 for t = 0 and is below it at t = 1.
    """
    looked = []

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        looked.append(len(batch))
        return torch.zeros(len(batch)), one_hard(batch, -1)

    sampler = importance(pool=3, threshold=None, momentum=0.9)
    sampler.start(context_for(100, 16, look=look))
    for t in range(1, 8):
        batch = sampler.draw()
        assert batch.weight is None
        assert not looked
        sampler.observe(batch, torch.zeros(16), one_hard(batch, hard=5))
        assert float(sampler.tau) == pytest.approx(4 * (1 - 0.9**t), rel=1e-5)
    batch = sampler.draw()
    assert looked == [48]
    torch.testing.assert_close(batch.weight, torch.ones(16))  # all solved: drawn uniformly
    before = float(sampler.tau)
    assert before == pytest.approx(0.9 * 4 * (1 - 0.9**7) + 0.1, rel=1e-5)
    sampler.observe(batch, torch.zeros(16), one_hard(batch, hard=5))
    assert float(sampler.tau) == before  # the pool has already moved the average
    assert sampler.draw().weight is None
    assert looked == [48]


def test_an_open_gate_looks_at_the_pool_and_trains_on_images_it_has_seen(context_for: Callable[..., Context]) -> None:
    """Every open draw looks at pool x b images once, and trains on b of them in the views that were looked at."""
    pools = []
    logits = torch.randn(60, 4, generator=torch.Generator().manual_seed(2))

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        pools.append(batch)
        return torch.zeros(len(batch)), logits[batch.drawn]

    sampler = importance(pool=2.5, threshold=0.0, momentum=0.9)
    sampler.start(context_for(60, 8, look=look, aug=(RICAP(beta=0.3, draw="image"),)))
    sampler.observe(first := sampler.draw(), torch.zeros(8), logits[first.drawn])
    for update in range(1, 6):
        batch = sampler.draw()
        assert len(batch) == 8
        assert len(pools) == update
        pool = pools[-1]
        assert len(pool) == 20
        bound = bound_of(logits[pool.drawn], pool)
        for row in range(8):
            (place,) = (pool.drawn == batch.drawn[row]).nonzero()[0]
            assert torch.equal(batch.images[row], pool.images[place])
            assert torch.equal(batch.index[row], pool.index[place])
            assert torch.equal(batch.share[row], pool.share[place])
            assert float(batch.weight[row]) == pytest.approx(float(bound.sum() / (20 * bound[place])), rel=1e-4)
    seen = torch.cat([first.drawn, *(pool.drawn for pool in pools)])
    assert len(set(seen[:60].tolist())) == 60  # the pools are the uniform stream: nothing twice before everything once


@pytest.mark.parametrize("mixing", [(), (RICAP(beta=0.3, draw="image"),)], ids=["plain", "ricap"])
def test_images_are_drawn_in_proportion_to_their_bound(context_for: Callable[..., Context], mixing: Any) -> None:
    fixed = Random.seeded(0, "aug", CPU).state_dict()
    aug_random = Random.seeded(0, "aug", CPU)
    logits = 2 * torch.randn(12, 4, generator=torch.Generator().manual_seed(5))
    seen = []

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        seen.append(bound_of(logits[batch.drawn], batch))
        return torch.zeros(len(batch)), logits[batch.drawn]

    sampler = importance(pool=3, threshold=0.0, momentum=0.9)
    context = context_for(12, 4, look=look, aug=mixing, aug_random=aug_random)
    context.permutation = lambda: torch.arange(12)  # one and the same pool in every draw
    sampler.start(context)
    opened(sampler)
    times = torch.zeros(12)
    for _ in range(1500):
        aug_random.load_state_dict(fixed)
        times += torch.bincount(sampler.draw().drawn, minlength=12)
    assert all(torch.equal(g, seen[0]) for g in seen)
    g = (seen[0] / seen[0].sum()).double().numpy()
    assert chisquare(times.numpy(), g / g.sum() * 6000).pvalue > PLAUSIBLE


def test_the_weighted_gradient_is_the_pool_s_mean_gradient_on_average_with_less_variance_than_uniform(
    context_for: Callable[..., Context],
) -> None:
    """A linear model on 48 images, 2500 updates of 8: every entry of the mean within 4.5 standard errors."""
    generator = torch.Generator().manual_seed(11)
    weights = (0.02 * torch.randn(4, 192, generator=generator)).requires_grad_()

    def gradient(batch: Batch) -> Tensor:
        losses = CrossEntropy(0.0)(batch.images.float().flatten(1) / 255 @ weights.T * 20, batch)
        loss = losses.mean() if batch.weight is None else (losses * batch.weight).mean()
        return torch.autograd.grad(loss, weights)[0]

    @torch.no_grad()
    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        logits = batch.images.float().flatten(1) / 255 @ weights.T * 20
        return CrossEntropy(0.0)(logits, batch), logits

    context = context_for(48, 8, look=look)
    sampler = importance(pool=6, threshold=0.0, momentum=0.9)
    sampler.start(context)
    opened(sampler)
    drawn = torch.stack([gradient(sampler.draw()) for _ in range(2500)])
    pool = gradient(context.view(torch.arange(48)))
    error = (drawn.mean(0) - pool) / (drawn.std(0) / 2500**0.5)
    assert error.abs().max() < 4.5
    assert error.square().mean() < 1.5  # and not all of them near that limit
    rows = [torch.randint(48, (8,), generator=generator) for _ in range(1000)]
    uniform = torch.stack([gradient(context.view(index)) for index in rows])
    assert drawn.var(0).sum() < 0.9 * uniform.var(0).sum()


@pytest.mark.parametrize("threshold", [0.0, 99.0], ids=["pools", "uniform batches"])
def test_pools_and_uniform_batches_are_drawn_with_replacement_as_in_the_authors_code(
    context_for: Callable[..., Context], threshold: float
) -> None:
    """A batch of 4 of 8 has four different examples with the chance 8 x 7 x 6 x 5 / 8^4 = 0.41; of a pass, always."""
    seen: list[Tensor] = []

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        seen.append(batch.drawn)
        return torch.ones(len(batch)), torch.zeros(len(batch), 8)

    for replacement, different in [(True, 8 * 7 * 6 * 5 / 8**4), (False, 1.0)]:
        sampler = importance(pool=1, threshold=threshold, replacement=replacement)
        sampler.start(context_for(8, 4, look=look))
        if threshold == 0:
            opened(sampler)
        seen.clear()
        batches = [sampler.draw().drawn for _ in range(2000)]
        drawn = torch.stack(seen if threshold == 0 else batches)
        assert len(drawn) == 2000
        share = sum(len(set(row)) == 4 for row in drawn.tolist()) / 2000
        assert share == pytest.approx(different, abs=0.04)
        assert chisquare(drawn.flatten().bincount(minlength=8)).pvalue > PLAUSIBLE


def test_a_flag_says_what_it_was_last_set_to_and_no_before() -> None:
    flag = Flag(CPU)
    assert not flag
    for value in (True, True, False, True):
        flag.set(torch.tensor(2.0) > (1.0 if value else 3.0))
        assert bool(flag) is value


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_flag_on_a_gpu_does_not_wait_for_work_that_was_asked_for_after_it() -> None:
    device = torch.device("cuda", 0)
    flag, end, matrix = Flag(device), torch.cuda.Event(), torch.randn(4096, 4096, device=device)
    tau = torch.full((), 2.0, device=device)
    for threshold, value in ((1.0, True), (3.0, False)):
        matrix = F.normalize(matrix @ matrix)  # a library is loaded at the first one
        torch.cuda.synchronize(device)
        flag.set(tau > threshold)
        for _ in range(200):  # a tenth of a second at least
            matrix = F.normalize(matrix @ matrix)
        end.record(torch.cuda.current_stream(device))
        assert bool(flag) is value
        assert not end.query()


@pytest.mark.parametrize(("pool", "threshold"), [(2, 5 / 3), (3, 2.0)])
def test_the_gate_of_vr_has_the_published_threshold(
    context_for: Callable[..., Context], pool: int, threshold: float
) -> None:
    sampler = sampler_of("vr", pool=pool)
    sampler.start(context_for(640, 128))
    assert sampler.gate == pytest.approx(threshold)
    assert sampler.size == pool * 128


class PublishedCondition:
    """The gate as it is published, in float64 and from every score's distance to the uniform probability."""

    def __init__(self, threshold: float) -> None:
        self.average, self.threshold = 0.0, threshold

    def update(self, scores: np.ndarray) -> None:
        g, u = scores / scores.sum(), 1 / len(scores)
        reduction = 1 / np.sqrt(1 - ((g - u) ** 2).sum() / (g**2).sum())
        self.average = 0.9 * self.average + 0.1 * reduction

    def satisfied(self) -> bool:
        return self.average > self.threshold


def test_the_gate_of_vr_opens_and_closes_when_the_published_one_does(context_for: Callable[..., Context]) -> None:
    """Losses are spread for 60 updates, alike for 40, spread again for 60; the pool or the batch moves the gate."""
    generator = torch.Generator().manual_seed(0)
    spread = 1.0
    looked: list[np.ndarray] = []

    def losses_of(batch: Batch) -> Tensor:
        return (spread * torch.randn(len(batch), generator=generator)).exp()

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        losses = losses_of(batch)
        looked.append(losses.double().numpy())
        return losses, torch.full((len(batch), 4), torch.nan)  # the logits are not asked for

    sampler = sampler_of("vr")
    sampler.start(context_for(100, 16, look=look))
    published = PublishedCondition(5 / 3)
    opened = []
    for update in range(160):
        spread = 0.1 if 60 <= update < 100 else 1.5
        opened.append(published.satisfied())
        batch = sampler.draw()
        losses = losses_of(batch)
        sampler.observe(batch, losses, torch.full((16, 4), torch.nan))
        assert len(looked) == sum(opened), update
        published.update(looked[-1] if opened[-1] else losses.double().numpy())
        assert float(sampler.tau) == pytest.approx(published.average, rel=1e-5)
        assert batch.weight is None
    assert sum(a != b for a, b in itertools.pairwise(opened)) >= 3
    assert 20 < sum(opened) < 140
    assert {len(losses) for losses in looked} == {32}


@pytest.mark.parametrize("weights", [False, True])
def test_an_open_vr_draws_in_proportion_to_the_loss_and_weighs_only_if_asked_to(
    context_for: Callable[..., Context], weights: bool
) -> None:
    losses = torch.tensor([0.1, 0.4, 0.0, 1.0, 0.2, 2.0, 0.8, 0.5])
    sampler = sampler_of("vr", threshold=0.0, weights=weights)
    context = context_for(8, 4, look=lambda batch, training, scale: (losses[batch.drawn], torch.zeros(8, 4)))
    sampler.start(context)
    opened(sampler)
    times = torch.zeros(8)
    for _ in range(2000):  # every pool of 2 x 4 is all of the 8 examples
        batch = sampler.draw()
        times += torch.bincount(batch.drawn, minlength=8)
        if weights:
            torch.testing.assert_close(batch.weight, losses.sum() / (8 * losses[batch.drawn]))
        else:
            assert batch.weight is None
    assert times[2] == 0
    likely = losses > 0
    assert chisquare(times[likely], losses[likely] / losses.sum() * 8000).pvalue > PLAUSIBLE


@pytest.mark.parametrize(("name", "training"), [("vr", True), ("is", False)])
def test_vr_looks_in_training_mode_and_is_in_evaluation_mode(
    context_for: Callable[..., Context], name: str, training: bool
) -> None:
    modes = []

    def look(batch: Batch, training: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        modes.append(training)
        return torch.ones(len(batch)), torch.zeros(len(batch), 4)

    sampler = sampler_of(name)
    sampler.start(context_for(60, 4, look=look))
    opened(sampler)
    sampler.draw()
    assert modes == [training]


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 3e38])
def test_losses_that_tell_nothing_apart_are_drawn_from_uniformly(
    context_for: Callable[..., Context], value: float
) -> None:
    sampler = sampler_of("vr", threshold=0.0)
    sampler.start(context_for(8, 4, look=lambda batch, training, scale: (torch.full((8,), value), torch.zeros(8, 4))))
    opened(sampler)
    times = torch.zeros(8)
    for _ in range(1000):
        times += torch.bincount(sampler.draw().drawn, minlength=8)
    assert chisquare(times).pvalue > PLAUSIBLE


def test_by_the_gradient_norm_an_open_gate_draws_in_proportion_to_it_without_a_look(
    context_for: Callable[..., Context],
) -> None:
    """Norms of 1, 2, 2, 3: g is an eighth of each, weights 1 / (4 g) are 2, 1, 1, 2/3, tau is sqrt(4 x 18) / 8."""
    norms = torch.tensor([1.0, 2, 2, 3])
    sampler = importance(score="gradient_norm", pool=2, threshold=0.0)
    sampler.start(context_for(4, 2, gradient_norms=lambda pool: norms[pool.drawn]))
    opened(sampler)
    times = torch.zeros(4)
    for _ in range(2000):
        sampler.tau.fill_(9.0)
        batch = sampler.draw()
        torch.testing.assert_close(batch.weight, torch.tensor([2, 1, 1, 2 / 3])[batch.drawn])
        times += torch.bincount(batch.drawn, minlength=4)
    assert float(sampler.tau) == pytest.approx(0.9 * 9 + 0.1 * 72**0.5 / 8)
    assert chisquare(times, norms / 8 * 4000).pvalue > PLAUSIBLE


def test_by_the_gradient_norm_a_closed_gate_follows_the_bound_which_is_free(
    context_for: Callable[..., Context],
) -> None:
    sampler = {score: importance(score=score) for score in ("gradient_norm", "bound")}
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    for one in sampler.values():
        one.start(context_for(40, 4))
        batch = one.draw()
        one.observe(batch, torch.ones(4), logits)
    assert 0 < float(sampler["gradient_norm"].tau) == float(sampler["bound"].tau)


@pytest.mark.parametrize("wrong", [{"score": "norm"}, {"looks": "both"}, {"score": "gradient_norm", "looks": "train"}])
def test_a_score_or_a_mode_that_there_is_not_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"is not one of|leave out looks=train and looks_scale"):
        importance(**wrong)
