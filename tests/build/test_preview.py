"""The whole book from end to end: a copy of the project, in a path with a space and an umlaut, builds its preview."""

from __future__ import annotations

import html
import json
import re
import shutil
import time
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
import yaml

from smallcnn.chapters import CHAPTERS
from smallcnn.parameters import read_parameters
from smallcnn.paths import ROOT
from smallcnn.publishing import PREVIEW_BANNER, PREVIEW_CHANGES
from tests.preview import PAGES, Book

pytestmark = pytest.mark.slow

FIGURES = {
    "index": 1,
    "data": 2,
    "approach_1": 3,
    "approach_2": 3,
    "approach_3": 3,
    "comparison": 2,
    "pruning": 4,
    "same_study": 1,
    "why_fast": 3,
    "sweep": 1,
    "scaling": 1,
}
TABLES = {
    "index": 1,
    "data": 2,
    "approach_1": 5,
    "approach_2": 5,
    "approach_3": 5,
    "comparison": 1,
    "pruning": 5,
    "same_study": 1,
    "why_fast": 3,
    "sweep": 1,
    "scaling": 3,
    "differences": 3,
    "faults": 2,
    "rerun": 5,
}
COUNTS = {"approach_1": (8060, 7968), "approach_2": (5490, 5382), "approach_3": (3170, 3090), "pruning": (5490, 5382)}


@dataclass
class Page(HTMLParser):
    """What one page shows: its images, tables and links, and the text of its article."""

    path: Path
    images: list[dict[str, str]] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.source = self.path.read_text("utf-8")
        self._in_cell = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.names.add(values.get("id", ""))
        self.classes.update(values.get("class", "").split())
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag == "img":
            self.images.append(values)
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, text: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += text


@cache
def read_page(path: Path) -> Page:
    return Page(path)


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, book: Book) -> Page:
    return read_page(book.copy.html / f"{request.param}.html")


def test_the_build_ends_with_where_to_open_the_book(book: Book) -> None:
    assert book.output[-1] == f"Open {book.copy.html / 'index.html'}"
    executing = [line.removeprefix("executing ") for line in book.output if line.startswith("executing ")]
    assert sorted(executing) == sorted(CHAPTERS)


def test_everything_generated_is_in_the_folder_of_the_preview(book: Book) -> None:
    assert [path.name for path in (book.copy.folder / "build").iterdir()] == ["preview"]
    tracked = {path.name for path in (ROOT / "runs").glob("[!.]*")}
    assert {path.name for path in (book.copy.folder / "runs").glob("*")} <= tracked
    assert not (book.copy.folder / "data").exists()


def test_every_page_of_the_contents_exists(book: Book) -> None:
    contents = yaml.safe_load((book.copy.folder / "_toc.yml").read_text("utf-8"))
    listed = [contents["root"], *(entry["file"] for part in contents["parts"] for entry in part["chapters"])]
    assert sorted(listed) == sorted(PAGES)
    assert all((book.copy.html / f"{name}.html").stat().st_size > 10_000 for name in listed)


def test_every_page_is_marked_as_a_preview(page: Page) -> None:
    assert PREVIEW_BANNER in html.unescape(page.source)
    noted = "do not come from the published parameters" in page.source
    assert noted == (page.path.stem in {*PREVIEW_CHANGES, "comparison", "index"})


def test_every_page_has_its_figures_with_alt_text(page: Page) -> None:
    shown = [image for image in page.images if "_images/" in image["src"]]
    assert len(shown) == FIGURES.get(page.path.stem, 0)
    for image in page.images:
        assert len(image["alt"].split()) >= 8, image
        assert Path(image["src"]).name not in image["alt"]
        assert (page.path.parent / unquote(image["src"])).stat().st_size > 1000


def test_every_page_has_its_tables_with_a_value_in_every_number_cell(page: Page) -> None:
    assert len(page.tables) >= TABLES.get(page.path.stem, 0)
    for header, *rows in page.tables:
        assert rows
        assert {len(row) for row in rows} == {len(header)}
        for row in rows:
            assert any(cell.strip() for cell in row)
            for cell in row:
                assert not re.search(r"\bnan\b|\bNone\b|np\.|\|", cell), row


def test_no_page_shows_an_error(page: Page) -> None:
    assert not page.classes & {"traceback", "stderr", "system-message", "problematic"}
    text = html.unescape(page.source)
    for trace in ("Traceback (most recent call last)", "np.float64(", "Error:", "Warning:", "\x1b["):
        assert trace not in text


def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        target = urlsplit(link)
        if target.scheme or target.netloc:
            continue
        path = page.path.parent / unquote(target.path) if target.path else page.path
        assert path.exists(), link
        if target.fragment and path.suffix == ".html":
            assert unquote(target.fragment) in read_page(path).names, link


def test_nothing_published_names_a_folder_of_this_machine(book: Book) -> None:
    home = Path.home() if Path.home() != Path("/") else ROOT
    folders = [str(book.copy.folder), str(book.copy.folder.parents[1]), str(ROOT), f"{home}/", "file://"]
    private = [*folders, *map(quote, folders[:4]), *(json.dumps(folder)[1:-1] for folder in folders)]
    for path in book.copy.html.rglob("*"):
        if "_static" not in path.parts and path.suffix in (".html", ".js", ".svg", ".ipynb", ".md", ".txt"):
            text = path.read_text("utf-8")
            assert not [name for name in private if name in text], path


