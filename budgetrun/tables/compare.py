"""A method against a baseline, run by run: pairs with the same seed and settings, their difference, what both cost."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from budgetrun.digits import short, written
from budgetrun.errors import UserError
from budgetrun.tables.runs import CIRCUMSTANCES, REPEATS, Run, conditions, select, varying, without_options
from budgetrun.tables.table import MISSING, Key, Place, Sheet, Table, better, decimals_of, unit_of, word, words

LEVEL = 0.05  # a difference is supported if its corrected p is at most this
FEWEST = 3  # pairs; two say next to nothing about their spread
EQUAL = 0.02  # fraction by which the FLOPs of a pair may differ at equal cost
BOLD = (
    "bold: the best of those that have one baseline, if it is better than that "
    f"(p, Holm, at most {LEVEL}) at no higher cost"
)
OWNER = {"select": "sampler"}  # a rule of selection is there for one sampler; others have none
TUNING = "what the tuning runs spent (flops_tuning) is in none of these costs"
NO_MARGINS: Mapping[str, float] = {}
EXACT = 14  # pairs up to which all 2^n sign flips are made; beyond that, as many at random


class Baseline:
    """The runs that have a baseline's settings, and the partners among them of all other runs.

    Partners agree in every setting except those that the baseline fixes and, for an option, the option's own values:
    with `sampler=uniform`, all but sampler, sampler.pool, select and the like. Where a run is stored, and what machine
    and code it ran on, are not settings. A value that was tuned for each cell, as lr with tune=lr, need not agree.
    Raises UserError for a name that is no setting, and if no run or every run matches.
    """

    def __init__(self, runs: list[Run], settings: Collection[str], typed: str) -> None:
        self.typed = typed
        self.fixed = [name for name, _ in conditions(typed, "--baseline")]
        if not self.fixed:
            raise UserError("--baseline names no setting; type for example --baseline sampler=uniform")
        self.runs = select(runs, typed, "--baseline")
        apart = {*REPEATS, *CIRCUMSTANCES}
        for name in self.fixed:
            if name not in settings or name in apart:
                raise UserError(f"--baseline {typed}: {name} is not a setting of the training that methods differ in")
        if len(self.runs) == len(runs):
            raise UserError(f"--baseline {typed} matches all {len(runs)} runs; there is none to compare with it")
        self.tuned = {word(run["tune.key"]) for run in runs if "tune.key" in run}
        shared = [name for name in settings if name == "seed" or not (name in apart or self.fixes(name))]
        self.shared = varying(runs, shared)
        self.own = {id(run) for run in self.runs}
        self.by_key: dict[Key, list[Run]] = {}
        for run in self.runs:
            self.by_key.setdefault(self.key(run), []).append(run)

    def fixes(self, name: str) -> bool:
        """Whether the baseline fixes a setting, or the option that the setting is a value of or belongs to."""
        owner = OWNER.get(name.partition(".")[0])
        if name in self.tuned and "tune" in self.fixed:  # it is a matter of tune then
            return True
        return owner in self.fixed or any(name == fixed or name.startswith(f"{fixed}.") for fixed in self.fixed)

    def holds(self, run: Run) -> bool:
        """Whether a run has the baseline's settings."""
        return id(run) in self.own

    def key(self, run: Run) -> Key:
        """What a run and its partners agree on."""
        return agreed(run, self.shared)

    def partners(self, run: Run) -> list[Run]:
        """The baseline's runs that this one is compared with; for a run of the baseline, itself and those like it."""
        return self.by_key.get(self.key(run), [])

    def differs(self, run: Run) -> list[str]:
        """The settings that keep the nearest of the baseline's runs from being a partner, because they differ."""
        mine = self.key(run)
        return min(
            ([name for name, a, b in zip(self.shared, mine, key, strict=True) if a != b] for key in self.by_key),
            key=len,
        )


