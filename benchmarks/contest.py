"""Training loops that run in turns, a short block of updates each, so that a busy machine slows them all alike.

Ratios are taken within a round, between blocks that ran within a second of each other, and then the median over the
rounds: a burst of other work spoils some rounds, not the result.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
    count: Callable[[], tuple[int, ...]] = tuple


@dataclass
class Turn:
    """The baton of a lane; its own thread and the conductor's wait for each other."""

    lane: Lane
    device: torch.device
    clock: Callable[[], float]
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    back: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    left: int = 0
    seconds: float = 0.0
    began: float = 0.0
    over: bool = False
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.body, daemon=True)

    def body(self) -> None:
        try:
            self.lane.run(self.tick)
            self.error = RuntimeError("a loop ended before the contest did")
        except Over:
            pass
        except BaseException as error:
            self.error = error
        self.back.release()

    def tick(self, updates: int = 1) -> None:
        if self.left <= 0:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds = self.clock() - self.began
            self.back.release()
            self.go.acquire()
            if self.over:
                raise Over
            self.began = self.clock()
        self.left -= updates

    def block(self, updates: int) -> float:
        """Let the lane do a block; the seconds of an update."""
        self.left = updates
        self.go.release()
        self.wait()
        return self.seconds / updates

    def wait(self) -> None:
        self.back.acquire()
        if self.error is not None:
            raise self.error


@dataclass
class Times:
    """seconds[r]: of an update in round r. counts[r]: what the lane counted in round r."""

    seconds: list[float] = field(default_factory=list)
    counts: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def contest(
    lanes: dict[str, Lane], block: int, rounds: int, device: torch.device, warm: int = 1, cpu_time: bool = False
) -> dict[str, Times]:
    """`rounds` rounds of `block` updates a lane, after `warm` rounds that are not counted.

    cpu_time: count what a lane's own thread spends on the processor, and not its waiting for one.
    """
    clock = time.thread_time if cpu_time else time.perf_counter
    turns = {name: Turn(lane, device, clock) for name, lane in lanes.items()}
    times = {name: Times() for name in lanes}
    # a run on a terminal draws a bar: one is enough to see, and six at once are not
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            for turn in turns.values():  # one after the other: loading data is not part of anything timed
                turn.thread.start()
                turn.wait()
            for number in range(-warm, rounds):
                # every other round goes backwards, so that a machine that gets slower favours nobody
                for name in list(lanes)[:: -1 if number % 2 else 1]:
                    before = lanes[name].count()
                    seconds = turns[name].block(block)
                    if number >= 0:
                        times[name].seconds.append(seconds)
                        counted = zip(lanes[name].count(), before, strict=True)
                        times[name].counts.append(tuple(now - then for now, then in counted))
        finally:
            for turn in turns.values():
                if turn.thread.is_alive():
                    turn.over = True
                    turn.go.release()
                    turn.thread.join()
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
