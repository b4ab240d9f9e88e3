"""The pictures of a report, read back from their SVG: every place in them is that of its number."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from budgetrun.report.chart import (
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Interval,
    Line,
    Scale,
    View,
    chart,
    fitted,
    forest,
    looks,
    timeline,
    with_margin,
)
from budgetrun.tables.curves import Point

LOOK = looks(["is"], None)["is"]
numbers = st.floats(-1e9, 1e9, allow_subnormal=False)


def point(x: float, y: float, std: float | None = None, n: int = 3) -> Point:
    return Point(x, y, std, n)


def drawn(points: list[Point | None], limits: tuple[float, float] = (0, 1), factor: float = 1, **words: Any) -> str:
    """A chart of one line over one axis."""
    return str(chart("", "y", [View("updates", "x", [Line(LOOK, points, **words)])], limits, factor, ""))


def vertices(text: str, kind: str) -> list[list[tuple[int, int]]]:
    """The places of the parts of a path of that class, from the lower left corner of the axes."""
    (d,) = re.findall(rf'<path class="{kind} \w+" d="([^"]*)"', text)
    parts: list[list[tuple[int, int]]] = []
    x = y = 0
    for command, steps in re.findall(r"([mlhz])([-\d ]*)", d):
        found = [int(step) for step in re.findall(r"-?\d+", steps)]
        if command == "h":
            assert found == [0]
            continue
        parts += [[]] if command == "m" else []
        for dx, dy in zip(found[::2], found[1::2], strict=True):
            x, y = x + dx, y + dy
            parts[-1].append((x, HEIGHT - y))
    return parts


def ticks(text: str, axis: str) -> list[tuple[int, float]]:
    """The places and the numbers of an axis's ticks."""
    found = re.findall(rf'<text class="{axis}" x="(\d+)" y="(\d+)">([^<]*)</text>', text)
    assert all("-0" not in word or float(word) for _, _, word in found)
    return [(int(x) - LEFT if axis == "x" else TOP + HEIGHT + 7 - int(y), float(word)) for x, y, word in found]


def number_at(place: float, axis: list[tuple[int, float]]) -> float:
    """The number at a place, by the first and the last tick."""
    (left, low), (right, high) = axis[0], axis[-1]
    return low + (place - left) / (right - left) * (high - low)


# ---- axes


@given(numbers, numbers)
def test_ticks_are_round_numbers_at_their_places(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assume(high - low > 1e-9 * max(1, abs(low), abs(high)))
    found = Scale(low, high, 1000).ticks()
    assert 2 <= len(found) <= 7
    values = [float(word) for _, word in found]
    steps = [after - before for before, after in itertools.pairwise(values)]
    step = steps[0]
    assert steps == pytest.approx([step] * len(steps))
    mantissa = step / 10 ** math.floor(math.log10(step * (1 + 1e-9)))
    assert any(mantissa == pytest.approx(round_one, rel=1e-3) for round_one in (1, 2, 5, 10))
    for place, word in found:
        assert 0 <= place <= 1000
        assert place == pytest.approx(1000 * (float(word) - low) / (high - low), abs=1)


@pytest.mark.parametrize(
    ("last", "before", "limits"),
    [
        ([point(3, 0.8), point(4, 0.9)], [], (0.8, 0.9)),
        ([point(3, 0.8, 0.1), point(4, 0.9, 0.2)], [], (0.7, 1.1)),  # with their deviations
        ([point(3, 0.8), point(4, 0.9)], [point(1, 0.75)], (0.75, 0.9)),  # near enough to be shown
        ([point(3, 0.8), point(4, 0.9)], [point(1, 0.1)], (0.7, 0.9)),  # a steep beginning is cut off
        ([point(3, 0.8), point(4, 0.9)], [point(1, 5.0), None], (0.8, 1.0)),
        ([None], [point(1, 0.1), point(1, 0.3)], (0.1, 0.3)),
        ([point(1, math.nan)], [], (math.inf, -math.inf)),
    ],
)
def test_an_axis_is_fitted_to_the_last_points_and_as_much_again(
    last: list[Any], before: list[Any], limits: tuple[float, float]
) -> None:
    assert fitted(last, [*before, *last]) == pytest.approx(limits)


def test_a_range_of_one_number_and_of_none_can_be_drawn() -> None:
    assert with_margin(2.0, 2.0) == pytest.approx((1.9, 2.1))
    assert with_margin(0.0, 0.0) == (-1, 1)
    assert with_margin(math.inf, -math.inf) == (0, 1)


# ---- lines


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1), st.floats(0, 0.2)), min_size=2, max_size=9),
    st.sampled_from([1, 100]),
)
def test_every_vertex_lies_at_its_point_by_the_numbers_on_the_axes(points: list[Any], factor: float) -> None:
    points.sort()
    assume(points[-1][0] - points[0][0] > 1e-3)
    text = drawn([point(*one) for one in points], (-0.3, 1.3), factor)
    (line,), (band,) = vertices(text, "line"), vertices(text, "band")
    across, up = ticks(text, "x"), ticks(text, "y")
    by = {"³": 10**3, "⁶": 10**6}[found[1]] if (found := re.search(r"10([³⁶])\)</p>", text)) else 1
    unit_x, unit_y = (abs(number_at(1.01, axis) - number_at(0, axis)) for axis in (across, up))  # rounded to one unit
    for place, (x, y, std), top, bottom in zip(line, points, band, reversed(band), strict=False):
        assert number_at(place[0], across) * by == pytest.approx(x, abs=2 * unit_x * by)
        assert number_at(place[1], up) == pytest.approx(y * factor, abs=2 * unit_y)
        assert number_at(top[1], up) == pytest.approx((y + std) * factor, abs=2 * unit_y)
        assert number_at(bottom[1], up) == pytest.approx((y - std) * factor, abs=2 * unit_y)
        assert top[0] == bottom[0] == place[0]
    assert len(band) == 2 * len(line)


