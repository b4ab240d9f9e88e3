"""What the trackers of a run are told. None of them is a reason for a run to end, or to be late."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from budgetrun.config import Experiment
from budgetrun.contracts import Logger, NeedsPackages, Tracked, UserError
from budgetrun.errors import one_line
from budgetrun.folder.reading import flat
from budgetrun.folder.run import FAILED, FINISHED, INTERRUPTED
from budgetrun.identity import class_of, run_id

log = logging.getLogger("budgetrun")
PATIENCE = 120.0  # seconds that a tracker may take for what it is told; MLflow takes 20 to begin a new database


class Trackers:
    """The trackers of a run, each until it fails, which is said once. Leaving the context ends what is not finished."""

    def __init__(self) -> None:
        self.loggers: dict[str, Logger] = {}

    def open(self, experiment: Experiment, folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        """Begin the records of a run, or go on in them. lines: its evaluations so far."""
        self.loggers = dict(experiment.logger)
        so_far = list(lines)
        self.tell(lambda logger: logger.open(tracked(experiment, folder), so_far))

    def log(self, line: Mapping[str, Any]) -> None:
        """One more evaluation."""
        self.tell(lambda logger: logger.log(line))

    def finish(self, result: Mapping[str, Any]) -> None:
        """The end of the run, with what its result.json will hold."""
        self.end(FINISHED, result)

    def end(self, state: str, result: Mapping[str, Any]) -> None:
        self.tell(lambda logger: logger.close(state, measured(result)))
        self.loggers = {}

    def tell(self, what: Callable[[Logger], None]) -> None:
        """Tell each in a thread of its own, which is left behind if it hangs; a signal can then reach this one."""
        for name in list(self.loggers):
            logger = self.loggers.pop(name)
            failures: list[BaseException] = []

            def told(logger: Logger = logger, failures: list[BaseException] = failures) -> None:
                try:
                    what(logger)
                except BaseException as error:  # sys.exit too
                    failures.append(error)

            thread = threading.Thread(target=told, daemon=True)
            thread.start()
            thread.join(PATIENCE)
            if thread.is_alive():
                failures.append(TimeoutError(f"it did not answer for {PATIENCE:g} seconds"))
            if not failures:
                self.loggers[name] = logger
            else:
                why = one_line(failures[0])[:300]
                log.warning("logger=%s failed and is left out from here on; the run goes on: %s", name, why)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED, {})


def tracked(experiment: Experiment, folder: Path) -> Tracked:
    """The run as a tracker is told of it."""
    names, resolved = experiment.names, experiment.resolved
    values = {**flat(resolved), **names}
    config = {name: class_of(value) if name.endswith("_target_") else value for name, value in values.items()}
    group = run_id(names, {**resolved, "seed": 0}).replace("-s0-", "-")
    return Tracked(experiment.run_id, folder.absolute(), group, experiment.settings.tags, config)


def measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a result holds besides the configuration, under the names of its columns in tables."""
    return flat({name: value for name, value in result.items() if name not in ("run_id", "status", "names", "config")})


def check_packages(logger: Mapping[str, Logger]) -> None:
    """Raise UserError if a tracker lacks a package. Nothing is imported: that may take long."""
    for name, one in logger.items():
        for package, extra in one.needs.items() if isinstance(one, NeedsPackages) else ():
            found = importlib.util.find_spec(package)
            if found is None or found.origin is None:  # a folder of that name, such as the one that wandb makes
                raise UserError(f"logger={name} needs {package}: python -m pip install '{extra}'")
