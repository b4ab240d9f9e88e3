"""What each sampler draws, against numbers worked out by hand and slow implementations of the definitions."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections import Counter, deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli import FROM_FILES, values_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from budgetrun.__main__ import CONF
from budgetrun.aug.mixup import Mixup
from budgetrun.aug.ricap import RICAP
from budgetrun.config import build
from budgetrun.contracts import Batch, Random, Sampler, UserError
from budgetrun.loss.cross_entropy import CrossEntropy
from budgetrun.sampler.importance import ImportanceSampling
from budgetrun.sampler.running_probability import RunningProbability
from budgetrun.sampler.scan import Scan
from budgetrun.sampler.selective_backprop import SelectiveBackprop
from budgetrun.sampler.uniform import Uniform
from budgetrun.train import run

CPU = torch.device("cpu")
SAMPLERS = sorted(file.stem for file in (CONF / "sampler").glob("*.yaml"))
PLAUSIBLE = 1e-3  # a fixed seed either passes always or never; a wrong distribution is far below


def sampler_of(name: str):
    given = {"file": "given by the context"} if name in FROM_FILES else {}
    return build(values_of("sampler", name) | given, "sampler.", Sampler)


def importance(**changes) -> ImportanceSampling:
    """`is` as published, with these fields changed."""
    published = {"pool": 3, "threshold": None, "momentum": 0.9, "score": "bound", "weights": True, "looks": "eval"}
    return ImportanceSampling(**(published | changes))


def opened(sampler: ImportanceSampling) -> None:
    """Put the gate's average far above any threshold."""
    sampler.load_state_dict({**sampler.state_dict(), "tau": torch.tensor(9.0)})


def batch_of(index: list[int], label: list[int]) -> Batch:
    rows = torch.tensor(index)
    return Batch(
        torch.zeros(len(rows), 1, 1, 1),
        rows[:, None],
        torch.tensor(label)[:, None],
        torch.ones(len(rows), 1),
        drawn=rows,
    )


def mixed_batch(index: list[list[int]], classes: int, share: list[list[float]], drawn: list[int]) -> Batch:
    """Rows of K sources, where the label of an example is its number modulo the classes."""
    sources = torch.tensor(index)
    return Batch(
        torch.zeros(len(index), 1, 1, 1), sources, sources % classes, torch.tensor(share), drawn=torch.tensor(drawn)
    )


def logits_with(probability: list[float], label: list[int], classes: int) -> Tensor:
    """Logits [B, classes] whose softmax gives each label its probability, the others sharing the rest evenly."""
    p = torch.tensor(probability, dtype=torch.float64)
    rest = ((1 - p) / (classes - 1))[:, None].expand(-1, classes)
    return rest.scatter(1, torch.tensor(label)[:, None], p[:, None]).log().float()


# ---- scan


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), draws=st.integers(1, 12))
def test_scan_visits_of_two_examples_never_differ_by_more_than_one(context_for, n, batch_size, draws):
    sampler = Scan()
    sampler.start(context_for(n, batch_size))
    visits = torch.zeros(n, dtype=torch.int64)
    for _ in range(draws):
        drawn = sampler.draw().drawn
        assert len(drawn) == batch_size
        visits += torch.bincount(drawn, minlength=n)
        assert visits.max() - visits.min() <= 1


def test_scan_goes_through_a_new_order_in_every_pass(context_for):
    sampler = Scan()
    sampler.start(context_for(30, 10))
    passes = [tuple(torch.cat([sampler.draw().drawn for _ in range(3)]).tolist()) for _ in range(5)]
    assert all(sorted(order) == list(range(30)) for order in passes)
    assert len({*passes, tuple(range(30))}) == 6


# ---- uniform


