"""Text for a terminal: only characters that it can show, and none that it would interpret."""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

STAND_INS = {"±": "+-", "—": "-"}  # for our own text, if an encoding lacks these characters


def shown(text: str) -> str:
    """Any text on one line; what a terminal would interpret, such as an escape sequence, is written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else escaped(c) for c in text)


def escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def stand_in(error: UnicodeError) -> tuple[str, int]:
    """The replacement for characters that a stream's encoding lacks, and the position to continue from."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(STAND_INS.get(c) or escaped(c) for c in error.object[error.start : error.end]), error.end


codecs.register_error("stand-in", stand_in)


def any_encoding() -> None:
    """Let stdout and stderr replace characters that their encoding lacks, as ASCII lacks ±, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="stand-in")


def tell(text: str) -> None:
    """Print the requested output. A reader may stop early, as `| head` does; any other failed write is an error."""
    out = Lasting(sys.stdout or nowhere())
    print(text, file=out, flush=True)
    if out.lost is not None and not isinstance(out.lost, BrokenPipeError):
        sys.exit(f"stdout cannot be written ({out.lost.strerror})")


class Lasting:
    """A stream that may end before the work does: its reader exits, its terminal closes, or its disk is full.

    What it no longer accepts is discarded, and no write fails. lost: the error, or None as long as there is none.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except OSError as error:
            self.lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self.lose(error)

    def lose(self, error: OSError) -> None:
        """From here on no write fails, nor does flushing what the stream still holds when the process ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)
        self.lost = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class LastingOutput(Lasting):
    """stdout during runs, which continue without it. Its failure is reported once, on stderr."""

    def lose(self, error: OSError) -> None:
        super().lose(error)
        if not isinstance(error, BrokenPipeError):  # the reader had read enough
            print(f"budgetrun: stdout cannot be written ({error.strerror}); a run goes on without it", file=sys.stderr)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Within the block, stdout and stderr may end before the work does."""
    before = sys.stdout
    out, err = LastingOutput(before or nowhere()), Lasting(sys.stderr or nowhere())
    for handler in logging.getLogger().handlers:  # those that Hydra has already made in a worker
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(out)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()


def nowhere() -> TextIO:
    """A substitute for a closed stream, whose descriptor the next opened file would get otherwise."""
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)
