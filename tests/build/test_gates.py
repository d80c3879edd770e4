"""The gates: what is wrong with a notebook or a page is found and named."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from smallcnn import study
from smallcnn.build import outputs
from smallcnn.build.gates import SUMMARIES, book_problems, notebook_problems
from smallcnn.files import write_json
from smallcnn.paths import ROOT
from tests.build.test_book import executed

PARAMETERS = {"epochs": 3, "filters": [4, 8]}


@pytest.fixture
def source() -> Any:
    """A chapter as it is stored."""
    cells = [
        new_markdown_cell("# A title", id="title"),
        new_code_cell("epochs: int = 5", id="cell-1", metadata={"tags": ["parameters"]}),
        new_code_cell("epochs + 1", id="cell-2"),
        new_code_cell("epochs + 2", id="cell-3"),
    ]
    return new_notebook(cells=cells)


def swap(notebook: Any) -> None:
    notebook.cells[-1].execution_count, notebook.cells[-2].execution_count = 3, 4


def stop(notebook: Any) -> None:
    notebook.cells[-1].execution_count = None
    notebook.cells[-1].metadata["papermill"]["status"] = "pending"


def fail(notebook: Any) -> None:
    notebook.cells[-1].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=["Traceback"])]


def edit(notebook: Any) -> None:
    notebook.cells[-1].source = "99.9"


def lose(notebook: Any) -> None:
    del notebook.cells[-1]


def raise_exception(notebook: Any) -> None:
    notebook.metadata["papermill"]["exception"] = True


def take_others(notebook: Any) -> None:
    notebook.metadata["papermill"]["parameters"] = {"epochs": 4}


def inject_others(notebook: Any) -> None:
    notebook.cells[2].source = "epochs = 4\nfilters = [4, 8]"


def inject_code(notebook: Any) -> None:
    notebook.cells[2].source += "print(epochs)"


def inject_nothing(notebook: Any) -> None:
    del notebook.cells[2]


BROKEN = {
    swap: ["code cell 3 was executed as number 4", "code cell 4 was executed as number 3"],
    stop: ["code cell 4 was not executed", "code cell 4 did not finish"],
    fail: ["code cell 4 ended with ValueError: no"],
    edit: ["its code is not that of the chapter"],
    lose: ["its code is not that of the chapter"],
    raise_exception: ["papermill met an exception"],
    take_others: ["it was executed with {'epochs': 4}, not with {'epochs': 3, 'filters': [4, 8]}"],
    inject_others: ["its parameters cell does not set {'epochs': 3, 'filters': [4, 8]}"],
    inject_code: ["its parameters cell does not set {'epochs': 3, 'filters': [4, 8]}"],
    inject_nothing: ["its parameters cell does not set {'epochs': 3, 'filters': [4, 8]}"],
}


@pytest.mark.parametrize("parameters", [{}, PARAMETERS])
def test_a_notebook_that_was_executed_as_asked_has_no_problem(source: Any, parameters: dict[str, Any]) -> None:
    assert notebook_problems(executed(copy.deepcopy(source), parameters), source, parameters) == []


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_notebook_is_named(source: Any, damage: Callable[[Any], None]) -> None:
    notebook = executed(copy.deepcopy(source), PARAMETERS)
    damage(notebook)
    problems = notebook_problems(notebook, source, PARAMETERS)
    assert problems[: len(BROKEN[damage])] == BROKEN[damage]


def test_a_notebook_that_nobody_executed_is_named(source: Any) -> None:
    assert len(notebook_problems(source, source, {})) >= 6


# What cells announce, and what they show

PICTURE = (
    '<figure class="picture" style="margin: 1rem 0"><svg role="img" aria-label="Curves of two runs."><path/></svg>'
    "<figcaption>Curves.</figcaption></figure>"
)
TABLE = '<div class="results"><table><tr><th>a</th></tr><tr><td>1</td></tr></table></div>'


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("figures.learning_curves(runs, 'a')", {"picture": 1}),
        ("x = 1\nfigures.learning_curves(runs, 'a')  # a comment", {"picture": 1}),
        ("%matplotlib inline\nfigures.class_counts(a, b)", {"picture": 1}),
        ("figures.class_counts(a, b);", {}),
        ("figures.class_counts(a, b) ; # not shown", {}),
        ("figures.class_counts(a, b)\nx = 1", {}),
        ("display(figures.class_counts(a, b), results.runs(r))\nx = 1", {"picture": 1, "table": 1}),
        ("if x:\n    display(figures.class_counts(a, b))", {}),
        ("first = figures.first_of_each_class(a, b)\nfirst.shape", {}),
        ("figures.first_of_each_class(a, b)", {}),
        ("results.runs(runs)", {"table": 1}),
        ("summary.comparison(found).drop(columns=['a']).head(3)", {"table": 1}),
        ("results.runs(runs).to_csv('x.csv')", {}),
        ("pd.DataFrame({'a': [1]})", {"table": 1}),
        ("results.sentence(runs)", {}),
        ("chapter.result(runs)", {"text": 1}),
        ("Markdown('x')", {"text": 1}),
        ("chapter.note()", {}),
        ("chapter.note_on(found)", {}),
        ("chapter.provenance(runs)\nchapter.write_training_results(runs);", {"table": 2, "text": 1}),
        ("print(1)\nprint(2)", {"printed text": 1}),
        ("print(1, file=file)", {}),
        ("runs", {}),
        ("", {}),
        ("what is this", {}),
    ],
)
def test_a_cell_announces_what_its_code_shows(source: str, expected: dict[str, int]) -> None:
    assert outputs.announced(source) == expected


def test_every_chapter_announces_pictures_or_tables_and_what_other_pages_read() -> None:
    read = {"chapter", "parameters", "changed_parameters"}
    trained = {"runs", "variants", "total_parameters", "trainable_parameters", "multiply_adds", "cautions"}
    for chapter in study.CHAPTERS:
        cells = json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text("utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        kinds = sum(map(outputs.announced, sources), Counter[str]())
        assert kinds["picture"] >= 2, chapter
        assert kinds["table"] >= 2, chapter
        keys = {key for source in sources for key in outputs.written_keys(source)}
        assert keys >= read | (set() if chapter in ("data", "comparison") else trained), chapter
        assert (chapter == "pruning") == (keys >= {"rounds", "gradual"})


def html_output(html: str) -> Any:
    return new_output("execute_result", {"text/html": html, "text/plain": "<Picture: …>"})


@pytest.mark.parametrize(
    ("source", "html", "problem"),
    [
        ("figures.lanes()", PICTURE, ""),
        ("figures.lanes()", "", "cell cell-3 shows 0 of 1 pictures that its code makes"),
        ("figures.lanes()", TABLE, "cell cell-3 shows 0 of 1 pictures that its code makes"),
        ("figures.lanes()", PICTURE.replace("Curves.", " "), "cell cell-3 shows 0 of 1 pictures that its code makes"),
        ("figures.lanes()", PICTURE[:70], "cell cell-3 shows 0 of 1 pictures that its code makes"),
        ("chapter.provenance(r)", TABLE + PICTURE, "cell cell-3 shows 1 of 2 tables that its code makes"),
        ("results.runs(r)", TABLE, ""),
        (
            "results.runs(r)",
            "<table><tr><td>1</td></tr></table>",
            "cell cell-3 shows 0 of 1 tables that its code makes",
        ),
        ("chapter.result(r)", TABLE, "cell cell-3 shows 0 of 1 texts that its code makes"),
        ("print(1)", TABLE, "cell cell-3 shows 0 of 1 printed texts that its code makes"),
        ("chapter.note()", "", ""),
    ],
)
def test_an_output_that_is_not_there_is_named(source: Any, html: str, problem: str) -> None:
    stored = new_notebook(cells=[new_code_cell(source, id="cell-3")])
    notebook = executed(copy.deepcopy(stored), {})
    notebook.cells[-1].outputs = [html_output(html)] if html else []
    problems = notebook_problems(notebook, stored, {})
    assert problems[:1] == ([problem] if problem else [])


@pytest.mark.parametrize("content", ["", "[]", "{", '{"chapter": "first", "parameters": {}, "answer": 1}'])
def test_results_that_lack_what_the_chapter_writes_are_named(content: str, tmp_path: Path) -> None:
    cells = [new_code_cell("chapter.write_results(answer=1, **more);")]
    file = tmp_path / "first.json"
    file.write_text(content, encoding="utf-8")
    assert [problem[:16] for problem in outputs.missing_results(cells, file)] == ["its results lack"]
    write_json(file, {"chapter": 1, "parameters": 2, "changed_parameters": 3, "answer": 4})
    assert list(outputs.missing_results(cells, file)) == []


# Pages

RESULTS: dict[str, Any] = {
    chapter: {
        "total_parameters": total,
        "trainable_parameters": total - 100,
        "runs": [
            {"best_test_accuracy": accuracy, "other_half_accuracy": accuracy - 0.001} for accuracy in (0.99, 0.992)
        ],
    }
    for chapter, total in (("approach_1", 8060), ("approach_2", 5490), ("approach_3", 3170))
}
PRUNED = {"prunable": 5220, "remaining": 4176, "trainable_remaining": 4338}
PRUNED |= {"best_test_accuracies": [0.9911], "other_half_accuracies": [0.9907]}
RESULTS["pruning"] = {"total_parameters": 5490, "rounds": [{}, PRUNED | {"round": 1}], "gradual": PRUNED}

GOOD = """<html><body><h1 id="top">Small networks</h1>
<table><tr><th>network</th><th>parameters</th><th>trainable</th><th>seeds</th><th>best test accuracy</th>
<th>lowest seed</th><th>epoch chosen by other images</th></tr>
<tr><td>approach 1</td><td>8,060</td><td>7,960</td><td>2</td><td>99.10\u00a0±\u00a00.14\u202f%</td>
<td>99.00\u202f%</td><td>99.00\u00a0±\u00a00.14\u202f%</td></tr>
<tr><td>approach 2</td><td>5,490</td><td>5,390</td><td>2</td><td>99.10\u00a0±\u00a00.14\u202f%</td>
<td>99.00\u202f%</td><td>99.00\u00a0±\u00a00.14\u202f%</td></tr>
<tr><td>approach 3</td><td>3,170</td><td>3,070</td><td>2</td><td>99.10\u00a0±\u00a00.14\u202f%</td>
<td>99.00\u202f%</td><td>99.00\u00a0±\u00a00.14\u202f%</td></tr>
<tr><td>approach 2, pruned, round 1</td><td>4,446</td><td>4,338</td><td>1</td><td>99.11\u202f%</td>
<td>99.11\u202f%</td><td>99.07\u202f%</td></tr></table>
<figure class="picture"><svg role="img" aria-label="Curves of two runs."></svg>
<figcaption>Learning curves.</figcaption></figure>
<img src="figure.svg" alt="Bars of three accuracies."><a href="other.html#part">there</a> <a href="#top">up</a>
<a href="https://example.org/">elsewhere</a></body></html>"""
OTHER = '<html><body><h1 id="part">Another page</h1></body></html>'

CHANGES = {
    ("99.10", "99.12"): "approach 1 has '99.12",
    ("0.14", "0.15"): "as best test accuracy",
    ("99.00", "99.01"): "as lowest seed",
    ("99.07", "99.09"): "as epoch chosen by other images",
    ("8,060", "8,061"): "approach 1 has '8,061' as parameters; the results say [8060]",
    ("<td>2</td>", "<td>3</td>"): "as seeds",
    ("approach 1<", "approach 7<"): "the results have no 'approach 7'",
    ("Bars of three accuracies.", ""): "image 'figure.svg' has no text",
    ("Bars of three accuracies.", "The picture figure.svg here"): "image 'figure.svg' has no text",
    ("Curves of two runs.", ""): "the picture 'Learning curves.' has no text that says what it shows",
    ('role="img" ', ""): "the picture 'Learning curves.' has no text that says what it shows",
    ("Learning curves.", " "): "a picture has no drawing or no caption",
    ("svg", "div"): "a picture has no drawing or no caption",
    ("other.html#part", "other.html#gone"): "its link 'other.html#gone' leads to no part of that page",
    ("other.html#part", "gone.html"): "its link 'gone.html' leads nowhere",
    ("figure.svg", "gone.svg"): "its link 'gone.svg' leads nowhere",
    ("#top", "#bottom"): "its link '#bottom' leads to no part of that page",
    ("Small networks", "Traceback (most recent call last)"): "it shows 'Traceback",
    ("Small networks", "np.float64(0.99)"): "it shows 'np.float64('",
    ("Small networks", "numpy.int64(3)"): "it shows 'numpy.int64('",
    ("Small networks", "UserWarning: deprecated"): "it shows 'UserWarning:'",
    ("Small networks", "WARNING:tensorflow:slow"): "it shows 'WARNING:'",
    ("Small networks", "KeyError: 3"): "it shows 'KeyError:'",
    ("Small networks", "&lt;Figure size 640x480&gt;"): "it shows '<Figure size'",
    ("Small networks", "see /tmp/xyz/a.py"): "it shows '/tmp/xyz'",
    ("Small networks", "nan per cent"): "it shows 'nan'",
    ("</body>", '<script src="https://example.org/a.js"></script></body>'): "it asks another host for",
    ("Small networks", f"from {ROOT / 'runs'}"): "a folder of this machine",
    ("#top", "file:///etc/passwd"): "leads to this machine",
    ("#top", "/etc/passwd"): "leads to this machine",
    ("<th>seeds</th>", "<th>number</th>"): "its summary has no column seeds",
    ("approach 3</td>", "approach 3 too</td>"): "its summary has no approach 3",
    ("<h1", '<h1 class="stderr"'): "it has a part of class 'stderr'",
    ("<td>1</td>", ""): "table 1 has a row with more or fewer cells",
    ("<td>7,960</td>", "<td>nan</td>"): "table 1 has a cell without its value",
    ("<td>7,960</td>", "<td>inf</td>"): "table 1 has a cell without its value",
    ("</table>", "</table><table><tr><th>a</th></tr></table>"): "table 2 is empty",
    ("</table>", "</table><table><tr><th>a</th></tr><tr><td> </td></tr></table>"): "table 2 has an empty row",
}


def write_book(page: str, folder: Path) -> None:
    for name in SUMMARIES:
        (folder / name).write_text(page, encoding="utf-8")
    (folder / "other.html").write_text(OTHER, encoding="utf-8")
    (folder / "figure.svg").write_text("<svg/>", encoding="utf-8")


def problems_of(page: str, folder: Path) -> list[str]:
    write_book(page, folder)
    return book_problems(folder, json.loads(json.dumps(RESULTS)), folder / "source")


SHOWN = {
    f"<div>{PICTURE}</div>": (html_output(PICTURE), "it lacks a picture, a table or a note of cell shown"),
    TABLE: (html_output(TABLE), "it lacks a picture, a table or a note of cell shown"),
    "<p>Of the <strong>3</strong> designs</p>": (
        new_output("display_data", {"text/markdown": "Of the **3** [designs](index.md)", "text/plain": "<Markdown>"}),
        "it lacks what cell shown says: Of the",
    ),
    "<pre>image: 28</pre>": (new_output("stream", text="image: 28\n"), "it lacks what cell shown says: image 28"),
    "<span>3</span><span>170</span>": (new_output("execute_result", {"text/plain": "3,170"}), "says: 3 170"),
}


@pytest.mark.parametrize("part", SHOWN)
def test_a_page_has_what_its_executed_chapter_shows(part: str, tmp_path: Path) -> None:
    output, problem = SHOWN[part]
    (tmp_path / "source").mkdir()
    nbformat.write(
        new_notebook(cells=[new_code_cell("x", id="shown", outputs=[output])]), tmp_path / "source" / "other.ipynb"
    )
    write_book(GOOD, tmp_path)
    (found,) = book_problems(tmp_path, RESULTS, tmp_path / "source")
    assert found.startswith("other.html: ")
    assert problem in found
    (tmp_path / "other.html").write_text(OTHER.replace("</h1>", f"</h1>{part}"), encoding="utf-8")
    assert book_problems(tmp_path, RESULTS, tmp_path / "source") == []


def test_a_page_has_generated_html_to_the_letter(tmp_path: Path) -> None:
    block = '<div data-view="field">\n<script type="application/json">{"weights": [0.25]}</script>\n</div>'
    write_book(GOOD, tmp_path)
    (tmp_path / "source" / "generated").mkdir(parents=True)
    (tmp_path / "source" / "other.md").write_text("```{include} generated/hand.md\n```\n", encoding="utf-8")
    (tmp_path / "source" / "generated" / "hand.md").write_text(f"```{{raw}} html\n{block}\n```\n", encoding="utf-8")
    for shown, problems in {
        block: [],
        block.replace("0.25", "0.5"): ["other.html: it lacks the HTML of hand.md"],
        "": ["other.html: it lacks the HTML of hand.md"],
    }.items():
        (tmp_path / "other.html").write_text(OTHER.replace("</h1>", f"</h1>{shown}"), encoding="utf-8")
        assert book_problems(tmp_path, RESULTS, tmp_path / "source") == problems


def test_a_page_has_the_generated_parts_that_its_source_names(tmp_path: Path) -> None:
    parts = {
        "answer.md": "**2,471 parameters** are enough for [all](index.md).",
        "figure.md": "```{figure} /generated/bars.svg\n:alt: Two bars.\n\nSeconds.\n```\n",
        "bars.svg": "<svg>bars</svg>",
        "data.csv": "a,b",
    }
    included = "".join(f"```{{include}} generated/{name}.md\n```\n" for name in ("answer", "figure"))
    source = f"{included}{{download}}`x <generated/data.csv>`"
    good = (
        '<p><strong>2,471 parameters</strong> are enough for all.</p><img src="_images/bars.svg" alt="Two tall bars.">'
        '<p>Seconds.</p><a href="_downloads/1a/data.csv">x</a>'
    )
    files = {f"source/generated/{name}": content for name, content in parts.items()} | {"source/other.md": source}
    files |= {"_images/bars.svg": parts["bars.svg"], "_downloads/1a/data.csv": parts["data.csv"]}
    write_book(GOOD, tmp_path)
    files["other.html"] = OTHER.replace("</h1>", f"</h1>{good}")

    def problems(changed: dict[str, str]) -> list[str]:
        for name, content in (files | changed).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")
        return book_problems(tmp_path, RESULTS, tmp_path / "source")

    assert problems({}) == []
    for old, new, problem in (
        ("2,471", "2,472", "it lacks what answer.md says: 471"),
        ("Seconds.", "", "it lacks what figure.md says: Seconds"),
        ('<img src="_images/bars.svg" alt="Two tall bars.">', "", "it lacks bars.svg as it is now"),
        ('<a href="_downloads/1a/data.csv">', "<a>", "it lacks data.csv as it is now"),
    ):
        assert problems({"other.html": files["other.html"].replace(old, new)}) == [f"other.html: {problem}"]
    assert problems({"_images/bars.svg": "<svg>old</svg>"}) == ["other.html: it lacks bars.svg as it is now"]
    assert problems({"source/generated/answer.md": ""}) == ["other.html: its part answer.md is missing"]


def test_code_may_name_what_an_output_must_not_show(tmp_path: Path) -> None:
    code = '<div class="cell_input"><pre>np.mean(x, where=nan)</pre></div>'
    assert problems_of(GOOD.replace("</h1>", f"</h1>{code}"), tmp_path) == []


def test_a_book_without_its_summaries_is_named(tmp_path: Path) -> None:
    assert book_problems(tmp_path, RESULTS, tmp_path) == ["index.html is missing", "comparison.html is missing"]


def test_a_good_page_has_no_problem(tmp_path: Path) -> None:
    assert problems_of(GOOD, tmp_path) == []


@pytest.mark.parametrize("home", ["/", "/project", None])
def test_an_address_like_that_of_a_short_home_is_no_problem(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home) if home else monkeypatch.delenv("HOME")
    assert problems_of(GOOD.replace("Small networks", "tcp://127.0.0.1 /path/to/project/.venv"), tmp_path) == []


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_wrong_with_a_page_is_named(change: tuple[str, str], tmp_path: Path) -> None:
    assert change[0] in GOOD
    problems = problems_of(GOOD.replace(*change), tmp_path)
    assert [problem for problem in problems if problem.startswith("index.html: ") and CHANGES[change] in problem]


def test_pages_are_held_against_each_other(tmp_path: Path) -> None:
    write_book(GOOD, tmp_path)
    (tmp_path / "other.html").write_text(OTHER.replace("part", "gone"), encoding="utf-8")
    problem = "its link 'other.html#part' leads to no part of that page"
    assert book_problems(tmp_path, RESULTS, tmp_path) == [f"comparison.html: {problem}", f"index.html: {problem}"]
    (tmp_path / "other.html").unlink()
    assert all("leads nowhere" in problem for problem in book_problems(tmp_path, RESULTS, tmp_path))
