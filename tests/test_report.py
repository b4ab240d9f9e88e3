"""The page about a folder of runs: its numbers are those of the runs, it stands alone, and it is complete or absent."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tables
from cli import CHECKOUT, Done, environment, here
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tables import aggregate, called, result
from test_papers import write_hu

from budgetrun.folder import selected
from budgetrun.folder.plan import write_plan
from budgetrun.report import figures, selection, study
from budgetrun.report.chart import REFERENCE, View, chart
from budgetrun.report.page import main
from budgetrun.report.selection import address
from budgetrun.tables.curves import looking, mean_looking
from budgetrun.tables.layout import laid_out, missing
from budgetrun.tables.runs import read
from budgetrun.tables.table import words

# ---- builders and readers

MEASURED: dict[str, Any] = {
    "updates": 100,
    "examples_forward": 6400,
    "examples_backward": 6400,
    "flops": 2 * 10**9,
    "flops_before": 0,
    "train_loss": 0.7,
    "visits_entropy": 7.0,
    "keep_rate": 1.0,
    "looking_updates": 0.0,
    "evaluations": 2,
    "threads": 1,
    "commit": "c0ffee00c0ffee",
    "versions": {"budgetrun": "0.1.0", "torch": "2.15.0"},
}


def write(folder: Path, lines: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """Write a finished run's folder below `folder`, see tables.write; by default with an evaluation halfway and one at
    the end. Returns its path."""
    changes = {**MEASURED, **changes}
    end = {"progress": 1.0, **{n: v for n, v in result(**changes).items() if isinstance(v, int | float)}}
    half = {**end, "progress": 0.5, **{name: end[name] / 2 for name in ("updates", "test_accuracy")}}
    return tables.write(folder, [half, end] if lines is None else lines, **changes)


@dataclass
class Element:
    """An element of a page, with its children and text in order."""

    name: str
    attributes: dict[str, str]
    content: list[Element | str] = field(default_factory=list)

    def all(self, name: str, **attributes: str) -> list[Element]:
        """All elements of that name below it, in order."""
        found = []
        for child in self.content:
            if isinstance(child, Element):
                if child.name == name and attributes.items() <= child.attributes.items():
                    found.append(child)
                found += child.all(name, **attributes)
        return found

    def one(self, name: str, **attributes: str) -> Element:
        (found,) = self.all(name, **attributes)
        return found

    @property
    def text(self) -> str:
        """Its text, with single spaces."""
        parts = (child if isinstance(child, str) else child.text for child in self.content)
        return " ".join(" ".join(parts).split())


class Page(HTMLParser):
    """Reads a page; every element that is opened has to be closed, in order."""

    VOID = ("meta", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].content.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)

    def section(self, name: str) -> Element:
        return self.root.one("section", id=name)

    def fact(self, about: str) -> list[str]:
        """What the head of the page says about something."""
        facts = self.root.one("dl", **{"class": "facts"})
        names = [element.text for element in facts.all("dt")]
        return [element.text for element in facts.all("dd")[names.index(about)].all("p")]


def cells(table: Element) -> list[list[str]]:
    """The words of a table, headings first."""
    return [[cell.text for cell in line.content if isinstance(cell, Element)] for line in table.all("tr")]


def report(*arguments: Any, cwd: Path | None = None) -> Done:
    """scripts/report.py in this process."""
    return called(main, *arguments, cwd=cwd)


def page_of(folder: Path, *options: Any) -> Page:
    """The page about a folder, from a command that reports no problems."""
    done = report(folder, *options)
    assert (done.code, done.err) == (0, "")
    return Page((folder / "report.html").read_text())


def refused(done: Done, *words: str) -> None:
    """Check that it failed with one sentence that contains these words."""
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith("report: ")
    for part in words:
        assert part in line, line


@dataclass
class Drawn:
    """What a chart of a page is drawn from, and the element."""

    title: str
    y: str
    views: list[View]
    limits: tuple[float, float]
    factor: float
    alternative: str
    element: Element

    def points(self, view: str) -> dict[str, list[Any]]:
        """The points of the lines, by the names of their looks."""
        (found,) = (one for one in self.views if one.name == view)
        return {line.look.name: list(line.points) for line in found.lines}


@pytest.fixture
def charts(monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    """All charts that are drawn, in order."""
    drawn = []

    def spy(*arguments: Any) -> Any:
        text = chart(*arguments)
        drawn.append(Drawn(*arguments, Page(text).root))
        return text

    monkeypatch.setattr(figures, "chart", spy)
    return drawn


# ---- numbers


def test_a_cell_is_mean_and_sample_deviation_of_its_runs(tmp_path: Path) -> None:
    for seed, accuracy in enumerate([0.90, 0.92, 0.97]):  # mean 0.93; squares 0.0009 + 0.0001 + 0.0016 over 2
        write(tmp_path, seed=seed, test_accuracy=accuracy)
        write(tmp_path, seed=seed, test_accuracy=accuracy / 2, budget=0.5)
    table, *others = page_of(tmp_path).section("results").all("figure")
    assert not others  # nothing to compare
    assert cells(table) == [["sampler", "budget=0.3", "budget=0.5"], ["uniform", "93.00 ± 3.61", "46.50 ± 1.80"]]
    assert table.one("figcaption").text == "test_accuracy, %: mean ± standard deviation (ddof=1) of n = 3 runs"


def test_the_comparison_is_over_pairs_of_seeds_and_says_when_they_are_too_few(tmp_path: Path) -> None:
    for seed, (base, mine) in enumerate([(0.80, 0.81), (0.70, 0.73), (0.75, 0.77)]):  # +1, +3, +2 points
        write(tmp_path, seed=seed, test_accuracy=base)
        write(tmp_path, seed=seed, test_accuracy=mine, sampler="is", flops=3 * 10**9)
        if seed < 2:
            write(tmp_path, seed=seed, test_accuracy=mine, sampler="sb")
    head, *lines = cells(page_of(tmp_path).section("results").all("table")[1])
    found = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    assert found.keys() == {"is", "sb"}
    # mean 2, sd 1, so t = 2 sqrt(3) on 2 degrees of freedom: p = 1 - t / sqrt(2 + t^2) = 0.0742; 2 -+ 4.303 / sqrt(3)
    assert (found["is"]["difference"], found["is"]["95% interval"]) == ("+2.00", "-0.48 to +4.48")
    assert (found["is"]["n"], found["is"]["p"], found["is"]["FLOPs"]) == ("3", "0.074", "x1.50")
    assert (found["sb"]["n"], found["sb"]["verdict"]) == ("2 of 3", "too few pairs to say anything")


def test_what_was_spent_is_in_powers_of_1000_that_are_said(tmp_path: Path) -> None:
    for seed, flops in enumerate([10.5 * 10**9, 11.5 * 10**9]):
        write(tmp_path, seed=seed, flops=flops, seconds=2 + seed, examples_backward=6400)
    head, line = cells(page_of(tmp_path).section("spent").one("table"))
    found = dict(zip(head, line, strict=True))
    assert found["n"] == "2"
    assert found["flops (in 10⁹)"] == "11.00 ± 0.71"
    assert (found["seconds"], found["examples backward"], found["updates"]) == ("2.50 ± 0.71", "6,400", "100")
    assert not any("before" in heading for heading in head)  # none read a file of scores
    write(tmp_path, sampler="subset", flops_before=5 * 10**9)
    head, line, _ = cells(page_of(tmp_path).section("spent").one("table"))
    assert dict(zip(head, line, strict=True))["flops before (in 10⁹)"] == "5"


def test_conclusions_come_first_and_answers_follow_the_tables(tmp_path: Path, charts: list[Drawn]) -> None:
    """Uniform sampling at two budgets is worse than `is`, which costs twice as much; two noises make four tasks.

    The differences have a standard deviation of 0.03 points, so that their interval is 4.303 x 0.03 / sqrt(3) wide.
    """
    for noise, seed, (budget, accuracy) in itertools.product(("none", "symmetric"), range(3), ((0.1, 0.5), (0.4, 0.6))):
        setting = {"noise": noise, "seed": seed, "budget": budget}
        write(tmp_path, **setting, test_accuracy=accuracy + 0.001 * seed, flops=int(budget * 10**10))
        accuracy += 0.05 + 0.001 * seed + (0.0, 0.0003, -0.0003)[seed]
        write(tmp_path, **setting, sampler="is", test_accuracy=accuracy, flops=int(budget * 2e10))
    page = page_of(tmp_path)
    assert [section.attributes["id"] for section in page.root.all("section")][:6] == [
        *("conclusions", "results", "worth", "tasks", "against", "pareto"),
    ]
    better, by_flops, by_seconds, *_ = [item.text for item in page.section("conclusions").all("li")]
    assert better == (
        "Better than sampler=uniform in 2 of 2 cells (p, Holm, at most 0.05): is, budget=0.1: +5.00 (+4.93 to +5.07) "
        "points for x2.00 the FLOPs, budget-equivalent 0.2 (0.199 to 0.201); is, budget=0.4: +5.00 (+4.93 to +5.07) "
        "points for x2.00 the FLOPs, budget-equivalent > 0.4."
    )
    assert "On the Pareto front of mean test_accuracy against FLOPs, 4 of 4 cells" in by_flops
    assert "1 of 4 cells, from the cheapest: is, budget=0.4 (65.10%). Means alone" in by_seconds
    worth = cells(page.section("worth").all("table")[0])
    assert worth[0] == ["sampler", "budget", "costs", "is worth", "95% interval", "worth / cost"]
    assert worth[1] == ["is", "0.1", "0.2", "0.2", "0.199 to 0.201", "x1.00"]
    assert worth[2] == ["is", "0.4", "0.8", "> 0.4", "> 0.4", "—"]
    ranked = [[*row[:1], *row[2:6]] for row in cells(page.section("tasks").one("table"))[1:]]
    assert ranked == [["is", "1.00", "1.00 to 1.00", "4", "0"], ["uniform", "2.00", "2.00 to 2.00", "—", "—"]]
    front = charts[8].points("flops")  # after four of what was spent in each panel
    corners = [(1e9, 0.501), (2e9, 0.501), (2e9, 0.551), (4e9, 0.551), (4e9, 0.601), (8e9, 0.601), (8e9, 0.651)]
    assert [(p.x, pytest.approx(p.y)) for p in front["reference"] if p] == corners
    assert [p and (p.x, pytest.approx(p.y), p.n) for p in front["m0"]] == [(2e9, 0.551, 3), None, (8e9, 0.651, 3), None]


def test_points_lie_at_what_was_really_spent_in_each_unit(tmp_path: Path, charts: list[Drawn]) -> None:
    """A cell of two runs; the budget is 0.3 and 0.5 in updates, and the method spends more FLOPs."""
    for budget, updates in [(0.3, 30), (0.5, 50)]:
        for seed in range(2):
            spent = {"updates": updates, "examples_backward": 640 * updates, "seconds": updates / 10 + seed}
            write(tmp_path, budget=budget, seed=seed, **spent, flops=10**9 * updates, test_accuracy=budget + seed / 10)
            write(tmp_path, budget=budget, seed=seed, **spent, flops=10**9 * updates * 3, sampler="is")
    page = page_of(tmp_path)
    assert len(page.section("against").all("svg", role="img")) == 4
    deviation = math.sqrt(2) * 0.05
    for drawn, (unit, base, other) in zip(
        charts,
        [
            ("updates", [30, 50], [30, 50]),
            ("examples", [19200, 32000], [19200, 32000]),
            ("flops", [30e9, 50e9], [90e9, 150e9]),
            ("seconds", [3.5, 5.5], [3.5, 5.5]),
        ],
        strict=False,
    ):
        points = drawn.points(unit)
        assert [(p.x, p.y, p.n) for p in points["base"]] == [(base[0], 0.35, 2), (base[1], 0.55, 2)]
        assert [p.std for p in points["base"]] == pytest.approx([deviation, deviation])
        assert [(p.x, p.y, p.std) for p in points["m0"]] == [(other[0], 0.5, 0), (other[1], 0.5, 0)]
    axes = [p.text for p in page.section("against").all("p") if "axis" in p.attributes.get("class", "")]
    assert axes == [
        *("test accuracy, %", "updates"),
        *("test accuracy, %", "examples backpropagated (in 10³)"),
        *("test accuracy, %", "FLOPs (in 10⁹)"),
        *("test accuracy, %", "seconds"),
    ]
    assert [item.text for item in page.section("against").all("li")] == ["uniform", "is"]
    said = charts[2].element.all("metadata")
    assert [one.attributes for one in said] == [
        {"class": "base", "data-values": "35.00 ± 7.07|55.00 ± 7.07", "data-places": "3e10 FLOPs|5e10 FLOPs"},
        {"class": "m0", "data-values": "50.00|50.00", "data-places": "9e10 FLOPs|1.5e11 FLOPs"},
    ]


def test_learning_curves_are_means_at_each_evaluation_over_every_unit(tmp_path: Path, charts: list[Drawn]) -> None:
    """The second run's first two evaluations were due at once, so it has one line for them, the second."""
    spent = {name: number for name, number in MEASURED.items() if name in ("examples_backward", "flops")}
    first = [
        {"progress": 1 / 3, "updates": 10, "seconds": 1, "test_accuracy": 0.2, "train_loss": 2.0, **spent},
        {"progress": 2 / 3, "updates": 20, "seconds": 2, "test_accuracy": 0.4, "train_loss": 1.0, **spent},
        {"progress": 1.0, "updates": 30, "seconds": 3, "test_accuracy": 0.6, "train_loss": 0.5, **spent},
    ]
    second = [{**first[1], "updates": 22, "test_accuracy": 0.5}, {**first[2], "seconds": 4, "test_accuracy": 0.8}]
    write(tmp_path, first, seed=0, evaluations=3)
    write(tmp_path, second, seed=1, evaluations=3)
    page_of(tmp_path)
    (accuracy, loss) = charts[4:]
    assert (accuracy.y, loss.y) == ("test accuracy, %", "train loss")
    assert [view.x for view in accuracy.views] == ["updates", "examples backpropagated", "FLOPs", "seconds"]
    (points,) = accuracy.points("updates").values()
    assert [(p.x, p.y, p.n) for p in points] == [
        (10, 0.2, 1),
        (21, pytest.approx(0.45), 2),
        (30, pytest.approx(0.7), 2),
    ]
    assert points[0].std is None
    assert [p.std for p in points[1:]] == pytest.approx([0.1 / math.sqrt(2), 0.2 / math.sqrt(2)])
    assert [(p.x, p.y) for p in loss.points("updates")["m0"]] == [(10, 2), (21, 1), (30, 0.5)]
    assert [p.x for p in accuracy.points("seconds")["m0"]] == [1, 2, 3.5]
    everywhere, own = accuracy.element.all("metadata")
    assert everywhere.attributes["data-places"] == "33.3% of the budget|66.7% of the budget|100% of the budget"
    assert own.attributes["data-values"] == "20.00 (n = 1)|45.00 ± 7.07|70.00 ± 14.14"


