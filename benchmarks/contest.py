"""Training loops that run in turns, a short block of updates each, so that a busy machine slows them all alike.

Ratios are taken within a round, between blocks that ran within a second of each other, and then the median over the
rounds: a burst of other work spoils some rounds, not the result.
"""

from __future__ import annotations

import contextlib
import io
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import greenlet
import torch

Tick = Callable[..., None]


class Over(Exception):
    """The contest has ended: raised by `tick`, so that a loop of any length stops."""


@dataclass
class Lane:
    """One loop. run(tick) calls tick() at the start of every update, or tick(n) before n updates that it does at once.

    count(): what the loop has done so far, in numbers that are of interest beside the time.
    """

    run: Callable[[Tick], Any]
    count: Callable[[], tuple[float, ...]] = tuple


@dataclass
class Times:
    """seconds[r]: of an update in round r. counts[r]: what the lane counted in round r."""

    seconds: list[float] = field(default_factory=list)
    counts: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def contest(
    lanes: dict[str, Lane], block: int, rounds: int, device: torch.device, warm: int = 1, cpu_time: bool = False
) -> dict[str, Times]:
    """`rounds` rounds of `block` updates a lane, after `warm` rounds that are not counted.

    The lanes are greenlets of one thread. With a thread each, OpenMP would keep a pool of workers for each, find more
    workers than cores and let them sleep between operations: with cnn on digits an update then takes 7 ms, not 2.
    cpu_time: count what this thread spends on the processor, and not its waiting for one.
    """
    clock = time.thread_time if cpu_time else time.perf_counter
    conductor = greenlet.getcurrent()
    left = 0

    def tick(updates: int = 1) -> None:
        nonlocal left
        if left <= 0:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if conductor.switch(clock()):
                raise Over
        left -= updates

    def body(lane: Lane) -> None:
        with contextlib.suppress(Over):
            lane.run(tick)
            raise RuntimeError("a loop ended before the contest did")

    turns = {name: greenlet.greenlet(body) for name in lanes}
    times = {name: Times() for name in lanes}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # a run on a terminal draws a bar: one is enough to see, and six at once are not
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            for name, lane in lanes.items():  # one after the other: loading data is not part of anything timed
                turns[name].switch(lane)
            for number in range(-warm, rounds):
                # every other round goes backwards, so that a machine that gets slower favours nobody
                for name in list(lanes)[:: -1 if number % 2 else 1]:
                    before = lanes[name].count()
                    left, began = block, clock()
                    seconds = (turns[name].switch(False) - began) / block
                    if number >= 0:
                        times[name].seconds.append(seconds)
                        counted = zip(lanes[name].count(), before, strict=True)
                        times[name].counts.append(tuple(now - then for now, then in counted))
        finally:
            for turn in turns.values():
                if turn:  # started, and not ended by an error
                    turn.switch(True)
            for number, handler in handlers.items():  # each run set its own and put back what it found
                signal.signal(number, handler)
    return times


@dataclass
class Ratio:
    """Of two lanes' times: the median of the rounds' ratios, its quartiles, the ratio of the fastest blocks, of all."""

    median: float
    low: float
    high: float
    of_fastest: float
    of_totals: float

    def __str__(self) -> str:
        return (
            f"**{self.median:.3f}** | {self.low:.3f} to {self.high:.3f} | {self.of_fastest:.3f} | {self.of_totals:.3f}"
        )


RATIO_HEADER = "ratio (median) | quartiles | of the fastest blocks | of the totals"


def ratio(above: list[float], below: list[float]) -> Ratio:
    each = [a / b for a, b in zip(above, below, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return Ratio(middle, low, high, min(above) / min(below), sum(above) / sum(below))
