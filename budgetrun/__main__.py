"""The command line: `python -m budgetrun sampler=is budget=0.3 aug=ricap`. Hydra runs it; `task` in job.py is one job.

Slow imports are not at the top of the module: `--help` works without torch.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import hydra

from budgetrun import processes
from budgetrun.errors import STOPPING, Interrupted, heard, in_own_code, wants_traceback
from budgetrun.launch import plugins
from budgetrun.launch.command import CONF, at_home, command, completes, completing, flags_first, of_each_job
from budgetrun.launch.job import no_run_dir, task
from budgetrun.terminal import any_encoding, lasting

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Run the command line; returns the exit code: 0, 1 if something failed, 128 + the signal that stopped it."""
    any_encoding()
    # the shell's user is typing, and a sentence about the unfinished line would be in the way
    quiet = contextlib.redirect_stderr(io.StringIO()) if completes(sys.argv[1:]) else contextlib.nullcontext()
    with lasting(), quiet:
        return ended()


def ended() -> int:
    """The same, with stdout and stderr already protected by `lasting`."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        print("budgetrun: the current folder no longer exists; change to another one", file=sys.stderr)
        return 1
    if here not in sys.path:
        sys.path.insert(0, here)  # for the user's own components, as `python -m` does by itself
    sys.argv[1:] = flags_first(completing([at_home(argument) for argument in sys.argv[1:]]))
    if "HYDRA_FULL_ERROR" not in os.environ:
        # Hydra then raises its errors, and `explain` puts them into words. The second variable says that we set the
        # first. The processes of parallel launchers inherit both
        os.environ["HYDRA_FULL_ERROR"] = os.environ["BUDGETRUN_EXPLAINS"] = "1"
    plugins.register()
    app: Callable[[], Any] = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)
    try:
        with terminable(), contextlib.redirect_stderr(Unannounced(sys.stderr)):
            for override in command(sys.argv[1:]).overrides:
                if override.lstrip("+").startswith("hydra.run.dir="):  # Hydra makes that folder before it calls the job
                    raise no_run_dir(override.partition("=")[2])
            sys.argv[1:] = of_each_job(sys.argv[1:])
            app()
            return 0
    except KeyboardInterrupt as interrupt:
        if processes.speaks(interrupt):
            print(f"budgetrun: interrupted; {str(interrupt) or 'nothing had to be saved'}", file=sys.stderr)
        return 128 + getattr(interrupt, "signum", 2)
    except Exception as error:
        if wants_traceback():
            raise
        from budgetrun.launch.explain import explain

        said = in_own_code(error) or error
        sentence = explain(said, sys.argv[1:])
        if sentence is None:  # a bug of ours: the traceback helps more than a sentence
            raise
        if processes.speaks(error):
            print(f"budgetrun: {sentence}", *getattr(said, "__notes__", []), sep="\n", file=sys.stderr)
        return 1


class Unannounced:
    """stderr without Hydra's line about a failed job: `task` and `main` say what failed, and why."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        announced = text.startswith("Error executing job with overrides:") and not wants_traceback()
        return len(text) if announced else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and similar signals stop long work before the training loop as Ctrl-C does: with a message."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted("", signum)

    with heard([signum for signum in STOPPING if signum != signal.SIGINT], stop):
        yield


if __name__ == "__main__":
    sys.exit(main())