def test_a_csv_of_runs_has_their_learning_curves(tmp_path: Path, charts: list[Drawn]) -> None:
    """Its curves have no progress: a run that made every evaluation by itself has each at its place, another none."""
    write(tmp_path / "runs")
    write(tmp_path / "runs", seed=1, evaluations=3)
    done = aggregate(tmp_path / "runs", "--format", "runs")
    (tmp_path / "runs.csv").write_text(done.out)
    assert report(tmp_path / "runs.csv", "--out", tmp_path / "x.html").code == 0
    (points,) = charts[4].points("updates").values()
    assert [(p.x, p.y, p.n) for p in points] == [(50, 0.25, 1), (100, 0.5, 1)]
    note = Page((tmp_path / "x.html").read_text()).root.one("header").one("div", role="note").text
    assert note.count("it has no learning curve") == 1


@pytest.mark.parametrize(("units", "first"), [(["flops"], "flops"), (["seconds", "flops"], "updates")])
def test_the_first_view_is_that_of_the_budget_if_there_is_one(units: list[str], first: str, tmp_path: Path) -> None:
    for unit in units:
        write(tmp_path, budget_unit=unit)
    choices = page_of(tmp_path).section("learning").all("input", type="radio")
    assert [one.attributes["id"] for one in choices if "checked" in one.attributes] == [f"view-{first}"]
    assert len(choices) == 4