def agreed(run: Run, names: Iterable[str]) -> Key:
    """The values on which a pair must agree. What was tuned, a pair agrees on if both were tuned."""
    return words({**run, word(run["tune.key"]): "tuned"} if "tune.key" in run else run, names)


@dataclass
class Effect:
    """method - baseline over the pairs of a cell.

    difference: the mean of differences, in the metric's own unit. possible: how many pairs there would be if no
    partner were missing. cheapest, dearest: the least and the greatest ratio of a pair's FLOPs, method over baseline;
    the FLOPs of the runs that made a file of scores are included. margin: a difference below this counts as none; None
    if the metric has no such margin. low, high: the 95% interval of the difference by Student's t with n - 1 degrees of
    freedom. p: two-sided, of the paired t-test. p_signs: two-sided, of the sign-flip permutation test of the mean.
    p_holm: p corrected by Holm's method over the whole family, see judge. p_equal: of the hypothesis that the
    difference is the margin or more on either side, the greater of two one-sided paired t-tests (Schuirmann 1987),
    corrected over the family too. One pair has no interval and no p. If all differences are equal, t is undefined:
    there is no interval and no p_equal, and p is p_signs.
    """

    difference: float
    differences: list[float]
    possible: int
    cheapest: float
    dearest: float
    margin: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_signs: float | None = None
    p_holm: float | None = None
    p_equal: float | None = None

    @property
    def uncertain(self) -> float | None:
        """Half of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def pairs(self) -> int:
        return len(self.differences)

    @property
    def supported(self) -> bool:
        return self.pairs >= FEWEST and self.p_holm is not None and self.p_holm <= LEVEL

    @property
    def negligible(self) -> bool:
        """Whether it is shown that the difference lies within the margin."""
        return self.pairs >= FEWEST and self.p_equal is not None and self.p_equal <= LEVEL

    @property
    def equal_cost(self) -> bool:
        return self.cheapest >= 1 - EQUAL and self.dearest <= 1 + EQUAL


@dataclass
class Comparison:
    """Cells of tables against a baseline.

    effects: by place; cells of the baseline itself and cells without a pair have none. leading: the places of the best
    mean among the cells that share a baseline. remarks: what to know about the pairs, in sentences. family: the number
    of comparisons that p is corrected for; `judge` sets it, with the intervals and all p-values.
    """

    baseline: str
    effects: dict[Place, Effect] = field(default_factory=dict)
    leading: set[Place] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)
    family: int = 0

    @property
    def best(self) -> set[Place]:
        """The places to be set in bold: those leading whose difference is supported, and which did not cost more."""
        return {place for place in self.leading if is_supported(place, self.effects.get(place))}


def compare(
    runs: list[Run], tables: Sequence[Table], baseline: Baseline, margins: Mapping[str, float] = NO_MARGINS
) -> Comparison:
    """The differences of the tables' cells from the baseline; `judge` says what they mean.

    margins: by metric, in its own unit.
    """
    result = Comparison(baseline.typed)
    pairs: list[tuple[list[Run], list[Run]]] = []
    alone: dict[int, Run] = {}
    for table in tables:
        free = [name for name in (*table.rows, *table.columns) if not baseline.fixes(name)]
        # runs by what pairs agree on: of each cell, and of the baseline by the shown settings that it leaves free
        methods: dict[tuple[Key, Key], dict[Key, list[Run]]] = {}
        bases: dict[Key, dict[Key, list[Run]]] = {}
        rivals: dict[Key, set[tuple[Key, Key]]] = {}  # the cells that share a baseline, its own included
        for run in runs:
            if run.get(table.metric) is None:
                continue
            cell, rest = (words(run, table.rows), words(run, table.columns)), agreed(run, free)
            rivals.setdefault(rest, set()).add(cell)
            of = bases.setdefault(rest, {}) if baseline.holds(run) else methods.setdefault(cell, {})
            of.setdefault(baseline.key(run), []).append(run)
        for rest, cells in rivals.items():
            its = bases.get(rest, {})
            for cell in sorted(cells & methods.keys()):
                mine = methods[cell]
                alone |= {id(run): run for key in mine.keys() - its.keys() for run in mine[key]}
                if both := [(mine[key], its[key]) for key in sorted(mine.keys() & its.keys())]:
                    pairs += both
                    found = effect(both, table.metric, len(mine.keys() | its.keys()))
                    found.margin = margins.get(table.metric)
                    result.effects[table.metric, *cell] = found
        result.leading |= {(table.metric, *cell) for cells in rivals.values() for cell in leading(table, cells)}
    result.remarks = remarks(baseline, pairs, list(alone.values()))
    return result


def effect(pairs: Sequence[tuple[list[Run], list[Run]]], metric: str, possible: int) -> Effect:
    """The effect over pairs. A pair holds the runs of the method and of the baseline, which are averaged first."""
    values = [[statistics.fmean(run[metric] for run in side) for side in pair] for pair in pairs]
    differences = [mine - its for mine, its in values]
    # rounding alone may separate equal differences by this much
    rounding = 1e-12 * max(abs(value) for pair in values for value in pair)
    if all(map(math.isfinite, differences)) and max(differences) - min(differences) <= rounding:  # max skips some nan
        differences = [0.0 if abs(differences[0]) <= rounding else differences[0]] * len(differences)
    costs = [[statistics.fmean(map(flops, side)) for side in pair] for pair in pairs]
    known = all(cost > 0 for pair in costs for cost in pair)  # nan is not > 0
    ratios = [mine / its if known else math.nan for mine, its in costs]
    return Effect(statistics.fmean(differences), differences, possible, min(ratios), max(ratios))


def judge(comparisons: Collection[Comparison]) -> None:
    """Set the intervals and all p-values. The comparisons are one family: p is corrected for all of them together.

    A family is everything that one question compares, however many tables show it. Otherwise a table with few of the
    comparisons would find more differences than a table with all of them.
    """
    effects = [effect for comparison in comparisons for effect in comparison.effects.values()]
    by_n: dict[int, list[Effect]] = {}
    for effect in effects:
        differences = effect.differences
        if len(differences) == 1 or not all(map(math.isfinite, differences)):
            continue
        if len(set(differences)) > 1:
            by_n.setdefault(effect.pairs, []).append(effect)
        else:
            effect.p = effect.p_signs = 2.0 ** (1 - effect.pairs) if differences[0] else 1.0
    for alike in by_n.values():  # together: scipy takes as long for one as for a hundred
        import numpy as np
        from scipy import stats  # takes 1 s, which a table without a baseline does not need

        differences_of = np.array([effect.differences for effect in alike])
        t = stats.ttest_1samp(differences_of, 0, axis=1)
        low, high = t.confidence_interval(1 - LEVEL)
        flips = stats.permutation_test(
            (differences_of,), np.mean, permutation_type="samples", axis=1, n_resamples=2**EXACT, batch=512, rng=0
        )
        for place, effect in enumerate(alike):
            found = (float(values[place]) for values in (low, high, t.pvalue, flips.pvalue))
            effect.low, effect.high, effect.p, effect.p_signs = found
            if effect.margin is not None:
                effect.p_equal = equivalence(effect.differences, effect.margin)
    tested = [effect for effect in effects if effect.p is not None]
    for effect, p in zip(tested, holm([effect.p or 0.0 for effect in tested]), strict=True):
        effect.p_holm = p
    bounded = [effect for effect in effects if effect.p_equal is not None]
    for effect, p in zip(bounded, holm([effect.p_equal or 0.0 for effect in bounded]), strict=True):
        effect.p_equal = p
    for comparison in comparisons:
        comparison.family = len(tested)


def equivalence(differences: Sequence[float], margin: float) -> float:
    """p of the hypothesis that the mean difference is `margin` or more, on whichever side is nearer.

    The greater p of two one-sided paired t-tests. Source: Schuirmann 1987, "A comparison of the two one-sided tests
    procedure and the power approach for assessing the equivalence of average bioavailability".
    """
    from scipy.special import stdtr

    n = len(differences)
    t = (abs(statistics.fmean(differences)) - margin) / (statistics.stdev(differences) / math.sqrt(n))
    return float(stdtr(n - 1, t))


def flops(run: Run) -> float:
    """The FLOPs of a run and of the runs that made the files that it reads."""
    spent = run["flops"], run.get("flops_before") or 0
    return float(sum(spent)) if all(isinstance(part, int | float) for part in spent) else math.nan


def holm(ps: Sequence[float]) -> list[float]:
    """p corrected for their number: the k-th smallest of m times m - k + 1, no less than those before it, at most 1.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = least
    return corrected


