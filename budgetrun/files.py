"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from budgetrun.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which replaces `path` in one step when the block ends, and not at all if the block fails."""
    scratch = path.with_name(f".{path.name}.partial")  # one name, so that a killed process's leftovers are overwritten
    try:
        scratch.unlink(missing_ok=True)  # it may be a FIFO
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); what was there before is untouched"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Around code that writes into a folder below output_dir; raises UserError if writing fails."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{folder} cannot be written ({why}); set output_dir to a writable folder") from error


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))  # lone surrogates, from file names that are not UTF-8
