"""From notebooks to the book: what is executed again, what a failure leaves behind, which edition is built."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import papermill
import psutil
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from smallcnn import cli, commands, paths, study
from smallcnn.build import book, cache, execution, gates, html, outputs
from smallcnn.build.cache import Edition, fresh_edition, preview_edition, published_edition, rerun_edition
from smallcnn.build.execution import BuildError
from smallcnn.commands import CommandError
from smallcnn.data import DataError, load_mnist
from smallcnn.files import remove, write_json
from smallcnn.paths import ROOT, mnist_file
from smallcnn.report import hand, measurements, notebook, parameters, summary
from smallcnn.runs import broker, workers
from smallcnn.study import Chapter

PARAMETERS = "digits_shown: int = 3  # what is shown"
SHOWN = "from smallcnn.report import tables\n\ndigits_shown"
KILLED = -9


def executed(notebook: Any, parameters: dict[str, Any]) -> Any:
    """Makes `notebook` look as papermill leaves it after executing all of it; returns it."""
    if parameters:
        source = "# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in parameters.items())
        notebook.cells.insert(2, new_code_cell(source, metadata={"tags": ["injected-parameters"]}))
    notebook.metadata["papermill"] = {"parameters": parameters, "exception": None}
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = number
        cell.metadata["papermill"] = {"status": "completed", "exception": False}
    return notebook


class Project:
    """A project with two chapters, of which `second` reads the results of `first`, and with nothing to train.

    Its papermill executes nothing: it records who was executed with which parameters, and writes their results.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.book = folder, folder / "book"
        self.executed: list[str] = []
        self.given: dict[str, dict[str, Any]] = {}
        self.answer = "as always"
        self.damage: Callable[[Any], Any] = lambda notebook: None
        self.problems: list[str] = []
        self.trains, self.writes = False, True
        self.made: list[str] = []
        self.pools: list[str] = []
        self.lines: list[str] = []
        self.book.mkdir(parents=True)
        files = {
            "requirements.txt": "",
            "_toc.yml": "root: index\n",
            "_config.yml": "html: {}\n",
            "smallcnn/__init__.py": "",
            "smallcnn/study.py": "",
            "smallcnn/report/__init__.py": "",
            "smallcnn/report/tables.py": "def late():\n    from smallcnn import study\n",
            "smallcnn/build/gates.py": "from smallcnn.report import tables\n",
        }
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
        for chapter in ("first", "second"):
            self.write(chapter, [PARAMETERS, SHOWN])

    def write(self, chapter: str, sources: list[str], text: str = "# A title") -> None:
        """Writes a notebook whose first code cell has the parameters."""
        cells = [new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
        cells[0].metadata["tags"] = ["parameters"]
        notebook = new_notebook(cells=[new_markdown_cell(text, id="title"), *cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.book / f"{chapter}.ipynb")

    def execute(self, source: str, output: str, parameters: dict[str, Any], **_: Any) -> None:
        """Takes the place of papermill's `execute_notebook`."""
        chapter = Path(source).stem
        self.executed.append(chapter)
        self.given[chapter] = parameters
        if self.trains:
            self.pools.append(broker.pool_address())
            broker.say(f"{chapter} trains")
        notebook = executed(nbformat.read(source, as_version=4), parameters)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [new_output("stream", text=f"{chapter} shows {parameters.get('digits_shown', 3)}")]
        self.damage(notebook)
        nbformat.write(notebook, output)
        results = {"answer": self.answer, "changed_parameters": parameters}
        if self.writes:
            write_json(Path(os.environ["SMALLCNN_BUILD"]) / "results" / f"{chapter}.json", results)

    def make_summary(self, results: Any) -> dict[str, bytes]:
        """Takes the place of `summary.generated_parts`."""
        self.made.append("summary")
        return {"answer.md": repr(results).encode()}

    def make_hand(self, results: Any) -> dict[str, bytes]:
        """Takes the place of `hand.generated_parts`."""
        self.made.append("hand")
        return {"hand.md": b"drawn"}

    def make_measured(self) -> dict[str, bytes]:
        """Takes the place of `measurements.measured_parts`."""
        self.made.append("measured")
        return {"engines.md": b"measured"}

    def build(self, edition: Edition | None = None) -> list[str]:
        """Executes what is not current and returns which chapters that were."""
        edition = edition or published_edition()
        self.executed.clear()
        with book._environment(edition):
            book._execute_chapters(edition, lambda: None)
        return list(self.executed)


def delete(path: Path) -> None:
    remove(path)


def truncate(path: Path) -> None:
    if path.is_file():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    remove(path)
    path.write_bytes(b"\xff\x00 garbage")


def replace_by_a_folder(path: Path) -> None:
    remove(path)
    (path / "strange").mkdir(parents=True)
    (path / "strange" / "file").touch()


DAMAGES = (delete, truncate, overwrite, replace_by_a_folder)


def files_in(folder: Path) -> dict[Path, bytes]:
    """What a build made, without what only helps it."""
    helpers = (".lock", "html.log", "html.stamp.json")
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in helpers}


class ExecutedHere:
    """Takes the place of an `Execution`: no process, the chapter is executed when it is told to begin."""

    def __init__(self, edition: Edition, chapter: str) -> None:
        self.edition, self.chapter = edition, chapter
        self.code = cache.code_inputs(chapter)
        self.answer, self._there = Pipe()

    def begin(self) -> None:
        try:
            execution.execute(self.edition, self.chapter, None, self.code)
        except CommandError as error:
            self._there.send(error)
        else:
            self._there.send(None)

    def finish(self) -> None:
        if (error := self.answer.recv()) is not None:
            raise error

    def end(self) -> None:
        pass


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "a project")
    chapters = {
        "first": Chapter("first", {"digits_shown": 3}),
        "second": Chapter("second", {"digits_shown": 3}, reads=("first",)),
    }
    for module in (book, cache, html, parameters, notebook):
        monkeypatch.setattr(module, "CHAPTERS", chapters)
    for module in (cache, html):
        monkeypatch.setattr(module, "ROOT", project.root)
    for module in (cache, html, execution, notebook):
        monkeypatch.setattr(module, "BOOK", project.book)
    monkeypatch.setattr(cache, "PUBLISHED_RUNS", project.root / "runs")
    monkeypatch.setattr(cache, "OWN_RUNS", project.root / "data" / "runs")
    monkeypatch.setattr(cache, "MEASUREMENTS", project.root / "measurements")
    monkeypatch.setattr(book, "Execution", ExecutedHere)
    monkeypatch.setattr(book, "load_mnist", lambda: None)
    monkeypatch.setattr(book, "say", project.lines.append)
    monkeypatch.setattr(papermill, "execute_notebook", project.execute)
    monkeypatch.setattr(summary, "generated_parts", project.make_summary)
    monkeypatch.setattr(hand, "generated_parts", project.make_hand)
    monkeypatch.setattr(measurements, "measured_parts", project.make_measured)
    for name in ("SMALLCNN_BUILD", "SMALLCNN_RUNS", "SMALLCNN_PREVIEW"):
        monkeypatch.delenv(name, raising=False)
    return project


