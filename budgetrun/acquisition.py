"""The sums over an ensemble's members from which every acquisition follows. They add up over any number of runs.

In a file they are a NumPy array (.npy) with one record per example, written and read in parts: 1.28 million examples of
1,000 classes take 7.7 GB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from budgetrun.files import replacing
from budgetrun.softmax import entropy

ACQUISITIONS = (
    "entropy",
    "mutual_information",
    "variation_ratio",
    "errors",
    "least_confidence",
    "margin",
    "variance",
)
COMPARING = ("mutual_information", "variation_ratio", "variance")  # those that need two members
PART = 2**25  # bytes of records in memory at a time
MOST_MEMBERS = 65_535  # in a file: votes are counted in 16 bits


def record(classes: int) -> np.dtype[Any]:
    """What is stored of an example, each summed over the members e, whose softmax is p_e."""
    return np.dtype(
        [
            ("p", "<f4", (classes,)),
            ("votes", "<u2", (classes,)),  # 1 for the predicted class
            ("errors", "<u2"),  # 1 if that is not the label
            ("entropy", "<f4"),  # H(p_e)
            ("p_label", "<f4"),  # p_e(label)
            ("p_label_squared", "<f4"),
        ]
    )


def of_member(p: Tensor, label: Tensor) -> np.ndarray[Any, Any]:
    """The records [B] of one member: its softmax p [B, classes] and the labels [B], on any device."""
    predicted, p_label = p.argmax(1), p.gather(1, label[:, None])[:, 0]
    columns = {
        "p": p,
        "votes": torch.nn.functional.one_hot(predicted, p.shape[1]).to(torch.int16),
        "errors": predicted != label,
        "entropy": entropy(p),
        "p_label": p_label,
        "p_label_squared": p_label.square(),
    }
    found = np.empty(len(p), record(p.shape[1]))
    for name, column in columns.items():
        found[name] = column.cpu().numpy()
    return found


def add(records: np.ndarray[Any, Any], more: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The records with others [B] added to them, in place."""
    for name in records.dtype.names or ():
        records[name] += more[name]
    return records


def write(path: Path, parts: Iterable[np.ndarray[Any, Any]], examples: int, classes: int) -> None:
    """Write the records of all examples, given in parts of any size; whole or not at all."""
    about = {"descr": np.lib.format.dtype_to_descr(record(classes)), "fortran_order": False, "shape": (examples,)}
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, about)
        for part in parts:
            file.write(part.tobytes())


def shape(path: Path) -> tuple[int, int]:
    """How many examples and classes a file has; raises OSError, or ValueError if it is not such a file, or cut off."""
    if not path.is_file():  # reading a FIFO may never end
        raise ValueError("it does not exist" if not path.exists() else "it is not a file")
    stored = np.lib.format.open_memmap(path, mode="r")
    classes = stored.dtype["p"].shape[0] if stored.ndim == 1 and "p" in (stored.dtype.names or ()) else 0
    if not classes or stored.dtype != record(classes):
        raise ValueError("it has no sums over the members of an ensemble")
    return len(stored), classes


def rows_of(classes: int, multiple: int = 1) -> int:
    """How many records make a part: a multiple of this many."""
    return max(1, PART // (record(classes).itemsize * multiple)) * multiple


def read(path: Path, rows: int) -> Iterator[np.ndarray[Any, Any]]:
    """The records of a file, in parts of this many."""
    # only for where the records begin: what is mapped would stay in memory
    stored = np.lib.format.open_memmap(path, mode="r")
    for first in range(0, len(stored), rows):
        yield np.fromfile(path, stored.dtype, rows, offset=stored.offset + first * stored.dtype.itemsize)


def acquisitions(sums: Mapping[str, np.ndarray[Any, Any]], members: int) -> dict[str, np.ndarray[Any, Any]]:
    """Every one of ACQUISITIONS, float64 [B], from the sums over this many members. Higher is more uncertain.

    They are defined in scores/ensemble.py. The variance is mean_e p_e(label)^2 - (mean_e p_e(label))^2.
    """
    mean = {name: np.asarray(column, np.float64) / members for name, column in sums.items()}
    p = mean["p"]
    total = -(p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum(1)
    second, first = np.partition(p, (-2, -1), axis=1)[:, -2:].T
    return {
        "entropy": total,
        "mutual_information": total - mean["entropy"],
        "variation_ratio": 1 - mean["votes"].max(1),
        "errors": np.asarray(sums["errors"], np.float64),
        "least_confidence": 1 - first,
        "margin": second - first,
        "variance": mean["p_label_squared"] - mean["p_label"] ** 2,
    }


def finished(paths: Sequence[Path], members: int) -> dict[str, np.ndarray[Any, Any]]:
    """Every acquisition of all examples, float64 [n], from the sums in these files, of as many examples and classes."""
    rows = rows_of(shape(paths[0])[1])
    together = zip(*(read(path, rows) for path in paths), strict=True)
    parts = [acquisitions(added(records), members) for records in together]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def added(records: Sequence[np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The sums of records [B] of several files, float64, by column."""
    names = records[0].dtype.names or ()
    return {name: np.sum([np.asarray(one[name], np.float64) for one in records], axis=0) for name in names}
