"""What ends a command early. Free of torch, which the reader of runs and the start of a run do without."""

from __future__ import annotations

import signal

# what asks a run to save and leave: Ctrl-C, and what batch systems send ahead of a time limit or a preemption
STOPPING = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")]


class UserError(Exception):
    """Something the user can mend: shown as one sentence, without a traceback, with an exit code that is not 0."""


class Interrupted(KeyboardInterrupt):
    """The command was asked to stop by the signal `signum`; the message says what was saved."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def one_line(error: BaseException) -> str:
    """What an error says, however many lines it has."""
    return " ".join(str(error).split()) or type(error).__name__
