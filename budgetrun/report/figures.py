"""The charts of a report: small ones that share a legend, each with few enough lines to tell apart."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from budgetrun.digits import short
from budgetrun.report.chart import REFERENCE, Line, Look, View, chart, fitted, looks, with_margin
from budgetrun.tables import table
from budgetrun.tables.compare import OWNER
from budgetrun.tables.curves import Curve, Point, mean_curve, mean_point
from budgetrun.tables.layout import Layout, Panel, head
from budgetrun.tables.pareto import Front, task_of
from budgetrun.tables.plot import label
from budgetrun.tables.runs import Run, same
from budgetrun.tables.table import MISSING, Key, Table, entry, order, unit_of, words

# per unit of the budget: the number of a run that counts it, and its name at an axis
UNITS = {
    "updates": ("updates", "updates"),
    "examples": ("examples_backward", "examples backpropagated"),
    "flops": ("flops", "FLOPs"),
    "seconds": ("seconds", "seconds"),
}
UNIT_OF = {"FLOPs": "flops", "seconds": "seconds"}  # of a cost
# the reference that a metric is drawn beside
BESIDE = {"selected_corrupted_lately": "corrupted"}
TOGETHER = 6  # lines in one chart, besides the baseline's
LATE, FEW = 0.5, 3  # an axis is fitted to the evaluations after this share of all, and to so many at least

Cell = list[Run]


@dataclass
class Series:
    """The points of a line, None where one is missing, and where each of them is, in words.

    late: how many, from the end, the axis is fitted to.
    """

    points: list[Point | None]
    places: list[str]
    late: int


@dataclass
class Plot:
    """A chart to draw. views: the lines by name, by the unit of the x-axis. beside: the reference, by that unit."""

    title: str
    metric: str
    views: Mapping[str, Mapping[str, Series]]
    beside: Mapping[str, Series] = field(default_factory=dict)

    def names(self) -> set[str]:
        """The lines that have points."""
        return {name for lines in self.views.values() for name, one in lines.items() if any(one.points)}


@dataclass
class Gallery:
    """Charts that share a legend. shown: the looks of the lines by name. across: how many stand side by side."""

    plots: list[Plot]
    shown: dict[str, Look]
    across: int

    @property
    def charts(self) -> list[Markup]:
        return [draw(plot, self.shown) for plot in self.plots]


class Figures:
    """The charts of a report. A method looks the same in all of them.

    Of the settings in the rows, one names the lines and sets their looks, together with its own values, such as
    sampler.pool of sampler: the one with which they are most. Every combination of the others has its own chart.
    baseline: settings and their values.
    """

    def __init__(self, layout: Layout, curves: dict[str, Curve], baseline: Sequence[tuple[str, str]]) -> None:
        runs = [run for part in layout.panels for run in part.runs]
        groups = [[name, *(other for other in layout.rows if owner(other) == name)] for name in layout.rows]
        free = [group for group in groups if owner(group[0]) not in layout.rows]
        self.layout, self.curves = layout, curves
        self.naming = max(free, key=lambda group: len({words(run, group) for run in runs}))
        methods = {words(run, self.naming): run for run in runs}
        self.names: dict[Key, str] = {}
        for key in sorted(methods, key=order):
            name = ", ".join(
                [key[0] or MISSING, *(f"{n}={v}" for n, v in zip(self.naming[1:], key[1:], strict=True) if v)]
            )
            while name in self.names.values():  # a value may look like several
                name += "\N{PRIME}"
            self.names[key] = name
        fixed = [(name, value) for name, value in baseline if name in self.naming]
        bases = [key for key, run in methods.items() if fixed and all(same(run.get(name), v) for name, v in fixed)]
        self.baseline = self.names[bases[0]] if len(bases) == 1 else None
        self.looks = looks(list(self.names.values()), self.baseline)

    def against(self, part: Panel, metric: str) -> list[Gallery]:
        """A metric against what was actually spent, one chart for each unit. Each point is a cell of the table."""
        plots = [
            Plot(title, metric, {unit: {name: ended(cells, unit, metric) for name, cells in lines.items()}})
            for title, lines in self.lines(part, along="budget")
            for unit in UNITS
        ]
        return self.galleries(plots, len(UNITS))

    def fronts(self, table: Table, found: Sequence[Front]) -> list[Gallery]:
        """The cells of a table against each cost, one chart for each, and a line along the cells on the front."""
        places = [table.rows.index(name) for name in self.naming]
        names = [*table.rows, *table.columns]
        plots = []
        for one in found:
            lines: dict[str, Series] = {}
            for cell, cost in sorted(one.costs.items(), key=lambda item: item[1]):
                line = lines.setdefault(self.names[tuple(cell[0][place] for place in places)], Series([], [], 0))
                shown = table.cells[cell]
                values = ", ".join(f"{name}={w}" for name, w in zip(names, (*cell[0], *cell[1]), strict=True) if w)
                line.points += [Point(cost, shown.mean, shown.std, shown.n), None]  # no line joins it to the next
                line.places += [f"{values}, {short(cost)} {one.cost}", ""]
                line.late += 2
            plots.append(Plot("", table.metric, {UNIT_OF[one.cost]: lines}, {UNIT_OF[one.cost]: steps(one, table)}))
        return self.galleries(plots, 3)

    def learning(self, part: Panel, metrics: Sequence[str]) -> list[Gallery]:
        """Metrics during training, against what was spent in each unit."""
        curves = [self.curves[run["path"]] for run in part.runs if run["path"] in self.curves]
        there = [metric for metric in metrics if any(metric in curve for curve in curves)]
        plots = []
        for metric, (title, lines) in itertools.product(there, self.lines(part)):
            views = {unit: {name: self.curve(cell, unit, metric) for name, (cell,) in lines.items()} for unit in UNITS}
            every = [run for (cell,) in lines.values() for run in cell] if metric in BESIDE else []
            beside = {unit: self.curve(every, unit, BESIDE[metric]) for unit in UNITS if every}
            plots.append(Plot(title, metric, views, beside))
        return self.galleries(plots, len({words(run, self.layout.columns) for run in part.runs}))

    def curve(self, cell: Cell, unit: str, metric: str) -> Series:
        """The mean curve of a cell's runs."""
        curves = [self.curves[run["path"]] for run in cell if run["path"] in self.curves]
        last = max((run["due"][-1] for run in curves), default=0)
        points = mean_curve(curves, UNITS[unit][0], metric)
        places = [f"{100 * due / last:.3g}% of the budget" for due in points]
        return Series([*points.values()], places, max(FEW, sum(due > LATE * last for due in points)))

    def lines(self, part: Panel, along: str | None = None) -> list[tuple[str, dict[str, list[Cell]]]]:
        """The title of each chart, and the cells of its lines by their names.

        along: the column setting that changes from cell to cell along a line. A cell without runs is empty.
        """
        rows, columns = self.layout.rows, self.layout.columns
        titling = [name for name in (*rows, *columns) if name not in (*self.naming, along)]
        moving = [along] if along in columns else []
        places = sorted({words(run, moving) for run in part.runs}, key=order)
        found: dict[Key, dict[Key, dict[Key, Cell]]] = {}
        for run in part.runs:
            lines = found.setdefault(words(run, titling), {})
            cells = lines.setdefault(words(run, self.naming), {place: [] for place in places})
            cells[words(run, moving)].append(run)
        return [
            (
                ", ".join(f"{name}={value or MISSING}" for name, value in zip(titling, title, strict=True)),
                {self.names[key]: list(found[title][key].values()) for key in sorted(found[title], key=order)},
            )
            for title in sorted(found, key=order)
        ]

    def galleries(self, plots: list[Plot], across: int) -> list[Gallery]:
        """The plots that have points, with the lines spread over several charts if there are many."""
        there = {name for plot in plots for name in plot.names()}
        names = [name for name in self.looks if name in there and name != self.baseline]
        first = [self.baseline] if self.baseline in there else []
        parts = -(-len(names) // TOGETHER) or len(first)
        split = [names[part * len(names) // parts : (part + 1) * len(names) // parts] for part in range(parts)]
        return [
            Gallery(
                [plot for plot in plots if plot.names() & set(few or first)],
                {name: self.looks[name] for name in [*first, *few]},
                across,
            )
            for few in split
        ]


def owner(name: str) -> str:
    """The setting of which another is a value: sampler of sampler.pool and of select; "" if there is none."""
    group = head(name)
    return OWNER.get(group, group if group != name else "")


def ended(cells: Sequence[Cell], unit: str, metric: str) -> Series:
    """Where the runs of cells ended: the means of those that have the metric, None if none has."""
    number, name = UNITS[unit]
    points = []
    for cell in cells:
        pairs = [(run[number], run[metric]) for run in cell if None not in (run.get(number), run.get(metric))]
        points.append(mean_point(pairs) if pairs else None)
    places = [f"{short(point.x)} {name}" if point else "" for point in points]
    return Series(points, places, len(points))


def steps(found: Front, table: Table) -> Series:
    """A line along the cells on a front, of each task: as good as the best cell that costs no more."""
    tasks: dict[Key, list[Point | None]] = {}
    for cell in sorted(found.costs.keys() - found.beaten.keys(), key=found.costs.__getitem__):
        cost, mean = found.costs[cell], table.cells[cell].mean
        corners = tasks.setdefault(task_of(cell, table), [None])
        if (last := corners[-1]) is not None:
            corners.append(Point(cost, last.y, None, 1))
        corners.append(Point(cost, mean, None, 1))
    points = [point for corners in tasks.values() for point in corners]
    return Series(points, [""] * len(points), len(points))


def draw(plot: Plot, shown: Mapping[str, Look]) -> Markup:
    """A plot with those of its lines that are shown."""
    fitting, rest, views = [], [], []
    for unit, lines in plot.views.items():
        there = {name: lines[name] for name in shown if name in lines}
        drawn = [Line(shown[name], one.points, values(plot.metric, one), one.places) for name, one in there.items()]
        if unit in plot.beside:
            drawn.append(Line(REFERENCE, plot.beside[unit].points))
        views.append(View(unit, UNITS[unit][1], drawn))
        for one in (*there.values(), *([plot.beside[unit]] if unit in plot.beside else [])):
            fitting += one.points[-one.late :]
            rest += one.points
    y, over = label(plot.metric), " or ".join(view.x for view in views)
    names = ", ".join(there)
    about = f"{y} against {over} of {names}{'; ' if plot.title else ''}{plot.title}"
    return chart(plot.title, y, views, with_margin(*fitted(fitting, rest)), unit_of(plot.metric)[0], about)


def values(metric: str, series: Series) -> list[str]:
    """The points of a line in words; with n where it is smaller than elsewhere on the line."""
    most = max((point.n for point in series.points if point), default=0)
    return [
        said(metric, point.y, point.std) + (f" (n = {point.n})" if point.n < most else "") if point else ""
        for point in series.points
    ]


@functools.lru_cache(2**16)  # it is the same over all axes
def said(metric: str, mean: float, std: float | None) -> str:
    """A mean and its deviation, as in a table."""
    return entry(Table([], [], metric, [()], [()], {((), ()): table.Cell(mean, std, 1)}), (), ())