def test_uniform_draws_each_epoch_without_replacement_and_drops_none_of_it(context_for):
    sampler = Uniform()
    sampler.start(context_for(100, 8, fraction=0.3))
    drawn = torch.cat([sampler.draw().drawn for _ in range(15)])  # 120 images are 4 epochs of 30
    epochs = drawn.view(4, 30).tolist()
    assert [len(set(epoch)) for epoch in epochs] == [30] * 4
    assert len({frozenset(epoch) for epoch in epochs}) == 4


def test_uniform_draws_every_subset_equally_often_and_independently_of_the_last_one(context_for):
    sampler = Uniform()
    sampler.start(context_for(5, 2, fraction=0.4))
    epochs = [frozenset(sampler.draw().drawn.tolist()) for _ in range(4000)]
    counts = Counter(epochs)
    assert chisquare([counts[frozenset(pair)] for pair in itertools.combinations(range(5), 2)]).pvalue > PLAUSIBLE
    # two random pairs of five examples share 0, 1 or 2 of them with probabilities 3/10, 6/10, 1/10
    shared = Counter(len(a & b) for a, b in zip(epochs[::2], epochs[1::2], strict=True))
    assert chisquare([shared[k] for k in range(3)], [600, 1200, 200]).pvalue > PLAUSIBLE


def test_uniform_at_the_whole_budget_is_scan(context_for):
    uniform, scan = Uniform(), Scan()
    uniform.start(context_for(50, 8))
    scan.start(context_for(50, 8))
    for _ in range(20):
        assert torch.equal(uniform.draw().drawn, scan.draw().drawn)


# ---- p-SGD and c-SGD


def test_p_sgd_probabilities_are_those_worked_out_by_hand(context_for):
    sampler = RunningProbability(score="probability", credit="sources")
    sampler.start(context_for(4, 2))
    sampler.observe(batch_of([0, 1], [0, 1]), torch.zeros(2), logits_with([0.9, 0.2], [0, 1], 4))
    sampler.observe(batch_of([0], [0]), torch.zeros(1), logits_with([0.5], [0], 4))
    # a = (0.1 + 0.5) / 2 and 0.8; the unseen get the largest; the mean 0.675 is added; the sum is 2.7 + 4 x 0.675
    torch.testing.assert_close(sampler.scores(), torch.tensor([0.3, 0.8, 0.8, 0.8]))
    expected = torch.tensor([0.975, 1.475, 1.475, 1.475]) / 5.4
    torch.testing.assert_close(sampler.probabilities(), expected)


def test_c_sgd_takes_the_mean_first_and_then_the_product(context_for):
    sampler = RunningProbability(score="confusion", credit="sources")
    sampler.start(context_for(4, 2))
    sampler.observe(batch_of([0, 1], [0, 1]), torch.zeros(2), logits_with([0.9, 0.2], [0, 1], 4))
    sampler.observe(batch_of([0], [0]), torch.zeros(1), logits_with([0.5], [0], 4))
    # 0.3 x 0.7 for the one seen twice (the mean of 0.1 x 0.9 and 0.5 x 0.5 would be 0.17); the unseen get 0.8 x 0.2
    torch.testing.assert_close(sampler.scores(), torch.tensor([0.21, 0.16, 0.16, 0.16]))
    expected = (torch.tensor([0.21, 0.16, 0.16, 0.16]) + 0.1725) / (0.69 + 4 * 0.1725)
    torch.testing.assert_close(sampler.probabilities(), expected)


