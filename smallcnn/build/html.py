"""From executed chapters to pages: the source folder of the book, its HTML, and publishing that whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from smallcnn.build.cache import Edition
from smallcnn.commands import CommandError, say
from smallcnn.files import write_text
from smallcnn.paths import BOOK, ROOT
from smallcnn.study import CHAPTERS

PREVIEW_BANNER = "This is a preview from few images and epochs. Its numbers are not the report's."


class PagesError(CommandError):
    """The pages cannot be built; the message says which, and why."""


def assemble(edition: Edition, results: Mapping[str, Any]) -> None:
    """Puts the source folder of the book together: pages, executed chapters, generated parts, configuration."""
    from smallcnn.report import measurements, summary  # here: pandas and matplotlib take a second

    source = edition.folder / "source"
    contents = {"_config.yml": _configuration(edition), "_toc.yml": (ROOT / "_toc.yml").read_bytes()}
    for path in sorted(BOOK.rglob("*")):
        name = path.relative_to(BOOK).as_posix()
        if path.is_file() and path.suffix != ".ipynb" and ".ipynb_checkpoints" not in name:
            contents[name] = path.read_bytes()
    for chapter in CHAPTERS:
        contents[f"{chapter}.ipynb"] = _page(edition, chapter).encode()
    for name, content in (summary.generated_parts(results) | measurements.measured_parts()).items():
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
    executed = {cell.id: cell for cell in nbformat.read(edition.notebook(chapter), as_version=4).cells}
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


def build(edition: Edition) -> None:
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
        shutil.rmtree(built(edition), ignore_errors=True)  # Sphinx never removes a page
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
        raise PagesError("the pages were not built:\n" + "\n".join(problems) + f"\n(all of it: {log})")
    write_text(marker, configuration)


def built(edition: Edition) -> Path:
    """Where the pages are that were built and not yet published."""
    return edition.folder / "sphinx" / "_build" / "html"


def publish(edition: Edition) -> None:
    """Puts the pages that were built in the place of the published ones."""
    new, old = edition.folder / ".html.new", edition.folder / ".html.old"
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(built(edition), new)
    if edition.html.exists():
        edition.html.rename(old)
    new.rename(edition.html)
    shutil.rmtree(old, ignore_errors=True)
