"""Text for a terminal: in characters that it has, and without any that it would obey."""

from __future__ import annotations

import codecs
import io
import os
import sys

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
    """Print what was asked for. Who reads only its head, as `| head` does, has enough."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