@pytest.mark.parametrize(("chapter", "counts"), COUNTS.items())
def test_the_results_have_every_field_and_the_exact_counts(book: Book, chapter: str, counts: tuple[int, int]) -> None:
    results = book.copy.results(chapter)
    assert (results["total_parameters"], results["trainable_parameters"]) == counts
    published = {name: parameter.default for name, parameter in read_parameters(chapter).items()}
    assert results["chapter"] == chapter
    assert results["parameters"] == published | PREVIEW_CHANGES[chapter]
    assert results["changed_parameters"] == {
        name: value for name, value in PREVIEW_CHANGES[chapter].items() if value != published[name]
    }
    assert [run["seed"] for run in results["runs"]] == PREVIEW_CHANGES[chapter]["seeds"]
    assert 1 <= results["best_epoch"] <= results["epochs_run"] <= PREVIEW_CHANGES[chapter]["epochs"]
    assert results["best_test_accuracy"] == results["runs"][0]["best_test_accuracy"]
    for run in results["runs"]:
        assert 0 < run["final_test_accuracy"] <= run["best_test_accuracy"] <= 1
        assert run["seconds"] > 0


def test_each_round_of_pruning_has_the_counts_of_the_study(book: Book) -> None:
    results = book.copy.results("pruning")
    fields = ("round", "prunable", "remaining", "trainable_remaining")
    assert [[row[name] for name in fields] for row in results["rounds"]] == [
        [0, 5220, 5220, 5382],
        [1, 5220, 4176, 4338],
        [2, 5220, 2309, 2471],
    ]
    assert [row["schedule_fraction"] for row in results["rounds"]] == [None, 0.2, pytest.approx(0.2**0.5)]
    assert [row["pruned_fraction"] for row in results["rounds"]] == pytest.approx([0, 0.2, 2911 / 5220])
    assert all(0 < row["best_test_accuracy"] <= 1 for row in results["rounds"])


def test_every_run_is_recorded_under_its_key(book: Book) -> None:
    chapters = [book.copy.results(chapter) for chapter in PREVIEW_CHANGES]
    runs = [run for results in chapters for run in results["runs"] + results.get("runs_with_dropout", [])]
    rounds = chapters[-1]["rounds"] + [chapters[-1]["gradual"]]
    keys = {row["key"] for row in runs + rounds}
    assert {path.name for path in (book.copy.build_folder / "runs").glob("[!.]*")} == keys
    for key in keys:
        record = json.loads((book.copy.build_folder / "runs" / key / "run.json").read_text("utf-8"))
        assert record["key"] == key
        assert (book.copy.build_folder / "runs" / key / "weights.npz").stat().st_size > 1000


def test_the_pages_show_the_results(book: Book) -> None:
    rows = [[cell.strip() for cell in row] for row in read_page(book.copy.html / "index.html").tables[0][1:]]
    assert [[row[-1], row[1]] for row in rows] == [
        ["8,060", "7,968"],
        ["5,490", "5,382"],
        ["3,170", "3,090"],
        ["4,446", "4,338"],
        ["2,579", "2,471"],
        ["2,579", "2,471"],
    ]
    for chapter in ("approach_1", "approach_2", "approach_3"):
        shown = f"{100 * book.copy.results(chapter)['best_test_accuracy']:.2f}\u202f%"
        assert shown in read_page(book.copy.html / f"{chapter}.html").source


# From here on the book is built again.


def test_a_second_build_executes_nothing_and_gives_the_same_pages(book: Book) -> None:
    before = book.copy.pages()
    output = book.copy.build()
    assert output[-1] == book.output[-1]
    assert not [line for line in output if "executing" in line or "to train" in line or "epoch" in line]
    assert book.copy.pages() == before


def test_a_build_from_recorded_runs_is_quick_and_gives_the_same_bytes(book: Book) -> None:
    before = book.copy.files()
    for folder in book.copy.build_folder.iterdir():
        if folder.is_dir() and folder.name != "runs":
            shutil.rmtree(folder)
    started = time.monotonic()
    output = book.copy.build()
    assert time.monotonic() - started < 90
    assert not [line for line in output if "to train" in line or "epoch" in line]
    assert book.copy.files() == before


def test_an_edited_page_is_built_without_executing_a_chapter(book: Book) -> None:
    before = book.copy.pages()
    path = book.copy.folder / "book" / "references.md"
    path.write_text(path.read_text("utf-8") + "\nA sentence that was not there before.\n", encoding="utf-8")
    started = time.monotonic()
    output = book.copy.build()
    assert time.monotonic() - started < 20
    assert not [line for line in output if "executing" in line or "to train" in line]
    after = book.copy.pages()
    assert "A sentence that was not there before." in after["references.html"]
    assert {name for name in before if before[name] != after[name]} == {"references.html"}
