"""From notebooks to the book: train what is missing, execute the chapters, put the pages together, build the HTML."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import yaml

from smallcnn import measurements, pages
from smallcnn.chapters import CHAPTERS, chapter_configs, check_parameters
from smallcnn.commands import CommandError, say
from smallcnn.data import load_mnist
from smallcnn.files import replacing, write_json, write_text
from smallcnn.paths import BOOK, ROOT
from smallcnn.runs import get_runs

Changes = Mapping[str, Any]

FEW = {"epochs": 4, "train_examples": 12000}
PREVIEW_CHANGES = {
    "approach_1": {**FEW, "seeds": [0, 1]},
    "approach_2": {**FEW, "seeds": [0, 1]},
    "approach_3": {**FEW, "seeds": [0, 1]},
    "pruning": {**FEW, "seeds": [0], "gradual_epochs": 2},
}
PREVIEW_BANNER = "This is a preview from few images and epochs. Its numbers are not the report's."


class BuildError(CommandError):
    """The book cannot be built; the message says which chapter or page, and why."""


@dataclass(frozen=True)
class Edition:
    """One build of the book.

    Attributes:
        folder: of everything that is generated.
        runs: of the recorded runs it uses and adds to.
        changes: parameters that differ from the published ones, by chapter.
        preview: whether its pages are marked as a preview.
    """

    folder: Path
    runs: Path
    changes: Mapping[str, Changes]
    preview: bool = False


def published_edition() -> Edition:
    """The book with its published parameters, from the recorded runs."""
    return Edition(ROOT / "build", ROOT / "runs", {})


def preview_edition() -> Edition:
    """The whole book from few images and epochs, apart from the real build."""
    return Edition(ROOT / "build" / "preview", ROOT / "build" / "preview" / "runs", PREVIEW_CHANGES, preview=True)


def fresh_edition() -> Edition:
    """The book with its published parameters, everything trained anew.

    The runs go to a folder of their own, so that an interrupted build goes on from them and the recorded ones stay.
    """
    return Edition(ROOT / "build", ROOT / "build" / "fresh" / "runs", {})


def rerun_edition(chapter: str, changes: Changes) -> Edition:
    """The book as it was last built, with one chapter changed."""
    edition = published_edition()
    others = {name: _stamp(edition, name).get("changes", {}) for name in CHAPTERS if name != chapter}
    return Edition(edition.folder, edition.runs, {**others, chapter: dict(changes)})


def publish(edition: Edition) -> Path:
    """Builds `edition` and returns its first page.

    Raises:
        BuildError: if a chapter or the HTML fails; the pages published before stay as they were.
        ParameterError: if the edition's parameters are wrong.
    """
    parameters = {chapter: check_parameters(chapter, edition.changes.get(chapter, {})) for chapter in CHAPTERS}
    with _only_one(edition.folder), _environment(edition):
        load_mnist()  # fetched once, here, before several chapters want it
        get_runs([config for values in parameters.values() for config in chapter_configs(values)], say)
        _execute_chapters(edition)
        source = _assemble(edition)
        return _build_html(edition, source)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Makes a second build of the same folder wait for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build of the book is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _environment(edition: Edition) -> Iterator[None]:
    """Tells the library here, the kernels and the workers where this edition lives."""
    values = {"SMALLCNN_BUILD": str(edition.folder), "SMALLCNN_RUNS": str(edition.runs)}
    values |= {"SMALLCNN_PREVIEW": "1"} if edition.preview else {}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _execute_chapters(edition: Edition) -> None:
    """Executes every chapter that is not up to date, as many at a time as there are cores, what it reads before it."""
    waiting = dict(CHAPTERS)
    done: set[str] = set()
    running: dict[Future[None], str] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        while waiting or running:
            for chapter in [name for name, reads in waiting.items() if done.issuperset(reads)]:
                del waiting[chapter]
                if _is_current(edition, chapter):
                    done.add(chapter)
                else:
                    say(f"executing {chapter}")
                    running[pool.submit(_execute, edition, chapter)] = chapter
            if running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    done.add(running.pop(future))


def _execute(edition: Edition, chapter: str) -> None:
    """Executes one chapter with papermill; its notebook appears under `notebooks` only if all of it ran."""
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    sockets = TemporaryDirectory(prefix="smallcnn-")

    class SocketFileKernelManager(AsyncKernelManager):
        """Kernels that start at the same moment could race for TCP ports; socket files are their own."""

        transport = "ipc"
        ip = os.path.join(sockets.name, "kernel")  # not in the chapter's folder, whose path may be too long for one

    output = _notebook(edition, chapter)
    stamp = {"inputs": _inputs(edition, chapter), "changes": dict(edition.changes.get(chapter, {}))}
    with sockets, replacing(output) as temporary:
        try:
            papermill.execute_notebook(
                BOOK / f"{chapter}.ipynb",
                temporary,
                parameters=stamp["changes"],
                cwd=BOOK,
                progress_bar=False,
                kernel_manager_class=SocketFileKernelManager,
            )
        except papermill.PapermillExecutionError as error:
            failed = edition.folder / "failed" / f"{chapter}.ipynb"
            failed.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(temporary, failed)
            reason = " ".join(f"{error.ename}: {error.evalue}".split())
            raise BuildError(
                f"{chapter}: cell {error.exec_count} failed with {reason} (the notebook so far: {failed})"
            ) from None
        except RuntimeError as error:  # such as a kernel that died, or did not start
            raise BuildError(f"{chapter}: {error} ({type(error).__name__})") from error
    write_json(_stamp_file(edition, chapter), stamp | {"results": _digest(_results(edition, chapter))})


def _notebook(edition: Edition, chapter: str) -> Path:
    return edition.folder / "notebooks" / f"{chapter}.ipynb"


def _results(edition: Edition, chapter: str) -> Path:
    return edition.folder / "results" / f"{chapter}.json"


def _stamp_file(edition: Edition, chapter: str) -> Path:
    return edition.folder / "notebooks" / f"{chapter}.stamp.json"


def _stamp(edition: Edition, chapter: str) -> dict[str, Any]:
    try:
        return json.loads(_stamp_file(edition, chapter).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _is_current(edition: Edition, chapter: str) -> bool:
    stamp = _stamp(edition, chapter)
    return (
        _notebook(edition, chapter).exists()
        and stamp.get("changes") == dict(edition.changes.get(chapter, {}))
        and stamp.get("inputs") == _inputs(edition, chapter)
        and stamp.get("results") == _digest(_results(edition, chapter))
    )


def _inputs(edition: Edition, chapter: str) -> str:
    """A hash of all that an executed chapter follows from: its code, the library, what it reads, whose runs."""
    notebook = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    code = [(cell.id, cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    library = [_digest(path) for path in sorted((ROOT / "smallcnn").glob("*.py"))]
    reads = [_digest(_results(edition, name)) for name in CHAPTERS[chapter]]
    content = [code, library, reads, str(edition.runs), _digest(ROOT / "requirements.txt")]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _assemble(edition: Edition) -> Path:
    """Puts the source folder of the book together: pages, executed chapters, generated parts, configuration."""
    source = edition.folder / "source"
    contents = {"_config.yml": _configuration(edition), "_toc.yml": (ROOT / "_toc.yml").read_bytes()}
    for path in sorted(BOOK.rglob("*")):
        name = path.relative_to(BOOK).as_posix()
        if path.is_file() and path.suffix != ".ipynb" and ".ipynb_checkpoints" not in name:
            contents[name] = path.read_bytes()
    for chapter in CHAPTERS:
        contents[f"{chapter}.ipynb"] = _page(edition, chapter).encode()
    results = {chapter: json.loads(_results(edition, chapter).read_text("utf-8")) for chapter in CHAPTERS}
    for name, content in (pages.generated_parts(results) | measurements.measured_parts()).items():
        contents[f"generated/{name}"] = content
    for path in list(source.rglob("*")):
        if path.is_file() and path.relative_to(source).as_posix() not in contents:
            path.unlink()
    for name, content in contents.items():
        path = source / name
        if not path.exists() or path.read_bytes() != content:  # an untouched file is not built again
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return source


def _page(edition: Edition, chapter: str) -> str:
    """The chapter's notebook as it is now, with the outputs of its execution.

    Text may have changed since then, code has not. What differs between two executions of the same code (times,
    paths, the cell that papermill adds) stays out.
    """
    page = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    executed = {cell.id: cell for cell in nbformat.read(_notebook(edition, chapter), as_version=4).cells}
    code_cells = [cell for cell in page.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code_cells, start=1):
        cell.execution_count = count
        cell.outputs = executed[cell.id].outputs
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    return nbformat.writes(page)


def _configuration(edition: Edition) -> bytes:
    """The book's `_config.yml`, with a banner on every page of a preview."""
    content = (ROOT / "_config.yml").read_bytes()
    if not edition.preview:
        return content
    values = yaml.safe_load(content)
    values["html"]["announcement"] = PREVIEW_BANNER
    return yaml.safe_dump(values, allow_unicode=True).encode()


def _build_html(edition: Edition, source: Path) -> Path:
    """Builds the pages with warnings as errors, and only then puts them in the place of the published ones."""
    log = edition.folder / "html.log"
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    command = [sys.executable, jupyter_book, "build", str(source), "--path-output", str(edition.folder / "sphinx")]
    everything = [(source / name).read_bytes() for name in ("_config.yml", "_toc.yml")]
    marker = edition.folder / "sphinx" / "configuration.sha256"
    configuration = hashlib.sha256(b"".join(everything)).hexdigest()
    if not marker.exists() or marker.read_text() != configuration:
        command.append("--all")  # a changed table of contents would leave old sidebars behind
    say("building the pages")
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*command, "-W", "-n", "--keep-going"], stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8").splitlines()
        problems = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-5:]
        raise BuildError("the pages were not built:\n" + "\n".join(problems) + f"\n(all of it: {log})")
    write_text(marker, configuration)
    html = edition.folder / "html"
    new, old = edition.folder / ".html.new", edition.folder / ".html.old"
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(edition.folder / "sphinx" / "_build" / "html", new)
    if html.exists():
        html.rename(old)
    new.rename(html)
    shutil.rmtree(old, ignore_errors=True)
    return html / "index.html"
