"""The operations on images that RandAugment, TrivialAugment and AugMix draw from, and drawing one for each image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from budgetrun.aug._boxes import inside
from budgetrun.contracts import Random

ENHANCED = ("brightness", "color", "contrast", "sharpness")
Numbers = np.ndarray[Any, Any]


def by_group(change: Callable[..., Tensor], group: Numbers, images: Tensor, *more: Tensor) -> Tensor:
    """`change(number, images, *more)` of the images of each group that has any, in the order of all images.

    group: int [B], on the host, so that the device never waits to learn how many images an operation gets. more: [B],
    with a value for each image.
    """
    order = np.argsort(group, kind="stable")
    places = torch.from_numpy(np.stack([order, np.argsort(order)])).to(images.device, non_blocking=True)
    counts = np.bincount(group).tolist()
    parts = zip(*(column.index_select(0, places[0]).split(counts) for column in (images, *more)), strict=True)
    changed = [change(number, *part) for number, part in enumerate(parts) if counts[number]]
    return torch.cat(changed).index_select(0, places[1])


def of_each(
    names: list[str], choice: Numbers, values: Numbers, images: Tensor, random: Random, mode: str = "nearest"
) -> Tensor:
    """Uint8 images [B, C, H, W], each after an operation of its own, at a value of its own.

    choice: int [B], the operation by its place in `names`. values: [B]; of the four colour operations, the factor.
    """

    def change(number: int, part: Tensor, value: Tensor) -> Tensor:
        return apply(names[number], part, value, value, random, mode)

    value = torch.from_numpy(values.astype(np.float32)).to(images.device, non_blocking=True)
    return by_group(change, choice, images, value[:, None, None, None])


def apply(
    name: str, images: Tensor, value: float | Tensor, factor: float | Tensor, random: Random, mode: str = "nearest"
) -> Tensor:
    """One operation on uint8 images [B, C, H, W]: `factor` for the four colour operations, `value` for the others.

    value, factor: one for all images, or one for each, [B, 1, 1, 1]. mode: "nearest", or "bilinear" for the operations
    that move pixels, of images with values of their own.
    """
    from torchvision.transforms.v2 import functional as tv

    match name:
        case "identity":
            return images
        case "rotate" | "shear_x" | "shear_y" | "translate_x" | "translate_y":
            if isinstance(value, Tensor):
                return turned(name, images, value, mode)
            return moved(images, sources(name, value, *images.shape[2:], images.device))
        case "brightness":
            return enhanced(tv.adjust_brightness, images, factor)
        case "color":
            return enhanced(tv.adjust_saturation, images, factor)
        case "contrast":
            return enhanced(tv.adjust_contrast, images, factor)
        case "sharpness":
            return enhanced(sharpened, images, factor)
        case "posterize":
            bits = 256 - 2 ** (8 - value)
            return images & (bits.round().to(torch.uint8) if isinstance(bits, Tensor) else int(bits))
        case "solarize":
            return torch.where(images >= value, 255 - images, images)  # torchvision refuses the threshold 256
        case "solarize_add":
            return tv.solarize((images.int() + int(value)).clamp(max=255).to(torch.uint8), 128)
        case "autocontrast":
            return tv.autocontrast(images)
        case "equalize":
            return tv.equalize(images)
        case "invert":
            return tv.invert(images)
        case "cutout":
            return cutout(images, float(value), random)
    raise AssertionError(name)


def enhanced(enhance: Callable[[Tensor, float], Tensor], images: Tensor, factor: float | Tensor) -> Tensor:
    """Images enhanced by one factor, or each by its own: the way from the factor 0 to the image itself is a line."""
    if not isinstance(factor, Tensor):
        return enhance(images, factor)
    return torch.lerp(enhance(images, 0.0).float(), images.float(), factor).clamp_(0, 255).to(torch.uint8)


def turned(name: str, images: Tensor, value: Tensor, mode: str) -> Tensor:
    """Images [B, C, H, W] moved as by `sources`, each by its own value [B, 1, 1, 1], in `mode`; black from outside."""
    height, width = images.shape[2:]
    value = value.flatten()
    one, none = torch.ones_like(value), torch.zeros_like(value)
    # where the pixel at (x, y) comes from, [2, 3] of (x, y, 1): both sides of an image go from -1 to 1
    match name:
        case "rotate":
            cosine, sine = value.deg2rad().cos(), value.deg2rad().sin()
            rows = [cosine, sine * height / width, none, -sine * width / height, cosine, none]
        case "shear_x":  # the top left corner stays
            rows = [one, value * height / width, value * height / width, none, one, none]
        case "shear_y":
            rows = [one, none, none, value * width / height, one, value * width / height]
        case "translate_x":
            rows = [one, none, -2 * value.trunc() / width, none, one, none]
        case "translate_y":
            rows = [one, none, none, none, one, -2 * value.trunc() / height]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    found = F.grid_sample(images.float(), grid, mode, "border", align_corners=False)
    within = ((grid >= -1) & (grid < 1)).all(3)[:, None]
    return (found.add_(1e-3) * within).to(torch.uint8)  # whole values, as PIL's: a sum may be just below one


@functools.lru_cache(maxsize=64)
def sources(name: str, value: float, height: int, width: int, device: torch.device) -> Tensor:
    """Where each pixel [H * W] comes from when the operation moves an image: its pixel's number from 1, 0 for black.

    The numbers are what torchvision makes of an image of them. It would build and copy three tensors to the device for
    every call, and sample with some twenty operations.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    along = {name: value}
    degrees = [float(np.degrees(np.arctan(along.get(shear, 0)))) for shear in ("shear_x", "shear_y")]
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)  # exact below 2^24
    found = tv.affine(
        numbers,
        along.get("rotate", 0.0),
        [int(along.get(shift, 0)) for shift in ("translate_x", "translate_y")],
        1.0,
        degrees,
        interpolation=InterpolationMode.NEAREST,
        fill=[0.0],
        # the top left corner is the fixed point of a shear, as in PIL's affine transform
        center=[0.0, 0.0] if any(degrees) else None,
    )
    return found.flatten().long().to(device, non_blocking=True)


