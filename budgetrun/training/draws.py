"""Which draws may take long, so that a run that is asked to stop need not wait for their end."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

from budgetrun.contracts import TakesLong

LONG = 0.5  # seconds: after a draw that took longer, the next one can be abandoned


class Draws:
    """methods: the sampler, and what else chooses. The first draw of a process may take long, for nothing is known.

    Only the latest draw counts. Of a million examples, SeTa's plan of an epoch takes as long; with the state copied
    before every later draw, two epochs took more than 300 s of processor, and take 39.
    """

    def __init__(self, *methods: object) -> None:
        # found once: it takes 16 us, too much for each update
        self.slow = [method for method in methods if isinstance(method, TakesLong)]
        self.latest = math.inf

    @property
    def may_take_long(self) -> bool:
        """Whether the next one may."""
        return self.latest > LONG or any(method.takes_long for method in self.slow)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Around a draw. CPU time counts: other processes must not make a draw seem long."""
        began = time.thread_time()
        yield
        self.latest = time.thread_time() - began
