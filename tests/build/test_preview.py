"""The whole book from end to end: a copy of the project, in a path with a space and an umlaut, builds its preview."""

from __future__ import annotations

import ast
import html
import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
import yaml

from smallcnn.build.html import PREVIEW_BANNER
from smallcnn.paths import ROOT
from tests.build.hostile import Home
from tests.build.preview import (
    ADDED,
    ADDED_COLOUR,
    ADDED_COUNTS,
    ADDED_LABEL,
    ADDED_NETWORK,
    CHAPTER_NAMES,
    PAGES,
    PREVIEW_CHANGES,
    Book,
)

pytestmark = pytest.mark.slow

# Pictures are drawn by chapters, into their pages; images are files beside plain pages.
PICTURES = {"data": 2, "approach_1": 3, "approach_2": 3, "approach_3": 3, ADDED: 3, "comparison": 2, "pruning": 4}
IMAGES = {"index": 1, "same_study": 1, "why_fast": 3, "sweep": 1, "scaling": 1}
TABLES = {
    "index": 1,
    "data": 2,
    "approach_1": 5,
    "approach_2": 5,
    "approach_3": 5,
    ADDED: 5,
    "comparison": 2,
    "pruning": 5,
    "same_study": 1,
    "why_fast": 3,
    "sweep": 1,
    "scaling": 3,
    "differences": 3,
    "faults": 2,
    "rerun": 6,
}
COUNTS = {
    "approach_1": (8060, 7968),
    "approach_2": (5490, 5382),
    "approach_3": (3170, 3090),
    ADDED: ADDED_COUNTS,
    "pruning": (5490, 5382),
}
MOST_FOLDED = 3  # parts of a page that "Show code" opens