def test_selection_is_shown_beside_what_the_data_hold(tmp_path: Path, charts: list[Drawn]) -> None:
    shares = {"corrupted": 0.25, "noise": "symmetric", "noise.rate": 0.25}
    for seed, share in enumerate([0.4, 0.5]):
        noisy = {**shares, "selected_corrupted": share, "selected_corrupted_lately": share + 0.1}
        write(tmp_path, seed=seed, **noisy, visits_entropy=6.5 + seed / 10, keep_rate=0.5, looking_updates=0.9)
    page = page_of(tmp_path)
    head, line = cells(page.section("selection").one("table"))
    assert dict(zip(head, line, strict=True)) == {
        "sampler": "uniform",
        "budget": "0.3",
        "n": "2",
        "corrupted, %": "25.00",
        "selected corrupted, %": "45.00 ± 7.07",
        "selected corrupted lately, %": "55.00 ± 7.07",
        "visits entropy": "6.550 ± 0.071",
        "keep rate, %": "50.00",
        "looking updates, %": "90.00",
    }
    assert charts[-1].y == "selected corrupted lately, %"
    points = charts[-1].points("updates")
    assert [(p.y, p.n) for p in points["m0"]] == [(pytest.approx(0.55), 2)] * 2
    assert [p.y for p in points[REFERENCE.name]] == [0.25, 0.25]


def test_clean_runs_have_no_column_and_no_picture_of_corrupted_examples(tmp_path: Path) -> None:
    write(tmp_path)
    selection = page_of(tmp_path).section("selection")
    assert not selection.all("svg")
    assert not any("corrupted" in heading for heading in cells(selection.one("table"))[0])


def test_the_command_on_the_page_prints_the_tables_on_the_page(tmp_path: Path) -> None:
    """With panels, a metric that is derived, a condition and a baseline: every word is the same, also p by Holm."""
    for sampler in ("uniform", "is"):
        for noise in (
            {"noise": "none"},
            {"noise": "symmetric", "noise.rate": 0.25},
            {"noise": "symmetric", "noise.rate": 0.5},
        ):
            for seed in range(3):
                write(tmp_path, sampler=sampler, **noise, seed=seed, test_accuracy=0.5 + seed / 10)
    write(tmp_path, model="wide")
    options = ["--metric", "test_accuracy,test_error", "--where", "model=cnn", "--baseline", "sampler=is"]
    page = page_of(tmp_path, *options)
    commands = [shlex.split(code.text) for code in page.section("made").all("code")]
    assert commands[0][:3] == ["python", "-m", "budgetrun.report"]
    assert commands[0][4:] == options
    panels = [["none", "—"], ["symmetric", "0.25"], ["symmetric", "0.5"]]
    tables = [cells(table) for table in page.section("results").all("table")]
    assert len(tables) == 2 * len(panels)
    assert len(commands) == 2
    assert commands[1][:3] == ["python", "-m", "budgetrun.aggregate"]
    done = aggregate(*commands[1][3:])
    assert done.code == 0
    drawn = [line for line in done.out.split("\n") if line.startswith("|") and not line.startswith("| --")]
    printed = [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in drawn]
    expected = []
    for of_panels in (tables[::2], tables[1::2]):
        expected.append(["noise", "noise.rate", *of_panels[0][0]])
        expected += [[*panel, *line] for panel, (_, *lines) in zip(panels, of_panels, strict=True) for line in lines]
    assert sorted(printed) == sorted(expected)  # of differences, the metric comes first in order, and then the panel
    said = [sheet.text for sheet in page.section("results").all("p") if "Holm" in sheet.text]
    assert all("corrected for 6 comparisons, 2 here and 4 in the other tables" in text for text in said)
    assert "corrected for 6 comparisons;" in done.out


