"""What ends a command early. Free of torch, which the reader of runs and the start of a run do without."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from budgetrun.terminal import shown

# what asks a run to save and leave: Ctrl-C, a closed terminal, what batch systems send before a limit or a preemption
STOPPING = [s for s in signal.Signals if s.name in ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2")]


class UserError(Exception):
    """Something the user can mend: shown as one sentence, without a traceback, with an exit code that is not 0."""

    def __str__(self) -> str:
        return shown(super().__str__())  # names and values in it are anybody's


class Interrupted(KeyboardInterrupt):
    """The command was asked to stop by the signal `signum`; the message says what was saved."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class Abandoned(BaseException):
    """The run was asked to stop in the middle of something long, which is given up; what it changed is of no use."""


class Interruption:
    """A handler that only sets `signum`, for a loop to see; a second Ctrl-C stops at once.

    From `begin_long` to `end_long` a signal raises Abandoned, once, wherever the code is.
    """

    signum: int | None = None
    long = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise Interrupted("at once, so what came after the last checkpoint was not saved", signum)
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
            self.long = False  # first: a second signal must not break off the saving
            raise Abandoned


@contextlib.contextmanager
def heard(signals: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While it lasts, these signals go to the handler; in the main thread alone, as Python allows it nowhere else.

    What is ignored stays so: nohup asks for it of SIGHUP, and a shell of SIGINT for a script's background jobs.
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
    """What an error says, however many lines it has."""
    return " ".join(str(error).split()) or type(error).__name__