def test_a_line_breaks_at_a_missing_point_and_an_isolated_one_has_a_bar() -> None:
    points = [point(10_000, 0.5, 0.1), point(20_000, 0.6, 0.2), None, point(40_000, 0.8, 0.05)]
    text = drawn(points, (0, 1), 100, values=["a", "b", "", "d"], places=["A", "B", "", "D"])
    line, band = vertices(text, "line"), vertices(text, "band")
    assert [len(part) for part in line] == [2, 1]
    assert [len(part) for part in band] == [4]
    ((x, bottom),) = re.findall(r'<path class="bar \w+" d="M(\d+) \d+h12m-6 0V(\d+)m', text)
    assert int(x) + 6 == line[1][0][0]
    assert (HEIGHT - int(bottom)) / HEIGHT == pytest.approx(0.75, abs=0.002)
    assert '<p class="axis x view updates">x (in\N{NO-BREAK SPACE}10³)</p>' in text
    assert 'data-places="A|B|D"' in text
    assert 'data-values="a|b|d"' in text


def test_what_is_not_finite_has_no_place_and_no_words() -> None:
    points = [point(1, math.nan), point(2, 0.5, math.nan), point(math.inf, 0.5), point(3, 0.6)]
    text = drawn(points, values=["a", "b", "c", "d"])
    assert [len(part) for part in vertices(text, "line")] == [1, 1]
    assert 'data-values="b|d"' in text
    assert "band" not in text
    assert "<path class=" in drawn([None, point(1, math.inf)])  # the grid alone


def test_what_lies_far_outside_is_cut_off_in_the_right_direction() -> None:
    ((*_, (_, y)),) = vertices(drawn([point(0, 0.5), point(1, 1e9)]), "line")
    assert y == 2 * HEIGHT
    assert f'<svg class="view updates" x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}">' in drawn([point(0, 1)])


def test_views_that_look_alike_are_drawn_once_and_words_are_said_once() -> None:
    """Examples are 64 times the updates; the seconds of the last one are longer."""
    views = [
        View(name, name, [Line(LOOK, [point(x, 0.5) for x in xs], ["a", "b", "c"])])
        for name, xs in {"updates": [1, 2, 3], "examples": [64, 128, 192], "seconds": [1, 2, 9]}.items()
    ]
    text = str(chart("", "y", views, (0, 1), 1, ""))
    assert re.findall(r'<svg class="view ([^"]*)"', text) == ["updates examples", "seconds"]
    assert re.findall(r'<g class="view ([^"]*)"', text) == ["updates", "examples", "seconds"]
    assert text.count('data-values="a|b|c"') == 1
    views[2].lines[0].values = ["a", "b", "d"]
    assert str(chart("", "y", views, (0, 1), 1, "")).count("data-values") == 2


def test_all_words_are_escaped() -> None:
    nasty = "<b>&\"'"
    views = [View("updates", nasty, [Line(LOOK, [point(1, 0.5)], [nasty], [nasty])])]
    text = str(chart(nasty, nasty, views, (0, 1), 1, nasty))
    assert nasty not in text
    assert text.count("&lt;b&gt;&amp;&#34;&#39;") == 6


def test_looks_are_told_apart() -> None:
    found = looks([f"m{number}" for number in range(160)], "m7")
    assert len({(look.colour, look.shape, look.dash) for look in found.values()}) == 160
    assert found["m7"].colour is None
    for first in range(150):  # of any six in a row, all colours differ
        few = [look.colour for name, look in found.items() if name != "m7"][first : first + 6]
        assert len(set(few)) == len(few)


# ---- strips


def test_a_forest_has_dots_at_their_numbers_and_a_line_at_0() -> None:
    intervals = [
        Interval(1.0, -1.0, 3.0, False),
        Interval(-1.0, None, None, True),
        Interval(math.nan, None, None, False),
    ]
    strips = forest("d", intervals, 0.0)
    first, second, third = map(str, strips.cells)
    # from -1 to 3, with a margin of 4% of that: x% = (number + 1.16) / 4.32
    assert 'class="zero" x1="26.9%"' in first
    assert 'class="interval" x1="3.7%" x2="96.3%"' in first
    assert '<circle class="dot" cx="50%"' in first
    assert '<circle class="dot finding" cx="3.7%"' in second
    assert "interval" not in second
    assert "circle" not in third
    assert re.findall(r'x="([\d.]+)%" y="11">([-\d.]+)<', str(strips.axis)) == [
        ("3.7", "-1"),
        ("26.9", "0"),
        ("50", "1"),
        ("73.1", "2"),
        ("96.3", "3"),
    ]


def test_a_timeline_has_a_part_for_each_share_and_none_where_it_is_not_known() -> None:
    (cell,) = timeline("t", [[0.0, 0.0, 0.5, None, 1.0]]).cells
    assert re.findall(r'<rect x="([\d.]+)%" width="([\d.]+)%" fill-opacity="([\d.]+)"><title>([^<]*)', str(cell)) == [
        ("0", "40", "0", "0% to 40% of the budget: 0%"),
        ("40", "20", "0.5", "40% to 60% of the budget: 50%"),
        ("80", "20", "1", "80% to 100% of the budget: 100%"),
    ]
