"""The report in a real browser: Chromium, without a window. Skipped where it or Playwright is not installed."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import environment
from test_report import NASTY, gated, report, write, write_selected

from budgetrun.tables.table import Sheet, latex

playwright = pytest.importorskip("playwright.sync_api", reason='Playwright is not installed (pip install ".[browser]")')
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")

LONG = "a_very_long_name_without_any_place_to_break_it_" * 4
WIDTHS = (390, 768, 1280)

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with everything that a page can show, under names that are long and hostile."""
    folder = tmp_path_factory.mktemp("runs")
    shares = [(0.25, 10, 0.0), (0.5, 20, 0.25), (0.75, 30, 0.5), (1.0, 40, 0.625)]
    for seed in range(3):
        for budget in (0.3, 0.5):
            for number, sampler in enumerate(("uniform", NASTY, LONG, "=1+1", "sb")):
                noisy = {"corrupted": 0.5, "selected_corrupted": 0.6, "selected_corrupted_lately": 0.5 + seed / 10}
                spent = {"flops": 10**9 * (number + 1), "seconds": 10 - number, "updates": 100 + number}
                accuracy = {"test_accuracy": 0.5 + number / 20 + seed / 30, "device": NASTY}
                changes = {"budget": budget, "seed": seed, "noise": "symmetric", **noisy, **spent, **accuracy}
                write_selected(write(folder, sampler=sampler, **changes))
            for threshold in (1.5, 2):
                gate = {"looking_updates": 0.625, "sampler.threshold": threshold, "noise": "symmetric"}
                write(folder, **gated(shares, seed=seed, budget=budget, **gate))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> str:
    """Of the page about these runs."""
    done = report(folder)
    assert (done.code, done.err) == (0, "")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        one = started.chromium.launch(executable_path=CHROMIUM, args=root)
        yield one
        one.close()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Open]:
    """Opens the page in a window of its own. No page may write to the console, fail, or ask for anything but itself."""
    said: list[str] = []
    contexts = []

    def open_page(at: str = address, width: int = 1280, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        asked = re.escape(at.rstrip("/"))
        page.on("request", lambda r: None if re.match(f"{asked}/?(version)?$|data:", r.url) else said.append(r.url))
        page.goto(at)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_page(scheme: str, opened: Open) -> None:
    page = opened(color_scheme=scheme)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        over = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .skip, svg, pre')
                  && e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 0.5).length"""
        assert page.evaluate(over) == 0
        # what is said of a table that is wider than the page is said of no other
        wide, said = "e => e.scrollWidth > e.clientWidth", "e => !e.querySelector('.hint').hidden"
        expected = page.evaluate(f"[...document.querySelectorAll('.scroll')].map({wide})")
        page.wait_for_function(
            f"""wide => JSON.stringify([...document.querySelectorAll('figure.tabular')].map({said})) == wide""",
            arg=str(expected).lower().replace("'", "").replace(" ", ""),
        )
        assert any(expected)
        assert not all(expected)
    paper, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) > 384 for colour in (paper, ink)]
    assert bright == ([True, False] if scheme == "light" else [False, True])
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_button_chooses_light_or_dark(opened: Open) -> None:
    page = opened(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(paper) != before
    page.emulate_media(media="print")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


def column(page: Any, number: int, section: str = "spent") -> list[str]:
    return page.locator(f"#{section} tbody tr > :nth-child({number})").all_inner_texts()


def test_tables_are_sorted_by_the_pointer_and_by_the_keyboard(opened: Open) -> None:
    page = opened()
    head = page.locator("#spent thead th")
    names = head.all_inner_texts()
    seconds, before = names.index("seconds") + 1, column(page, 1)
    button = head.nth(seconds - 1).get_by_role("button")
    button.click()
    values = [float(text.split(" ")[0]) for text in column(page, seconds)]
    assert values == sorted(values)
    assert values[0] < values[-1]
    assert head.nth(seconds - 1).get_attribute("aria-sort") == "ascending"
    button.press("Enter")
    assert [float(text.split(" ")[0]) for text in column(page, seconds)] == values[::-1]
    button.press("Enter")
    assert column(page, 1) == before
    assert head.nth(seconds - 1).get_attribute("aria-sort") is None
    # what is missing is last, whichever way
    threshold = names.index("sampler.threshold") + 1
    for order in (["1.5", "1.5", "2", "2"], ["2", "2", "1.5", "1.5"]):
        head.nth(threshold - 1).get_by_role("button").click()
        assert column(page, threshold) == [*order, *["—"] * 10]


def test_tables_are_copied_as_csv_and_as_the_latex_of_aggregate(opened: Open) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    figure = page.locator("#results figure").first
    cells = [
        row.locator("th, td").all_text_contents() for row in (page.locator("#results table").first.locator("tr").all())
    ]
    assert ["=1+1", "—"] in [line[:2] for line in cells]
    figure.get_by_role("button", name="Copy LaTeX").click()
    figure.get_by_role("button", name="Copied").wait_for()
    caption = figure.locator("figcaption").text_content()
    names = figure.locator("thead th:not(.number)").count()
    assert page.evaluate("navigator.clipboard.readText()") == latex(Sheet(cells[0], cells[1:], caption, names)) + "\n"
    figure.get_by_role("button", name="Copy CSV").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => !text.includes('tabular'))")
    copied = list(csv.reader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
    assert copied[0] == cells[0]
    assert [line[2:] for line in copied] == [line[2:] for line in cells]
    firsts = [line[0] for line in copied]
    assert '"=1+1"' in firsts, "a spreadsheet would compute it"
    assert any("\\u001b" in first for first in firsts), "a terminal would obey it"


def test_values_are_told_at_the_pointer_and_by_the_arrow_keys(opened: Open) -> None:
    page = opened()
    told = page.locator(".told")
    chart = page.locator("#learning .charts svg[role=img]").first
    chart.scroll_into_view_if_needed()
    first = "document.querySelector('#learning .charts .line.base')"
    place = f"(line => {{ const p = places(line)[%d]; return [p.x, p.y] }})({first})"
    page.mouse.move(*page.evaluate(place % 1))
    # test accuracies of 0.5, 0.5333 and 0.5667: mean 53.33, deviation 3.33
    assert told.inner_text() == "uniform: 53.33 ± 3.33, 100% of the budget"
    page.locator("#view-flops").check()
    chart.scroll_into_view_if_needed()
    flops = place.replace(".charts", ".view.flops")
    page.mouse.move(*page.evaluate(flops % 0))
    assert told.inner_text() == "uniform: 26.67 ± 1.67, 50% of the budget"
    page.mouse.move(0, 0)
    assert not told.is_visible()
    gallery = page.locator("#against .gallery").first
    gallery.focus()
    gallery.press("ArrowDown")
    assert told.inner_text() == "uniform: 53.33 ± 3.33, 100 updates"
    gallery.press("ArrowRight")
    gallery.press("ArrowDown")
    name = page.locator("#against .legend span").nth(1).text_content()
    assert told.inner_text().startswith(f"{name}: ")
    gallery.press("Tab")
    assert not told.is_visible()


def test_the_keyboard_reaches_everything(opened: Open) -> None:
    page = opened()
    # of the choices among views, the one that is chosen is reached, and the others from it by the arrow keys
    reachable = """[...document.querySelectorAll('a[href], button, summary, [tabindex="0"], input:checked')]
                   .filter(e => e.getClientRects().length).map((e, i) => (e.dataset.number = i))"""
    everything = page.evaluate(reachable)
    reached = set()
    for _ in everything:
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.number"))
    assert reached == set(map(str, everything))
    assert page.locator(".gallery").count() >= 3
    page.locator("#view-updates").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#view-examples").is_checked()


def test_without_scripts_everything_is_there_and_the_view_can_be_chosen(opened: Open) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator("button").count() == 0
    assert page.locator("#results td").first.is_visible()
    view = page.locator("#learning p.view")
    assert view.first.inner_text() == "updates"
    page.locator("#view-seconds").check()
    assert {p.inner_text() for p in view.all() if p.is_visible()} == {"seconds"}
    assert page.locator("#selection svg.timeline rect title").first.text_content() == "0% to 25% of the budget: 0%"


def test_folded_text_is_printed(opened: Open) -> None:
    page = opened()
    assert not page.locator("#selection dd").first.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#selection dd").first.is_visible()


def test_a_served_page_follows_the_runs_and_keeps_what_was_chosen(opened: Open, tmp_path: Path) -> None:
    write(tmp_path)
    command = [sys.executable, "-m", "budgetrun.report", str(tmp_path), "--serve"]
    server = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        page = opened(server.stdout.readline().split(" ")[0])
        assert page.locator("h1").text_content() == "1 run of cnn on digits"
        assert page.locator("#sweep p").first.text_content() == "1 run: 1 finished."
        page.locator("#view-flops").check()
        page.locator("summary").first.click()
        page.locator("#results th button").first.click()
        write(tmp_path, sampler="is")
        page.get_by_text("2 runs of cnn on digits by sampler").wait_for(timeout=30_000)
        assert page.locator("#view-flops").is_checked()
        assert page.locator("details").first.get_attribute("open") is not None
        assert page.locator("#results thead th").first.get_attribute("aria-sort") == "ascending"
    finally:
        server.terminate()
        server.communicate()