def moved(images: Tensor, source: Tensor) -> Tensor:
    """Images [B, C, H, W] of the pixels that `sources` names."""
    return F.pad(images.flatten(2), (1, 0)).index_select(2, source).view_as(images)


@functools.lru_cache(maxsize=8)
def blur(channels: int, device: torch.device) -> Tensor:
    """The kernel [channels, 1, 3, 3] that PIL smooths with; a new tensor would be a wait for every call."""
    kernel = torch.ones(3, 3)
    kernel[1, 1] = 5
    return (kernel / kernel.sum()).to(device, non_blocking=True).expand(channels, 1, 3, 3)


def sharpened(images: Tensor, factor: float) -> Tensor:
    """Images blended with their smooth version: 0 is smooth, 1 the original. The border stays as it is, as in PIL."""
    if min(images.shape[2:]) <= 2:
        return images
    pixels = images.float()
    smooth = F.conv2d(pixels, blur(images.shape[1], images.device), groups=images.shape[1]).round()
    inner = pixels[:, :, 1:-1, 1:-1]
    inner.add_(smooth - inner, alpha=1 - factor)
    return pixels.clamp(0, 255).to(torch.uint8)


def cutout(images: Tensor, side: float, random: Random) -> Tensor:
    """A grey square of `side` pixels around a uniform point of each image, cut off at the border."""
    count, channels, height, width = images.shape
    centre = random.host.uniform(0, [[height], [width]], (2, count))
    begin = np.maximum(0, centre - side / 2).astype(np.int64)
    end = np.floor(np.minimum([[height], [width]], begin + side)).astype(np.int64) + 1
    edges = torch.from_numpy(np.stack([begin[0], end[0], begin[1], end[1]])).to(images.device, non_blocking=True)
    # the colour of the published code, near ImageNet's mean; one-channel images take its mean
    grey = torch.tensor([125, 123, 114] if channels == 3 else [121] * channels).to(images, non_blocking=True)
    return torch.where(inside(edges, height, width), grey[:, None, None], images)
