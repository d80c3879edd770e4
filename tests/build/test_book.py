"""From notebooks to the book: what is executed again, what a failure leaves behind, which edition is built."""

from __future__ import annotations

import errno
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from smallcnn import commands, measurements, pages, parameters, publishing
from smallcnn.data import DataError
from smallcnn.files import write_json
from smallcnn.paths import ROOT
from smallcnn.publishing import BuildError, Edition, fresh_edition, preview_edition, published_edition, rerun_edition

PARAMETERS = "shown: int = 3  # what is shown"
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
        self.book.mkdir(parents=True)
        (folder / "smallcnn").mkdir()
        (folder / "smallcnn" / "library.py").write_text("one = 1\n", encoding="utf-8")
        for name, content in (("requirements.txt", ""), ("_toc.yml", "root: index\n"), ("_config.yml", "html: {}\n")):
            (folder / name).write_text(content, encoding="utf-8")
        for chapter in ("first", "second"):
            self.write(chapter, [PARAMETERS, "shown"])

    def write(self, chapter: str, sources: list[str], text: str = "# A title") -> None:
        """Writes a notebook whose first code cell has the parameters."""
        cells = [new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
        cells[0].metadata["tags"] = ["parameters"]
        notebook = new_notebook(cells=[new_markdown_cell(text, id="title"), *cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.book / f"{chapter}.ipynb")

    def execute(self, source: Path, output: Path, parameters: dict[str, Any], **_: Any) -> None:
        """Takes the place of papermill's `execute_notebook`."""
        chapter = source.stem
        self.executed.append(chapter)
        self.given[chapter] = parameters
        notebook = executed(nbformat.read(source, as_version=4), parameters)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [new_output("stream", text=f"{chapter} shows {parameters.get('shown', 3)}")]
        self.damage(notebook)
        nbformat.write(notebook, output)
        results = {"answer": self.answer, "changed_parameters": parameters}
        write_json(Path(os.environ["SMALLCNN_BUILD"]) / "results" / f"{chapter}.json", results)

    def build(self, edition: Edition | None = None) -> list[str]:
        """Executes what is not current and returns which chapters that were."""
        edition = edition or published_edition()
        self.executed.clear()
        with publishing._environment(edition):
            publishing._execute_chapters(edition)
        return list(self.executed)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "a project")
    monkeypatch.setattr(publishing, "ROOT", project.root)
    monkeypatch.setattr(publishing, "BOOK", project.book)
    monkeypatch.setattr(parameters, "BOOK", project.book)
    monkeypatch.setattr(publishing, "CHAPTERS", {"first": (), "second": ("first",)})
    monkeypatch.setattr(publishing, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(papermill, "execute_notebook", project.execute)
    monkeypatch.setattr(pages, "generated_parts", lambda results: {"answer.md": repr(results).encode()})
    monkeypatch.setattr(measurements, "measured_parts", dict)
    for name in ("SMALLCNN_BUILD", "SMALLCNN_RUNS", "SMALLCNN_PREVIEW"):
        monkeypatch.delenv(name, raising=False)
    return project


# What is executed


def test_what_is_read_is_executed_first_and_all_of_it_once(project: Project) -> None:
    assert project.build() == ["first", "second"]
    assert project.build() == []


def test_an_edited_text_executes_nothing_and_is_on_the_page(project: Project) -> None:
    project.build()
    project.write("first", [PARAMETERS, "shown"], text="# Another title")
    (project.book / "index.md").write_text("# Edited", encoding="utf-8")
    assert project.build() == []
    page = nbformat.reads(publishing._page(published_edition(), "first"), as_version=4)
    assert page.cells[0].source == "# Another title"
    assert page.cells[2].outputs[0].text == "first shows 3"
    assert [cell.execution_count for cell in page.cells[1:]] == [1, 2]


def test_a_page_has_neither_remarks_nor_the_chance_by_which_output_is_cut(project: Project) -> None:
    def cut(notebook: Any) -> None:
        texts = [("stderr", "at 12:00:01"), ("stdout", "first "), ("stderr", "slow"), ("stdout", "shows 3")]
        notebook.cells[-1].outputs = [new_output("stream", name=name, text=text) for name, text in texts]

    project.damage = cut
    project.build()
    page = nbformat.reads(publishing._page(published_edition(), "first"), as_version=4)
    assert [output.text for output in page.cells[-1].outputs] == ["first shows 3"]


def test_edited_code_executes_the_chapter_only(project: Project) -> None:
    project.build()
    project.write("first", [PARAMETERS, "shown + 1"])
    assert project.build() == ["first"]


def test_a_renamed_code_cell_executes_the_chapter(project: Project) -> None:
    project.build()
    path = project.book / "first.ipynb"
    path.write_text(path.read_text("utf-8").replace("cell-1", "pasted"), encoding="utf-8")
    assert project.build() == ["first"]
    publishing._page(published_edition(), "first")


@pytest.mark.parametrize("name", ["smallcnn/library.py", "smallcnn/new.py", "requirements.txt"])
def test_a_changed_library_executes_all(project: Project, name: str) -> None:
    project.build()
    (project.root / name).write_text("two = 2\n", encoding="utf-8")
    assert project.build() == ["first", "second"]


def test_changed_results_execute_those_who_read_them(project: Project) -> None:
    project.build()
    project.answer = "another"
    project.write("first", [PARAMETERS, "shown + 1"])
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


# Reruns and editions


def test_changed_parameters_execute_the_chapter_and_the_published_ones_do_so_again(project: Project) -> None:
    project.build()
    assert project.build(rerun_edition("first", {"shown": 5})) == ["first", "second"]
    assert project.given == {"first": {"shown": 5}, "second": {}}
    assert project.build(rerun_edition("first", {"shown": 5})) == []
    assert project.build() == ["first", "second"]
    assert project.given == {"first": {}, "second": {}}


def test_a_rerun_keeps_the_changes_of_other_chapters(project: Project) -> None:
    project.build(rerun_edition("first", {"shown": 5}))
    edition = rerun_edition("second", {"shown": 7})
    assert edition.changes == {"first": {"shown": 5}, "second": {"shown": 7}}
    assert project.build(edition) == ["second"]
    assert rerun_edition("first", {"shown": 6}).changes == {"first": {"shown": 6}, "second": {"shown": 7}}


def test_editions_live_apart(project: Project) -> None:
    published, preview, fresh = published_edition(), preview_edition(), fresh_edition()
    assert published.folder == fresh.folder == project.root / "build"
    assert preview.folder != published.folder
    assert len({published.runs, preview.runs, fresh.runs}) == 3
    assert (published.changes, fresh.changes) == ({}, {})
    assert [edition.preview for edition in (published, preview, fresh)] == [False, True, False]


def test_a_preview_leaves_the_book_alone(project: Project) -> None:
    preview = Edition(project.root / "build" / "preview", project.root / "runs", {"first": {"shown": 1}}, preview=True)
    project.build()
    assert project.build(preview) == ["first", "second"]
    assert project.build() == []


def test_a_fresh_book_takes_nothing_from_the_recorded_one(project: Project) -> None:
    project.build()
    assert project.build(fresh_edition()) == ["first", "second"]


def test_the_preview_changes_parameters_that_exist_to_values_that_are_allowed() -> None:
    for chapter, changes in preview_edition().changes.items():
        values = publishing.check_parameters(chapter, changes)
        assert values["train_examples"] <= 20_000
        assert values["epochs"] <= 5


def test_the_library_and_its_workers_are_told_the_edition(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SMALLCNN_RUNS", "before")
    for name in ("SMALLCNN_BUILD", "SMALLCNN_PREVIEW"):
        monkeypatch.delenv(name, raising=False)
    edition = Edition(tmp_path / "build", tmp_path / "runs", {}, preview=True)

    def told() -> list[str | None]:
        return [os.environ.get(f"SMALLCNN_{name}") for name in ("BUILD", "RUNS", "PREVIEW")]

    with pytest.raises(KeyboardInterrupt), publishing._environment(edition):
        assert told() == [str(tmp_path / "build"), str(tmp_path / "runs"), "1"]
        raise KeyboardInterrupt
    assert told() == [None, "before", None]


def test_only_a_preview_has_the_banner(project: Project) -> None:
    assert publishing._configuration(published_edition()) == (project.root / "_config.yml").read_bytes()
    marked = yaml.safe_load(publishing._configuration(preview_edition()))
    assert marked == {"html": {"announcement": publishing.PREVIEW_BANNER}}


def test_a_second_build_waits_for_the_first(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from smallcnn.publishing import _only_one\n"
        "with _only_one(Path(sys.argv[1])): print('my turn', flush=True)"
    )
    with publishing._only_one(tmp_path / "build"):
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
    publishing._assemble(published_edition(), {})
    source = project.root / "build" / "source"
    stray = source / "generated" / "removed.md"
    stray.touch()
    index = source / "index.md"
    os.utime(index, (1, 1))
    publishing._assemble(published_edition(), {})
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert files == {"_config.yml", "_toc.yml", "index.md", "first.ipynb", "second.ipynb", "generated/answer.md"}
    assert index.stat().st_mtime == 1  # an untouched page is not built again


@pytest.fixture
def built(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Builds the pages with a jupyter-book that writes one page, or fails; returns its command."""

    def build(log: str = "", returncode: int = 0) -> list[str]:
        commands: list[list[str]] = []

        def run(command: list[str], stdout: Any, **_: Any) -> subprocess.CompletedProcess[str]:
            commands.append(command)
            stdout.write(log)
            if returncode == KILLED:
                raise KeyboardInterrupt
            folder = project.root / "build" / "sphinx" / "_build" / "html"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "index.html").write_text(log, encoding="utf-8")
            return subprocess.CompletedProcess(command, returncode)

        monkeypatch.setattr(publishing.subprocess, "run", run)
        project.build()
        edition = published_edition()
        publishing._assemble(edition, {})
        publishing._build_html(edition)
        assert publishing._publish_html(edition).read_text("utf-8") == log
        return commands[0]

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
    marker = project.root / "build" / "sphinx" / "configuration.sha256"
    os.utime(marker, (marker.stat().st_mtime + 3600,) * 2)
    assert "--all" in built("two")
    assert "--all" not in built("three")
    with pytest.raises(KeyboardInterrupt):
        built("four", returncode=KILLED)
    assert "--all" in built("five")


def test_a_removed_page_is_published_no_more(built: Callable[..., list[str]], project: Project) -> None:
    built("one")
    stray = project.root / "build" / "sphinx" / "_build" / "html" / "removed.html"
    stray.touch()
    built("two")
    assert (project.root / "build" / "html" / "removed.html").exists()
    (project.root / "_toc.yml").write_text("format: jb-book\nroot: other\n", encoding="utf-8")
    built("three")
    assert not (project.root / "build" / "html" / "removed.html").exists()


def test_pages_that_fail_leave_the_published_ones(built: Callable[..., list[str]], project: Project) -> None:
    built("good pages")
    with pytest.raises(BuildError, match="index.md:3: WARNING: no such page") as raised:
        built("reading\nindex.md:3: WARNING: no such page\nfinished with problems\n", returncode=1)
    assert "finished" not in str(raised.value)
    assert "html.log" in str(raised.value)
    assert (project.root / "build" / "html" / "index.html").read_text("utf-8") == "good pages"


# What a user sees


@pytest.mark.parametrize("error", [BuildError("first: no"), DataError("no images"), FloatingPointError("no number")])
@pytest.mark.parametrize("script", ["book", "rerun"])
def test_whatever_fails_is_one_line(
    script: str, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(edition: Edition) -> Path:
        raise error

    monkeypatch.setattr(publishing, "publish", fail)
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setenv("CHAPTER", "approach_2")
    monkeypatch.setenv("PARAMS", "epochs=3")
    with pytest.raises(SystemExit) as raised:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    assert raised.value.code == 1
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


# With the real papermill and a kernel


@pytest.fixture
def real_project(tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    from papermill.execute import execute_notebook

    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    return project


@pytest.mark.slow
def test_a_failing_chapter_is_named_and_leaves_the_executed_one(real_project: Project) -> None:
    edition = Edition(real_project.root / "build", real_project.root / "runs", {"first": {"shown": 4}})
    output = real_project.root / "build" / "notebooks" / "first.ipynb"
    publishing._execute(edition, "first")
    executed = nbformat.read(output, as_version=4)
    assert executed.cells[-1].outputs[0].data["text/plain"] == "4"
    before = output.read_bytes()

    real_project.write("first", [PARAMETERS, "shown", "shown / 0", "print('never')"])
    with pytest.raises(BuildError, match=r"^first: cell \d failed with ZeroDivisionError: division by zero") as raised:
        publishing._execute(edition, "first")
    assert len(str(raised.value).splitlines()) == 1
    assert output.read_bytes() == before
    assert not publishing._is_current(edition, "first")
    failed = real_project.root / "build" / "failed" / "first.ipynb"
    assert str(failed) in str(raised.value)
    assert "ZeroDivisionError" in failed.read_text("utf-8")
    assert sorted(path.name for path in output.parent.iterdir()) == ["first.ipynb", "first.stamp.json"]


@pytest.mark.slow
def test_a_chapter_whose_kernel_dies_is_named(real_project: Project) -> None:
    real_project.write("first", [PARAMETERS, "import os\nos._exit(1)"])
    with pytest.raises(BuildError, match="^first: "):
        publishing._execute(Edition(real_project.root / "build", real_project.root / "runs", {}), "first")
    assert not (real_project.root / "build" / "notebooks" / "first.ipynb").exists()


BUILD_OF_ONE_CHAPTER = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from smallcnn import publishing

root = Path(sys.argv[1])
publishing.BOOK, publishing.CHAPTERS = root / "book", {"first": ()}

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), publishing._end_with_parent, (os.getpid(),)) as pool:
        pool.submit(publishing._execute, publishing.Edition(root / "build", root / "runs", {}), "first").result()
"""


@pytest.mark.slow
def test_a_killed_build_leaves_neither_workers_nor_kernels(real_project: Project) -> None:
    started = real_project.root / "started"
    real_project.write("first", [PARAMETERS, f"import time\nopen({str(started)!r}, 'w').close()\ntime.sleep(1000)"])
    script = real_project.root / "build_one.py"
    script.write_text(BUILD_OF_ONE_CHAPTER, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    build = psutil.Popen([sys.executable, str(script), str(real_project.root)], env=environment)
    while not started.exists():
        assert build.poll() is None
        time.sleep(0.1)
    family = build.children(recursive=True)
    assert any("ipykernel" in " ".join(process.cmdline()) for process in family)
    build.kill()
    _, alive = psutil.wait_procs([build, *family], timeout=10)
    assert not alive


@pytest.mark.slow
def test_a_chapter_that_hangs_is_named(real_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLCNN_CELL_SECONDS", "2")
    real_project.write("first", [PARAMETERS, "import time\ntime.sleep(1000)"])
    with pytest.raises(BuildError, match="^first: a cell ran for more than 2 seconds; SMALLCNN_CELL_SECONDS=20 would"):
        publishing._execute(Edition(real_project.root / "build", real_project.root / "runs", {}), "first")
    assert not (real_project.root / "build" / "notebooks" / "first.ipynb").exists()


@pytest.mark.parametrize("text", ["0", "-1", "ten", "1.5", "1e3"])
def test_a_wrong_time_limit_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLCNN_CELL_SECONDS", text)
    with pytest.raises(BuildError, match="SMALLCNN_CELL_SECONDS is .* expected a whole number of seconds"):
        publishing.publish(published_edition())
