"""What is asked about a set of runs, and the tables that answer it: the same for the command and for the report."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from budgetrun.errors import UserError
from budgetrun.tables.compare import BOLD, Baseline, Comparison, compare, differences, judge
from budgetrun.tables.derived import DERIVED, RATIOS, Options, derive, note
from budgetrun.tables.papers import Number, beside, fitting, of_paper
from budgetrun.tables.pareto import COSTS, Front, front
from budgetrun.tables.runs import Run, confounded, mixed, with_metric
from budgetrun.tables.table import Place, Sheet, Table, laid_out, tabulate, unit_of
from budgetrun.tables.worth import Worth, worth

MARGIN = 0.5  # points


@dataclass
class Question:
    """metrics: numbers of a run, or derived ones. baseline: settings, as typed. paper: whose numbers to show too.

    threshold, share, trainings: see derived.Options. margin: the difference below which two methods count as equal, in
    the unit in which metrics are shown; None: 0.5 points, and no margin for a metric that is not in percent. Raises
    UserError for what no runs can answer.
    """

    metrics: list[str]
    baseline: str | None = None
    paper: str | None = None
    threshold: float = 1.2
    share: float = 0.99
    trainings: int = 1
    margin: float | None = None
    known: list[Number] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.paper is not None:
            self.known = of_paper(self.paper)
        if self.baseline is None and (ratios := [metric for metric in self.metrics if metric in RATIOS]):
            raise UserError(f"{ratios[0]} needs a baseline; add one, as in --baseline sampler=uniform")

        if self.margin is not None and not 0 < self.margin < math.inf:
            raise UserError(f"--margin {self.margin:g} is not above 0: differences below it count as none")

    @property
    def margins(self) -> dict[str, float]:
        """The margin of each metric that has one, in the metric's own unit."""
        found = {}
        for metric in self.metrics:
            factor, unit = unit_of(metric)
            if self.margin is not None or unit:
                found[metric] = (MARGIN if self.margin is None else self.margin) / factor
        return found

    def measured(self) -> list[str]:
        """The metrics that runs measure themselves."""
        return [metric for metric in self.metrics if metric not in DERIVED]


def add_arguments(parser: argparse.ArgumentParser, baseline: str) -> None:
    """Add the options of a command that make up a question; baseline: the default of --baseline, in words."""
    add = parser.add_argument
    add(
        "--metric",
        default="test_accuracy",
        help=f"a number in result.json, or several: a,b; or a derived one: {', '.join(DERIVED)}",
    )
    add("--where", default="", help="only runs with these settings, as in dataset=digits,noise=none")
    add(
        "--baseline", help=f"compare all with the runs of these settings, as in sampler=uniform, pair by pair{baseline}"
    )
    add("--paper", help="show the numbers of a paper beside ours: hu2021, arazo2021 or sahayam2023")
    add("--threshold", type=float, default=1.2, help="for a speed-up: multiple of the baseline's final error (1.2)")
    add("--share", type=float, default=0.99, help="for epochs_to_generalise: part of the final test accuracy (0.99)")
    add("--trainings", type=int, default=1, help="for flops_total: how many runs share the cost of the files (1)")
    add("--margin", type=float, help="a difference below this counts as none, in the unit shown (0.5 points)")


def separated(typed: str) -> list[str]:
    """The names in a list with commas, each once."""
    return list(dict.fromkeys(name.strip() for name in typed.split(",") if name.strip()))


def named(options: argparse.Namespace, of: str) -> list[str]:
    """The names in --rows, --cols or --metric, each once."""
    names = separated(getattr(options, of))
    if not names:
        what, example = ("number", "test_accuracy") if of == "metric" else ("setting", "budget")
        raise UserError(f"--{of} names no {what}; type for example --{of} {example}")
    return names


def question(options: argparse.Namespace, baseline: str | None) -> Question:
    """The question that a command line asks, with this baseline."""
    ways = options.threshold, options.share, options.trainings, options.margin
    return Question(named(options, "metric"), baseline, options.paper, *ways)


