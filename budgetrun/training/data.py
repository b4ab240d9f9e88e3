"""From a data set's files to what a run trains on: held-out part, fingerprint, image size, noise, place."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from budgetrun import memory
from budgetrun.config import Experiment
from budgetrun.contracts import (
    Batch,
    Common,
    Context,
    Data,
    KnowsRate,
    Random,
    ReadScores,
    Rule,
    Settings,
    UserError,
    View,
    check_pixels,
)
from budgetrun.stored import CPU, Stored, mean_and_std, on_disk
from budgetrun.training.returned import check_data

log = logging.getLogger("budgetrun")


@dataclass
class Clean:
    """The clean data of a source, see `source`, and their fingerprint."""

    source: str
    data: Data
    fingerprint: str

    def copy(self) -> Data:
        """The same images, of which there is one copy, and copies of all else, which a run may write into."""
        kept: dict[str, Any] = {**images_of(self.data), "facts": self.data.facts}
        return Data(**{n: kept[n] if n in kept else copy.deepcopy(value) for n, value in vars(self.data).items()})

    def is_as_loaded(self) -> bool:
        """Whether no run has written into the images: 0.04 s for Fashion-MNIST, where loading takes 0.5 s."""
        return fingerprint(self.data) == self.fingerprint


class Shared:
    """What the last run of a sweep loaded in this process, for the next one; only that, so that memory does not grow.

    sweep.py forgets it at the end: the next sweep reads the files anew.
    """

    last: Clean | None = None

    def of(self, experiment: Experiment) -> Clean:
        if self.last is not None and self.last.source == source(experiment) and self.last.is_as_loaded():
            return self.last
        self.last = None  # first: there may be room for one only
        found = clean(experiment)
        if experiment.settings.data_on != "disk" or isinstance(found.data.images, Stored):  # else not in memory
            self.last = found
        return found

    def forget(self) -> None:
        self.last = None


shared = Shared()


def source(experiment: Experiment) -> str:
    """Names the clean data of an experiment: the same for those that load the same."""
    settings = experiment.settings
    return json.dumps([experiment.resolved["dataset"], settings.validation, settings.data_dir, str(Path.cwd())])


def clean(experiment: Experiment) -> Clean:
    data = load(experiment)
    return Clean(source(experiment), data, fingerprint(data))


def prepare(experiment: Experiment, device: torch.device = CPU) -> tuple[Data, str]:
    """The data of a run on the device, and the fingerprint of its clean training and test examples.

    The fingerprint is taken before resizing, so that scores made at one image size can be used at another.
    """
    settings = experiment.settings
    found = shared.of(experiment) if experiment.shares_data else clean(experiment)
    data = found.copy() if experiment.shares_data else found.data
    place = place_of(data, settings, device)
    check_fits(data, settings, place)
    if (size := settings.image_size) is not None:
        data = with_images(data, lambda images: resized(images, size))
    data = trained_on(corrupt(data, experiment, place), settings)
    if place != "device":
        size_in_words = memory.in_units(bytes_of(data, settings))
        log.info("the images, %s, stay %s", size_in_words, "on the disk" if place == "disk" else "in the host's memory")

    def settled(images: Tensor | Stored) -> Tensor | Stored:
        if place == "disk":
            in_file = isinstance(images, Stored) and images.mapped
            return images if in_file else on_disk(images, Path(settings.data_dir))
        there = in_memory(images)
        return Stored(there, mapped=False) if place == "host" and device.type != "cpu" else there

    return with_images(data, settled).to(device), found.fingerprint


def place_of(data: Data, settings: Settings, device: torch.device) -> str:
    """Where the images of a run live, for `data` as `load` returns them: device, host or disk."""
    if settings.data_on != "auto":
        return settings.data_on
    stored = any(isinstance(part, Stored) and part.mapped for part in images_of(data).values())
    from_file = stored and settings.image_size is None
    if device.type == "cpu":
        # what the system keeps of a file in memory is shared by all processes, and as fast
        return "disk" if from_file else "device"
    if bytes_of(data, settings) <= torch.cuda.mem_get_info(device)[0] / 2:  # the rest is for the training
        return "device"
    return "disk" if from_file else "host"


def trained_on(data: Data, settings: Settings) -> Data:
    """The data with the part to train on as its training examples; raises UserError if it is smaller than a batch.

    With train_on=validation this is the held-out part, always clean, and the training part, noise included, is held
    out.
    """
    if settings.train_on == "validation":
        assert data.val_images is not None
        assert data.val_labels is not None
        data = replace(
            data,
            images=data.val_images,
            labels=data.val_labels,
            val_images=data.images,
            val_labels=data.labels,
            corrupted=None,
            each_access=None,
        )
    if len(data.labels) < settings.batch_size:
        part = "holds out" if settings.train_on == "validation" else "leaves"
        left = f" that validation={settings.validation:g} {part}" if settings.validation else ""
        raise UserError(
            f"batch_size={settings.batch_size} is more than the {len(data.labels)} training examples{left}; "
            "set it lower"
        )
    return data


def load(experiment: Experiment) -> Data:
    """The clean data of a run with its held-out part, before resizing. Raises UserError if settings do not fit."""
    settings = experiment.settings
    data = experiment.dataset.load(settings.data_dir)
    check_data(data, experiment.dataset, "load")
    if data.mean is None or data.std is None:
        mean, std = mean_and_std(data.images)
        data = replace(data, mean=data.mean or mean, std=data.std or std)
    check_pixels(data.mean, data.std, data.images.shape[1])
    check_crop(data, settings)
    if settings.validation > 0:
        data = hold_out(data, settings.validation)
    return data


def corrupt(data: Data, experiment: Experiment, place: str) -> Data:
    """The data with the experiment's noise; raises UserError if the noise does not fit them.

    place: where the images live; unless that is the disk, the noise is given a tensor.
    """
    if experiment.noise is None:
        return data
    if place != "disk":
        data = replace(data, images=in_memory(data.images))
    noisy = experiment.noise.apply(data, Random.seeded(experiment.settings.seed, "noise", torch.device("cpu")))
    check_data(noisy, experiment.noise, "apply")
    rate = experiment.noise.rate if isinstance(experiment.noise, KnowsRate) else 0
    if rate and noisy.corrupted is not None and not noisy.corrupted.any():
        raise UserError(
            f"noise.rate={rate:g} corrupts none of the {len(data.labels)} training examples; set it higher, or to 0"
        )
    return noisy


def hold_out(data: Data, part: float) -> Data:
    """Move round(part x its examples) of every class to the validation set: the same examples for every seed."""
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(data.labels))
    shuffled = data.labels[order].numpy()
    held = np.zeros(len(order), dtype=bool)
    # class by class in one sort: 1.28 million examples of 1,000 classes in 0.15 s; with a pass per class 0.5 s
    counts = np.bincount(shuffled, minlength=data.classes)
    place_in_class = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = place_in_class < np.repeat([round(part * count) for count in counts.tolist()], counts)
    held[order[np.argsort(shuffled, kind="stable")[first]]] = True
    if not held.any():
        raise UserError(f"validation={part} holds out no example of this data set; set it higher, or to 0")
    images = data.images
    at = images.at if isinstance(images, Stored) else images.__getitem__
    trained, val = (torch.from_numpy(np.flatnonzero(part)) for part in (~held, held))
    return replace(
        data,
        images=at(trained),
        labels=data.labels[trained],
        val_images=at(val),
        val_labels=data.labels[val],
        position=trained,
    )


def resized(images: Tensor | Stored, size: int) -> Tensor:
    """Both sides resized to `size` pixels: uint8 [N, C, H, W] to uint8 [N, C, size, size].

    Antialiased bilinear, as torchvision's Resize((size, size)) does it. CIFAR-10 to 128 pixels: 13 s on one core.
    """
    large = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for part, of_images in zip(large.split(1000), images.split(1000), strict=True):
        part.copy_(F.interpolate(of_images, (size, size), mode="bilinear", antialias=True))
    return large


def images_of(data: Data) -> dict[str, Tensor | Stored]:
    """The images of every part that is present, by their field names."""
    return {name: part for name, part in vars(data).items() if name.endswith("images") and part is not None}


def with_images(data: Data, change: Callable[[Tensor | Stored], Tensor | Stored]) -> Data:
    """The data with the images of each part changed."""
    changed: dict[str, Any] = {name: change(part) for name, part in images_of(data).items()}
    return replace(data, **changed)


def in_memory(images: Tensor | Stored) -> Tensor:
    return images.clone() if isinstance(images, Stored) else images


def bytes_of(data: Data, settings: Settings) -> int:
    """Bytes of the images that a run keeps, for `data` as `load` returns them."""
    channels, height, width = data.images.shape[1:]
    size = settings.image_size
    return sum(map(len, images_of(data).values())) * channels * (size**2 if size else height * width)


def check_crop(data: Data, settings: Settings) -> None:
    """Raise UserError if images are both cropped and resized."""
    if data.crop is not None and settings.image_size is not None:
        raise UserError(
            f"image_size={settings.image_size} and dataset.crop={data.crop} are two sizes for one image; leave out "
            "image_size, and set dataset.size and dataset.crop"
        )


def check_fits(data: Data, settings: Settings, place: str) -> None:
    """Raise UserError if the images of a run do not fit into the host's memory, but would be there."""
    if settings.image_size is None and (place == "disk" or settings.data_on == "auto"):
        return  # they are read where they are, or are there already
    height, width = data.images.shape[2:] if settings.image_size is None else [settings.image_size] * 2
    what = f"the {sum(map(len, images_of(data).values())):,} images of {width}x{height} pixels"
    lower = "set data_on=disk" if settings.image_size is None else f"set image_size={settings.image_size} lower"
    memory.check(bytes_of(data, settings), what, lower)


