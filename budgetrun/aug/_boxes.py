"""Boxes in images: drawing them, which pixels are inside, and filling them."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from budgetrun.contracts import Random, UserError

TRIES = 10  # as in torchvision


def drawn(
    count: int,
    size: tuple[int, int],
    longest: tuple[int, int],
    area: tuple[float, float],
    ratio: float,
    random: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The top, left, height and width [count] of boxes in images of `size`, in whole pixels, and whether one fits.

    Their area is uniform in `area` times that of the image, the ratio of their sides log-uniform in
    `[1 / ratio, ratio]`. They fit with sides from 1 pixel to `longest`; after 10 tries that do not, a box is `longest`.
    Source: torchvision's RandomResizedCrop and RandomErasing.
    """
    of_area, shape, place = torch.rand(count, 3, TRIES, generator=random, device=random.device).unbind(1)
    areas = size[0] * size[1] * (area[0] + (area[1] - area[0]) * of_area)
    ratios = torch.exp(math.log(ratio) * (2 * shape - 1))
    sides = (areas / ratios).sqrt().round(), (areas * ratios).sqrt().round()
    fits = (sides[0] >= 1) & (sides[0] <= longest[0]) & (sides[1] >= 1) & (sides[1] <= longest[1])
    first = fits.int().argmax(1, keepdim=True)
    found = fits.gather(1, first)[:, 0]
    height, width = (
        torch.where(found, side.gather(1, first)[:, 0], most) for side, most in zip(sides, longest, strict=True)
    )
    top, left = ((place[:, k] * (size[k] - side + 1)).floor() for k, side in enumerate((height, width)))
    return top, left, height, width, found


def inside(edges: Tensor, height: int, width: int) -> Tensor:
    """Whether each pixel is in its image's box, bool [B, 1, height, width]; edges: [4, B], top, bottom, left, right.

    The pixels of the bottom and the right edge are the first that are not in it.
    """
    top, bottom, left, right = edges[:, :, None]
    rows, columns = (torch.arange(side, device=edges.device) for side in (height, width))
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return down[:, None, :, None] & across[:, None, None, :]


def filled(images: Tensor, edges: Tensor, fill: list[float] | None, random: Random) -> Tensor:
    """Images [B, C, H, W] with their boxes in the colour `fill`, [C] in [0, 1]; None: a random value of every pixel."""
    if fill is None:
        colour = torch.randint(256, images.shape, generator=random.device, device=images.device, dtype=torch.uint8)
    else:
        colour = whole(tuple(fill), images.device)
    return torch.where(inside(edges, *images.shape[2:]), colour, images)


@functools.lru_cache(maxsize=8)
def whole(fill: tuple[float, ...], device: torch.device) -> Tensor:
    """A colour as whole pixel values, uint8 [C, 1, 1]; a new tensor would be a copy to the device for every batch."""
    return (255 * torch.tensor(fill)).round().to(torch.uint8)[:, None, None].to(device, non_blocking=True)


def check_fill(step: str, fill: list[float] | None, shape: torch.Size) -> None:
    """Raise UserError if `fill` is not a colour of images [C, H, W]."""
    if fill is not None and not (len(fill) == shape[0] and all(0 <= value <= 1 for value in fill)):
        raise UserError(
            f"aug.{step}.fill={list(fill)} must be numbers in [0, 1], one per channel, and images have {shape[0]}"
        )
