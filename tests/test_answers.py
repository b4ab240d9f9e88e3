"""Answers to a reviewer's questions: each against numbers worked out by hand or by a slower way."""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from tables import aggregate, refused, write

from budgetrun.errors import UserError
from budgetrun.folder import selected
from budgetrun.tables.analysis import Analysis, Question, analyse
from budgetrun.tables.answers import ANSWERS, sentences
from budgetrun.tables.compare import Effect, Finding, equivalence, finding
from budgetrun.tables.pareto import Front
from budgetrun.tables.power import detectable, pairs_needed, power
from budgetrun.tables.scaling import Law, fitted, laws
from budgetrun.tables.selections import agreements
from budgetrun.tables.sensitivity import sensitivities
from budgetrun.tables.table import tabulate
from budgetrun.tables.tasks import over_tasks
from budgetrun.tables.worth import Worth, isotonic, worth

SETTINGS = ["sampler", "sampler.pool", "aug", "budget", "budget_unit", "noise", "seed", "lr", "tune", "tune.key"]
Runs = list[dict[str, Any]]


def run(sampler: str, budget: float, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    """One run; it spends 1,000 FLOPs and a second per unit of the budget."""
    base = {"sampler": sampler, "budget": budget, "budget_unit": "updates", "noise": "none", "seed": seed}
    spent = {"flops": 1000 * budget, "seconds": budget}
    name = "-".join(map(str, (sampler, budget, seed, *more.values())))
    return {**base, **spent, "test_accuracy": accuracy, "path": name, **more}


def analysed(runs: Runs, baseline: str | None = "sampler=uniform", columns: str = "budget", **more: Any) -> Analysis:
    (found,) = analyse([runs], SETTINGS, ["sampler"], [columns], Question(["test_accuracy"], baseline, **more))
    return found


# ---- budget-equivalent


def uniform(accuracies: dict[float, float], seeds: tuple[int, ...] = (0,), effect: float = 0.0) -> Runs:
    """Uniform sampling at several budgets; every seed is better by `effect` than the one before."""
    return [run("uniform", budget, seed, a + effect * seed) for budget, a in accuracies.items() for seed in seeds]


def only_worth(runs: Runs, baseline: str = "sampler=uniform") -> Worth:
    (found,) = [one for place, one in analysed(runs, baseline).worths.items() if place[1] == ("is",)]
    return found


@pytest.mark.parametrize(
    ("accuracy", "budget"),
    [
        (0.65, math.sqrt(0.2 * 0.4)),  # halfway between the accuracies, and so between the logarithms
        (0.525, 0.1 * 2**0.25),
        (0.6, 0.2),
        (0.5, 0.1),
        (0.7, 0.4),
        (0.49, 0),
        (0.71, math.inf),
    ],
)
def test_a_cell_is_worth_the_budget_of_uniform_sampling_that_reaches_it(accuracy: float, budget: float) -> None:
    reference = uniform({0.1: 0.5, 0.2: 0.6, 0.4: 0.7})
    found = only_worth([*reference, run("is", 0.2, 0, accuracy, flops=250, flops_before=50)])
    assert found.budget == pytest.approx(budget)
    assert found.cost == pytest.approx(0.3)
    assert (found.low, found.high, found.ends) == (None, None, (0.1, 0.4))


def test_budgets_that_contradict_each_other_are_pooled() -> None:
    """0.6 and 0.5 become 0.55 each; what reaches them is worth the smaller budget."""
    reference = uniform({0.1: 0.4, 0.2: 0.6, 0.4: 0.5, 0.8: 0.7})
    assert only_worth([*reference, run("is", 0.2, 0, 0.55)]).budget == pytest.approx(0.2)
    assert only_worth([*reference, run("is", 0.2, 0, 0.625)]).budget == pytest.approx(0.4 * math.sqrt(2))
    assert only_worth([*reference, run("is", 0.2, 0, 0.475)]).budget == pytest.approx(0.1 * math.sqrt(2))


def test_a_cost_beyond_the_budgets_is_proportional_and_another_unit_has_the_same_reference() -> None:
    reference = uniform({0.1: 0.5, 0.2: 0.6})
    found = only_worth(
        [*reference, run("is", 0.3, 0, 0.55, flops=500, budget_unit="flops")], "sampler=uniform,budget=0.1"
    )
    assert (found.cost, found.budget) == pytest.approx((0.5, 0.1 * math.sqrt(2)))
    assert only_worth([*reference, run("is", 0.3, 0, 0.55, flops=math.nan)]).cost != found.cost
    mixed = [*reference, *(run("uniform", b, 0, 0.9, budget_unit="flops") for b in (0.3, 0.4, 0.5))]
    assert only_worth([*mixed, run("is", 0.3, 0, 0.55)]).unit == "flops", "the unit of most of the baseline's runs"
    caption = ANSWERS["worth"](analysed([*mixed, run("is", 0.3, 0, 0.55)])).caption
    assert caption.startswith("budget-equivalent: the budget (flops) of sampler=uniform that costs")


def test_seeds_are_drawn_together_so_that_what_they_share_does_not_widen_the_interval() -> None:
    """Each seed moves all cells by the same: every draw gives the same equivalent."""
    reference = uniform({0.1: 0.5, 0.2: 0.6, 0.4: 0.7}, (0, 1, 2), effect=0.04)
    method = [run("is", 0.2, seed, 0.65 + 0.04 * seed) for seed in range(3)]
    found = only_worth([*reference, *method])
    assert (found.low, found.high) == pytest.approx((math.sqrt(0.08), math.sqrt(0.08)))
    assert only_worth([*reference, *method[:2]]).low is None, "two seeds"


def test_the_interval_is_that_of_all_draws() -> None:
    """27 draws of three seeds are equally likely; the limits are among their values."""
    reference = {0.1: [0.5, 0.52, 0.49], 0.2: [0.61, 0.6, 0.57], 0.4: [0.68, 0.72, 0.7]}
    mine = [0.6, 0.66, 0.63]
    runs = [run("uniform", b, seed, a) for b, its in reference.items() for seed, a in enumerate(its)]
    found = only_worth([*runs, *(run("is", 0.2, seed, a) for seed, a in enumerate(mine))])
    draws = []
    for drawn in itertools.product(range(3), repeat=3):
        means = [statistics.fmean(its[seed] for seed in drawn) for its in reference.values()]
        goal = statistics.fmean(mine[seed] for seed in drawn)
        draws.append(math.exp(np.interp(goal, means, np.log(list(reference)))))
    draws.sort()
    # 2.5% lie among the least 1/27 = 3.7% and 97.5% among the greatest
    assert (found.low, found.high) == pytest.approx((draws[0], draws[-1]))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 5)), min_size=1, max_size=6))
