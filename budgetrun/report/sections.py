"""The sections of a report. A new one is a function of the study that returns a Section, named in `SECTIONS`."""

from __future__ import annotations

import datetime
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

from budgetrun.errors import UserError
from budgetrun.report.blocks import Block, Charts, Choice, Code, Note, Part, Section, Sentences, Tabular, Text
from budgetrun.report.chart import Interval, Strips, forest
from budgetrun.report.figures import UNITS
from budgetrun.report.selection import selection
from budgetrun.report.study import Study, few, numbers, repeats, values
from budgetrun.tables.answers import ANSWERS, answered, sentences
from budgetrun.tables.compare import Comparison
from budgetrun.tables.derived import RATIOS, Options, derive
from budgetrun.tables.layout import head
from budgetrun.tables.plot import label
from budgetrun.tables.table import MISSING, Sheet, Table, unit_of, word
from budgetrun.tables.tasks import over_tasks, ranking

SPENT = (
    *("updates", "examples_backward", "examples_forward"),
    *("flops", "flops_before", "flops_tuning", "seconds", "seconds_total"),
)
AMORTISED = ("flops_total", "pays_after")  # where files were read
ENVIRONMENT = ("device", "threads", "versions", "commit", "dirty", "dataset_fingerprint")


def conclusions(study: Study) -> Section:
    """What the comparisons and the fronts say, in sentences."""
    parts = [Part(panel.title, [Sentences(said)]) for panel, answer in study.panels() if (said := sentences(answer))]
    return Section("conclusions", "Conclusions", parts)


def results(study: Study) -> Section:
    """The tables, the comparison with the baseline, and a paper's numbers."""
    parts = []
    for panel, answer in study.panels():
        blocks: list[Block] = [Tabular(answer.table())]
        if answer.comparison and answer.comparison.effects and (sheet := answer.differences()):
            blocks.append(Tabular(sheet, intervals(answer.comparison, answer.compared)))
        if beside := answer.beside():
            blocks.append(Tabular(beside))
        if said := [*(f"not answered: {problem}" for problem in answer.problems.values()), *answer.remarks]:
            blocks.append(Note(said))
        parts.append(Part(panel.title, blocks))
    return Section("results", "Results", parts)


def intervals(comparison: Comparison, tables: Sequence[Table]) -> Strips | None:
    """The lines of a comparison as a forest plot; None if they have no common axis."""
    if len(tables) > 1:
        return None
    factor, unit = unit_of(tables[0].metric)
    # in the order of the lines of `compare.differences`
    places = ((tables[0].metric, row, column) for row in tables[0].row_keys for column in tables[0].column_keys)
    effects = [comparison.effects[place] for place in places if place in comparison.effects]
    drawn = [
        Interval(
            effect.difference * factor,
            None if effect.low is None else effect.low * factor,
            None if effect.high is None else effect.high * factor,
            effect.supported,
        )
        for effect in effects
    ]
    return forest(f"difference{', points' if unit else ''}", drawn, 0.0)


def worth(study: Study) -> Section:
    """Budget-equivalents, what these seeds could have shown, and what else `aggregate --ask` answers about a panel."""
    parts = []
    for panel, answer in study.panels():
        sheets = (answered(ANSWERS[name], answer) for name in ("worth", "power", "scaling", "sensitivity"))
        if blocks := [Tabular(sheet) for sheet in sheets if sheet is not None and sheet.lines]:
            parts.append(Part(panel.title, [*blocks]))
    return Section("worth", "What it is worth, and what is not known", parts)


def fronts(study: Study) -> Section:
    """The Pareto fronts: all cells against each cost."""
    parts = []
    for panel, answer in study.panels():
        found = answered(lambda of: of.fronts, answer)
        if found is not None and len(answer.tables[0].cells) > 1:
            caption = (
                f"{label(answer.tables[0].metric)}: means over runs at their mean cost, FLOPs with those of the files "
                f"that they read; bars: one standard deviation (ddof=1) to each side. {repeats(panel, answer)} Dashed: "
                "the front; what lies below it costs no less than a cell on it and is no better."
            )
            charts = Charts(study.figures.fronts(answer.tables[0], found), caption)
            parts.append(Part(panel.title, [charts, Tabular(ANSWERS["pareto"](answer))]))
    return Section("pareto", "Pareto front", few(parts))


def tasks(study: Study) -> Section:
    """Methods over all panels and columns."""
    try:
        found = over_tasks(study.answers)
    except UserError:  # fewer than two tasks or methods
        return Section("tasks", "Over all tasks")
    half = found.critical / 2
    ranks = [Interval(one.rank, one.rank - half, one.rank + half, False) for one in found.standings.values()]
    strips = forest("mean rank", ranks, None)
    sheet = ranking(found, study.answers[0].tables[0])
    sheet.caption += "; lines: half the critical difference to each side, so that lines that overlap are not told apart"
    return Section("tasks", "Over all tasks", [Part("", [Tabular(sheet, strips)])])


