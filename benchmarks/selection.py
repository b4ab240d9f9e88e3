"""`python -m benchmarks.selection`: how long choosing a tenth of the examples takes, against looking at them once.

The rules of `select` choose by random scores, also class by class in sampler=subset, and the core-sets by random
features and logits. Class by class, a core-set's time is that of one of ten classes, ten times. Looking is a forward
pass of resnet9, the smallest network for such images here, of which a part is timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import sklearn.neighbors  # noqa: F401 -- its import is not timed
import torch

from budgetrun.contracts import Rule, UserError
from budgetrun.coreset.choice import Method, Seen
from budgetrun.coreset.contextual_diversity import ContextualDiversity
from budgetrun.coreset.graph_cut import GraphCut
from budgetrun.coreset.herding import Herding
from budgetrun.coreset.k_center import KCenter
from budgetrun.coreset.log_determinant import LogDeterminant
from budgetrun.model.resnet9 import ResNet9
from budgetrun.sampler.subset import Subset
from budgetrun.select.beta import Beta
from budgetrun.select.draw import Draw
from budgetrun.select.graph import Graph
from budgetrun.select.stratified import Stratified
from budgetrun.select.top import Top
from budgetrun.select.window import Window

RULES: list[Rule] = [
    Top(best=True),
    Window(skip=0.1),
    Stratified(cut=0.3, strata=50),
    Draw(temperature=None, mix=0.1),
    Beta(power=4.0),
]
CORE_SETS: list[Method] = [
    KCenter(None),
    Herding(None),
    GraphCut(coverage=1.0),
    ContextualDiversity(),
    LogDeterminant(),
]
HOW = {True: "class by class", False: "at once"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--many", type=int, default=1_281_167, help="for the rules alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    n, classes = options.examples, 10

    net = ResNet9(width=16).build(3, classes).eval()
    images = torch.randn(250, 3, 32, 32, generator=random).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        net(images)
        looking = n / 1000 * seconds(lambda: [net(images) for _ in range(4)])
    print(f"| of {n:,} examples | seconds | of looking at all |\n| --- | --- | --- |")
    row("looking at all, with resnet9", looking, looking)
    for rule in RULES:
        for size in (n, options.many):
            columns = {"score": torch.rand(size, generator=random), "mean_p": torch.rand(size, generator=random)}
            spent = seconds(lambda: rule(columns, size // 10, random))  # noqa: B023
            row(f"{type(rule).__name__}{'' if size == n else f', {size:,}'}", spent, looking if size == n else None)
        row(f"{type(rule).__name__}, {options.many:,} in 1,000 classes", in_classes(rule, options.many, random), None)
    for quota in ("equal", "recall"):
        row(f"{quota} quota, the same", in_classes(RULES[0], options.many, random, quota), None)
    for method in CORE_SETS:
        for parts in (classes, 1):
            m = n // parts
            seen = Seen(
                torch.randn(m, 128, generator=random),
                torch.randn(m, classes, generator=random),
                torch.randint(classes, (m,), generator=random),
            )
            name = f"{type(method).__name__}, {HOW[parts > 1]}"
            try:
                row(name, parts * seconds(lambda: method(seen, None, m // 10, random)), looking)  # noqa: B023
            except UserError as error:
                print(f"| {name} | {error} | |")
    for parts in (classes, 1):
        m = n // parts
        columns = {"score": torch.rand(m, generator=random), "features": torch.randn(m, 128, generator=random)}
        rule = Graph(features="given", neighbours=5, gamma=0.1, cut=0.4)
        row(f"Graph, {HOW[parts > 1]}", parts * seconds(lambda: rule(columns, m // 10, random)), looking)  # noqa: B023


def in_classes(rule: Rule, n: int, random: torch.Generator, quota: str = "natural") -> float:
    """Seconds for a tenth of n examples of 1,000 classes, class by class, as sampler=subset chooses it."""
    labels = torch.randint(1000, (n,), generator=random)
    columns = {name: torch.rand(n, generator=random) for name in ("score", "mean_p", "recall")}
    columns["index"] = torch.arange(n)
    given: dict[str, Any] = {"acquisition": None, "base": None, "add": None, "drop": None, "order": "highest"}
    sampler: Any = Subset(file="given", keep=0.1, balanced=True, quota=quota, **given)
    sampler.random, sampler.context = random, SimpleNamespace(labels=labels, classes=1000, n=n, select=rule)
    return seconds(lambda: sampler.chosen("keep", columns))


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def row(name: str, spent: float, looking: float | None) -> None:
    print(f"| {name} | {spent:.2f} | {'' if looking is None else f'{spent / looking:.3f}'} |", flush=True)


if __name__ == "__main__":
    main()
