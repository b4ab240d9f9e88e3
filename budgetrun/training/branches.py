"""Runs that begin as one: where only the budget differs, one run makes the updates that are the same for all."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Stateful, UserError
from budgetrun.folder.lock import Busy
from budgetrun.folder.run import MISSING, RunFolder
from budgetrun.identity import same_but_budget
from budgetrun.training.budget import Budget
from budgetrun.training.checkpoint import Checkpoint
from budgetrun.training.diagnostics import Diagnostics
from budgetrun.training.rates import aim
from budgetrun.training.record import Record
from budgetrun.training.world import World

log = logging.getLogger("budgetrun")


@dataclass
class Branch:
    """A run with a smaller budget, as long as it is the same as this one; its evaluations come at other updates."""

    run_id: str
    allowed: float
    folder: RunFolder
    record: Record
    diagnostics: Diagnostics

    def budget(self, spent: Budget) -> Budget:
        """Its budget, of which all that is spent is shared."""
        own = copy.copy(spent)
        own.allowed, own.shared = self.allowed, spent.flops
        return own


class Branches:
    """The runs of smaller budgets that are still the same as this one, by budget. As soon as one is not, its checkpoint
    is written into its folder, from which it goes on like any interrupted run.

    Left out are those that have begun, and all if runs are forced: each then begins anew. diagnose: makes their
    diagnostics.
    """

    def __init__(
        self, experiment: Experiment, budget: Budget, world: World, diagnose: Callable[[], Diagnostics]
    ) -> None:
        settings = experiment.settings
        self.experiment, self.budget, self.world = experiment, budget, world
        self.live: dict[str, Branch] = {}
        for part in [] if settings.force else settings.earlier:
            if round(part * budget.full) < 1:
                raise UserError(
                    f"branches={settings.branches}: budget={part:g} of {budget.full} updates is not even one"
                )
            name = same_but_budget(experiment, part)
            folder = world.folder(RunFolder(settings.output_dir, name))
            if folder.state().word == MISSING:
                allowed = round(part * budget.full) * budget.step
                self.live[str(part)] = Branch(name, allowed, folder, Record(), diagnose())

    def observe(self, batch: Batch) -> None:
        for branch in self.live.values():
            branch.diagnostics.observe(batch)

    def add(self, loss: Tensor, lr: float) -> None:
        for branch in self.live.values():
            branch.record.add(loss, lr)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for branch in self.live.values():
                stack.enter_context(branch.diagnostics.drawing())
            yield

    def leave(self, checkpoint: Checkpoint) -> None:
        """Let those go that have spent their budgets, or that make the next update with another learning rate."""
        for part, branch in list(self.live.items()):
            own = branch.budget(self.budget)
            if own.share == 1 or aim(self.experiment, own) != aim(self.experiment, self.budget):
                with self.budget.paused():
                    self.save(part, branch, checkpoint)
                del self.live[part]

    def save(self, part: str, branch: Branch, checkpoint: Checkpoint) -> None:
        checkpoint.network.check_finite(self.budget.updates)
        own: dict[str, Stateful] = {
            "budget": branch.budget(self.budget),
            "record": branch.record,
            "diagnostics": branch.diagnostics,
        }
        shared = {name: of for name, of in checkpoint.parts.items() if name != "branches"}
        try:
            branch.folder.open()
            if self.world.of_first(
                lambda: branch.folder.checkpoint_path.exists() or branch.folder.result_path.exists()
            ):
                return  # meanwhile, another process has begun it
            checkpoint.of_run(branch.folder, branch.run_id, {**shared, **own}).write()
        except Busy:
            return
        finally:
            branch.folder.close()
        log.info("budget=%s goes on by itself from update %d: %s", part, self.budget.updates, branch.run_id)

    def state_dict(self) -> dict[str, Any]:
        return {
            part: {"record": branch.record.state_dict(), "diagnostics": branch.diagnostics.state_dict()}
            for part, branch in self.live.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Those that were not followed from the beginning are left out."""
        self.live = {part: branch for part, branch in self.live.items() if part in state}
        for part, branch in self.live.items():
            branch.record.load_state_dict(state[part]["record"])
            branch.diagnostics.load_state_dict(state[part]["diagnostics"])
