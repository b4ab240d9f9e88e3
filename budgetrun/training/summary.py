"""What is reported at the end of a run. Does not import torch, which a run that is already finished does not need."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("budgetrun")
BEFORE = "already finished, not run again (force=true runs it again)"


def say(result: Mapping[str, Any], path: Path) -> None:
    """Log the result, what it cost, what the method did, and where the result is."""

    def spent(name: str, form: str) -> str:
        return "unknown" if result[name] is None else format(result[name], form)

    did = in_words(result)
    log.info(
        "test accuracy %.4f after %s updates: %s images trained on, %s forward passes, %s FLOPs, %s s%s\n%s",
        result["test_accuracy"],
        spent("updates", ".0f"),
        spent("examples_backward", ",.0f"),
        spent("examples_forward", ",.0f"),
        spent("flops", ".4g"),
        spent("seconds", ".1f"),
        did and f"\n{result['names']['sampler']}: {did}",
        path,
    )


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
    if looking == 0 and "threshold" in sampler:
        said.append("the gate never opened: this was uniform sampling")
    elif looking == 0 and "looks" in sampler:
        said.append("it never looked: this was uniform sampling")
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
