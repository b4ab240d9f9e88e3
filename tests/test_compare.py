"""Comparisons with a baseline: what is a pair, the numbers, what they cost, and what may be said about them."""

from __future__ import annotations

import csv
import io
import itertools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import aggregate, read_latex, read_markdown, refused, table_of, write

from budgetrun.tables.compare import EQUAL, FEWEST, LEVEL, Baseline, Comparison, Effect, compare, holm, judge
from budgetrun.tables.table import better, tabulate

UNIFORM = ("--baseline", "sampler=uniform")


# ---- runs without files


def run(sampler: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    base = {"sampler": sampler, "budget": 0.3, "seed": seed, "test_accuracy": accuracy, "flops": 100}
    return {**base, "path": f"{sampler}-{seed}", **more}


def compared(runs: list[dict[str, Any]], baseline: str = "sampler=uniform") -> Comparison:
    table = tabulate(runs, ["sampler"], ["budget"], "test_accuracy")
    comparison = compare(runs, [table], Baseline(runs, ["sampler", "budget", "seed"], baseline))
    judge([comparison])
    return comparison


def paired(differences: list[float], **more: Any) -> list[dict[str, Any]]:
    """A baseline of accuracies around 0.5, and `is` with these differences from it."""
    base = [0.5 + 0.01 * seed for seed in range(len(differences))]
    return [
        *(run("uniform", seed, accuracy) for seed, accuracy in enumerate(base)),
        *(run("is", seed, base[seed] + d, **more) for seed, d in enumerate(differences)),
    ]


def only(comparison: Comparison) -> Effect:
    (effect,) = comparison.effects.values()
    return effect


# ---- numbers


def test_difference_interval_and_p_of_three_pairs_by_hand() -> None:
    """Differences 1, 2 and 3: mean 2, sd 1, t = 2 sqrt 3; with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)."""
    effect = only(compared(paired([0.01, 0.02, 0.03])))
    t = 2 * math.sqrt(3)
    assert effect.difference == pytest.approx(0.02)
    assert effect.p == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-6)
    half = 4.302652730 * 0.01 / math.sqrt(3)  # the 97.5% point of t, 2 degrees of freedom
    assert (effect.low, effect.high) == pytest.approx((0.02 - half, 0.02 + half), rel=1e-6)
    assert (effect.pairs, effect.possible, effect.p_signs, effect.p_holm) == (3, 3, 0.25, effect.p)


def t_density(x: float, freedom: int) -> float:
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    return scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2)


def slow_t_test(differences: list[float]) -> float:
    """Two-sided p by Simpson's rule over the density from 0 to t."""
    n, mean = len(differences), math.fsum(differences) / len(differences)
    sd = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    t, steps = abs(mean) / (sd / math.sqrt(n)), 2000
    # in arctan, for large t
    end = math.atan(t)
    points = [t_density(math.tan(end * i / steps), n - 1) / math.cos(end * i / steps) ** 2 for i in range(steps + 1)]
    inner = sum(points[i] * (4 if i % 2 else 2) for i in range(1, steps))
    return 1 - 2 * (points[0] + inner + points[-1]) * end / steps / 3


def slow_sign_flips(differences: list[int]) -> float:
    """Over all signs, how often the sum is as far from 0 as it is."""
    flips = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(abs(flip) >= abs(sum(differences)) for flip in flips) / len(flips)


DIFFERENCES = st.lists(st.integers(-60, 60), min_size=2, max_size=9)  # in 1/128, which floats have exactly


