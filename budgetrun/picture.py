"""A picture of a table of cells: the metric against the budget, one line a method."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from budgetrun.contracts import UserError

# Okabe & Ito's colours, told apart by colour-blind readers; markers and dashes say it again without colour
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX"
DASHES = ["-", "--", ":", "-."]
UNITS = {"budget": "budget (part of the full training)", "seconds": "seconds", "flops": "FLOPs"}


def scale_of(metric: str) -> tuple[int, str]:
    """By how much a metric is multiplied to be shown, and the unit that is then written behind its name."""
    return (100, ", %") if metric.endswith("accuracy") else (1, "")


def runs_of(cells: pd.DataFrame) -> str:
    """The numbers of runs in the cells, in words: "3", or "1, 3"."""
    return ", ".join(str(n) for n in sorted({int(n) for n in cells["n"]}))


def draw(cells: pd.DataFrame, rows: list[str], x: str, metric: str, path: Path) -> None:
    """Mean and standard deviation of every row over `x`, as SVG, PNG or PDF by the file's ending.

    The first of `rows` sets the colour and marker, the others the dashes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if not pd.api.types.is_numeric_dtype(cells[x]):
        raise UserError(f"{x} is not a number, so it cannot be the axis of a plot; choose --cols budget, for one")
    scale, unit = scale_of(metric)
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    firsts = list(dict.fromkeys(cells[rows[0]]))
    others = list(dict.fromkeys(zip(*(cells[r] for r in rows[1:]), strict=True)))
    lines = cells.groupby(rows, sort=False)
    # side by side, within 4% of the axis, so that error bars do not hide each other
    apart = 0.04 * (cells[x].max() - cells[x].min()) / max(1, lines.ngroups - 1)
    for number, (keys, group) in enumerate(lines):
        keys = keys if isinstance(keys, tuple) else (keys,)
        first, other = firsts.index(keys[0]), others.index(keys[1:]) if rows[1:] else 0
        group = group.sort_values(x)
        axes.errorbar(
            group[x] + (number - (lines.ngroups - 1) / 2) * apart, group["mean"] * scale,
            yerr=(group["std"] * scale).fillna(0), capsize=3, markersize=5,
            label=", ".join(map(str, keys)), color=COLOURS[first % len(COLOURS)], marker=MARKERS[first % len(MARKERS)],
            linestyle=DASHES[other % len(DASHES)],
        )  # fmt: skip
    axes.set_xlabel(UNITS.get(x, x))
    axes.set_ylabel(metric.replace("_", " ") + unit)
    axes.set_title(f"mean ± standard deviation, n = {runs_of(cells)}", fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(
        title=", ".join(rows),
        fontsize="small",
        handlelength=3,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
    )
    try:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written ({error})") from error
    finally:
        pyplot.close(figure)