@settings(deadline=None, max_examples=60)
@given(
    visits=st.lists(
        st.lists(st.tuples(st.integers(0, 7), st.floats(0.01, 0.99)), min_size=1, max_size=6), min_size=1, max_size=8
    ),
    score=st.sampled_from(["probability", "confusion"]),
    credit=st.sampled_from(["sources", "as_published"]),
)
def test_scores_are_the_running_means_of_all_visits_for_any_sequence_of_visits(context_for, visits, score, credit):
    sampler = RunningProbability(score=score, credit=credit)
    sampler.start(context_for(8, 4))
    mean, times = [-1.0] * 8, [0] * 8
    for batch in visits:
        examples = [i for i, _ in batch]
        labels = [i % 4 for i in examples]
        sampler.observe(
            batch_of(examples, labels), torch.zeros(len(batch)), logits_with([p for _, p in batch], labels, 4)
        )
        for i, p in batch:  # the update of the released code, one visit after the other
            mean[i] = (times[i] * mean[i] + (1 - p)) / (times[i] + 1)
            times[i] += 1
    a = np.array([m if t else max(mean) for m, t in zip(mean, times, strict=True)])
    s = a if score == "probability" else a * (1 - a)
    np.testing.assert_allclose(sampler.scores(), s, atol=1e-5)
    smoothed = s + s.mean()
    np.testing.assert_allclose(sampler.probabilities(), smoothed / smoothed.sum(), atol=1e-5)
    assert sampler.probabilities().min() > 1 / (2 * 8) - 1e-6


@pytest.mark.parametrize("score", ["probability", "confusion"])
def test_the_first_epoch_is_uniform(context_for, score):
    pairs: Counter[tuple[int, ...]] = Counter()
    for seed in range(1200):
        sampler = RunningProbability(score=score, credit="sources")
        sampler.start(context_for(4, 2, fraction=0.5, seed=seed))
        pairs[tuple(sampler.draw().drawn.tolist())] += 1
    assert chisquare([pairs[pair] for pair in itertools.permutations(range(4), 2)]).pvalue > PLAUSIBLE


@pytest.mark.parametrize("score", ["probability", "confusion"])
@pytest.mark.parametrize("probability", [1.0, 0.0])
def test_when_all_have_the_same_extreme_score_every_example_is_as_likely(context_for, score, probability):
    sampler = RunningProbability(score=score, credit="sources")
    sampler.start(context_for(6, 6))
    labels = [i % 4 for i in range(6)]
    certain = F.one_hot(torch.tensor(labels), 4) * (200.0 if probability else -200.0)
    sampler.observe(batch_of(list(range(6)), labels), torch.zeros(6), certain)
    torch.testing.assert_close(sampler.probabilities(), torch.full((6,), 1 / 6))


@pytest.mark.parametrize("score", ["probability", "confusion"])
def test_an_epoch_holds_int_n_times_budget_examples_and_none_twice(context_for, score):
    sampler = RunningProbability(score=score, credit="sources")
    sampler.start(context_for(50, 4, fraction=0.33))  # 16 per epoch
    for _ in range(6):
        epoch = [sampler.draw() for _ in range(4)]
        drawn = torch.cat([batch.drawn for batch in epoch])
        assert len(set(drawn.tolist())) == 16
        labels = (drawn % 4).tolist()
        # easy below 25, hard above
        p = torch.where(drawn < 25, 0.99, 0.01).tolist()
        sampler.observe(batch_of(drawn.tolist(), labels), torch.zeros(16), logits_with(p, labels, 4))


@pytest.mark.parametrize("score", ["probability", "confusion"])
def test_examples_are_drawn_as_often_as_the_definition_says_and_in_random_order(context_for, score):
    """Of 4 examples 2 are drawn: {i, j} has probability p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j), in either order."""
    sampler = RunningProbability(score=score, credit="sources")
    sampler.start(context_for(4, 2, fraction=0.5))
    labels = [0, 1, 2, 3]
    sampler.observe(batch_of([0, 1, 2, 3], labels), torch.zeros(4), logits_with([0.99, 0.9, 0.5, 0.1], labels, 4))
    p = sampler.probabilities().double().numpy()
    assert p.max() / p.min() > 2
    pairs = list(itertools.permutations(range(4), 2))
    probability = [(p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])) / 2 for i, j in pairs]
    draws = Counter(tuple(sampler.draw().drawn.tolist()) for _ in range(6000))
    expected = 6000 * np.array(probability) / sum(probability)
    assert chisquare([draws[pair] for pair in pairs], expected).pvalue > PLAUSIBLE


