"""What must hold before an executed notebook, and then a built page, may enter the book.

Each function returns what is wrong, one sentence a problem; nothing where all is well.
"""

from __future__ import annotations

import ast
import copy
import csv
import io
import json
import os
import re
import statistics
from base64 import b64decode
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode

from smallcnn import study
from smallcnn.build.outputs import missing_outputs
from smallcnn.paths import ROOT
from smallcnn.report.tables import TITLES

INJECTED = "injected-parameters"  # papermill's tag for the cell that it adds
# What no reader should see: errors, warnings, numbers as Python prints them, addresses of this machine.
FORBIDDEN = ("Traceback (most recent call last)", "<Figure size", "\x1b[", "file://")
FORBIDDEN_PATTERNS = (
    re.compile(r"\b(?:\w*(?:Error|Warning)|WARNING|ERROR):"),
    re.compile(r"\b(?:np|numpy)\.\w+\("),
    re.compile(r"(?<![\w./-])/(?:tmp|home|root|usr|var|Users)/\w+"),
    re.compile(r"\bnan\b"),
)
FORBIDDEN_CLASSES = ("traceback", "stderr", "system-message", "problematic")
RAW_HTML = re.compile(r"^```\{raw\} html\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
ACCURACIES = ("best test accuracy", "epoch chosen by other images")
# The pages whose first table sums the results up, and the columns that follow from them.
SUMMARIES = {
    "index.html": (*ACCURACIES, "parameters", "trainable", "seeds", "lowest seed"),
    "comparison.html": (*ACCURACIES, "parameters", "trainable"),
}


def notebook_problems(executed: NotebookNode, source: NotebookNode, parameters: Mapping[str, Any]) -> list[str]:
    """Checks that `executed` is `source`, executed by papermill from top to bottom with `parameters`."""
    problems = []
    told = executed.metadata.get("papermill", {})
    if told.get("exception"):
        problems.append("papermill met an exception")
    if told.get("parameters") != dict(parameters):
        problems.append(f"it was executed with {told.get('parameters')}, not with {dict(parameters)}")
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    injected = [cell for cell in cells if INJECTED in cell.metadata.get("tags", [])]
    if _assignments(injected) != dict(parameters):
        problems.append(f"its parameters cell does not set {dict(parameters)}")
    for number, cell in enumerate(cells, start=1):
        if cell.execution_count != number:
            count = "not executed" if cell.execution_count is None else f"executed as number {cell.execution_count}"
            problems.append(f"code cell {number} was {count}")
        if cell.metadata.get("papermill", {}).get("status") != "completed":
            problems.append(f"code cell {number} did not finish")
        problems += [
            f"code cell {number} ended with {output.ename}: {output.evalue}"
            for output in cell.outputs
            if output.output_type == "error"
        ]
    code = [(cell.id, cell.source) for cell in cells if cell not in injected]
    if code != [(cell.id, cell.source) for cell in source.cells if cell.cell_type == "code"]:
        problems.append("its code is not that of the chapter")
    return [*problems, *missing_outputs(executed.cells)]


def _assignments(cells: list[NotebookNode]) -> dict[str, Any] | None:
    """The values that cells of plain assignments set; None if there is anything else in them."""
    values: dict[str, Any] = {}
    try:
        for cell in cells:
            for statement in ast.parse(cell.source).body:
                (target,) = statement.targets
                values[target.id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError, AttributeError):
        return None
    return values


def book_problems(html: Path, results: Mapping[str, Mapping[str, Any]], source: Path) -> list[str]:
    """Checks all pages of a built book.

    Args:
        html: its folder.
        results: those of the chapters, by name, which the summaries must show.
        source: the folder of executed chapters, pages and generated parts that it was built from.
    """
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(html.glob("*.html"))}
    pages = {name: BeautifulSoup(text, "html.parser") for name, text in texts.items()}
    problems = [f"{name} is missing" for name in SUMMARIES if name not in pages]
    for name, page in pages.items():
        found = [
            *_text_problems(page),
            *_table_problems(page),
            *_image_problems(page),
            *_link_problems(name, pages, html),
            *_output_problems(texts[name], page, source / Path(name).with_suffix(".ipynb")),
            *_part_problems(texts[name], page, html, source / Path(name).with_suffix(".md")),
        ]
        found += _frame_problems(page, results.get(Path(name).stem, {}))
        if name in SUMMARIES:
            found += _summary_problems(page, results, SUMMARIES[name])
        problems += [f"{name}: {problem}" for problem in found]
    return problems


