"""Random crops of any size and shape, resized: the usual augmentation of ImageNet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from budgetrun.aug._boxes import drawn
from budgetrun.contracts import Batch, Random, UserError


@dataclass
class ResizedCrop:
    """A random part of each image, resized to `size` pixels per side.

    Its area is uniform in `[area, 1]` times that of the image, its width / height log-uniform in `[1 / ratio, ratio]`;
    after 10 tries that do not fit into the image, it is the whole image.
    Source: Szegedy et al. 2015, as torchvision's RandomResizedCrop draws it, for square images. Antialiased bilinear,
    for all images at once: the values are torchvision's to within 1 of 255.
    size: null for the size that the images have. area: in `(0, 1]`; 0.08 is usual. ratio: at least 1; 4/3 is usual.
    """

    image_wise: ClassVar[bool] = True
    takes_whole: ClassVar[bool] = True
    size: int | None
    area: float
    ratio: float

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1 pixel, or null")
        if not 0 < self.area <= 1:
            raise ValueError(f"area={self.area} must be in (0, 1]: the smallest part of the image's area")
        if not 1 <= self.ratio < math.inf:
            raise ValueError(f"ratio={self.ratio} must be at least 1: the longer side of a part over the shorter one")

    def check(self, shape: torch.Size) -> None:
        """Raise UserError if images of this shape are not square, or the model expects others."""
        height, width = shape[1:]
        if height != width:
            raise UserError(f"aug.resized_crop needs square images, and these are {width}x{height}; choose another aug")
        if self.size not in (None, height):
            raise UserError(
                f"aug.resized_crop.size={self.size} is not the size of what the model sees, {height}; leave it "
                "out, or set dataset.crop"
            )

    def __call__(self, batch: Batch, random: Random) -> Batch:
        images = batch.images
        top, left, height, width = self.parts(len(images), images.shape[2], random.device)
        size = self.size or images.shape[2]
        rows, columns = (weights(*of, size, images.shape[2]) for of in ((top, height), (left, width)))
        resized = rows[:, None] @ (images.float() @ columns[:, None].mT)
        batch.images = resized.round_().clamp_(0, 255).to(torch.uint8)
        return batch

    def parts(self, count: int, side: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The top, left, height and width [count] of the parts of square images, in whole pixels."""
        size = (side, side)
        return drawn(count, size, size, (self.area, 1), self.ratio, random)[:4]


def weights(begin: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """What each of `size` resized pixels takes of each of `side` pixels, of parts [B] of these: [B, size, side].

    A triangle around the pixel's middle, as wide as the pixel, and at least one pixel to either side.
    """
    pixels = torch.arange(side, device=begin.device) + 0.5
    scale = (length / size)[:, None]
    middles = begin[:, None] + scale * (torch.arange(size, device=begin.device) + 0.5)
    found = (1 - (pixels - middles[:, :, None]).abs() / scale.clamp(min=1)[:, :, None]).clamp(min=0)
    inside = (pixels > begin[:, None]) & (pixels < (begin + length)[:, None])
    found = found * inside[:, None]
    return found / found.sum(2, keepdim=True)