def test_isotonic_is_that_of_scipy(cells: list[tuple[float, int]]) -> None:
    values, weights = (np.array(column, dtype=float) for column in zip(*cells, strict=True))
    expected = optimize.isotonic_regression(values, weights=weights).x
    assert isotonic((values * weights)[None], weights[None])[0] == pytest.approx(expected, abs=1e-12)


def test_a_worth_needs_two_budgets_and_a_method() -> None:
    with pytest.raises(UserError, match="no run can be compared with sampler=uniform at two budgets or more"):
        _ = analysed([*uniform({0.1: 0.5}), run("is", 0.1, 0, 0.6)]).worths
    with pytest.raises(UserError, match="names a budget alone"):
        _ = analysed(uniform({0.1: 0.5, 0.2: 0.6}), "budget=0.1").worths
    mixed = [*uniform({0.1: 0.5, 0.2: 0.6}), run("is", 0.1, 0, 0.6), run("is", 0.1, 0, 0.6, noise="symmetric")]
    mixed += [{**one, "noise": "symmetric", "path": "noisy" + one["path"]} for one in mixed[:2]]
    with pytest.raises(UserError, match="with all other settings equal"):
        _ = analysed(mixed).worths  # its cell averages over two references


def test_a_run_that_is_not_finite_is_not_left_out_to_flatter_its_cell() -> None:
    reference = uniform({0.1: 0.5, 0.2: 0.6, 0.4: 0.7}, (0, 1))
    assert only_worth([*reference, run("is", 0.2, 0, 0.65), run("is", 0.2, 1, 0.65)]).ends == (0.1, 0.4)
    with pytest.raises(UserError, match="no run can be compared"):
        only_worth([*reference, run("is", 0.2, 0, 0.65), run("is", 0.2, 1, math.nan)])
    reference[-1]["test_accuracy"] = math.nan
    assert only_worth([*reference, run("is", 0.2, 0, 0.65)]).ends == (0.1, 0.2)


def test_what_was_tuned_for_each_budget_is_one_reference() -> None:
    """Each budget has another learning rate, but 0.1 and 0.2 have the one of the cell."""
    of_tuning = {"tune": "lr", "tune.key": "lr"}
    chosen = {0.1: 0.3, 0.2: 0.3, 0.4: 0.1}
    runs = [{**one, **of_tuning, "lr": chosen[one["budget"]]} for one in uniform({0.1: 0.5, 0.2: 0.6, 0.4: 0.7})]
    found = only_worth([*runs, run("is", 0.2, 0, 0.65, lr=0.3, **of_tuning)])
    assert (found.budget, found.ends) == (pytest.approx(math.sqrt(0.2 * 0.4)), (0.1, 0.4))
    runs = [run("is", 0.1, seed, a, lr=lr, **of_tuning, **{"sampler.pool": pool}) for pool, lr, a in
            [(2, 0.1, 0.5), (3, 0.3, 0.7)] for seed in (0, 1)]  # fmt: skip
    ((_, sensitive),) = sensitivities(runs, analysed(runs, None).tables[0], SETTINGS)
    assert (sensitive.parameter, sensitive.means) == ("sampler.pool", {"2": 0.5, "3": 0.7})


def test_a_cell_of_several_budgets_has_no_worth_and_one_of_no_flops_has_no_cost() -> None:
    reference = uniform({0.1: 0.5, 0.2: 0.6, 0.4: 0.7})
    assert math.isnan(only_worth([*reference, run("is", 0.2, 0, 0.65, flops=0)]).cost)
    runs = [*reference, run("is", 0.1, 0, 0.55), run("is", 0.4, 0, 0.75)]
    assert len(analysed(runs).worths) == 2
    with pytest.raises(UserError, match="no run can be compared"):
        _ = analysed(runs, columns="aug").worths
    with pytest.raises(UserError, match="neither more nor less of visits_entropy is better"):
        worth(runs, [tabulate(runs, ["sampler"], ["budget"], "visits_entropy")], SETTINGS, "sampler=uniform")


