"""What the comparisons say, in sentences, and no more than the tests support."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence

from budgetrun.tables.compare import FEWEST, LEVEL, Comparison, Effect, Finding, cost, finding, points, signed
from budgetrun.tables.pareto import Cell, Front, task_of
from budgetrun.tables.power import CHANCE, least_difference
from budgetrun.tables.runs import Run
from budgetrun.tables.table import MISSING, Key, Place, Table, mean_of, number, unit_of
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
    if what is Finding.DIVERGED:
        return f"Nothing is tested for {share}: a run measured NaN or infinity."
    if what is Finding.UNKNOWN:
        return unknown(effects.values(), share, table, comparison)
    largest = sorted(effects, key=lambda place: (-abs(effects[place].difference), place))
    named = [described(place, table, effects[place], worth.get(place)) for place in largest[:MOST]]
    more = f"; and {len(largest) - MOST} more" if len(largest) > MOST else ""
    beginning = BEGINNINGS[what].format(comparison.baseline, points(table.metric, effects[largest[0]].margin or 0))
    test = "p of equivalence, Holm" if what is Finding.EQUAL else "p, Holm"
    return f"{beginning} in {share} ({test}, at most {LEVEL:g}): {'; '.join(named)}{more}."


def unknown(effects: Collection[Effect], share: str, table: Table, comparison: Comparison) -> str:
    """What the comparisons say that show nothing, and what they could have shown."""
    bounded = all(effect.margin is not None for effect in effects)
    base = comparison.baseline
    said = f"Neither a difference from {base} nor equality is" if bounded else f"No difference from {base} is"
    least = [d for effect in effects if (d := least_difference(effect, comparison.family)) is not None]
    could = ""
    if least:
        who = "it" if len(effects) == 1 else "half of them" if len(least) == len(effects) else "half of those that vary"
        median = points(table.metric, statistics.median(least))
        could = f"; {who} would have shown a difference of {median} with a chance of {CHANCE:.0%}"
    same = sum(not any(effect.differences) for effect in effects)  # as tuning makes them that chooses what is set
    where = "" if len(effects) == 1 else f" in {same} of them"
    alike = f"; every pair is exactly equal{where}" if same else ""
    return f"{said} shown for {share}{alike}{could}."


def described(place: Place, table: Table, effect: Effect, worth: Worth | None) -> str:
    """A cell: its difference with the interval, at which cost, and what it is worth."""
    _, unit = unit_of(table.metric)
    within = ""
    if effect.low is not None and effect.high is not None:
        low, high = (signed(table.metric, end, effect.uncertain) for end in (effect.low, effect.high))
        within = f" ({low} to {high})"
    spent = cost(effect)
    spent = {"equal": "at equal cost", "unknown": "at unknown cost"}.get(spent, f"for {spent} the FLOPs")
    value = f"{signed(table.metric, effect.difference, effect.uncertain)}{within}{' points' if unit else ''}"
    if effect.supported and effect.negligible:
        value += f", less than {points(table.metric, effect.margin or 0)},"
    value += f" {spent}"
    if worth is not None:
        budget, ends = in_words(worth.budget, worth), interval(worth)
        value += f", budget-equivalent {budget}{'' if ends in (budget, MISSING) else f' ({ends})'}"
    return f"{name_of(place[1:], table)}: {value}"


def never_looked(runs: Sequence[Run]) -> list[str]:
    """One sentence per sampler that could have looked before it chose, and did so in none of its runs."""
    looking: dict[str, list[Run]] = {}
    for run in runs:
        if "sampler.looks" in run:
            looking.setdefault(str(run["sampler"]), []).append(run)
    return [
        f"{sampler} looked at nothing in its {f'{len(its)} runs' if len(its) > 1 else 'only run'}: it chose as uniform "
        "sampling does" + (", with replacement." if its[0].get("sampler.replacement") else ".")
        for sampler, its in looking.items()
        if all(run.get("looking_updates") == 0 for run in its)
    ]


def cheapest_best(front: Front, table: Table) -> list[str]:
    """One sentence per task of several cells: those on its front, from the cheapest to the best."""
    tasks: dict[Key, list[Cell]] = {}
    for cell in table.cells:
        tasks.setdefault(task_of(cell, table), []).append(cell)
    return [
        on_the_front(cells, front, table, task if len(tasks) > 1 else ())
        for task, cells in sorted(tasks.items())
        if len(cells) > 1 and not front.costs.keys().isdisjoint(cells)
    ]


def on_the_front(cells: Sequence[Cell], front: Front, table: Table, task: Key) -> str:
    """The cells of a task that are on its front. task: its settings, if there are others."""
    known = sorted(front.costs.keys() & set(cells), key=lambda cell: (front.costs[cell], cell))
    best = [cell for cell in known if cell not in front.beaten]
    _, unit = unit_of(table.metric)
    named = [f"{name_of(cell, table)} ({mean_of(table.metric, table.cells[cell])}{unit[2:]})" for cell in best]
    shown = named if len(named) <= 2 * MOST else [*named[:MOST], f"{len(named) - 2 * MOST} more", *named[-MOST:]]
    lost = f" with a finite mean and a known cost, of {len(cells)} in all" if len(known) < len(cells) else ""
    where = f" with {', '.join(task)}" if task else ""
    return (
        f"On the Pareto front of mean {table.metric} against {front.cost}{where}, {len(best)} of {len(known)} "
        f"cells{lost}, from the cheapest: {'; '.join(shown)}. Means alone decide this, without a test."
    )


def name_of(cell: Cell, table: Table) -> str:
    """A cell in words: the values of its row, numbers with their names, and what tells its column from others."""
    row, column = cell
    words = [
        word if number(word) is None else f"{name}={word}" for name, word in zip(table.rows, row, strict=True) if word
    ]
    for name, word, values in zip(table.columns, column, zip(*table.column_keys, strict=True), strict=True):
        if word and len(set(values)) > 1:
            words.append(f"{name}={word}")
    return ", ".join(words)