def leading(table: Table, cells: Iterable[tuple[Key, Key]]) -> list[tuple[Key, Key]]:
    """The cell with the best mean of several; none if two share it, one is not finite, or the metric has no better."""
    means = {cell: table.cells[cell].mean for cell in cells}
    if len(means) < 2 or not (sign := better(table.metric)) or not all(map(math.isfinite, means.values())):
        return []
    top = max(sign * mean for mean in means.values())
    best = [cell for cell, mean in means.items() if sign * mean == top]
    return best if len(best) == 1 else []


def is_supported(place: Place, effect: Effect | None) -> bool:
    """Whether the best of its rivals is shown to be better than the baseline, at no higher cost."""
    return (
        effect is not None
        and effect.supported
        and effect.dearest <= 1 + EQUAL
        and effect.difference * better(place[0]) > 0
    )


def remarks(baseline: Baseline, pairs: Sequence[tuple[list[Run], list[Run]]], alone: Sequence[Run]) -> list[str]:
    """What to know about the pairs, in one sentence each."""
    said = []
    if alone:
        why = ", ".join(without_options(baseline.differs(alone[0])))
        runs = "1 run has" if len(alone) == 1 else f"{len(alone)} runs have"
        said.append(
            f"note: {runs} no partner with {baseline.typed} and no place in any difference; the baseline's run nearest "
            f"to {alone[0]['path']} differs in {why}"
        )
    if any(run.get("flops_tuning") for pair in pairs for side in pair for run in side):
        said.append(f"note: {TUNING}")
    if any(len(side) > 1 for pair in pairs for side in pair):
        said.append("note: several runs with the same settings and seed are averaged into one of a pair")
    for name in CIRCUMSTANCES:
        if any(len({word(run.get(name, "")) for side in pair for run in side}) > 1 for pair in pairs):
            said.append(f"note: the runs of a pair differ in {name}")
    return said


