"""Tables of cells, mean ± standard deviation of n runs: how they are computed, and printed as Markdown and LaTeX."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from budgetrun.digits import with_deviation, written
from budgetrun.terminal import shown

MISSING = "—"
ALIKE = "without ±: equal in all runs"
Key = tuple[str, ...]
Place = tuple[str, Key, Key]  # of a cell: metric, row key, column key
# fractions of a whole, shown in per cent like accuracies
SHARES = (
    "corrupted",
    "selected_corrupted",
    "selected_corrupted_lately",
    "keep_rate",
    "looking_updates",
    "selection_flops",
    "selection_seconds",
)
GREATER = ("accuracy", "accuracy_at_best_validation", "accuracy_best_on_test", "speedup_examples", "speedup_seconds")
LESS = ("loss", "error", "seconds", "seconds_total", "flops", "flops_total", "pays_after", "epochs_to_generalise")


@dataclass
class Cell:
    """mean of n >= 1 runs, and their sample standard deviation (ddof=1), None for one run."""

    mean: float
    std: float | None
    n: int


@dataclass
class Table:
    """A metric by settings.

    rows, columns: the settings' names. row_keys, column_keys: the combinations of their values, sorted; each value
    is a word (see `word`), and "" if a run has no such setting. cells: by row key and column key, without those
    combinations that have no run. note: what else its caption says.
    """

    rows: list[str]
    columns: list[str]
    metric: str
    row_keys: list[Key]
    column_keys: list[Key]
    cells: dict[tuple[Key, Key], Cell]
    note: str = ""

    def numbers(self) -> list[int]:
        """How many runs cells have, sorted, each number once."""
        return sorted({cell.n for cell in self.cells.values()})

    def statistic(self) -> str:
        """What a cell shows, in words."""
        if not (n := self.numbers()):
            return "no run has one"
        several = f"mean ± standard deviation (ddof=1) of n = {', '.join(map(str, n))} runs"
        return "one run per cell" if n == [1] else several

    def has_alike(self) -> bool:
        """Whether a cell has several runs and one value, which is shown without its deviation of 0."""
        return any(cell.std == 0 for cell in self.cells.values())


def tabulate(runs: Iterable[dict[str, Any]], rows: list[str], columns: list[str], metric: str, note: str = "") -> Table:
    """The table of runs. A run without the metric has its row and its column, but is in no cell."""
    values: dict[tuple[Key, Key], list[float]] = {}
    for run in runs:
        found = values.setdefault((words(run, rows), words(run, columns)), [])
        if run.get(metric) is not None:
            found.append(run[metric])
    row_keys, column_keys = (sorted({key[side] for key in values}, key=order) for side in (0, 1))
    cells = {key: cell(found) for key, found in values.items() if found}
    return Table(rows, columns, metric, row_keys, column_keys, cells, note)


def cell(values: list[float]) -> Cell:
    if not all(map(math.isfinite, values)):  # shown as it is: leaving the run out would flatter the method
        return Cell(sum(values) / len(values), None, len(values))
    # in exact fractions: the mean of 0.1, 0.1 and 0.1 is 0.1
    return Cell(float(statistics.mean(values)), statistics.stdev(values) if len(values) > 1 else None, len(values))


def word(value: Any) -> str:
    """A value as typed on the command line. Different numbers have different words; 1 and 1.0 have the same one."""
    if isinstance(value, list):
        return f"[{','.join(map(word, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:  # from there on floats skip integers
        return str(int(value))
    return str(value)


def words(run: Mapping[str, Any], names: Iterable[str]) -> Key:
    """The values that a run has under these names, "" if it has none."""
    return tuple(word(run.get(name, "")) for name in names)


def order(key: Key) -> list[tuple[int, float, str]]:
    """A sort key: numbers by size, then words, then missing values."""
    return [(2, 0.0, "") if not w else (1, 0.0, w) if (x := number(w)) is None else (0, x, w) for w in key]


def number(word: str) -> float | None:
    """The finite number that a word stands for, or None."""
    try:
        return value if math.isfinite(value := float(word)) else None
    except ValueError:
        return None


def better(metric: str) -> int:
    """1 if more of a metric is better, -1 if less is, 0 if neither."""
    return 1 if metric.endswith(GREATER) else -1 if metric.endswith(LESS) and metric not in SHARES else 0


def unit_of(metric: str) -> tuple[int, str]:
    """The factor by which a metric is multiplied when it is shown, and the unit to write after its name."""
    share = "accuracy" in metric or metric.endswith("error") or metric in SHARES
    return (100, ", %") if share else (1, "")


def decimals_of(metric: str) -> int | None:
    """How many decimals a metric always has; None if the deviation decides."""
    return 2 if unit_of(metric)[1] else 3 if metric.endswith("entropy") else None


def in_digits(metric: str, value: float, spread: float | None = None) -> str:
    """A value of a metric, in the unit in which it is shown and without that unit, see `digits.written`."""
    factor, _ = unit_of(metric)
    return written(value * factor, spread and spread * factor, decimals_of(metric))


def mean_of(metric: str, cell: Cell) -> str:
    """The mean of a cell alone, with the digits that it has beside its deviation."""
    return in_digits(metric, cell.mean, cell.std)


# ---- as it is shown


@dataclass
class Sheet:
    """What is printed: headings, lines of words, and a caption.

    left: how many columns, from the left, are names and not numbers. strong: which words, as (line, column), are bold.
    """

    head: list[str]
    lines: list[list[str]]
    caption: str
    left: int
    strong: set[tuple[int, int]] = field(default_factory=set)


def laid_out(*tables: Table, best: Collection[Place] = ()) -> Sheet:
    """Tables of the same runs, rows and columns as one, with the columns of each table after those of the one before.

    best: the cells in bold, as (metric, row key, column key).
    """
    first = tables[0]
    columns = [(table, key) for table in tables for key in first.column_keys]
    headings = [
        ", ".join(
            [
                *([table.metric] if len(tables) > 1 else []),
                *(f"{name}={w or MISSING}" for name, w in zip(table.columns, key, strict=True)),
            ]
        )
        for table, key in columns
    ]
    sheet = Sheet([*first.rows, *headings], [], caption(*tables), len(first.rows))
    for line, row in enumerate(first.row_keys):
        sheet.lines.append([*(w or MISSING for w in row), *(entry(table, row, key) for table, key in columns)])
        sheet.strong |= {
            (line, sheet.left + place) for place, (table, key) in enumerate(columns) if (table.metric, row, key) in best
        }
    return sheet


def markdown(sheet: Sheet) -> str:
    lines = [[shown(w).replace("|", r"\|") for w in line] for line in [sheet.head, *sheet.lines]]
    for line, column in sheet.strong:
        lines[1 + line][column] = f"**{lines[1 + line][column]}**"
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    drawn = ("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)
    return "\n".join([*drawn, "", shown(sheet.caption)])


def latex(sheet: Sheet) -> str:
    head, *body = ([escape(w) for w in line] for line in [sheet.head, *sheet.lines])
    for line, column in sheet.strong:
        body[line][column] = rf"\textbf{{{body[line][column]}}}"
    ends = [" & ".join(line) + r" \\" for line in body]
    alignment = "l" * sheet.left + "r" * (len(head) - sheet.left)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(sheet.caption)}}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *ends,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


STYLES = {"md": markdown, "latex": latex}
LISTS = {
    "md": lambda sentences: "\n".join(f"- {shown(sentence)}" for sentence in sentences),
    "latex": lambda sentences: "\n".join(
        [r"\begin{itemize}", *(rf"\item {escape(sentence)}" for sentence in sentences), r"\end{itemize}"]
    ),
}


def entry(table: Table, row: tuple[str, ...], column: tuple[str, ...]) -> str:
    """A cell in words, with n if it is not the same everywhere."""
    cell = table.cells.get((row, column))
    if cell is None:
        return MISSING
    factor, _ = unit_of(table.metric)
    deviation = None if cell.std is None else cell.std * factor
    shown = with_deviation(cell.mean * factor, deviation, decimals_of(table.metric))
    return shown + (f" (n={cell.n})" if len(table.numbers()) > 1 else "")


def caption(*tables: Table) -> str:
    """What the numbers are: the metrics, those with the same statistic together, and how to read a cell."""
    metrics: dict[str, list[str]] = {}
    for table in tables:
        metrics.setdefault(table.statistic(), []).append(table.metric + unit_of(table.metric)[1])
    said = [f"{'; '.join(names)}: {statistic}" for statistic, names in metrics.items()]
    said += [ALIKE] if any(table.has_alike() for table in tables) else []
    if any(len(table.cells) < len(table.row_keys) * len(table.column_keys) for table in tables):
        said.append(f"{MISSING} is missing")
    return "; ".join([*said, *dict.fromkeys(table.note for table in tables if table.note)])


def escape(text: str) -> str:
    """Escape text for LaTeX, including brackets and stars, which may not begin a line of a table."""
    special = {
        **{c: rf"\{c}" for c in "%_&#$"},
        **{c: f"{{{c}}}" for c in "[]*"},
        "{": r"\{",
        "}": r"\}",
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        MISSING: "---",
    }
    return "".join(special.get(character, character) for character in shown(text))