@settings(deadline=None, max_examples=60)
@given(whole=DIFFERENCES.filter(lambda d: len(set(d)) > 1))
def test_p_and_interval_are_what_slow_calculations_give(whole: list[int]) -> None:
    differences = [d / 128 for d in whole]
    runs = [one for seed, d in enumerate(differences) for one in (run("uniform", seed, 0.5), run("is", seed, 0.5 + d))]
    effect = only(compared(runs))
    assert effect.difference == float(sum(map(Fraction, differences)) / len(differences))
    assert effect.p == pytest.approx(slow_t_test(differences), abs=1e-6)
    assert effect.p_signs == slow_sign_flips(whole)
    # the interval holds the means that are not rejected at its level: at its ends p is 0.05
    assert effect.low is not None
    assert effect.high is not None
    for end in (effect.low, effect.high):
        assert slow_t_test([d - end for d in differences]) == pytest.approx(LEVEL, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(whole=DIFFERENCES, order=st.randoms(use_true_random=False))
def test_swapping_method_and_baseline_flips_the_sign_and_the_order_of_runs_does_not_matter(
    whole: list[int], order: Any
) -> None:
    runs = paired([d / 128 for d in whole], flops=150)
    effect, swapped = only(compared(runs)), only(compared(runs, "sampler=is"))
    assert swapped.difference == -effect.difference
    assert (swapped.p, swapped.p_signs) == (pytest.approx(effect.p), effect.p_signs)
    if effect.low is not None and effect.high is not None:
        assert (swapped.low, swapped.high) == pytest.approx((-effect.high, -effect.low))
    assert (effect.dearest, swapped.dearest) == (1.5, pytest.approx(1 / 1.5))
    order.shuffle(runs)
    assert only(compared(runs)) == effect


def test_one_pair_has_no_interval_and_no_p_and_says_so(tmp_path: Path) -> None:
    assert only(compared(paired([0.1]))).p is None
    for sampler, accuracy in (("is", 0.75), ("uniform", 0.5)):
        write(tmp_path, sampler=sampler, test_accuracy=accuracy)
    out = aggregate(tmp_path, *UNIFORM).out
    (_, line), caption = second(out)
    assert line == [
        "is",
        "standard",
        "0.3",
        "+25.00",
        "—",
        "1",
        "—",
        "—",
        "—",
        "equal",
        "too few pairs to say anything",
    ]
    assert "corrected for 0 comparisons" in caption


def test_two_pairs_are_too_few_whatever_their_p() -> None:
    effect = only(compared(paired([0.2, 0.2000001])))
    assert effect.p_holm is not None
    assert effect.p_holm < LEVEL
    assert not effect.supported
    assert FEWEST == 3


@pytest.mark.parametrize(("difference", "p"), [(0.1, 0.125), (0.0, 1.0), (-0.3, 0.125)])
def test_equal_differences_leave_t_undefined_and_signs_decide(difference: float, p: float) -> None:
    effect = only(compared(paired([difference] * 4)))
    assert (effect.low, effect.high, effect.p, effect.p_signs) == (None, None, p, p)
    assert effect.difference == pytest.approx(difference)


def test_differences_that_rounding_alone_makes_unequal_are_equal() -> None:
    """In floats, 0.4 - 0.3 exceeds 0.3 - 0.2 in the last place. That must not give a t of 10^16."""
    runs = [
        one
        for seed, (mine, its) in enumerate([(0.3, 0.2), (0.4, 0.3), (0.2, 0.1)])
        for one in (run("uniform", seed, its), run("is", seed, mine))
    ]
    assert 0.4 - 0.3 != 0.3 - 0.2
    effect = only(compared(runs))
    assert (effect.low, effect.p, effect.p_signs) == (None, 0.25, 0.25)


def test_a_metric_that_is_not_finite_has_no_p_and_does_not_count_in_the_correction() -> None:
    runs = [*paired([0.01, 0.02, math.nan]), *(run("sb", seed, 0.6 + 0.01 * seed**2) for seed in range(3))]
    comparison = compared(runs)
    broken, whole = (comparison.effects["test_accuracy", (sampler,), ("0.3",)] for sampler in ("is", "sb"))
    assert math.isnan(broken.difference)
    assert broken.p is broken.p_holm is None
    assert whole.p_holm == whole.p
    assert not comparison.best


# ---- Holm's correction


def test_holm_by_hand() -> None:
    """Of four: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 which may not be less than the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(ps=st.lists(st.floats(0, 1), max_size=20))
def test_holm_rejects_what_the_stepwise_procedure_rejects(ps: list[float]) -> None:
    corrected = holm(ps)
    assert all(p <= c <= 1 for p, c in zip(ps, corrected, strict=True))
    by_p = sorted(zip(ps, corrected, strict=True))
    assert [c for _, c in by_p] == sorted(corrected), "a smaller p has a greater corrected one"
    for level in (0.01, 0.05, 0.2):
        kept = (k for k, p in enumerate(sorted(ps)) if p * (len(ps) - k) > level)
        assert sum(c <= level for c in corrected) == next(kept, len(ps))


def test_the_correction_is_over_all_cells_and_metrics_that_are_shown(tmp_path: Path) -> None:
    for sampler, budget, seed in itertools.product(["is", "uniform"], [0.3, 0.5], range(3)):
        shift = (0.1 + 0.01 * seed) * (sampler == "is")
        write(tmp_path, sampler=sampler, budget=budget, seed=seed, test_accuracy=0.5 + shift, test_loss=1 - shift)
    one = [line for line in table_of(tmp_path, *UNIFORM) if line["p"]]
    two = [line for line in table_of(tmp_path, *UNIFORM, "--metric", "test_accuracy,test_loss") if line["p"]]
    for count, lines in ((2, one), (4, two)):
        assert len(lines) == count
        # all alike up to rounding, so each is corrected by about the number of those that are not smaller
        assert max(float(line["p_holm"]) / float(line["p"]) for line in lines) == pytest.approx(count, rel=0.01)


# ---- what is a pair


def test_pairs_share_every_setting_but_what_the_baseline_fixes_and_its_option_s_values(tmp_path: Path) -> None:
    for seed in range(3):
        place = {"data_dir": f"d{seed}", "output_dir": "o", "force": True}
        write(tmp_path, sampler="is", seed=seed, test_accuracy=0.7, **{"sampler.pool": 3}, **place)
        write(tmp_path, sampler="uniform", seed=seed, test_accuracy=0.5, **{"sampler.other": 1})
    ((line),) = [line for line in table_of(tmp_path, *UNIFORM) if line["pairs"]]
    assert (line["sampler"], line["pairs"], line["possible"]) == ("is", "3", "3")
    assert float(line["difference"]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "other", [{"seed": 5}, {"budget_unit": "flops"}, {"epochs": 10.0}, {"noise": "symmetric"}, {"aug.flip": True}]
)
def test_a_run_that_differs_in_another_setting_has_no_partner_and_is_reported(other: Any, tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path, sampler="is", seed=seed, test_accuracy=0.7)
        write(tmp_path, sampler="uniform", seed=seed, test_accuracy=0.5)
    lonely = write(tmp_path, sampler="is", **{"seed": 2, "test_accuracy": 0.1, **other})
    write(tmp_path, sampler="uniform", seed=2, test_accuracy=0.5)
    done = aggregate(tmp_path, *UNIFORM)
    (_, line), _ = second(done.out)
    assert line[3:6] == ["+20.00", "—", "2 of 4"], "the lonely runs of both sides are possible pairs"
    (note,) = (line for line in done.err.splitlines() if "partner" in line)
    assert note == (
        "note: 1 run has no partner with sampler=uniform and no place in any difference; the baseline's run nearest to "
        f"{lonely / 'result.json'} differs in {', '.join(other)}"
    )


def of_tuning(sampler: str, lr: float, tuned: bool, accuracy: float) -> list[dict[str, Any]]:
    how = {"tune": "lr", "tune.key": "lr", "tune.seeds": [7]} if tuned else {"tune": "none"}
    return [run(sampler, seed, accuracy + 0.01 * seed, lr=lr, **how) for seed in range(3)]


def test_a_value_that_was_tuned_need_not_be_that_of_the_partner() -> None:
    """Tuned runs are compared with tuned ones, whatever was chosen, and with untuned ones if that is asked."""
    runs = [
        *of_tuning("uniform", 0.1, False, 0.5),
        *of_tuning("uniform", 0.3, True, 0.6),
        *of_tuning("is", 0.1, False, 0.55),
        *of_tuning("is", 0.03, True, 0.64),
    ]
    settings = ["sampler", "budget", "seed", "lr", "tune", "tune.key", "tune.seeds"]
    table = tabulate(runs, ["sampler", "tune"], ["budget"], "test_accuracy")

    def differences(baseline: str) -> dict[tuple[str, ...], float]:
        effects = compare(runs, [table], Baseline(runs, settings, baseline)).effects
        assert all((effect.pairs, effect.possible) == (3, 3) for effect in effects.values())
        return {place[1]: round(effect.difference, 9) for place, effect in effects.items()}

    assert differences("sampler=uniform") == {("is", "none"): 0.05, ("is", "lr"): 0.04}
    assert differences("tune=none") == {("uniform", "lr"): 0.1, ("is", "lr"): 0.09}
    runs[:3] = of_tuning("uniform", 0.2, False, 0.5)  # untuned runs must agree in it
    assert differences("sampler=uniform") == {("is", "lr"): 0.04}


def test_runs_made_before_a_setting_existed_are_partners_of_those_with_its_neutral_value(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, sampler="is", seed=seed, test_accuracy=0.7, init_from=None, freeze="none")
        write(tmp_path, sampler="uniform", seed=seed, test_accuracy=0.5)
    (line,) = [line for line in table_of(tmp_path, *UNIFORM) if line["pairs"]]
    assert (line["pairs"], line["possible"]) == ("3", "3")


def test_a_baseline_of_two_settings_is_compared_with_the_runs_that_differ_in_both(tmp_path: Path) -> None:
    """Selective backprop at half the budget against a full training run."""
    for seed in range(3):
        write(tmp_path, sampler="scan", budget=1.0, seed=seed, test_accuracy=0.9, flops=200)
        write(tmp_path, sampler="sb", budget=0.5, seed=seed, test_accuracy=0.8, flops=150)
    ((line),) = [x for x in table_of(tmp_path, "--baseline", "sampler=scan,budget=1") if x["pairs"]]
    assert (line["sampler"], line["budget"], line["pairs"]) == ("sb", "0.5", "3")
    assert float(line["cheapest"]) == 0.75


def test_several_runs_of_one_side_of_a_pair_are_averaged_and_reported(tmp_path: Path) -> None:
    write(tmp_path, sampler="uniform", test_accuracy=0.5)
    for pool, accuracy in ((2, 0.6), (3, 0.8)):
        write(tmp_path, sampler="is", test_accuracy=accuracy, **{"sampler.pool": pool})
    done = aggregate(tmp_path, *UNIFORM, "--format", "csv")
    line = next(line for line in csv.DictReader(io.StringIO(done.out)) if line["pairs"])
    assert (line["n"], line["pairs"]) == ("2", "1")
    assert float(line["difference"]) == pytest.approx(0.2)
    assert "note: several runs with the same settings and seed are averaged into one of a pair" in done.err


def test_pairs_of_two_machines_are_reported(tmp_path: Path) -> None:
    write(tmp_path, sampler="uniform", device="cuda (NVIDIA H100)")
    write(tmp_path, sampler="is")
    assert "note: the runs of a pair differ in device" in aggregate(tmp_path, *UNIFORM).err


# ---- what it cost


def effect_at(*ratios: float) -> Effect:
    runs = paired([0.1, 0.11, 0.12])
    for one, ratio in zip(runs[3:], ratios, strict=True):
        one["flops"] = 100 * ratio
    return only(compared(runs))


@pytest.mark.parametrize(
    ("ratios", "equal"), [((1, 1, 1), True), ((0.98, 1, 1.02), True), ((1, 1, 1.021), False), ((0.97, 1, 1), False)]
)
def test_cost_is_equal_when_no_pair_differs_by_more_than_2_percent(ratios: tuple[float, ...], equal: bool) -> None:
    assert EQUAL == 0.02
    assert effect_at(*ratios).equal_cost is equal


@pytest.mark.parametrize(
    ("ratios", "shown"), [((1.84,) * 3, "x1.84"), ((1, 1, 1.84), "x1.00 to x1.84"), ((1, 1.01, 1), "equal")]
)
def test_the_table_says_by_how_much_the_cost_differs(ratios: tuple[float, ...], shown: str, tmp_path: Path) -> None:
    for seed, ratio in enumerate(ratios):
        write(tmp_path, sampler="uniform", seed=seed, test_accuracy=0.5, flops=100)
        write(tmp_path, sampler="is", seed=seed, test_accuracy=0.7 + 0.001 * seed, flops=100 * ratio)
    done = aggregate(tmp_path, *UNIFORM)
    (_, line), _ = second(done.out)
    assert line[-2:] == [shown, "better" if shown == "equal" else "better, not at equal cost"]
    # in bold only where it did not cost more
    assert ("**70.10 ± 0.10**" in done.out) == (shown == "equal")


def test_the_flops_of_the_runs_that_made_a_file_of_scores_are_paid_for() -> None:
    runs = paired([0.1, 0.2, 0.3], flops_before=84)
    assert only(compared(runs)).dearest == 1.84


@pytest.mark.parametrize("spent", [0, None])
def test_a_cost_that_is_not_known_is_not_equal(spent: Any, tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, sampler="uniform", seed=seed, test_accuracy=0.5, flops=spent if seed == 1 else 10)
        write(tmp_path, sampler="is", seed=seed, test_accuracy=0.7 + seed / 1000)
    out = aggregate(tmp_path, *UNIFORM).out
    assert second(out)[0][1][-2:] == ["unknown", "better, at unknown cost"]
    assert "**" not in out


@pytest.mark.parametrize("accuracies", itertools.permutations([0.5, 0.5, math.nan]))
def test_a_difference_that_is_not_finite_is_no_difference_of_0(accuracies: tuple[float, ...]) -> None:
    runs = [run(sampler, seed, 0.5) for sampler in ("uniform", "is") for seed in range(3)]
    for one, accuracy in zip(runs[3:], accuracies, strict=True):
        one["test_accuracy"] = accuracy
    found = only(compared(runs))
    assert (math.isnan(found.difference), found.p, found.p_holm) == (True, None, None)


# ---- what may be said, and what is bold


def test_a_cell_that_mixes_the_baseline_with_others_is_compared_and_not_bold(tmp_path: Path) -> None:
    for sampler, seed in itertools.product(["is", "uniform"], range(3)):
        write(tmp_path, sampler=sampler, seed=seed, test_accuracy=0.5 + (0.1 + seed / 1000) * (sampler == "is"))
    line = next(csv.DictReader(io.StringIO(aggregate(tmp_path, *UNIFORM, "--rows", "aug", "--format", "csv").out)))
    assert (line["n"], line["pairs"]) == ("6", "3")
    assert float(line["difference"]) == pytest.approx(0.101)
    assert "**" not in aggregate(tmp_path, *UNIFORM, "--rows", "aug").out


def test_the_best_is_bold_where_its_difference_from_the_baseline_is_supported(tmp_path: Path) -> None:
    """sb is the best, with 0.2 more and little spread; `is` is supported too, but not the best; scan is worse."""
    shifts = {"sb": 0.2, "is": 0.1, "uniform": 0.0, "scan": -0.1}
    for (sampler, shift), seed in itertools.product(shifts.items(), range(3)):
        write(tmp_path, sampler=sampler, seed=seed, test_accuracy=0.5 + shift + 0.001 * seed * (sampler != "uniform"))
    out = aggregate(tmp_path, *UNIFORM).out
    lines, _ = read_markdown(out.split("\n\n| sampler")[0])
    assert [(line[0], "**" in line[2]) for line in lines[1:]] == [
        ("is", False),
        ("sb", True),
        ("scan", False),
        ("uniform", False),
    ]
    said, _ = second(out)
    assert [(line[0], line[-1]) for line in said[1:]] == [("is", "better"), ("sb", "better"), ("scan", "worse")]
    as_latex = aggregate(tmp_path, *UNIFORM, "--format", "latex").out
    assert as_latex.count(r"\textbf{") == 1
    assert r"sb & standard & \textbf{70.10 $\pm$ 0.10} \\" in as_latex


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"spread": 0.3}, "not supported"),
        ({"seeds": 2}, "too few pairs"),
        ({"tie": True}, "two are the best"),
        ({"metric": "visits_entropy"}, "neither more nor less is better"),
    ],
)
def test_otherwise_nothing_is_bold(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    metric = changes.get("metric", "test_accuracy")
    for seed in range(changes.get("seeds", 3)):
        better = 0.6 + 0.001 * seed + changes.get("spread", 0.0) * (seed == 1)
        write(tmp_path, sampler="uniform", seed=seed, **{metric: 0.5})
        write(tmp_path, sampler="is", seed=seed, **{metric: better})
        if "tie" in changes:
            write(tmp_path, sampler="sb", seed=seed, **{metric: better})
    assert "**" not in aggregate(tmp_path, *UNIFORM, "--metric", metric).out, why


def test_a_lower_loss_is_better(tmp_path: Path) -> None:
    for sampler, seed in itertools.product(["is", "uniform"], range(3)):
        write(tmp_path, sampler=sampler, seed=seed, test_loss=1 - (0.5 + 0.001 * seed) * (sampler == "is"))
    out = aggregate(tmp_path, *UNIFORM, "--metric", "test_loss").out
    assert "**0.4990 ± 0.0010**" in out
    assert second(out)[0][1][-1] == "better"


def test_which_direction_is_better_for_each_kind_of_metric() -> None:
    more = ["test_accuracy", "val_accuracy", "test_accuracy_at_best_validation", "speedup_seconds"]
    less = ["test_loss", "test_error", "seconds", "seconds_total", "flops", "epochs_to_generalise"]
    neither = ["visits_entropy", "keep_rate", "selection_seconds", "selection_flops", "updates", "n_training"]
    assert [better(metric) for metric in (*more, *less, *neither)] == [1] * 4 + [-1] * 6 + [0] * 6


def test_every_augmentation_has_its_own_best_since_each_has_its_own_baseline(tmp_path: Path) -> None:
    for aug, sampler, seed in itertools.product(["none", "ricap"], ["is", "uniform"], range(3)):
        accuracy = 0.5 + 0.2 * (aug == "none") + (0.1 + 0.001 * seed) * (sampler == "is")
        write(tmp_path, aug=aug, sampler=sampler, seed=seed, test_accuracy=accuracy)
    lines, _ = read_markdown(aggregate(tmp_path, *UNIFORM).out.split("\n\n| sampler")[0])
    assert [tuple(line[:2]) for line in lines if "**" in line[2]] == [("is", "none"), ("is", "ricap")]


def test_the_caption_says_what_few_seeds_cannot_show(tmp_path: Path) -> None:
    for sampler, seed in itertools.product(["is", "uniform"], range(3)):
        write(tmp_path, sampler=sampler, seed=seed, test_accuracy=0.5 + 0.1 * seed * (sampler == "is"))
    _, caption = second(aggregate(tmp_path, *UNIFORM).out)
    assert "the sign-flip p cannot be below 0.25 for n = 3" in caption
    assert "corrected for 1 comparison;" in caption


def second(out: str) -> tuple[list[list[str]], str]:
    """The table of differences, the second that is printed."""
    start = out.index("\n\n| sampler") + 2
    return read_markdown(out[start:])


def test_latex_has_the_same_two_tables(tmp_path: Path) -> None:
    for sampler, seed in itertools.product(["is", "uniform"], range(3)):
        write(tmp_path, sampler=sampler, seed=seed, test_accuracy=0.5 + 0.1 * seed * (sampler == "is"))
    tables = aggregate(tmp_path, *UNIFORM, "--format", "latex").out.split("\n\n")
    assert len(tables) == 2
    assert read_latex(tables[1]) == second(aggregate(tmp_path, *UNIFORM).out)


# ---- bad input


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("sampler=foo", ["--baseline sampler=foo leaves no run", "sampler is is, uniform, not foo"]),
        ("smapler=is", ["no run has smapler; did you mean sampler?"]),
        ("sampler", ["--baseline sampler is not of the form setting=value"]),
        ("", ["--baseline names no setting"]),
        (" , ", ["--baseline names no setting"]),
        ("budget=0.3", ["matches all 2 runs; there is none to compare with it"]),
        ("test_accuracy=0.5", ["test_accuracy is not a setting"]),
        ("seed=0", ["seed is not a setting"]),
        ("device=cpu (x86_64)", ["device is not a setting"]),
    ],
)
def test_an_invalid_baseline_is_refused_in_one_sentence(typed: str, words: list[str], tmp_path: Path) -> None:
    write(tmp_path, sampler="is")
    write(tmp_path, sampler="uniform")
    refused(aggregate(tmp_path, "--baseline", typed), *words)