# What is executed


def test_what_is_read_is_executed_first_and_all_of_it_once(project: Project) -> None:
    assert project.build() == ["first", "second"]
    assert project.build() == []


def test_an_edited_text_executes_nothing_and_is_on_the_page(project: Project) -> None:
    project.build()
    project.write("first", [PARAMETERS, SHOWN], text="# Another title")
    (project.book / "index.md").write_text("# Edited", encoding="utf-8")
    assert project.build() == []
    page = nbformat.reads(html._page(published_edition(), "first"), as_version=4)
    assert page.cells[0].source == "# Another title"
    assert page.cells[2].outputs[0].text == "first shows 3"
    assert [cell.execution_count for cell in page.cells[1:]] == [1, 2]


def test_a_page_has_neither_remarks_nor_the_chance_by_which_output_is_cut(project: Project) -> None:
    def cut(notebook: Any) -> None:
        texts = [("stderr", "at 12:00:01"), ("stdout", "first "), ("stderr", "slow"), ("stdout", "shows 3")]
        notebook.cells[-1].outputs = [new_output("stream", name=name, text=text) for name, text in texts]

    project.damage = cut
    project.build()
    page = nbformat.reads(html._page(published_edition(), "first"), as_version=4)
    assert [output.text for output in page.cells[-1].outputs] == ["first shows 3"]


def test_edited_code_executes_the_chapter_only(project: Project) -> None:
    project.build()
    project.write("first", [PARAMETERS, "digits_shown + 1"])
    assert project.build() == ["first"]


def test_code_that_changed_since_it_was_executed_is_not_on_a_page(project: Project) -> None:
    project.build()
    project.write("first", [PARAMETERS, "digits_shown + 1"])
    with pytest.raises(html.PagesError, match="first was changed while it was executed; the same command"):
        html._page(published_edition(), "first")


def test_what_is_saved_while_pages_are_built_makes_the_book_anew(project: Project) -> None:
    project.build()
    before = cache.sources(published_edition())
    (project.book / "index.md").write_text("# Edited", encoding="utf-8")
    cache.note_publication(published_edition(), before)
    assert not cache.book_is_current(published_edition())


@pytest.mark.parametrize("folder", ["runs", "data/runs"])
def test_a_changed_record_executes_the_chapters_that_show_it(project: Project, folder: str) -> None:
    project.answer = "0123456789abcdef"
    record = project.root / folder / project.answer / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("one", encoding="utf-8")
    project.build()
    assert project.build() == []
    record.write_text("another", encoding="utf-8")
    assert "first" in project.build()


