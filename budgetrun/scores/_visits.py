"""An example's own visits in training: the trajectory that several scores are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from budgetrun.contracts import Batch


def visited(batch: Batch) -> tuple[Tensor, Tensor]:
    """The examples [B] that the images are visits of, and their labels [B]: a mixed image is one of its largest source.

    The last part is ours; without mixing, it is every paper's definition. An example may occur twice.
    """
    most = batch.share.argmax(1, keepdim=True)
    return batch.index.gather(1, most)[:, 0], batch.label.gather(1, most)[:, 0]


class Latest:
    """A value of each example's latest visit, [n, ...]. The host does not wait."""

    def __init__(self, n: int, device: torch.device, *shape: int) -> None:
        self.values = torch.zeros(n, *shape, device=device)

    def put(self, index: Tensor, values: Tensor) -> Tensor:
        """Store values [B, ...] of the examples `index` [B], and return them; of one that occurs twice, the mean."""
        where = index.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
        self.values.scatter_reduce_(0, where, values, "mean", include_self=False)
        return self.values[index]


class Window:
    """The last `length` values of each example, [n, length], and how many it has had, [n].

    skip: how many of the first values do not count, at most `length`.
    """

    def __init__(self, n: int, length: int, device: torch.device, skip: int = 0) -> None:
        self.values = torch.zeros(n, length, device=device)
        self.count = torch.full((n,), -skip, device=device)

    def put(self, index: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add one value [B] to each of the examples `index` [B]; an example that occurs twice must have equal values.

        Returns their windows [B, length], in any order, and whether they are full [B].
        """
        count = self.count[index]
        # a value that does not count goes to the end, where one that counts follows before the window is full
        self.values[index, count % self.values.shape[1]] = values
        self.count[index] = count + 1
        return self.values[index], count + 1 >= self.values.shape[1]

    def partial(self) -> tuple[Tensor, Tensor]:
        """The values of all examples, [n, length], and which of them exist, for windows that are not full yet."""
        return self.values, torch.arange(self.values.shape[1], device=self.count.device) < self.count[:, None]


def centred(values: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """The values [m, k] minus the mean of those that are `there`, 0 where none is; and the mean [m]."""
    mean = (values * there).sum(1) / there.sum(1).clamp(min=1)
    return (values - mean[:, None]) * there, mean
