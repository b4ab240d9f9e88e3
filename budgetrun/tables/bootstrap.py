"""Percentile bootstraps over seeds: what a seed does to several cells, it does in each draw."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from budgetrun.tables.runs import Run
from budgetrun.tables.table import word

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 2000


def by_seed(runs: Iterable[Run], metric: str, sign: int) -> dict[str, float]:
    """The mean of a metric over the runs of each seed, times the sign: with that of `better`, larger is better."""
    seeds: dict[str, list[float]] = {}
    for run in runs:
        seeds.setdefault(word(run.get("seed", "")), []).append(sign * run[metric])
    return {seed: statistics.fmean(values) for seed, values in seeds.items()}


@functools.lru_cache(16)
def all_and_random(seeds: int) -> NDArray[np.float64]:
    """How often each seed is drawn, [1 + r, seeds]: each once, and then as many at random with replacement."""
    import numpy as np

    random = np.random.default_rng(0).multinomial(seeds, [1 / seeds] * seeds, RESAMPLES)
    return np.concatenate([np.ones((1, seeds)), random])


def drawn(
    cells: Sequence[Mapping[str, float]], seeds: Sequence[str], draws: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums [r, cells] of the values of cells by seed over the seeds drawn, and how many of these each cell has.

    draws: how often each seed is drawn, [r, seeds].
    """
    import numpy as np

    values = np.array([[cell.get(seed, 0.0) for seed in seeds] for cell in cells])
    there = np.array([[seed in cell for seed in seeds] for cell in cells], dtype=float)
    return draws @ values.T, draws @ there.T
