"""One HTML file about finished runs: tables, pictures, what explains them, and what they were made with.

The page is the Jinja template page.html, which escapes everything written into it except the pictures.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from budgetrun.errors import UserError
from budgetrun.files import write_text
from budgetrun.folder.plan import plan
from budgetrun.folder.run import FINISHED, RunFolder
from budgetrun.report.figures import Figures, Gallery
from budgetrun.report.layout import Layout, Panel, head, laid_out, missing
from budgetrun.tables.analysis import Analysis, Question, add_arguments, analyse, named, question
from budgetrun.tables.curves import curves_of
from budgetrun.tables.derived import DERIVED, Options, note
from budgetrun.tables.plot import label, power, thousands
from budgetrun.tables.runs import Run, Runs, conditions, need, of_any_seed, read, select
from budgetrun.tables.table import MISSING, Sheet, entry, order, tabulate, word, words
from budgetrun.terminal import any_encoding, shown, tell

SPENT = ("updates", "examples_backward", "examples_forward", "flops", "flops_before", "seconds", "seconds_total")
DIAGNOSTICS = (
    "corrupted",
    "selected_corrupted",
    "selected_corrupted_lately",
    "visits_entropy",
    "selected_class_entropy",
    "keep_rate",
    "effective_batch",
    "looking_updates",
    "selection_seconds",
    "selection_flops",
)
# the settings that are named at the top if they do not vary
MAIN = ("dataset", "model", "sampler", "aug", "noise", "budget", "budget_unit", "epochs", "batch_size", "lr")
ENVIRONMENT = ("device", "threads", "versions", "commit", "dirty", "dataset_fingerprint")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    any_encoding()
    typed = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(typed)
    out = options.out or Path(options.folders[0]) / "report.html"
    try:
        report = report_of(options, shlex.join(["python", "-m", "budgetrun.report", *typed]))
        write_text(out, page(report))
    except UserError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    tell(shown(f"{out}: {report.title}"))
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("report", description="One HTML file about finished runs.")
    add = parser.add_argument
    add("folders", nargs="*", default=["outputs"], help="searched for runs; default: outputs")
    add("--out", type=Path, help="the file to write; default: report.html in the first folder")
    add("--rows", help="settings; default: all that vary except the task and the budget")
    add("--cols", help="settings; default: budget, and budget_unit if it varies")
    add_arguments(parser, baseline="; default: sampler=uniform, if there are other samplers")
    return parser


@dataclass
class Section:
    """What is said about one panel. title: "" if it is the only one."""

    title: str
    table: Sheet
    comparison: Sheet | None
    paper: Sheet | None
    problems: dict[str, UserError]
    remarks: list[str]
    repeats: str
    spent: Sheet
    diagnostics: Sheet
    against: list[Gallery]
    learning: list[Gallery]
    corrupted: list[Gallery]


@dataclass
class Report:
    """What is on the page. facts: sentences by topic. table_command: prints all results."""

    title: str
    facts: dict[str, list[str]]
    remarks: list[str]
    sections: list[Section]
    metric: str
    configuration: list[Sheet]
    environment: Sheet
    command: str
    table_command: str
    date: str


def page(report: Report) -> str:
    """The HTML of the whole file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(vars(report))


def report_of(options: argparse.Namespace, command: str) -> Report:
    """Read the runs and make everything that is on the page."""
    rows, columns = (None if getattr(options, of) is None else named(options, of) for of in ("rows", "cols"))
    found = read(options.folders)
    if not found.runs:
        unfinished = f"; {len(found.skipped)} were skipped, such as {found.skipped[0]}" if found.skipped else ""
        raise UserError(f"there is no finished run in {', '.join(options.folders)}{unfinished}")
    need(found.runs, [*(rows or []), *(columns or [])])
    runs = list(map(of_any_seed, select(found.runs, options.where)))
    layout = laid_out(runs, found.settings, rows, columns)
    asked = question(options, default_baseline(layout) if options.baseline is None else options.baseline)
    need(found.runs, asked.measured(), DERIVED)
    curves, without = curves_of(runs)
    figures = Figures(layout, curves, conditions(asked.baseline or "", "--baseline"))
    writer = SectionWriter(options, layout, asked, figures)
    answers = analyse([panel.runs for panel in layout.panels], found.settings, layout.rows, layout.columns, asked)
    sections = [writer.section(panel, answer) for panel, answer in zip(layout.panels, answers, strict=True)]
    for what, problem in sections[0].problems.items():
        typed = getattr(options, what) is not None
        if typed and all(what in section.problems for section in sections):
            raise problem
    return Report(
        title=title(layout, len(runs)),
        facts=facts(runs, layout, found),
        remarks=[*code(runs), *without],
        sections=sections,
        metric=label(asked.metrics[0]),
        configuration=configuration(runs, layout),
        environment=environment(runs),
        command=command,
        table_command=writer.command(),
        date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
    )


