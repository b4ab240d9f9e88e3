"""What trackers take: numbers, and text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the values, by name."""
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def text(value: Any) -> str:
    """A value as the command line has it: a word as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def noted(path: Path) -> str | None:
    """The tracker's own id of a run, as it was noted in the run's folder; None if it was not.

    Ids of our own would be the same for the same experiment of somebody else, who may use the same server.
    """
    return path.read_text() if path.exists() else None
