"""From notebooks to the book: execute the chapters, put the pages together, build the HTML, publish it."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from smallcnn.build import cache, gates, html
from smallcnn.build.cache import Edition
from smallcnn.build.execution import BuildError, Execution, cell_seconds
from smallcnn.commands import CommandError, say
from smallcnn.data import load_mnist
from smallcnn.paths import changed_environment
from smallcnn.report.notebook import edited_values, notebook_values
from smallcnn.report.parameters import check_values
from smallcnn.runs import broker, workers
from smallcnn.study import CHAPTERS

CHAPTERS_AT_LEAST = 4  # at a time, on however few cores: most of a chapter's time may be waiting for its runs


def publish(edition: Edition) -> Path:
    """Builds `edition` and returns its first page.

    Raises:
        BuildError: if a chapter, the HTML or the gates fail; the pages published before stay as they were.
        ParameterError: if the edition's parameters are wrong.
    """
    with _environment(edition):
        _check(edition)
        cache.make_room(edition)
        with _only_one(edition.folder):
            if cache.book_is_current(edition):
                say("The book is up to date.")
            else:
                _build(edition)
    return edition.html / "index.html"


def _build(edition: Edition) -> None:
    from_sources = cache.sources(edition)
    with html.jupyter_book(edition) as tool:
        _execute_chapters(edition, tool.start)
        results = {chapter: _results(edition, chapter) for chapter in CHAPTERS}
        html.assemble(edition, results)
        try:
            html.build(edition, tool)
            if problems := gates.book_problems(html.built(edition), results, edition.folder / "source"):
                raise BuildError("the pages were built and must not be published:\n" + "\n".join(problems))
        except CommandError as error:
            cache.forget(edition, _named_chapters(str(error)))
            raise
    html.publish(edition)
    cache.note_publication(edition, from_sources)
    for chapter, result in results.items():
        for caution in [] if edition.preview else result.get("cautions", []):  # a preview is known to be short
            say(f"{chapter}: {caution}")


def _results(edition: Edition, chapter: str) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(edition.results(chapter).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BuildError(f"{chapter} wrote no results; its last cell must call chapter.write_results") from None
    return results


def _named_chapters(problems: str) -> list[str]:
    """The chapters whose pages are named, as what led to the problems; all, where no page is named."""
    pages = set(re.findall(r"([\w-]+)\.(?:ipynb|md|html)\b", problems))
    return [chapter for chapter in CHAPTERS if chapter in pages or not pages]


def _check(edition: Edition) -> None:
    """Refuses wrong values before anything starts, and names notebooks whose own values are not the published ones."""
    for chapter in CHAPTERS:
        changes = edition.changes_of(chapter)
        check_values(chapter, notebook_values(chapter) | changes)  # a network is the rerun's to check, it takes seconds
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
    values = {"SMALLCNN_BUILD": str(edition.folder), "SMALLCNN_RUNS": str(edition.runs or "")}
    return changed_environment(values | ({"SMALLCNN_PREVIEW": "1"} if edition.preview else {}))


def _execute_chapters(edition: Edition, nearly_done: Callable[[], None]) -> None:
    """Executes every chapter that is not up to date, several at a time, what it reads before it.

    Later chapters go first where nothing holds them, since they train longest. Where there is room, one that waits for
    others starts its kernel meanwhile. Chapters send their missing runs to workers that all of them share, and that
    start when the first run is missing.

    Args:
        edition: the build.
        nearly_done: called, perhaps several times, when at most one chapter is left.
    """
    waiting, done = list(reversed(CHAPTERS)), set[str]()
    started: dict[str, Execution] = {}
    running: dict[Any, Execution] = {}
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
                        if chapter in started:  # its results are what they were, although it was executed again
                            started.pop(chapter).end()
                    elif chapter in started or len(started) < at_a_time:
                        say(f"executing {chapter}")
                        load_mnist()  # fetched once, here, before several chapters want it
                        if chapter not in started:
                            started[chapter] = Execution(edition, chapter)
                        running[started[chapter].answer] = started[chapter]
                        started[chapter].begin()
                    else:
                        continue
                    waiting.remove(chapter)
                if len(waiting) + len(running) <= 1:
                    nearly_done()
                for chapter in waiting if running else []:
                    if chapter not in started and len(started) < at_a_time:
                        started[chapter] = Execution(edition, chapter)
                for answer in wait(list(running)) if running else []:  # it would wait for nothing, for ever
                    execution = running.pop(answer)
                    execution.finish()
                    del started[execution.chapter]
                    done.add(execution.chapter)
        finally:
            for execution in started.values():
                execution.end()