def test_hard_examples_are_drawn_more_by_p_sgd_and_undecided_ones_by_c_sgd(context_for):
    times = {}
    for score in ("probability", "confusion"):
        sampler = RunningProbability(score=score, credit="sources")
        sampler.start(context_for(30, 3, fraction=0.1))
        examples, labels = list(range(30)), [i % 4 for i in range(30)]
        p = [0.999] * 10 + [0.5] * 10 + [0.001] * 10
        sampler.observe(batch_of(examples, labels), torch.zeros(30), logits_with(p, labels, 4))
        sampler.draw()  # the epoch planned before is over
        drawn = torch.cat([sampler.draw().drawn for _ in range(1000)])
        times[score] = torch.bincount(drawn // 10, minlength=3).tolist()
    easy, undecided, hard = times["probability"]
    assert easy < 0.6 * undecided < 0.6 * hard
    easy, undecided, hard = times["confusion"]
    assert max(easy, hard) < 0.4 * undecided


def test_at_the_whole_budget_p_sgd_draws_everything_once_an_epoch(context_for):
    sampler = RunningProbability(score="probability", credit="sources")
    sampler.start(context_for(24, 6))
    for _ in range(4):
        batches = [sampler.draw() for _ in range(4)]
        assert sorted(torch.cat([b.drawn for b in batches]).tolist()) == list(range(24))
        for b in batches:
            sampler.observe(b, torch.zeros(6), torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))


