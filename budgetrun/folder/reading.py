"""Reads what is on disk, and checks it: our own JSON, and the numbers that runs write.

A file may be cut off, edited by hand, written by another version, or not a file at all. Any fault raises OSError, or
ValueError with a short reason, so that the caller can name the file and go on without it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from budgetrun.terminal import shown

LARGEST = 1e100  # the largest number to compute with
DEEPEST = 50  # the deepest nesting of lists and dictionaries
NUMBERS = (int, float)  # booleans are not numbers


def content(path: str | Path) -> bytes:
    """The bytes of a file; raises OSError, or ValueError if it is not a file: reading a FIFO may never end."""
    about = os.stat(path)  # noqa: PTH116 -- strings, as there may be ten thousand files
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is not a file")
    handle = os.open(path, os.O_RDONLY)  # opening a Python file takes twice as long as all of this
    try:
        return b"".join(iter(lambda: os.read(handle, about.st_size + 1), b""))
    except MemoryError:
        raise ValueError("it is too large to be read") from None
    finally:
        os.close(handle)


def parse(text: bytes | str) -> Any:
    """Parse JSON without duplicate keys; raises ValueError for any other text."""
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if text.count("[") + text.count("{") > DEEPEST:  # otherwise it cannot be deeper
        shallow([value], DEEPEST)
    return value


def shallow(value: list[Any] | dict[str, Any], left: int) -> None:
    """Raise ValueError if lists and dictionaries are nested more than `left` levels deep, which others cannot read."""
    for part in value.values() if isinstance(value, dict) else value:
        if type(part) is dict or type(part) is list:
            if not left:
                raise ValueError("it is nested too deep")
            shallow(part, left - 1)


def lines_of(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; raises OSError, or ValueError that names the first line without one."""
    texts = content(path).splitlines()
    try:
        lines = parse(b"[" + b",".join(texts) + b"]")  # one call is a third faster than one per line
        if len(lines) == len(texts) and all(isinstance(line, dict) for line in lines):
            return lines
    except ValueError:
        pass
    for number, text in enumerate(texts, 1):
        try:
            line = parse(text)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(line, dict):
            raise ValueError(f"line {number}: it has no keys")
    raise ValueError("it is not JSON")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ValueError for duplicate keys, since it is unclear which value was meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {brief(max(names, key=names.count))} more than once")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=unique)


def flat(values: Mapping[str, Any], prefix: str = "", result: dict[str, Any] | None = None) -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys; raises ValueError if two keys become the same."""
    result = {} if result is None else result
    for key, value in values.items():
        if isinstance(value, dict):
            flat(value, f"{prefix}{key}.", result)
        elif (name := prefix + key) in result:
            raise ValueError(f"it has {brief(name)} more than once")
        else:
            result[name] = value
    return result


# ---- numbers


class Rule(NamedTuple):
    """The valid values of a number: from `low` to `high`, `what` in words.

    whole: whether it must be a whole number. loose: whether it may be nan or infinite. A metric that is nan is shown as
    nan, and its run is named.
    """

    low: float
    high: float
    what: str
    whole: bool = False
    loose: bool = True


COUNT = Rule(0, LARGEST, "a whole number from 0", whole=True, loose=False)
POSITIVE_COUNT = Rule(1, LARGEST, "a whole number from 1", whole=True, loose=False)
SHARE = Rule(0, 1, "a number from 0 to 1")
AMOUNT = Rule(0, LARGEST, "a number from 0")
NUMBER = Rule(-LARGEST, LARGEST, "a number")
RULES = {
    **dict.fromkeys(
        (
            "test_accuracy",
            "val_accuracy",
            "keep_rate",
            "looking_updates",
            "corrupted",
            "selected_corrupted",
            "selected_corrupted_lately",
            "selection_flops",
        ),
        SHARE,
    ),
    **dict.fromkeys(
        ("updates", "examples_forward", "examples_backward", "n_training", "n_corrupted", "n_parameters", "seed"), COUNT
    ),
    **dict.fromkeys(("batch_size", "evaluations"), POSITIVE_COUNT),
    **dict.fromkeys(
        (
            "flops",
            "flops_before",
            "flops_uniform",
            "flops_tuning",
            "flops_shared",
            "seconds",
            "seconds_total",
            "visits_entropy",
            "selected_class_entropy",
            "effective_batch",
        ),
        AMOUNT,
    ),
    **dict.fromkeys(("train_loss", "test_loss", "val_loss", "selection_seconds", "lr"), NUMBER),
    "progress": Rule(0, 1, SHARE.what, loose=False),
    "budget": Rule(math.ulp(0), 1, "a number above 0, at most 1", loose=False),
    "epochs": Rule(math.ulp(0), LARGEST, "a number above 0", loose=False),
}


def is_number(value: Any) -> bool:
    """Whether it can be computed with: not booleans, nor finite numbers so large that their squares may be infinite."""
    return type(value) in NUMBERS and (-LARGEST <= value <= LARGEST or not -math.inf < value < math.inf)


def check(values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first of the known numbers that is invalid; None was not measured."""
    for name, (low, high, _, whole, _) in RULES.items():
        value = values.get(name)
        # nearly all values pass here, at a third of the cost of a call
        if not (value is None or (type(value) in NUMBERS and low <= value <= high and not (whole and value % 1))):
            check_one(name, value, RULES[name])


def check_column(name: str, values: Iterable[Any]) -> None:
    """The same for several values of one name, which may be anything if the name is not known."""
    if name in RULES:
        low, high, _, whole, _ = RULES[name]
        for value in values:
            if not (value is None or (type(value) in NUMBERS and low <= value <= high and not (whole and value % 1))):
                check_one(name, value, RULES[name])


def check_one(name: str, value: Any, rule: Rule) -> None:
    """The same for one number."""
    if type(value) not in NUMBERS:
        raise ValueError(f"{name} is not a number but {brief(value)}")
    if not is_number(value):
        raise ValueError(f"{name} is too large to compute with: {brief(value)}")
    if rule.loose:
        holds = value != value or rule.low <= max(-LARGEST, min(value, LARGEST)) <= rule.high
    else:
        holds = rule.low <= value <= rule.high and not (rule.whole and value % 1)
    if not holds:
        raise ValueError(f"{name} is not {rule.what} but {brief(value)}")


def brief(value: Any) -> str:
    """A value for a sentence: on one line, and shortened if it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return shown(text if len(text) <= 60 else f"{text[:50]}...")