# ---- as it is shown


def differences(comparison: Comparison, tables: Sequence[Table]) -> Sheet:
    """One line per comparison: the difference, its interval, n, p in three ways, and the cost."""
    first = tables[0]
    several = [["metric"]] if len(tables) > 1 else []
    head = ["difference", "95% interval", "n", "p", "p, Holm", "p, signs", "FLOPs", "verdict"]
    names = [*first.rows, *first.columns, *(name for names in several for name in names)]
    lines = []
    for table in tables:
        for row in table.row_keys:
            for column in table.column_keys:
                found = comparison.effects.get((table.metric, row, column))
                if found is None:
                    continue
                of = f"{found.pairs} of {found.possible}" if found.possible > found.pairs else str(found.pairs)
                interval = MISSING
                if found.low is not None and found.high is not None:
                    interval = " to ".join(
                        signed(table.metric, end, found.uncertain) for end in (found.low, found.high)
                    )
                ps = [MISSING if p is None else f"{p:.2g}" for p in (found.p, found.p_holm, found.p_signs)]
                shown = [*(w or MISSING for w in (*row, *column)), *([table.metric] if several else [])]
                said = [cost(found), verdict(table.metric, found)]
                lines.append(
                    [*shown, signed(table.metric, found.difference, found.uncertain), interval, of, *ps, *said]
                )
    return Sheet([*names, *head], lines, caption(comparison, tables), left=len(names))


