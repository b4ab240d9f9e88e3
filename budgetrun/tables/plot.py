"""Pictures of tables and of learning curves: a metric against the budget, one line per method."""

from __future__ import annotations

import contextlib
import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from budgetrun.errors import UserError
from budgetrun.files import replacing
from budgetrun.tables.curves import Point
from budgetrun.tables.table import MISSING, Table, number, tabulate

# Okabe & Ito's colours, which colour-blind readers can tell apart; markers and dashes work without colour
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX*"  # one more than colours, so that a pair repeats only after 56
DASHES: list[Any] = ["-", "--", ":", "-.", (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 4))]
UNITS = {"budget": "budget (part of the full training run)", "seconds": "seconds", "flops": "FLOPs"}
# without the time of drawing, so that the same runs make the same file
METADATA: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
# for a page: text stays text, for search and screen readers; laid out in DejaVu Sans, the widest of those listed
INLINE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "budgetrun",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555",
    "xtick.color": "#333",
    "ytick.color": "#333",
    "axes.labelcolor": "#222",
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "lines.markersize": 4.5,
    "errorbar.capsize": 3,
}
AXES = (0.19, 0.19, 0.765, 0.7)
LABEL = 40  # characters per line of a label
TITLE, LINE = 34, 0.06  # characters that fit above the axes, and the height of each further line of them
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Style:
    """width: of the line, in points. band: whether a standard deviation is drawn on each side."""

    colour: str
    marker: str
    dash: Any = "-"
    width: float = 1.6
    band: bool = True


CONTEXT = Style("#c8c8c8", "", width=0.8, band=False)  # for lines that others are compared with
REFERENCE = Style("#222222", "", (0, (4, 3)), width=1, band=False)
CASING = Style("#ffffff", "", width=2, band=False)  # below a reference, so that it is visible on any line


@dataclass
class Line:
    """points: from left to right, None where one is missing."""

    points: Sequence[Point | None]
    style: Style