def _text_problems(page: BeautifulSoup) -> Iterator[str]:
    shown = copy.copy(page)
    for code in shown.find_all(class_="cell_input"):  # what a chapter's code says is not what it printed
        code.decompose()
    text = shown.get_text()
    for forbidden in FORBIDDEN:
        if forbidden in text:
            yield f"it shows {forbidden!r}"
    for folder in {str(ROOT), os.path.expanduser("~")} - {"/", "~"}:
        if re.search(rf"(?<![\w./-]){re.escape(folder)}\b", text):
            yield f"it shows {folder!r}, a folder of this machine"
    for pattern in FORBIDDEN_PATTERNS:
        if found := pattern.search(text):
            yield f"it shows {found.group()!r}"
    for name in FORBIDDEN_CLASSES:
        if page.find(class_=name):
            yield f"it has a part of class {name!r}"


def _table_problems(page: BeautifulSoup) -> Iterator[str]:
    for number, found in enumerate(page.find_all("table"), start=1):
        header, *rows = _cells(found) or [[]]
        if not rows:
            yield f"table {number} is empty"
        if any(len(row) != len(header) for row in rows):
            yield f"table {number} has a row with more or fewer cells than its header"
        for row in rows:
            if not any(row):
                yield f"table {number} has an empty row"
            if any(re.search(r"\bnan\b|\binf\b|\bNone\b", cell) for cell in row):
                yield f"table {number} has a cell without its value: {row}"


def _cells(found: Tag) -> list[list[str]]:
    return [[cell.get_text().strip() for cell in row.find_all(["td", "th"])] for row in found.find_all("tr")]


def _image_problems(page: BeautifulSoup) -> Iterator[str]:
    for picture in page.find_all("figure", class_="picture"):
        drawing, caption = picture.find("svg"), picture.find("figcaption")
        if drawing is None or caption is None or not caption.get_text().strip():
            yield "a picture has no drawing or no caption"
        elif drawing.get("role") != "img" or len(str(drawing.get("aria-label", "")).split()) < 3:
            yield f"the picture {caption.get_text()[:40]!r} has no text that says what it shows"
    for image in page.find_all("img"):
        source, text = str(image.get("src", "")), str(image.get("alt", ""))
        if len(text.split()) < 3 or Path(urlsplit(source).path).name in text:
            yield f"image {source!r} has no text that says what it shows"


def _link_problems(name: str, pages: Mapping[str, BeautifulSoup], html: Path) -> Iterator[str]:
    for tag in pages[name].find_all(["a", "img", "link", "script"]):
        link = str(tag.get("href") or tag.get("src") or "")
        target = urlsplit(link)
        if target.scheme == "file" or (target.path.startswith("/") and not target.netloc):
            yield f"its link {link!r} leads to this machine"
        if target.netloc and tag.name != "a":
            yield f"it asks another host for {link!r}"
        if target.scheme or target.netloc:
            continue
        path = unquote(target.path) or name
        if not (html / path).exists():
            yield f"its link {link!r} leads nowhere"
        elif target.fragment and path in pages and not pages[path].find(id=unquote(target.fragment)):
            yield f"its link {link!r} leads to no part of that page"


