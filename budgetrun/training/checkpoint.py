"""How a run is saved and goes on: the state of all its parts, and what must be the same when it goes on."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from typing import Any

from budgetrun.contracts import Stateful
from budgetrun.folder.run import RunFolder, commit
from budgetrun.training.network import Network

log = logging.getLogger("budgetrun")


class Unloadable(Exception):
    """The checkpoint fits no part of the run, or not all, and is set aside; what was loaded of it is of no use."""


class Checkpoint:
    """parts: what has a state beside the network, by name. here: facts that may not change on the way.

    began: perf_counter at the start of the run. commits: of earlier processes whose code was another, which a review
    wants to know.
    """

    def __init__(
        self, folder: RunFolder, network: Network, parts: Mapping[str, Stateful], here: Mapping[str, str], began: float
    ) -> None:
        self.folder, self.network, self.parts, self.here, self.began = folder, network, parts, here, began
        self.seconds_before = 0.0  # of earlier processes
        self.commits: list[str] = []
        self.source, self.dirty = commit()
        self.kept: dict[str, Any] = {}
        self.saved = time.perf_counter()

    def seconds(self) -> float:
        """In all, those of earlier processes included."""
        return self.seconds_before + time.perf_counter() - self.began

    def age(self) -> float:
        """Seconds since the last one was written, or read."""
        return time.perf_counter() - self.saved

    def keep(self) -> None:
        """Copy all that a draw and the forward pass after it change; it takes about a millisecond.

        Until `forget`, `write` saves this in the place of what is left of a draw that was broken off.
        """
        states = {name: part.state_dict() for name, part in self.parts.items() if name != "record"}
        self.kept = copy.deepcopy({**states, "buffers": dict(self.network.net.named_buffers())})

    def forget(self) -> None:
        self.kept = {}

    def write(self) -> None:
        parts = {name: self.kept[name] if name in self.kept else part.state_dict() for name, part in self.parts.items()}
        model = self.network.net.state_dict()
        model.update({name: buffer for name, buffer in self.kept.get("buffers", {}).items() if name in model})
        states = {"model": model, "optimizer": self.network.optimizer.state_dict(), **parts}
        spent = {"seconds_total": self.seconds(), "commits": [*self.commits, self.source]}
        self.folder.write_checkpoint({**states, **self.here, **spent})
        self.saved = time.perf_counter()

    def restore(self) -> bool:
        """Go on from the last one, where there is one.

        Raises UserError where it was made of other data, and Unloadable where a part has changed since.
        """
        names = ["model", "optimizer", *self.parts, "seconds_total", "commits"]
        state = self.folder.read_checkpoint(self.network.device, names, self.here)
        if state is None:
            return False
        try:
            self.network.load_state_dict({"net": state["model"], "optimizer": state["optimizer"]})
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except Exception as error:  # whatever a part raises whose state has another form
            self.folder.give_up_checkpoint(error)
            raise Unloadable from error
        self.seconds_before = state["seconds_total"]
        self.commits = list(dict.fromkeys(c for c in state["commits"] if c not in (None, self.source)))
        if self.commits:
            log.warning(
                "it began with the code of commit %s and goes on with that of %s", self.commits[-1], self.source
            )
        self.saved = time.perf_counter()
        return True
