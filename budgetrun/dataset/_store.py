"""The pixels of a data set in one file, made once, part by part, and mapped into memory ever after."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch import Tensor

from budgetrun.contracts import Facts
from budgetrun.errors import UserError
from budgetrun.files import write_text
from budgetrun.memory import in_units
from budgetrun.stored import Stored, mapped

log = logging.getLogger("budgetrun")
KEY = 32  # bytes, before what np.save writes


@dataclass
class Part:
    """Some images of a data set: how many, and a digest that changes when they do."""

    count: int
    digest: bytes


def kept_as(folder: Path, root: Path, how: str, suffix: str) -> Path:
    """The file in `folder` for what is made of the files below `root`, in this way."""
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    return folder / f"{root.resolve().name}-{how}-{place}.{suffix}"


def stored(
    path: Path, root: Path, shape: tuple[int, int, int], parts: Sequence[Part], make: Callable[[int], np.ndarray]
) -> tuple[Stored, Facts]:
    """The images of all parts, uint8 [N, C, H, W], in a file, and what is kept beside it.

    make(k): the images of part k, uint8 [count, C, H, W], called if the file is not there or is of other parts. It is
    made once, whatever processes ask for it; if that is interrupted, it goes on with the next part.
    root: where the parts come from, for messages. shape: [C, H, W].
    """
    whole = (sum(part.count for part in parts), *shape)
    key = hashlib.sha256(repr(whole).encode() + b"".join(part.digest for part in parts)).digest()
    if (images := opened(path, key, whole)) is None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if (images := opened(path, key, whole)) is None:  # another job may have made it meanwhile
                    build(path, key, whole, root, parts, make)
                    images = opened(path, key, whole)
    assert images is not None
    return Stored(images, mapped=True), Kept(path.with_suffix(".json"), key.hex())


def opened(path: Path, key: bytes, shape: tuple[int, ...]) -> Tensor | None:
    """The file's images, mapped into memory; None if there is no such file, or if it is of others or not whole.

    Raises UserError if it cannot be read or mapped.
    """
    try:
        with path.open("rb") as file:
            if file.read(KEY) == key and np.lib.format.read_magic(file) == (1, 0):
                np.lib.format.read_array_header_1_0(file)
                return mapped(file, file.tell(), shape)
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:  # no permission, or a limit on the memory that a process may address
        raise UserError(f"{path} cannot be read or mapped into memory ({error.strerror or error})") from error
    return None


def build(
    path: Path,
    key: bytes,
    shape: tuple[int, ...],
    root: Path,
    parts: Sequence[Part],
    make: Callable[[int], np.ndarray],
) -> None:
    """Write the file, from where an interrupted process left it.

    Its pixels are written first, into a file of another name, and beside it a line for each part that is done.
    """
    from tqdm import tqdm

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    begin, one = KEY + header.tell(), prod(shape[1:])
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".parts")
    lines = [f"{begin} {one}", *(part.digest.hex() for part in parts)]
    done = done_before(partial, journal, lines, parts)
    count = sum(part.count for part in parts[:done])
    check_room(path, prod(shape) - count * one, root, shape)
    before = f"; {count:,} of them are there already" if count else ""
    log.info("decoding the %s images of %s, once; they are kept in %s%s", f"{shape[0]:,}", root, path, before)
    write_text(journal, "".join(f"{line}\n" for line in lines[: 1 + done]))
    with (
        partial.open("r+b" if done else "wb") as file,
        journal.open("a") as says,
        tqdm(total=shape[0], initial=count, unit=" images", leave=False, disable=not sys.stderr.isatty()) as bar,
    ):
        file.truncate(begin + count * one)
        file.seek(begin + count * one)
        for number in range(done, len(parts)):
            file.write(make(number).data)
            on_the_disk(file)
            says.write(f"{lines[1 + number]}\n")
            on_the_disk(says)
            bar.update(parts[number].count)
        file.seek(0)
        file.write(key + header.getvalue())
        on_the_disk(file)
    partial.replace(path)
    journal.unlink()


def done_before(partial: Path, journal: Path, lines: list[str], parts: Sequence[Part]) -> int:
    """How many parts an interrupted process has written that are still the same. lines: of a finished journal."""
    try:
        there, size = journal.read_text().splitlines(), partial.stat().st_size
    except OSError:
        return 0
    same = next((k for k, pair in enumerate(zip(there, lines, strict=False)) if pair[0] != pair[1]), len(there))
    done = min(same, len(lines)) - 1
    begin, one = map(int, lines[0].split())
    return done if done > 0 and size >= begin + one * sum(part.count for part in parts[:done]) else 0


def check_room(path: Path, needed: int, root: Path, shape: tuple[int, ...]) -> None:
    """Raise UserError if the disk has no room for so many bytes more."""
    if needed > (free := shutil.disk_usage(path.parent).free):
        raise UserError(
            f"the {shape[0]:,} images of {root} at {shape[3]}x{shape[2]} pixels do not fit into {path.parent}: they "
            f"take {in_units(needed)}, and {in_units(free)} are free; set dataset.size={shape[3]} lower, or data_dir"
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes the file; raises UserError if writing fails."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); what has been decoded is kept: start again to go on"
        ) from error


def on_the_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


@dataclass
class Kept:
    """What was worked out about the images of a file, in a file beside it; see contracts.Facts."""

    path: Path
    key: str

    def __call__(self, what: str, work: Callable[[], Any]) -> Any:
        known = self.known()
        if what not in known:
            known[what] = work()
            with contextlib.suppress(UserError):  # whoever may only read the pixels works it out again
                write_text(self.path, json.dumps({"key": self.key, "facts": {**self.known(), **known}}))
        return known[what]

    def known(self) -> dict[str, Any]:
        """What the file says, if it is about these images."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self.path.read_text())
            if content["key"] == self.key:
                return dict(content["facts"])
        return {}