def looks(names: Sequence[str], baseline: str | None) -> dict[str, Style]:
    """A style for each name: black for the baseline, and six different colours for any six names in a row."""
    found = {baseline: Style(COLOURS[6], "o")} if baseline is not None else {}
    for i, name in enumerate(name for name in names if name != baseline):
        found[name] = Style(COLOURS[i % 6], MARKERS[(i + 1) % len(MARKERS)], DASHES[i // 24 % len(DASHES)])
    return found


def format_of(path: Path) -> str:
    """The format of a picture, by its file's suffix; raises UserError for any other."""
    if (ending := path.suffix[1:].lower()) not in METADATA:
        raise UserError(f"{path} does not end in .svg, .png or .pdf, the formats of a picture")
    return ending


def draw(table: Table, path: Path) -> None:
    """Write the picture of a table as SVG, PNG or PDF by the file's suffix, completely or not at all."""
    from matplotlib import rc_context

    kind, content = format_of(path), io.BytesIO()
    with rc_context({"svg.hashsalt": "budgetrun", "text.parse_math": False}):
        figure(table).savefig(content, format=kind, dpi=150, metadata=METADATA[kind])
    with replacing(path) as file:
        file.write(content.getbuffer())


def figure(table: Table) -> Any:
    """A matplotlib Figure: mean and standard deviation over the first column setting, one line per value of the rest.

    The first row setting sets the colour and marker, the others the dashes. A line breaks at a missing cell.
    """
    from matplotlib.figure import Figure

    x = table.columns[0]
    at = {key: number(key[0]) for key in table.column_keys}
    places = sorted({place for place in at.values() if place is not None})
    if None in at.values():
        raise UserError(f"{x} is not a number, so it cannot be the axis of a plot; choose for example --cols budget")
    factor, _ = table.scale()
    picture = Figure(figsize=(7, 4.2), layout="constrained")
    axes = picture.subplots()
    pairs = ((row, key) for row in table.row_keys for key in table.column_keys if (row, key) in table.cells)
    lines = list(dict.fromkeys((row, key[1:]) for row, key in pairs))
    firsts = list(dict.fromkeys(row[0] for row, _ in lines))
    others = list(dict.fromkeys(row[1:] + rest for row, rest in lines))
    # side by side, within 4% of the axis, so that error bars do not hide each other
    apart = 0.04 * (places[-1] - places[0]) / max(1, len(lines) - 1)
    for index, (row, rest) in enumerate(lines):
        first, other = firsts.index(row[0]), others.index(row[1:] + rest)
        by_place = {at[key]: table.cells.get((row, key)) for key in table.column_keys if key[1:] == rest}
        cells = [by_place.get(place) for place in places]
        axes.errorbar(
            [place + (index - (len(lines) - 1) / 2) * apart for place in places],
            [cell.mean * factor if cell and math.isfinite(cell.mean) else math.nan for cell in cells],
            yerr=[cell.std * factor if cell and cell.std is not None else math.nan for cell in cells],
            label=in_lines(", ".join(w or MISSING for w in row + rest)),
            color=COLOURS[first % len(COLOURS)],
            marker=MARKERS[first % len(MARKERS)],
            linestyle=DASHES[other % len(DASHES)],
            capsize=3,
            markersize=5,
        )
    axes.set_xlabel(in_lines(UNITS.get(x, x)))
    axes.set_ylabel(in_lines(label(table.metric)))
    axes.set_title(table.statistic(), fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(
        title=in_lines(", ".join([*table.rows, *table.columns[1:]])),
        fontsize="small",
        handlelength=3,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
    )
    return picture


def label(metric: str) -> str:
    """The label of an axis: the metric in words, with its unit."""
    return metric.replace("_", " ") + tabulate([], [], [], metric).scale()[1]


def scale(metric: str) -> int:
    """The factor by which a metric is multiplied when it is shown."""
    return tabulate([], [], [], metric).scale()[0]


def chart(lines: Sequence[Line], title: str, x: str, y: str, limits: tuple[float, float], factor: float) -> Any:
    """A small matplotlib Figure: lines with a band of one standard deviation on each side.

    x, y: the labels of the axes, with units. limits: of y, before it is multiplied by `factor`. Later lines lie above
    earlier ones. A line breaks at a missing point, and an isolated point has a bar instead of a band. Large numbers at
    x are divided by a power of 1000, which the label states.
    """
    from matplotlib.figure import Figure

    exponent = thousands(point.x for line in lines for point in line.points if point)
    picture = Figure(figsize=(3.3, 2.5))
    titles = textwrap.wrap(printable(title), TITLE, break_on_hyphens=False)
    left, bottom, width, height = AXES  # fixed, since an automatic layout takes twice the time
    axes = picture.add_axes((left, bottom, width, height - LINE * max(0, len(titles) - 1)))
    for line in lines:
        xs = [point.x / 10**exponent if point else math.nan for point in line.points]
        ys = [point.y * factor if point else math.nan for point in line.points]
        spread = [point.std * factor if point and point.std is not None else math.nan for point in line.points]
        if line.style.band:
            band = [[y + sign * s for y, s in zip(ys, spread, strict=True)] for sign in (-1, 1)]
            axes.fill_between(xs, band[0], band[1], color=line.style.colour, alpha=0.18, linewidth=0)
            there = [False, *(point is not None for point in line.points), False]
            alone = [not before and not after for before, after in zip(there, there[2:], strict=False)]
            bars = [s if lone else math.nan for s, lone in zip(spread, alone, strict=True)]
            axes.errorbar(xs, ys, yerr=bars, color=line.style.colour, linestyle="")
        axes.plot(xs, ys, **drawn(line.style))
    axes.set_ylim(limits[0] * factor, limits[1] * factor)
    axes.set_xlabel(printable(x) + power(exponent))
    axes.set_ylabel(printable(y))
    axes.set_title("\n".join(titles))
    axes.grid(alpha=0.25, linewidth=0.6)
    return picture


def printable(text: str) -> str:
    """Text without characters that no font has and no SVG may contain."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def in_lines(text: str) -> str:
    """Printable text for a legend or an axis, in at most three lines; the middle of a longer text is left out.

    Next to labels of hundreds of characters, matplotlib finds no room for the axes.
    """
    text = printable(text)
    if len(text) > 3 * LABEL:
        text = f"{text[: 3 * LABEL // 2]}…{text[-(3 * LABEL // 2 - 1) :]}"
    return "\n".join(textwrap.wrap(text, LABEL, break_on_hyphens=False))


def thousands(numbers: Iterable[float]) -> int:
    """The power of ten, a multiple of 3, by which numbers are divided to keep them short."""
    largest = max((abs(number) for number in numbers if math.isfinite(number)), default=0)
    return 3 * int(math.log10(largest) // 3) if largest >= 10_000 else 0


def power(exponent: int) -> str:
    """The suffix of a label whose numbers were divided by a power of ten."""
    return f" (in\N{NO-BREAK SPACE}10{str(exponent).translate(RAISED)})" if exponent else ""


def limits(points: Iterable[Point]) -> tuple[float, float]:
    """The range of the points and their bands, with a small margin."""
    ends = [end for p in points for end in (p.y - (p.std or 0), p.y + (p.std or 0)) if math.isfinite(end)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def swatch(look: Style) -> Any:
    """A line and a marker for a legend."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    picture = Figure(figsize=(0.42, 0.14))
    picture.add_artist(Line2D([0.02, 0.5, 0.98], [0.5, 0.5, 0.5], **drawn(look), markevery=[1]))
    return picture


def drawn(look: Style) -> dict[str, Any]:
    """A style as matplotlib's arguments."""
    return {"color": look.colour, "marker": look.marker, "linestyle": look.dash, "linewidth": look.width}


@contextlib.contextmanager
def page_style() -> Iterator[None]:
    """Use the style of a page's pictures in this block. Missing glyphs do not matter: the browser's fonts draw them."""
    from matplotlib import rc_context

    with rc_context(INLINE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def inline(picture: Any, name: str, alternative: str) -> str:
    """A Figure as an SVG element for a page.

    name: a prefix that makes its ids unique. alternative: what it shows, in words; "" if it is only decoration.
    """
    content = io.BytesIO()
    picture.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(content.getvalue())
    root.remove(root[0])  # a style that would apply to the whole page
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            value = f"{name}-{value}" if key == "id" else re.sub(r"(^|url\()#", rf"\1#{name}-", value)
            # a hundredth of a point is too small to see
            element.attrib[key] = re.sub(r"(\.\d\d)\d+", r"\1", value) if key in ("d", "x", "y", "transform") else value
            if key.endswith("}href"):
                element.attrib["href"] = element.attrib.pop(key)
    role = {"role": "img", "aria-label": alternative} if alternative else {"aria-hidden": "true"}
    root.attrib = {"viewBox": root.attrib["viewBox"], **role}
    return ElementTree.tostring(root, encoding="unicode")
