"""From notebooks to the book: train what is missing, execute the chapters, put the pages together, build the HTML."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from smallcnn import gates, measurements, pages
from smallcnn.chapters import CHAPTERS, chapter_configs, check_parameters
from smallcnn.commands import CommandError, say
from smallcnn.data import load_mnist
from smallcnn.files import replacing, write_json, write_text
from smallcnn.parameters import ParameterError
from smallcnn.paths import BOOK, ROOT, changed_environment
from smallcnn.pool import scheduler_address
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
        BuildError: if a chapter, the HTML or the gates fail; the pages published before stay as they were.
        ParameterError: if the edition's parameters are wrong.
    """
    parameters = {chapter: check_parameters(chapter, edition.changes.get(chapter, {})) for chapter in CHAPTERS}
    cell_seconds(), scheduler_address()  # refused here, before anything starts
    with _only_one(edition.folder), _environment(edition):
        load_mnist()  # fetched once, here, before several chapters want it
        get_runs([config for values in parameters.values() for config in chapter_configs(values)], say)
        _execute_chapters(edition)
        results = {chapter: json.loads(_results(edition, chapter).read_text("utf-8")) for chapter in CHAPTERS}
        _assemble(edition, results)
        _build_html(edition)
        if problems := gates.book_problems(_built(edition), results):
            raise BuildError("the pages were built and must not be published:\n" + "\n".join(problems))
        return _publish_html(edition)


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


def _environment(edition: Edition) -> AbstractContextManager[None]:
    """Tells the library here, the kernels and the workers where this edition lives."""
    values = {"SMALLCNN_BUILD": str(edition.folder), "SMALLCNN_RUNS": str(edition.runs)}
    return changed_environment(values | ({"SMALLCNN_PREVIEW": "1"} if edition.preview else {}))


def _execute_chapters(edition: Edition) -> None:
    """Executes every chapter that is not up to date, as many at a time as there are cores, what it reads before it."""
    waiting = dict(CHAPTERS)
    done: set[str] = set()
    running: dict[Future[None], str] = {}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _end_with_parent, (os.getpid(),)) as pool:
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


def _end_with_parent(parent: int) -> None:
    """Makes this process end soon after `parent`, however that ends; kernels do the same when this process ends."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _execute(edition: Edition, chapter: str) -> None:
    """Executes one chapter with papermill; its notebook appears under `notebooks` only if all of it ran."""
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    sockets = TemporaryDirectory(prefix="smallcnn-")

    class SocketFileKernelManager(AsyncKernelManager):
        """Kernels that start at the same moment could race for TCP ports; socket files are their own."""

        transport = "ipc"
        ip = os.path.join(sockets.name, "kernel")  # not in the chapter's folder, whose path may be too long for one

        async def _async_pre_start_kernel(self, **options: Any) -> Any:
            """Leaves out what libraries remark on the machine; errors of cells do not come this way."""
            return await super()._async_pre_start_kernel(stderr=subprocess.DEVNULL, **options)

    output, limit = _notebook(edition, chapter), cell_seconds()
    stamp = {"inputs": _inputs(edition, chapter), "changes": dict(edition.changes.get(chapter, {}))}
    with sockets, replacing(output) as temporary:
        try:
            papermill.execute_notebook(
                BOOK / f"{chapter}.ipynb",
                temporary,
                parameters=stamp["changes"],
                cwd=BOOK,
                progress_bar=False,
                execution_timeout=limit,
                kernel_manager_class=SocketFileKernelManager,
            )
        except papermill.PapermillExecutionError as error:
            failed = _keep_failed(edition, chapter, temporary)
            reason = " ".join(f"{error.ename}: {error.evalue}".split())
            raise BuildError(
                f"{chapter}: cell {error.exec_count} failed with {reason} (the notebook so far: {failed})"
            ) from None
        except TimeoutError as error:
            raise BuildError(
                f"{chapter}: a cell ran for more than {limit} seconds; SMALLCNN_CELL_SECONDS={10 * limit} would let it"
            ) from error
        except RuntimeError as error:  # such as a kernel that died, or did not start
            raise BuildError(f"{chapter}: {error} ({type(error).__name__})") from error
        if problems := _notebook_problems(edition, chapter, temporary):
            raise BuildError(
                f"{chapter}: the executed notebook must not enter the book: {'; '.join(problems)} "
                f"(it is kept: {_keep_failed(edition, chapter, temporary)})"
            )
    made = {"notebook": _digest(output), "results": _digest(_results(edition, chapter))}
    write_json(_stamp_file(edition, chapter), stamp | made)


def _keep_failed(edition: Edition, chapter: str, executed: Path) -> Path:
    failed = edition.folder / "failed" / f"{chapter}.ipynb"
    failed.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(executed, failed))


def cell_seconds() -> int:
    """How long a cell of a chapter may run: `SMALLCNN_CELL_SECONDS`, or ten minutes; it finds its runs finished.

    Raises:
        BuildError: if that is not a whole number above zero.
    """
    text = os.environ.get("SMALLCNN_CELL_SECONDS") or "600"
    if not text.isdecimal() or int(text) == 0:
        raise BuildError(f"SMALLCNN_CELL_SECONDS is {text!r}; expected a whole number of seconds")
    return int(text)


def _notebook_problems(edition: Edition, chapter: str, executed: Path) -> list[str]:
    source = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    return gates.notebook_problems(nbformat.read(executed, as_version=4), source, edition.changes.get(chapter, {}))


def _notebook(edition: Edition, chapter: str) -> Path:
    return edition.folder / "notebooks" / f"{chapter}.ipynb"


def _results(edition: Edition, chapter: str) -> Path:
    return edition.folder / "results" / f"{chapter}.json"


def _stamp_file(edition: Edition, chapter: str) -> Path:
    return edition.folder / "notebooks" / f"{chapter}.stamp.json"


def _stamp(edition: Edition, chapter: str) -> dict[str, Any]:
    """What `_execute` noted; nothing where that is missing, damaged, or of parameters that there are no more."""
    try:
        stamp = json.loads(_stamp_file(edition, chapter).read_text(encoding="utf-8"))
        check_parameters(chapter, stamp["changes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ParameterError):
        return {}
    return stamp


def _is_current(edition: Edition, chapter: str) -> bool:
    """Whether the executed chapter follows from all that it depends on, and nobody changed it since."""
    stamp = _stamp(edition, chapter)
    return stamp == {
        "changes": dict(edition.changes.get(chapter, {})),
        "inputs": _inputs(edition, chapter),
        "notebook": _digest(_notebook(edition, chapter)),
        "results": _digest(_results(edition, chapter)),
    }


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


def _assemble(edition: Edition, results: Mapping[str, Any]) -> None:
    """Puts the source folder of the book together: pages, executed chapters, generated parts, configuration."""
    source = edition.folder / "source"
    contents = {"_config.yml": _configuration(edition), "_toc.yml": (ROOT / "_toc.yml").read_bytes()}
    for path in sorted(BOOK.rglob("*")):
        name = path.relative_to(BOOK).as_posix()
        if path.is_file() and path.suffix != ".ipynb" and ".ipynb_checkpoints" not in name:
            contents[name] = path.read_bytes()
    for chapter in CHAPTERS:
        contents[f"{chapter}.ipynb"] = _page(edition, chapter).encode()
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


def _page(edition: Edition, chapter: str) -> str:
    """The chapter's notebook as it is now, with the outputs of its execution.

    Text may have changed since then, code has not. What differs between two executions of the same code (times,
    paths, the cell that papermill adds, remarks of libraries, where a printed text was cut) stays out.
    """
    page = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    executed = {cell.id: cell for cell in nbformat.read(_notebook(edition, chapter), as_version=4).cells}
    code_cells = [cell for cell in page.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code_cells, start=1):
        cell.execution_count = count
        cell.outputs = _lasting(executed[cell.id].outputs)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    return nbformat.writes(page)


def _lasting(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Those without the stream of errors, with printed text in one piece."""
    lasting: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if lasting and output.output_type == lasting[-1].output_type == "stream":
            lasting[-1].text += output.text
        else:
            lasting.append(output)
    return lasting


