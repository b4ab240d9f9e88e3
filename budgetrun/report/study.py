"""What a report is about, and what several of its sections say about runs."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from budgetrun.report.blocks import Charts, Note, Part
from budgetrun.report.figures import Figures
from budgetrun.tables.analysis import Analysis, Question
from budgetrun.tables.curves import Curve
from budgetrun.tables.derived import Options, note
from budgetrun.tables.layout import Layout, Panel
from budgetrun.tables.plot import label, power, thousands
from budgetrun.tables.runs import Run
from budgetrun.tables.table import ALIKE, MISSING, Sheet, entry, order, tabulate, word, words

MOST = 480  # charts in a section; ten thousand runs of a thousand cells make 400


@dataclass
class Study:
    """Runs, what was asked about them, and the answers, one for each panel of the layout.

    options, command: as typed. curves: the evaluations of the runs that have some, by path.
    """

    options: argparse.Namespace
    command: str
    runs: list[Run]
    layout: Layout
    asked: Question
    answers: list[Analysis]
    curves: dict[str, Curve]
    figures: Figures

    def panels(self) -> Iterator[tuple[Panel, Analysis]]:
        return zip(self.layout.panels, self.answers, strict=True)


def values(runs: Iterable[Run], name: str) -> list[str]:
    """The different values of a setting, in order."""
    return [w or MISSING for (w,) in sorted({(word(run.get(name, "")),) for run in runs}, key=order)]


def seeds(runs: Iterable[Run]) -> str:
    """The seeds of the runs, in words."""
    found = values(runs, "seed")
    return f"{'seed' if len(found) == 1 else 'seeds'} {', '.join(found)}"


def repeats(panel: Panel, answer: Analysis) -> str:
    """What the means of a panel are over."""
    return f"n = {', '.join(map(str, answer.tables[0].numbers())) or 0} ({seeds(panel.runs)})"


def numbers(panel: Panel, names: list[str], metrics: Sequence[str], even_if_0: bool) -> Sheet:
    """One line per cell, one column per metric that some run has. Large numbers are divided by powers of 1000.

    names: the settings that tell cells apart. even_if_0: whether a metric that is 0 in all runs has a column.
    """
    head, tables = [], []
    cells = [{name: run[name] for name in names if name in run} for run in panel.runs]
    measured = {metric: [run[metric] for run in panel.runs if run.get(metric) is not None] for metric in metrics}
    for metric in metrics:
        if any(measured[metric]) or (measured[metric] and even_if_0):
            kind = metric.partition("_")[0]  # examples_forward and examples_backward share a divisor
            by = thousands(chain(*(found for other, found in measured.items() if other.startswith(kind))))
            divided = [
                cell if run.get(metric) is None else {**cell, metric: run[metric] / 10**by if by else run[metric]}
                for cell, run in zip(cells, panel.runs, strict=True)
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
    alike = [ALIKE] if any(table.has_alike() for table in tables) else []
    return Sheet([*names, "n", *head], lines, "; ".join([*said, *alike]), len(names))


def few(parts: list[Part]) -> list[Part]:
    """The same, without the last charts if they are too many for a page, and with a sentence that says so."""
    galleries = [
        gallery for part in parts for block in part.blocks if isinstance(block, Charts) for gallery in block.galleries
    ]
    count, left = sum(len(gallery.plots) for gallery in galleries), MOST
    for gallery in galleries:
        gallery.plots = gallery.plots[:left]
        left -= len(gallery.plots)
    if count <= MOST:
        return parts
    said = f"These are {MOST} of {count} charts. --where chooses some of the runs, --rows and --cols other lines."
    return [Part("", [Note([said])]), *parts]