def test_a_difference_is_the_same_however_many_tables_show_it(tmp_path: Path) -> None:
    """One difference beside four of no account, each in a table of its own: p is corrected for all five everywhere."""
    for number in range(5):
        for seed, spread in enumerate([-0.01, 0.0, 0.01]):
            noise = {"noise": "symmetric", "noise.rate": 0.1 * (number + 1)}
            write(tmp_path, sampler="uniform", **noise, seed=seed, test_accuracy=0.8)
            gain = 0.1 + spread if number == 0 else spread
            write(tmp_path, sampler="is", **noise, seed=seed, test_accuracy=0.8 + gain)
    options = ["--baseline", "sampler=uniform"]
    tables = [cells(table) for table in page_of(tmp_path, *options).section("results").all("table")][1::2]
    of_page = {line[0]: line for (_, *lines) in tables[:1] for line in lines}
    assert len(tables) == 5
    done = aggregate(str(tmp_path), "--rows", "noise.rate,sampler", "--cols", "budget", *options)
    (line,) = (line for line in done.out.split("\n") if line.startswith("| 0.1 ") and "+10.00" in line)
    printed = [cell.strip() for cell in line.strip("|").split("|")]
    p, corrected = float(printed[6]), float(printed[7])
    assert p == pytest.approx(0.0033, abs=1e-4)  # t = 0.1 / (0.01 / sqrt 3) = 17.3 of 2 degrees of freedom
    assert corrected == pytest.approx(5 * p, rel=0.05)
    assert printed[-1] == "better"
    assert of_page["is"][-5:] == printed[-5:]


def test_the_intervals_beside_a_comparison_are_those_of_its_lines(tmp_path: Path) -> None:
    """Differences of 2 (-0.48 to 4.48) and of 20 points, alike in all pairs: the axis is from -0.48 to 20, and more."""
    for seed, (base, mine) in enumerate([(0.60, 0.61), (0.50, 0.53), (0.55, 0.57)]):
        write(tmp_path, seed=seed, test_accuracy=base)
        write(tmp_path, seed=seed, test_accuracy=mine, sampler="is")
        write(tmp_path, seed=seed, test_accuracy=base + 0.2, sampler="sb")
    first, second = page_of(tmp_path).section("results").all("table")[1].one("tbody").all("tr")
    low, high = -0.4841 - 0.04 * 20.4841, 20 + 0.04 * 20.4841

    def place(number: float) -> float:
        return pytest.approx(100 * (number - low) / (high - low), abs=0.06)

    line = first.one("line", **{"class": "interval"}).attributes
    assert [float(line[end].rstrip("%")) for end in ("x1", "x2")] == [place(-0.4841), place(4.4841)]
    assert [float(row.one("circle").attributes["cx"].rstrip("%")) for row in (first, second)] == [place(2), place(20)]
    assert not second.all("line", **{"class": "interval"}), "equal differences have no interval"


def gated(progress: list[tuple[float, int, float]], **changes: Any) -> dict[str, Any]:
    """What `write` takes for a run with a gate: progress, updates and the share of them that looked, per evaluation."""
    names = ("progress", "updates", "looking_updates")
    lines = [{"test_accuracy": 0.5, **dict(zip(names, line, strict=True))} for line in progress]
    return {"lines": lines, "sampler": "is", "sampler.threshold": 1.5, "evaluations": 4, **changes}


def test_the_gate_s_timeline_is_of_the_updates_between_two_evaluations(tmp_path: Path) -> None:
    """Of 10 updates each: 0, 5, 10 and 10 with an open gate, and in another run 0, 0, 10 and 5."""
    shares = [(0.25, 10, 0.0), (0.5, 20, 0.25), (0.75, 30, 0.5), (1.0, 40, 0.625)]
    others = [(0.25, 10, 0.0), (0.5, 20, 0.0), (0.75, 30, 1 / 3), (1.0, 40, 0.375)]
    write(tmp_path, **gated(shares, looking_updates=0.625))
    write(tmp_path, **gated(others, seed=1, looking_updates=0.375))
    write(tmp_path, looking_updates=0.0)  # uniform sampling has no gate
    table = page_of(tmp_path).section("selection").all("table")[1]
    head, *lines = cells(table)
    assert head[:3] == ["sampler", "budget", "share of the budget 0% 50% 100%"]
    ((*names, _, of_all),) = lines
    assert (names, of_all) == (["is", "0.3"], "50.00 ± 17.68")
    assert [(rect.attributes["x"], rect.attributes["fill-opacity"]) for rect in table.all("rect")] == [
        ("0%", "0"),
        ("25%", "0.25"),
        ("50%", "1"),
        ("75%", "0.75"),
    ]


def test_evaluations_that_were_due_at_once_have_one_share_and_unknown_ones_none() -> None:
    run = {"due": [1, 3, 4, 5], "updates": [10, 30, 40, 50], "looking_updates": [0.5, 0.5, None, 0.7]}
    # 5 of 10, then 10 of 20 for two evaluations, then nothing is known, then 20 of the 20 updates since
    assert looking(run) == [0.5, 0.5, 0.5, None, 1.0]
    assert looking({"due": [1, 2], "updates": [10, 20]}) == []
    assert mean_looking([run, {"due": [1], "updates": [10], "looking_updates": [1.0]}]) == [0.75, 0.5, 0.5, None, 1.0]
    assert mean_looking([]) == []


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_counts_behind_shares_of_all_updates_are_recovered_exactly(parts: list[tuple[int, float]]) -> None:
    counts = [(updates, round(updates * share)) for updates, share in parts]
    updates = list(itertools.accumulate(n for n, _ in counts))
    looked = itertools.accumulate(k for _, k in counts)
    run = {"due": [*range(1, len(counts) + 1)], "updates": updates}
    run["looking_updates"] = [k / n for k, n in zip(looked, updates, strict=True)]
    assert looking(run) == [k / n for n, k in counts]


def write_selected(path: Path, numbers: tuple[int, int] = (1, 2), corrupted: bool = True) -> None:
    """The file of a run whose most selected example is the first number, an image of two pixels, and black."""
    image = np.array([[[[0, 255]]], [[[0, 0]]]], dtype=np.uint8)
    arrays = {
        "index": np.array(numbers),
        "visits": np.array([12.5, 0], np.float32),
        "label": np.array([7, 3]),
        "corrupted": np.array([corrupted, False]),
        "image": image,
    }
    selected.write(path / "selected.npz", np.array([12.5, 0], np.float32), arrays)


def test_the_most_and_least_selected_examples_are_those_of_one_run_for_each_method(tmp_path: Path) -> None:
    """Of the last column, and the first seed that has some; those of the other runs are not shown."""
    for number, (budget, seed) in enumerate([(0.3, 0), (0.5, 0), (0.5, 1), (0.5, 2)]):
        path = write(tmp_path, budget=budget, seed=seed)
        if (budget, seed) != (0.5, 0):
            write_selected(path, (number, 100 + number))
    write_selected(write(tmp_path, sampler="sb", budget=0.5), (8, 9), corrupted=False)
    page = page_of(tmp_path)
    first, second = page.section("selection").all("table")[-1].one("tbody").all("tr")
    assert first.one("th").text == "sampler=sb, budget=0.5, seed=0"
    assert second.one("th").text == "sampler=uniform, budget=0.5, seed=1"
    most, least = second.all("img")
    assert most.attributes["title"] == "example 2, label 7, corrupted, 12.5 visits"
    assert least.attributes["alt"] == "least selected: example 102, label 3"
    assert [item.attributes.get("class") for item in second.all("li")] == ["corrupted", None]
    assert [item.text for item in second.all("li")] == ["12.5", "0"]
    png = base64.b64decode(most.attributes["src"].removeprefix("data:image/png;base64,"))
    assert np.asarray(Image.open(io.BytesIO(png))).tolist() == [[0, 255]]


