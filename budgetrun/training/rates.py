"""The learning rate of an update, and its momentum: the schedule on its course through the budget."""

from __future__ import annotations

from budgetrun.config import Experiment
from budgetrun.contracts import SetsMomentum
from budgetrun.training.budget import Budget


def aim(experiment: Experiment, budget: Budget) -> tuple[float, float | None]:
    """The learning rate of the next update, and the momentum; None: the optimizer's own."""
    schedule, lr, (progress, update, risen) = experiment.schedule, experiment.settings.lr, budget.on(experiment.course)
    if isinstance(schedule, SetsMomentum):
        return risen * schedule(lr, progress, update), schedule.momentum(progress, update)
    return risen * schedule(lr, progress), None