@dataclass
class Analysis:
    """tables: one per metric, of `runs`. measured: those that have the first one. compared: the tables in `comparison`.

    baseline: what they are compared with. settings: the names of all. problems: what these runs cannot answer, by the
    option that asked. remarks: notes, in sentences.
    """

    asked: Question
    runs: list[Run]
    settings: Sequence[str]
    tables: list[Table]
    measured: list[Run] = field(default_factory=list)
    compared: list[Table] = field(default_factory=list)
    baseline: Baseline | None = None
    comparison: Comparison | None = None
    published: Mapping[Place, Sequence[Number]] = field(default_factory=dict)
    problems: dict[str, UserError] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @functools.cached_property
    def worths(self) -> dict[Place, Worth]:
        """What each cell is worth in budgets of the baseline; raises UserError if there are none."""
        return worth(self.runs, self.compared, self.settings, self.against("worth").baseline)

    @functools.cached_property
    def fronts(self) -> list[Front]:
        """The Pareto fronts of the first metric, one for each cost that is known; raises UserError if there is none."""
        found = [front(self.runs, self.tables[0], cost) for cost in COSTS]
        if not any(one.costs for one in found):
            raise UserError(f"pareto: no cell has a finite mean {self.tables[0].metric} and a known cost above 0")
        return [one for one in found if one.costs]

    def against(self, what: str) -> Comparison:
        """The comparison; raises UserError if there is none, which says what needs it."""
        if self.comparison is None:
            raise UserError(f"{what} needs a baseline; add one, as in --baseline sampler=uniform")
        return self.comparison

    def table(self) -> Sheet:
        """All metrics, one line per row. A cell is bold if the comparison supports that it is the best."""
        best = self.comparison.best if self.comparison else set()
        sheet = laid_out(*self.tables, best=best)
        sheet.caption += f"; {BOLD}" if best else ""
        return sheet

    def differences(self) -> Sheet | None:
        """The differences from the baseline, if there is one."""
        return None if self.comparison is None else differences(self.comparison, self.compared)

    def beside(self) -> Sheet | None:
        """A paper's numbers, if there are any for these settings."""
        return beside(self.tables, self.published) if self.published else None


def analyse(
    parts: Sequence[list[Run]], settings: Sequence[str], rows: list[str], columns: list[str], asked: Question
) -> list[Analysis]:
    """The answers, one for each part of the runs. The derived metrics are added to the runs that have them.

    All comparisons are one family, in whatever parts the runs are shown.
    """
    answers = [answer(runs, settings, rows, columns, asked) for runs in parts]
    judge([answer.comparison for answer in answers if answer.comparison is not None])
    return answers


def answer(runs: list[Run], settings: Sequence[str], rows: list[str], columns: list[str], asked: Question) -> Analysis:
    """The answer for one part of the runs. Its comparison is not judged yet."""
    problems: dict[str, UserError] = {}
    baseline = None
    if asked.baseline is not None:
        try:
            baseline = Baseline(runs, settings, asked.baseline)
        except UserError as error:
            problems["baseline"] = error
    ways = Options(baseline, asked.threshold, asked.share, asked.trainings)
    why = derive(runs, asked.metrics, ways)
    measured, remarks = with_metric(runs, asked.metrics[0], why)
    if not measured:
        because = why.get((asked.metrics[0], str(runs[0]["path"])), "")
        said = f"none of the {len(runs)} runs chosen has {asked.metrics[0]}"
        problems["metric"] = UserError(f"{said}: {because}" if because else said)
    for metric in asked.metrics[1:]:  # it is no problem if only some runs have these
        remarks += [remark for remark in with_metric(runs, metric, why)[1] if remark.startswith("note")]
    tables = [tabulate(runs, rows, columns, metric, note(metric, runs, ways)) for metric in asked.metrics]
    result = Analysis(asked, runs, settings, tables, measured=measured, problems=problems, remarks=remarks)
    result.baseline = baseline
    result.remarks += mixed(measured or runs, settings, [*rows, *columns])
    result.compared = [table for table in tables if table.metric not in RATIOS]  # those are comparisons already
    result.remarks += confounded(measured or runs, settings, [*rows, *columns])
    if baseline is not None and result.compared:
        result.comparison = compare(runs, result.compared, baseline, asked.margins)
        result.remarks += result.comparison.remarks
    if asked.known:
        try:
            result.published = fitting(runs, tables, asked.known)
        except UserError as error:
            problems["paper"] = error
    return result