# ---- Pareto front


def only_front(runs: Runs) -> Front:
    return analysed(runs, None).fronts[0]


def test_a_cell_is_dominated_by_the_best_of_those_that_cost_no_more() -> None:
    runs = [
        run("a", 0.1, 0, 0.5),
        run("b", 0.1, 0, 0.6),
        run("c", 0.1, 0, 0.7, flops_before=150),
        run("d", 0.2, 0, 0.65),
        run("e", 0.3, 0, 0.7),
        run("f", 0.25, 0, 0.7, seconds=0.05),
    ]
    found = only_front(runs)
    rivals = {cell[0][0]: rival[0][0] for cell, rival in found.beaten.items()}
    assert rivals == {"a": "b", "e": "c"}, "c and f cost 250 and are equal: both are on the front"
    by_seconds = {cell[0][0]: rival[0][0] for cell, rival in analysed(runs, None).fronts[1].beaten.items()}
    assert by_seconds == {"a": "f", "b": "f", "c": "f", "d": "f", "e": "f"}


def test_a_task_has_a_front_of_its_own() -> None:
    runs = [run("a", 0.1, 0, 0.9), run("b", 0.1, 0, 0.5, noise="symmetric"), run("c", 0.1, 0, 0.4, noise="symmetric")]
    found = analysed(runs, None, "noise").fronts[0]
    assert found.beaten == {(("c",), ("symmetric",)): (("b",), ("symmetric",))}


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_front_is_what_no_other_cell_dominates(cells: list[tuple[int, int]]) -> None:
    found = only_front([run(f"m{i}", 0.1, 0, good / 4, flops=cost) for i, (cost, good) in enumerate(cells)])

    def dominates(i: int, j: int) -> bool:
        return cells[i] != cells[j] and cells[i][0] <= cells[j][0] and cells[i][1] >= cells[j][1]

    for j in range(len(cells)):
        rival = found.beaten.get(((f"m{j}",), ("0.1",)))
        assert (rival is not None) == any(dominates(i, j) for i in range(len(cells)))
        assert rival is None or dominates(int(rival[0][0][1:]), j)


def test_cells_whose_cost_is_not_known_are_on_no_front_and_counted() -> None:
    runs = [run("a", 0.1, 0, 0.5, flops=0), run("b", 0.1, 0, 0.6), run("c", 0.1, 0, math.nan)]
    by_flops, by_seconds = sentences(analysed(runs, None))
    assert "1 of 1 cells with a finite mean and a known cost, of 3 in all, from the cheapest: b (60.00%)" in by_flops
    assert "1 of 2 cells with a finite mean and a known cost, of 3 in all, from the cheapest: b (60.00%)" in by_seconds
    (line,) = [line for line in ANSWERS["pareto"](analysed(runs, None)).lines if line[0] == "a"]
    assert line[3:] == ["—", "—", "0.1", "dominated by sampler=b"]
    for one in runs:
        one["flops"] = None
    assert [one.cost for one in analysed(runs, None).fronts] == ["seconds"]
    for one in runs:
        one["seconds"] = None
    with pytest.raises(UserError, match="no cell has a finite mean test_accuracy and a known cost"):
        _ = analysed(runs, None).fronts
    assert sentences(analysed(runs, None)) == []


def test_the_fronts_of_two_tasks_are_two_sentences() -> None:
    runs = [run(m, 0.1, 0, a, noise=n) for m, n, a in [("a", "none", 0.9), ("b", "none", 0.8), ("a", "x", 0.5),
                                                       ("b", "x", 0.6), ("a", "y", 0.1)]]  # fmt: skip
    said = [one for one in sentences(analysed(runs, None, "noise")) if "FLOPs" in one]
    assert [one.split(". Means")[0] for one in said] == [
        "On the Pareto front of mean test_accuracy against FLOPs with noise=none, 1 of 2 cells, from the cheapest: a, "
        "noise=none (90.00%)",
        "On the Pareto front of mean test_accuracy against FLOPs with noise=x, 1 of 2 cells, from the cheapest: b, "
        "noise=x (60.00%)",
    ]


# ---- power and equivalence


