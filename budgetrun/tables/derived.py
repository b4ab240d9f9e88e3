"""Metrics derived from the evaluations of a run and of a baseline: what papers report besides the final accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from budgetrun.errors import UserError
from budgetrun.tables.compare import Baseline
from budgetrun.tables.runs import Run, curve

Curve = Mapping[str, list[Any]]


class Undefined(Exception):
    """Why a run has no value of a metric, as the end of the sentence `skipped PATH: ...`."""


@dataclass
class Options:
    """baseline: what a speed-up compares error and cost with. threshold: the multiple of its final error to be reached.
    share: the fraction of a run's own final accuracy that counts as generalised. trainings: how many runs share the
    cost of the files that a run reads."""

    baseline: Baseline | None = None
    threshold: float = 1.2
    share: float = 0.99
    trainings: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold < math.inf:
            raise UserError(f"--threshold {self.threshold:g} is not 1 or more: it scales the baseline's final error")
        if not 0 < self.share <= 1:
            raise UserError(f"--share {self.share:g} is not above 0 and at most 1: it scales a run's final accuracy")
        if self.trainings < 1:
            raise UserError(
                f"--trainings {self.trainings} is not 1 or more: it is how many runs share the cost of files"
            )


def derive(runs: Iterable[Run], metrics: Iterable[str], options: Options) -> dict[tuple[str, str], str]:
    """Add the derived metrics to the runs that have them; returns why a run has none, by metric and path."""
    curves: dict[int, Curve] = {}
    why = {}

    def evaluations(run: Run) -> Curve:
        if id(run) not in curves:
            try:
                curves[id(run)] = curve(run)
            except ValueError as error:
                raise Undefined(f"its evaluations are not known ({error})") from error
        return curves[id(run)]

    for metric in metrics:
        if metric not in DERIVED:
            continue
        for run in runs:
            try:
                run[metric] = DERIVED[metric](run, evaluations, options)
            except Undefined as reason:
                run.pop(metric, None)
                why[metric, str(run["path"])] = str(reason)
    return why


def error(run: Run, evaluations: Callable[[Run], Curve], options: Options) -> float:
    """1 - the final test accuracy."""
    return 1 - float(run["test_accuracy"])


def at_best_validation(run: Run, evaluations: Callable[[Run], Curve], options: Options) -> float:
    """The test accuracy at the evaluation with the highest validation accuracy; at the first of several."""
    chosen, shown = column(evaluations(run), "val_accuracy", "test_accuracy")
    return float(shown[chosen.index(max(chosen))])


def best_on_test(run: Run, evaluations: Callable[[Run], Curve], options: Options) -> float:
    """The highest test accuracy of all evaluations. The test set chose it, so it does not estimate anything."""
    (shown,) = column(evaluations(run), "test_accuracy")
    return float(max(shown))


def anytime(run: Run, evaluations: Callable[[Run], Curve], options: Options) -> float:
    """The area under test accuracy against FLOPs, by the trapezoidal rule, over the FLOPs of first to last evaluation.

    That is the mean accuracy of a network that is taken at a random moment between these. OURS.
    """
    shown, flops = column(evaluations(run), "test_accuracy", "flops")
    if len(shown) < 2 or flops[-1] <= flops[0]:
        raise Undefined("it has fewer than two evaluations; add some, as in evaluations=10")
    sides = zip(shown, shown[1:], flops, flops[1:], strict=False)
    return sum((a + b) / 2 * (later - earlier) for a, b, earlier, later in sides) / (flops[-1] - flops[0])


def epochs_to_generalise(run: Run, evaluations: Callable[[Run], Curve], options: Options) -> float:
    """Epochs to the first evaluation whose test accuracy reaches a share of the run's own final one.

    An epoch is floor(N / batch size) updates. OURS: Sahayam et al. 2023 define theirs nowhere that we could read.
    """
    shown, updates = column(evaluations(run), "test_accuracy", "updates")
    if missing := [name for name in ("batch_size", "budget", "budget_unit", "epochs") if run.get(name) is None]:
        raise Undefined(f"it has no {missing[0]}")  # for example a CSV from which columns were removed
    place = first(shown, lambda accuracy: accuracy >= options.share * shown[-1])
    return float(updates[place] / updates_an_epoch(run))


def updates_an_epoch(run: Run) -> int:
    """floor(N / batch size)."""
    if run.get("n_training"):
        found = int(run["n_training"]) // int(run["batch_size"])
    else:
        # an older result, without n_training: updates = round(budget x int(epochs x floor(N / batch size)))
        epochs = run["budget"] * run["epochs"]
        rounded = 0.5 if float(run["epochs"]).is_integer() else 0.5 + run["budget"]  # at most, in updates
        if run["budget_unit"] != "updates" or run["updates"] is None or rounded / epochs >= 0.5:
            raise Undefined("how many updates are an epoch is not known: its result has no n_training")
        found = round(run["updates"] / epochs)
    if not found:
        raise Undefined("its batches are larger than its training data")
    return found


def speedup(unit: str) -> Callable[[Run, Callable[[Run], Curve], Options], float]:
    """What the baseline spends to reach an error, divided by what the run spends.

    The error is `threshold` times the final error of the baseline's run with the same settings and seed (several are
    averaged). The spending is read at the first evaluation at or below the error. The definition is OURS, inferred from
    Hu et al. 2021, table 1, where every error that is reached is below 1.2 times Standard's.
    """

    def ratio(run: Run, evaluations: Callable[[Run], Curve], options: Options) -> float:
        if options.baseline is None:
            raise Undefined("there is no baseline beside it")
        partners = options.baseline.partners(run)
        if not partners:
            raise Undefined(f"it has no partner with {options.baseline.typed}")
        final = sum(1 - partner["test_accuracy"] for partner in partners) / len(partners)
        limit = options.threshold * final

        def until_then(run: Run, whose: str) -> float:
            shown, costs = column(evaluations(run), "test_accuracy", unit)
            # 1e-12 allows for rounding of an accuracy and its error
            place = first(shown, lambda accuracy: 1 - accuracy <= limit + 1e-12)
            if place < 0:
                raise Undefined(f"{whose} never reaches an error of {limit:.4f}")
            if not costs[place]:
                raise Undefined(f"{whose} reaches an error of {limit:.4f} with {unit} of 0")
            return float(costs[place])

        theirs = [until_then(partner, "its baseline") for partner in partners]
        return sum(theirs) / len(theirs) / until_then(run, "it")

    return ratio


def flops_total(run: Run, evaluations: Callable[[Run], Curve], options: Options) -> float:
    """FLOPs of the run, and of the runs that led to the files that it reads, shared by so many trainings."""
    return spent(run, "flops") + spent(run, "flops_before") / options.trainings


def pays_after(run: Run, evaluations: Callable[[Run], Curve], options: Options) -> float:
    """How many trainings must share the cost of the files until each costs at most what the baseline's run costs."""
    if options.baseline is None:
        raise Undefined("there is no baseline beside it")
    if not (partners := options.baseline.partners(run)):
        raise Undefined(f"it has no partner with {options.baseline.typed}")
    theirs = sum(spent(partner, "flops") + spent(partner, "flops_before") for partner in partners) / len(partners)
    saved = theirs - spent(run, "flops")
    if saved <= 0:
        raise Undefined("it costs no less than its baseline, however many share its files")
    return max(1, math.ceil(spent(run, "flops_before") / saved))


