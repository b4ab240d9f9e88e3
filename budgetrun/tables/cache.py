"""Caches the runs of a folder in the folder itself, so that reading it again opens only what has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from budgetrun.folder.reading import content

NAME = ".aggregate-cache.json"
FORM = 4  # version of the file's format; other versions are not read
WORTH = 200  # runs; fewer are read just as fast without a cache


def head(rest: bytes) -> bytes:
    """How the file begins, given the rest: its format, and the digest that the rest must match."""
    return f'{{"form":{FORM},"digest":"{hashlib.sha256(rest).hexdigest()}",'.encode()


HEAD = len(head(b""))


class Cache:
    """The runs of a folder by the path of their result.json in it, and which file they were read from.

    A file is unchanged while its inode, modification time and size are the same: results are replaced, not overwritten,
    so a new one has another inode whatever the clock says. A cache that cannot be read or written, or that has been
    altered, is silently ignored: only time is lost.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder, NAME)
        self.root = len(os.path.join(folder, ""))  # noqa: PTH118 -- strings, as os.walk yields them
        self.shapes: list[tuple[int, list[str]]] = []  # how many names are settings, and all names
        self.known: dict[str, list[Any]] = {}
        self.seen: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            text = content(self.path)
            if text[:HEAD] == head(text[HEAD:]):
                known = json.loads(text)
                self.shapes, self.known = [(count, names) for count, names in known["shapes"]], known["runs"]
        self.numbers = {(count, *names): number for number, (count, names) in enumerate(self.shapes)}

    def get(self, path: str, stat: os.stat_result) -> tuple[list[str], dict[str, Any]] | None:
        """The settings' names and the run of an unchanged result.json."""
        entry = self.known.get(path[self.root :])
        if entry is None or entry[:3] != [stat.st_ino, stat.st_mtime_ns, stat.st_size]:
            return None
        self.seen[path[self.root :]] = entry
        count, names = self.shapes[entry[3]]
        return names[:count], dict(zip(names, entry[4], strict=True))

    def keep(self, path: str, stat: os.stat_result, settings: list[str], run: dict[str, Any]) -> None:
        """Remember a run, its settings first. stat: from before the file was read, so not a newer file's."""
        names = list(run)
        number = self.numbers.setdefault((len(settings), *names), len(self.shapes))
        if number == len(self.shapes):
            self.shapes.append((len(settings), names))
        self.seen[path[self.root :]] = [stat.st_ino, stat.st_mtime_ns, stat.st_size, number, list(run.values())]

    def write(self) -> None:
        """Write what was seen, in one step, if it differs from what was known."""
        if len(self.seen) < WORTH or self.seen == self.known:
            return
        known = json.dumps({"shapes": self.shapes, "runs": self.seen}, separators=(",", ":")).removeprefix("{").encode()
        with contextlib.suppress(OSError):
            # a unique name, since two readers may write at once
            handle, scratch = tempfile.mkstemp(prefix=NAME, dir=self.path.parent)
            try:
                with open(handle, "wb") as file:  # noqa: PTH123 -- a handle
                    file.write(head(known) + known)
                Path(scratch).replace(self.path)
            finally:
                Path(scratch).unlink(missing_ok=True)