def test_seeds_needed_are_those_of_tables_of_power() -> None:
    """Cohen 1988: 80% power at 5% on both sides takes 199, 34 and 15 pairs for 0.2, 0.5 and 0.8."""
    assert [pairs_needed(effect, 0.05) for effect in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert pairs_needed(1e-3, 0.05) is None
    assert pairs_needed(1e6, 0.05) == 2


def test_power_is_how_often_a_t_test_finds_the_difference() -> None:
    drawn = np.random.default_rng(0).normal(1.5, 1, (40_000, 4))
    t = drawn.mean(1) / drawn.std(1, ddof=1) * 2
    critical = 7.453319  # of t with 3 degrees of freedom, 0.5% on both sides
    assert power(1.5, 4, 0.005) == pytest.approx((abs(t) > critical).mean(), abs=0.006)


@given(st.integers(2, 60), st.integers(1, 2000))
@settings(max_examples=25)
def test_what_can_be_shown_is_shown_with_a_chance_of_80_percent(pairs: int, family: int) -> None:
    assert power(detectable(pairs, 0.05 / family), pairs, 0.05 / family) == pytest.approx(0.8)


def test_equivalence_by_hand() -> None:
    """Mean 2, sd 1, margin 5: t = (2 - 5) sqrt 3; with 2 degrees of freedom p = (1 + t / sqrt(t^2 + 2)) / 2."""
    t = -3 * math.sqrt(3)
    expected = (1 + t / math.sqrt(t * t + 2)) / 2
    assert equivalence([1, 2, 3], 5) == pytest.approx(expected)
    assert equivalence([-1, -2, -3], 5) == pytest.approx(expected)
    assert equivalence([1, 2, 3], 2) == pytest.approx(0.5), "at the margin itself"


def test_equal_and_no_difference_shown_are_two_findings() -> None:
    near = [run("is", 0.1, seed, 0.5 + 0.0002 * (seed - 2)) for seed in range(5)]
    far = [run("sb", 0.1, seed, 0.5 + 0.02 * (seed - 2)) for seed in range(5)]
    runs = [*uniform({0.1: 0.5}, tuple(range(5))), *near, *far]
    found = analysed(runs).comparison
    assert found is not None
    effects = {place[1][0]: effect for place, effect in found.effects.items()}
    assert finding("test_accuracy", effects["is"]) is Finding.EQUAL
    assert finding("test_accuracy", effects["sb"]) is Finding.UNKNOWN
    assert effects["is"].p_equal == pytest.approx(2 * equivalence(effects["is"].differences, 0.005)), "of two, by Holm"
    wide = analysed(runs, margin=10.0).comparison
    assert wide is not None
    assert all(finding("test_accuracy", effect) is Finding.EQUAL for effect in wide.effects.values())
    alike = Effect(0.0, [0.0] * 5, 5, 1, 1, margin=0.005, p=1.0, p_holm=1.0)
    assert finding("test_accuracy", alike) is Finding.UNKNOWN, "without any spread, nothing is tested"


# ---- several tasks


def over(accuracies: dict[str, list[float]], seeds: int = 1, spread: float = 0.0) -> Runs:
    """One run per method, task (a noise) and seed."""
    return [
        run(method, 0.1, seed, a + spread * seed, noise=f"n{task}")
        for method, its in accuracies.items()
        for task, a in enumerate(its)
        for seed in range(seeds)
    ]


def test_ranks_profiles_and_friedman_by_hand() -> None:
    """Ranks 1, 1.5; 2, 1.5; 3, 3, whose sums are 2.5, 3.5 and 6; one tie of two in 2 x 3 x (9 - 1) = 48."""
    found = over_tasks([analysed(over({"a": [0.9, 0.8], "b": [0.896, 0.8], "c": [0.85, 0.79]}), None, "noise")])
    assert [(method, one.rank) for method, one in found.standings.items()] == [
        (("a",), 1.25),
        (("b",), 1.75),
        (("c",), 3.0),
    ]
    near = {method[0]: one.near for method, one in found.standings.items()}
    assert near["b"] == {0.0: 0.5, 0.5: 1.0, 1.0: 1.0, 2.0: 1.0, 5.0: 1.0}
    assert near["c"] == {0.0: 0.0, 0.5: 0.0, 1.0: 0.5, 2.0: 0.5, 5.0: 1.0}
    statistic = (12 / (2 * 3 * 4) * (2.5**2 + 3.5**2 + 6**2) - 3 * 2 * 4) / (1 - 6 / (2 * 3 * 8))
    assert found.friedman == pytest.approx(math.exp(-statistic / 2))  # chi squared with 2 degrees of freedom


def test_the_critical_difference_is_that_of_demsar() -> None:
    """Demšar 2006: 2.569 sqrt(4 x 5 / (6 x 14)) = 1.25 for 4 methods in 14 tasks."""
    random = np.random.default_rng(0)
    runs = over({method: random.random(14).tolist() for method in "abcd"})
    found = over_tasks([analysed(runs, None, "noise")])
    assert found.critical == pytest.approx(2.569 * math.sqrt(20 / 84), abs=1e-3)
    for one in found.standings.values():
        near = [other for other, its in found.standings.items() if abs(its.rank - one.rank) < found.critical]
        assert sorted(one.alike) == sorted(near)


def test_a_line_names_few_of_the_methods_that_it_is_not_told_apart_from() -> None:
    part = analysed(over({f"m{number}": [0.5 + number / 100] * 2 for number in range(12)}), None, "noise")
    assert [line[-1] for line in ANSWERS["tasks"](part).lines if line[0] == "m5"] == [
        "m0; m1; m10; m11; m2; m3; m4; m6; 3 more"
    ]


def test_wins_and_losses_are_what_the_comparison_supports_and_tasks_of_all_parts_count() -> None:
    seeds = {"a": [0.9, 0.7, 0.8], "uniform": [0.8, 0.8, 0.8], "b": [0.8, 0.8, 0.8]}
    runs = over(seeds, seeds=6)
    for place, one in enumerate(runs):
        one["test_accuracy"] += 0.001 * (place * place % 7)
        one["test_accuracy"] += 0.2 * (place % 2) if one["sampler"] == "b" else 0
    parts = [[one for one in runs if (one["noise"] == "n0") == first] for first in (True, False)]
    asked = Question(["test_accuracy"], "sampler=uniform")
    found = over_tasks(analyse(parts, SETTINGS, ["sampler"], ["noise"], asked))
    assert len(found.tasks) == 3
    assert found.standings["a",].wins == (1, 1, 1)
    assert found.standings["b",].wins == (0, 3, 0)
    assert found.standings["uniform",].wins is None
    few = over_tasks(analyse([[one for one in runs if one["seed"] < 2]], SETTINGS, ["sampler"], ["noise"], asked))
    assert few.standings["a",].wins is None, "two pairs say nothing, not even that no difference is shown"


def test_rank_intervals_move_with_seeds_and_not_with_what_all_share() -> None:
    steady = over_tasks([analysed(over({"a": [0.9, 0.9], "b": [0.8, 0.8]}, 3, spread=0.05), None, "noise")])
    assert [(one.low, one.high) for one in steady.standings.values()] == [(1, 1), (2, 2)]
    runs = over({"a": [0.9, 0.9], "b": [0.8, 0.8]}, 3)
    for one in runs:  # b wins two seeds of three, but loses in the mean
        one["test_accuracy"] = {"a": [0.9, 0.5, 0.5], "b": [0.5, 0.6, 0.6]}[one["sampler"]][one["seed"]]
    moved = over_tasks([analysed(runs, None, "noise")]).standings
    assert [(one.low, one.high) for one in moved.values()] == [(1, 2), (1, 2)]
    few = over_tasks([analysed(over({"a": [0.9, 0.9], "b": [0.8, 0.8]}, 2), None, "noise")])
    assert few.standings["a",].low is None


def test_tasks_that_few_share_and_methods_that_lack_one_are_left_out_and_named() -> None:
    runs = over({"a": [0.9, 0.8, 0.7], "b": [0.8, 0.7], "c": [0.7, 0.6], "d": [0.5]})
    found = over_tasks([analysed(runs, None, "noise")])
    assert [method for (method,) in found.standings] == ["a", "b", "c"]
    assert found.left_out == ["1 of 3 columns (half of the rows or fewer)", "d (it lacks a column)"]
    with pytest.raises(UserError, match="ranks need two methods"):
        over_tasks([analysed(runs, None, "budget")])


# ---- scaling


def curve(floor: float, scale: float, exponent: float, budgets: list[float], effect: float = 0.0) -> Runs:
    """Runs whose errors obey a law exactly, but for the effects of seeds."""
    return [
        run("uniform", b, seed, 1 - (floor + scale * (b / max(budgets)) ** -exponent) + effect * (seed - 1))
        for b in budgets
        for seed in range(3)
    ]


def only_law(runs: Runs) -> Law:
    (found,) = laws(runs, analysed(runs, None).tables[0]).values()
    return found


def test_a_law_is_recovered() -> None:
    found = only_law(curve(0.05, 0.1, 0.6, [0.05, 0.1, 0.2, 0.4, 0.8]))
    assert (found.floor, found.scale, found.exponent) == pytest.approx((0.05, 0.1, 0.6), rel=1e-3)
    assert found.residuals == pytest.approx([0] * 5, abs=1e-6)
    for name, value in (("floor", 0.05), ("scale", 0.1), ("exponent", 0.6)):
        assert found.intervals[name] == pytest.approx((value, value), rel=1e-2)


def test_effects_of_seeds_move_the_floor_and_nothing_else() -> None:
    found = only_law(curve(0.05, 0.1, 0.6, [0.05, 0.1, 0.2, 0.4, 0.8], effect=0.02))
    assert found.intervals["floor"] == pytest.approx((0.03, 0.07), rel=1e-2)
    assert found.intervals["exponent"] == pytest.approx((0.6, 0.6), rel=1e-2)


@given(st.lists(st.floats(0, 1), min_size=5, max_size=5), st.floats(0.1, 3))
@settings(max_examples=50)
def test_floor_and_scale_are_the_least_squares_that_are_not_negative(errors: list[float], exponent: float) -> None:
    x, weights = np.array([0.1, 0.2, 0.4, 0.7, 1.0]), np.array([3.0, 3, 2, 3, 1])
    ((floor, scale, _),) = fitted(x, np.array([errors]), weights[None], np.array([exponent]))
    root = np.sqrt(weights)
    columns = np.stack([root, root * x**-exponent], 1)
    _, norm = optimize.nnls(columns, root * errors)
    assert min(floor, scale) >= 0
    assert np.linalg.norm(columns @ [floor, scale] - root * errors) == pytest.approx(norm, abs=1e-6)


def test_a_law_needs_five_budgets() -> None:
    runs = curve(0.05, 0.1, 0.6, [0.1, 0.2, 0.4, 0.8])
    with pytest.raises(UserError, match="fitted to 5 budgets or more; no method has more than 4"):
        laws(runs, analysed(runs, None).tables[0])
    rising = only_law(curve(0.5, -0.1, 0.6, [0.05, 0.1, 0.2, 0.4, 0.8]))
    assert rising.bounded, "an error that grows with the budget has no law"


def test_a_budget_of_unknown_cost_or_with_a_run_that_is_not_finite_has_no_place_in_a_law() -> None:
    runs = curve(0.05, 0.1, 0.6, [0.05, 0.1, 0.2, 0.4, 0.8, 1.0])
    runs[-1]["test_accuracy"] = math.nan
    assert len(only_law(runs).residuals) == 5
    runs[0]["flops"] = None
    with pytest.raises(UserError, match="no method has more than 4"):
        only_law(runs)


# ---- selections


def test_overlaps_are_the_visits_that_two_runs_have_in_common(tmp_path: Path) -> None:
    """Of 8 visits each: `is` shares 4 between its seeds; with uniform sampling 4 of seed 0, 6 of seed 1."""
    visits = {
        ("uniform", 0): [2, 2, 2, 2],
        ("uniform", 1): [2, 2, 2, 2],
        ("is", 0): [4, 4, 0, 0],
        ("is", 1): [4, 2, 2, 0],
    }
    runs = []
    for (sampler, seed), its in visits.items():
        folder = tmp_path / f"{sampler}{seed}"
        folder.mkdir()
        selected.write(folder / "selected.npz", np.float32(its), dict.fromkeys(selected.KINDS, np.zeros(0)))
        more = {"selected_corrupted": 0.1 * seed, "path": str(folder / "result.json"), "dataset_fingerprint": "abc"}
        runs.append(run(sampler, 0.1, seed, 0.5, **more))
    analysis = analysed(runs)
    found = {row[0]: one for (row, _), one in agreements(runs, analysis.tables[0], analysis.baseline).items()}
    assert (found["uniform"].between_seeds, found["uniform"].with_baseline) == (1, None)
    assert (found["is"].between_seeds, found["is"].with_baseline) == pytest.approx((0.75, (0.5 + 0.75) / 2))
    assert (found["is"].runs, found["is"].corrupted, found["is"].classes) == (2, pytest.approx(0.05), None)
    runs[2]["dataset_fingerprint"] = "other"
    alone = agreements(runs, analysis.tables[0], None)
    assert alone[("is",), ("0.1",)].between_seeds is None, "they number their examples otherwise"
    selected.write(tmp_path / "is1" / "selected.npz", np.float32([1, 1]), dict.fromkeys(selected.KINDS, np.zeros(0)))
    odd = agreements(runs, analysis.tables[0], analysis.baseline)[("is",), ("0.1",)]
    assert (odd.runs, odd.between_seeds, odd.with_baseline) == (2, None, None), "of another number of examples"
    (tmp_path / "is0" / "selected.npz").write_bytes(b"x")
    assert agreements(runs, analysis.tables[0], None)[("is",), ("0.1",)].runs == 1
    with pytest.raises(UserError, match="no run has selected"):
        agreements([run("is", 0.1, 0, 0.5)], analysis.tables[0], None)


# ---- sensitivity and area


def test_sensitivity_is_the_range_over_the_seeds_that_all_values_have() -> None:
    runs = [run("is", 0.1, seed, a, **{"sampler.pool": pool}) for pool, seed, a in
            [(2, 0, 0.5), (2, 1, 0.6), (3, 0, 0.7), (3, 1, 0.6), (5, 0, 0.4), (5, 1, 0.5), (5, 2, 1.0)]]  # fmt: skip
    runs += [run("uniform", 0.1, 0, 0.5)]
    ((key, found),) = sensitivities(runs, analysed(runs, None).tables[0], SETTINGS)
    assert (key, found.parameter, found.seeds) == (("is", "0.1"), "sampler.pool", 2)
    assert found.means == pytest.approx({"2": 0.55, "3": 0.65, "5": 0.45})
    assert found.range == pytest.approx(0.2)


def test_a_parameter_that_varies_together_with_another_says_nothing() -> None:
    runs = [run("is", 0.1, 0, 0.5, lr=0.1, noise="none"), run("is", 0.1, 0, 0.7, lr=0.3, noise="symmetric")]
    with pytest.raises(UserError, match="no parameter of a method varies with all else equal"):
        sensitivities(runs, analysed(runs, None).tables[0], SETTINGS)


def test_a_value_with_which_a_run_diverged_is_not_the_best_and_no_value_is_of_what_has_no_better() -> None:
    runs = [run("is", 0.1, seed, a, visits_entropy=8 + a, **{"sampler.pool": pool}) for pool, seed, a in
            [(2, 0, 0.5), (2, 1, 0.6), (3, 0, 0.9), (3, 1, math.nan)]]  # fmt: skip
    (line,) = ANSWERS["sensitivity"](analysed(runs, None)).lines
    assert line[3:] == ["2: 55.00, 3: nan", "2", "nan points", "2"]
    asked = Question(["visits_entropy"])
    (found,) = analyse([runs[:3]], SETTINGS, ["sampler"], ["budget"], asked)
    assert ANSWERS["sensitivity"](found).lines[0][3:] == ["2: 8.500, 3: 8.900", "—", "0.4", "1"]


def test_the_area_under_accuracy_against_flops_by_hand(tmp_path: Path) -> None:
    """From 100 to 400 FLOPs: 100 at 0.3 on average, then 200 at 0.6."""
    lines = [{"test_accuracy": a, "flops": f} for a, f in ((0.2, 100), (0.4, 200), (0.8, 400))]
    write(tmp_path, lines, test_accuracy=0.8)
    write(tmp_path, lines[:1], test_accuracy=0.2, seed=1)
    done = aggregate(tmp_path, "--metric", "anytime_accuracy", "--format", "csv")
    (line,) = csv.DictReader(io.StringIO(done.out))
    assert (float(line["mean"]), line["n"]) == (pytest.approx((100 * 0.3 + 200 * 0.6) / 300), "1")
    assert "it has fewer than two evaluations; add some, as in evaluations=10" in done.err


# ---- sentences


def test_conclusions_name_what_is_supported_and_what_is_not() -> None:
    seeds = range(6)
    jitter = [0.0001 * (seed % 3) for seed in seeds]
    runs = [
        *(run("uniform", b, seed, a) for b, a in ((0.1, 0.5), (0.2, 0.6)) for seed in seeds),
        *(run("good", 0.1, seed, 0.55 + jitter[seed]) for seed in seeds),
        *(run("bad", 0.1, seed, 0.4 + jitter[seed], flops=150) for seed in seeds),
        *(run("same", 0.1, seed, 0.5 + jitter[seed] - 0.0001) for seed in seeds),
        *(run("wild", 0.1, seed, 0.5 + 0.05 * (-1) ** seed) for seed in seeds),
        run("new", 0.1, 0, 0.9),
    ]
    better, worse, equal, unknown, few, front, _ = sentences(analysed(runs))
    assert better.startswith(
        "Better than sampler=uniform in 1 of 5 cells (p, Holm, at most 0.05): good, budget=0.1: +5.01 ("
    )
    assert better.endswith("points at equal cost, budget-equivalent 0.142 (0.141 to 0.142).")
    assert "bad, budget=0.1: -9.99 (" in worse
    assert worse.endswith("points for x1.50 the FLOPs, budget-equivalent < 0.1.")
    assert equal.startswith(
        "Equal to sampler=uniform within 0.5 points in 1 of 5 cells (p of equivalence, Holm, at most 0.05): same, "
    )
    assert unknown.startswith(
        "Neither a difference from sampler=uniform nor equality is shown for 1 of 5 cells; it would have shown"
    )
    assert few == "Too few pairs of runs to say anything about 1 of 5 cells: 3 seeds are the least."
    assert front.startswith(
        "On the Pareto front of mean test_accuracy against FLOPs, 1 of 7 cells, from the cheapest: new,"
    )


def test_a_difference_that_is_shown_and_small_is_said_to_be_both(tmp_path: Path) -> None:
    for seed in range(6):
        write(tmp_path, seed=seed, test_accuracy=0.5)
        write(tmp_path, seed=seed, sampler="is", test_accuracy=0.501 + 1e-5 * (seed % 3))
    done = aggregate(tmp_path, "--baseline", "sampler=uniform")
    assert "| better by less than 0.5 points |" in done.out
    assert (
        "| better by less than 0.2 points |"
        in aggregate(tmp_path, "--baseline", "sampler=uniform", "--margin", "0.2").out
    )


def said_of(accuracies: list[float], metric: str = "test_accuracy", **more: Any) -> str:
    """The first sentence about `is`, one run per seed, against uniform sampling, which has 0.5."""
    runs = [run("uniform", 0.1, seed, 0.5, test_loss=0.5) for seed in range(len(accuracies))]
    runs += [run("is", 0.1, seed, a, test_loss=a, **more) for seed, a in enumerate(accuracies)]
    (found,) = analyse([runs], SETTINGS, ["sampler"], ["budget"], Question([metric], "sampler=uniform"))
    return sentences(found)[0]


def test_a_sentence_says_no_more_than_was_tested() -> None:
    wild = [0.4, 0.5, 0.6, 0.5]
    assert said_of(wild).startswith(
        "Neither a difference from sampler=uniform nor equality is shown for the only cell; it would have shown a "
    )
    assert said_of(wild, "test_loss").startswith("No difference from sampler=uniform is shown for the only cell; it ")
    assert said_of([0.5, 0.5, math.nan]) == "Nothing is tested for the only cell: a run measured NaN or infinity."
    assert said_of([0.5] * 3).endswith(" is shown for the only cell; every pair is exactly equal.")
    small = said_of([0.501, 0.501, 0.501, 0.50101])
    assert " points, less than 0.5 points, at equal cost." in small
    assert " points at unknown cost." in said_of([0.6, 0.61, 0.62], flops=0)


def test_numbers_in_a_row_have_names_in_sentences() -> None:
    runs = [run("a", budget, 0, budget) for budget in (0.1, 0.2)]
    (found,) = analyse([runs], SETTINGS, ["sampler", "budget"], ["aug"], Question(["test_accuracy"]))
    assert "from the cheapest: a, budget=0.1 (10.00%); a, budget=0.2 (20.00%)." in sentences(found)[0]


def test_the_cost_of_tuning_is_said_to_be_left_out() -> None:
    runs = [run(sampler, 0.1, seed, 0.5) for sampler in ("is", "uniform") for seed in range(3)]
    assert not any("tuning" in one for one in sentences(analysed(runs)))
    runs[0]["flops_tuning"] = 10**9
    found = analysed(runs)
    assert sentences(found)[-1].startswith("Where a value was tuned, what the tuning runs spent (flops_tuning) is in")
    assert any("flops_tuning" in remark for remark in found.remarks)


def test_seconds_are_said_to_lack_the_runs_that_made_files() -> None:
    runs = [run("a", 0.1, 0, 0.5), run("b", 0.1, 0, 0.6)]
    assert len(sentences(analysed(runs, None))) == 2
    runs[1]["flops_before"] = 10
    assert sentences(analysed(runs, None))[-1].endswith("seconds do not include theirs.")


def test_a_sampler_that_looked_in_no_run_is_said_to_have_been_uniform_sampling() -> None:
    runs = [run(sampler, 0.1, seed, 0.5) for sampler in ("a", "b") for seed in (0, 1)]
    for one in runs:
        one |= {"sampler.looks": "eval", "sampler.replacement": True, "looking_updates": 0.0}
    runs[3]["looking_updates"] = 0.5
    said = "a looked at nothing in its 2 runs: it chose as uniform sampling does, with replacement."
    assert [one for one in sentences(analysed(runs, None)) if "looked" in one] == [said]


# ---- as a command


def test_a_csv_without_seeds_or_with_an_odd_way_to_tune_has_no_traceback(tmp_path: Path) -> None:
    for sampler in ("uniform", "is"):
        write(tmp_path / "runs", sampler=sampler, **{"sampler.file": f"{sampler}-s0-1/scores.csv"})
    lines = list(csv.DictReader(io.StringIO(aggregate(tmp_path / "runs", "--format", "runs").out)))
    for one in lines:
        del one["seed"]
    changed = io.StringIO()
    writer = csv.DictWriter(changed, ["tune", "tune.key", *lines[0]], restval="[1]")
    writer.writeheader()
    writer.writerows(lines)
    (tmp_path / "runs.csv").write_text(changed.getvalue())
    done = aggregate(tmp_path / "runs.csv", "--baseline", "sampler=uniform", "--ask", "conclusions")
    assert (done.code, "Too few pairs of runs" in done.out) == (0, True)


def test_conclusions_of_nothing_are_no_empty_list(tmp_path: Path) -> None:
    write(tmp_path)
    refused(
        aggregate(tmp_path, "--ask", "conclusions", "--format", "latex"), "conclusions: there is nothing to compare"
    )
    assert "itemize" not in aggregate(tmp_path, "--ask", "all", "--format", "latex").out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uniform sampling at five budgets and `is` at one with two pools, three seeds each."""
    path = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        for budget in (0.1, 0.2, 0.4, 0.6, 1.0):
            accuracy = 0.9 - 0.1 * budget**-0.5 + 0.001 * seed
            write(path, seed=seed, budget=budget, test_accuracy=accuracy, flops=int(1e9 * budget))
        for pool, accuracy in ((2, 0.7), (3, 0.75)):
            changes = {"sampler.pool": pool, "budget": 0.2, "flops": 3 * 10**8}
            write(path, seed=seed, sampler="is", test_accuracy=accuracy + 0.002 * seed, **changes)
    return path


def test_every_answer_is_a_table_in_every_format(folder: Path) -> None:
    columns = ("--rows", "sampler,sampler.pool", "--baseline", "sampler=uniform", "--ask", "all")
    done = aggregate(folder, *columns)
    assert done.code == 0
    left_out, without = [line for line in done.err.splitlines() if line.startswith("not answered")]
    assert without.startswith("not answered: selections: no run has selected.npz beside its result")
    assert left_out.startswith(
        "not answered: tasks: ranks need two methods (rows) in two tasks (columns) at least; 3 of 3"
    )
    for word in ("budget-equivalent", "Pareto front", "could show", "largest residual", "sensitivity", "- Better than"):
        assert word in done.out, word
    latex = aggregate(folder, *columns, "--format", "latex").out
    assert latex.count(r"\begin{table}") == done.out.count("\n| -") + done.out.startswith("| -")
    assert latex.count(r"\begin{itemize}") == 1


def test_what_has_no_answer_is_refused_in_a_sentence(folder: Path) -> None:
    refused(aggregate(folder, "--ask", "worht"), "--ask worht is none of conclusions, worth, pareto,")
    for name in ("worth", "power"):
        refused(aggregate(folder, "--ask", name), f"{name} needs a baseline; add one, as in --baseline sampler=uniform")
    refused(aggregate(folder, "--ask", "pareto", "--format", "csv"), "--ask has no place in --format csv")
    refused(aggregate(folder, "--ask", "pareto", "--metric", "updates"), "neither more nor less of updates is better")
    refused(aggregate(folder, "--ask", "scaling", "--metric", "flops"), "flops is no accuracy or error")
    refused(aggregate(folder, "--ask", "scaling", "--cols", "seed"), "the budget is neither a row nor a column")
    refused(aggregate(folder, "--margin", "0", "--baseline", "sampler=uniform"), "--margin 0 is not above 0")
