"""Text for a terminal: in characters that it has, and without any that it would obey."""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

STAND_INS = {"±": "+-", "—": "-"}  # for our own words, where an encoding lacks them


def shown(text: str) -> str:
    """Somebody's words in one line; what a terminal would obey, as an escape sequence, is written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else escaped(c) for c in text)


def escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def stand_in(error: UnicodeError) -> tuple[str, int]:
    """What is printed of characters that the encoding of a stream lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(STAND_INS.get(c) or escaped(c) for c in error.object[error.start : error.end]), error.end


codecs.register_error("stand-in", stand_in)


def any_encoding() -> None:
    """Let stdout and stderr print in other words what their encoding lacks, as ASCII lacks ±, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="stand-in")


def tell(text: str) -> None:
    """Print what was asked for. Who reads only its head, as `| head` does, has enough; else it is an error."""
    out = Lasting(sys.stdout or nowhere())
    print(text, file=out, flush=True)
    if out.lost is not None and not isinstance(out.lost, BrokenPipeError):
        sys.exit(f"stdout cannot be written ({out.lost.strerror})")


class Lasting:
    """A stream that may end before the work does: its reader leaves, its terminal closes, its disk is full.

    What it takes no more goes nowhere, and no write fails. lost: why, and None as long as all is well.
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
        """Nothing fails from here on, nor what the stream still holds at the end of the process."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)
        self.lost = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class LastingOutput(Lasting):
    """stdout beside runs: they do not need it, and go on. That it takes no more is said once on stderr."""

    def lose(self, error: OSError) -> None:
        super().lose(error)
        if not isinstance(error, BrokenPipeError):  # who left has read enough
            print(f"budgetrun: stdout cannot be written ({error.strerror}); a run goes on without it", file=sys.stderr)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """While it lasts, stdout and stderr may end before the work does."""
    before = sys.stdout
    out, err = LastingOutput(before or nowhere()), Lasting(sys.stderr or nowhere())
    for handler in logging.getLogger().handlers:  # those that Hydra has made already in a worker
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(out)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()


def nowhere() -> TextIO:
    """In the place of a stream that is closed, whose number a file would get that is opened next."""
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)
