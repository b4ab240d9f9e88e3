"""(i) What the host spends on an update besides the model: `python -m benchmarks.host [override ...]`; six minutes.

A network with one parameter and batches of 8 digits leave nothing but what the loop, the sampler and the augmentation
ask for, which is what a GPU waits for when a model is small. Processor time of one thread; the options take turns, and
the medians are compared. An argument is one run's overrides, as in `"sampler=is aug=ricap"`.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import loops
from budgetrun import train

OPTIONS = [
    "sampler=uniform",
    "aug=mixup",
    "aug=ricap",
    "aug=cutmix",
    "aug=randaugment",
    "sampler=is sampler.threshold=0",
    "sampler=sb sampler.prime=0",
    "sampler=online_batch",
]
PLAIN = ["batch_size=8", "device=cpu"]
ROUNDS, WARM, UPDATES = 5, 200, 1500


class Scale(nn.Module):
    """Logits [B, classes] that are the mean pixel times the parameter, and a number of each class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.row: Tensor
        self.register_buffer("row", torch.linspace(-1, 1, classes))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None] * self.scale * self.row


@dataclass
class OneParameter:
    def build(self, channels: int, classes: int) -> nn.Module:
        return Scale(classes)


class Enough(Exception):
    """The updates are timed."""


class Clock:
    """A schedule, which the loop calls once per update, that measures the time of UPDATES of them."""

    def __init__(self) -> None:
        self.updates = 0

    def __call__(self, lr: float, progress: float) -> float:
        self.updates += 1
        if self.updates == WARM:
            self.began = time.thread_time()
        if self.updates == WARM + UPDATES:
            self.ended = time.thread_time()
            raise Enough
        return lr


def ours(overrides: list[str]) -> float:
    """Seconds per update of a run."""
    made, clock = loops.composed([*PLAIN, *overrides]), Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = dataclasses.replace(made.settings, output_dir=folder)
        made = dataclasses.replace(made, settings=settings, model=OneParameter(), schedule=clock)
        try:
            train.run(made)
        except Enough:
            return (clock.ended - clock.began) / UPDATES
    raise AssertionError("the run was too short")


def bare() -> float:
    """Seconds per update of the model alone, on one fixed batch."""
    made = loops.composed(PLAIN)
    data = loops.data_of(*PLAIN)
    net = Scale(data.classes)
    optimizer = made.optimizer.build(net.parameters(), made.settings.lr, made.settings.weight_decay)
    images, labels = loops.fixed_batch(made, data, torch.device("cpu"))
    for number in range(WARM + UPDATES):
        if number == WARM:
            began = time.thread_time()
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.thread_time() - began) / UPDATES


def main() -> None:
    torch.set_num_threads(1)
    options = sys.argv[1:] or OPTIONS
    alone: list[float] = []
    times: dict[str, list[float]] = {option: [] for option in options}
    for _ in range(ROUNDS):
        alone.append(bare())
        for option in options:
            times[option].append(ours(option.split()))
    step = statistics.median(alone)
    print(f"| the bare step takes {1e6 * step:.0f} us | us per update on top | of the bare step |\n| --- | --- | --- |")
    for option, spent in times.items():
        more = statistics.median(spent) - step
        print(f"| `{option}` | {1e6 * more:.0f} | {more / step:.2f} |")


if __name__ == "__main__":
    main()
