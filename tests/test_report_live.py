"""The report that is served while runs go on: what it says of them, and to whom."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from cli import environment
from test_report import Page, cells, refused, report, write

from budgetrun.folder.lock import Lock
from budgetrun.folder.plan import write_plan
from budgetrun.report import live
from budgetrun.report.blocks import Charts, Tabular, Text


def test_a_sweep_is_shown_with_the_states_of_its_runs_and_the_curves_of_those_at_work(tmp_path: Path) -> None:
    lines = [{"progress": k / 4, "updates": 10 * k, "test_accuracy": k / 8} for k in (1, 2)]
    finished, running, interrupted, failed = (write(tmp_path, lines, seed=seed) for seed in range(4))
    for path in (running, interrupted, failed):
        (path / "result.json").unlink()
    (failed / "failed.json").write_text(json.dumps({"reason": "the loss became nan"}))
    write_plan({tmp_path / "missing-s0-0": ["sampler=is"], finished: ["sampler=uniform"]})
    lock = Lock(running)
    try:
        (part,) = live.sweep([str(tmp_path), f"{tmp_path}/"]).parts
    finally:
        lock.release()
    count, table, charts = part.blocks
    assert part.title == str(tmp_path)
    assert isinstance(count, Text)
    assert count.words == "5 runs: 1 finished, 1 running, 1 interrupted, 1 failed, 1 missing."
    assert isinstance(table, Tabular)
    assert [line[:3] for line in table.sheet.lines] == [
        [running.name, "running", "50% of the budget, test accuracy 25.00 %"],
        [interrupted.name, "interrupted", "50% of the budget, test accuracy 25.00 %"],
        [failed.name, "failed", ""],
    ]
    assert table.sheet.lines[2][3] == "the loss became nan"
    assert isinstance(charts, Charts)
    (gallery,) = charts.galleries
    (series,) = gallery.plots[0].views["updates"].values()
    assert [(point and point.x, point and point.y) for point in series.points] == [(10, 0.125), (20, 0.25)]
    assert list(gallery.shown) == [running.name]


def test_a_page_is_made_anew_only_when_it_is_time_and_its_version_follows_its_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, texts = [100.0], iter(['<body data-version="">a', '<body data-version="">a', "b"])
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])

    def make() -> str:
        now[0] += 2  # seconds
        return next(texts)

    version = live.Version(make)
    page, first = version.now()
    assert page == f'<body data-version="{first}">a'
    now[0] += 9.9  # it took 2 s, so the next is made 10 s later
    assert version.now() == (page, first)
    now[0] += 0.2
    assert version.now() == (page, first)
    now[0] += 10
    assert version.now()[1] != first


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of an empty folder, and its port."""
    command = [sys.executable, "-m", "budgetrun.report", str(tmp_path), "--serve"]
    server = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert server.stdout is not None
    said = server.stdout.readline()
    assert said.startswith("http://127.0.0.1:")
    yield server, int(said.split("/")[2].split(":")[1])
    server.kill()
    server.communicate()


def got(port: int, path: str, host: str | None = None) -> tuple[int, str]:
    """The status and the text of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_only_this_machine_is_answered_and_only_about_the_runs(
    served: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    server, port = served
    status, text = got(port, "/")
    assert (status, Page(text).root.one("h1").text) == (200, "No report yet")
    assert "there is no finished run in" in Page(text).root.one("header").text
    (policy,) = Page(text).root.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "connect-src 'self'" in policy.attributes["content"]
    (tmp_path / "secret").write_text("secret")
    assert [got(port, path)[0] for path in ("/secret", "/../secret", "/%2e%2e/secret", "/?x")] == [404] * 4
    assert got(port, "/", "evil.example")[0] == 403
    assert got(port, "/", f"evil.example:{port}")[0] == 403
    assert got(port, "/", f"localhost:{port}")[0] == 200
    with pytest.raises(OSError, match="refused"):  # another address of this machine
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert Page(text).root.one("body").attributes["data-version"] == got(port, "/version")[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]
    os.kill(server.pid, signal.SIGINT)
    _, err = server.communicate(timeout=30)
    assert (server.returncode, err) == (0, "")


def test_a_report_of_the_finished_runs_is_below_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    made = []
    monkeypatch.setattr("budgetrun.report.page.serve", lambda make, port, say: made.append((make(), port)))
    assert report(tmp_path, "--serve", "--port", "1234").code == 0
    ((text, port),) = made
    page = Page(text)
    assert [section.attributes["id"] for section in page.root.all("section")][:2] == ["sweep", "results"]
    assert cells(page.section("results").one("table"))[1] == ["uniform", "50.00"]
    assert port == 1234
    assert "The page, 2" not in page.section("made").text, "with the time in it, every version would be new"
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nowhere --serve", ["nowhere does not exist"]),
        (". --serve --out x.html", ["--serve writes no file"]),
        (". --port 1234", ["--port has no effect without --serve"]),
        (". --serve --port 70000", ["port 70000 cannot be served"]),
        (". --serve --port -1", ["port -1 cannot be served"]),
    ],
)
def test_what_cannot_be_served_gives_one_sentence(arguments: str, words: list[str], tmp_path: Path) -> None:
    refused(report(*arguments.split(" "), cwd=tmp_path), *words)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(report(tmp_path, "--serve", "--port", port), f"port {port} cannot be served (Address already in use)")