def test_what_is_forgotten_is_executed_again(project: Project) -> None:
    project.build()
    cache.note_publication(published_edition(), cache.sources(published_edition()))
    cache.forget(published_edition(), ["first", "second"])
    assert not cache.book_is_current(published_edition())
    assert project.build() == ["first", "second"]


def test_runs_that_a_reader_keeps_elsewhere_do_not_reach_the_published_book(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMALLCNN_RUNS", str(project.root / "elsewhere"))
    with book._environment(published_edition()):
        assert paths.record_folders() == [paths.PUBLISHED_RUNS, paths.OWN_RUNS]


def test_a_renamed_code_cell_executes_the_chapter(project: Project) -> None:
    project.build()
    path = project.book / "first.ipynb"
    path.write_text(path.read_text("utf-8").replace("cell-1", "pasted"), encoding="utf-8")
    assert project.build() == ["first"]
    html._page(published_edition(), "first")


@pytest.mark.parametrize(
    "name",
    ["smallcnn/report/tables.py", "smallcnn/report/__init__.py", "smallcnn/__init__.py", "smallcnn/study.py"],
)
def test_a_changed_module_executes_those_who_import_it_also_through_others(project: Project, name: str) -> None:
    project.write("second", [PARAMETERS, "digits_shown"])
    project.build()
    with (project.root / name).open("a", encoding="utf-8") as file:
        file.write("# a comment\n")
    assert project.build() == ["first"]


def test_a_new_lock_executes_all(project: Project) -> None:
    project.build()
    (project.root / "requirements.txt").write_text("one==2\n", encoding="utf-8")
    assert project.build() == ["first", "second"]


@pytest.mark.parametrize("name", ["smallcnn/build/gates.py", "smallcnn/build/book.py", "smallcnn/report/new.py"])
def test_a_module_that_no_chapter_imports_executes_none_and_makes_the_book_anew(project: Project, name: str) -> None:
    project.build()
    cache.note_publication(published_edition(), cache.sources(published_edition()))
    assert cache.book_is_current(published_edition())
    with (project.root / name).open("a", encoding="utf-8") as file:
        file.write("# a comment\n")
    assert project.build() == []
    assert not cache.book_is_current(published_edition())


@pytest.mark.parametrize(
    "name", ["book/page.md", "_toc.yml", "runs/key/run.json", "measurements/a.json", "build/html/a"]
)
def test_a_change_of_what_only_pages_show_executes_nothing_and_makes_the_book_anew(project: Project, name: str) -> None:
    project.build()
    cache.note_publication(published_edition(), cache.sources(published_edition()))
    path = project.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("changed", encoding="utf-8")
    assert project.build() == []
    assert not cache.book_is_current(published_edition())


@pytest.mark.parametrize("chapter", [*(approach.name for approach in study.APPROACHES), "pruning"])
def test_a_chapter_follows_from_the_study_the_engines_and_what_it_shows_but_not_from_the_build(chapter: str) -> None:
    cells = json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    modules = set(cache.code_digests(code))
    engines = {f"smallcnn/engines/{name}.py" for name in ("base", "tensorflow", "halide/engine", "halide/backward")}
    shown = {f"smallcnn/report/{name}.py" for name in ("tables", "figures", "chapter", "results")}
    assert {"smallcnn/study.py", "smallcnn/training.py", "requirements.txt", *engines, *shown} <= modules
    assert not [name for name in modules if name.startswith("smallcnn/build/")]
    assert "smallcnn/cli.py" not in modules


def test_code_that_changed_while_the_kernel_started_is_executed_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Early(ExecutedHere):
        def begin(self) -> None:
            if not project.executed:
                (project.root / "smallcnn" / "study.py").write_text("# edited meanwhile\n", encoding="utf-8")
            super().begin()

    monkeypatch.setattr(book, "Execution", Early)
    assert project.build() == ["first", "second"]
    assert project.build() == ["first"]  # whose kernel may have imported the old code
    assert project.build() == []


def test_changed_results_execute_those_who_read_them(project: Project) -> None:
    project.build()
    project.answer = "another"
    project.write("first", [PARAMETERS, "digits_shown + 1"])
    assert project.build() == ["first", "second"]


def test_results_that_someone_else_wrote_are_made_anew(project: Project) -> None:
    project.build()
    write_json(project.root / "build" / "results" / "first.json", {"answer": "by hand"})
    assert project.build() == ["first"]


@pytest.mark.parametrize("name", ["notebooks/first.ipynb", "notebooks/first.stamp.json", "results/first.json"])
def test_what_is_missing_or_damaged_is_made_anew(project: Project, name: str) -> None:
    project.build()
    path = project.root / "build" / name
    path.unlink()
    assert project.build() == ["first"]
    if path.suffix == ".json":
        path.write_text("{", encoding="utf-8")
        assert project.build() == ["first"]


@pytest.mark.parametrize(
    "content", ["[]", "null", '{"changes": [1]}', '{"changes": {"gone": 1}}', "[" * 100_000, "\udcff"]
)
def test_a_strange_stamp_is_no_stamp(project: Project, content: str) -> None:
    project.build()
    stamp = project.root / "build" / "notebooks" / "first.stamp.json"
    stamp.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert rerun_edition("second", {}).changes["first"] == {}
    assert project.build() == ["first"]


def test_a_changed_notebook_is_made_anew(project: Project) -> None:
    project.build()
    path = project.root / "build" / "notebooks" / "first.ipynb"
    path.write_text(path.read_text("utf-8").replace("first shows 3", "first shows 4"), encoding="utf-8")
    assert project.build() == ["first"]


def test_a_half_run_notebook_is_refused(project: Project) -> None:
    def damage(notebook: Any) -> None:
        notebook.cells[-1].execution_count = None

    project.damage = damage
    with pytest.raises(BuildError, match="first: the executed notebook must not enter the book: code cell 2 was not"):
        project.build()
    assert not (project.root / "build" / "notebooks" / "first.ipynb").exists()


def test_a_chapter_that_shows_or_writes_too_little_is_refused_and_never_current(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("first", [PARAMETERS, "results.runs([])", "chapter.write_results(more=1)"])
    with pytest.raises(
        BuildError, match="cell cell-1 shows 0 of 1 tables that its code makes; its results lack chapter"
    ):
        project.build()
    with monkeypatch.context() as earlier:  # a version of the build that did not check this
        earlier.setattr(gates, "missing_outputs", lambda cells: [])
        earlier.setattr(outputs, "missing_results", lambda cells, results: [])
        earlier.setattr(outputs, "missing_outputs", lambda cells: [])
        assert project.build() == ["first", "second"]
        assert project.build() == []
    assert not cache.is_current(published_edition(), "first")
    assert cache.is_current(published_edition(), "second")


# Reruns and editions


def test_changed_parameters_execute_the_chapter_and_the_published_ones_do_so_again(project: Project) -> None:
    project.build()
    assert project.build(rerun_edition("first", {"digits_shown": 5})) == ["first", "second"]
    assert project.given == {"first": {"digits_shown": 5}, "second": {}}
    assert project.build(rerun_edition("first", {"digits_shown": 5})) == []
    assert project.build() == ["first", "second"]
    assert project.given == {"first": {}, "second": {}}


def test_a_rerun_keeps_the_changes_of_other_chapters(project: Project) -> None:
    project.build(rerun_edition("first", {"digits_shown": 5}))
    edition = rerun_edition("second", {"digits_shown": 7})
    assert edition.changes == {"first": {"digits_shown": 5}, "second": {"digits_shown": 7}}
    assert project.build(edition) == ["second"]
    assert rerun_edition("first", {"digits_shown": 6}).changes == {
        "first": {"digits_shown": 6},
        "second": {"digits_shown": 7},
    }


def test_editions_live_apart(project: Project) -> None:
    published, preview, fresh = published_edition(), preview_edition(), fresh_edition()
    assert published.folder == fresh.folder == project.root / "build"
    assert preview.folder != published.folder
    assert len({published.runs, preview.runs, fresh.runs}) == 3
    assert (published.changes, fresh.changes) == ({}, {})
    assert [edition.preview for edition in (published, preview, fresh)] == [False, True, False]


def test_a_preview_leaves_the_book_alone(project: Project) -> None:
    preview = Edition(
        project.root / "build" / "preview", project.root / "runs", {"first": {"digits_shown": 1}}, preview=True
    )
    project.build()
    assert project.build(preview) == ["first", "second"]
    assert project.build() == []


def test_a_fresh_book_takes_nothing_from_the_recorded_one(project: Project) -> None:
    project.build()
    assert project.build(fresh_edition()) == ["first", "second"]


def test_the_preview_changes_parameters_that_exist_to_values_that_are_allowed() -> None:
    for chapter, changes in preview_edition().changes.items():
        values = parameters.published_values(chapter) | changes
        parameters.check_values(chapter, values)
        assert not changes.keys() & {*study.NETWORK_PARAMETERS}  # so the networks are those that can be trained
        assert values["train_examples"] <= 20_000
        assert values["epochs"] <= 5


def test_the_library_and_its_workers_are_told_the_edition(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SMALLCNN_RUNS", "before")
    for name in ("SMALLCNN_BUILD", "SMALLCNN_PREVIEW"):
        monkeypatch.delenv(name, raising=False)
    edition = Edition(tmp_path / "build", tmp_path / "runs", {}, preview=True)

    def told() -> list[str | None]:
        return [os.environ.get(f"SMALLCNN_{name}") for name in ("BUILD", "RUNS", "PREVIEW")]

    with pytest.raises(KeyboardInterrupt), book._environment(edition):
        assert told() == [str(tmp_path / "build"), str(tmp_path / "runs"), "1"]
        raise KeyboardInterrupt
    assert told() == [None, "before", None]


def test_only_a_preview_has_the_banner(project: Project) -> None:
    assert html._configuration(published_edition()) == (project.root / "_config.yml").read_bytes()
    marked = yaml.safe_load(html._configuration(preview_edition()))
    assert marked == {"html": {"announcement": html.PREVIEW_BANNER}}


def test_a_second_build_waits_for_the_first(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from smallcnn.build.book import _only_one\n"
        "with _only_one(Path(sys.argv[1])): print('my turn', flush=True)"
    )
    with book._only_one(tmp_path / "build"):
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "build")],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        assert other.stdout is not None
        assert "waiting" in other.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.2)
    assert other.communicate(timeout=60)[0] == "my turn\n"
    assert other.returncode == 0


