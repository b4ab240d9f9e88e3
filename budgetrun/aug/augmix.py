"""AugMix: each image is mixed with chains of random operations on itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from budgetrun.aug._operations import ENHANCED, Numbers, of_each
from budgetrun.contracts import Batch, Random

OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@dataclass
class AugMix:
    """`(1 - m) x + m sum_i w_i chain_i(x)`, with `w ~ Dirichlet(alpha, ..)` over `width` chains and
    `m ~ Beta(alpha, alpha)`.

    A chain is `depth` operations in a row, drawn with replacement, each at a strength uniform in `[0.1, severity]` of
    10; all draws are each image's own. The image stays its own class: no labels are mixed.
    With `consistency`, the network also sees two such views of each image beside the image x itself, and the loss of x
    gets consistency times the Jensen-Shannon divergence of the three predictions. These are three forward and backward
    passes, and the budget is charged for three; samplers look at x alone and are told its loss without the divergence.
    Source: Hendrycks et al. 2020, algorithm 1 and their code for CIFAR.
    severity: 3, theirs for CIFAR; 1 for ImageNet. width: 3, theirs. depth: null for 1 to 3 operations, for each chain
    anew; or one number for all.
    alpha: 1, theirs. all_operations: also colour, contrast, brightness and sharpness, which they leave out as they are
    among the corruptions of their test.
    consistency: 0 for none; theirs is 12.
    """

    image_wise: ClassVar[bool] = True
    severity: float
    width: int
    depth: int | None
    alpha: float
    all_operations: bool
    consistency: float

    def __post_init__(self) -> None:
        if not 0.1 <= self.severity <= 10:
            raise ValueError(f"severity={self.severity} must be in [0.1, 10]")
        if not 1 <= self.width <= 100:
            raise ValueError(f"width={self.width} must be in [1, 100]")
        if self.depth is not None and not 1 <= self.depth <= 100:
            raise ValueError(f"depth={self.depth} must be in [1, 100], or null for 1 to 3")
        if not 1e-6 <= self.alpha <= 1e6:
            raise ValueError(f"alpha={self.alpha} must be greater than 0, from 1e-6 to 1e6")
        if not 0 <= self.consistency <= 1e6:
            raise ValueError(f"consistency={self.consistency} must be in [0, 1e6]")

    @property
    def others(self) -> int:
        return 2 if self.consistency else 0

    def __call__(self, batch: Batch, random: Random) -> Batch:
        if not self.consistency:
            return replace(batch, images=self.mixed(batch.images, random))
        twice = self.mixed(batch.images.repeat_interleave(2, 0), random)
        return replace(batch, others=twice.unflatten(0, (len(batch), 2)))

    def mixed(self, images: Tensor, random: Random) -> Tensor:
        """A mixture with chains of each image [B, C, H, W], float32."""
        names = [*OPERATIONS, *(ENHANCED if self.all_operations else ())]
        count, (height, width) = len(images), images.shape[2:]
        # the operations need whole pixel values, which mixtures do not have
        chains = images.round().to(torch.uint8).repeat_interleave(self.width, 0)
        depth = random.host.integers(1, 4, len(chains)) if self.depth is None else np.full(len(chains), self.depth)
        for step in range(max(depth)):
            choice = random.host.integers(len(names), size=len(chains))
            level = random.host.uniform(0.1, self.severity, len(chains)) / 10
            sign = random.host.choice([-1, 1], size=len(chains))
            values = np.select(
                [choice == number for number in range(len(names))],
                [strength(name, level, height, width) * (sign if name in SIGNED else 1) for name in names],
            )
            choice[step >= depth] = len(names)  # this chain is at its end
            chains = of_each([*names, "identity"], choice, values, chains, random, "bilinear")
        m, w = random.host.beta(self.alpha, self.alpha, count), random.host.dirichlet([self.alpha] * self.width, count)
        shares = np.concatenate([1 - m[:, None], m[:, None] * w], 1).astype(np.float32)
        share = torch.from_numpy(shares)[:, None].to(images.device, non_blocking=True)
        own = images.flatten(1).float()[:, None] * share[:, :, :1]
        return torch.baddbmm(own, share[:, :, 1:], chains.view(count, self.width, -1).float()).view(images.shape)


def strength(name: str, level: Numbers, height: int, width: int) -> Numbers:
    """What `apply` takes for the levels [B] in [0, 1] of an operation, before its sign."""
    match name:
        case "rotate":
            return np.trunc(30 * level)
        case "shear_x" | "shear_y":
            return 0.3 * level
        case "translate_x":
            return np.trunc(width / 3 * level)
        case "translate_y":
            return np.trunc(height / 3 * level)
        case "posterize":
            return 4 - np.trunc(4 * level)
        case "solarize":
            return 256 - np.trunc(256 * level)
    return 1.8 * level + 0.1  # the factors; autocontrast and equalize take none
