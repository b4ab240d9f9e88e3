"""How numbers are written, everywhere: with the digits that mean something, and large ones as 4.2e12."""

from __future__ import annotations

import math

LARGE, SMALL = 1e6, 1e-4  # from here on, and below, a number has an exponent
LEAST = 1e-300  # what is smaller is written as 0
MOST = 6  # significant digits, however small a deviation is


def short(value: float, digits: int = 4) -> str:
    """A number by itself: at most so many significant digits, but whole below a million in full."""
    return written(value, digits=digits)


def quantity(count: float, noun: str) -> str:
    """1 run, 38 runs: a count of things, with the regular plural of their noun."""
    return f"{count:,g} {noun}{'' if count == 1 else 's'}"


def written(
    value: float, spread: float | None = None, decimals: int | None = None, sign: str = "", digits: int = 4
) -> str:
    """A number that is known up to a spread, to two digits of that; without a spread, see `short`.

    decimals: how many it has whatever the spread. sign: "+" for one before positive numbers too.
    """
    power, places = form(value, spread, decimals, digits)
    text = in_places(value, power, places, sign)
    if not spread and decimals is None and "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text}e{power}" if power else text


def with_deviation(mean: float, deviation: float | None, decimals: int | None = None) -> str:
    """0.366 ± 0.020, with as many decimals on both sides; the mean alone if there is no deviation, or it is 0."""
    if not deviation:
        return written(mean, decimals=decimals)
    power, places = form(mean, deviation, decimals, MOST)
    both = " ± ".join(in_places(value, power, places) for value in (mean, deviation))
    return f"({both})e{power}" if power else both


def form(value: float, spread: float | None, decimals: int | None, digits: int) -> tuple[int, int]:
    """The power of ten that is written apart, 0 for none, and the decimals; negative ones round to tens and more."""
    largest = max(abs(value), spread or 0.0)
    if decimals is not None or not math.isfinite(largest) or largest < LEAST:
        return 0, decimals or 0
    power = 0 if SMALL <= largest < LARGE else magnitude(largest, digits)
    if not spread:
        return power, max(0, digits - 1 - magnitude(largest, digits) + power)
    return power, min(1 - magnitude(spread, 2), MOST - 1 - magnitude(largest, MOST)) + power


def magnitude(value: float, digits: int) -> int:
    """The exponent of a number that is rounded to so many digits: 0 for 9.94 and 1 for 9.96, with two."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def in_places(value: float, power: int, places: int, sign: str = "") -> str:
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else f"{value:{sign}}"
    scaled = value / 10**power
    return f"{round(scaled, places) if places < 0 else scaled:{sign}z,.{max(0, places)}f}"  # z: no -0.00
