"""What is reported at the end of a run. Does not import torch, which a run that is already finished does not need."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budgetrun.digits import short

log = logging.getLogger("budgetrun")


def said_before(result: Mapping[str, Any]) -> str:
    """That a run was finished already. If it has a class of the user's own, also that an edit does not change that."""
    own = [one for one in targets(result["config"]) if not one.startswith("budgetrun.")]
    why = f", as after an edit of {own[0]}: its code is not compared" if own else ""
    return f"already finished, not run again (force=true runs it again{why})"


def targets(values: Any) -> list[str]:
    """The classes in a configuration."""
    if not isinstance(values, Mapping):
        return []
    return [*filter(None, [values.get("_target_")]), *(one for value in values.values() for one in targets(value))]


def say(result: Mapping[str, Any], path: Path) -> None:
    """Log the result, what it cost, what the method did, and where the result is."""

    def spent(name: str, digits: int = 4) -> str:
        return "unknown" if result[name] is None else short(result[name], digits)

    log.info(
        "test accuracy %.2f %% after %s updates: %s images trained on, %s forward passes, %s FLOPs%s, %s s",
        100 * result["test_accuracy"],
        *map(spent, ("updates", "examples_backward", "examples_forward", "flops")),
        against_uniform(result),
        spent("seconds", 3),
    )
    if did := in_words(result):
        log.info("%s: %s", result["names"]["sampler"], did)
    log.info("%s", path)


def against_uniform(result: Mapping[str, Any]) -> str:
    """What a run cost in FLOPs, as a multiple of what as many updates cost with uniform sampling, in words.

    "" for uniform sampling itself, and if it is not known, as in results of earlier versions.
    """
    flops, uniform, before = (result.get(name) for name in ("flops", "flops_uniform", "flops_before"))
    if result["names"]["sampler"] == "uniform" or not flops or not uniform:
        return ""

    times = short(flops / uniform, 2)
    said = "as many as" if times == "1" else f"{times} times those of"
    files = f", or {short((flops + before) / uniform, 2)} times with the runs that made its files" if before else ""
    return f" ({said} uniform sampling for as many updates{files})"


def in_words(result: Mapping[str, Any]) -> str:
    """What the method of a finished run did, in one line, from its result's diagnostics; "" if there is nothing to say.

    A null value is unknown.
    """
    sampler = result["config"].get("sampler", {})
    keep, looking, effective, flops, seconds, corrupted, selected = map(
        result.get,
        (
            "keep_rate",
            "looking_updates",
            "effective_batch",
            "selection_flops",
            "selection_seconds",
            "corrupted",
            "selected_corrupted",
        ),
    )
    said = []
    uniform = "this was uniform sampling" + (", with replacement" if sampler.get("replacement") else "")
    if looking == 0 and "threshold" in sampler:
        said.append(f"the gate never opened: {uniform}")
    elif looking == 0 and "looks" in sampler:
        said.append(f"it never looked: {uniform}")
    elif looking and looking < 1:
        how = "the gate was open" if "threshold" in sampler else "it looked"
        said.append(f"{how} for {percent(looking)} of the updates")
    if keep and keep < 1:
        of = "what it looked at" if looking == 1 else "its candidates"
        said.append(f"it kept {percent(keep)} of {of}")
    elif keep and "ratio" in sampler:
        said.append("it dropped nothing: this was uniform sampling")
    if effective is not None and effective < 1:
        said.append(f"its weights made a batch count as {percent(effective)} of one")
    if flops:
        of_time = f" and {percent(seconds)} of the time" if seconds is not None else ""
        said.append(f"choosing took {percent(flops)} of the FLOPs{of_time}")
    if corrupted is not None and selected is not None:
        said.append(f"{percent(selected)} of what it trained on is corrupted, and {percent(corrupted)} of the data")
    return "; ".join(said)


def percent(share: float) -> str:
    """A share in percent to two digits; only 1 is 100%."""
    return "100%" if share >= 1 else "over 99%" if share >= 0.995 else f"{100 * share:.2g}%"
