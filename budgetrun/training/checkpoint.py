"""How a run is saved and resumed: the state of all its parts, and what must be the same when it resumes."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budgetrun.contracts import KeepsFiles, Stateful
from budgetrun.folder.run import RunFolder, commit
from budgetrun.training.network import Network

log = logging.getLogger("budgetrun")
LATER = {"branches"}  # parts that a run may have been asked for after it began


class Unloadable(Exception):
    """The checkpoint does not fit all parts of the run and is set aside; what was loaded must be discarded."""


class Checkpoint:
    """Saves and restores a run.

    parts: what has state besides the network, by name. here: facts that must be the same when the run resumes.
    began: perf_counter at the start of the run. commits: those of earlier processes that ran other code, for reviewers.
    """

    def __init__(
        self, folder: RunFolder, network: Network, parts: Mapping[str, Stateful], here: Mapping[str, str], began: float
    ) -> None:
        self.folder, self.network, self.parts, self.here, self.began = folder, network, parts, here, began
        self.seconds_before = 0.0  # of earlier processes
        self.commits: list[str] = []
        self.source, self.dirty = commit()
        self.kept: dict[str, Any] = {}
        self.keeping = [part for part in parts.values() if isinstance(part, KeepsFiles)]
        self.files_kept: set[Path] = set()  # that the copy in `kept` needs
        self.files_saved: set[Path] = set()  # that the last checkpoint needs
        self.saved = time.perf_counter()

    def of_run(self, folder: RunFolder, run_id: str, parts: Mapping[str, Stateful]) -> Checkpoint:
        """One by which another run, which is the same up to now, goes on from here."""
        other = copy.copy(self)
        other.folder, other.here, other.parts = folder, {**self.here, "run": run_id}, parts
        return other

    def seconds(self) -> float:
        """The total, including earlier processes."""
        return self.seconds_before + time.perf_counter() - self.began

    def age(self) -> float:
        """Seconds since the last checkpoint was written or read."""
        return time.perf_counter() - self.saved

    def keep(self) -> None:
        """Copy everything that a draw and the forward pass after it change; takes about a millisecond.

        Until `forget`, `write` saves this copy instead of the state that an abandoned draw left.
        """
        states = {name: part.state_dict() for name, part in self.parts.items() if name != "record"}
        self.kept = copy.deepcopy({**states, "buffers": dict(self.network.net.named_buffers())})
        self.files_kept = self.files()

    def forget(self) -> None:
        if self.kept:
            self.kept, self.files_kept = {}, set()
            self.tidy()

    def files(self) -> set[Path]:
        """The files that the present state of the parts needs."""
        return {path for part in self.keeping for path in part.files}

    def tidy(self) -> None:
        """Delete what is left in the parts' folder of states that are gone."""
        self.folder.tidy_state(self.files() | self.files_kept | self.files_saved)

    def write(self) -> None:
        parts = {name: self.kept[name] if name in self.kept else part.state_dict() for name, part in self.parts.items()}
        model = self.network.net.state_dict()
        model.update({name: buffer for name, buffer in self.kept.get("buffers", {}).items() if name in model})
        states = {"model": model, "optimizer": self.network.optimizer.state_dict(), **parts}
        spent = {"seconds_total": self.seconds(), "commits": [*self.commits, self.source]}
        self.folder.write_checkpoint({**states, **self.here, **spent})
        self.files_saved = self.files_kept if self.kept else self.files()
        self.tidy()
        self.saved = time.perf_counter()

    def restore(self) -> bool:
        """Resume from the last checkpoint, if there is one.

        Raises UserError if it was made with other data, and Unloadable if a part has changed since.
        """
        names = ["model", "optimizer", *(self.parts.keys() - LATER), "seconds_total", "commits"]
        state = self.folder.read_checkpoint(self.network.device, names, self.here)
        if state is None:
            return False
        try:
            self.network.load_state_dict({"net": state["model"], "optimizer": state["optimizer"]})
            for name, part in self.parts.items():
                part.load_state_dict(state.get(name, {}))
        except Exception as error:  # a part may raise anything if the state has another form
            self.folder.give_up_checkpoint(error)
            raise Unloadable from error
        self.files_saved = self.files()
        self.seconds_before = state["seconds_total"]
        self.commits = list(dict.fromkeys(c for c in state["commits"] if c not in (None, self.source)))
        if self.commits:
            log.warning(
                "the run began with the code of commit %s and goes on with that of %s", self.commits[-1], self.source
            )
        self.saved = time.perf_counter()
        return True