def against(study: Study) -> Section:
    """The metric against what was spent, in each unit."""
    metric = study.asked.metrics[0]
    about = (
        "A point is a cell of the table above, the mean of its runs. It lies where they were when they ended: a "
        "budget is given in one unit, and methods that look before they choose spend more in the others. Bands and "
        "bars are one standard deviation (ddof=1) to each side. FLOPs are those of the run itself, looks "
        "included; seconds include choosing, not evaluation."
    )
    parts = [
        Part(panel.title, [Charts(study.figures.against(panel, metric), f"{label(metric)}; {repeats(panel, answer)}")])
        for panel, answer in study.panels()
    ]
    return Section("against", "Against what was spent", [Part("", [Text(about)]), *few(parts)])


def learning(study: Study) -> Section:
    """Metrics during training."""
    if not study.curves:
        return Section("learning", "Learning curves", [])
    about = (
        "Means over runs at each evaluation, with bands of one standard deviation (ddof=1) to each side. Each "
        "chart has its own axes, fitted to the second half of the training: a curve may come in from outside. The "
        "training loss is the mean since the evaluation before, on what was selected and augmented, with the "
        "weights of the method: it is no measure to compare methods by."
    )
    metrics = [study.asked.metrics[0], "train_loss"]
    parts = [
        Part(panel.title, [Charts(study.figures.learning(panel, metrics), repeats(panel, answer))])
        for panel, answer in study.panels()
    ]
    units = {word(run.get("budget_unit")) for run in study.runs}
    first = units.pop() if len(units) == 1 else ""
    choice = Choice({unit: name for unit, (_, name) in UNITS.items()}, first if first in UNITS else "updates")
    return Section("learning", "Learning curves", [Part("", [Text(about), choice]), *few(parts)])


def spent(study: Study) -> Section:
    """What was spent, in all units; and where files were read, their cost as shared by trainings."""
    parts = []
    for panel, answer in study.panels():
        if any(run.get("flops_before") for run in panel.runs):
            shared = [name for name in AMORTISED if answer.baseline is not None or name not in RATIOS]
            derive(panel.runs, shared, Options(answer.baseline, trainings=study.asked.trainings))
        sheet = numbers(panel, study.layout.shown, (*SPENT, *AMORTISED), even_if_0=False)
        sheet.caption += (
            "; FLOPs and seconds: looks and choosing included, evaluation in seconds total alone; FLOPs before: of the "
            "runs that made files which these read; FLOPs tuning: of the runs by which a value was chosen"
        )
        parts.append(Part(panel.title, [Tabular(sheet)]))
    return Section("spent", "What was spent", parts)


def configuration(study: Study) -> Section:
    """What is the same in all runs, what is not, and the values that come with each option."""
    layout = study.layout
    # the values of an option that varies come below
    differing = [n for n in layout.settings if n not in layout.fixed and ("." not in n or head(n) in layout.fixed)]
    varied = [[name, ", ".join(values(study.runs, name))] for name in differing]
    behind = [[option, name, value] for option, named in layout.options.items() for name, value in named.items()]
    sheets = [
        Sheet(["setting", "value"], [[*item] for item in layout.fixed.items()], "the same in all runs", 2),
        Sheet(["setting", "values"], varied, "different from run to run, besides the seed", 2),
        Sheet(["option", "setting", "value"], behind, "what comes with an option that is not the same in all runs", 3),
    ]
    tables: list[Block] = [Tabular(sheet) for sheet in sheets if sheet.lines]
    return Section("configuration", "Configuration", [Part("", tables)])


def environment(study: Study) -> Section:
    """The machine, the versions, the code and the data of the runs, with the number of runs that had each."""
    names = dict.fromkeys(name for run in study.runs for name in run if name.partition(".")[0] in ENVIRONMENT)
    lines = []
    for name in sorted(names, key=lambda name: ENVIRONMENT.index(name.partition(".")[0])):
        counts = Counter(word(run.get(name, "")) or MISSING for run in study.runs)
        lines += [[name, value, str(count)] for value, count in counts.most_common()]
    sheet = Sheet(["of the run", "value", "runs"], lines, "environment and code of the runs", 2)
    return Section("environment", "Environment", [Part("", [Tabular(sheet)])])


def made(study: Study) -> Section:
    """The commands that make the page and its tables."""
    one = len(study.layout.panels) == 1
    blocks: list[Block] = [
        Text(
            "The page:"
            if study.options.serve
            else f"The page, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC:"
        ),
        Code(study.command),
        Text("The table of results:" if one else "The tables of results, in one:"),
        Code(table_command(study)),
    ]
    return Section("made", "How this was made", [Part("", blocks)])


def table_command(study: Study) -> str:
    """The command that prints the tables of all panels, as one table."""
    chosen = {
        "--rows": ",".join([*study.layout.panels[0].where, *study.layout.rows]),
        "--cols": ",".join(study.layout.columns),
        "--metric": ",".join(study.asked.metrics),
        "--where": study.options.where,
        "--baseline": study.asked.baseline or "",
        "--paper": study.asked.paper or "",
    }
    typed = chain(*(item for item in chosen.items() if item[1]))
    return shlex.join(["python", "-m", "budgetrun.aggregate", *study.options.folders, *typed])


# in the order of the page
SECTIONS: list[Callable[[Study], Section]] = [
    conclusions,
    results,
    worth,
    tasks,
    against,
    fronts,
    learning,
    selection,
    spent,
    configuration,
    environment,
    made,
]
