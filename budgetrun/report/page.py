"""One HTML file about finished runs: tables, pictures, what explains them, and what they were made with.

The page is the Jinja template page.html, which escapes everything written into it except what chart.py has drawn.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import gc
import hashlib
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from budgetrun.digits import quantity, short
from budgetrun.errors import UserError
from budgetrun.files import write_text
from budgetrun.folder.plan import plan
from budgetrun.folder.run import FINISHED, RunFolder
from budgetrun.report.blocks import Charts, Section
from budgetrun.report.chart import SHAPES
from budgetrun.report.figures import UNITS, Figures
from budgetrun.report.live import serve, sweep
from budgetrun.report.sections import SECTIONS
from budgetrun.report.selection import address
from budgetrun.report.study import Study, seeds, values
from budgetrun.tables.analysis import add_arguments, analyse, named, question
from budgetrun.tables.curves import curves_of
from budgetrun.tables.derived import DERIVED
from budgetrun.tables.layout import Layout, laid_out, missing
from budgetrun.tables.runs import Run, Runs, conditions, need, of_any_seed, read, select, unseen
from budgetrun.tables.table import MISSING, word
from budgetrun.terminal import any_encoding, shown, tell

HERE = Path(__file__).parent
# the settings that are named at the top if they do not vary
MAIN = ("dataset", "model", "sampler", "aug", "noise", "budget", "budget_unit", "epochs", "batch_size", "lr")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    any_encoding()
    typed = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(typed)
    command = shlex.join(["python", "-m", "budgetrun.report", *typed])
    try:
        if options.port is not None and not options.serve:
            raise UserError("--port has no effect without --serve")
        if options.serve:
            serve_live(options, command)
        else:
            out = options.out or Path(options.folders[0]) / "report.html"
            with without_collection():
                report = report_of(options, command, read(options.folders))
                write_text(out, page(report, live=False))
            tell(shown(f"{out}: {report.title}"))
    except UserError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Within the block, Python does not look for garbage among the runs, which took 12% of the time of 10,000."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("report", description="One HTML file about finished runs.")
    add = parser.add_argument
    add("folders", nargs="*", default=["outputs"], help="searched for runs; default: outputs")
    add("--out", type=Path, help="the file to write; default: report.html in the first folder")
    add("--rows", help="settings; default: all that vary except the task and the budget")
    add("--cols", help="settings; default: budget, and budget_unit if it varies")
    add_arguments(parser, baseline="; default: sampler=uniform, if there are other samplers")
    add("--serve", action="store_true", help="write no file, but show the page to this machine while the runs go on")
    add("--port", type=int, help="where to serve it; default: one that is free")
    return parser


def serve_live(options: argparse.Namespace, command: str) -> None:
    """Show the report and the state of the runs until Ctrl-C."""
    if options.out is not None:
        raise UserError("--serve writes no file; leave out --out")
    if missing := [folder for folder in options.folders if not Path(folder).exists()]:
        raise UserError(f"{missing[0]} does not exist; name the folders in which the runs are, or will be")

    def make() -> str:
        planned: list[str] = []
        try:
            found = read(options.folders)
            planned = found.planned
            report = report_of(options, command, found)
        except UserError as error:  # before the first run is finished, for example
            report = Report("No report yet", {}, [str(error)], [])
        return page(replace(report, sections=[sweep([*options.folders, *planned]), *report.sections]), live=True)

    serve(make, options.port or 0, lambda words: tell(shown(words)))


@dataclass
class Report:
    """What is on the page. facts: sentences by topic."""

    title: str
    facts: dict[str, list[str]]
    remarks: list[str]
    sections: list[Section]


def page(report: Report, live: bool) -> str:
    """The HTML of the whole file. live: whether it is served, and follows the runs."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"png": address, "short": short}
    blocks = [block for section in report.sections for part in section.parts for block in part.blocks]
    galleries = [gallery for block in blocks if isinstance(block, Charts) for gallery in block.galleries]
    looks = list(dict.fromkeys(look for gallery in galleries for look in gallery.shown.values()))
    style = environment.get_template("page.css").render(looks=looks, views=UNITS)
    script = "".join((HERE / name).read_text() for name in ("page.js", *(["live.js"] if live else [])))
    allowed = {"img": "data:", "style": f"'{digest(style)}'", "script": f"'{digest(script)}'"}
    allowed |= {"connect": "'self'"} if live else {}
    return environment.get_template("page.html").render(
        vars(report),
        live=live,
        looks=looks,
        shapes=SHAPES,
        style=Markup(style),
        script=Markup(script),
        policy="; ".join(f"{of}-src {what}" for of, what in allowed.items()),
    )


def digest(text: str) -> str:
    """What a browser must find in an element before it obeys it: the page allows no other style and no other script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def report_of(options: argparse.Namespace, command: str, found: Runs) -> Report:
    """Make everything that is on the page about these runs."""
    rows, columns = (None if getattr(options, of) is None else named(options, of) for of in ("rows", "cols"))
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
    answers = analyse([panel.runs for panel in layout.panels], found.settings, layout.rows, layout.columns, asked)
    for what, problem in answers[0].problems.items():
        typed = getattr(options, what) is not None
        if typed and all(what in answer.problems for answer in answers):
            raise problem
    study = Study(options, command, runs, layout, asked, answers, curves, figures)
    return Report(
        title=title(layout, len(runs)),
        facts=facts(runs, layout, found),
        remarks=[*code(runs), *without],
        sections=[section(study) for section in SECTIONS],
    )


def default_baseline(layout: Layout) -> str | None:
    """The baseline if none is named: uniform sampling, if there is something to compare with it."""
    samplers = {word(run.get("sampler", "")) for panel in layout.panels for run in panel.runs}
    return "sampler=uniform" if "uniform" in samplers and len(samplers) > 1 else None


# ---- what is said about all runs


def title(layout: Layout, count: int) -> str:
    """What was run, in one line."""
    varied = [name for name in (*layout.rows, *layout.columns, *layout.panels[0].where) if name not in layout.fixed]
    by = f" by {', '.join(varied)}" if varied else ""
    what = " on ".join(layout.fixed[name] for name in ("model", "dataset") if name in layout.fixed)
    return f"{quantity(count, 'run')}{f' of {what}' if what else ''}{by}"


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
        "Varied": [
            *(f"{name}: {', '.join(values(runs, name))}" for name in names if name not in layout.fixed),
            *(f"{n}: {', '.join(values(runs, n))}, which no table shows" for n in unseen(runs, layout.settings, names)),
        ]
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
        how_many = f"{len(left)} of them not finished" if left else "all finished"
        said += [f"{folder}: {quantity(len(runs), 'run')}, {how_many}", *left]
    return said


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