# Pages


def test_the_source_of_the_book_has_pages_executed_chapters_and_nothing_else(project: Project) -> None:
    project.build()
    (project.book / "index.md").write_text("# Index", encoding="utf-8")
    (project.book / ".ipynb_checkpoints").mkdir()
    (project.book / ".ipynb_checkpoints" / "first-checkpoint.md").touch()
    html.assemble(published_edition(), {})
    source = project.root / "build" / "source"
    stray = source / "generated" / "removed.md"
    stray.touch()
    index = source / "index.md"
    os.utime(index, (1, 1))
    html.assemble(published_edition(), {})
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    generated = {"generated/answer.md", "generated/engines.md", "generated/hand.md"}
    assert files == {"_config.yml", "_toc.yml", "index.md", "first.ipynb", "second.ipynb", *generated}
    assert index.stat().st_mtime == 1  # an untouched page is not built again


def test_generated_parts_are_made_again_only_if_something_they_follow_from_changed(project: Project) -> None:
    project.build()
    edition, folder = published_edition(), project.root / "build" / "generated"
    code = project.root / "smallcnn" / "report" / "measurements.py"

    def made(results: dict[str, Any], edition: Edition = edition) -> list[str]:
        project.made.clear()
        html.assemble(edition, results)
        assert (edition.folder / "source" / "generated" / "answer.md").read_text("utf-8") == repr(results)
        return list(project.made)

    assert made({}) == ["summary", "hand", "measured"]
    assert made({}) == []
    assert made({"first": {"answer": 1}}) == ["summary", "hand"]
    (project.root / "measurements").mkdir()
    (project.root / "measurements" / "scaling.json").write_text("{}", encoding="utf-8")
    assert made({"first": {"answer": 1}}) == ["measured"]
    code.write_text("# edited", encoding="utf-8")
    assert made({"first": {"answer": 1}}) == ["measured"]
    (folder / "summary" / "answer.md").write_text("by hand", encoding="utf-8")
    assert made({"first": {"answer": 1}}) == ["summary"]
    (folder / "measurements" / "stamp.json").write_text("[]", encoding="utf-8")
    assert made({"first": {"answer": 1}}) == ["measured"]
    assert made({"first": {"answer": 1}}, replace(edition, preview=True)) == ["summary", "hand"]


