"""Fashion-MNIST: Zalando's article images."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from budgetrun.contracts import Data, path
from budgetrun.dataset._fetch import broken, fetch

RAW = Path("FashionMNIST", "raw")  # where torchvision keeps it
# MD5 sums of the unpacked files: archives of the same content differ (Debian repacks them)
UNPACKED = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}


@dataclass
class FashionMNIST:
    """60,000 + 10,000 grey images of 28x28 pixels, 10 classes (Xiao et al. 2017).

    system: a folder with the four .gz files that is tried first (Debian's package dataset-fashion-mnist).
    mean, std: of the training set, measured.
    """

    channels: ClassVar[int] = 1
    mean: list[float]
    std: list[float]
    flip: bool
    padding: int
    system: str

    elsewhere: ClassVar = ("system",)

    def __post_init__(self) -> None:
        self.system = path("system", self.system)

    def load(self, folder: str) -> Data:
        if all((Path(self.system) / name).is_file() for name in UNPACKED):
            parts = read_all(Path(self.system))
        else:
            from torchvision.datasets import FashionMNIST as Published

            parts = fetch(
                Path(folder),
                [str(RAW / name) for name in UNPACKED],
                lambda root: read_all(root / RAW),
                lambda scratch: Published(scratch, download=True),
                Published.mirrors[0],
            )
        images, labels, test_images, test_labels = parts
        return Data(
            images=images[:, None],
            labels=labels.long(),
            test_images=test_images[:, None],
            test_labels=test_labels.long(),
            mean=self.mean,
            std=self.std,
            flip=self.flip,
            padding=self.padding,
            classes=10,
        )


def read_all(folder: Path) -> list[Tensor]:
    """The four files. Raises UserError if one is damaged, else FileNotFoundError if one is missing."""
    there = {name: read_idx(folder / name, md5) for name, md5 in UNPACKED.items() if (folder / name).exists()}
    if missing := UNPACKED.keys() - there.keys():
        raise FileNotFoundError(f"{folder} has no {', '.join(sorted(missing))}")
    return list(there.values())


def read_idx(path: Path, md5: str) -> Tensor:
    """A gzipped idx file of bytes: uint8 of the shape that its header gives.

    Raises UserError if it is damaged.
    """
    packed = path.read_bytes()
    try:
        raw = gzip.decompress(packed)
    except (EOFError, OSError, zlib.error) as error:
        raise broken(path, str(error)) from error
    if (found := hashlib.md5(raw).hexdigest()) != md5:
        raise broken(path, f"unpacked MD5 {found} instead of {md5}")
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, offset=4)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy())
