"""Input noise: images of Gaussian pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from budgetrun.contracts import Batch, Data, Random


@dataclass
class GaussianPixels:
    """Exactly `round(rate x N)` images, chosen uniformly, become noise with their own mean and deviation; labels stay.

    Every pixel of every channel is drawn from the normal distribution with the image's mean and standard deviation,
    one number each over all channels, then rounded and clipped to 0 .. 255.
    fresh: false: drawn once, before training. true: drawn anew whenever the image is viewed, including looks.
    Source: Hu et al. 2021. The first author's code draws anew at each access, on the normalised image, after crop and
    flip, and does not clip; here noise is an image like any other, uint8, which every augmentation can take, so the
    black border of a crop stays black. Clipping matters for dark images: on Fashion-MNIST the mean image has mean 73
    and deviation 82, its noise 81 and 66 (measured).
    """

    rate: float
    fresh: bool

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate={self.rate} must be in [0, 1)")

    def apply(self, data: Data, random: Random) -> Data:
        n = len(data.images)
        chosen = torch.from_numpy(random.host.permutation(n)[: round(self.rate * n)])
        corrupted = torch.zeros(n, dtype=torch.bool)
        corrupted[chosen] = True
        if self.fresh:
            return replace(data, corrupted=corrupted, each_access=Redraw(corrupted))
        images = data.images.clone()
        for part in filter(len, chosen.split(1000)):  # all of CIFAR's images at once would take 1 GB in float32
            images[part] = redrawn(images[part], random.device)
        return replace(data, images=images, corrupted=corrupted)


@dataclass
class Redraw:
    """New pixels for the images of the examples `chosen`, bool [N]; the others stay as they are."""

    chosen: Tensor

    def to(self, device: torch.device) -> Redraw:
        return Redraw(self.chosen.to(device))

    def __call__(self, batch: Batch, random: Random) -> Batch:
        chosen = self.chosen.index_select(0, batch.drawn)[:, None, None, None]
        # noise is drawn for all rows: to draw only for the chosen ones, the host would have to wait for their number
        batch.images = torch.where(chosen, redrawn(batch.images, random.device), batch.images)
        return batch


def redrawn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with the mean and deviation of each image [B, C, H, W], uint8."""
    pixels = images.float()
    values = images[0].numel()  # a single value has no sample deviation
    mean, std = pixels.mean((1, 2, 3), keepdim=True), pixels.std((1, 2, 3), correction=min(1, values - 1), keepdim=True)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return noise.mul_(std).add_(mean).round_().clamp_(0, 255).to(torch.uint8)