@pytest.fixture
def built(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Builds and publishes with a jupyter-book that writes one page, or fails; returns its arguments."""

    class Tool(html.JupyterBook):
        def start(self) -> None:
            pass

        def run(self, arguments: Sequence[str]) -> int:
            self.arguments = list(arguments)
            assert ("--all" in arguments) != (project.root / "build" / "sphinx" / "_build").exists()
            self.log.write_text(self.text, encoding="utf-8")
            folder = project.root / "build" / "sphinx" / "_build" / "html"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "index.html").write_text(self.text, encoding="utf-8")
            if self.returncode == KILLED:
                raise KeyboardInterrupt
            return self.returncode

    def build(log: str, returncode: int = 0, edition: Edition | None = None) -> list[str]:
        tool.text, tool.returncode = log, returncode
        (project.book / "index.md").write_text(log, encoding="utf-8")
        project.executed.clear()
        book.publish(edition or published_edition())
        assert (project.root / "build" / "html" / "index.html").read_text("utf-8") == log
        return tool.arguments

    tool = Tool(project.root / "build" / "html.log")
    monkeypatch.setattr(html, "JupyterBook", lambda log: tool)
    monkeypatch.setattr(gates, "book_problems", lambda *_: project.problems)
    return build


def test_pages_are_built_with_warnings_as_errors(built: Callable[..., list[str]]) -> None:
    assert "-W" in built("one")


def test_a_new_table_of_contents_builds_every_page(built: Callable[..., list[str]], project: Project) -> None:
    assert "--all" in built("one")
    assert "--all" not in built("two")
    (project.root / "_toc.yml").write_text("root: other\n", encoding="utf-8")
    assert "--all" in built("three")


def test_a_killed_build_and_a_clock_set_back_build_every_page(
    built: Callable[..., list[str]], project: Project
) -> None:
    built("one")
    stamp = project.root / "build" / "html.stamp.json"
    os.utime(stamp, (stamp.stat().st_mtime + 3600,) * 2)
    assert "--all" in built("two")
    assert "--all" not in built("three")
    with pytest.raises(KeyboardInterrupt):
        built("four", returncode=KILLED)
    assert "--all" in built("five")


def test_a_removed_page_is_published_no_more(built: Callable[..., list[str]], project: Project) -> None:
    built('<a href="index.html#here">here</a>')
    stray = project.root / "build" / "sphinx" / "_build" / "html" / "removed.html"
    stray.touch()
    cache.note_publication(published_edition(), "")  # as if Sphinx had left it
    assert "--all" not in built('<a href="index.html">here</a>')
    assert stray.exists()
    assert [path.name for path in (project.root / "build" / "html").iterdir()] == ["index.html"]


def test_what_a_page_uses_is_published_and_nothing_else(tmp_path: Path) -> None:
    files = {
        "index.html": '<link href="_static/a%20style.css?v=1"><img src="x.svg"/><a href="part/two.html#a">2</a>'
        '<a href="https://example.org/index.html">e</a><a href="../outside.txt">o</a><script src="s.js"></script>',
        "part/two.html": '<a href="../index.html">1</a><a href="data:text/csv;base64,eA==">x</a>'
        '<b style="background: url(&quot;b.png&quot;)"></b><a href="gone.html">g</a>',
        "part/b.png": "",
        "_static/a style.css": "@import '../more.css'; p { background: url(\"c.png\") } q { background: url(data:x) }",
        "more.css": "p { background: url( d.png ) }",
        "_static/c.png": "",
        "d.png": "",
        "x.svg": "",
        "s.js": "// sourceMappingURL=s.js.map",
        "s.js.LICENSE.txt": "",
    }
    unused = ("s.js.map", "other.html", "y.svg", "_sources/index.md", "../outside.txt")
    for name, content in {**files, **dict.fromkeys(unused, "")}.items():
        path = tmp_path / "html" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    used = html.used_files(tmp_path / "html")
    assert {path.relative_to(tmp_path / "html").as_posix() for path in used} == {*files}


def test_pages_that_fail_leave_the_published_ones(built: Callable[..., list[str]], project: Project) -> None:
    built("good pages")
    with pytest.raises(html.PagesError, match="index.md:3: WARNING: no such page") as raised:
        built("reading\nindex.md:3: WARNING: no such page\nfinished with problems\n", returncode=1)
    assert "finished" not in str(raised.value)
    assert "html.log" in str(raised.value)
    assert (project.root / "build" / "html" / "index.html").read_text("utf-8") == "good pages"
    assert "--all" in built("good pages again")


@pytest.mark.parametrize(
    ("problem", "executed_again"),
    [
        ("/book/source/first.ipynb:10002: WARNING: Duplicate explicit target name", ["first"]),
        ("/book/source/index.md:3: WARNING: no such page", []),
        ("Sphinx WARNING: something, somewhere", ["first", "second"]),
    ],
)
def test_what_a_refused_book_was_made_of_is_made_anew(
    built: Callable[..., list[str]], project: Project, problem: str, executed_again: list[str]
) -> None:
    changed = rerun_edition("first", {"digits_shown": 5})
    built("one", 0, changed)
    with pytest.raises(html.PagesError, match="the pages were not built"):
        built(problem, 1, changed)
    made = list(project.made)
    assert rerun_edition("second", {}).changes["first"] == {"digits_shown": 5}
    assert "--all" in built("mended", 0, changed)
    assert project.executed == executed_again
    assert project.made == [*made, "summary", "hand", "measured"]


def test_a_book_that_the_gates_refuse_is_made_anew(built: Callable[..., list[str]], project: Project) -> None:
    built("one")
    project.problems = ["second.html: it lacks a picture, a table or a note of cell cell-1"]
    with pytest.raises(BuildError, match="must not be published:\nsecond.html: it lacks"):
        built("two")
    project.problems = []
    assert "--all" in built("two")
    assert project.executed == ["second"]
    assert "--all" not in built("three")
    assert project.executed == []


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_whatever_is_damaged_in_the_folder_of_the_build_is_made_again(
    built: Callable[..., list[str]], project: Project, damage: Callable[[Path], None]
) -> None:
    folder = project.root / "build"
    built("one")
    before = files_in(folder)
    for path in sorted(folder.rglob("*")):
        damage(path)
        assert book.publish(published_edition()).read_text("utf-8") == "one", path
        assert before.items() <= files_in(folder).items(), path


def test_a_chapter_without_results_is_named(built: Callable[..., list[str]], project: Project) -> None:
    project.writes = False
    with pytest.raises(BuildError, match="first wrote no results; its last cell must call chapter.write_results"):
        built("one")


# What a user sees


@pytest.mark.parametrize("error", [BuildError("first: no"), DataError("no images"), FloatingPointError("no number")])
@pytest.mark.parametrize("arguments", [["book"], ["rerun", "approach_2", "epochs=3"]], ids=lambda words: words[0])
def test_whatever_fails_is_one_line(
    arguments: list[str], error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(edition: Edition) -> Path:
        raise error

    monkeypatch.setattr(book, "publish", fail)
    monkeypatch.setattr(cache, "book_is_current", lambda edition: False)
    monkeypatch.setattr(notebook, "read_network", lambda chapter, values: None)
    assert cli.main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.endswith(f"{error}\n")
    assert (len(printed.err.splitlines()), printed.out) == (1, "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space"),
            "the disk is full; make room, and the same command goes on from what is finished",
        ),
        (OSError(errno.EROFS, "Read-only file system", "build/html"), "Read-only file system: build/html"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "ConnectionRefusedError: [Errno 111] refused"),
        (TimeoutError("too long"), "TimeoutError: too long"),
    ],
)
def test_what_the_system_refuses_is_one_line(error: OSError, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    assert commands.run(fail) == 1
    assert capsys.readouterr().err == f"error: {line}\n"


# One pool of workers


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What became of the workers that were started."""
    told: list[str] = []

    @contextmanager
    def local_cluster() -> Iterator[Any]:
        told.append("started")
        yield SimpleNamespace(
            workers={0: "one", 1: "two"}, scheduler_address="tcp://127.0.0.1:1", dashboard_link="http://127.0.0.1:2"
        )
        told.append("ended")

    monkeypatch.setattr(workers, "local_cluster", local_cluster)
    return told


def test_all_chapters_share_workers_that_start_once_and_end_with_the_build(
    project: Project, clusters: list[str]
) -> None:
    project.trains = True
    assert project.build() == ["first", "second"]
    assert project.pools == ["tcp://127.0.0.1:1"] * 2
    assert clusters == ["started", "ended"]
    told = [line.partition(";")[0] for line in project.lines]
    assert told == ["executing first", "runs are missing", "first trains", "executing second", "second trains"]


def test_a_build_that_trains_nothing_starts_no_workers(project: Project, clusters: list[str]) -> None:
    project.build()
    project.trains = True
    assert project.build() == []
    assert clusters == []


def test_pages_are_prepared_only_when_at_most_one_chapter_is_left(project: Project) -> None:
    told: list[list[str]] = []
    with book._environment(published_edition()):
        book._execute_chapters(published_edition(), lambda: told.append(list(project.executed)))
    assert told == [["first", "second"]]


# With the real papermill and a kernel


@pytest.fixture
def real_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    from papermill.execute import execute_notebook

    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    monkeypatch.setattr(execution, "IMPORTS", "pass")  # these chapters need nothing of the library
    return project


def execute_really(edition: Edition, chapter: str) -> None:
    with execution.kernel_of(chapter) as kernel:
        execution.execute(edition, chapter, kernel, cache.code_inputs(chapter))


def edition_of(project: Project, **changes: Any) -> Edition:
    return Edition(project.root / "build", project.root / "runs", {"first": changes})


@pytest.mark.slow
def test_a_failing_chapter_is_named_and_leaves_the_executed_one(real_project: Project) -> None:
    edition = edition_of(real_project, digits_shown=4)
    output = real_project.root / "build" / "notebooks" / "first.ipynb"
    real_project.write("first", [PARAMETERS, "digits_shown"])
    execute_really(edition, "first")
    executed = nbformat.read(output, as_version=4)
    assert executed.cells[-1].outputs[0].data["text/plain"] == "4"
    before = output.read_bytes()

    real_project.write("first", [PARAMETERS, "digits_shown", "digits_shown / 0", "print('never')"])
    with pytest.raises(BuildError, match=r"^first: cell \d failed with ZeroDivisionError: division by zero") as raised:
        execute_really(edition, "first")
    assert len(str(raised.value).splitlines()) == 1
    assert output.read_bytes() == before
    assert not cache.is_current(edition, "first")
    failed = real_project.root / "build" / "failed" / "first.ipynb"
    assert str(failed) in str(raised.value)
    assert "ZeroDivisionError" in failed.read_text("utf-8")
    assert sorted(path.name for path in output.parent.iterdir()) == ["first.ipynb", "first.stamp.json"]


@pytest.mark.slow
def test_imports_that_a_kernel_makes_early_leave_no_trace_in_the_chapter(
    real_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "IMPORTS", execution.IMPORTS_WITH_NETWORK.replace("import_keras(); ", ""))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    modules = "'smallcnn.report.figures' in sys.modules"
    names = "sorted(name for name in dir() if name[0] != '_' and name not in ('In', 'Out', 'exit', 'quit', 'open'))"
    real_project.write("first", [PARAMETERS, f"import sys\n({modules}, {names}, len(In))"])
    execute_really(edition_of(real_project), "first")
    executed = nbformat.read(real_project.root / "build" / "notebooks" / "first.ipynb", as_version=4)
    shown = executed.cells[-1].outputs[0].data["text/plain"]
    assert ast.literal_eval(shown) == (True, ["digits_shown", "get_ipython", "sys"], 3)


@pytest.mark.slow
def test_a_chapter_whose_kernel_dies_is_named(real_project: Project) -> None:
    real_project.write("first", [PARAMETERS, "import os\nos._exit(1)"])
    with pytest.raises(BuildError, match="^first: "):
        execute_really(edition_of(real_project), "first")
    assert not (real_project.root / "build" / "notebooks" / "first.ipynb").exists()


@pytest.mark.slow
def test_a_chapter_that_hangs_is_named(real_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLCNN_CELL_SECONDS", "20")
    monkeypatch.setattr(execution, "cell_seconds", iter([2]).__next__)
    real_project.write("first", [PARAMETERS, "import time\ntime.sleep(1000)"])
    with pytest.raises(BuildError, match="^first: a cell ran for more than 2 seconds; SMALLCNN_CELL_SECONDS=20 would"):
        execute_really(edition_of(real_project), "first")
    assert not (real_project.root / "build" / "notebooks" / "first.ipynb").exists()


# A build of its own, whose chapters are not the book's; their processes import this file and change the same.
BUILD = """
import os, sys
from pathlib import Path

import psutil

from smallcnn.build import book, cache, execution, html
from smallcnn.build.cache import Edition
from smallcnn.commands import run
from smallcnn.report import notebook, parameters
from smallcnn.study import Chapter

root = Path(sys.argv[1])
for module in (cache, execution, html, notebook):
    module.BOOK = root / "book"
for module in (book, cache, html, notebook, parameters):
    module.CHAPTERS = {"first": Chapter("first"), "second": Chapter("second")}
execution.IMPORTS = "pass"

if __name__ == "__main__":
    edition = Edition(root / "build", root / "runs", {})
    with book._environment(edition):
        code = run(lambda: book._execute_chapters(edition, lambda: None))
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    print("left:", *(command for command in commands if "multiprocessing.resource_tracker" not in command))
    sys.exit(code)
"""


def start_build(project: Project, first: str, second: str) -> psutil.Popen:
    """Starts a build of two chapters that run this code."""
    project.write("first", ["pass", first])
    project.write("second", ["pass", second])
    script = project.root / "script" / "build_two.py"  # beside nothing that could be taken for the library
    script.parent.mkdir()
    script.write_text(BUILD, encoding="utf-8")
    load_mnist()  # so that there is a local copy of it
    return psutil.Popen(
        [sys.executable, str(script), str(project.root)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "SMALLCNN_MNIST": str(mnist_file())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def training_until_the_end_of_time(started: Path) -> str:
    """The code of a chapter that has workers started, says so, and does not end by itself."""
    return (
        f"import time\nfrom smallcnn.runs import broker\nbroker.pool_address()\n"
        f"open({str(started)!r}, 'w').close()\ntime.sleep(1000)"
    )


@pytest.mark.slow
def test_a_killed_build_leaves_neither_workers_nor_kernels(project: Project) -> None:
    started = project.root / "started"
    build = start_build(project, training_until_the_end_of_time(started), "import time\ntime.sleep(1000)")
    while not started.exists():
        assert build.poll() is None, build.communicate()[0]
        time.sleep(0.1)
    family = build.children(recursive=True)
    commands = [" ".join(process.cmdline()) for process in family]
    assert sum("smallcnn.build.kernel" in command for command in commands) == 2
    assert len(family) >= 2 * 2 + 2  # each chapter has a process and a kernel, and there are workers
    build.kill()
    _, alive = psutil.wait_procs([build, *family], timeout=15)
    assert not alive


@pytest.mark.slow
def test_a_chapter_that_fails_ends_the_build_although_another_trains_and_leaves_no_process(project: Project) -> None:
    started = project.root / "started"
    failing = f"import os, time\nwhile not os.path.exists({str(started)!r}):\n    time.sleep(0.1)\n1 / 0"
    build = start_build(project, failing, training_until_the_end_of_time(started))
    output = build.communicate(timeout=120)[0]
    assert build.returncode == 1
    *_, error, left = output.splitlines()
    assert error.startswith("error: first: cell 2 failed with ZeroDivisionError")
    assert left == "left:"
    assert len([line for line in output.splitlines() if line.startswith("runs are missing")]) == 1
    assert "Traceback" not in output


@pytest.mark.parametrize("text", ["0", "-1", "ten", "1.5", "1e3"])
def test_a_wrong_time_limit_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLCNN_CELL_SECONDS", text)
    with pytest.raises(BuildError, match="SMALLCNN_CELL_SECONDS is .* expected a whole number of seconds"):
        book.publish(published_edition())