def test_colour_images_keep_their_colours() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    png = base64.b64decode(address(image).removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), image.transpose(1, 2, 0))


def test_files_of_examples_that_are_unreadable_are_named_and_those_beyond_the_limit_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sampler in ("a", "b", "c"):
        write_selected(write(tmp_path, sampler=sampler))
    broken = write(tmp_path, sampler="d") / "selected.npz"
    broken.write_bytes(b"PK")
    monkeypatch.setattr(selection, "MOST", 2)
    said = page_of(tmp_path).section("selection")
    assert len(said.all("img")) == 4
    assert "2 of 3 methods with images of examples are shown" in said.text
    assert f"{broken}: it is not a file of selected examples" in said.text


def test_a_csv_of_runs_has_no_images_wherever_its_runs_were(tmp_path: Path) -> None:
    write_selected(write(tmp_path / "runs"))
    (tmp_path / "runs.csv").write_text(aggregate(tmp_path / "runs", "--format", "runs").out)
    assert report(tmp_path / "runs.csv", "--out", tmp_path / "x.html").code == 0
    assert not Page((tmp_path / "x.html").read_text()).root.all("img")


# ---- what is laid out how


@given(
    runs=st.lists(
        st.fixed_dictionaries(
            {
                "sampler": st.sampled_from(["is", "uniform"]),
                "sampler.pool": st.sampled_from([2, 3]),
                "noise": st.sampled_from(["none", "symmetric"]),
                "noise.rate": st.sampled_from([0.25, 0.5]),
                "lr": st.sampled_from([0.1, 0.2]),
                "budget": st.sampled_from([0.3, 0.5]),
                "seed": st.integers(0, 3),
                "budget_unit": st.sampled_from(["updates", "flops"]),
                "output_dir": st.sampled_from(["a", "b"]),
            }
        ),
        min_size=1,
        max_size=12,
    ),
    rows=st.sampled_from([None, ["lr"], ["budget", "noise"]]),
    columns=st.sampled_from([None, ["sampler"]]),
)
def test_nothing_but_seeds_is_averaged_over(runs: list[dict[str, Any]], rows: Any, columns: Any) -> None:
    laid = laid_out(runs, list(runs[0]), rows, columns)
    assert sum(len(panel.runs) for panel in laid.panels) == len(runs)
    settings = [name for name in runs[0] if name not in ("seed", "output_dir")]
    for panel in laid.panels:
        alike: dict[Any, Any] = {}
        for run in panel.runs:
            assert alike.setdefault(words(run, laid.shown), words(run, settings)) == words(run, settings)


def test_the_task_makes_panels_the_method_rows_and_the_budget_columns(tmp_path: Path) -> None:
    """What the data set chooses is not in the rows: it does not tell more runs apart."""
    for dataset, lr in [("digits", 0.1), ("svhn", 0.2)]:
        for sampler in ("is", "sb"):
            write(tmp_path, dataset=dataset, lr=lr, sampler=sampler)
    write(tmp_path, sampler="sb", **{"sampler.beta": 2})
    found = read([tmp_path])
    laid = laid_out(found.runs, found.settings, None, None)
    assert (laid.rows, laid.columns) == (["sampler", "sampler.beta"], ["budget"])
    assert [panel.title for panel in laid.panels] == ["dataset=digits", "dataset=svhn"]
    assert "lr" not in laid.fixed
    assert laid.fixed["model.width"] == "16"
    assert laid.options == {"sampler=sb": {"sampler.beta": "2"}}


def test_every_setting_is_in_one_table_of_the_configuration(tmp_path: Path) -> None:
    for sampler, pool, rate in [("is", 2, 0.25), ("is", 3, 0.5), ("uniform", None, 0.5)]:
        own = {} if pool is None else {"sampler.pool": pool}
        write(tmp_path, sampler=sampler, noise="symmetric", **{"noise.rate": rate}, **own)
    same, differing, behind = (cells(t)[1:] for t in page_of(tmp_path).section("configuration").all("table"))
    assert [line for line in same if line[0] in ("noise", "aug.crop.padding", "epochs")] == [
        ["noise", "symmetric"],
        ["epochs", "40"],
        ["aug.crop.padding", "1"],
    ]
    assert differing == [["sampler", "is, uniform"], ["noise.rate", "0.25, 0.5"]]
    assert behind == [["sampler=is", "sampler.pool", "2, 3"]]


def test_rows_and_columns_are_those_that_are_asked_for(tmp_path: Path) -> None:
    for number, (sampler, aug) in enumerate([("is", "none"), ("is", "ricap"), ("sb", "none")]):
        write(tmp_path, sampler=sampler, aug=aug, test_accuracy=number / 4)
    page = page_of(tmp_path, "--rows", "aug", "--cols", "sampler")
    assert cells(page.section("results").one("table")) == [
        ["aug", "sampler=is", "sampler=sb"],
        ["none", "0.00", "50.00"],
        ["ricap", "25.00", "—"],
    ]


def test_missing_cells_and_seeds_are_named(tmp_path: Path) -> None:
    for sampler, budget, seeds in [("is", 0.3, [0, 1]), ("is", 0.5, [0]), ("sb", 0.3, [0, 1])]:
        for seed in seeds:
            write(tmp_path, sampler=sampler, budget=budget, seed=seed)
    page = page_of(tmp_path)
    assert page.fact("Missing") == ["sampler=is, budget=0.5: seed 1", "sampler=sb, budget=0.5: seed 0, 1"]
    assert cells(page.section("results").one("table"))[1:] == [
        ["is", "50.00 (n=2)", "50.00 (n=1)"],
        ["sb", "50.00 (n=2)", "—"],
    ]
    assert page.fact("Runs") == ["5 finished, seeds 0, 1"]


def test_nothing_is_missing_where_every_cell_has_every_seed(tmp_path: Path) -> None:
    write(tmp_path, sampler="is")
    write(tmp_path, sampler="sb")
    found = read([tmp_path])
    laid = laid_out(found.runs, found.settings, None, None)
    assert missing(laid.panels[0], laid.rows, laid.columns) == []
    assert page_of(tmp_path).fact("Missing") == ["nothing: every cell has every seed"]


