"""Pictures that another library reads, made into images of one shape, once, in one file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from budgetrun.contracts import Data, UserError
from budgetrun.dataset._images import TOGETHER, Shape, fitted, on_white, state_of
from budgetrun.dataset._store import Part, kept_as, stored
from budgetrun.errors import one_line
from budgetrun.stored import mean_and_std

if TYPE_CHECKING:
    from PIL.Image import Image

DECODING = 1  # increase it when decoding changes: the pixels that were kept are then decoded again
GREY = ("1", "L", "LA")  # Pillow's modes


def files_below(root: Path) -> list[Path]:
    """The files of a data set in a folder, or the file itself, without hidden ones and what is kept of others."""
    found = [path for path in (root, *root.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return sorted(path for path in found if "decoded" not in path.relative_to(root).parts)


@dataclass
class Pictures:
    """A split of a library's data set: how many pictures it has, and a function that reads one, and its label."""

    count: int
    read: Callable[[int], tuple[Image, Any]]


@dataclass
class OfPictures:
    """What data sets of pictures have in common: their values, and how their images and labels are made.

    train, test: the names of the splits. test may instead be a number such as 0.2: this part of every class of train is
    tested on, the same for every seed.
    size: pixels per side; null: those of the pictures, which must all be squares of that size.
    channels: 3, colour, or 1, grey; null: those of the pictures, of which none may be grey if others are not.
    fit: squash resizes both sides to `size`, crop the shorter one, and takes the middle.
    mean, std: null to measure those of the training part. Transparent pictures are on white.
    """

    train: str
    test: str
    size: int | None
    channels: int | None
    fit: str
    mean: list[float] | None
    std: list[float] | None
    flip: bool
    padding: int

    def __post_init__(self) -> None:
        Shape(1 if self.size is None else self.size, 3 if self.channels is None else self.channels, self.fit)
        try:
            self.share: float | None = float(self.test)
        except ValueError:
            self.share = None
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"test={self.test} must be the name of a split, or a number between 0 and 1")

    @property
    def splits(self) -> list[str]:
        return [self.train, self.test] if self.share is None else [self.train]

    def data(self, what: str, root: Path, splits: Sequence[Pictures], files: Sequence[Path], folder: str) -> Data:
        """The data of these splits. folder: data_dir, where the images are kept.

        what: the data set with all that decides what is read, for messages too. root: where it is, which names the file
        of the images. files: those that it is read from; the images are made again when one of them has changed.
        Raises UserError if there are no pictures, or if they or their labels cannot be read.
        """
        places = [(split, number) for split in splits for number in range(split.count)]
        if not all(split.count for split in splits):
            raise UserError(f"{what} has a split without pictures: {', '.join(self.splits)}")
        labels: dict[int, Any] = {}  # of the pictures that are decoded now

        def read(number: int) -> Image:
            split, within = places[number]
            try:
                image, label = split.read(within)
                if not hasattr(image, "convert"):
                    raise TypeError(f"it is a {type(image).__name__}, and no picture")
            except Exception as error:  # the library and Pillow raise many kinds
                raise UserError(f"{what}: picture {number} cannot be read ({one_line(error)})") from error
            labels[number] = label = label.item() if hasattr(label, "item") else label
            if type(label) not in (int, str):
                raise UserError(f"{what}: a label is a {type(label).__name__}, and no class, a whole number or a name")
            if type(label) is int and label < 0:
                raise UserError(f"{what}: the label {label} stands for pictures without a label; choose another split")
            return image

        shape = self.shape_of(read(0), what)

        def decoded(number: int) -> np.ndarray:
            image = read(number)
            self.check(image, shape, f"{what}: picture {number}")
            small = fitted(on_white(image, "L" if shape.channels == 1 else "RGB"), shape)
            return np.asarray(small).reshape(shape.size, shape.size, shape.channels).transpose(2, 0, 1)

        def make(number: int) -> np.ndarray:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                begin = number * TOGETHER
                images = pool.map(decoded, range(begin, begin + parts[number].count))
                return np.ascontiguousarray(np.stack(list(images)))

        digest = hashlib.sha256(f"{DECODING} {what} {shape}".encode())
        for file in files:
            digest.update(state_of(file.parent, [file.name], b""))
        parts = [Part(min(TOGETHER, len(places) - begin), digest.digest()) for begin in range(0, len(places), TOGETHER)]
        how = hashlib.sha256(what.encode()).hexdigest()[:8]
        name = f"{shape.size}x{shape.size}x{shape.channels}{'-crop' * (self.fit == 'crop')}-{how}"
        images, facts = stored(kept_as(Path(folder) / "decoded", root, name, "bin"), root, shape.whole, parts, make)

        def all_labels() -> list[Any]:
            for number in range(len(places)):
                if number not in labels:
                    read(number)
            return [labels[number] for number in range(len(places))]

        classes, found = np.unique(facts("labels", all_labels), return_inverse=True)
        numbers = torch.from_numpy(found.astype(np.int64))
        of_train, of_test = self.divided(numbers, splits[0].count, what)
        train = images.at(of_train)
        mean, std = facts(f"mean and standard deviation without test={self.test}", lambda: mean_and_std(train))
        return Data(
            images=train,
            labels=numbers[of_train],
            test_images=images.at(of_test),
            test_labels=numbers[of_test],
            mean=mean if self.mean is None else self.mean,
            std=std if self.std is None else self.std,
            flip=self.flip,
            padding=self.padding,
            classes=len(classes),
            facts=facts,
        )

    def shape_of(self, first: Image, what: str) -> Shape:
        if self.size is None and first.width != first.height:
            raise UserError(f"{what} has pictures of {first.width}x{first.height} pixels; set dataset.size, such as 64")
        channels = self.channels or (1 if first.mode in GREY else 3)
        return Shape(first.width if self.size is None else self.size, channels, self.fit)

    def check(self, image: Image, shape: Shape, what: str) -> None:
        """Raise UserError if the picture is not like the first one, and nothing says what to do with it."""
        if self.size is None and image.size != (shape.size, shape.size):
            raise UserError(
                f"{what} has {image.width}x{image.height} pixels, and the first one {shape.size}x{shape.size}; set "
                "dataset.size, such as 64"
            )
        if self.channels is None and (image.mode in GREY) != (shape.channels == 1):
            kinds = ("in colour", "grey") if shape.channels == 1 else ("grey", "in colour")
            raise UserError(f"{what} is {kinds[0]}, and the first one {kinds[1]}; set dataset.channels to 3 or 1")
        if image.mode.startswith(("I", "F")):  # Pillow would clip them
            raise UserError(f"{what} has mode {image.mode}, more than 8 bits per channel")

    def divided(self, labels: torch.Tensor, train: int, what: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The numbers of the pictures to train on, and of those to test on. train: how many the first split has."""
        if self.share is None:
            first, second = torch.arange(len(labels)).tensor_split([train])
            return first, second
        order = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).permutation(len(labels)))
        tested = torch.zeros(len(labels), dtype=torch.bool)
        for number in labels.unique().tolist():
            of_class = order[labels[order] == number]
            tested[of_class[: round(self.share * len(of_class))]] = True
        if not tested.any() or tested.all():
            raise UserError(f"{what}: dataset.test={self.test} of {len(labels)} pictures leaves none for one part")
        return torch.nonzero(~tested)[:, 0], torch.nonzero(tested)[:, 0]
