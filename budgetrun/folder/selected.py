"""The file selected.npz of a run: how often it trained on each example, and its most and least selected ones.

Free of torch: tables and reports read it. `visits_of_all`, float32 [n], in the order of the run's training examples;
and for the most and least selected, small enough to look at, one entry each, the most selected first:

index: int64, which of the data set's training examples it is. visits: float32, how often it was trained on; an image
made of several examples visits each by its share. label: int64, as trained on. corrupted: bool. image: uint8
[n, C, h, w], reduced to at most `LARGEST` pixels per side.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budgetrun.files import replacing
from budgetrun.folder.reading import content

COUNT = 8  # of the most selected, and of the least
LARGEST = 32  # pixels
KINDS = {"index": "i", "visits": "f", "label": "i", "corrupted": "b", "image": "u"}  # of NumPy's dtypes


@dataclass
class Example:
    """One of them. image: uint8 [C, h, w]."""

    index: int
    visits: float
    label: int
    corrupted: bool
    image: NDArray[np.uint8]


def write(path: Path, visits: Any, arrays: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all. visits: float32 [n], of all examples."""
    with replacing(path) as file:
        np.savez_compressed(file, visits_of_all=visits, **{name: arrays[name] for name in KINDS})


def visits(path: Path) -> NDArray[np.float64]:
    """How often the run trained on each example, [n]; raises OSError, or ValueError if it is not such a file."""
    found = loaded(path, ["visits_of_all"])["visits_of_all"]
    if found.dtype.kind != "f" or found.ndim != 1 or not np.isfinite(found).all() or found.min(initial=0) < 0:
        raise ValueError("it is not a file of selected examples")
    if not found.sum() > 0:
        raise ValueError("it names no visit at all")
    return found.astype(np.float64)


def loaded(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """These arrays of the file; raises OSError, or ValueError if it is not such a file."""
    whole = io.BytesIO(content(path))
    try:
        with np.load(whole, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except Exception as error:  # NumPy and zipfile raise a dozen kinds, depending on where the file is damaged
        raise ValueError("it is not a file of selected examples") from error


def read(path: Path) -> list[Example]:
    """The examples, the most selected first; raises OSError, or ValueError if it is not such a file."""
    arrays = loaded(path, KINDS)
    *lists, images = arrays.values()
    if (
        any(array.dtype.kind != kind for array, kind in zip(arrays.values(), KINDS.values(), strict=True))
        or images.ndim != 4
        or images.shape[1] not in (1, 3)
        or not 1 <= min(images.shape[2:]) <= max(images.shape[2:]) <= LARGEST
        or any(array.shape != images.shape[:1] for array in lists)
    ):
        raise ValueError("it is not a file of selected examples")
    rows = zip(*(array.tolist() for array in lists), images, strict=True)
    return [Example(*row) for row in rows]
