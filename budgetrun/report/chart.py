"""The pictures of a report, drawn as SVG in the colours of the page: light, dark or printed, with or without scripts.

A chart has lines with bands over one or several x-axes. A strip is a picture in a line of a table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from budgetrun.tables.curves import Point
from budgetrun.tables.plot import power, thousands

# the area between the axes, in half pixels of a picture 330 pixels wide, and the room around it
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 572, 350, 70, 12, 18, 34
COLOURS = 6  # of the page, besides that of its text
SHAPES = {  # of a marker, around (0, 0)
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "square": "M-5-5h10v10h-10z",
    "diamond": "M0-7l7 7-7 7-7-7z",
    "triangle": "M0-7l7 12h-14z",
    "wedge": "M0 7l-7-12h14z",
    "plus": "M-2-7h4v5h5v4h-5v5h-4v-5h-5v-4h5z",
    "cross": "M-6-3l3-3 3 3 3-3 3 3-3 3 3 3-3 3-3-3-3 3-3-3 3-3z",
    "star": "M0-8l2 5h6l-5 4 2 6-5-4-5 4 2-6-5-4h6z",
}
DASHES = ("", "14 6", "4 5", "14 5 4 5", "24 6", "8 4 3 4 3 4", "3 10")
TICKS = 6  # intervals on an axis, at most


@dataclass(frozen=True)
class Look:
    """How a method is drawn. name: its class on the page. colour: a number, None for that of the text."""

    name: str
    colour: int | None
    shape: str = ""
    dash: str = ""


REFERENCE = Look("reference", None)  # what lines are compared with


def looks(names: Sequence[str], baseline: str | None) -> dict[str, Look]:
    """A look for each name: the text's colour for the baseline, and six colours for any six other names in a row."""
    found = {baseline: Look("base", None, "circle")} if baseline is not None else {}
    shapes = list(SHAPES)
    for number, name in enumerate(name for name in names if name != baseline):
        i = number % (24 * len(DASHES))  # a pair of colour and shape repeats after 24
        found[name] = Look(f"m{i}", i % COLOURS, shapes[(i + 1) % len(shapes)], DASHES[i // 24])
    return found


@dataclass
class Line:
    """points: from left to right, None where one is missing. values, places: of each point, in words."""

    look: Look
    points: Sequence[Point | None]
    values: Sequence[str] = ()
    places: Sequence[str] = ()

    def finite(self) -> list[Point | None]:
        """The points that can be drawn."""
        return [point if point and math.isfinite(point.x + point.y) else None for point in self.points]


@dataclass
class View:
    """Lines over one x-axis. name: by which the page chooses one of several. x: what the axis counts, with its unit."""

    name: str
    x: str
    lines: list[Line]


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high`, at places from 0 to `length`."""

    low: float
    high: float
    length: int

    def at(self, number: float) -> int:
        """The place of a number; at most as far outside as the scale is long."""
        return round(self.length * max(-1.0, min(2.0, (number - self.low) / (self.high - self.low))))

    def ticks(self) -> list[tuple[int, str]]:
        """Places of round numbers, and these numbers in words."""
        least = (self.high - self.low) / TICKS
        decade = 10.0 ** math.floor(math.log10(least))
        step = decade * next(multiple for multiple in (1, 2, 5, 10) if multiple * decade >= least * (1 - 1e-9))
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.at(n * step), f"{n * step:z.{digits}f}") for n in range(first, last + 1)]


def with_margin(low: float, high: float) -> tuple[float, float]:
    """A range that is a little larger; low > high: there is nothing to show."""
    if low > high:
        return 0.0, 1.0
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def extent(points: Iterable[Point | None]) -> tuple[float, float]:
    """The lowest and the highest end of the points' deviations; (inf, -inf) if none is finite."""
    ends = [end for p in points if p for end in (p.y - (p.std or 0), p.y + (p.std or 0)) if math.isfinite(end)]
    return min(ends, default=math.inf), max(ends, default=-math.inf)


def fitted(last: Iterable[Point | None], all_points: Iterable[Point | None]) -> tuple[float, float]:
    """The range of the last points, extended towards the others by at most its own size to either side.

    So a steep beginning does not flatten the end of a curve. If there is no last point, it is the range of all.
    """
    (low, high), (lowest, highest) = extent(last), extent(all_points)
    if low > high:
        return lowest, highest
    return max(lowest, 2 * low - high), min(highest, 2 * high - low)


# ---- a chart


def chart(
    title: str, y: str, views: Sequence[View], limits: tuple[float, float], factor: float, alternative: str
) -> Markup:
    """A chart as an HTML element.

    y: what the axis counts, with its unit. limits: of y, before it is multiplied by `factor`. Later lines lie above
    earlier ones. A line breaks at a missing point, and an isolated point has a bar instead of a band. Large numbers at
    an axis are divided by a power of 1000, which the axis states. alternative: what is shown, in words.
    """
    by = thousands(factor * limit for limit in limits)
    factor /= 10**by
    scale = Scale(factor * limits[0], factor * limits[1], HEIGHT)
    ticks = [(TOP + HEIGHT - place, word) for place, word in scale.ticks()]
    grid = "".join(f"M{LEFT} {place}h{WIDTH}" for place, _ in ticks)
    numbers = "".join(f'<text class="y" x="{LEFT - 8}" y="{place + 7}">{word}</text>' for place, word in ticks)
    axes, below = "", ""
    same: dict[tuple[str, str], list[str]] = {}  # views that look alike: often, one unit is a multiple of another
    for view in views:
        xs = [point.x for line in view.lines for point in line.points if point and math.isfinite(point.x)]
        exponent = thousands(xs)
        ends = min(xs, default=math.inf), max(xs, default=-math.inf)
        x = Scale(*with_margin(*(end / 10**exponent for end in ends)), WIDTH)
        same.setdefault((drawn(view.lines, x, exponent, scale, factor), told(view.lines)), []).append(view.name)
        axes += f'<g class="view {view.name}">{vertical(x)}</g>'
        below += f'<p class="axis x view {view.name}">{escape(view.x + power(exponent))}</p>'
    frame = f'x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}"'  # an inner svg shows nothing outside of it
    lines, said = "", ""
    for (inner, words), names in same.items():
        lines += f'<svg class="view {" ".join(names)}" {frame}>{"" if words == said else words}{inner}</svg>'
        said = said or words
    heading = f'<p class="title">{escape(title)}</p>' if title else ""
    size = f"0 0 {LEFT + WIDTH + RIGHT} {TOP + HEIGHT + BOTTOM}"
    return Markup(
        f'<div class="picture">{heading}<p class="axis">{escape(y + power(by))}</p>'
        f'<svg viewBox="{size}" role="img" aria-label="{escape(alternative)}">'
        f'<path class="grid" d="{grid}"/>{numbers}{axes}{lines}</svg>{below}</div>'
    )


def vertical(x: Scale) -> str:
    """The lines of the grid and the numbers of an x-axis."""
    ticks = [(LEFT + place, word) for place, word in x.ticks()]
    grid = "".join(f"M{place} {TOP}v{HEIGHT}" for place, _ in ticks)
    words = "".join(f'<text class="x" x="{place}" y="{TOP + HEIGHT + 26}">{word}</text>' for place, word in ticks)
    return f'<path class="grid" d="{grid}"/>{words}'


def drawn(lines: Iterable[Line], x: Scale, exponent: int, y: Scale, factor: float) -> str:
    """Bands and lines. exponent: the power of ten by which x is divided."""

    def place(point: Point, deviation: float) -> tuple[int, int]:
        return x.at(point.x / 10**exponent), HEIGHT - y.at((point.y + deviation) * factor)

    below, above = "", ""
    for line in lines:
        name, points = line.look.name, line.finite()
        parts = list(unbroken(points))
        for run in unbroken([None if point is None or not has_deviation(point) else point for point in points]):
            upper, lower = ([place(point, sign * (point.std or 0)) for point in run] for sign in (1, -1))
            if len(run) > 1:
                below += f'<path class="band {name}" d="{path([[*upper, *reversed(lower)]])}z"/>'
            elif run in parts:
                ((left, top),), ((_, bottom),) = upper, lower
                above += f'<path class="bar {name}" d="M{left - 6} {top}h12m-6 0V{bottom}m-6 0h12"/>'
        if parts:
            above += f'<path class="line {name}" d="{path([[place(point, 0) for point in run] for run in parts])}"/>'
    return below + above


def has_deviation(point: Point) -> bool:
    """Whether it can be drawn."""
    return point.std is not None and math.isfinite(point.std)


def told(lines: Iterable[Line]) -> str:
    """What is said about the points, for scripts: by the looks of lines, and the places at first if all share them."""

    def joined(line: Line, words: Sequence[str]) -> str:
        return escape("|".join(itertools.compress(words, line.finite())))

    said = [(line.look.name, joined(line, line.values), joined(line, line.places)) for line in lines if line.values]
    shared = said[0][2] if len({places for *_, places in said}) == 1 else None
    text = "" if shared is None else f'<metadata data-places="{shared}"></metadata>'
    for name, values, places in said:
        own = f' data-places="{places}"' if shared is None else ""
        text += f'<metadata class="{name}" data-values="{values}"{own}></metadata>'
    return text


def unbroken(points: Iterable[Point | None]) -> Iterator[list[Point]]:
    """The points between missing ones."""
    for there, run in itertools.groupby(points, key=lambda point: point is not None):
        if there:
            yield [point for point in run if point is not None]


def path(parts: Iterable[Sequence[tuple[int, int]]]) -> str:
    """Lines through places, as the `d` of an SVG path. Every place is given relative to the one before, to be short."""
    text, (x, y) = "", (0, 0)
    for part in parts:
        (left, top), *rest = part
        text += f"m{left - x} {top - y}"
        x, y = left, top
        text += "h0" if not rest else "l"  # a line of no length has a marker
        steps = []
        for left, top in rest:
            steps.append(f"{left - x} {top - y}")
            x, y = left, top
        text += " ".join(steps)
    return text.replace(" -", "-")


# ---- strips


@dataclass
class Strips:
    """One picture for each line of a table, over a common axis. title: of their column."""

    title: str
    axis: Markup
    cells: list[Markup]


@dataclass
class Interval:
    """A number with its interval, if it has one. marked: whether it is drawn filled, as a finding."""

    value: float
    low: float | None
    high: float | None
    marked: bool


def forest(title: str, intervals: Sequence[Interval], origin: float | None) -> Strips:
    """Numbers and their intervals, beside a line at an origin if there is one."""
    known = [end for one in intervals for end in (origin, one.value, one.low, one.high) if end is not None]
    ends = list(filter(math.isfinite, known))
    scale = Scale(*with_margin(min(ends), max(ends)), 1000)

    def at(number: float) -> str:
        return f"{scale.at(number) / 10:g}%"

    def cell(one: Interval) -> Markup:
        drawn = "" if origin is None else f'<line class="zero" x1="{at(origin)}" x2="{at(origin)}" y2="100%"/>'
        if one.low is not None and one.high is not None and math.isfinite(one.low + one.high):
            drawn += f'<line class="interval" x1="{at(one.low)}" x2="{at(one.high)}" y1="50%" y2="50%"/>'
        if math.isfinite(one.value):
            kind = "dot finding" if one.marked else "dot"
            drawn += f'<circle class="{kind}" cx="{at(one.value)}" cy="50%" r="4"/>'
        return Markup(f'<svg class="strip" aria-hidden="true">{drawn}</svg>')

    return Strips(title, axis([(place / 10, word) for place, word in scale.ticks()]), [cell(one) for one in intervals])


def timeline(title: str, lines: Sequence[Sequence[float | None]]) -> Strips:
    """For each line, the shares from 0 to 1 that hold in equal parts of the budget, in order; None is not known."""

    def cell(shares: Sequence[float | None]) -> Markup:
        drawn, begin = "", 0
        for share, part in itertools.groupby(shares):
            end = begin + len(list(part))
            left, right = (100 * place / len(shares) for place in (begin, end))
            begin = end
            if share is not None:
                said = f"<title>{left:.3g}% to {right:.3g}% of the budget: {100 * share:.3g}%</title>"
                drawn += f'<rect x="{left:.4g}%" width="{right - left:.4g}%" fill-opacity="{share:.3g}">{said}</rect>'
        return Markup(f'<svg class="strip timeline" aria-hidden="true">{drawn}</svg>')

    return Strips(title, axis([(0, "0%"), (50, "50%"), (100, "100%")]), [cell(shares) for shares in lines])


def axis(ticks: Sequence[tuple[float, str]]) -> Markup:
    """Words at places in per cent."""
    words = "".join(f'<text x="{place:g}%" y="11">{word}</text>' for place, word in ticks)
    return Markup(f'<svg class="strip axis" aria-hidden="true">{words}</svg>')
