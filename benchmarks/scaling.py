"""(k) How samplers grow with the number of examples: `python -m benchmarks.scaling [sampler ...]`; fifteen minutes.

Two epochs on images of 4x4 pixels in 1,000 classes, with a network of one layer, so that what grows with the
number of examples is what takes time. Printed for each number: the longest draw, which is where a sampler plans an
epoch or chooses anew; the mean of all updates; and the state per example that a checkpoint holds. Processor time.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.images import Loaded
from benchmarks.loops import random_scores
from budgetrun import train
from budgetrun.config import experiment
from budgetrun.contracts import Batch, Context, Data
from budgetrun.launch import plugins
from budgetrun.launch.command import CONF, composed
from budgetrun.launch.compose import task_part

CLASSES, SIDE = 1000, 4
COMMON = ["batch_size=256", "epochs=2", "evaluations=1", "checkpoint_every=1e9", "device=cpu", "aug=none"]
# what a sampler needs to be at work in two epochs: held-out examples, files, open gates
AT_WORK = {
    "glister": "validation=0.1",
    "is": "sampler.threshold=0",
    "osgd": "sampler.thresholds=[0.000001]",
    "pacing": "sampler.file={file}",
    "rho": "sampler.file={file}",
    "sb": "sampler.prime=0",
    "sb_batchwise": "sampler.begin=0 sampler.interrupt=0",
    "subset": "sampler.keep=0.5 sampler.file={file}",
    "vr": "sampler.threshold=0",
}
CORE_SETS = ("craig", "glister", "gradmatch")  # they choose among all examples; a class has n / 1000


@dataclass
class OneLayer:
    def build(self, channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * SIDE**2, classes))


class Timed:
    """A sampler as it is, and the processor seconds of its draws."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.draws: list[float] = []
        self.began = math.nan

    def start(self, context: Context) -> None:
        began = time.thread_time()
        self.sampler.start(context)
        self.starting = time.thread_time() - began

    def draw(self) -> Batch:
        began = time.thread_time()
        if math.isnan(self.began):
            self.began = began
        batch: Batch = self.sampler.draw()
        self.ended = time.thread_time()
        self.draws.append(self.ended - began)
        return batch

    def __getattr__(self, name: str) -> Any:
        if name == "sampler":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.sampler, name)


def data_of(n: int) -> Data:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 1, SIDE, SIDE), dtype=torch.uint8, generator=random)
    labels = torch.arange(n) % CLASSES
    return Data(images, labels, images[:100], labels[:100], [0.5], [0.5], flip=False, padding=0, classes=CLASSES)


def measured(sampler: str, data: Data, folder: Path) -> tuple[float, float, float]:
    """The seconds of the longest draw and of an update, and the bytes of state per example."""
    file = folder / f"scores-{len(data.labels)}.csv"
    if not file.exists():
        random_scores(file, data)
    more = AT_WORK.get(sampler, "").format(file=file).split()
    cfg = composed([], [*COMMON, f"sampler={sampler}", *more, f"output_dir={folder}", "force=true"])
    made = experiment(task_part(cfg), cfg.hydra.runtime.choices)
    timed = Timed(made.sampler)
    train.run(dataclasses.replace(made, model=OneLayer(), dataset=Loaded(data), sampler=timed))
    state = sum(bytes_of(timed.sampler.state_dict()))
    longest = max(timed.starting, *timed.draws)
    return longest, (timed.ended - timed.began) / len(timed.draws), state / len(data.labels)


def bytes_of(state: Any) -> Iterator[int]:
    if isinstance(state, Tensor):
        yield state.nbytes
    elif isinstance(state, (dict, list, tuple)):
        for value in state.values() if isinstance(state, dict) else state:
            yield from bytes_of(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    names = sorted(path.stem for path in (CONF / "sampler").glob("*.yaml"))
    parser.add_argument("samplers", nargs="*", default=names, help="default: all")
    parser.add_argument("--examples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    plugins.register()
    heads = [f"{what}, {n:,}" for what in ("longest draw", "update") for n in options.examples]
    print(f"| | {' | '.join(heads)} | state per example |\n|{' --- |' * (len(heads) + 2)}")
    with tempfile.TemporaryDirectory() as folder:
        sets = [data_of(n) for n in options.examples]
        for sampler in options.samplers:
            many = [data for data in sets if sampler not in CORE_SETS or len(data.labels) <= 100_000]
            found = [measured(sampler, data, Path(folder)) for data in many]
            missing = ["not tried"] * (len(sets) - len(many))
            draws = [f"{1000 * longest:.1f} ms" for longest, _, _ in found] + missing
            updates = [f"{1000 * update:.2f} ms" for _, update, _ in found] + missing
            print(f"| `{sampler}` | {' | '.join(draws + updates)} | {found[-1][2]:.1f} bytes |", flush=True)


if __name__ == "__main__":
    main()
