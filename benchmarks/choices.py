"""(n) How the choice of a core-set grows with the number of examples: `python -m benchmarks.choices [METHOD ...]`.

A tenth of images of 8x8 pixels in ten classes, class by class, by a network of one layer that is half trained, so that
the choice itself is what takes time. One class is chosen from, in a process of its own; its processor time counts ten
times, and its memory once: the most that the process held, less what it held before. Half an hour.
"""

from __future__ import annotations

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from budgetrun.contracts import UserError
from budgetrun.coreset.choice import Method, Seen, needs_validation
from budgetrun.launch.command import CONF

CLASSES, PIXELS, KEEP, HELD = 10, 64, 0.1, 0.1


def method_of(name: str) -> Method:
    """As the sampler or the scorer of this name has it by default."""
    group = "sampler" if (CONF / "sampler" / f"{name}.yaml").exists() else "scores"
    method: Method = instantiate(OmegaConf.load(CONF / group / f"{name}.yaml").method)
    return method


def looked_at(n: int, of_class: int | None, seed: int) -> Seen:
    """Clusters of one class, or of all, as a layer sees them that was trained on others for a few steps."""
    torch.manual_seed(0)
    centres, net = torch.rand(CLASSES, PIXELS), nn.Linear(PIXELS, CLASSES)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def images(count: int, of_class: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(CLASSES, (count,)) if of_class is None else torch.full((count,), of_class)
        return centres[labels] + 0.5 * torch.randn(count, PIXELS), labels

    for _ in range(50):
        inputs, labels = images(128, None)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    torch.manual_seed(seed)
    inputs, labels = images(n, of_class)
    with torch.no_grad():
        return Seen(inputs, net(inputs), labels)


def measured(name: str, n: int) -> tuple[float, float]:
    """The processor seconds of a choice in all classes, and the MB that one of them needs."""
    torch.set_num_threads(1)
    method, seen = method_of(name), looked_at(n // CLASSES, 0, 1)
    held = looked_at(round(HELD * n), None, 2) if needs_validation(method) else None
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    method(seen, held, round(KEEP * len(seen.labels)), torch.Generator().manual_seed(0))
    spent = time.process_time() - began
    return CLASSES * spent, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__)
    names = [
        *("craig", "gradmatch", "glister"),
        *("kcenter", "herding", "graph_cut", "contextual_diversity", "log_determinant"),
    ]
    parser.add_argument("methods", nargs="*", default=names, help="default: all")
    parser.add_argument("--examples", type=int, nargs="+", default=[10_000, 30_000, 60_000, 100_000])
    options = parser.parse_args()
    print(f"| | {' | '.join(f'{n:,}' for n in options.examples)} |\n|{' --- |' * (len(options.examples) + 1)}")
    for name in options.methods:
        cells = []
        for n in options.examples:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                try:
                    seconds, megabytes = alone.submit(measured, name, n).result()
                    cells.append(f"{seconds:.2f} s, {megabytes:,.0f} MB")
                except UserError as error:
                    cells.append(str(error))
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
