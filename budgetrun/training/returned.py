"""Checks what parts return, since a user's own may return something else: each mistake gets one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from budgetrun.contracts import Augmentation, Batch, Data, Freezing, Loss, OfKind, Random, Stream, UserError, named, one
from budgetrun.stored import Stored


def check_data(data: Any, part: object, method: str) -> None:
    """Raise UserError unless a data set's or a noise's `method` returned Data as contracts.py describes them."""
    where = f"{named(part)}.{method}"
    if not isinstance(data, Data):
        raise UserError(f"{where} returns {one(data)}, and must return a budgetrun.contracts.Data")
    if not isinstance(data.classes, int) or data.classes < 1:
        raise UserError(f"{where}: classes={data.classes} must be a whole number from 1")
    for name in ("", "test_"):
        images, labels = getattr(data, f"{name}images"), getattr(data, f"{name}labels")
        check_images(images, f"{where}: {name}images")
        check_labels(labels, len(images), data.classes, f"{where}: {name}labels")
    if data.images.shape[1:] != data.test_images.shape[1:]:
        raise UserError(
            f"{where}: images are {list(data.images.shape)} and test_images {list(data.test_images.shape)}; all must "
            "have the same channels, height and width"
        )


def check_images(images: Any, where: str) -> None:
    """Raise UserError unless these are images, uint8 [N, C, H, W]. where: what they are, for messages."""
    if not isinstance(images, Tensor | Stored):
        convert = "; torch.from_numpy(images) makes one" if type(images).__module__ == "numpy" else ""
        raise UserError(f"{where} is {one(images)}, and must be a tensor{convert}")
    shape = list(images.shape)
    if isinstance(images, Tensor) and images.dtype != torch.uint8:
        convert = (
            "; (images * 255).round().to(torch.uint8) converts images in [0, 1]" if images.is_floating_point() else ""
        )
        raise UserError(f"{where} are {images.dtype}, and must be torch.uint8, pixels in 0 .. 255{convert}")
    turned = len(shape) == 4 and shape[3] in (1, 3) and shape[1] > 4
    if len(shape) != 4 or turned or 0 in shape:
        convert = "; images.permute(0, 3, 1, 2) puts the channels first" if turned else ""
        convert = "; images[:, None] adds the channel of grey images" if len(shape) == 3 else convert
        raise UserError(f"{where} are {shape}, and must be [N, C, H, W]{convert}")


def check_labels(labels: Any, count: int, classes: int, where: str) -> None:
    """Raise UserError unless these are the labels of `count` images, int64 [N] in 0 .. classes - 1."""
    if not isinstance(labels, Tensor):
        raise UserError(f"{where} is {one(labels)}, and must be a tensor; torch.as_tensor(labels) makes one")
    if labels.dtype != torch.int64:
        raise UserError(f"{where} are {labels.dtype}, and must be torch.int64; labels.long() converts them")
    if list(labels.shape) != [count]:
        raise UserError(f"{where} are {list(labels.shape)}, and must be [{count}], one per image")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        shift = "; labels - 1 counts from 0" if (low, high) == (1, classes) else ""
        raise UserError(
            f"{where} are in {low} .. {high}, and must be in 0 .. {classes - 1}, as classes={classes}{shift}"
        )


def check_step(step: Augmentation, name: str, images: Tensor, random: Random) -> Tensor | None:
    """The images that a step of the augmentation makes of these, [2, C, H, W]; None if it raises an error of its own.

    Raises UserError unless it returns a batch of as many images of as many channels, with pixels in 0 .. 255.
    """
    where = f"aug.{name} ({named(step)})"
    index = torch.arange(len(images))
    try:
        batch: Any = step(Batch.plain(images, index, torch.zeros_like(index)), random)
    except UserError:
        raise
    except Exception:  # the run itself says where, with a traceback
        return None
    if not isinstance(batch, Batch):
        raise UserError(f"{where} returns {one(batch)}, and must return the Batch; set batch.images and return batch")
    made: Any = batch.images
    if not isinstance(made, Tensor) or made.dtype not in (torch.uint8, torch.float32):
        what = made.dtype if isinstance(made, Tensor) else one(made)
        raise UserError(f"{where} makes images that are {what}, and must be torch.uint8 or torch.float32")
    if len(batch) != len(images) or made.ndim != 4 or made.shape[:2] != images.shape[:2]:
        raise UserError(
            f"{where} makes images {list(made.shape)} of {list(images.shape)}; number and channels must stay"
        )
    low, high = made.float().min().item(), made.float().max().item()
    if not (low >= -255 and 1.5 < high <= 510):  # a step may overshoot, but not change the scale; nan fails too
        raise UserError(
            f"{where} makes pixels in {low:g} .. {high:g} of pixels in 0 .. 255, where they must stay: images are "
            "normalised after the augmentation; leave out scale=True and Normalize"
        )
    return made


def check_loss(loss: Loss, classes: int) -> None:
    """Raise UserError unless the loss is one number per image, with a gradient."""
    index = torch.arange(2)
    logits = torch.zeros(2, classes, requires_grad=True)
    batch = Batch.plain(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), index, torch.zeros_like(index))
    try:
        losses: Any = loss(logits, batch)
    except UserError:
        raise
    except Exception:  # the run itself says where, with a traceback
        return
    where = f"loss ({named(loss)})"
    if not isinstance(losses, Tensor):
        raise UserError(f"{where} returns {one(losses)}, and must return a tensor, [B]")
    if losses.shape != (2,):
        mean = "; reduction='none' leaves out the mean" if not losses.ndim else ""
        raise UserError(f"{where} returns {list(losses.shape)} for 2 images, and must return one loss per image{mean}")
    if not losses.requires_grad:
        raise UserError(f"{where} has no gradient: compute it from the logits, without detach, argmax or numpy")


def check_optimizer(built: Any, optimizer: object) -> None:
    """Raise UserError unless an optimizer's `build` returned one of torch's."""
    if not isinstance(built, torch.optim.Optimizer):
        raise UserError(f"{named(optimizer)}.build returns {one(built)}, and must return a torch.optim.Optimizer")


def check_freezing(freezing: Freezing, layers: int) -> None:
    """Raise UserError if, at the beginning, halfway or at the end, it would freeze no number of layers, or all."""
    for progress in (0.0, 0.5, 1.0):
        count: Any = freezing.frozen(progress, layers)
        if not isinstance(count, int) or not 0 <= count < layers:
            raise UserError(
                f"{named(freezing)}.frozen returns {count!r} at {progress:.0%} of the budget, and must return how many "
                f"of the {layers} layers are frozen: a whole number in 0 .. {layers - 1}, as the last one always trains"
            )


def check_batch(batch: Any, most: int) -> None:
    """Raise UserError unless a sampler drew a batch of one to `most` images."""
    if not isinstance(batch, Batch):
        raise UserError(f"the sampler's draw returns {one(batch)}, and must return a Batch, as context.view(index) is")
    if not 1 <= len(batch) <= most:  # in updates, a larger batch would train on images that the budget does not count
        raise UserError(
            f"the sampler's draw returns a batch of {len(batch)} images, and must return 1 to {most}, "
            "context.batch_size"
        )


def check_state(sampler: Any) -> None:
    """Raise UserError if a sampler that has started saves nothing of its stream, and would not go on where it was."""
    streams = [name for name, value in vars(sampler).items() if isinstance(value, Stream)]
    if streams and not sampler.state_dict():
        raise UserError(
            f"{named(sampler)}.state_dict returns nothing, though it draws from a stream; it must return "
            f"self.{streams[0]}.state_dict(), and what else the sampler learns"
        )


def check_columns(columns: Any, count: int, scorer: object) -> None:
    """Raise UserError unless a scorer returned a column of finite scores for each of `count` examples."""
    where = f"{named(scorer)}.scores"
    if not isinstance(columns, Mapping) or not all(isinstance(column, Tensor) for column in columns.values()):
        raise UserError(f'{where} returns {one(columns)}, and must return {{"score": a tensor [n]}}')
    if "score" not in columns and not isinstance(scorer, OfKind):
        raise UserError(f"{where} returns the columns {', '.join(columns)}, and must return one called score")
    length = len(columns["index"]) if "index" in columns else count
    for name, column in columns.items():
        if list(column.shape) != [length]:
            raise UserError(f"{where}: {name} is {list(column.shape)}, and must be [{length}], one per example")
    if "score" in columns and not columns["score"].float().isfinite().all():
        raise UserError(f"{where}: some scores are infinite or not a number; every example needs a finite one")
