"""Instance-dependent label noise: what an image is mistaken for depends on its pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from budgetrun.contracts import Data, Random

SPREAD = 0.1  # of the examples' rates, as in the released code


@dataclass
class Instance:
    """Exactly `round(rate x N)` labels are wrong; which ones, and what they become, depends on the images.

    Example i has a rate `q_i` of its own, from the normal distribution of mean `rate` and standard deviation 0.1,
    truncated to `[0, 1]`. A flipped label becomes c with probability `softmax_c(x_i W_y)`, without the true class y:
    `x_i` are the pixel values 0 .. 255 and `W_y` [pixels, classes] is a standard normal matrix of class y.
    Source: Xia et al. 2020, the released code. There, example i is flipped with probability `q_i`: where a uniform
    `u_i < q_i`. Here, those with the `round(rate x N)` smallest `u_i / q_i` are flipped: the count is exact, and the
    threshold 1 moves a little (at a rate near 0 more: cut off at 0, the distribution's mean is above `rate`). With
    pixel values up to 255 the logits differ by thousands and the softmax is an argmax, there as here: equal images of a
    class are mistaken for the same class. On Fashion-MNIST, 63% of a class's flips go to one class and 20% to a second
    (measured, 3 seeds).
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate={self.rate} must be in [0, 1)")

    def apply(self, data: Data, random: Random) -> Data:
        host, n = random.host, len(data.labels)
        order = np.argsort(host.random(n) / self.rates(n, host))
        flipped = torch.from_numpy(order[: round(self.rate * n)])
        values, labels = data.images[0].numel(), data.labels.clone()
        for c in range(data.classes):
            # float64, so that another machine's order of summation does not change an argmax
            weights = torch.from_numpy(host.standard_normal((values, data.classes)))
            of_class = flipped[data.labels[flipped] == c]
            if len(of_class):
                logits = data.images[of_class].flatten(1).double() @ weights
                logits[:, c] = -torch.inf
                labels[of_class] = torch.multinomial(logits.softmax(1), 1, generator=random.device)[:, 0]
        return replace(data, labels=labels, corrupted=labels != data.labels)

    def rates(self, count: int, host: np.random.Generator) -> np.ndarray:
        """q [count], by the inverse of the distribution function."""
        low, high = torch.special.ndtr(torch.tensor([-self.rate, 1 - self.rate], dtype=torch.float64) / SPREAD)
        uniform = torch.from_numpy(host.random(count))
        quantile: Tensor = torch.special.ndtri(low + uniform * (high - low))
        return (self.rate + SPREAD * quantile).clamp(0, 1).numpy()
