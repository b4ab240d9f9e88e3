"""A picture of a table of cells: the metric against the budget, one line a method."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from budgetrun.errors import UserError
from budgetrun.results import replacing
from budgetrun.table import MISSING, Table, number

# Okabe & Ito's colours, told apart by colour-blind readers; markers and dashes say it again without colour
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX*"  # one more than colours, so that 56 pairs pass before one comes back
DASHES: list[Any] = ["-", "--", ":", "-.", (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 4))]
UNITS = {"budget": "budget (part of the full training)", "seconds": "seconds", "flops": "FLOPs"}
# without the time of drawing, so that the same runs make the same file
METADATA: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}


def format_of(path: Path) -> str:
    """What a file is to be, by its ending; raises UserError for what is not drawn."""
    if (ending := path.suffix[1:].lower()) not in METADATA:
        raise UserError(f"{path} does not end in .svg, .png or .pdf, the pictures that are drawn")
    return ending


def draw(table: Table, path: Path) -> None:
    """Write the picture of a table as SVG, PNG or PDF by the file's ending, whole or not at all."""
    from matplotlib import rc_context

    kind, picture, content = format_of(path), figure(table), io.BytesIO()
    with rc_context({"svg.hashsalt": "budgetrun"}):
        picture.savefig(content, format=kind, dpi=150, metadata=METADATA[kind])
    with replacing(path) as file:
        file.write(content.getbuffer())


def figure(table: Table) -> Any:
    """matplotlib's Figure: mean and standard deviation over the first of the columns, a line for each of the rest.

    The first of the rows sets the colour and marker, the others the dashes. A line breaks at a missing cell.
    """
    from matplotlib.figure import Figure

    x = table.columns[0]
    at = {key: number(key[0]) for key in table.column_keys}
    places = sorted({place for place in at.values() if place is not None})
    if None in at.values():
        raise UserError(f"{x} is not a number, so it cannot be the axis of a plot; choose --cols budget, for one")
    scale, unit = table.scale()
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
            [cell.mean * scale if cell and math.isfinite(cell.mean) else math.nan for cell in cells],
            yerr=[cell.std * scale if cell and cell.std is not None else math.nan for cell in cells],
            label=", ".join(w or MISSING for w in row + rest), color=COLOURS[first % len(COLOURS)],
            marker=MARKERS[first % len(MARKERS)], linestyle=DASHES[other % len(DASHES)], capsize=3, markersize=5,
        )  # fmt: skip
    axes.set_xlabel(UNITS.get(x, x))
    axes.set_ylabel(table.metric.replace("_", " ") + unit)
    axes.set_title(table.statistic(), fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(
        title=", ".join([*table.rows, *table.columns[1:]]), fontsize="small", handlelength=3, loc="center left",
        bbox_to_anchor=(1.01, 0.5), frameon=False,
    )  # fmt: skip
    return picture
