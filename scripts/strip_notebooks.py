"""Leaves of notebooks what git keeps: their text and code, tags; no results, and no trace of an editor.

    strip_notebooks.py NOTEBOOK …            rewrites those that have more, and names them
    strip_notebooks.py --check NOTEBOOK …    only names them, and ends with 1 if there is one

It needs no package. Jupyter, VS Code and a run each leave metadata of their own, in places that change with their
versions; so this lists what stays, not what goes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KEPT_CELL_METADATA = ("tags",)
FOLDED = {"hide-input", "hide-cell"}
# Editors write the name and the version of the kernel that they found here; the build takes .venv's whatever it says.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def strip_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell without results, folded by its tags alone; its source is a list of lines, as Jupyter stores it."""
    metadata = {name: cell["metadata"][name] for name in KEPT_CELL_METADATA if cell["metadata"].get(name)}
    tags = set(metadata.get("tags", []))
    if tags & FOLDED and "parameters" not in tags:
        metadata["jupyter"] = {"source_hidden": True}  # as JupyterLab folds what a page folds
    source = "".join(cell["source"]).splitlines(keepends=True)
    results: dict[str, Any] = {"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {}
    return {**cell, "metadata": metadata, "source": source, **results}


def strip_notebook(text: str) -> str:
    """The text of a notebook as git keeps it, laid out as Jupyter does.

    Raises:
        ValueError: if `text` is no notebook of format 4.
    """
    try:
        notebook = json.loads(text)
        kept = {"nbformat": notebook["nbformat"], "nbformat_minor": notebook["nbformat_minor"], "metadata": METADATA}
        cells = [strip_cell(cell) for cell in notebook["cells"]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"no notebook of format 4 ({type(error).__name__}: {error})") from error
    return json.dumps({**kept, "cells": cells}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    check = arguments[:1] == ["--check"]
    paths = [Path(name) for name in arguments[check:]]
    if not paths:
        print("strip_notebooks.py: expected the names of notebooks, after --check or alone", file=sys.stderr)
        return 2
    found = False
    for path in paths:
        try:
            text = path.read_bytes().decode()
            stripped = strip_notebook(text)
        except (OSError, ValueError) as error:
            print(f"{path}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            return 2
        if stripped != text:
            found = True
            print(f"{path}: has more than git keeps; make format removes it" if check else f"{path}: stripped")
            if not check:
                temporary = path.with_name(f".{path.name}.part")  # a kill leaves the notebook as it was
                temporary.write_bytes(stripped.encode())
                temporary.replace(path)
    return int(check and found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
