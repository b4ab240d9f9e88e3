"""Which draws may take long, so that a run that is asked to stop need not wait for their end."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

from budgetrun.contracts import TakesLong

LONG = 0.5  # seconds: after a draw that took longer, later draws can be abandoned


class Draws:
    """methods: the sampler, and what else chooses. The first draw of a process may take long, for nothing is known."""

    def __init__(self, *methods: object) -> None:
        # found once: it takes 16 us, too much for each update
        self.slow = [method for method in methods if isinstance(method, TakesLong)]
        self.longest = math.inf

    @property
    def may_take_long(self) -> bool:
        """Whether the next one may."""
        return self.longest > LONG or any(method.takes_long for method in self.slow)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Around a draw. CPU time counts: other processes must not make a draw seem long."""
        began = time.thread_time()
        yield
        took = time.thread_time() - began
        self.longest = took if self.longest == math.inf else max(self.longest, took)