def test_credit_to_sources_is_a_mean_weighted_by_share_of_each_source_s_own_label(context_for):
    """Two rows worked out by hand: example 1 is a quarter of row 0 and half of row 1."""
    sampler = RunningProbability(score="probability", credit="sources")
    sampler.start(context_for(4, 2))
    batch = mixed_batch([[0, 1], [1, 3]], 4, [[0.75, 0.25], [0.5, 0.5]], drawn=[0, 1])
    probabilities = torch.tensor([[0.6, 0.2, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    sampler.observe(batch, torch.zeros(2), probabilities.log())
    a_1 = (0.25 * (1 - 0.2) + 0.5 * (1 - 0.7)) / 0.75
    torch.testing.assert_close(sampler.scores(), torch.tensor([0.4, a_1, 0.9, 0.9]))  # example 2 is unseen


def test_credit_as_published_goes_to_the_drawn_example_in_full(context_for):
    """Row 0 was drawn for example 2, of which it shows nothing: its score is updated all the same."""
    sampler = RunningProbability(score="probability", credit="as_published")
    sampler.start(context_for(4, 2))
    batch = mixed_batch([[0, 1], [1, 3]], 4, [[0.75, 0.25], [0.5, 0.5]], drawn=[2, 1])
    probabilities = torch.tensor([[0.6, 0.2, 0.15, 0.05], [0.1, 0.7, 0.1, 0.1]])
    sampler.observe(batch, torch.zeros(2), probabilities.log())
    torch.testing.assert_close(sampler.scores(), torch.tensor([0.85, 0.3, 0.85, 0.85]))


@pytest.mark.parametrize("mixing", [RICAP(beta=0.3, draw="image"), Mixup(alpha=0.3, draw="image")])
@pytest.mark.parametrize("credit", ["sources", "as_published"])
def test_credit_under_mixing_equals_a_slow_reference_over_several_epochs(context_for, mixing, credit):
    sampler = RunningProbability(score="probability", credit=credit)
    context = context_for(40, 8, fraction=0.5, aug=(mixing,))
    sampler.start(context)
    generator = torch.Generator().manual_seed(3)
    total, visits = np.zeros(40), np.zeros(40)
    for _ in range(12):
        batch = sampler.draw()
        logits = torch.randn(8, 4, generator=generator)
        sampler.observe(batch, torch.zeros(8), logits)
        p = logits.double().softmax(1).numpy()
        for row in range(8):
            if credit == "as_published":
                i = int(batch.drawn[row])
                sources = [(i, i % 4, 1.0)]
            else:
                sources = [
                    (int(i), int(i) % 4, float(s)) for i, s in zip(batch.index[row], batch.share[row], strict=True)
                ]
            for i, label, share in sources:
                total[i] += share * (1 - p[row, label])
                visits[i] += share
    seen = visits > 0
    assert 5 < seen.sum() < 40
    a = np.where(seen, total / np.maximum(visits, 1e-30), 0)
    np.testing.assert_allclose(sampler.scores(), np.where(seen, a, a.max()), atol=1e-5)


# ---- importance sampling


def bound_of(logits: Tensor, batch: Batch) -> Tensor:
    """||softmax - sum_k share_k onehot(label_k)||, [B]."""
    onehot = torch.zeros_like(logits).scatter_add(1, batch.label, batch.share)
    return (logits.softmax(1) - onehot).norm(dim=1)


@pytest.mark.parametrize("loss", ["cross_entropy", "label_smoothing", "focal"])
def test_the_bound_is_that_of_the_loss_that_a_run_trains_with(loss, experiment_for, monkeypatch):
    seen = []
    really = ImportanceSampling.update

    def update(self: ImportanceSampling, batch: Batch, losses: Tensor, logits: Tensor) -> Tensor:
        seen.append((batch, logits, really(self, batch, losses, logits)))
        return seen[-1][2]

    monkeypatch.setattr(ImportanceSampling, "update", update)
    experiment = experiment_for(f"loss={loss}", "sampler=is", "sampler.threshold=0", "aug=ricap", "budget=0.01")
    run(experiment)
    assert len(seen) == 9
    for batch, logits, g in seen:
        exact = logits.double().requires_grad_()
        (gradient,) = torch.autograd.grad(experiment.loss(exact, batch).sum(), exact)
        norm = gradient.norm(dim=1)
        torch.testing.assert_close(g.double(), norm / norm.sum(), atol=1e-7, rtol=1e-4)


def test_tau_is_the_published_formula(context_for):
    sampler = importance(pool=3, threshold=None, momentum=0.0)
    context = context_for(16, 16)
    sampler.start(context)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 3.0, 20.0):
        logits = scale * torch.randn(16, 4, generator=generator)
        batch = context.view(torch.arange(16))
        g = sampler.update(batch, torch.zeros(16), logits).double().numpy()
        bound = bound_of(logits, batch).double().numpy()
        np.testing.assert_allclose(g, bound / bound.sum(), rtol=1e-5)
        published = (1 - ((g - 1 / 16) ** 2).sum() / (g**2).sum()) ** -0.5
        assert float(sampler.tau) == pytest.approx(published, rel=1e-4)


@pytest.mark.parametrize(("pool", "threshold"), [(3, 2.0), (5, 8 / 3), (1, 4 / 3)])
def test_the_gate_opens_at_the_published_threshold(context_for, pool, threshold):
    sampler = importance(pool=pool, threshold=None, momentum=0.9)
    sampler.start(context_for(640, 128))
    assert sampler.gate == pytest.approx(threshold)  # (B + 3b) / (3b)


def one_hard(batch: Batch, hard: int) -> Tensor:
    """Logits that are certain of every label, but certain of a wrong one for the row `hard`."""
    label = batch.label[:, 0].clone()
    if hard >= 0:
        label[hard] = (label[hard] + 1) % 4
    return 100.0 * F.one_hot(label, 4)


def test_the_gate_opens_and_closes_at_the_updates_worked_out_by_hand(context_for):
    """b = 16 and one hard image: g is 1 for it and tau = sqrt(16) = 4, so the average is 4 (1 - 0.9^t).

    It passes 2, the threshold of a pool of 3 b, at t = 7. Then a pool of 48 in which nothing is left to learn has
    tau = 1: 1 + (2.0868 - 1) 0.9^t stays above 2 for t = 0 and is below it at t = 1.
    """
    looked = []

    def look(batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
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


def test_an_open_gate_looks_at_the_pool_and_trains_on_images_it_has_seen(context_for):
    """Every open draw looks at pool x b images once, and trains on b of them in the views that were looked at."""
    pools = []
    logits = torch.randn(60, 4, generator=torch.Generator().manual_seed(2))

    def look(batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
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
def test_images_are_drawn_in_proportion_to_their_bound(context_for, mixing):
    fixed = Random.seeded(0, "aug", CPU).state_dict()
    aug_random = Random.seeded(0, "aug", CPU)
    logits = 2 * torch.randn(12, 4, generator=torch.Generator().manual_seed(5))
    seen = []

    def look(batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
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


def test_the_weighted_gradient_is_the_pool_s_mean_gradient_on_average_with_less_variance_than_uniform(context_for):
    """A linear model on 48 images, 2500 updates of 8: every entry of the mean within 4.5 standard errors."""
    generator = torch.Generator().manual_seed(11)
    weights = (0.02 * torch.randn(4, 192, generator=generator)).requires_grad_()

    def gradient(batch: Batch) -> Tensor:
        losses = CrossEntropy(0.0)(batch.images.float().flatten(1) / 255 @ weights.T * 20, batch)
        loss = losses.mean() if batch.weight is None else (losses * batch.weight).mean()
        return torch.autograd.grad(loss, weights)[0]

    @torch.no_grad()
    def look(batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
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


# ---- selective backprop


@settings(deadline=None, max_examples=60)
@given(
    batches=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=10),
    history=st.integers(1, 20),
    beta=st.floats(0, 5),
)
def test_the_chance_is_the_strict_percentile_in_a_history_that_holds_the_candidates(
    context_for, batches, history, beta
):
    sampler = SelectiveBackprop(beta=beta, history=history, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(10, 5))
    past: deque[float] = deque(maxlen=history)
    for losses in batches:
        chance = sampler.keep(torch.tensor(losses, dtype=torch.float32))
        past.extend(losses)
        expected = [(sum(h < loss for h in past) / len(past)) ** beta for loss in losses]
        np.testing.assert_allclose(chance, expected, atol=1e-6)


def test_the_history_is_the_last_1024_losses(context_for):
    """Losses 0, 1, 2, ... in batches of 128: a batch's own are the highest 128 of the 1024 remembered."""
    sampler = sampler_of("sb")
    sampler.start(context_for(10, 5))
    for start in range(0, 2048, 128):
        chance = sampler.keep(torch.arange(start, start + 128).float())
    torch.testing.assert_close(chance, (torch.arange(896, 1024) / 1024) ** 2)


class Looking:
    """Per-example losses to look up, and what was looked at, in order."""

    def __init__(self, losses: Tensor) -> None:
        self.losses = losses
        self.candidates: list[Batch] = []
        self.limit = 40_000

    def __call__(self, batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
        self.candidates.append(batch)
        self.limit -= len(batch)
        assert self.limit > 0, "the sampler looks on without end"
        return self.losses[batch.drawn], torch.zeros(len(batch), 4)

    @property
    def drawn(self) -> Tensor:
        return torch.cat([batch.drawn for batch in self.candidates])


def test_the_priming_epoch_trains_on_everything_without_looking(context_for):
    look = Looking(torch.rand(64, generator=torch.Generator().manual_seed(0)))
    sampler = SelectiveBackprop(beta=3, history=1024, prime=1.0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(64, 16, look=look))
    primed = torch.cat([sampler.draw().drawn for _ in range(4)])
    assert sorted(primed.tolist()) == list(range(64))
    assert not look.candidates
    assert len(sampler.losses) == 0
    sampler.draw()
    assert look.candidates


def test_with_beta_0_every_candidate_is_trained_on_in_the_order_of_the_stream(context_for):
    look = Looking(torch.ones(30))
    sampler = SelectiveBackprop(beta=0, history=1024, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(30, 8, look=look))
    drawn = torch.cat([sampler.draw().drawn for _ in range(9)])
    assert torch.equal(drawn, look.drawn)


def test_kept_candidates_queue_up_in_order_and_none_is_lost(context_for):
    """In one pass every example is a candidate once, so that order and completeness can be read off the numbers."""
    n = 4000
    losses = torch.rand(n, generator=torch.Generator().manual_seed(1))
    look = Looking(losses)
    sampler = SelectiveBackprop(beta=2, history=1024, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(n, 40, look=look, aug=(RICAP(beta=0.3, draw="image"),)))
    batches = [sampler.draw() for _ in range(25)]
    assert all(len(batch) == 40 for batch in batches)
    candidates = look.drawn.tolist()
    assert len(set(candidates)) == len(candidates)
    place = {example: position for position, example in enumerate(candidates)}
    trained = [place[i] for batch in batches for i in batch.drawn.tolist()]
    waiting = [place[i] for batch in sampler.queue for i in batch.drawn.tolist()]
    assert len(waiting) < 40
    assert trained + waiting == sorted(trained + waiting)
    # and in the very views that were looked at
    views = Batch.cat(look.candidates)
    assert torch.equal(Batch.cat(batches).images, views[torch.tensor(trained)].images)
    assert torch.equal(Batch.cat(batches).index, views[torch.tensor(trained)].index)


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_about_one_in_beta_plus_one_is_kept_and_the_hard_win_by_the_power_law(context_for, beta):
    n = 40_000
    losses = torch.rand(n, generator=torch.Generator().manual_seed(4))
    look = Looking(losses)
    sampler = SelectiveBackprop(beta=beta, history=1024, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(n, 64, look=look))
    trained = torch.cat([sampler.draw().drawn for _ in range(120)])
    assert len(trained) / len(look.drawn) == pytest.approx(1 / (beta + 1), rel=0.05)
    # of what is kept, the share below the loss x is x^(beta + 1)
    fifths = torch.bincount((losses[trained] * 5).long(), minlength=5) / len(trained)
    expected = torch.diff((torch.arange(6) / 5) ** (beta + 1))
    torch.testing.assert_close(fifths, expected, atol=0.015, rtol=0)


def test_equal_losses_end_with_a_sentence_and_not_in_an_endless_search(context_for):
    sampler = SelectiveBackprop(beta=2, history=1024, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(50, 10, look=Looking(torch.full((50,), 0.5))))
    with pytest.raises(UserError, match="all equal"):
        sampler.draw()


def test_losses_that_become_equal_end_the_search_also_when_some_images_wait_in_the_queue(context_for):
    look = Looking(torch.rand(50, generator=torch.Generator().manual_seed(0)))
    sampler = SelectiveBackprop(beta=2, history=100, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(50, 10, look=look))
    while not sum(map(len, sampler.queue)):
        sampler.draw()
    look.losses = torch.full((50,), 0.5)
    with pytest.raises(UserError, match="all equal"):  # not at once: the history still holds lower losses
        [sampler.draw() for _ in range(10)]


def test_losses_that_are_not_numbers_do_not_make_an_endless_search(context_for):
    """They may be trained on, where the loop notices them, or end in a sentence."""
    look = Looking(torch.full((50,), float("nan")))
    sampler = SelectiveBackprop(beta=2, history=100, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(50, 10, look=look))
    with contextlib.suppress(UserError):
        assert len(sampler.draw()) == 10


# ---- the state of all of them


def train_on(sampler, look: Looking, logits: Tensor, updates: int) -> list[Batch]:
    batches = []
    for _ in range(updates):
        batch = sampler.draw()
        batches.append(batch)
        sampler.observe(batch, look.losses[batch.drawn], logits[batch.drawn])
    return batches


class Counting:
    """A second network whose losses shift with every update that it makes."""

    def __init__(self, look: Looking) -> None:
        self.inner, self.updates = look, 0

    def look(self, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, logits = self.inner(batch)
        return losses.roll(self.updates), logits

    def learn(self, batch: Batch) -> None:
        self.updates += 1

    def state_dict(self) -> dict[str, int]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.updates = state["updates"]


STATEFUL = [
    *((name, lambda name=name: sampler_of(name)) for name in SAMPLERS),
    ("is_open", lambda: importance(pool=3, threshold=0.0, momentum=0.9)),
]


@pytest.mark.parametrize("updates", [0, 3, 11])
@pytest.mark.parametrize("make", [m for _, m in STATEFUL], ids=[name for name, _ in STATEFUL])
def test_a_sampler_goes_on_from_a_saved_file_as_if_it_had_not_stopped(context_for, make, updates):
    """Through torch.save and torch.load(weights_only=True), in the priming epoch (3 updates) and after it (11)."""
    generator = torch.Generator().manual_seed(8)
    logits = 3 * torch.randn(40, 4, generator=generator)
    look = Looking(F.cross_entropy(logits, torch.arange(40) % 4, reduction="none"))
    held = batch_of(list(range(10)), [i % 4 for i in range(10)])
    mixing = (RICAP(beta=0.3, draw="image"),)

    def started(aug_random: Random):
        sampler = make()
        context = context_for(
            40,
            8,
            fraction=0.45,
            aug=mixing,
            aug_random=aug_random,
            look=lambda batch, training=False: (look(batch)[0], logits[batch.drawn]),
            embed=lambda batch: (logits[batch.drawn, :3], logits[batch.drawn]),
            validation=held,
            second=lambda model: Counting(look),
            read_scores=lambda file: {"index": torch.arange(40), "score": look.losses, "weight": 1 + look.losses},
        )
        sampler.start(context)
        return sampler, context.random

    aug_random = Random.seeded(0, "aug", CPU)
    sampler, random = started(aug_random)
    train_on(sampler, look, logits, updates)
    file = io.BytesIO()
    states = {"sampler": sampler.state_dict(), "random": random.state_dict(), "aug": aug_random.state_dict()}
    torch.save(states, file)
    on = train_on(sampler, look, logits, 14)

    file.seek(0)
    states = torch.load(file, weights_only=True)
    aug_random = Random.seeded(99, "aug", CPU)
    sampler, random = started(aug_random)
    sampler.load_state_dict(states["sampler"])
    random.load_state_dict(states["random"])
    aug_random.load_state_dict(states["aug"])
    again = train_on(sampler, look, logits, 14)
    for before, after in zip(on, again, strict=True):
        for name, value in vars(before).items():
            other = getattr(after, name)
            assert (value is None and other is None) or torch.equal(value, other), name


def test_images_that_wait_in_the_queue_of_sb_are_saved(context_for):
    look = Looking(torch.rand(200, generator=torch.Generator().manual_seed(6)))
    sampler = SelectiveBackprop(beta=1, history=64, prime=0, stale=1, floor=0.0, looks="eval")
    sampler.start(context_for(200, 10, look=look))
    while sum(map(len, sampler.queue)) < 2:
        sampler.draw()
    waiting = Batch.cat(sampler.queue)
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    other = SelectiveBackprop(beta=1, history=64, prime=0, stale=1, floor=0.0, looks="eval")
    other.start(context_for(200, 10, look=look, seed=1))
    other.load_state_dict(torch.load(file, weights_only=True))
    first = other.draw()
    assert torch.equal(first.drawn[: len(waiting)], waiting.drawn)
    assert torch.equal(first.images[: len(waiting)], waiting.images)


def test_the_samplers_of_the_configuration_are_the_six_of_the_papers():
    assert set(SAMPLERS) >= {"scan", "uniform", "p_sgd", "c_sgd", "is", "sb"}
