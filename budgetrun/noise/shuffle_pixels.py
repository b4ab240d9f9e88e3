"""Input noise: images with permuted pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from budgetrun.contracts import Data, Random


@dataclass
class ShufflePixels:
    """The pixels of exactly `round(rate x N)` images, chosen uniformly, are permuted; labels stay.

    One permutation of the `H x W` places for all of these images and all channels.
    Source: Hu et al. 2021. In the first author's code images are permuted after crop and flip; here before, so that an
    augmented image is a crop of the permuted one.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate={self.rate} must be in [0, 1)")

    def apply(self, data: Data, random: Random) -> Data:
        n, _, height, width = data.images.shape
        chosen = torch.from_numpy(random.host.permutation(n)[: round(self.rate * n)])
        order = torch.from_numpy(random.host.permutation(height * width))
        images, corrupted = data.images.clone(), torch.zeros(n, dtype=torch.bool)
        images[chosen] = images[chosen].flatten(2)[:, :, order].unflatten(2, (height, width))
        corrupted[chosen] = True
        return replace(data, images=images, corrupted=corrupted)