def default_baseline(layout: Layout) -> str | None:
    """The baseline if none is named: uniform sampling, if there is something to compare with it."""
    samplers = {word(run.get("sampler", "")) for panel in layout.panels for run in panel.runs}
    return "sampler=uniform" if "uniform" in samplers and len(samplers) > 1 else None


@dataclass
class SectionWriter:
    """Makes the sections of a report."""

    options: argparse.Namespace
    layout: Layout
    asked: Question
    figures: Figures

    def section(self, panel: Panel, answer: Analysis) -> Section:
        """Everything about a panel."""
        first = self.asked.metrics[0]
        comparison = answer.differences() if answer.comparison and answer.comparison.effects else None
        return Section(
            title=panel.title,
            table=answer.table(),
            comparison=comparison,
            paper=answer.beside(),
            problems=answer.problems,
            remarks=[*(f"not answered: {problem}" for problem in answer.problems.values()), *answer.remarks],
            repeats=f"n = {', '.join(map(str, answer.tables[0].numbers())) or 0} ({seeds(panel.runs)}).",
            spent=self.numbers(panel, SPENT),
            diagnostics=self.numbers(panel, DIAGNOSTICS),
            against=self.figures.against(panel, first),
            learning=self.figures.learning(panel, [first, "train_loss"]),
            corrupted=self.figures.learning(panel, ["selected_corrupted_lately"]),
        )

    def command(self) -> str:
        """The command that prints the tables of all panels, as one table."""
        chosen = {
            "--rows": ",".join([*self.layout.panels[0].where, *self.layout.rows]),
            "--cols": ",".join(self.layout.columns),
            "--metric": ",".join(self.asked.metrics),
            "--where": self.options.where,
            "--baseline": self.asked.baseline or "",
            "--paper": self.asked.paper or "",
        }
        typed = chain(*(item for item in chosen.items() if item[1]))
        return shlex.join(["python", "-m", "budgetrun.aggregate", *self.options.folders, *typed])

    def numbers(self, panel: Panel, metrics: Sequence[str]) -> Sheet:
        """One line per cell, one column per metric that some run has. Large numbers are divided by powers of 1000."""
        names, head, tables = self.layout.shown, [], []
        measured = {metric: [run[metric] for run in panel.runs if run.get(metric) is not None] for metric in metrics}
        for metric in metrics:
            if any(measured[metric]) or (measured[metric] and metric in DIAGNOSTICS):
                kind = metric.partition("_")[0]  # examples_forward and examples_backward share a divisor
                by = thousands(chain(*(numbers for other, numbers in measured.items() if other.startswith(kind))))
                divided = [
                    {**run, metric: run[metric] / 10**by} if by and run.get(metric) is not None else run
                    for run in panel.runs
                ]
                tables.append(tabulate(divided, names, [], metric, note(metric, panel.runs, Options())))
                head.append(label(metric) + power(by))
        count = Counter(words(run, names) for run in panel.runs)
        lines = [
            [
                *(w or MISSING for w in row),
                str(count[row]),
                *(entry(table, row, ()).removesuffix(f" (n={count[row]})") for table in tables),
            ]
            for row in sorted(count, key=order)
        ]
        said = dict.fromkeys(text for table in tables for text in (table.statistic(), table.note) if text)
        return Sheet([*names, "n", *head], lines, "; ".join(said), len(names))


# ---- what is said about all runs


def title(layout: Layout, count: int) -> str:
    """What was run, in one line."""
    varied = [name for name in (*layout.rows, *layout.columns, *layout.panels[0].where) if name not in layout.fixed]
    runs = "1 run" if count == 1 else f"{count} runs"
    by = f" by {', '.join(varied)}" if varied else ""
    what = " on ".join(layout.fixed[name] for name in ("model", "dataset") if name in layout.fixed)
    return f"{runs}{f' of {what}' if what else ''}{by}"


