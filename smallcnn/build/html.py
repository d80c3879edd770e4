"""From executed chapters to pages: the source folder of the book, its HTML, and publishing that whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import yaml
from nbformat import NotebookNode

from smallcnn.build import cache
from smallcnn.build.cache import Edition
from smallcnn.commands import CommandError, say
from smallcnn.files import remove, write_json
from smallcnn.paths import BOOK, ROOT
from smallcnn.study import CHAPTERS

QUOTE = """(?:["']|&quot;)"""
LINK = re.compile(rf"""\b(?:href|src)="([^"]*)"|\burl\(\s*{QUOTE}?(.*?){QUOTE}?\s*\)|@import\s+{QUOTE}(.*?){QUOTE}""")
PREVIEW_BANNER = "This is a preview from few images and epochs. Its numbers are not the report's."


class PagesError(CommandError):
    """The pages cannot be built; the message says which, and why."""


def assemble(edition: Edition, results: Mapping[str, Any]) -> None:
    """Puts the source folder of the book together: pages, executed chapters, generated parts, configuration."""
    source = edition.folder / "source"
    contents = {"_config.yml": _configuration(edition), "_toc.yml": (ROOT / "_toc.yml").read_bytes()}
    for path in sorted(BOOK.rglob("*")):
        name = path.relative_to(BOOK).as_posix()
        if path.is_file() and path.suffix != ".ipynb" and ".ipynb_checkpoints" not in name:
            contents[name] = path.read_bytes()
    for chapter in CHAPTERS:
        contents[f"{chapter}.ipynb"] = _page(edition, chapter).encode()
    for name, content in _generated_parts(edition, results).items():
        contents[f"generated/{name}"] = content
    folders = {folder.as_posix() for name in contents for folder in Path(name).parents}
    for path in sorted(source.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.relative_to(source).as_posix() not in (folders if path.is_dir() else contents):
            remove(path)
    for name, content in contents.items():
        path = source / name
        if not path.exists() or path.read_bytes() != content:  # an untouched file is not built again
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _generated_parts(edition: Edition, results: Mapping[str, Any]) -> dict[str, bytes]:
    """What is drawn and written for plain pages, by file name: from the results, and from recorded measurements."""

    def summaries() -> dict[str, bytes]:
        from smallcnn.report import summary  # here: pandas and matplotlib take a second

        return summary.generated_parts(results)

    def measured() -> dict[str, bytes]:
        from smallcnn.report import measurements

        return measurements.measured_parts()

    def networks() -> dict[str, bytes]:
        from smallcnn.report import hand

        return hand.generated_parts(results)

    said = [dict(results), edition.preview]
    parts = _parts(edition, "summary", said, summaries) | _parts(edition, "hand", said, networks)
    return parts | _parts(edition, "measurements", cache.recorded(), measured)


def _parts(edition: Edition, module: str, said: object, make: Callable[[], dict[str, bytes]]) -> dict[str, bytes]:
    """What `make` makes from `said` with a module of `smallcnn.report`, or made last, if neither has changed since."""
    folder = edition.folder / "generated" / module
    inputs = cache.hash_of([said, cache.code_digests(f"import smallcnn.report.{module}")])
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stamp = json.loads((folder / "stamp.json").read_text(encoding="utf-8"))
        parts = {name: (folder / name).read_bytes() for name in stamp["parts"]}
        if stamp == _parts_stamp(inputs, parts):
            return parts
    parts = make()
    remove(folder)
    folder.mkdir(parents=True)
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    write_json(folder / "stamp.json", _parts_stamp(inputs, parts))
    return parts


def _parts_stamp(inputs: str, parts: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "inputs": inputs,
        "parts": {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()},
    }


def _page(edition: Edition, chapter: str) -> str:
    """The chapter's notebook as it is now, with the outputs of its execution.

    Text may have changed since then. What differs between two executions of the same code (times,
    paths, the cell that papermill adds, remarks of libraries, where a printed text was cut) stays out.

    Raises:
        PagesError: if the code has changed since then, for which somebody must have saved the notebook meanwhile.
    """
    page = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    executed = {cell.id: cell for cell in nbformat.read(edition.notebook(chapter), as_version=4).cells}
    code_cells = [cell for cell in page.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code_cells, start=1):
        if cell.id not in executed or cell.source != executed[cell.id].source:
            raise PagesError(f"{chapter} was changed while it was executed; the same command executes it again")
        cell.execution_count = count
        cell.outputs = _lasting(executed[cell.id].outputs)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    return str(nbformat.writes(page))


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


class JupyterBook:
    """jupyter-book in a process that imports what takes seconds and then waits to be told what to do.

    Args:
        log: the file that gets all it prints.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts the process, if there is none yet."""
        if self._process is None:
            command = [sys.executable, "-m", "smallcnn.build.jupyter_book"]
            with self.log.open("w", encoding="utf-8") as file:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, text=True, cwd=ROOT
                )

    def run(self, arguments: Sequence[str]) -> int:
        """Runs jupyter-book with these arguments; returns its exit code."""
        self.start()
        assert self._process is not None
        self._process.communicate(json.dumps(arguments) + "\n")
        return self._process.returncode

    def end(self) -> None:
        """Ends the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@contextmanager
def jupyter_book(edition: Edition) -> Iterator[JupyterBook]:
    """jupyter-book for `edition`, to be started when its time is near; it ends with the block."""
    tool = JupyterBook(edition.folder / "html.log")
    try:
        yield tool
    finally:
        tool.end()


def build(edition: Edition, tool: JupyterBook) -> None:
    """Builds the pages with warnings as errors, beside the published ones."""
    source = edition.folder / "source"
    arguments = ["build", str(source), "--path-output", str(edition.folder / "sphinx")]
    if not cache.sphinx_can_go_on(edition):
        arguments.append("--all")
        remove(built(edition).parent)
    say("building the pages")
    if tool.run([*arguments, "-W", "-n", "--keep-going"]) != 0:
        text = tool.log.read_text(encoding="utf-8", errors="replace")
        if os.strerror(errno.ENOSPC) in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(edition.folder))
        lines = text.splitlines()
        problems = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-5:]
        raise PagesError("the pages were not built:\n" + "\n".join(problems) + f"\n(all of it: {tool.log})")


def built(edition: Edition) -> Path:
    """Where the pages are that were built and not yet published."""
    return edition.folder / "sphinx" / "_build" / "html"


def publish(edition: Edition) -> None:
    """Puts the pages that were built in the place of the published ones, with the files that they use and no others."""
    new, old = edition.folder / ".html.new", edition.folder / ".html.old"
    for folder in (new, old):
        remove(folder)
    for path in used_files(built(edition)):
        copy = new / path.relative_to(built(edition))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(_without_history(path))
    if edition.html.exists():
        edition.html.rename(old)
    new.rename(edition.html)
    remove(old)


def _without_history(path: Path) -> bytes:
    """A built file as a first build makes it.

    A later one adds the version of a style sheet of its own, and keeps words in the search that no page has any more.
    """
    content = path.read_bytes()
    if path.suffix == ".html":
        return re.sub(rb"(mystnb\.[0-9a-f]+\.css)\?v=\w+", rb"\1", content)
    return re.sub(rb'"[^"]*": \[\], ', b"", content) if path.name == "searchindex.js" else content


def used_files(folder: Path) -> set[Path]:
    """The first page of the book in `folder`, the pages and files that it links to, and so on, with their licences."""
    waiting, found = [folder / "index.html"], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file() or not path.is_relative_to(folder):
            continue
        found.add(path)
        waiting.append(path.with_name(f"{path.name}.LICENSE.txt"))
        for link in LINK.findall(path.read_text(encoding="utf-8")) if path.suffix in (".html", ".css") else []:
            target = urlsplit(html.unescape("".join(link)))
            if target.path and not target.scheme and not target.netloc:
                waiting.append(Path(os.path.normpath(path.parent / unquote(target.path))))
    return found
