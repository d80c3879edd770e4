"""What the code of a chapter says that it shows and writes, and what of it an executed notebook lacks.

A cell shows what `display` gets, what `print` prints, what a function that returns nothing shows itself, and the value
of its last expression unless a semicolon follows. What that value is, the function says that makes it: `figures.…`,
`results.…`, `chapter.…` are looked up in the module of that name in `smallcnn/report`, and what they return is a
picture, a table, a text, or something else, which may be nothing. What only runs under a condition is not expected.

Nothing here imports more than the standard library, as `cache` does not either.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from smallcnn.paths import ROOT

KINDS = {"Picture": "picture", "pd.DataFrame": "table", "Markdown": "text", "HTML": "text"}
FRAME_METHODS = ("assign", "drop", "head", "rename", "round", "set_index", "sort_values", "tail")  # which make a frame
PRINTED = "printed text"
PICTURE = re.compile(r'<figure class="picture"[^>]*><svg\b.*?</svg><figcaption>\s*\S.*?</figcaption>', re.DOTALL)
TABLE = re.compile(r'<div class="results"><table\b.*?</table>', re.DOTALL)


def problems(notebook: Path, results: Path) -> list[str]:
    """What an executed notebook and the results that it wrote lack; a sentence each."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError) as error:
        return [f"{notebook.name} cannot be read ({type(error).__name__})"]
    return [*missing_outputs(cells), *missing_results(cells, results)]


def missing_outputs(cells: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What executed cells, as a notebook's file or nbformat has them, should show and do not."""
    for cell in cells:
        if cell["cell_type"] == "code":
            found = shown(cell["outputs"])
            for kind, count in announced("".join(cell["source"])).items():
                if found[kind] < count:
                    yield f"cell {cell.get('id')} shows {found[kind]} of {count} {kind}s that its code makes"


def missing_results(cells: Iterable[Mapping[str, Any]], results: Path) -> Iterator[str]:
    """What the file `results` lacks that the code of `cells` writes."""
    sources = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    expected = {key for source in sources for key in written_keys(source)}
    if not expected:
        return
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        missing = expected - content.keys()
    except (OSError, ValueError, AttributeError):
        missing = expected
    if missing:
        yield f"its results lack {', '.join(sorted(missing))}"


def announced(source: str) -> Counter[str]:
    """How many outputs of each kind a cell must have."""
    body = _statements(source)
    kinds = [kind for statement in body for kind in _displayed(statement, "")]
    if body and isinstance(body[-1], ast.Expr) and not _ends_in_semicolon(source, body[-1]):
        kinds.append(_kind(body[-1].value, ""))
    return Counter({kind: 1 if kind == PRINTED else kinds.count(kind) for kind in kinds if kind})


def shown(outputs: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many outputs of each kind there are; a picture without its drawing or its caption is none."""
    found: Counter[str] = Counter()
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stdout":
            found[PRINTED] += 1
        html, text = ("".join(output.get("data", {}).get(f"text/{kind}", "")) for kind in ("html", "markdown"))
        pictures, tables = len(PICTURE.findall(html)), len(TABLE.findall(html))
        found += Counter(picture=pictures, table=tables, text=bool(text.strip() or (html and not pictures + tables)))
    return found


def written_keys(source: str) -> set[str]:
    """The keys of the results that a cell writes with `chapter.write_…`."""
    calls = (node for statement in _statements(source) for node in ast.walk(statement) if isinstance(node, ast.Call))
    return {key for call in calls if _name(call).startswith("chapter.write_") for key in _keys(call, "")}


def _keys(call: ast.Call, module: str) -> set[str]:
    """The keywords of a call that its function passes on, and the keys that it adds."""
    module, function = _function(call, module)
    if function is None:
        return set()
    own = {argument.arg for argument in function.args.args}
    keys = {keyword.arg for keyword in call.keywords if keyword.arg and keyword.arg not in own}
    for node in ast.walk(function):
        if isinstance(node, ast.Dict):
            keys |= {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
        elif isinstance(node, ast.Call) and _name(node).startswith("self.write_"):
            keys |= _keys(node, module)
    return keys


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(re.sub(r"^[%!].*", "", source, flags=re.MULTILINE)).body  # without what is IPython's own
    except SyntaxError:
        return []


def _displayed(statement: ast.stmt, module: str) -> Iterator[str | None]:
    """The kinds of output that a statement makes, apart from its value."""
    match statement:
        case ast.Expr(value=ast.Call(args=arguments) as call):
            module, function = _function(call, module)
            if _name(call) == "display":
                yield from (_kind(argument, module) for argument in arguments)
            elif _name(call) == "print":
                yield PRINTED if arguments and not call.keywords else None
            elif function and function.returns and ast.unparse(function.returns) == "None":
                for inner in function.body:
                    yield from _displayed(inner, module)


def _kind(value: ast.expr, module: str) -> str | None:
    """The kind of output that a value is shown as; None where that cannot be told, or may be nothing."""
    match value:
        case ast.Call(func=ast.Attribute(value=ast.Call() as frame, attr=method)) if method in FRAME_METHODS:
            return "table" if _kind(frame, module) == "table" else None
        case ast.Call():
            _, function = _function(value, module)
            returns = function.returns if function else value.func
            return KINDS.get(ast.unparse(returns)) if returns else None
    return None


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func)


def _function(call: ast.Call, module: str) -> tuple[str, ast.FunctionDef | None]:
    """The function of `smallcnn.report` that is called within `module`, and its own module."""
    match call.func:
        case ast.Attribute(value=ast.Name(id=name), attr=function):
            module = module if name == "self" else name
            return module, _functions(module).get(function)
    return module, None


@functools.cache
def _functions(module: str) -> dict[str, ast.FunctionDef]:
    path = ROOT / "smallcnn" / "report" / f"{module}.py"
    tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def _ends_in_semicolon(source: str, last: ast.Expr) -> bool:
    line = source.splitlines()[(last.end_lineno or 0) - 1].encode()
    return line[last.end_col_offset :].lstrip().startswith(b";")
