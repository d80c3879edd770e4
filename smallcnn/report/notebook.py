"""What a chapter's notebook says by itself: the values in its parameters cell, and the network that it types."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from smallcnn.architecture import Architecture
from smallcnn.files import write_json, write_text
from smallcnn.paths import BOOK, ROOT, build_folder
from smallcnn.report.parameters import ParameterError, check_values, published_values
from smallcnn.study import CHAPTERS, PARAMETERS


def tagged_source(chapter: str, tag: str) -> str:
    """The source of the first cell of `chapter` with this tag; empty where there is none.

    Raises:
        ParameterError: if the notebook cannot be read.
    """
    path = BOOK / f"{chapter}.ipynb"
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if tag in cell["metadata"].get("tags", [])]
        return "".join(tagged[0]["source"]) if tagged else ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{chapter}: book/{path.name} cannot be read ({error}); git checkout book/{path.name} brings it back"
        ) from error


def notebook_values(chapter: str) -> dict[str, Any]:
    """The values that the notebook's own parameters cell sets, as papermill reads it; other lines count for nothing.

    Raises:
        ParameterError: if the chapter is unknown, or a parameter is set to what is no plain value.
    """
    known, values = published_values(chapter), {}
    for statement in _parsed(chapter, "parameters").body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if name in known:
                try:
                    values[name] = ast.literal_eval(value)
                except (ValueError, TypeError):
                    text = ast.unparse(value)
                    raise ParameterError(f"{chapter}: parameter {name} is {text}; expected a plain value") from None
    return values


def edited_values(chapter: str) -> dict[str, Any]:
    """What the notebook's own parameters cell sets otherwise than published: an experiment that somebody saved."""
    published = published_values(chapter)
    return {name: value for name, value in notebook_values(chapter).items() if value != published[name]}


def parameters_source(chapter: str) -> str:
    """The source of the parameters cell with the published values, in the form that papermill can explain."""
    lines = []
    for name, value in published_values(chapter).items():
        parameter = PARAMETERS[name]
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        lines.append(f"{name}: {parameter.type} = {json.dumps(value)}  # {parameter.help}{unit}")
    return "\n".join(lines)


def write_published_parameters() -> list[str]:
    """Writes the published values into the parameters cells of the notebooks.

    Returns:
        The chapters whose notebooks were changed.
    """
    changed = []
    for chapter in CHAPTERS:
        path = BOOK / f"{chapter}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if "parameters" in cell["metadata"].get("tags", []):
                cell["source"] = parameters_source(chapter).splitlines(keepends=True)
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        if text != path.read_text(encoding="utf-8"):
            write_text(path, text)
            changed.append(chapter)
    return changed


def check_parameters(chapter: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Checks changed parameters of `chapter` as its notebook would, without training anything.

    Returns:
        All parameters of the chapter by name, changed ones as in `changes`.

    Raises:
        ParameterError: if the chapter or a name is unknown, a type is wrong, a value is out of range, or the network
            that they make is none that can be trained.
    """
    values = notebook_values(chapter) | dict(changes)
    check_values(chapter, values)
    read_network(chapter, values)
    return values


def read_network(chapter: str, values: Mapping[str, Any]) -> Architecture | None:
    """The network that `chapter` types with these parameters; None for a chapter that types none.

    The parameters cell and the cell tagged `network` run alone, in a namespace of their own. What came of them is kept
    in the build's folder, since importing Keras takes seconds.

    Raises:
        ParameterError: if the cell fails, or its `model` is outside the vocabulary.
    """
    source, parameters = (tagged_source(chapter, tag) for tag in ("network", "parameters"))
    if not source:
        return None
    names = network_variables(chapter)
    content = [source, parameters, {name: value for name, value in values.items() if name in names}, _reader()]
    kept = build_folder() / "networks" / f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}.json"
    try:
        return Architecture.from_json(json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        architecture = _run_network_cell(chapter, parameters, source, values)
    with suppress(OSError):  # it can be read again
        write_json(kept, architecture.to_json())
    return architecture


def network_variables(chapter: str) -> set[str]:
    """The variables that the network cell of `chapter` uses."""
    return {node.id for node in ast.walk(_parsed(chapter, "network")) if isinstance(node, ast.Name)}


def _parsed(chapter: str, tag: str) -> ast.Module:
    try:
        return ast.parse(tagged_source(chapter, tag))
    except SyntaxError as error:
        raise ParameterError(f"{chapter}: its {tag} cell is no Python, {error.msg} in line {error.lineno}") from None


def _reader() -> str:
    """A hash of the code that reads networks, whose results are kept."""
    files = [ROOT / "smallcnn" / name for name in ("architecture.py", "models.py")]
    return hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest()


def _run_network_cell(chapter: str, parameters: str, source: str, values: Mapping[str, Any]) -> Architecture:
    from smallcnn.models import explain, import_keras, read_architecture

    import_keras()
    namespace: dict[str, Any] = {}
    try:
        exec(parameters, namespace)
        namespace.update(values)
        exec(source, namespace)
        return read_architecture(namespace["model"])
    except Exception as error:  # whatever a cell does
        what = (
            "its network cell makes no `model`"
            if isinstance(error, KeyError) and error.args == ("model",)
            else explain(error)
        )
        raise ParameterError(f"{chapter}: {what}") from error