def _configuration(edition: Edition) -> bytes:
    """The book's `_config.yml`, with a banner on every page of a preview."""
    content = (ROOT / "_config.yml").read_bytes()
    if not edition.preview:
        return content
    values = yaml.safe_load(content)
    values["html"]["announcement"] = PREVIEW_BANNER
    return yaml.safe_dump(values, allow_unicode=True).encode()


def _build_html(edition: Edition) -> None:
    """Builds the pages with warnings as errors, beside the published ones."""
    source, log = edition.folder / "source", edition.folder / "html.log"
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    command = [sys.executable, jupyter_book, "build", str(source), "--path-output", str(edition.folder / "sphinx")]
    everything = [(source / name).read_bytes() for name in ("_config.yml", "_toc.yml")]
    marker = edition.folder / "sphinx" / "configuration.sha256"
    configuration = hashlib.sha256(b"".join(everything)).hexdigest()
    if not marker.exists() or marker.read_text() != configuration or marker.stat().st_mtime > time.time():
        # A killed build may have left half a page, a changed table of contents old sidebars; Sphinx goes by the clock,
        # and takes new text for old if that was set back.
        command.append("--all")
        shutil.rmtree(_built(edition), ignore_errors=True)  # Sphinx never removes a page
    marker.unlink(missing_ok=True)
    say("building the pages")
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*command, "-W", "-n", "--keep-going"], stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        text = log.read_text(encoding="utf-8", errors="replace")
        if os.strerror(errno.ENOSPC) in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(edition.folder))
        lines = text.splitlines()
        problems = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-5:]
        raise BuildError("the pages were not built:\n" + "\n".join(problems) + f"\n(all of it: {log})")
    write_text(marker, configuration)


def _built(edition: Edition) -> Path:
    return edition.folder / "sphinx" / "_build" / "html"


def _publish_html(edition: Edition) -> Path:
    """Puts the pages that were built in the place of the published ones and returns the first."""
    html = edition.folder / "html"
    new, old = edition.folder / ".html.new", edition.folder / ".html.old"
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(_built(edition), new)
    if html.exists():
        html.rename(old)
    new.rename(html)
    shutil.rmtree(old, ignore_errors=True)
    return html / "index.html"
