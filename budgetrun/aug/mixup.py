"""mixup: every image is the weighted mean of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from budgetrun.contracts import Batch, Random


@dataclass
class Mixup:
    """`lambda x + (1 - lambda) x'`, with x' from a random permutation of the batch and `lambda ~ Beta(alpha, alpha)`.

    Source: Zhang et al. 2018; one lambda per batch, not folded to >= 1/2, as in Arazo et al. 2021.
    alpha: of the Beta distribution; 0.3 as in Arazo et al. 2021.
    draw: "batch" for one lambda per batch, "image" for one per image.
    """

    mixes: ClassVar[bool] = True
    alpha: float
    draw: str

    def __post_init__(self) -> None:
        if not 1e-6 <= self.alpha <= 1e6:
            raise ValueError(f"alpha={self.alpha} must be greater than 0, from 1e-6 to 1e6")
        if self.draw not in ("batch", "image"):
            raise ValueError(f"draw={self.draw} is not one of batch, image")

    def __call__(self, batch: Batch, random: Random) -> Batch:
        count, device = len(batch), batch.images.device
        draws = count if self.draw == "image" else 1
        first = torch.from_numpy(random.host.beta(self.alpha, self.alpha, draws)).float().to(device, non_blocking=True)
        itself = torch.arange(count, device=device)
        partner = torch.randperm(count, generator=random.device, device=device)
        pixels = batch.images.float()
        images = torch.lerp(pixels.index_select(0, partner), pixels, first[:, None, None, None])
        share = torch.stack([first, 1 - first], dim=1).expand(count, 2)
        return batch.mixed(images, [itself, partner], share)
