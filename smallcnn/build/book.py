"""From notebooks to the book: execute the chapters, put the pages together, build the HTML, publish it."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import nbformat

from smallcnn.build import cache, gates, html
from smallcnn.build.cache import Edition
from smallcnn.commands import CommandError, say
from smallcnn.data import load_mnist
from smallcnn.files import replacing
from smallcnn.paths import BOOK, changed_environment
from smallcnn.report.notebook import check_parameters, edited_values, notebook_values
from smallcnn.report.parameters import check_values
from smallcnn.runs import broker, workers
from smallcnn.study import CHAPTERS

CHAPTERS_AT_LEAST = 4  # at a time, on however few cores: most of a chapter's time may be waiting for its runs


class BuildError(CommandError):
    """The book cannot be built; the message says which chapter or page, and why."""


def publish(edition: Edition) -> Path:
    """Builds `edition` and returns its first page.

    Raises:
        BuildError: if a chapter, the HTML or the gates fail; the pages published before stay as they were.
        ParameterError: if the edition's parameters are wrong.
    """
    first_page = edition.html / "index.html"
    _check(edition)
    with _only_one(edition.folder), _environment(edition):
        if cache.book_is_current(edition):
            say("the book is up to date")
            return first_page
        _execute_chapters(edition)
        results = {chapter: json.loads(edition.results(chapter).read_text("utf-8")) for chapter in CHAPTERS}
        html.assemble(edition, results)
        html.build(edition)
        if problems := gates.book_problems(html.built(edition), results):
            raise BuildError("the pages were built and must not be published:\n" + "\n".join(problems))
        html.publish(edition)
        cache.note_publication(edition)
    return first_page


def _check(edition: Edition) -> None:
    """Refuses wrong values before anything starts, and names notebooks whose own values are not the published ones."""
    for chapter in CHAPTERS:
        if changes := edition.changes_of(chapter):
            check_parameters(chapter, changes)
        else:
            check_values(chapter, notebook_values(chapter))
        for name, value in edited_values(chapter).items():
            if name not in changes:
                published = CHAPTERS[chapter].published[name]
                say(f"{chapter}: its notebook has {name} = {value} instead of {published}; its page says so in a note")
    cell_seconds()
    workers.scheduler_address()


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
    values = {"SMALLCNN_BUILD": str(edition.folder)}
    if edition.runs is not None:
        values["SMALLCNN_RUNS"] = str(edition.runs)
    return changed_environment(values | ({"SMALLCNN_PREVIEW": "1"} if edition.preview else {}))


def _execute_chapters(edition: Edition) -> None:
    """Executes every chapter that is not up to date, several at a time, what it reads before it.

    Chapters send their missing runs to workers that all of them share, and that start when the first run is missing.
    """
    waiting, done = list(CHAPTERS), set()
    running: dict[Connection, tuple[str, Any]] = {}
    at_a_time = max(CHAPTERS_AT_LEAST, os.cpu_count() or 1)
    with (
        workers.build_workers(say) as start_workers,
        broker.listening(say, start_workers) as address,
        changed_environment({broker.VARIABLE: address}),
    ):
        try:
            while waiting or running:
                for chapter in [name for name in waiting if done.issuperset(CHAPTERS[name].reads)]:
                    if cache.is_current(edition, chapter):
                        done.add(chapter)
                    elif len(running) < at_a_time:
                        say(f"executing {chapter}")
                        answer, process = _start(edition, chapter)
                        running[answer] = chapter, process
                    else:
                        continue
                    waiting.remove(chapter)
                for answer in wait(list(running)) if running else []:  # it would wait for nothing, for ever
                    chapter, process = running[answer]
                    _finish(chapter, answer)
                    del running[answer]
                    process.join()
                    done.add(chapter)
        finally:
            for _, process in running.values():
                process.terminate()
                process.join()


def _start(edition: Edition, chapter: str) -> tuple[Connection, Any]:
    """Executes a chapter in a process of its own; the connection gets None when it is done, or what went wrong."""
    load_mnist()  # fetched once, here, before several chapters want it
    spawning = multiprocessing.get_context("spawn")
    receiver, sender = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_execute_there, args=(edition, chapter, sender, os.getpid()))
    process.start()
    sender.close()
    return receiver, process


def _finish(chapter: str, answer: Connection) -> None:
    try:
        error = answer.recv()
    except EOFError:
        raise BuildError(f"{chapter}: the process that executes it ended") from None
    if error is not None:
        raise error


def _execute_there(edition: Edition, chapter: str, sender: Connection, parent: int) -> None:
    _end_with_parent(parent)
    try:
        _execute(edition, chapter)
    except CommandError as error:
        sender.send(error)
    except OSError as error:
        sender.send(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the build must hear of it
        sender.send(BuildError(f"{chapter}: {type(error).__name__}: {error}"))
    else:
        sender.send(None)


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

    output, limit = edition.notebook(chapter), cell_seconds()
    from_inputs = cache.inputs(edition, chapter)
    with sockets, replacing(output) as temporary:
        try:
            papermill.execute_notebook(
                BOOK / f"{chapter}.ipynb",
                temporary,
                parameters=edition.changes_of(chapter),
                cwd=BOOK,
                progress_bar=False,
                timeout_func=lambda cell: None if "get_runs(" in cell.source else limit,  # training takes its time
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
    cache.note_execution(edition, chapter, from_inputs)


def _keep_failed(edition: Edition, chapter: str, executed: Path) -> Path:
    failed = edition.folder / "failed" / f"{chapter}.ipynb"
    failed.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(executed, failed))


def cell_seconds() -> int:
    """How long a cell may run that trains nothing: `SMALLCNN_CELL_SECONDS`, or ten minutes.

    Raises:
        BuildError: if that is not a whole number above zero.
    """
    text = os.environ.get("SMALLCNN_CELL_SECONDS") or "600"
    if not text.isdecimal() or int(text) == 0:
        raise BuildError(f"SMALLCNN_CELL_SECONDS is {text!r}; expected a whole number of seconds")
    return int(text)


def _notebook_problems(edition: Edition, chapter: str, executed: Path) -> list[str]:
    source = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    return gates.notebook_problems(nbformat.read(executed, as_version=4), source, edition.changes_of(chapter))