def _output_problems(text: str, page: BeautifulSoup, chapter: Path) -> Iterator[str]:
    """Checks that a page shows all that its executed chapter shows: HTML to the letter, of the rest the words."""
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"] if chapter.exists() else []
    for cell in cells:
        if any(tag.startswith("remove") for tag in cell["metadata"].get("tags", [])):
            continue
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                if "".join(data["text/html"]).strip() not in text:
                    yield f"it lacks a picture, a table or a note of cell {cell['id']}"
            else:
                said = data.get("text/markdown") or output.get("text") or data.get("text/plain") or ""
                if missing := _missing_words("".join(said), page):
                    yield f"it lacks what cell {cell['id']} says: {missing}"


def _part_problems(written: str, page: BeautifulSoup, html: Path, plain: Path) -> Iterator[str]:
    """Checks that a page has every generated part that its source names.

    Of text it must have the words, of HTML all to the letter, of files a link to each.
    """
    linked = {str(tag.get("src") or tag.get("href")) for tag in page.find_all(["img", "a"])}
    local = [html / unquote(link) for link in linked if link.startswith(("_images/", "_downloads/"))]
    files = {path.read_bytes() for path in local if path.is_file()}
    waiting = [plain] if plain.exists() else []
    while waiting:
        text = waiting.pop().read_text(encoding="utf-8")
        for name in dict.fromkeys(re.findall(r"generated/([\w.-]+)", text)):
            part = plain.parent / "generated" / name
            if not part.exists() or not part.stat().st_size:
                yield f"its part {name} is missing"
            elif part.suffix == ".md":
                waiting.append(part)
                *blocks, words = _in_blocks(part.read_text(encoding="utf-8"))
                if not all(block in written for block in blocks):
                    yield f"it lacks the HTML of {name}"
                if missing := _missing_words(words, page):
                    yield f"it lacks what {name} says: {missing}"
            elif part.read_bytes() not in files:
                yield f"it lacks {name} as it is now"


def _in_blocks(markdown: str) -> list[str]:
    """The raw HTML of a text, block by block, and the rest of it in one piece."""
    return [*RAW_HTML.findall(markdown), RAW_HTML.sub("", markdown)]


def _missing_words(markdown: str, page: BeautifulSoup) -> str:
    """The first words of a text that a page lacks; empty where it has all."""
    shown = re.sub(r"^(?:```|:).*|\]\([^)]*\)|\{[\w:]+\}`[^`]*`|<[^>]+>", " ", unescape(markdown), flags=re.MULTILINE)
    on_page = set(re.findall(r"\w+", f"{page.get_text()} {page.get_text(' ')}"))
    return " ".join([word for word in re.findall(r"\w+", shown) if word not in on_page][:5])


def _summary_problems(
    page: BeautifulSoup, results: Mapping[str, Mapping[str, Any]], columns: tuple[str, ...]
) -> Iterator[str]:
    """Checks the first table of a page, which must have `columns` for the approaches at least."""
    networks = dict(_networks(results))
    first = page.find("table")
    header, *rows = _cells(first) if first else [[]]
    if missing := {*columns} - {*header}:
        yield f"its summary has no column {', '.join(sorted(missing))}"
    if missing := {label for label in networks if "," not in label} - {row[0] for row in rows}:
        yield f"its summary has no {', '.join(sorted(missing))}"
    for label, *values in rows:
        if label not in networks:
            yield f"the results have no {label!r}"
            continue
        for column, value in zip(header[1:], values, strict=False):
            expected = networks[label].get(column, [])
            if expected and not _as_shown(_numbers(value), expected):
                yield f"{label} has {value!r} as {column}; the results say {expected}"