def spent(run: Run, name: str) -> float:
    """A number of FLOPs; results of earlier versions have no flops_before."""
    value = run.get(name, 0 if name == "flops_before" else None)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise Undefined(f"its {name} is not known")
    return value


def column(curve: Curve, *names: str) -> list[list[Any]]:
    """These lists of a curve; raises Undefined if one is missing, has a gap, or has a value that is not finite."""
    for name in names:
        if not curve.get(name) or None in curve[name]:
            raise Undefined(f"its evaluations have no {name}" if curve else "its evaluations are not known")
        if not all(map(math.isfinite, curve[name])):
            raise Undefined(f"its evaluations have a {name} that is not finite")
    return [curve[name] for name in names]


def first(values: list[Any], holds: Callable[[float], bool]) -> int:
    """The index of the first value for which `holds` is true, or -1."""
    return next((place for place, value in enumerate(values) if holds(value)), -1)


SPEEDUPS = {"speedup_examples": speedup("examples_backward"), "speedup_seconds": speedup("seconds")}
DERIVED = {
    "test_error": error,
    "test_accuracy_at_best_validation": at_best_validation,
    "test_accuracy_best_on_test": best_on_test,
    "anytime_accuracy": anytime,
    "epochs_to_generalise": epochs_to_generalise,
    "flops_total": flops_total,
    "pays_after": pays_after,
    **SPEEDUPS,
}
RATIOS = (*SPEEDUPS, "pays_after")  # of a run to its baseline


def note(metric: str, runs: Iterable[Run], options: Options) -> str:
    """What the caption of a table says about the metric, besides its name."""
    typed = options.baseline.typed if options.baseline else ""
    of = {"speedup_examples": "images backpropagated", "speedup_seconds": "seconds"}.get(metric)
    if of:
        return (
            f"{metric}: {of} by {typed} until {options.threshold:g} times its final error, over those by the run; our "
            "definition, inferred from Hu et al. 2021; a run that never reaches that error is left out of the means"
        )
    if metric == "visits_entropy":
        sizes = {run.get("n_training") for run in runs if run.get(metric) is not None}
        n = sizes.pop() if len(sizes) == 1 else None
        return f"{metric}: in nats" + (f", at most ln N = {math.log(n):.3f}" if n else "")
    return {
        "test_accuracy_at_best_validation": f"{metric}: at the evaluation of the highest validation accuracy",
        "test_accuracy_best_on_test": f"{metric} is OPTIMISTIC: the test set itself chose the evaluation",
        "anytime_accuracy": f"{metric}: mean test accuracy over the FLOPs of first to last evaluation; our definition",
        "flops_total": f"{metric}: with those of the runs that led to its files, shared by --trainings "
        f"{options.trainings}",
        "pays_after": f"{metric}: trainings that share the cost of files until each costs at most what {typed} costs",
        "epochs_to_generalise": f"{metric}: until {options.share:g} of the run's own last test accuracy; our "
        "definition",
    }.get(metric, "")
