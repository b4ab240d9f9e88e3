"""The role of a process in a sweep: the first one, or a worker that a parallel launcher started."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import signal
import threading
import time

from budgetrun import processes
from budgetrun.errors import UserError


def worker() -> int | None:
    """The number of this process among those that a parallel launcher started, from 1; None in the first process."""
    if multiprocessing.parent_process() is None:
        return None
    match = re.search(r"-(\d+)", multiprocessing.current_process().name)  # LokyProcess-3
    return int(match[1]) if match else None


@functools.cache  # once per process
def leave_with_the_first() -> None:
    """Make a worker save and end when the process that started it has ended, for whatever reason."""
    first = multiprocessing.parent_process()

    def watch() -> None:
        while first is not None and os.getppid() == first.pid:
            time.sleep(1)
        while True:  # a run saves at the first signal; the next one finds no handler and ends the process
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()


def check_alone() -> None:
    """Raise UserError if this process, which has a sweep to do, was started as one of several."""
    if processes.size() > 1:
        raise UserError(
            f"{processes.size()} processes were started together, which train one run; start sweeps without torchrun"
        )
