"""The pictures of a report: small ones that share a legend, each with few enough lines to tell apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from budgetrun.report.layout import Layout, Panel
from budgetrun.tables.curves import Curve, Point, mean_curve, mean_point
from budgetrun.tables.plot import (
    CASING,
    CONTEXT,
    REFERENCE,
    Line,
    Style,
    chart,
    inline,
    label,
    limits,
    looks,
    page_style,
    scale,
    swatch,
)
from budgetrun.tables.runs import Run
from budgetrun.tables.table import MISSING, Key, order, word, words

# per unit of the budget: the number of a run that counts it, and its label at an axis
UNITS = {
    "updates": ("updates", "updates"),
    "examples": ("examples_backward", "examples backpropagated"),
    "flops": ("flops", "FLOPs"),
    "seconds": ("seconds", "seconds"),
}
# the reference that a metric is drawn beside, in grey
BESIDE = {"selected_corrupted_lately": "corrupted"}
TOGETHER = 6  # lines in one picture, besides the baseline's

Cell = list[Run]


@dataclass
class Plot:
    """A picture to draw: the labels of its axes, the points of each line by name, and the reference beside them."""

    title: str
    x: str
    metric: str
    lines: Mapping[str, Sequence[Point | None]]
    beside: list[Point] = field(default_factory=list)


@dataclass
class Gallery:
    """Pictures, as SVG elements, and their legend of swatches and names. across: how many stand side by side."""

    legend: list[tuple[str, str]]
    pictures: list[str]
    across: int


class Figures:
    """Draws the pictures of a report. A method looks the same in all of them.

    Of the settings in the rows, the one with the most values names the lines and sets their colours. Every combination
    of the others has its own picture. baseline: settings and their values.
    """

    def __init__(self, layout: Layout, curves: dict[str, Curve], baseline: Sequence[tuple[str, str]]) -> None:
        runs = [run for part in layout.panels for run in part.runs]
        values = [sorted({words(run, [name]) for run in runs}, key=order) for name in layout.rows]
        names = max(values, key=len)
        self.layout, self.curves = layout, curves
        self.naming = layout.rows[values.index(names)]
        shown = [value or MISSING for (value,) in names]
        self.baseline = next((value for name, value in baseline if name == self.naming and value in shown), None)
        self.looks = looks(shown, self.baseline)
        self.count = itertools.count()  # numbers the SVG elements, whose ids must not clash on a page

    def against(self, part: Panel, metric: str) -> list[Gallery]:
        """A metric against what was actually spent, in each unit. Each point is a cell of the table."""
        plots = []
        for title, lines in self.pictures(part, along="budget").items():
            for spent, axis in UNITS.values():
                drawn = {name: [point(cell, spent, metric) for cell in cells] for name, cells in lines.items()}
                plots.append(Plot(title, axis, metric, drawn))
        return self.galleries(plots, len(UNITS))

    def learning(self, part: Panel, metrics: list[str]) -> list[Gallery]:
        """Metrics during training, against what was spent in the unit of the budget."""
        plots = []
        for metric, (title, lines) in itertools.product(metrics, self.pictures(part).items()):
            every = [run for (cell,) in lines.values() for run in cell]
            units = {word(run.get("budget_unit")) for run in every}
            spent, axis = UNITS.get(units.pop() if len(units) == 1 else "", UNITS["updates"])
            drawn = {name: self.curve(cell, spent, metric) for name, (cell,) in lines.items()}
            beside = self.curve(every, spent, BESIDE[metric]) if metric in BESIDE else []
            plots.append(Plot(title, axis, metric, drawn, beside))
        return self.galleries(plots, len({words(run, self.layout.columns) for run in part.runs}))

    def curve(self, cell: Cell, x: str, y: str) -> list[Point]:
        """The mean curve of a cell's runs."""
        return mean_curve([self.curves[run["path"]] for run in cell if run["path"] in self.curves], x, y)

    def pictures(self, part: Panel, along: str | None = None) -> dict[str, dict[str, list[Cell]]]:
        """The cells of each line of each picture, by the pictures' titles and the lines' names.

        along: the column setting that changes from cell to cell along a line. A cell without runs is empty.
        """
        rows, columns = self.layout.rows, self.layout.columns
        titling = [name for name in (*rows, *columns) if name not in (self.naming, along)]
        places = sorted({words(run, [along] if along in columns else []) for run in part.runs}, key=order)
        found: dict[Key, dict[Key, dict[Key, Cell]]] = {}
        for run in part.runs:
            lines = found.setdefault(words(run, titling), {})
            cells = lines.setdefault(words(run, [self.naming]), {place: [] for place in places})
            cells[words(run, [along] if along in columns else [])].append(run)
        return {
            ", ".join(f"{name}={value or MISSING}" for name, value in zip(titling, title, strict=True)): {
                name or MISSING: list(found[title][name,].values()) for (name,) in sorted(found[title], key=order)
            }
            for title in sorted(found, key=order)
        }

    def galleries(self, plots: list[Plot], across: int) -> list[Gallery]:
        """Draw the plots that have points, with the lines spread over several pictures if there are many."""
        plots = [plot for plot in plots if any(filter(None, itertools.chain(*plot.lines.values())))]
        there = {name for plot in plots for name in plot.lines}
        names = [name for name in self.looks if name in there and name != self.baseline]
        first = [self.baseline] if self.baseline in there else []
        parts = -(-len(names) // TOGETHER) or len(first)
        galleries = []
        with page_style():
            for part in range(parts):
                few = names[part * len(names) // parts : (part + 1) * len(names) // parts]
                shown = {name: self.looks[name] for name in [*first, *few]}
                legend = [(self.element(swatch(look), ""), name) for name, look in shown.items()]
                galleries.append(Gallery(legend, self.draw(plots, shown), across))
        return galleries

    def draw(self, plots: list[Plot], shown: dict[str, Style]) -> list[str]:
        """Plots as SVG elements: the shown lines, to which the axes are scaled, in front of the others."""
        fills: dict[str, list[Point | None]] = {}  # pictures to be compared have the same limits
        for plot in plots:
            lines = [plot.beside, *(points for name, points in plot.lines.items() if name in shown)]
            fills.setdefault(plot.metric, []).extend(itertools.chain(*lines))
        pictures = []
        for plot in plots:
            drawn = [Line(points, CONTEXT) for name, points in plot.lines.items() if name not in shown]
            drawn += [Line(plot.lines[name], look) for name, look in shown.items() if name in plot.lines]
            y, within = label(plot.metric), limits(filter(None, fills[plot.metric]))
            drawn += [Line(plot.beside, CASING), Line(plot.beside, REFERENCE)]
            figure = chart(drawn, plot.title, plot.x, y, within, scale(plot.metric))
            names = ", ".join(name for name in shown if name in plot.lines)
            about = f"{y} against {plot.x} of {names}{'; ' if plot.title else ''}{plot.title}"
            pictures.append(self.element(figure, about))
        return pictures

    def element(self, figure: Any, alternative: str) -> str:
        return inline(figure, f"g{next(self.count)}", alternative)


def point(cell: Cell, spent: str, metric: str) -> Point | None:
    """The mean of a cell's runs that have the metric, or None."""
    pairs = [(run[spent], run[metric]) for run in cell if None not in (run.get(spent), run.get(metric))]
    return mean_point(pairs) if pairs else None