def _frame_problems(page: BeautifulSoup, result: Mapping[str, Any]) -> Iterator[str]:
    """Checks a chapter's tables of runs and of rounds, shown and to download, against its results."""
    for name, expected in _frames(result).items():
        for link in page.find_all("a", download=f"{name}.csv"):
            content = b64decode(str(link["href"]).partition(",")[2]).decode()
            found = link.find_parent(class_="results")
            header, *shown = _cells(found) if found else [[]]
            rows = list(csv.DictReader(io.StringIO(content)))
            if not len(expected) == len(rows) == len(shown):
                yield f"its table {name} has {len(shown)} rows, and {len(rows)} to download; expected {len(expected)}"
                continue
            for numbers, row, cells in zip(expected, rows, shown, strict=True):
                texts = dict(zip(header, cells, strict=False))
                for column, number in numbers.items():
                    if abs(float(row.get(column) or "nan") - number) > 1e-12:
                        yield f"its table {name} has {row.get(column)} as {column} to download; expected {number}"
                    text = texts.get(TITLES.get(column, column.replace("_", " ")), "")
                    unit = 1 if isinstance(number, int) else 100
                    both = [unit * number, *([100 * numbers[f"{column}_sd"]] if f"{column}_sd" in numbers else [])]
                    if not column.endswith("_sd") and not _as_shown(_numbers(text), both):
                        yield f"its table {name} has {text!r} as {column}; the results say {both}"


def _frames(result: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """What the results say of the rows of a chapter's tables, by their names: numbers by column, shares 0 to 1."""
    kept = ("seed", "best_test_accuracy", "final_test_accuracy", "other_half_accuracy", "epochs_run")
    if "rounds" not in result:
        return {"runs": [{name: run[name] for name in kept} for run in result.get("runs", [])]}
    rows = []
    for told in [*result["rounds"], *([result["gradual"]] if result["gradual"] else [])]:
        row: dict[str, float] = {name: told[name] for name in ("remaining", "pruned_fraction")}
        row |= {"trainable": told["trainable_remaining"], "seeds": len(told["seeds"])}
        for name in ("best_test", "other_half"):
            values = told[f"{name}_accuracies"]
            row[f"{name}_accuracy"] = statistics.mean(values)
            row |= {f"{name}_accuracy_sd": statistics.stdev(values)} if len(values) > 1 else {}
        rows.append(row)
    return {"rounds": rows}


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))]


def _as_shown(shown: list[float], expected: list[float]) -> bool:
    """Whether whole numbers are equal, and fractions as close as two places after the point can tell."""
    return len(shown) == len(expected) and all(
        abs(one - other) <= (0 if isinstance(other, int) else 0.0051)
        for one, other in zip(shown, expected, strict=True)
    )


def _networks(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """What a summary must say of each network: by its label the numbers of each column, in the units of the table."""

    def spread(accuracies: list[float]) -> list[float]:
        per_cent = [100 * accuracy for accuracy in accuracies]
        return [statistics.mean(per_cent), *([statistics.stdev(per_cent)] if len(per_cent) > 1 else [])]

    def numbers(total: int, trainable: int, accuracies: list[float], others: list[float]) -> dict[str, list[float]]:
        return {
            "parameters": [total],
            "trainable": [trainable],
            "seeds": [len(accuracies)],
            "best test accuracy": spread(accuracies),
            "lowest seed": [100 * min(accuracies)],
            "epoch chosen by other images": spread(others),
        }

    for chapter in study.APPROACHES:
        result = results[chapter.name]
        accuracies = [[run[f"{kind}_accuracy"] for run in result["runs"]] for kind in ("best_test", "other_half")]
        yield chapter.label, numbers(result["total_parameters"], result["trainable_parameters"], *accuracies)
    pruning = results[study.PRUNING.name]
    rounds = [(study.round_label(row["round"]), row) for row in pruning["rounds"][1:]]
    pruned = study.CHAPTERS[study.PRUNED].label
    for label, row in [*rounds, (study.GRADUAL, pruning["gradual"])]:
        total = pruning["total_parameters"] - row["prunable"] + row["remaining"]
        accuracies = [row[f"{kind}_accuracies"] for kind in ("best_test", "other_half")]
        yield f"{pruned}, {label}", numbers(total, row["trainable_remaining"], *accuracies)