def facts(runs: list[Run], layout: Layout, found: Runs) -> dict[str, list[str]]:
    """What was run, when, on what, and what is missing."""
    names = [*layout.rows, *layout.columns, *layout.panels[0].where]
    main = [f"{name}={layout.fixed[name]}" for name in MAIN if name in layout.fixed]
    lost = [
        f"{', '.join(f'{n}={v or MISSING}' for n, v in zip(layout.shown, cell, strict=True))}"
        f"{f', {panel.title}' if panel.title else ''}: seed {', '.join(of)}"
        for panel in layout.panels
        for cell, of in missing(panel, layout.rows, layout.columns)
    ]
    return {
        "Runs": [f"{len(runs)} finished, {seeds(runs)}"],
        "Varied": [f"{name}: {', '.join(values(runs, name))}" for name in names if name not in layout.fixed]
        or ["nothing but the seed"],
        "Fixed": [", ".join(main) or "nothing"],
        "Missing": lost or ["nothing: every cell has every seed"],
        **({"Planned": planned(found.planned)} if found.planned else {}),
        "Skipped": [*found.skipped, *(path for folder in found.planned for path in plan(Path(folder))[1])]
        or ["nothing"],
        "Finished": [when(runs)],
        "Machine": values(runs, "device"),
    }


def planned(folders: Iterable[str]) -> list[str]:
    """How many runs sweeps planned in each folder, and the overrides of those that are not finished."""
    said = []
    for folder in folders:
        runs, _ = plan(Path(folder))
        states = {name: RunFolder(folder, name).state().word for name in runs}
        left = [f"{states[name]}: {' '.join(typed)}" for name, typed in runs.items() if states[name] != FINISHED]
        said += [f"{folder}: {len(runs)} runs, {len(left) or 'none'} of them not finished", *left]
    return said


def values(runs: Iterable[Run], name: str) -> list[str]:
    """The different values of a setting, in order."""
    return [w or MISSING for (w,) in sorted({(word(run.get(name, "")),) for run in runs}, key=order)]


def seeds(runs: Iterable[Run]) -> str:
    """The seeds of the runs, in words."""
    found = values(runs, "seed")
    return f"{'seed' if len(found) == 1 else 'seeds'} {', '.join(found)}"


def when(runs: Iterable[Run]) -> str:
    """From the first to the last result, by the dates of the files."""
    times = []
    for run in runs:
        try:
            time = Path(str(run["path"])).stat().st_mtime
            times.append(datetime.datetime.fromtimestamp(time, datetime.UTC))
        except (OSError, ValueError, OverflowError):  # it is not there, or its date is invalid
            return "not known"
    first, last = (f"{time:%Y-%m-%d %H:%M}" for time in (min(times), max(times)))
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def code(runs: list[Run]) -> list[str]:
    """Plain sentences, if the code of the runs is not a single commit."""
    said = []
    commits = Counter(word(run.get("commit")) for run in runs)
    if unknown := commits.pop("null", 0):
        said.append(
            f"{unknown} of {len(runs)} runs were made outside a checkout: the commit of their code is not known."
        )
    if len(commits) > 1:
        listed = ", ".join(f"{commit[:10]} ({count} of {len(runs)} runs)" for commit, count in commits.most_common())
        said.append(f"The runs were made by {len(commits)} commits of the code: {listed}.")
    if dirty := sum(bool(run.get("dirty")) for run in runs):
        said.append(f"{dirty} of {len(runs)} runs were made by code that was changed after its commit (a dirty tree).")
    return said


def configuration(runs: list[Run], layout: Layout) -> list[Sheet]:
    """What is the same in all runs, what is not, and the values that come with each option."""
    # the values of an option that varies come below
    differing = [n for n in layout.settings if n not in layout.fixed and ("." not in n or head(n) in layout.fixed)]
    varied = [[name, ", ".join(values(runs, name))] for name in differing]
    behind = [[option, name, value] for option, named in layout.options.items() for name, value in named.items()]
    sheets = [
        Sheet(["setting", "value"], [[*item] for item in layout.fixed.items()], "the same in all runs", 2),
        Sheet(["setting", "values"], varied, "different from run to run, besides the seed", 2),
        Sheet(["option", "setting", "value"], behind, "what comes with an option that is not the same in all runs", 3),
    ]
    return [sheet for sheet in sheets if sheet.lines]


def environment(runs: list[Run]) -> Sheet:
    """The machine, the versions, the code and the data of the runs, with the number of runs that had each."""
    names = dict.fromkeys(name for run in runs for name in run if name.partition(".")[0] in ENVIRONMENT)
    lines = []
    for name in sorted(names, key=lambda name: ENVIRONMENT.index(name.partition(".")[0])):
        counts = Counter(word(run.get(name, "")) or MISSING for run in runs)
        lines += [[name, value, str(count)] for value, count in counts.most_common()]
    return Sheet(["", "value", "runs"], lines, "environment and code of the runs", 2)
