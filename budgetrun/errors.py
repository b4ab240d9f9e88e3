"""Errors and signals that end a command early. Does not import torch, so that reading and starting runs stay fast."""

from __future__ import annotations

import contextlib
import os
import signal
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType, TracebackType

from budgetrun.terminal import shown

# where code is that is not the user's own: this package, Python's library, and what is installed
INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
NOT_OWN = (*(f"{folder}/" for folder in {str(Path(__file__).parent), *INSTALLED}), "<frozen")
# signals to save and stop: Ctrl-C, a closed terminal, and what batch systems send before a time limit or a preemption
STOPPING = [s for s in signal.Signals if s.name in ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2")]


class UserError(Exception):
    """An error that the user can fix: shown as one sentence, without a traceback, with a nonzero exit code.

    Notes are shown below the sentence; `in_own_code` adds one.
    """

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


def in_full(error: BaseException) -> str:
    """An error's kind and message on one line."""
    return f"{type(error).__name__}: {one_line(error)}" if str(error).strip() else type(error).__name__


def wants_traceback() -> bool:
    """Whether the user, and not `main`, set HYDRA_FULL_ERROR."""
    return "HYDRA_FULL_ERROR" in os.environ and "BUDGETRUN_EXPLAINS" not in os.environ


def steps(error: BaseException) -> list[tuple[TracebackType, bool]]:
    """The traceback of an error from the outside in, each step with whether it is in the user's own code."""
    found, step = [], error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        installed = file.startswith(NOT_OWN) or "/site-packages/" in file or "/dist-packages/" in file
        found.append((step, not installed))
        step = step.tb_next
    return found


def place(step: TracebackType) -> str:
    """The file and line of a step, as in my/hardest.py:24."""
    file = step.tb_frame.f_code.co_filename
    with contextlib.suppress(OSError):  # the current folder may be gone
        file = file.removeprefix(f"{Path.cwd()}/")
    return f"{file}:{step.tb_lineno}"


def at_own(error: BaseException) -> str:
    """The line of the user's own code that an error came from, as a part of a sentence; "" if it did not."""
    own = [step for step, is_own in steps(error) if is_own]
    return f", in {place(own[-1])}" if own else ""


def in_own_code(error: BaseException) -> UserError | None:
    """An error that came from the user's own code, as one sentence and a note with the traceback from there on.

    None if none of their code took part, as in a bug of ours, and for an error that is said as it is. The note goes
    through the pickles of parallel launchers, which an exception's traceback does not.
    """
    found = steps(error)
    if isinstance(error, UserError) or not any(is_own for _, is_own in found):
        return None
    last = max(number for number, (_, is_own) in enumerate(found) if is_own)
    entered = last
    while entered and found[entered - 1][1]:  # the part that was called, which may have called a helper
        entered -= 1
    frame = found[entered][0].tb_frame
    part = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
    said = UserError(f"{part} ({place(found[last][0])}) raised {in_full(error)}")
    from_there = next(step for step, is_own in found if is_own)
    whole = traceback.format_exception(type(error), error, from_there)
    said.add_note("".join([*whole, "HYDRA_FULL_ERROR=1 before the command shows the whole traceback"]))
    return said
