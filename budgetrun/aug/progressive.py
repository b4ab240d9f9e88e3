"""Progressive resizing: small images at first, whose passes cost less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from budgetrun.contracts import Batch, Random, UserError


@dataclass
class Progressive:
    """Images of `scale` times their size until `delay` of the budget is spent, then of a size that grows in a straight
    line, and whole images for the last `finetune` of the budget.

    At the scale `s`, an image is `m round(W s / m)` pixels wide, `m` the multiple, and as high as its shape asks for. A
    pass costs the FLOPs of the size that goes through the network.
    Source: composer's ProgressiveResizing (MosaicML 2021), after fast.ai. Its code takes the nearest pixels; its
    documentation says bilinear. It is a step of the augmentation, so that a sampler looks at images of the same size.
    scale: of both sides, at first. delay, finetune: parts of the budget. multiple: of pixels, for the width.
    how: "nearest"; "bilinear", antialiased; or "crop", one random part of that size for the whole batch.
    """

    scale: float
    delay: float
    finetune: float
    multiple: int
    how: str

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale={self.scale} must be in (0, 1]: the size of the first images, of 1")
        if not (0 <= self.delay < 1 and 0 <= self.finetune <= 1 and self.delay + self.finetune <= 1):
            raise ValueError(f"delay={self.delay} and finetune={self.finetune} must be parts of the budget, 1 in all")
        if self.multiple < 1:
            raise ValueError(f"multiple={self.multiple} must be at least 1 pixel")
        if self.how not in ("nearest", "bilinear", "crop"):
            raise ValueError(f"how={self.how} is not one of nearest, bilinear, crop")

    def check(self, shape: torch.Size) -> None:
        """Raise UserError if the first images would have no pixels."""
        if not all(self.sides(shape, 0.0)):
            raise UserError(
                f"aug.progressive.scale={self.scale:g} of images of {shape[2]}x{shape[1]} is less than "
                f"aug.progressive.multiple={self.multiple} pixels; set scale higher, or multiple lower"
            )

    def sides(self, shape: torch.Size, progress: float) -> tuple[int, int]:
        """The height and width of images [..., H, W] at a progress in [0, 1]."""
        height, width = shape[-2:]
        ramp = 1 - self.finetune - self.delay
        part = min(1.0, (progress - self.delay) / ramp) if ramp > 0 else 1.0
        scale = self.scale + (1 - self.scale) * part if progress >= self.delay else self.scale
        wide = min(width, round(width * scale / self.multiple) * self.multiple)
        return (height, width) if scale == 1 else (height * wide // width, wide)

    def shapes(self, shape: torch.Size) -> list[torch.Size]:
        """The smaller ones."""
        channels, height, width = shape
        widths = range(self.sides(shape, 0.0)[1], width, self.multiple)
        return [torch.Size((channels, height * wide // width, wide)) for wide in widths]

    def __call__(self, batch: Batch, random: Random, progress: float = 1.0) -> Batch:
        images = batch.images
        height, width = images.shape[2:]
        tall, wide = self.sides(images.shape, progress)
        if (tall, wide) == (height, width):
            return batch
        if self.how == "crop":
            top, left = (int(random.host.integers(whole - part + 1)) for whole, part in ((height, tall), (width, wide)))
            batch.images = images[:, :, top : top + tall, left : left + wide]
        else:
            smooth = self.how == "bilinear"
            batch.images = F.interpolate(
                images.float() if smooth else images, (tall, wide), mode=self.how, antialias=smooth
            )
        return batch
