"""The file selected.npz of a run: its most and its least selected training examples, small enough to look at.

Free of torch: a report reads it. Arrays, one entry for each example, the most selected first:

index: int64, which of the data set's training examples it is. visits: float32, how often it was trained on; an image
made of several examples visits each by its share. label: int64, as trained on. corrupted: bool. image: uint8
[n, C, h, w], reduced to at most `LARGEST` pixels per side.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
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


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all."""
    with replacing(path) as file:
        np.savez_compressed(file, **{name: arrays[name] for name in KINDS})


def read(path: Path) -> list[Example]:
    """The examples, the most selected first; raises OSError, or ValueError if it is not such a file."""
    whole = io.BytesIO(content(path))
    try:
        with np.load(whole, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in KINDS}
    except Exception as error:  # NumPy and zipfile raise a dozen kinds, depending on where the file is damaged
        raise ValueError("it is not a file of selected examples") from error
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