def trained_shape(data: Data, settings: Settings) -> torch.Size:
    """[C, H, W] of the images that a run trains on, for `data` as `load` returns them."""
    channels, *sides = data.images.shape[1:]
    size = settings.image_size
    return torch.Size((channels, *(cropped(torch.Size(sides), data.crop) if size is None else (size, size))))


def fingerprint(data: Data) -> str:
    """16 hexadecimal digits that change with any pixel or label, or with the order of the examples."""
    held_out = [t for t in (data.val_images, data.val_labels) if t is not None]

    def work() -> str:
        return digest(data.images, data.labels, *held_out, data.test_images, data.test_labels)

    if data.facts is None:
        return work()
    without_pixels = [t for t in (data.labels, data.test_labels, data.val_labels, data.position) if t is not None]
    found: str = data.facts(f"fingerprint with the labels and places {digest(*without_pixels)}", work)
    return found


def digest(*tensors: Tensor | Stored) -> str:
    """16 hexadecimal digits that change with any value or shape, or with the order."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(str(tuple(tensor.shape)).encode())
        for part in tensor.split(10_000):
            hashed.update(part.cpu().contiguous().numpy().data)
    return hashed.hexdigest()[:16]


def held_out(data: Data) -> Batch | None:
    """The validation part as one plain batch, whose indices count within that part; None if there is none."""
    if data.val_images is None or data.val_labels is None:
        return None
    index = torch.arange(len(data.val_labels), device=data.val_labels.device)
    images: Any = data.val_images  # those that are Stored are read when the batch is split, as every look does
    return Batch.plain(images, index, data.val_labels)


def context_of(
    settings: Settings,
    data: Data,
    random: Random,
    view: View,
    select: Rule,
    read_scores: ReadScores,
    read_kept: Callable[[str], Tensor],
    read_features: Callable[[str], Tensor],
    state_folder: Path,
    **of_the_network: Any,
) -> Context:
    """What a method is given: facts about the data, and access to the network."""
    n = len(data.labels)
    kind = Common if settings.earlier else Context
    return kind(
        n=n,
        classes=data.classes,
        labels=data.labels,
        batch_size=settings.batch_size,
        fraction=settings.budget,
        epoch=n // settings.batch_size,
        device=data.labels.device,
        random=random,
        view=view,
        validation=held_out(data),
        select=select,
        read_scores=read_scores,
        read_kept=read_kept,
        read_features=read_features,
        state_folder=state_folder,
        **of_the_network,
    )


def middle(images: Tensor, size: int | None) -> Tensor:
    """The middle of `size` pixels per side of images [B, C, H, W], of a side that is longer."""
    sides = cropped(images.shape[2:], size)
    if sides == images.shape[2:]:
        return images
    # as torchvision's CenterCrop
    top, left = (round((whole - side) / 2) for whole, side in zip(images.shape[2:], sides, strict=True))
    return images[:, :, top : top + sides[0], left : left + sides[1]]


def cropped(sides: torch.Size, size: int | None) -> torch.Size:
    """The height and width of the middle of `size` pixels per side; None: all."""
    return sides if size is None else torch.Size(min(side, size) for side in sides)


def scaled(sides: torch.Size, scale: float) -> torch.Size:
    """The height and width times a scale, at least one pixel."""
    return torch.Size(max(1, int(side * scale)) for side in sides)


class Normalize:
    """Normalises pixel values [B, C, H, W] in 0 .. 255 to float32 by the data set's mean and standard deviation.

    Of images that are larger than the data set's `crop`, it takes the middle; a scale below 1 makes that smaller.
    """

    def __init__(self, data: Data, device: torch.device) -> None:
        mean, std = (torch.tensor(v, device=device)[None, :, None, None] for v in (data.mean, data.std))
        self.scale, self.shift = 1 / (255 * std), -mean / std
        self.crop = data.crop

    def __call__(self, images: Tensor, scale: float = 1.0) -> Tensor:
        images = middle(images, self.crop)
        if scale < 1:  # without antialiasing, as in composer's selective backprop
            images = F.interpolate(images.float(), scaled(images.shape[2:], scale), mode="bilinear")
        # channels last: 1.4 to 1.8 times faster convolutions, measured with cnn at 28x28 on two CPU cores
        return torch.addcmul(self.shift, images.contiguous(memory_format=torch.channels_last), self.scale)
