"""Images that stay where they are, in a file or in the host's memory. Only what is asked for is copied."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from budgetrun.errors import UserError

CPU = torch.device("cpu")
THREADS = 4  # read at once: for a page that is not in memory, a thread waits for the disk
PER_THREAD = 2**18  # bytes below which one thread reads all


class Stored:
    """Images, uint8 [N, C, H, W], that are used like a tensor on `device`: what is read is a new tensor there.

    So nobody can write into the file. What is asked for in order, by `split` and `reader`, is read ahead by threads
    while the device works.
    base: uint8 [M, C, H, W] on the CPU. rows: which rows of it these images are, int64 [N], or None for all.
    mapped: the base is a file's content, of which the system keeps in memory what it has room for.
    """

    def __init__(self, base: Tensor, mapped: bool, rows: Tensor | None = None, device: torch.device = CPU) -> None:
        self.base, self.mapped, self.rows, self.device = base, mapped, rows, device
        self.shape = torch.Size((len(base) if rows is None else len(rows), *base.shape[1:]))
        self.threads = ThreadPoolExecutor(THREADS)  # starts none before they are needed

    def __len__(self) -> int:
        return self.shape[0]

    def to(self, device: torch.device) -> Stored:
        """The same images for another device."""
        return Stored(self.base, self.mapped, self.rows, device)

    def at(self, rows: Tensor) -> Stored:
        """Some of the images, in this order; rows: int64 [n] on the CPU. Copies none."""
        return Stored(self.base, self.mapped, rows if self.rows is None else self.rows[rows], self.device)

    def __getitem__(self, key: int | slice | Tensor) -> Tensor:
        """As a tensor's; key: a number, a slice, int64 [n] or bool [N]."""
        index = torch.arange(len(self))[key.cpu() if isinstance(key, Tensor) else key]
        return self.index_select(0, index) if index.ndim else self.index_select(0, index[None])[0]

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """As a tensor's, along the first dimension. The host waits for the index if that is on a GPU."""
        assert dim == 0
        return self.bring(self.begin(index.cpu()))

    def clone(self) -> Tensor:
        """All images in memory, on the device."""
        return (self.base.clone() if self.rows is None else self.base.index_select(0, self.rows)).to(self.device)

    def split(self, count: int) -> Iterator[Tensor]:
        """All images in order, `count` at a time."""
        reader = self.reader(torch.arange(len(self)))
        return (reader.take(min(count, len(self) - begin)) for begin in range(0, len(self), count))

    def reader(self, index: Tensor) -> Reader:
        """The images of these examples, to be taken in this order. The host waits for the index, once."""
        return Reader(self, index.cpu())

    def begin(self, index: Tensor) -> Reading:
        """Begin to read these examples; index: int64 [n] on the CPU."""
        rows = index if self.rows is None else self.rows[index]
        # a GPU copies by itself from memory that is pinned
        images = self.base.new_empty((len(rows), *self.shape[1:]), pin_memory=self.device.type == "cuda")
        parts = min(THREADS, 1 + images.nbytes // PER_THREAD)
        return Reading(
            images,
            [
                self.threads.submit(torch.index_select, self.base, 0, some, out=part)
                for some, part in zip(rows.tensor_split(parts), images.tensor_split(parts), strict=True)
            ],
        )

    def bring(self, reading: Reading) -> Tensor:
        """What has been read, on the device."""
        for part in reading.parts:
            part.result()
        return reading.images.to(self.device, non_blocking=True)


@dataclass
class Reading:
    """Images that threads are reading, part by part."""

    images: Tensor
    parts: list[Future[Tensor]]


class Reader:
    """Images in a given order: when some are taken, threads begin to read as many more."""

    def __init__(self, images: Stored, index: Tensor) -> None:
        self.images, self.left = images, index
        self.ahead: Reading | None = None

    def take(self, count: int) -> Tensor:
        """The next `count` images [count, C, H, W], on the device."""
        if self.ahead is None or len(self.ahead.images) != count:
            self.ahead = self.images.begin(self.left[:count])
        now, self.left = self.ahead, self.left[count:]
        self.ahead = self.images.begin(self.left[:count]) if len(self.left) else None
        return self.images.bring(now)


def mapped(file: IO[bytes], offset: int, shape: tuple[int, ...]) -> Tensor:
    """The bytes of an open file from `offset`, as a tensor uint8 [*shape], of which nothing is read yet.

    Raises ValueError if the file is too short.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: nobody may write into it, and nobody can, see Stored
        return torch.from_numpy(np.memmap(file, np.uint8, "r", offset, shape))


def on_disk(images: Tensor | Stored, folder: Path) -> Stored:
    """Images in a file without a name in `folder`, which is gone when this process is.

    Raises UserError if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for part in images.split(1000):
                file.write(part.contiguous().numpy().data)
            file.flush()
            return Stored(mapped(file, 0, tuple(images.shape)), mapped=True)
    except OSError as error:
        raise UserError(
            f"data_on=disk writes the images into data_dir={folder}, which cannot be written "
            f"({error.strerror or error}); make room, or set data_dir to another folder"
        ) from error


def mean_and_std(images: Tensor | Stored) -> tuple[list[float], list[float]]:
    """Of each channel, over all pixels of uint8 images [N, C, H, W] scaled to [0, 1]; computed in float64."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for part in images.split(1000):
        for channel, of_values in enumerate(counts):
            of_values += torch.bincount(part[:, channel].flatten(), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for of_values in counts.double():
        mean = (of_values @ values) / of_values.sum()
        means.append(mean.item())
        stds.append(((of_values @ (values - mean) ** 2) / of_values.sum()).sqrt().item())
    return means, stds
