"""Errors and signals that end a command early. Does not import torch, so that reading and starting runs stay fast."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from budgetrun.terminal import shown

# signals to save and stop: Ctrl-C, a closed terminal, and what batch systems send before a time limit or a preemption
STOPPING = [s for s in signal.Signals if s.name in ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2")]


class UserError(Exception):
    """An error that the user can fix: shown as one sentence, without a traceback, with a nonzero exit code."""

    def __str__(self) -> str:
        return shown(super().__str__())  # it may quote any names and values


class Interrupted(KeyboardInterrupt):
    """The command was asked to stop by the signal `signum`; the message says what was saved."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class Abandoned(BaseException):
    """The run was asked to stop during long work, which is abandoned; what that changed must be discarded."""


class Interruption:
    """A signal handler that only sets `signum`, for a loop to check; a second Ctrl-C stops at once.

    From `begin_long` to `end_long` a signal raises Abandoned, once, wherever the code is.
    """

    signum: int | None = None
    long = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise Interrupted("stopped at once, so progress since the last checkpoint was not saved", signum)
        self.signum = signum
        self.raise_if_long()

    def begin_long(self) -> None:
        self.long = True
        if self.signum is not None:
            self.raise_if_long()

    def end_long(self) -> None:
        self.long = False

    def raise_if_long(self) -> None:
        if self.long:
            self.long = False  # first: a second signal must not interrupt the saving
            raise Abandoned


@contextlib.contextmanager
def heard(signals: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block, these signals go to the handler; only in the main thread, since Python allows no other.

    Ignored signals stay ignored: nohup ignores SIGHUP, and a shell ignores SIGINT for a script's background jobs.
    """
    main = threading.current_thread() is threading.main_thread()
    heeded = [signum for signum in signals if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, handler) for signum in heeded} if main else {}
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
