"""The parameters of a chapter: changed by `name=value`, checked before anything starts.

What there are, their types, limits and published values stand in `study`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from smallcnn.checks import (
    LONGEST_QUOTE,
    check_choice,
    check_integer,
    check_integers,
    check_number,
    is_finite,
    perhaps,
    quote,
)
from smallcnn.commands import CommandError
from smallcnn.study import CHAPTERS, PARAMETERS, Parameter

LONGEST_VALUE = 300


class ParameterError(CommandError):
    """A chapter or parameter that is unknown or wrong; the message is one line that says what was expected."""

    exit_code = 2


def published_values(chapter: str) -> dict[str, Any]:
    """The published parameters of `chapter` by name, in the order of its notebook.

    Raises:
        ParameterError: if there is no such chapter.
    """
    if chapter not in CHAPTERS:
        meant = perhaps(PurePath(chapter).stem, CHAPTERS)  # somebody may give the notebook's path
        raise ParameterError(f"unknown chapter {quote(chapter)}{meant}; there are: {', '.join(CHAPTERS)}")
    return dict(CHAPTERS[chapter].published)


def parse_changes(text: str, chapter: str) -> dict[str, Any]:
    """Parses `name=value name=value …` into typed values for `chapter`.

    Lists are written with commas and no spaces, `filters=4,8,10` or `filters=[4,8,10]`.

    Raises:
        ParameterError: if the chapter or a name is unknown, or a value has not the parameter's type.
    """
    known = published_values(chapter)
    changes: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise ParameterError(
                f"cannot read {quote(word)}; write parameters as name=value, separated by spaces, lists as 4,8,10"
            )
        check_name(chapter, name, known)
        if name in changes:
            raise ParameterError(f"parameter {name} is given twice")
        if len(value) > LONGEST_VALUE:
            raise ParameterError(f"parameter {name} is {quote(value)}; expected at most {LONGEST_VALUE} characters")
        changes[name] = parse_value(name, value)
    return changes


def check_name(chapter: str, name: str, known: Mapping[str, Any]) -> None:
    """Raises ParameterError if `chapter` has no parameter of that name."""
    if name not in known:
        names = ", ".join(known) or "no parameters"
        raise ParameterError(f"unknown parameter {quote(name)} for {chapter}{perhaps(name, known)}; it has: {names}")


def check_values(chapter: str, values: Mapping[str, Any]) -> None:
    """Checks types and limits of all parameters of `chapter`.

    Raises:
        ParameterError: if one is unknown, missing, of a wrong type or out of range.
    """
    known = published_values(chapter)
    for name in values:
        check_name(chapter, name, known)
    for name in known:
        if name not in values:
            raise ParameterError(f"{chapter}: parameter {name} has no value; its cell of parameters must set it")
        if not _has_type(values[name], PARAMETERS[name].type):
            raise ParameterError(_message_in_notebook(name, values[name]))
    # A limit that another parameter sets comes after that parameter's own: what is wrong is named, not what follows.
    for name in sorted(known, key=lambda name: isinstance(PARAMETERS[name].maximum, str)):
        try:
            _check_limits(name, PARAMETERS[name], values)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"{chapter}: {error}") from error


def _check_limits(name: str, parameter: Parameter, values: Mapping[str, Any]) -> None:
    value, maximum = values[name], parameter.maximum
    if isinstance(maximum, str):
        maximum = len(values[maximum]) if isinstance(values[maximum], list | tuple) else values[maximum]
    if parameter.choices:
        check_choice(name, value, parameter.choices)
    elif parameter.type == "int":
        check_integer(name, value, parameter.minimum, maximum)
    elif parameter.type == "list[int]":
        check_integers(name, value, parameter.minimum, maximum)
        if name.endswith("seeds") and (not value or len(set(value)) < len(value)):
            raise ValueError(f"{name} is {list(value)}; expected at least one seed and none twice")
        if name == "filters" and not value:
            raise ValueError("filters is empty; expected at least one number of filters, for example [4,8,10]")
    elif parameter.type == "float":
        number = check_number(name, value)
        too_low = number < parameter.minimum or (parameter.open_below and number == parameter.minimum)
        too_high = maximum is not None and (number > maximum or (parameter.open_above and number == maximum))
        if too_low or too_high:
            raise ValueError(f"{name} is {value}; expected a number {parameter.unit}")


EXPECTED = {"int": "a whole number", "float": "a finite number", "str": "a word", "list[int]": "whole numbers"}
EXAMPLES = {"int": 5, "float": 0.001, "str": "auto", "list[int]": [4, 8, 10]}


def parse_value(name: str, text: str) -> Any:
    """Reads one value as `name=value` writes it.

    Raises:
        ParameterError: if it has not the parameter's type.
    """
    type_name = PARAMETERS[name].type
    try:
        if type_name == "list[int]":
            inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
            return [_parse_int(part) for part in inside.split(",")] if inside else []
        value = _parse_int(text) if type_name == "int" else _parse_float(text) if type_name == "float" else text
    except ValueError:
        raise ParameterError(_type_message(name, text)) from None
    if not _has_type(value, type_name):
        raise ParameterError(_type_message(name, text))
    return value


def _parse_int(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError(text)
    return int(text)


def _parse_float(text: str) -> float:
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", text):
        raise ValueError(text)
    return float(text)


def _has_type(value: Any, type_name: str) -> bool:
    if type_name == "list[int]":
        return isinstance(value, list | tuple) and all(_has_type(item, "int") for item in value)
    if type_name == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and is_finite(value)
    if type_name == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str)


def _type_message(name: str, text: str) -> str:
    type_name = PARAMETERS[name].type
    example = str(EXAMPLES[type_name]).strip("[]").replace(" ", "")
    return f"parameter {name} is {quote(text)}; expected {EXPECTED[type_name]}, as in {example}"


def _message_in_notebook(name: str, value: Any) -> str:
    """How a notebook writes what should be there, and how papermill does, which takes a list or `1e-3` for text."""
    parameter, kind = PARAMETERS[name], ""
    example = parameter.choices[0] if parameter.choices else EXAMPLES[parameter.type]
    if isinstance(value, str):
        kind = "the text "
        with contextlib.suppress(ParameterError):
            meant = parse_value(name, value)
            if len(value) < LONGEST_QUOTE and "e" not in repr(meant):  # YAML takes 1e-05 for text again
                example = meant
    return (
        f"parameter {name} is {kind}{quote(value)}; expected {EXPECTED[parameter.type]}: {name} = {example!r} in a "
        f'notebook, -y "{name}: {example}" with papermill'
    )
