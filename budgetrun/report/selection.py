"""What was selected: its diagnostics, when the gate was open, and the examples that were selected most and least."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from budgetrun.folder import selected
from budgetrun.folder.run import why_not
from budgetrun.report.blocks import Block, Charts, Examples, Note, Part, Row, Section, Tabular, Terms
from budgetrun.report.chart import timeline
from budgetrun.report.study import Study, few, numbers, repeats
from budgetrun.tables.answers import ANSWERS, answered
from budgetrun.tables.curves import mean_looking
from budgetrun.tables.layout import Panel
from budgetrun.tables.runs import CURVE, Run
from budgetrun.tables.selections import selected_path
from budgetrun.tables.table import MISSING, Key, Sheet, entry, order, tabulate, words

DIAGNOSTICS = (
    "corrupted",
    "selected_corrupted",
    "selected_corrupted_lately",
    "visits_entropy",
    "selected_class_entropy",
    "keep_rate",
    "effective_batch",
    "looking_updates",
    "selection_seconds",
    "selection_flops",
)
MEANINGS = {
    "corrupted, selected corrupted": "the share of corrupted examples in the training data, and in the visits; lately: "
    "in the visits since the evaluation before the last. Uniform sampling visits as many as there are.",
    "visits entropy": "of the shares of the examples in all visits, in nats; ln N if all were visited alike.",
    "selected class entropy": "of the classes of the visited, over its maximum; 1 if all classes were visited alike.",
    "keep rate": "images trained on, of the candidates that were looked at or trained on.",
    "effective batch": "(sum of weights)² / sum of squared weights, over the batch size; 1 if all weights are equal.",
    "looking updates": "the share of updates before which the method looked at candidates with the model.",
    "selection seconds, selection flops": "the shares of time and FLOPs that went into choosing.",
}
GATE = "sampler.threshold"  # the setting that samplers with a gate have
FEW = 300  # runs of a panel whose visits are compared; each has a file to read
MOST = 12  # runs whose examples are on a page: 16 small colour images take 50 kB


def selection(study: Study) -> Section:
    """What was selected, when, and which examples most and least."""
    parts, left = list[Part](), MOST
    for panel, answer in study.panels():
        blocks: list[Block] = [Tabular(numbers(panel, study.layout.shown, DIAGNOSTICS, even_if_0=True))]
        if galleries := study.figures.learning(panel, ["selected_corrupted_lately"]):
            caption = (
                "corrupted examples in the visits since the evaluation before; dashed: their share in the data. Means "
                f"over runs and bands of one standard deviation (ddof=1); {repeats(panel, answer)}"
            )
            blocks.append(Charts(galleries, caption))
        if len(panel.runs) <= FEW and (sheet := answered(ANSWERS["selections"], answer)) is not None:
            blocks.append(Tabular(sheet))
        blocks += [*gate(study, panel), *examples(study, panel, left)]
        left -= sum(len(block.rows) for block in blocks if isinstance(block, Examples))
        parts.append(Part(panel.title, blocks))
    terms = Part("", [Terms("What the columns mean", MEANINGS)])
    return Section("selection", "What was selected", [terms, *few(parts)])


def gate(study: Study, panel: Panel) -> list[Block]:
    """When the samplers that have a gate selected, and when they drew uniformly."""
    names = study.layout.shown
    cells: dict[Key, list[Run]] = {}
    for run in panel.runs:
        if GATE in run and run["path"] in study.curves:
            cells.setdefault(words(run, names), []).append(run)
    shares = {key: mean_looking(study.curves[run["path"]] for run in cells[key]) for key in sorted(cells, key=order)}
    known = {key: found for key, found in shares.items() if any(share is not None for share in found)}
    if not known:
        return []
    table = tabulate([run for key in known for run in cells[key]], names, [], "looking_updates")
    caption = (
        "when the gate was open, as the method looks and selects; while it is closed, it draws uniformly. The darker, "
        "the more of the updates between two evaluations had an open gate (mean over runs). In the last column, of all "
        f"updates: {table.statistic()}"
    )
    lines = [[*(w or MISSING for w in key), entry(table, key, ())] for key in known]
    strips = timeline("share of the budget", [*known.values()])
    return [Tabular(Sheet([*names, "open, %"], lines, caption, len(names)), strips)]


def examples(study: Study, panel: Panel, left: int) -> list[Block]:
    """The images of at most `left` methods, of runs in the last column: of each, the first seed's that has some."""
    layout, cells = study.layout, dict[Key, dict[Key, list[Run]]]()
    for run in panel.runs:
        if CURVE[0] not in run:  # a run in a CSV has no folder here
            cells.setdefault(words(run, layout.rows), {}).setdefault(words(run, layout.columns), []).append(run)
    rows, problems = [], list[str]()
    for method in sorted(cells, key=order):
        last = cells[method][max(cells[method], key=order)]
        if found := first_row(sorted(last, key=lambda run: order(words(run, ["seed"]))), layout.shown, problems):
            rows.append(found)
    blocks: list[Block] = [Note(problems)] if problems else []
    if len(rows) > left:
        blocks.append(
            Note([f"{left} of {len(rows)} methods with images of examples are shown; --where chooses others"])
        )
    caption = (
        "the training examples that a run selected most and least, with the number of its visits to each. An image "
        "made of several examples visits each by its share; examples with equal numbers are in random order. Framed "
        "and crossed: corrupted. Labels are those trained on"
    )
    return [*([Examples(rows[:left], caption)] if rows[:left] else []), *blocks]


def first_row(runs: list[Run], names: list[str], problems: list[str]) -> Row | None:
    """The examples of the first run that has some; files that cannot be used are named in `problems`."""
    for run in runs:
        path = selected_path(run)
        try:
            found = selected.read(path)
        except FileNotFoundError:  # of an earlier version
            continue
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {why_not(error)}")
            continue
        what = [*names, "seed"]
        title = ", ".join(f"{name}={w or MISSING}" for name, w in zip(what, words(run, what), strict=True))
        return Row(title, found[: len(found) // 2], found[len(found) // 2 :])
    return None


def address(image: NDArray[np.uint8]) -> str:
    """An image, uint8 [1 or 3, h, w], as a data: address of a PNG."""
    from PIL import Image  # takes longer than a page without images

    png = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(png, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
