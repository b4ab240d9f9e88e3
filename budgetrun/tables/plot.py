"""Pictures of tables: a metric against the budget, one line per method. And how metrics are named on an axis."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from budgetrun.errors import UserError
from budgetrun.files import replacing
from budgetrun.tables.table import MISSING, Table, number, unit_of

# Okabe & Ito's colours, which colour-blind readers can tell apart; markers and dashes work without colour
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX*"  # one more than colours, so that a pair repeats only after 56
DASHES: list[Any] = ["-", "--", ":", "-.", (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 4))]
UNITS = {"budget": "budget (part of the full training run)", "seconds": "seconds", "flops": "FLOPs"}
# without the time of drawing, so that the same runs make the same file
METADATA: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
LABEL = 40  # characters per line of a label
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


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
    factor, _ = unit_of(table.metric)
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
    return metric.replace("_", " ") + unit_of(metric)[1]


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
