"""The notebooks as they are stored: without outputs, in short cells, with alt text, and without measured numbers."""

from __future__ import annotations

import ast
import re
from typing import Any

import nbformat
import pytest
import yaml

from smallcnn import study
from smallcnn.paths import BOOK, ROOT
from smallcnn.report.notebook import parameters_source, tagged_source
from smallcnn.study import CHAPTERS

NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
LONGEST_CELL = 45
DRAWS = re.compile(r"\bfigures\.(?!first_of_each_class)\w+\(")
MEASURED = re.compile(r"\b9\d\.\d|(?<!\.)\b(?!99\s*%|95\s*% interval)\d+(\.\d+)?\s*%")


@pytest.fixture(params=[path.stem for path in NOTEBOOKS])
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(BOOK / f"{request.param}.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_a_notebook_is_valid(notebook: Any) -> None:
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_a_notebook_is_stored_without_outputs(notebook: Any) -> None:
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert "execution" not in cell.metadata
        assert "papermill" not in cell.metadata
    assert "papermill" not in notebook.metadata


def test_cells_have_stable_names(notebook: Any) -> None:
    names = [cell.id for cell in notebook.cells]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in names)
    assert not any(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){0,3}(-[0-9a-f]{12})?", name) for name in names)


def test_a_notebook_opens_with_its_title_and_at_most_one_parameters_cell(notebook: Any) -> None:
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged in ([], [notebook.cells[1]])
    headings = [line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# ")]
    assert len([heading for heading in headings if heading == notebook.cells[0].source.splitlines()[0]]) == 1


def test_a_figure_is_what_its_cell_ends_with_and_brings_its_own_words(notebook: Any) -> None:
    for cell in code_cells(notebook):
        assert "mystnb" not in cell.metadata
        if DRAWS.search(cell.source):
            last = ast.parse(cell.source).body[-1]
            assert isinstance(last, ast.Expr), cell.id
            assert DRAWS.match(ast.unparse(last)), cell.id


def test_the_chapters_have_their_figures() -> None:
    read = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    drawn = [cell for notebook in read for cell in code_cells(notebook) if DRAWS.search(cell.source)]
    assert len(drawn) >= 12


def test_a_chapter_has_at_most_three_folded_parts(notebook: Any) -> None:
    folded = [cell for cell in notebook.cells if {"hide-input", "hide-cell"} & {*cell.metadata.get("tags", [])}]
    assert len(folded) <= 3


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_parameters_cell_has_the_published_values(chapter: str) -> None:
    assert tagged_source(chapter, "parameters") == parameters_source(chapter)


def test_cells_are_short(notebook: Any) -> None:
    for cell in code_cells(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert 1 <= len(lines) <= LONGEST_CELL, cell.id


def test_text_has_no_number_that_a_cell_measured(notebook: Any) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not MEASURED.search(cell.source), (cell.id, MEASURED.search(cell.source))


@pytest.mark.parametrize("text", ["99.24 % of", "about 99.3", "97 %", "55.77\u202f%", "0.1 % more"])
def test_a_measured_number_would_be_found(text: str) -> None:
    assert MEASURED.search(text)


@pytest.mark.parametrize("text", ["more than 99 % of", "the 99\u202f% line", "28×28", "99 %."])
def test_the_line_of_the_question_is_no_measured_number(text: str) -> None:
    assert not MEASURED.search(text)


@pytest.mark.parametrize("chapter", [*(approach.name for approach in study.APPROACHES), study.PRUNING.name])
def test_a_notebook_that_trains_opens_and_closes_as_the_others(chapter: str) -> None:
    text = (BOOK / f"{chapter}.ipynb").read_text("utf-8")
    for heading in ("## Takeaways", "## What it means", "## Where the numbers come from"):
        assert heading in text
    assert "write_training_results" in text
    assert "chapter.note()" in text
    assert tagged_source(chapter, "network")


def pages_of(toc: Any) -> list[str]:
    """Every page that a table of contents names, from its first."""
    if isinstance(toc, list):
        return [page for entry in toc for page in pages_of(entry)]
    own = [toc[key] for key in ("root", "file") if key in toc]
    return own + [page for key in ("parts", "chapters", "sections") for page in pages_of(toc.get(key, []))]


def test_the_table_of_contents_has_every_page_once() -> None:
    listed = pages_of(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8")))
    assert len(set(listed)) == len(listed)
    assert set(listed) == {path.stem for path in BOOK.iterdir() if path.suffix in (".ipynb", ".md")}
    assert set(CHAPTERS) == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_an_approach_is_added_in_the_three_steps_that_the_tests_take(name: str) -> None:
    """`Copy.add_approach` in preview.py takes them, and test_preview.py finds the approach in the book."""
    section = (ROOT / name).read_text("utf-8").split("## Add an approach\n")[1].split("\n## ")[0]
    steps = re.findall(r"^\d\. (.*)$", section, re.MULTILINE)
    assert len(steps) == 3
    for step, place in zip(steps, ("`book/`", "`_toc.yml`", "`smallcnn/study.py`"), strict=True):
        assert place in step
    assert "`make preview` " in section


def test_the_tests_that_the_book_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (BOOK / "faults.md").read_text("utf-8"))
    assert len(named) > 20
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / file).read_text("utf-8"), name
