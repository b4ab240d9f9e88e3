"""From a data set's files to what a run trains on: held-out part, fingerprint, noise."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Data, Random, Settings, UserError


def prepare(experiment: Experiment) -> tuple[Data, str]:
    """The data of a run, on the CPU, and the fingerprint of its clean training and test examples."""
    data = load(experiment)
    print_of_data = fingerprint(data)
    if experiment.noise is not None:
        random = Random.seeded(experiment.settings.seed, "noise", torch.device("cpu"))
        labels, corrupted = experiment.noise.apply(data.labels, data.classes, random)
        data = replace(data, labels=labels, corrupted=corrupted)
    return trained_on(data, experiment.settings), print_of_data


def trained_on(data: Data, settings: Settings) -> Data:
    """The data with the part to train on as its training examples; raises UserError where it is less than a batch.

    With train_on=validation that is the held-out part, always clean, and the training part, as it is, is held out.
    """
    if settings.train_on == "validation":
        assert data.val_images is not None
        assert data.val_labels is not None
        data = replace(
            data, images=data.val_images, labels=data.val_labels, val_images=data.images, val_labels=data.labels,
            corrupted=None,
        )  # fmt: skip
    if len(data.labels) < settings.batch_size:
        part = "holds out" if settings.train_on == "validation" else "leaves"
        left = f" that validation={settings.validation:g} {part}" if settings.validation else ""
        raise UserError(
            f"batch_size={settings.batch_size} is more than the {len(data.labels)} training examples{left}; "
            "set it lower"
        )
    return data


def load(experiment: Experiment) -> Data:
    """The clean data of a run with its held-out part; raises UserError where settings do not fit them."""
    settings = experiment.settings
    data = experiment.dataset.load(settings.data_dir)
    channels = data.images.shape[1]
    if not (len(data.mean) == len(data.std) == channels and all(map(math.isfinite, data.mean)) and min(data.std) > 0):
        raise UserError(
            f"dataset.mean={list(data.mean)} and dataset.std={list(data.std)} must be {channels} numbers each, for the "
            "images' channels, and std greater than 0"
        )
    if settings.validation > 0:
        data = hold_out(data, settings.validation)
    return data


def hold_out(data: Data, part: float) -> Data:
    """Move round(part x its examples) of every class to the validation set: the same ones for every seed."""
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(data.labels))
    shuffled = data.labels[order].numpy()
    held = np.zeros(len(order), dtype=bool)
    for c in range(data.classes):
        of_class = order[shuffled == c]
        held[of_class[: round(part * len(of_class))]] = True
    if not held.any():
        raise UserError(f"validation={part} holds out no example of this data set; set it higher, or to 0")
    return replace(
        data,
        images=data.images[~held],
        labels=data.labels[~held],
        val_images=data.images[held],
        val_labels=data.labels[held],
    )


def fingerprint(data: Data) -> str:
    """16 hexadecimal digits that change with any pixel, label, or the order of the examples."""
    held_out = [t for t in (data.val_images, data.val_labels) if t is not None]
    return digest(data.images, data.labels, *held_out, data.test_images, data.test_labels)


def digest(*tensors: Tensor) -> str:
    """16 hexadecimal digits that change with any value, shape, or the order."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(str(tuple(tensor.shape)).encode())
        hashed.update(tensor.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


def held_out(data: Data) -> Batch | None:
    """The validation part as one plain batch, whose indices count in that part; None where there is none."""
    if data.val_images is None or data.val_labels is None:
        return None
    index = torch.arange(len(data.val_labels), device=data.val_labels.device)
    share = torch.ones(len(index), 1, device=index.device)
    return Batch(data.val_images, index[:, None], data.val_labels[:, None], share, drawn=index)


class Normalize:
    """Pixel values [B, C, H, W] in 0 .. 255 to float32 with the data set's mean and standard deviation removed."""

    def __init__(self, data: Data, device: torch.device) -> None:
        mean, std = (torch.tensor(v, device=device)[None, :, None, None] for v in (data.mean, data.std))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __call__(self, images: Tensor) -> Tensor:
        # channels last: 1.4 to 1.8 times faster convolutions, measured with cnn at 28x28 on two CPU cores
        return torch.addcmul(self.shift, images.contiguous(memory_format=torch.channels_last), self.scale)