@pytest.mark.parametrize("count", [1, 7, 8, 21])
def test_many_methods_are_spread_over_charts_and_look_the_same_in_all(
    count: int, tmp_path: Path, charts: list[Drawn]
) -> None:
    names = ["uniform", *(f"m{number:02}" for number in range(1, count))]
    for name in names:
        write(tmp_path, sampler=name)
    page = page_of(tmp_path)
    legends = [
        [(item.text, item.attributes["class"]) for item in ul.all("li")]
        for ul in page.root.all("ul", **{"class": "legend"})
    ]
    sections_of_charts = 3 if count > 1 else 2  # of points and of curves, and of the Pareto front of several cells
    assert len(legends) == sections_of_charts * max(1, math.ceil((count - 1) / 6))
    style = page.root.one("style").text
    for legend in legends:
        assert len(legend) <= 7
        assert legend[0] == ("uniform", "base" if count > 1 else "m0")  # there is no baseline for one method
        colours = [re.search(rf"\.{look} {{ --c: (var\(--\w+\))", style) for _, look in legend if look != "base"]
        assert len({colour and colour[1] for colour in colours}) == len(colours)
    shown = [name for legend in legends[: len(legends) // sections_of_charts] for name, _ in legend]
    assert sorted(set(shown)) == sorted(names)
    assert len(shown) - shown.count("uniform") == count - 1  # each other one once
    for name in names:
        assert len({look for legend in legends for n, look in legend if n == name}) == 1
    for drawn in charts:
        for view in drawn.views:
            assert 1 <= len([line for line in view.lines if line.look is not REFERENCE]) <= 7
    markers = {one.attributes["id"] for one in page.root.all("marker")}
    assert markers == {f"marker-{look}" for legend in legends for _, look in legend}


def test_a_setting_of_the_method_is_in_its_name_so_that_it_is_beside_the_baseline(tmp_path: Path) -> None:
    write(tmp_path)
    for pool in (2, 3):
        write(tmp_path, sampler="is", **{"sampler.pool": pool})
    write(tmp_path, sampler="subset", select="top")
    write(tmp_path, sampler="subset", select="bottom")
    page = page_of(tmp_path)
    assert [item.text for item in page.section("against").all("li")] == [
        "uniform",
        "is, sampler.pool=2",
        "is, sampler.pool=3",
        "subset, select=bottom",
        "subset, select=top",
    ]
    assert len(page.section("learning").all("svg", role="img")) == 2


def test_lines_whose_names_would_be_the_same_stay_apart(tmp_path: Path, charts: list[Drawn]) -> None:
    for pool in (2, 3):
        write(tmp_path, sampler="is", **{"sampler.pool": pool}, test_accuracy=pool / 8)
    write(tmp_path, sampler="is, sampler.pool=2", test_accuracy=0.5)
    names = [item.text for item in page_of(tmp_path).section("against").all("li")]
    assert names == ["is, sampler.pool=2", "is, sampler.pool=3", "is, sampler.pool=2\N{PRIME}"]
    assert [points[0].y for points in charts[0].points("updates").values()] == [0.25, 0.375, 0.5]


def test_a_chart_without_any_of_a_gallery_s_methods_is_not_in_it(tmp_path: Path) -> None:
    for number in range(7):
        write(tmp_path, sampler=f"m{number}", aug="none")
    write(tmp_path, sampler="m0", aug="ricap")
    titles = [
        [title.text for title in gallery.all("p", **{"class": "title"})]
        for gallery in page_of(tmp_path).section("learning").all("div", **{"class": "gallery"})
    ]
    assert titles == [["aug=none, budget=0.3", "aug=ricap, budget=0.3"] * 2, ["aug=none, budget=0.3"] * 2]


def test_charts_that_are_too_many_for_a_page_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, charts: list[Drawn]
) -> None:
    for lr in (1, 2, 3):
        for sampler in ("is", "sb", "vr", "osgd"):
            write(tmp_path, sampler=sampler, lr=lr)
    monkeypatch.setattr(study, "MOST", 5)
    page = page_of(tmp_path)
    assert len(page.section("against").all("svg", role="img")) == 5
    assert page.section("against").one("div", role="note").text == (
        "These are 5 of 12 charts. --where chooses some of the runs, --rows and --cols other lines."
    )
    assert len(page.section("learning").all("svg", role="img")) == 5
    assert len(page.section("pareto").all("svg", role="img")) == 2
    assert len(charts) == 12


# ---- circumstances


def test_what_tells_cells_apart_unseen_is_named_as_varied(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path, seed=seed, epochs=10.0)
        write(tmp_path, seed=seed, epochs=40.0, sampler="is")
    page = page_of(tmp_path)
    assert page.fact("Varied") == ["sampler: is, uniform", "epochs: 10, 40, which no table shows"]


def test_one_run_alone_makes_a_page(tmp_path: Path, charts: list[Drawn]) -> None:
    write(tmp_path, test_accuracy=0.25)
    page = page_of(tmp_path)
    assert page.root.one("h1").text == "1 run of cnn on digits"
    assert page.fact("Runs") == ["1 finished, seed 0"]
    assert page.fact("Varied") == ["nothing but the seed"]
    assert cells(page.section("results").one("table")) == [["sampler", "budget=0.3"], ["uniform", "25.00"]]
    assert [(p.x, p.std) for p in charts[0].points("updates")["m0"]] == [(100, None)]


def test_unfinished_neighbours_are_named_and_in_no_number(tmp_path: Path) -> None:
    write(tmp_path, test_accuracy=0.25)
    unfinished = write(tmp_path, test_accuracy=0.75, seed=1)
    (unfinished / "result.json").unlink()
    cut = write(tmp_path, test_accuracy=0.75, seed=2)
    text = (cut / "result.json").read_text()
    (cut / "result.json").write_text(text[: len(text) // 2])
    page = page_of(tmp_path)
    first, second = page.fact("Skipped")
    assert first == f"{unfinished}: it is not finished"
    assert second.startswith(f"{cut / 'result.json'}: ")
    assert cells(page.section("results").one("table"))[1] == ["uniform", "25.00"]


def test_runs_without_evaluations_are_named_and_keep_their_numbers(tmp_path: Path, charts: list[Drawn]) -> None:
    write(tmp_path, sampler="is")
    for seed, broken in enumerate(['{"progress": 1', "[]\n", "", '{"progress": null}\n']):
        path = write(tmp_path, sampler="sb", seed=seed)
        (path / "metrics.jsonl").write_text(broken)
    (write(tmp_path, sampler="sb", seed=9) / "metrics.jsonl").unlink()
    page = page_of(tmp_path)
    assert page.root.one("header").one("div", role="note").text.count("it has no learning curve") == 5
    assert cells(page.section("results").one("table"))[2][1] == "50.00 (n=5)"
    for drawn in charts[6:]:  # after four of what was spent and two fronts
        assert [len(points) for points in drawn.points("updates").values()] == [2]


def test_results_of_other_versions_have_a_page_of_what_they_hold(tmp_path: Path) -> None:
    """No diagnostics, no evaluations, a number that is null."""
    tables.write(tmp_path, seconds=None)
    page = page_of(tmp_path)
    assert cells(page.section("selection").one("table")) == [["sampler", "budget", "n"], ["uniform", "0.3", "1"]]
    head, line = cells(page.section("spent").one("table"))
    assert dict(zip(head, line, strict=True))["flops (in 10⁹)"] == "1"


def test_a_number_that_is_not_finite_is_shown_and_reported(tmp_path: Path) -> None:
    write(tmp_path, test_accuracy=float("nan"), seconds=float("inf"))
    write(tmp_path, sampler="is")
    page = page_of(tmp_path)
    assert cells(page.section("results").all("table")[0])[2] == ["uniform", "nan"]
    assert "test_accuracy is nan in" in page.section("results").text


def test_dirty_code_several_commits_and_machines_are_reported_plainly(tmp_path: Path) -> None:
    write(tmp_path, sampler="is")
    write(tmp_path, sampler="sb", commit="deadbeefdeadbeef", dirty=True, device="NVIDIA H100")
    write(tmp_path, sampler="uniform", commit=None, dirty=None)
    page = page_of(tmp_path)
    said = page.root.one("header").one("div", role="note").text
    assert "1 of 3 runs were made outside a checkout" in said
    assert "2 commits of the code: c0ffee00c0 (1 of 3 runs), deadbeefde (1 of 3 runs)" in said
    assert "1 of 3 runs were made by code that was changed after its commit" in said
    assert page.fact("Machine") == ["NVIDIA H100", "cpu (x86_64)"]
    lines = cells(page.section("environment").one("table"))
    assert ["device", "cpu (x86_64)", "2"] in lines
    assert ["commit", "deadbeefdeadbeef", "1"] in lines
    assert ["versions.torch", "2.15.0", "3"] in lines


def test_what_is_folded_says_what_it_is(tmp_path: Path) -> None:
    for seed in range(9):
        write(tmp_path, [{"test_accuracy": "high"}], seed=seed)
    assert report(tmp_path).code == 0
    assert "<details><summary>9 remarks</summary>" in (tmp_path / "report.html").read_text()


def test_clean_code_of_one_commit_needs_no_remark(tmp_path: Path) -> None:
    write(tmp_path)
    assert not page_of(tmp_path).root.one("header").all("div", role="note")


def test_a_panel_without_the_baseline_says_so_and_the_others_are_compared(tmp_path: Path) -> None:
    for sampler, noise in [("uniform", "none"), ("is", "none"), ("is", "symmetric")]:
        write(tmp_path, sampler=sampler, noise=noise)
    results = page_of(tmp_path).section("results")
    assert len(results.all("table")) == 3
    assert "not answered: --baseline sampler=uniform leaves no run" in results.text


def test_subsets_are_in_one_row_for_each_method_of_scoring_and_rule_whatever_files_they_read(tmp_path: Path) -> None:
    for rate, seed in itertools.product((0.0, 0.2), (0, 1)):
        here: dict[str, Any] = {"noise": "symmetric", "noise.rate": rate, "seed": seed}
        write(tmp_path, **here)
        for method, rule in (("el2n", "top"), ("el2n", "bottom"), ("random", "top")):
            file = {"sampler.file": f"files/{method}/{rate}/*-s{seed}-*/scores.csv"}
            write(tmp_path, sampler="subset", select=rule, scored_by=method, **here, **file)
    tables = page_of(tmp_path).section("results").all("table")
    head = ["sampler", "select", "sampler.scored_by"]
    methods = [["subset", "bottom", "el2n"], ["subset", "top", "el2n"], ["subset", "top", "random"]]
    rows = [[line[:3] for line in cells(table)] for table in tables]
    means, differences = [head, *methods, ["uniform", "—", "—"]], [head, *methods]
    assert rows == [means, differences] * 2  # one panel for each rate


def test_a_panel_without_the_metric_says_so_and_the_others_are_shown(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, noise="symmetric", selected_corrupted=0.5)
    tables = page_of(tmp_path, "--metric", "selected_corrupted").section("results").all("table")
    assert [cells(table)[1] for table in tables] == [["uniform", "—"], ["uniform", "50.00"]]


def test_a_paper_s_numbers_are_set_beside_those_panels_that_have_its_settings(tmp_path: Path) -> None:
    """Errors of 5 and 4 per cent: 4.50, which is 0.22 above the 4.28 of table 1; with other epochs, nothing."""
    write_hu(tmp_path)
    results = page_of(tmp_path, "--metric", "test_error", "--paper", "hu2021").section("results")
    _, beside = results.all("table")
    assert cells(beside)[1][-6:] == ["test_error, %", "Standard, 0%", "4.50", "2", "4.28", "+0.22"]
    write_hu(tmp_path, noise="shuffle_pixels", epochs=10.0)
    results = page_of(tmp_path, "--metric", "test_error", "--paper", "hu2021").section("results")
    assert len(results.all("table")) == 3
    assert "not answered: --paper hu2021: no cell has the settings" in results.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--paper hu2021", "--paper hu2021: no cell has the settings"),
        ("--baseline sampler=is", "--baseline sampler=is leaves no run"),
        ("--metric test_accuracy_at_best_validation", "its evaluations have no val_accuracy"),
        ("--metric speedup_examples", "speedup_examples needs a baseline"),
        ("--threshold 0.5", "--threshold 0.5 is not 1 or more"),
        ("--share 2", "--share 2 is not above 0"),
    ],
)
def test_what_no_panel_can_answer_is_refused(options: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, [{"test_accuracy": 0.5}])
    refused(report(tmp_path, *options.split()), said)
    assert not (tmp_path / "report.html").exists()


def test_speed_ups_follow_the_threshold_and_what_generalised_follows_the_share(tmp_path: Path) -> None:
    """Seen at 100, 200 and 300 images; errors of 0.5, 0.12, 0.1 by scan and 0.2, 0.11, 0.1 by sb."""
    for sampler, accuracies in [("scan", [0.5, 0.88, 0.9]), ("sb", [0.8, 0.89, 0.9])]:
        lines = [
            {"test_accuracy": accuracy, "examples_backward": 100 * k, "updates": 10 * k}
            for k, accuracy in enumerate(accuracies, 1)
        ]
        write(tmp_path, lines, sampler=sampler, test_accuracy=0.9, n_training=640)
    metrics = "--baseline", "sampler=scan", "--metric", "speedup_examples,epochs_to_generalise"

    def shown(*options: str) -> list[str]:
        table = page_of(tmp_path, *metrics, *options).section("results").all("table")[0]
        return {line[0]: line[1:] for line in cells(table)}["sb"]

    assert shown() == ["1", "3"]
    assert shown("--threshold", "2") == ["2", "3"], "an error of 0.2 is reached after 100 images, and by scan after 200"
    assert shown("--share", "0.8") == ["1", "1"]


def test_what_a_sweep_planned_and_is_missing_is_named(tmp_path: Path) -> None:
    there = write(tmp_path)
    write_plan({there: ["sampler=uniform"], tmp_path / "is-s0-0": ["sampler=is", "budget=0.3"]})
    assert page_of(tmp_path).fact("Planned") == [
        f"{tmp_path}: 2 runs, 1 of them not finished",
        "missing: sampler=is budget=0.3",
    ]
    write_plan({there: ["sampler=uniform"]})
    (tmp_path / ".sweeps").joinpath("broken.json").write_text("[1")
    assert len(page_of(tmp_path).fact("Planned")) == 2


# ---- the file


NASTY = '<script>alert("x")<b>&amp;$y$\x1b[31m😀'


def test_the_page_stands_alone_and_refers_to_nothing_else(tmp_path: Path) -> None:
    for sampler in ("uniform", "is", "sb"):
        write(tmp_path, sampler=sampler, noise="symmetric", corrupted=0.5, selected_corrupted_lately=0.5)
    text = (page_of(tmp_path), (tmp_path / "report.html").read_text())[1]
    assert not re.search(r"https?:|@import|<link|<iframe|javascript:|srcset", text)
    assert all(where.startswith(("#", "data:image/png;")) for where in re.findall(r'(?:href|src)="([^"]*)"', text))
    assert all(where.startswith("#") for where in re.findall(r"url\(([^)]*)\)", text))
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', text)) <= set(ids)


def test_a_browser_obeys_nothing_but_the_page_s_own_style_and_script(tmp_path: Path) -> None:
    write(tmp_path)
    root = page_of(tmp_path).root
    (meta,) = root.all("meta", **{"http-equiv": "Content-Security-Policy"})
    text = (tmp_path / "report.html").read_text()
    for name in ("style", "script"):
        (element,) = re.findall(f"<{name}>(.*?)</{name}>", text, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(element.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in meta.attributes["content"]
    assert meta.attributes["content"].startswith("default-src 'none'; img-src data:;")
    assert not re.search(r'<[^>]* (style|on\w+)="', text), "it would not be obeyed"


def test_all_text_of_runs_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "a<b>&c"
    for sampler in (NASTY, "uniform"):
        for aug in (NASTY, "none"):
            write(
                folder, sampler=sampler, aug=aug, device=NASTY, commit=NASTY, **{"sampler.x": NASTY, "noise.<i>": "<u>"}
            )
    (write(folder) / "result.json").write_text("<b>")
    page = page_of(folder)
    assert not any(page.root.all(name) for name in ("b", "i", "u"))
    assert len(page.root.all("script")) == 1
    assert cells(page.section("results").all("table")[0])[1][:2] == [NASTY, NASTY]
    assert page.fact("Machine")[-1] == NASTY
    assert "a<b>&c" in page.section("made").text
    alternatives = [svg.attributes["aria-label"] for svg in page.root.all("svg", role="img")]
    assert any(f"aug={NASTY}" in alternative for alternative in alternatives)
    titles = [title.text for title in page.section("against").all("p", **{"class": "title"})]
    assert f"aug={NASTY}" in titles


def test_every_picture_has_a_text_and_every_table_headings(tmp_path: Path) -> None:
    for sampler in ("uniform", "is"):
        write(tmp_path, sampler=sampler)
    page = page_of(tmp_path)
    inside = [inner for svg in page.root.all("svg") for inner in svg.all("svg")]
    for svg in (svg for svg in page.root.all("svg") if svg not in inside):
        assert svg.attributes.get("aria-hidden") == "true" or svg.attributes["aria-label"]
    assert page.section("against").all("svg", role="img")[0].attributes["aria-label"] == (
        "test accuracy, % against updates of uniform, is"
    )
    for figure in page.root.all("figure"):
        assert figure.one("figcaption").text
    for table in page.root.all("table"):
        assert table.one("thead").all("th", scope="col")
        assert all(line.all("th", scope="row") for line in table.one("tbody").all("tr"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nowhere", ["nowhere is not a folder"]),
        ("empty", ["there is no finished run in empty"]),
        ("unfinished", ["no finished run in unfinished", "it is not finished"]),
        ("runs --out nowhere/x.html", ["nowhere/x.html cannot be written"]),
        ("runs --out empty", ["empty cannot be written"]),
        ("runs --where sampler=is", ["leaves no run"]),
        ("runs --rows smapler", ["no run has smapler", "sampler"]),
        ("runs --metric device", ["device is not a number"]),
        ("runs --cols ,", ["--cols names no setting"]),
        ("runs --baseline sampler=uniform", ["--baseline sampler=uniform matches all 1 runs"]),
        ("runs --baseline sampler", ["is not of the form setting=value"]),
    ],
)
def test_what_cannot_be_done_gives_one_sentence_and_writes_nothing(
    arguments: str, words: list[str], tmp_path: Path
) -> None:
    write(tmp_path / "runs")
    (write(tmp_path / "unfinished") / "result.json").unlink()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    refused(report(*arguments.split(" "), cwd=tmp_path), *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_that_fails_half_way_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "runs")
    (tmp_path / "x.html").write_text("earlier")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(report("runs", "--out", "x.html", cwd=tmp_path), "x.html cannot be written", "No space left")
    assert (tmp_path / "x.html").read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "x.html"]


def test_a_page_of_real_runs_without_torch(tmp_path: Path) -> None:
    done = here("-m sampler=uniform,is epochs=1 budget=0.5 noise=symmetric noise.rate=0.25 seed=0,1", tmp_path)
    assert done.code == 0, done.err
    results = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("outputs/*/result.json"))]
    command = [sys.executable, "-X", "importtime", str(CHECKOUT / "scripts" / "report.py"), "outputs"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert ran.stdout == "outputs/report.html: 4 runs of cnn on digits by sampler\n"
    imported = set(re.findall(r"\|\s+([\w.]+)$", ran.stderr, flags=re.M))
    assert "jinja2" in imported
    assert not imported & {"torch", "torchvision", "pandas", "hydra", "sklearn", "matplotlib"}
    page = Page((tmp_path / "outputs" / "report.html").read_text())
    lines = cells(page.section("results").all("table")[0])[1:]
    for sampler, shown in lines:
        both = [100 * r["test_accuracy"] for r in results if r["names"]["sampler"] == sampler]
        mean, deviation = sum(both) / 2, abs(both[0] - both[1]) / math.sqrt(2)
        assert shown == f"{mean:.2f} ± {deviation:.2f}"
    assert len(page.section("learning").all("svg", role="img")) == 2
    selection = page.section("selection")
    assert len(selection.all("svg", role="img")) == 1
    assert len(selection.all("img")) == 2 * 16  # of one run of each sampler
    assert len(selection.all("svg", **{"class": "strip timeline"})) == 1  # only importance sampling has a gate
    configuration = {line[0]: line[1] for line in cells(page.section("configuration").all("table")[0])}
    assert configuration["noise.rate"] == "0.25"
    assert configuration["epochs"] == "1"


def test_it_works_as_a_module_and_fails_with_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "budgetrun.report", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    refused(Done(done.returncode, done.stdout, done.stderr, tmp_path), "nowhere is not a folder")
