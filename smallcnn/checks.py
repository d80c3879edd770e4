"""Checks of single values, with errors that name the value, what was expected and what was given."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_QUOTE = 60


def quote(value: Any) -> str:
    """Shows a value in an error, on one line and not too long."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 1] + "…"


def perhaps(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """For an error on an unknown name: ", perhaps epochs", the known name most like it; empty if none is `alike`."""
    by_letters = {word.lower(): word for word in known}
    nearest = difflib.get_close_matches(name.lower()[:LONGEST_QUOTE], by_letters, 1, alike)
    return f", perhaps {by_letters[nearest[0]]}" if nearest else ""


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Returns `value` if it is a whole number from `minimum` to `maximum`, else raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; expected a whole number")
    if value < minimum or (maximum is not None and value > maximum):
        limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name} is {value}; expected a whole number {limits}")
    return value


def check_integers(name: str, values: Any, minimum: int, maximum: int | None = None) -> tuple[int, ...]:
    """Returns `values` as a tuple if each is a whole number from `minimum` to `maximum`."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {values!r}; expected a list of whole numbers")
    return tuple(check_integer(f"a value in {name}", value, minimum, maximum) for value in values)


def is_finite(number: float) -> bool:
    """Whether a number, which may be a whole one of any length, is a finite one for a computer."""
    return abs(number) <= sys.float_info.max


def check_number(name: str, value: Any) -> float:
    """Returns `value` as a float if it is a finite number, else raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
        raise TypeError(f"{name} is {quote(value)}; expected a finite number")
    return float(value)


def check_fraction(name: str, value: Any, *, above_zero: bool = False, below_one: bool = False) -> float:
    """Returns `value` as a float if it lies from 0 to 1, the ends included unless excluded."""
    number = check_number(name, value)
    if not 0 <= number <= 1 or (above_zero and number == 0) or (below_one and number == 1):
        lower = "above 0" if above_zero else "from 0"
        upper = "below 1" if below_one else "1"
        raise ValueError(f"{name} is {value}; expected a number {lower} to {upper}")
    return number


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Returns `value` if it is one of `choices`, else raises ValueError."""
    if value not in choices:
        raise ValueError(f"{name} is {quote(value)}; expected one of {', '.join(choices)}")
    return str(value)


def check_flag(name: str, value: Any) -> bool:
    """Returns `value` if it is True or False, else raises TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; expected True or False")
    return value
