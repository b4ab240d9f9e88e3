"""The answers to a reviewer's questions, by name. Each is a sheet about analysed runs, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from budgetrun.errors import UserError
from budgetrun.tables.analysis import Analysis
from budgetrun.tables.compare import Comparison
from budgetrun.tables.conclusions import cheapest_best, conclusions
from budgetrun.tables.pareto import COSTS, Front, front, fronts
from budgetrun.tables.power import powers
from budgetrun.tables.scaling import laws, scaling
from budgetrun.tables.sensitivity import sensitive, sensitivities
from budgetrun.tables.table import Place, Sheet
from budgetrun.tables.tasks import over_tasks, ranking
from budgetrun.tables.worth import Worth, equivalents, worth

Answer = TypeVar("Answer")


def compared(of: Analysis, what: str) -> Comparison:
    """The comparison, or UserError if there is none."""
    if of.comparison is None:
        raise UserError(f"{what} needs a baseline; add one, as in --baseline sampler=uniform")
    return of.comparison


def worths(of: Analysis) -> dict[Place, Worth]:
    """What each cell is worth in budgets of the baseline."""
    return worth(of.runs, of.compared, of.settings, compared(of, "worth").baseline)


def pareto(of: Analysis) -> list[Front]:
    """The fronts of the first metric, by each cost."""
    return [front(of.runs, of.tables[0], cost) for cost in COSTS]


# in the order of a report
ANSWERS: Mapping[str, Callable[[Analysis], Sheet]] = {
    "worth": lambda of: equivalents(worths(of), of.compared, compared(of, "worth").baseline),
    "pareto": lambda of: fronts(pareto(of), of.tables[0]),
    "power": lambda of: powers(compared(of, "power"), of.compared),
    "tasks": lambda of: ranking(over_tasks([of]), of.tables[0]),
    "scaling": lambda of: scaling(laws(of.runs, of.tables[0]), of.tables[0]),
    "sensitivity": lambda of: sensitive(sensitivities(of.runs, of.tables[0], of.settings), of.tables[0]),
}


def sentences(of: Analysis) -> list[str]:
    """The conclusions from the comparison, if there is one, with what the runs tell of worth, and from the fronts."""
    said = [] if of.comparison is None else conclusions(of.comparison, of.compared, answered(worths, of) or {})
    several = len(of.tables[0].cells) > 1
    return said + [cheapest_best(one, of.tables[0]) for one in answered(pareto, of) or [] if several]


def answered(question: Callable[[Analysis], Answer], of: Analysis) -> Answer | None:
    """The answer, or None if these runs have none."""
    try:
        return question(of)
    except UserError:
        return None
