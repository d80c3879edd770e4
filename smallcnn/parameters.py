"""The parameters of a chapter: read from its notebook, changed by `name=value`, checked before anything starts.

The code cell tagged `parameters` of a notebook holds one parameter a line, `name: type = value  # help [unit]`, the
form that papermill understands. The types are int, float, str and list[int].
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallcnn.checks import quote
from smallcnn.commands import CommandError
from smallcnn.paths import BOOK

LINE = re.compile(r"(?P<name>\w+): (?P<type>[\w\[\]]+) = (?P<value>.+?)  # (?P<help>.+?)(?: \[(?P<unit>[^\]]+)\])?$")
LONGEST_VALUE = 300


class ParameterError(CommandError):
    """A chapter or parameter that is unknown or wrong; the message is one line that says what was expected."""

    exit_code = 2


@dataclass(frozen=True)
class Parameter:
    """One parameter of a chapter as published.

    Attributes:
        name: as a notebook's variable.
        type: "int", "float", "str" or "list[int]".
        default: the published value.
        help: what it does.
        unit: of the value, empty for none.
    """

    name: str
    type: str
    default: Any
    help: str
    unit: str


def chapter_names() -> list[str]:
    """The chapters that are notebooks, by file name."""
    return sorted(path.stem for path in BOOK.glob("*.ipynb"))


def read_parameters(chapter: str) -> dict[str, Parameter]:
    """Reads the published parameters of `chapter`, by name, in the notebook's order.

    Raises:
        ParameterError: if there is no such chapter, or its parameters cell has a line of another form.
    """
    names = chapter_names()
    if chapter not in names:
        raise ParameterError(f"unknown chapter {quote(chapter)}; there are: {', '.join(names)}")
    return parse_parameters_cell(parameters_cell(BOOK / f"{chapter}.ipynb"))


def parameters_cell(notebook: Path) -> str:
    """The source of the cell tagged `parameters`; empty where there is none."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return "".join(tagged[0]["source"]) if tagged else ""


def parse_parameters_cell(source: str) -> dict[str, Parameter]:
    """Parses the source of a parameters cell.

    Raises:
        ParameterError: if a line has another form.
    """
    parameters = {}
    for line in filter(None, map(str.strip, source.splitlines())):
        match = LINE.match(line)
        if not match:
            raise ParameterError(f"expected 'name: type = value  # help [unit]' in the parameters cell, found {line!r}")
        default = ast.literal_eval(match["value"])
        parameters[match["name"]] = Parameter(match["name"], match["type"], default, match["help"], match["unit"] or "")
    return parameters


def parse_changes(text: str, chapter: str) -> dict[str, Any]:
    """Parses `name=value name=value …` into typed values for `chapter`.

    Lists are written with commas and no spaces, `filters=4,8,10` or `filters=[4,8,10]`.

    Raises:
        ParameterError: if the chapter or a name is unknown, or a value has not the parameter's type.
    """
    known = read_parameters(chapter)
    changes: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise ParameterError(
                f"cannot read {quote(word)}; write PARAMS as name=value, separated by spaces, lists as 4,8,10"
            )
        if name not in known:
            raise ParameterError(f"unknown parameter {quote(name)} for {chapter}; it has: {', '.join(known)}")
        if name in changes:
            raise ParameterError(f"parameter {name} is given twice")
        if len(value) > LONGEST_VALUE:
            raise ParameterError(f"parameter {name} is {quote(value)}; expected at most {LONGEST_VALUE} characters")
        changes[name] = parse_value(known[name], value)
    return changes


def check_types(chapter: str, values: Mapping[str, Any]) -> None:
    """Checks that each of `values` is a parameter of `chapter` and of its type.

    Raises:
        ParameterError: if one is not.
    """
    known = read_parameters(chapter)
    for name, value in values.items():
        if name not in known:
            raise ParameterError(f"unknown parameter {quote(name)} for {chapter}; it has: {', '.join(known)}")
        if not _has_type(value, known[name].type):
            raise ParameterError(_type_message(known[name], value))


EXPECTED = {
    "int": "a whole number",
    "float": "a finite number",
    "str": "a word",
    "list[int]": "whole numbers, as in 4,8,10",
}


def parse_value(parameter: Parameter, text: str) -> Any:
    """Reads one value as `name=value` writes it.

    Raises:
        ParameterError: if it has not the parameter's type.
    """
    try:
        if parameter.type == "list[int]":
            inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
            return [_parse_int(part) for part in inside.split(",")] if inside else []
        value = {"int": _parse_int, "float": _parse_float, "str": str}[parameter.type](text)
    except ValueError:
        raise ParameterError(_type_message(parameter, text)) from None
    if not _has_type(value, parameter.type):
        raise ParameterError(_type_message(parameter, text))
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
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if type_name == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str)


def _type_message(parameter: Parameter, value: Any) -> str:
    return f"parameter {parameter.name} is {quote(value)}; expected {EXPECTED[parameter.type]}"
