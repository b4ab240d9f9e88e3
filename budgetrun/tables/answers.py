"""The answers to a reviewer's questions, by name. Each is a sheet about analysed runs, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from budgetrun.errors import UserError
from budgetrun.tables.analysis import Analysis
from budgetrun.tables.compare import TUNING
from budgetrun.tables.conclusions import cheapest_best, conclusions, never_looked
from budgetrun.tables.pareto import fronts
from budgetrun.tables.power import powers
from budgetrun.tables.scaling import laws, scaling
from budgetrun.tables.selections import agreeing, agreements
from budgetrun.tables.sensitivity import sensitive, sensitivities
from budgetrun.tables.table import Sheet
from budgetrun.tables.tasks import over_tasks, ranking
from budgetrun.tables.worth import equivalents

Answer = TypeVar("Answer")


# in the order of a report
ANSWERS: Mapping[str, Callable[[Analysis], Sheet]] = {
    "worth": lambda of: equivalents(of.worths, of.compared, of.against("worth").baseline),
    "pareto": lambda of: fronts(of.fronts, of.tables[0]),
    "power": lambda of: powers(of.against("power"), of.compared),
    "tasks": lambda of: ranking(over_tasks([of]), of.tables[0]),
    "scaling": lambda of: scaling(laws(of.runs, of.tables[0]), of.tables[0]),
    "selections": lambda of: agreeing(
        agreements(of.runs, of.tables[0], of.baseline), of.tables[0], of.asked.baseline if of.baseline else None
    ),
    "sensitivity": lambda of: sensitive(sensitivities(of.runs, of.tables[0], of.settings), of.tables[0]),
}


def sentences(of: Analysis) -> list[str]:
    """The conclusions from the comparison, if there is one, with what the runs tell of worth, and from the fronts."""
    said: list[str] = []
    if of.comparison is not None:
        said += conclusions(of.comparison, of.compared, answered(lambda of: of.worths, of) or {})
    on_fronts = [
        one for front in answered(lambda of: of.fronts, of) or [] for one in cheapest_best(front, of.tables[0])
    ]
    if said or on_fronts:
        said += never_looked(of.runs)
    said += on_fronts
    if on_fronts and any(run.get("flops_before") for run in of.runs):
        said.append("FLOPs include those of the runs that made files which others read; seconds do not include theirs.")
    if said and any(run.get("flops_tuning") for run in of.runs):
        said.append(f"Where a value was tuned, {TUNING}.")
    return said


def answered(question: Callable[[Analysis], Answer], of: Analysis) -> Answer | None:
    """The answer, or None if these runs have none."""
    try:
        return question(of)
    except UserError:
        return None
