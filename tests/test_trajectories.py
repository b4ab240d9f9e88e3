"""Scores that are made of an example's own visits, against slow implementations from the definitions."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cli import here, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from budgetrun.contracts import Batch, Context, Scorer, UserError
from budgetrun.scores.aum import AUM
from budgetrun.scores.eva import EVA
from budgetrun.scores.tdds import TDDS
from budgetrun.scores.uncertainty import DynamicUncertainty

N, CLASSES = 4, 3
# batches of examples with their logits, of which one may occur twice in a batch
LOGITS = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 1.0, 3.0]), min_size=CLASSES, max_size=CLASSES)
VISITS = st.lists(st.lists(st.tuples(st.integers(0, N - 1), LOGITS), min_size=1, max_size=4), min_size=1, max_size=12)
Sequence = list[list[tuple[int, list[float]]]]


def observed(scorer: Scorer, context_for: Callable[..., Context], sequence: Sequence) -> dict[str, list[float]]:
    """The columns after these batches; example i has the label i mod 3. Half way, the state goes through a file."""
    done = 0
    context = context_for(N, 4, classes=CLASSES, progress=lambda: done / len(sequence))
    scorer.start(context)
    for done, visits in enumerate(sequence):
        index = torch.tensor([[i] for i, _ in visits])
        batch = Batch.plain(torch.zeros(len(visits), 1, 1, 1), index[:, 0], index[:, 0] % CLASSES)
        scorer.observe(batch, torch.zeros(len(visits)), torch.tensor([row for _, row in visits]))
        if done == len(sequence) // 2:
            state = scorer.state_dict()
            scorer.start(context)
            scorer.load_state_dict(state)
    return {name: column.tolist() for name, column in scorer.scores().items()}


def softmax(row: list[float]) -> list[float]:
    total = sum(map(math.exp, row))
    return [math.exp(value) / total for value in row]


def history(sequence: Sequence, of: Callable[[int, list[float]], Any]) -> list[list[Any]]:
    """What `of` says of each visit of each example; of two in one batch, the mean."""
    found: list[list[Any]] = [[] for _ in range(N)]
    for visits in sequence:
        for i in range(N):
            if values := [torch.tensor(of(i % CLASSES, row), dtype=torch.float64) for j, row in visits if j == i]:
                found[i].append(torch.stack(values).mean(0).tolist())
    return found


def p_label(label: int, row: list[float]) -> float:
    return softmax(row)[label]


def close(found: list[float], expected: list[float]) -> None:
    torch.testing.assert_close(Tensor(found), Tensor(expected), atol=2e-6, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(sequence=VISITS)
def test_aum_is_the_mean_margin_of_the_visits(context_for: Callable[..., Context], sequence: Sequence) -> None:
    for of, scale in (("logits", list), ("probabilities", softmax)):

        def margin(label: int, row: list[float], scale: Any = scale) -> float:
            values: list[float] = scale(row)
            return values[label] - max(value for c, value in enumerate(values) if c != label)

        past = history(sequence, margin)
        means = [-statistics.fmean(one) if one else None for one in past]
        hardest = max(mean for mean in means if mean is not None)
        found = observed(AUM(of=of), context_for, sequence)
        close(found["score"], [hardest if mean is None else mean for mean in means])
        assert found["visits"] == list(map(len, past))


@settings(deadline=None, max_examples=60)
@given(sequence=VISITS, window=st.integers(2, 4), difficulty=st.booleans())
def test_uncertainty_is_the_mean_deviation_of_all_windows_of_visits(
    context_for: Callable[..., Context], sequence: Sequence, window: int, difficulty: bool
) -> None:
    def of_window(values: list[float]) -> float:
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return spread * (1 - statistics.fmean(values)) if difficulty and values else spread

    past = history(sequence, p_label)
    scorer = DynamicUncertainty(difficulty=difficulty, window=window, until=1.0)
    if max(map(len, past)) < 2:
        with pytest.raises(UserError, match="no example was visited twice"):
            observed(scorer, context_for, sequence)
        return
    expected = []
    for p in past:
        windows = [p[k : k + window] for k in range(len(p) - window + 1)] or [p]
        expected.append(statistics.fmean(map(of_window, windows)))
    found = observed(scorer, context_for, sequence)
    close(found["score"], expected)
    close(found["mean_p"], [statistics.fmean(p) if p else 0.0 for p in past])


def test_dual_by_hand_and_what_comes_after_until_does_not_count(context_for: Callable[..., Context]) -> None:
    # example 0, label 0: p = 1/3, then e / (e + 2) = 0.5761, then 1/3
    row = [(0, [0.0, 0, 0])], [(0, [1.0, 0, 0])], [(0, [0.0, 0, 0])], [(0, [9.0, 0, 0])]
    sequence = [*map(list, row)]
    # a window of 2 has the deviation |a - b| / sqrt(2) = 0.1717 and the mean 0.4547; both windows are alike
    scorer = DynamicUncertainty(difficulty=True, window=2, until=0.5)  # of 4 updates, those at 0, 0.25 and 0.5
    found = observed(scorer, context_for, sequence)
    assert found["score"][0] == pytest.approx(0.1717 * (1 - 0.4547), abs=1e-4)
    assert found["mean_p"][0] == pytest.approx((2 / 3 + 0.5761) / 3, abs=1e-4)
    assert found["visits"][0] == 3


@settings(deadline=None, max_examples=60)
@given(sequence=VISITS, window=st.integers(3, 5), decay=st.sampled_from([0.9, 0.5, 1.0]))
def test_tdds_is_the_decaying_mean_of_the_spread_of_the_steps(
    context_for: Callable[..., Context], sequence: Sequence, window: int, decay: float
) -> None:
    past = history(sequence, lambda label, row: softmax(row))
    scorer = TDDS(window=window, decay=decay, until=1.0)
    if max(map(len, past)) < 3:
        with pytest.raises(UserError, match="no example was visited three times"):
            observed(scorer, context_for, sequence)
        return
    expected = []
    for p in past:
        steps = [
            sum(abs(q * (math.log(q + 1e-8) - math.log(r + 1e-8))) for q, r in zip(after, before, strict=True))
            for before, after in itertools.pairwise(p)
        ]
        windows = [steps[k : k + window - 1] for k in range(len(steps) - window + 2)] or [steps]
        spreads = [math.sqrt(sum((d - statistics.fmean(one)) ** 2 for d in one)) for one in windows]
        # the published sum: decay (1 - decay)^age of each window
        expected.append(sum(decay * (1 - decay) ** age * r for age, r in enumerate(reversed(spreads))))
    found = observed(scorer, context_for, sequence)
    close(found["score"], expected)


def test_eva_is_the_weighted_share_of_the_variance_in_two_parts(context_for: Callable[..., Context]) -> None:
    # eight updates of two examples each, with p(label) as given and the rest shared by the other two classes, so that
    # EL2N is (1 - p) sqrt(1.5)
    p = [(0.5, 0.2), (0.7, 0.2), (0.9, 0.9), (0.9, 0.9), (0.6, 0.1), (0.6, 0.3), (0.6, 0.8), (0.1, 0.1)]
    sequence = [
        [(i, [math.log(q) if c == i else math.log((1 - q) / 2) for c in range(CLASSES)]) for i, q in enumerate(pair)]
        for pair in p
    ]
    early = [statistics.variance([pair[i] for pair in p[:3]]) for i in (0, 1)]
    late = [statistics.variance([pair[i] for pair in p[4:6]]) for i in (0, 1)]
    expected = [0.3 * early[i] / sum(early) + 0.7 * late[i] / sum(late) for i in (0, 1)]
    scorer = EVA(early=[0.0, 0.375], late=[0.5, 0.75], weight=0.3)
    close(observed(scorer, context_for, sequence)["score"], [*expected, 0, 0])
    with pytest.raises(UserError, match=r"scores.early=\[0.0, 0.1\] is so short .* no example was visited twice"):
        observed(EVA(early=[0.0, 0.1], late=[0.5, 0.75], weight=0.3), context_for, sequence)
    with pytest.raises(UserError, match=r"scores.late=\[0.9, 1\] is so short"):
        observed(EVA(early=[0.0, 0.5], late=[0.9, 1], weight=0.3), context_for, sequence)


def test_eva_has_unbiased_variances_of_unequal_numbers_of_visits(context_for: Callable[..., Context]) -> None:
    # EL2N is (1 - p) sqrt(1.5); example 0 is visited three times in the early part and example 1 twice
    def row(p: float, label: int) -> tuple[int, list[float]]:
        return label, [math.log(p) if c == label else math.log((1 - p) / 2) for c in range(CLASSES)]

    sequence = [[row(0.5, 0), row(0.2, 1)], [row(0.7, 0), row(0.6, 1)], [row(0.9, 0)]]
    sequence += [[row(0.5, 0), row(0.3, 1)], [row(0.6, 0), row(0.3, 1)]]
    early = statistics.variance([0.5, 0.7, 0.9]), statistics.variance([0.2, 0.6])
    assert (round(early[0], 6), round(early[1], 6)) == (0.04, 0.08)
    found = observed(EVA(early=[0.0, 0.5], late=[0.5, 1.0], weight=1.0), context_for, sequence)
    close(found["score"], [1 / 3, 2 / 3, 0, 0])


def test_what_comes_after_until_does_not_count_in_tdds(context_for: Callable[..., Context]) -> None:
    rows = [[0.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0], [9.0, 0, 0]]
    found, before = (
        observed(TDDS(window=3, decay=0.9, until=until), context_for, [[(0, row)] for row in some])
        for until, some in ((0.5, rows), (1.0, rows[:3]))  # of 4 updates, those at 0, 0.25 and 0.5
    )
    assert found["score"][0] == before["score"][0]
    assert found["visits"][0] == 3


def test_a_mixed_image_is_a_visit_of_its_largest_source(context_for: Callable[..., Context]) -> None:
    scorer = AUM(of="logits")
    scorer.start(context_for(N, 4, classes=CLASSES))
    index = torch.tensor([[0, 1], [2, 3]])
    shares = torch.tensor([[0.7, 0.3], [0.4, 0.6]])
    batch = Batch(torch.zeros(2, 1, 1, 1), index, index % CLASSES, shares, drawn=index[:, 0])
    scorer.observe(batch, torch.zeros(2), torch.tensor([[3.0, 1, 0], [5.0, 2, 0]]))
    assert scorer.scores()["score"].tolist() == [-2, -2, -2, -3]  # 1 and 2 were not visited: the hardest


def test_the_state_is_refused_where_it_does_not_fit_and_a_short_part_ends_the_run_early(
    tmp_path: Any, context_for: Callable[..., Context]
) -> None:
    with pytest.raises(UserError, match=r"TDDS keeps the latest output of every example, which takes 5.0 GiB"):
        TDDS(window=10, decay=0.9, until=1.0).start(context_for(40, 4, classes=2**25))
    done = here("scores=eva epochs=4 evaluations=4", tmp_path)
    refused(done, "scores.early=[0.0, 0.05] is so short a part of the run")
    assert "50.0% of the budget" not in done.out
    refused(here("scores=dyn_unc scores.window=1", tmp_path), "window=1 must be at least 2")
    refused(here("scores=eva 'scores.late=[0.5]'", tmp_path), "late=[0.5] must be a begin and an end")