@dataclass
class Page(HTMLParser):
    """What one page shows: its images, tables and links, and the text of its article."""

    path: Path
    images: list[dict[str, str]] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    ids: list[str] = field(default_factory=list)
    drawings: list[dict[str, str]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    folded: int = 0
    downloads: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.source = self.path.read_text("utf-8")
        self._in_cell = self._in_caption = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.names.add(values.get("id", ""))
        self.ids += [values["id"]] if "id" in values else []
        self.folded += tag == "details"
        self.downloads += tag == "a" and values.get("href", "").startswith("data:text/csv")
        self.classes.update(values.get("class", "").split())
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag == "img":
            self.images.append(values)
        elif tag == "svg" and values.get("role") == "img":
            self.drawings.append(values)
        elif tag == "figcaption":
            self.captions.append("")
            self._in_caption = True
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
        elif tag == "figcaption":
            self._in_caption = False

    def handle_data(self, text: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += text
        elif self._in_caption:
            self.captions[-1] += text


@cache
def read_page(path: Path) -> Page:
    return Page(path)


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, book: Book) -> Page:
    return read_page(book.copy.html / f"{request.param}.html")


def test_the_build_ends_with_where_to_open_the_book(book: Book) -> None:
    assert book.output[-1] == f"Open {book.copy.html / 'index.html'}"
    executing = [line.removeprefix("executing ") for line in book.output if line.startswith("executing ")]
    assert sorted(executing) == sorted(CHAPTER_NAMES)


def test_all_chapters_share_the_workers_of_the_build(book: Book) -> None:
    assert len([line for line in book.output if line.startswith("runs are missing; ")]) == 1
    assert len([line for line in book.output if line.endswith(" to train, by the workers of this build")]) >= 3


def test_everything_generated_is_in_the_folder_of_the_preview(book: Book) -> None:
    assert {path.name for path in (book.copy.folder / "build").iterdir()} == {"home", "preview"}
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
    assert noted == (page.path.stem in {*PREVIEW_CHANGES, "comparison", "draw", "index"})


def test_every_page_has_its_figures_with_alt_text(page: Page) -> None:
    shown = [image for image in page.images if "_images/" in image["src"]]
    assert len(shown) == IMAGES.get(page.path.stem, 0)
    for image in page.images:
        assert len(image["alt"].split()) >= 8, image
        assert Path(image["src"]).name not in image["alt"]
        assert (page.path.parent / unquote(image["src"])).stat().st_size > 1000


def test_every_page_has_its_pictures_with_their_words(page: Page) -> None:
    pictures = PICTURES.get(page.path.stem, 0)
    assert page.source.count('<figure class="picture"') == len(page.drawings) == pictures
    captions = page.captions[:pictures] if pictures else []
    for drawing, caption in zip(page.drawings, captions, strict=True):
        assert len(drawing["aria-label"].split()) >= 5
        assert len(caption.split()) >= 4
        assert drawing["aria-label"].strip() != caption.strip()


def test_no_name_on_a_page_is_given_twice(page: Page) -> None:
    assert not [name for name, count in Counter(page.ids).items() if count > 1]


def test_a_page_has_few_folded_parts(page: Page) -> None:
    assert page.folded <= MOST_FOLDED


def test_every_table_of_results_can_be_downloaded(page: Page) -> None:
    assert page.downloads == page.source.count('<div class="results">')
    assert (page.downloads > 0) == (page.path.stem in CHAPTER_NAMES)


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
    cells = json.loads((book.copy.folder / "book" / f"{chapter}.ipynb").read_text("utf-8"))["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    published = {line.target.id: ast.literal_eval(line.value) for line in ast.parse(source).body}
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
    variants = [run for results in chapters for runs in results["variants"].values() for run in runs]
    runs = [run for results in chapters for run in results["runs"]]
    pruning = book.copy.results("pruning")
    keys = {run["key"] for run in runs + variants}
    keys |= {key for row in [*pruning["rounds"], pruning["gradual"]] for key in row["keys"]}
    assert {path.name for path in (book.copy.build_folder / "runs").glob("[!.]*")} == keys
    for key in keys:
        record = json.loads((book.copy.build_folder / "runs" / key / "run.json").read_text("utf-8"))
        assert record["key"] == key
        assert (book.copy.build_folder / "runs" / key / "weights.npz").stat().st_size > 1000


def test_the_pages_show_the_results(book: Book) -> None:
    header, *rows = read_page(book.copy.html / "index.html").tables[0]
    shown = [[cell.strip() for cell in row] for row in rows]
    columns = [header.index(name) for name in ("parameters", "trainable")]
    assert [[row[column] for column in columns] for row in shown] == [
        ["8,060", "7,968"],
        ["5,490", "5,382"],
        ["3,170", "3,090"],
        [f"{count:,}" for count in ADDED_COUNTS],
        ["4,446", "4,338"],
        ["2,579", "2,471"],
        ["2,579", "2,471"],
    ]
    for chapter in ("approach_1", "approach_2", "approach_3", ADDED):
        accuracy = f"{100 * book.copy.results(chapter)['best_test_accuracy']:.2f}\u202f%"
        assert accuracy in read_page(book.copy.html / f"{chapter}.html").source


def test_the_last_epoch_is_not_always_the_best(book: Book) -> None:
    runs = [run for chapter in PREVIEW_CHANGES for run in book.copy.results(chapter)["runs"]]
    assert any(run["final_test_accuracy"] < run["best_test_accuracy"] for run in runs)


# The approach that was added as README.md says: a notebook, a line of the contents, a record.


def cells_of(book: Book, page: str) -> list[str]:
    """Every cell of every table of a page."""
    tables = read_page(book.copy.html / f"{page}.html").tables
    return [cell.strip() for table in tables for row in table for cell in row]


def test_an_added_approach_has_its_page(book: Book) -> None:
    page = read_page(book.copy.html / f"{ADDED}.html")
    text = re.sub(r"<[^>]+>", "", page.source)
    assert "Approach 4: as small as it gets" in text
    assert html.escape(ADDED_NETWORK.splitlines()[-3].strip(), quote=False) in text
    assert f"{ADDED_COUNTS[0]}" in cells_of(book, ADDED)
    linked = [name for name in PAGES if f'href="{ADDED}.html' in read_page(book.copy.html / f"{name}.html").source]
    assert set(linked) >= {"index", "comparison", "approach_3"}  # from the contents, wherever they are shown


def test_an_added_approach_is_on_the_first_page(book: Book) -> None:
    assert ADDED_LABEL in cells_of(book, "index")
    assert ADDED_LABEL in (book.copy.build_folder / "source" / "generated" / "summary.csv").read_text("utf-8")
    (image,) = [image for image in read_page(book.copy.html / "index.html").images if "summary" in image["src"]]
    assert ADDED_COLOUR.lower() in (book.copy.html / unquote(image["src"])).read_text("utf-8")
    results = book.copy.results(ADDED)
    page = read_page(book.copy.html / "index.html").source
    noted = [name for name in results["changed_parameters"] if f"{ADDED}: <code>{name}</code>" in page]
    assert noted == list(results["changed_parameters"])


def test_an_added_approach_is_compared(book: Book) -> None:
    page = read_page(book.copy.html / "comparison.html")
    networks, differences = ([[cell.strip() for cell in row] for row in table] for table in page.tables)
    assert ADDED_LABEL in [row[0] for row in networks]
    against = {(row[0], row[1]) for row in differences if ADDED_LABEL in row[:2]}
    assert {frozenset(pair) for pair in against} >= {
        frozenset({ADDED_LABEL, f"approach {number}"}) for number in (1, 2, 3)
    }
    assert all(ADDED_LABEL in drawing["aria-label"] for drawing in page.drawings)
    text = re.sub(r"<[^>]+>", "", page.source)
    assert f"Of the 4 designs the smallest, {ADDED_LABEL}, has" in text


def test_an_added_approach_is_among_the_differences_from_the_article_and_the_parameters(book: Book) -> None:
    named = [cell for cell in cells_of(book, "differences") if cell.startswith(f"{ADDED_LABEL}: ")]
    assert named == [
        f"{ADDED_LABEL}: {what}" for what in ("total parameters", "trainable parameters", "best test accuracy")
    ]
    source = read_page(book.copy.html / "rerun.html").source
    assert f'<span class="pre">{ADDED}</span>' in source
    assert cells_of(book, "rerun").count("early_stopping_patience") == 5  # approaches and pruning


def test_the_gates_check_an_added_approach(book: Book) -> None:
    code = f"""
import json, shutil, sys
from pathlib import Path
from smallcnn.build import gates
from smallcnn.build.cache import preview_edition
from smallcnn.study import CHAPTERS

edition = preview_edition()
results = {{name: json.loads(edition.results(name).read_text("utf-8")) for name in CHAPTERS}}
source = edition.folder / "source"
print(json.dumps(gates.book_problems(edition.html, results, source)))
results["{ADDED}"]["total_parameters"] += 1
print(json.dumps(gates.book_problems(edition.html, results, source)))
"""
    good, swapped = map(json.loads, book.copy.python("-c", code).stdout.splitlines())
    assert good == []
    total = ADDED_COUNTS[0]
    problem = f"{ADDED_LABEL} has '{total}' as parameters; the results say [{total + 1}]"
    assert swapped == [f"comparison.html: {problem}", f"index.html: {problem}"]


# From here on the book is built again.


def test_a_second_build_says_that_all_is_up_to_date_and_imports_nothing_that_takes_time(book: Book) -> None:
    before = book.copy.pages()
    code = (
        "import sys; from smallcnn.cli import main; code = main(['book', '--preview']); "
        "print(*sorted({name.split('.')[0] for name in sys.modules})); sys.exit(code)"
    )
    done = book.copy.python("-c", code)
    assert done.returncode == 0, done.stderr
    *output, imported = done.stdout.splitlines()
    assert output == ["The book is up to date.", book.output[-1]]
    slow = {
        "tensorflow",
        "tf_keras",
        "papermill",
        "sphinx",
        "nbformat",
        "distributed",
        "dask",
        "IPython",
        "jupyter_client",
    }
    assert not slow & {*imported.split()}
    assert not {"pandas", "matplotlib", "bs4", "numpy"} & {*imported.split()}
    assert book.copy.pages() == before


def test_a_build_from_recorded_runs_trains_nothing_and_gives_the_same_bytes_whatever_is_set_elsewhere(
    book: Book, tmp_path: Path
) -> None:
    home, temporary = Home(tmp_path), tmp_path / "temporary"
    temporary.mkdir()
    before = book.copy.files()
    for folder in book.copy.build_folder.iterdir():
        if folder.is_dir() and folder.name != "runs":
            shutil.rmtree(folder)
    output = book.copy.make("preview", home.environment() | {"TMPDIR": str(temporary)})
    assert not [line for line in output if "to train" in line or "epoch" in line or "missing" in line]
    assert book.copy.files() == before
    assert not home.read() | home.written() | {path.name for path in temporary.iterdir()}


def test_an_edited_page_is_built_without_executing_a_chapter(book: Book) -> None:
    before = book.copy.pages()
    path = book.copy.folder / "book" / "references.md"
    path.write_text(path.read_text("utf-8") + "\nA sentence that was not there before.\n", encoding="utf-8")
    output = book.copy.build()
    assert output == ["building the pages", book.output[-1]]
    after = book.copy.pages()
    assert "A sentence that was not there before." in after["references.html"]
    assert {name for name in before if before[name] != after[name]} == {"references.html"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SHORT_RERUN = f"""
from dataclasses import replace
from smallcnn.build.book import publish
from smallcnn.build.cache import preview_edition
from smallcnn.commands import run

edition = preview_edition()
short = {{"{ADDED}": {{"epochs": 2, "train_examples": 2000, "seeds": [0]}}}}
raise SystemExit(run(lambda: publish(replace(edition, changes={{**edition.changes, **short}}))))
"""


@pytest.fixture(scope="module")
def saved(book: Book) -> tuple[Book, list[str], dict[str, bytes]]:
    """A rebuild with one run that is very short, after JupyterLab saved a notebook with the values of an experiment.

    The changed value trains nothing anew: the fast engine is what `auto` takes.
    """
    before = contents(book.copy.folder / "runs")
    book.copy.replace("book/approach_2.ipynb", 'engine: str = \\"auto\\"', 'engine: str = \\"halide\\"')
    done = book.copy.python("-c", SHORT_RERUN)
    assert done.returncode == 0, done.stdout + done.stderr
    read_page.cache_clear()
    return book, done.stdout.splitlines(), before


def test_a_notebook_with_the_values_of_an_experiment_is_named_and_its_page_has_a_note(
    saved: tuple[Book, list[str], dict[str, bytes]],
) -> None:
    book, output, runs_before = saved
    named = "approach_2: its notebook has engine = halide instead of auto; its page says so in a note"
    assert named in output
    executing = [line.removeprefix("executing ") for line in output if line.startswith("executing ")]
    assert sorted(executing) == sorted(["approach_2", ADDED, "comparison"])
    for page in ("approach_2", "comparison", "index"):
        assert "<code>engine</code> is halide instead of auto" in read_page(book.copy.html / f"{page}.html").source
    for page in IMAGES:
        assert (book.copy.html / f"{page}.html").stat().st_size > 10_000
    assert contents(book.copy.folder / "runs") == runs_before
    assert not (book.copy.folder / "data").exists()


def test_the_published_values_come_back_into_the_notebook(saved: tuple[Book, list[str], dict[str, bytes]]) -> None:
    copy = saved[0].copy
    assert copy.python("-m", "smallcnn", "parameters").stdout == "written: approach_2\n"
    assert (copy.folder / "book" / "approach_2.ipynb").read_bytes() == (ROOT / "book/approach_2.ipynb").read_bytes()
    assert copy.python("-m", "smallcnn", "parameters").stdout == "every notebook has the published values\n"


def test_a_short_run_is_cautioned_against_wherever_it_is_shown(
    saved: tuple[Book, list[str], dict[str, bytes]],
) -> None:
    book, output, _ = saved
    (caution,) = book.copy.results(ADDED)["cautions"]
    assert re.match(r"only (16|32) training steps: ", caution)
    assert any(line.endswith(caution) for line in output)
    for page in (ADDED, "index"):
        text = html.unescape(re.sub(r"<[^>]+>", "", read_page(book.copy.html / f"{page}.html").source))
        assert caution in text, page
