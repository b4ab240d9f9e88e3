"""The command line: `python -m budgetrun sampler=is budget=0.3 aug=ricap`. Hydra stays in here and in sweep.py.

Nothing that takes long to import is imported at the top: `--help` answers without torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from budgetrun import slurm
from budgetrun.composing import is_grid
from budgetrun.errors import STOPPING, Interrupted, UserError, heard
from budgetrun.help import help_page
from budgetrun.job import task

if TYPE_CHECKING:
    from collections.abc import Callable

# in a checkout conf/ lies beside the package, in an installed wheel inside it
PACKAGE = Path(__file__).resolve().parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def wants_traceback() -> bool:
    """Whether the user, and not main, set HYDRA_FULL_ERROR."""
    return "BUDGETRUN_EXPLAINS" not in os.environ


def main() -> int:
    """Run the command line; its exit code: 0, 1 where something failed, 128 + the signal that stopped it."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # for components of the user's own, as `python -m` does by itself
    if "HYDRA_FULL_ERROR" not in os.environ:
        # Hydra then raises its errors, for us to explain; the second variable says who set the first, to the
        # processes of parallel launchers too, which inherit both
        os.environ["HYDRA_FULL_ERROR"] = os.environ["BUDGETRUN_EXPLAINS"] = "1"
    OmegaConf.register_new_resolver("budgetrun.help", lambda: help_page(CONF), replace=True)
    Plugins.instance()  # loads hydra-submitit-launcher where it is installed, whose option of this name ours replaces
    ConfigStore.instance().store("submitit_slurm", slurm.OPTION, group="hydra/launcher", provider="budgetrun")
    app: Callable[[], Any] = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)
    try:
        with terminable(), contextlib.redirect_stderr(Unannounced(sys.stderr)):
            if is_sweep(sys.argv[1:]):
                from budgetrun.sweep import sweep

                return sweep(sys.argv[1:], CONF, app)
            app()
            return 0
    except KeyboardInterrupt as interrupt:
        print(f"budgetrun: interrupted; {str(interrupt) or 'nothing had to be saved'}", file=sys.stderr)
        return 128 + getattr(interrupt, "signum", 2)
    except Exception as error:
        if wants_traceback():
            raise
        from budgetrun.explain import explain

        sentence = explain(error, sys.argv[1:], CONF)
        if sentence is None:  # a bug of ours: the traceback is what helps
            raise
        print(f"budgetrun: {sentence}", file=sys.stderr)
        return 1


class Unannounced:
    """stderr without the line by which Hydra announces a failed job: `task` and `main` say what failed, and why."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        announced = text.startswith("Error executing job with overrides:") and not wants_traceback()
        return len(text) if announced else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and its like stop what takes long before the training loop as Ctrl-C does: with a message."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted("", signum)

    with heard([signum for signum in STOPPING if signum != signal.SIGINT], stop):
        yield


def is_sweep(arguments: list[str]) -> bool:
    """Whether Hydra will run several jobs, as its own parser and the last of its mode overrides say."""
    asked, unknown = get_args_parser().parse_known_args(arguments)
    if unknown:
        raise UserError(f"{unknown[0]} is not understood; --help lists what is, and flags come before key=value")
    modes = [o.partition("=")[2] for o in asked.overrides if o.startswith("hydra.mode=")]
    several = modes[-1].upper() == "MULTIRUN" if modes else asked.multirun or any(map(is_grid, asked.overrides))
    return several and not (asked.help or asked.hydra_help or asked.cfg or asked.info or asked.shell_completion)


if __name__ == "__main__":
    sys.exit(main())
