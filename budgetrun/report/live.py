"""A report that follows a sweep: a page of this machine alone, made anew from the folders while runs go on."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from budgetrun.errors import UserError
from budgetrun.folder.plan import counted, states
from budgetrun.folder.run import FAILED, INTERRUPTED, RUNNING, RunFolder, State
from budgetrun.report.blocks import Block, Charts, Part, Section, Tabular, Text
from budgetrun.report.chart import looks
from budgetrun.report.figures import TOGETHER, Gallery, Plot, Series
from budgetrun.tables.curves import Point
from budgetrun.tables.runs import curve
from budgetrun.tables.table import Sheet

HOST = "127.0.0.1"  # nobody on another machine can read it
EVERY = 3.0  # seconds between two versions of the page, at least
SHARE = 0.2  # of a processor that making them may take


class Version:
    """The page as it was when it was last made. make: returns its HTML."""

    def __init__(self, make: Callable[[], str]) -> None:
        self.make, self.lock = make, threading.Lock()
        self.next, self.page, self.digest = 0.0, "", ""

    def now(self) -> tuple[str, str]:
        """The page, made anew if it is time, and the digest that tells it from another one."""
        with self.lock:
            began = time.monotonic()
            if began >= self.next:
                page = self.make()
                self.digest = hashlib.sha256(page.encode(errors="backslashreplace")).hexdigest()[:16]
                self.page = page.replace('data-version=""', f'data-version="{self.digest}"', 1)
                ended = time.monotonic()
                self.next = ended + max(EVERY, (ended - began) / SHARE)
            return self.page, self.digest


def serve(make: Callable[[], str], port: int, say: Callable[[str], None]) -> None:
    """Serve a page until Ctrl-C. port: 0 takes one that is free. Raises UserError if it cannot be taken."""
    version = Version(make)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # a page of somebody else's that points its own name at this machine sends that name
            if self.headers.get("Host") not in (f"{HOST}:{server.server_port}", f"localhost:{server.server_port}"):
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path not in ("/", "/version"):
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                page, digest = version.now()
                kind, content = ("text/html", page) if self.path == "/" else ("text/plain", digest)
                body = content.encode(errors="backslashreplace")
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"port {port} cannot be served ({why}); name another one with --port") from error
    with server:
        say(f"http://{HOST}:{server.server_port}/ follows the runs; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def sweep(folders: Iterable[str]) -> Section:
    """The states of the runs in folders, and the curves of those at work."""
    parts = []
    for folder in dict.fromkeys(str(Path(folder)) for folder in folders):
        try:
            found = states(Path(folder))
        except OSError:  # it is named elsewhere
            found = {}
        if found:
            said = Text(f"{counted([state.word for state in found.values()])}.")
            parts.append(Part(folder, [said, *unfinished(folder, found), *at_work(folder, found)]))
    return Section("sweep", "The sweep", parts)


def unfinished(folder: str, found: dict[str, State]) -> list[Block]:
    """The runs that have begun and not ended."""
    lines = [
        [name, word, RunFolder(folder, name).progress() if word != FAILED else "", state.detail]
        for word in (RUNNING, INTERRUPTED, FAILED)
        for name, state in found.items()
        if state.word == word
    ]
    sheet = Sheet(["run", "state", "at the last evaluation", ""], lines, "runs that have begun and are not finished", 4)
    return [Tabular(sheet)] if lines else []


def at_work(folder: str, found: dict[str, State]) -> list[Block]:
    """The test accuracy of runs at work, of as many as are told apart."""
    series = {}
    for name in (name for name, state in found.items() if state.word == RUNNING):
        try:
            so_far = curve({"path": RunFolder(folder, name).result_path})
        except ValueError:  # its table says so
            continue
        pairs = zip(so_far.get("updates", ()), so_far.get("test_accuracy", ()), strict=False)
        points = [Point(x, y, None, 1) for x, y in pairs if None not in (x, y)]
        if points:
            series[name] = Series([*points], [f"{point.x} updates" for point in points], len(points))
    names = list(series)[:TOGETHER]
    if not names:
        return []
    plot = Plot("", "test_accuracy", {"updates": {name: series[name] for name in names}})
    more = f", {len(names)} of {len(series)}" if len(series) > len(names) else ""
    return [Charts([Gallery([plot], looks(names, None), 4)], f"the test accuracy so far of runs at work{more}")]