def cost(effect: Effect) -> str:
    """The FLOPs relative to the baseline's, in words."""
    if math.isnan(effect.cheapest):
        return "unknown"
    if effect.equal_cost:
        return "equal"
    least, most = f"x{effect.cheapest:.2f}", f"x{effect.dearest:.2f}"
    return least if least == most else f"{least} to {most}"


class Finding(enum.Enum):
    """What can be said about a difference."""

    BETTER = "better"
    WORSE = "worse"
    DIFFERENT = "differs"  # of a metric of which neither more nor less is better
    EQUAL = "equal"  # within the margin
    UNKNOWN = "no difference shown"
    FEW = "too few pairs to say anything"
    DIVERGED = "not finite, so nothing is tested"  # a run measured NaN or infinity


def finding(metric: str, effect: Effect) -> Finding:
    """What an effect shows. A difference that is shown counts, however small; see `negligible` for its size."""
    if not math.isfinite(effect.difference):
        return Finding.DIVERGED
    if effect.pairs < FEWEST:
        return Finding.FEW
    if effect.supported:
        sign = better(metric) * (1 if effect.difference > 0 else -1)
        return {0: Finding.DIFFERENT, 1: Finding.BETTER, -1: Finding.WORSE}[sign]
    return Finding.EQUAL if effect.negligible else Finding.UNKNOWN


def verdict(metric: str, effect: Effect) -> str:
    """The finding in words, with its margin and its cost."""
    found = finding(metric, effect)
    said = found.value
    if effect.negligible:
        said += f"{' by less than' if effect.supported else ' within'} {points(metric, effect.margin or 0)}"
    if effect.equal_cost or found in (Finding.FEW, Finding.DIVERGED):
        return said
    return f"{said}, {'at unknown cost' if math.isnan(effect.cheapest) else 'not at equal cost'}"


def signed(metric: str, difference: float, uncertain: float | None) -> str:
    """A difference of a metric with its sign, in the unit in which it is shown, without that unit.

    uncertain: half of its interval, which decides its digits.
    """
    factor, _ = unit_of(metric)
    spread = None if uncertain is None else uncertain * factor
    return written(round(difference * factor, 12), spread, decimals_of(metric), "+")


def points(metric: str, difference: float) -> str:
    """A difference of a metric, in the unit in which it is shown."""
    factor, unit = unit_of(metric)
    return f"{short(difference * factor, 3)}{' points' if unit else ''}"


def caption(comparison: Comparison, tables: Sequence[Table]) -> str:
    """What the numbers of a comparison are, and what they cannot show."""
    effects = comparison.effects.values()
    units = "; ".join(f"{t.metric}{', points' if unit_of(t.metric)[1] else ''}" for t in tables)
    here = sum(effect.p is not None for effect in effects)
    family = f"{comparison.family} comparison{'' if comparison.family == 1 else 's'}"
    if here < comparison.family:
        family += f", {here} here and {comparison.family - here} in the other tables"
    said = [
        f"{units}: mean difference from {comparison.baseline} over n pairs of runs that agree in the "
        "seed and all other settings",
        f"95% interval and p: paired t-test; Holm: corrected for {family}",
        "signs: sign-flip permutation test; FLOPs: those of the baseline times this, equal within 2%",
    ]
    margins = dict.fromkeys(
        points(place[0], e.margin) for place, e in comparison.effects.items() if e.margin is not None
    )
    if margins:
        said.append(
            f"equal within {' / '.join(margins)}: two one-sided t-tests, corrected by Holm; no difference shown: "
            "neither test decides"
        )
    few = sorted({effect.pairs for effect in effects if 1 < effect.pairs < 6})
    if few:
        least = ", ".join(f"{2.0 ** (1 - n):g} for n = {n}" for n in few)
        said.append(
            f"the sign-flip p cannot be below {least}: there, the p of the t-test holds only as far as differences are "
            "normally distributed"
        )
    return "; ".join(said)
