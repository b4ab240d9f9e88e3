"""What the comparisons say, in sentences, and no more than the tests support."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from budgetrun.tables.compare import FEWEST, LEVEL, Comparison, Effect, Finding, cost, finding, points, signed
from budgetrun.tables.pareto import Cell, Front
from budgetrun.tables.power import CHANCE, least_difference
from budgetrun.tables.table import MISSING, Place, Table, unit_of
from budgetrun.tables.worth import Worth, in_words, interval

MOST = 5  # cells that a sentence names
BEGINNINGS = {
    Finding.BETTER: "Better than {}",
    Finding.WORSE: "Worse than {}",
    Finding.DIFFERENT: "Different from {}",
    Finding.EQUAL: "Equal to {} within {}",
}


def conclusions(comparison: Comparison, tables: Sequence[Table], worth: Mapping[Place, Worth]) -> list[str]:
    """One sentence per finding and metric, the largest differences first. worth: of the cells that have one."""
    said = []
    for table in tables:
        effects = {place: effect for place, effect in comparison.effects.items() if place[0] == table.metric}
        for what in Finding:
            its = {place: effect for place, effect in effects.items() if finding(table.metric, effect) is what}
            if its:
                about = f"{table.metric}: " if len(tables) > 1 else ""
                said.append(about + sentence(what, its, len(effects), table, comparison, worth))
    return said


def sentence(
    what: Finding,
    effects: Mapping[Place, Effect],
    of: int,
    table: Table,
    comparison: Comparison,
    worth: Mapping[Place, Worth],
) -> str:
    """What all comparisons of one finding say."""
    share = f"{len(effects)} of {of} cells" if of > 1 else "the only cell"
    if what is Finding.FEW:
        return f"Too few pairs of runs to say anything about {share}: {FEWEST} seeds are the least."
    if what is Finding.UNKNOWN:
        least = [d for effect in effects.values() if (d := least_difference(effect, comparison.family)) is not None]
        could = ""
        if least:
            median = points(table.metric, statistics.median(least))
            could = f"; half of them would have shown a difference of {median} with a chance of {CHANCE:.0%}"
        return f"Neither a difference from {comparison.baseline} nor equality is shown for {share}{could}."
    largest = sorted(effects, key=lambda place: (-abs(effects[place].difference), place))
    named = [described(place, table, effects[place], worth.get(place)) for place in largest[:MOST]]
    more = f"; and {len(largest) - MOST} more" if len(largest) > MOST else ""
    beginning = BEGINNINGS[what].format(comparison.baseline, points(table.metric, effects[largest[0]].margin or 0))
    return f"{beginning} in {share} (p, Holm, at most {LEVEL:g}): {'; '.join(named)}{more}."


def described(place: Place, table: Table, effect: Effect, worth: Worth | None) -> str:
    """A cell: its difference with the interval, at which cost, and what it is worth."""
    _, unit = unit_of(table.metric)
    within = ""
    if effect.low is not None and effect.high is not None:
        within = f" ({signed(table.metric, effect.low)} to {signed(table.metric, effect.high)})"
    spent = cost(effect)
    spent = {"equal": "at equal cost", "unknown": "at unknown cost"}.get(spent, f"for {spent} the FLOPs")
    value = f"{signed(table.metric, effect.difference)}{within}{' points' if unit else ''} {spent}"
    if worth is not None:
        budget, ends = in_words(worth.budget, worth), interval(worth)
        value += f", budget-equivalent {budget}{'' if ends in (budget, MISSING) else f' ({ends})'}"
    return f"{name_of(place[1:], table)}: {value}"


def cheapest_best(front: Front, table: Table) -> str:
    """The cells on the front, from the cheapest to the best."""
    cells = [cell for cell in sorted(front.costs, key=front.costs.__getitem__) if cell not in front.beaten]
    factor, unit = unit_of(table.metric)
    digits = ".2f" if unit else ".4g"
    named = [f"{name_of(cell, table)} ({table.cells[cell].mean * factor:{digits}}{unit[2:]})" for cell in cells]
    shown = named if len(named) <= 2 * MOST else [*named[:MOST], f"{len(named) - 2 * MOST} more", *named[-MOST:]]
    return (
        f"On the Pareto front of mean {table.metric} against {front.cost}, {len(cells)} of {len(front.costs)} cells, "
        f"from the cheapest: {'; '.join(shown)}. Means alone decide this, without a test."
    )


def name_of(cell: Cell, table: Table) -> str:
    """A cell in words: the values of its row, and what tells its column from others."""
    row, column = cell
    words = [word for word in row if word]
    for name, word, values in zip(table.columns, column, zip(*table.column_keys, strict=True), strict=True):
        if word and len(set(values)) > 1:
            words.append(f"{name}={word}")
    return ", ".join(words)
