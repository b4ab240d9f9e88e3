"""ImageNet in 64x64 pixels, as published."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from budgetrun.contracts import Data, UserError, path
from budgetrun.dataset._images import pixels_of, state_of
from budgetrun.dataset._store import Kept, Part, kept_as, stored
from budgetrun.errors import one_line

SIDE, CLASSES = 64, 1000
TRAIN, TEST = [f"train_data_batch_{number}" for number in range(1, 11)], "val_data"


@dataclass
class ImageNet64:
    """1,281,167 + 50,000 images of 1,000 classes, 64x64 pixels (Chrabaszcz et al. 2017).

    root: a folder with the published files train_data_batch_1 to train_data_batch_10 and val_data, for Python, or with
    the suffix .npz, for NumPy. Their pixels are copied into one file, once, 15 GiB.
    mean, std: null to measure those of the training part.
    """

    channels: ClassVar[int] = 3
    root: str
    mean: list[float] | None
    std: list[float] | None
    flip: bool
    padding: int

    def __post_init__(self) -> None:
        self.root = path("root", self.root)

    def load(self, folder: str) -> Data:
        root, decoded = Path(folder) / self.root, Path(folder) / "decoded"
        names = [there(root, name) for name in (*TRAIN, TEST)]
        digests = [state_of(root, [name], b"imagenet64") for name in names]
        known = Kept(kept_as(decoded, root, f"{SIDE}-labels", "json"), b"".join(digests).hex())
        decoded.mkdir(parents=True, exist_ok=True)
        labels = [torch.tensor(known(name, functools.partial(labels_of, root / name))) for name in names]
        images, facts = stored(
            kept_as(decoded, root, f"{SIDE}", "bin"),
            root,
            (3, SIDE, SIDE),
            [Part(len(of), digest) for of, digest in zip(labels, digests, strict=True)],
            lambda number: read(root / names[number])[0],
        )
        n = sum(map(len, labels[:-1]))
        train_images, test_images = (images.at(rows) for rows in torch.arange(len(images)).tensor_split([n]))
        mean, std = pixels_of(train_images, facts, self.mean, self.std)
        return Data(
            images=train_images,
            labels=torch.cat(labels[:-1]),
            test_images=test_images,
            test_labels=labels[-1],
            mean=mean,
            std=std,
            flip=self.flip,
            padding=self.padding,
            classes=CLASSES,
            facts=facts,
        )


def there(root: Path, name: str) -> str:
    """The name of a published file in the folder, with its suffix."""
    for suffix in ("", ".npz"):
        if (root / f"{name}{suffix}").exists():
            return f"{name}{suffix}"
    raise UserError(
        f"{root} has no {name} and no {name}.npz; put the files of ImageNet 64x64 there, {TRAIN[0]} to {TRAIN[-1]} and "
        f"{TEST}"
    )


def labels_of(path: Path) -> list[int]:
    labels: list[int] = read(path)[1].tolist()
    return labels


class OnlyArrays(pickle.Unpickler):
    """Reads NumPy arrays and plain values; a pickle could otherwise run any program."""

    def find_class(self, module: str, name: str) -> Any:
        array = module.partition(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar")
        if array or (module, name) == ("_codecs", "encode"):  # the latter turns text into an array's bytes
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 [n, 3, 64, 64] and the labels int64 [n], from 0, of a published file.

    Raises UserError if it is not such a file.
    """
    try:
        with path.open("rb") as file:
            content: Any = np.load(file) if path.suffix == ".npz" else OnlyArrays(file, encoding="latin1").load()
            pixels: np.ndarray = np.asarray(content["data"])
            labels: np.ndarray = np.asarray(content["labels"]).astype(np.int64) - 1
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * SIDE**2):
            raise ValueError(f"its data are {pixels.dtype} {list(pixels.shape)}, of {len(labels)} labels")
        if not (len(labels) and labels.min() >= 0 and labels.max() < CLASSES):
            raise ValueError(f"its labels are not in 1 .. {CLASSES}")
    except Exception as error:  # whatever reading another kind of file raises
        raise UserError(
            f"{path} is broken, half-downloaded, or no file of ImageNet 64x64 ({one_line(error)}); put a good copy in "
            "its place"
        ) from error
    return pixels.reshape(-1, 3, SIDE, SIDE), labels
