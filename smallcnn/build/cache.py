"""What is up to date: hashes of what an executed chapter, and then the whole book, follow from.

Nothing here imports more than the standard library, since a build with nothing to do should say so at once.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallcnn.build import outputs
from smallcnn.files import remove, write_json
from smallcnn.paths import BOOK, MEASUREMENTS, OWN_RUNS, PUBLISHED_RUNS, ROOT, RUN_KEY
from smallcnn.report.parameters import ParameterError, check_values, published_values
from smallcnn.study import CHAPTERS

Changes = Mapping[str, Any]
MADE = ("notebooks", "results", "generated", "source", "sphinx", "html")  # folders of an edition


@dataclass(frozen=True)
class Edition:
    """One build of the book.

    Attributes:
        folder: of everything that is generated.
        runs: of the recorded runs it uses and adds to, all of them; None for the ordinary folders.
        changes: parameters that differ from the published ones, by chapter.
        preview: whether its pages are marked as a preview.
    """

    folder: Path
    runs: Path | None
    changes: Mapping[str, Changes]
    preview: bool = False

    def notebook(self, chapter: str) -> Path:
        """Where the executed chapter is."""
        return self.folder / "notebooks" / f"{chapter}.ipynb"

    def results(self, chapter: str) -> Path:
        """Where the chapter writes its results."""
        return self.folder / "results" / f"{chapter}.json"

    def changes_of(self, chapter: str) -> dict[str, Any]:
        """The parameters of a chapter that this edition changes."""
        return dict(self.changes.get(chapter, {}))

    def stamp_file(self, chapter: str) -> Path:
        """Where `note_execution` writes."""
        return self.folder / "notebooks" / f"{chapter}.stamp.json"

    @property
    def html(self) -> Path:
        """The published pages."""
        return self.folder / "html"


def published_edition() -> Edition:
    """The book with its published parameters, from the recorded runs."""
    return Edition(ROOT / "build", None, {})


def preview_edition() -> Edition:
    """The whole book from few images and epochs, apart from the real build."""
    changes = {name: chapter.preview for name, chapter in CHAPTERS.items() if chapter.preview}
    return Edition(ROOT / "build" / "preview", ROOT / "build" / "preview" / "runs", changes, preview=True)


def fresh_edition() -> Edition:
    """The book with its published parameters, everything trained anew.

    The runs go to a folder of their own, so that an interrupted build goes on from them and the recorded ones stay.
    """
    return Edition(ROOT / "build", ROOT / "build" / "fresh" / "runs", {})


def rerun_edition(chapter: str, changes: Changes) -> Edition:
    """The book as it was last built, with one chapter changed."""
    edition = published_edition()
    others = {name: read_stamp(edition, name).get("changes", {}) for name in CHAPTERS if name != chapter}
    return Edition(edition.folder, edition.runs, {**others, chapter: dict(changes)})


def is_current(edition: Edition, chapter: str) -> bool:
    """Whether the executed chapter follows from all that it depends on, is whole, and nobody changed it since."""
    stamp = _stamp(edition, chapter, inputs(edition, chapter, code_inputs(chapter)))
    return read_stamp(edition, chapter) == stamp and not outputs.problems(
        edition.notebook(chapter), edition.results(chapter)
    )


def note_execution(edition: Edition, chapter: str, from_inputs: str) -> None:
    """Notes that the chapter was executed from `from_inputs`, as `inputs` gave them before it began."""
    write_json(edition.stamp_file(chapter), _stamp(edition, chapter, from_inputs))


def _stamp(edition: Edition, chapter: str, from_inputs: str) -> dict[str, Any]:
    return {
        "changes": edition.changes_of(chapter),
        "inputs": from_inputs,
        "notebook": digest(edition.notebook(chapter)),
        "results": digest(edition.results(chapter)),
        "records": _records(edition, chapter),
    }


def _records(edition: Edition, chapter: str) -> dict[str, str]:
    """The hashes of the recorded runs that the chapter's results name."""
    path = edition.results(chapter)
    keys = set(RUN_KEY.findall(path.read_text(encoding="utf-8", errors="replace"))) if path.exists() else set()
    folders = (PUBLISHED_RUNS, OWN_RUNS) if edition.runs is None else (edition.runs,)
    return _digests(folder / key / "run.json" for folder in folders for key in sorted(keys) if (folder / key).exists())


def forget(edition: Edition, chapters: Iterable[str]) -> None:
    """Makes the next build execute `chapters` and publish everything anew; which parameters were changed is kept."""
    for chapter in chapters:
        write_json(edition.stamp_file(chapter), {"changes": read_stamp(edition, chapter).get("changes", {})})
    remove(edition.folder / "generated")
    remove(_book_stamp(edition))


def make_room(edition: Edition) -> None:
    """Removes what is no file where a build writes one, and what is no folder where it keeps its files."""
    files = [edition.folder / name for name in (".lock", "html.log", "html.stamp.json")]
    for chapter in CHAPTERS:
        files += [edition.notebook(chapter), edition.results(chapter), edition.stamp_file(chapter)]
    folders = [edition.folder, *(edition.folder / name for name in (*MADE, "failed", "networks"))]
    for path in [path for path in folders if path.is_file()] + [path for path in files if path.is_dir()]:
        remove(path)


def read_stamp(edition: Edition, chapter: str) -> dict[str, Any]:
    """What `note_execution` wrote; nothing where that is missing, damaged, or of parameters that there are no more."""
    try:
        stamp: dict[str, Any] = json.loads(edition.stamp_file(chapter).read_text(encoding="utf-8"))
        check_values(chapter, published_values(chapter) | stamp["changes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ParameterError):
        return {}
    return stamp


def inputs(edition: Edition, chapter: str, code: str) -> str:
    """A hash of all that an executed chapter follows from: what `code_inputs` gave, what it reads, whose runs."""
    reads = [digest(edition.results(name)) for name in CHAPTERS[chapter].reads]
    return hash_of([code, reads, str(edition.runs)])


def code_inputs(chapter: str) -> str:
    """A hash of the code that an executed chapter follows from: its own, the modules it uses, the packages."""
    cells = json.loads((BOOK / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [(cell.get("id"), "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    return hash_of([code, code_digests("\n".join(text for _, text in code))])


def code_digests(source: str) -> dict[str, str]:
    """The hash of each file of this library that a program imports, and of the lock of packages, by their paths."""
    files = [*modules_of(source), ROOT / "requirements.txt"]
    return {path.relative_to(ROOT).as_posix(): digest(path) for path in files}


def recorded() -> dict[str, str]:
    """The hash of each recorded measurement and each file of the published runs, which pages show."""
    return _digests(path for folder in (MEASUREMENTS, PUBLISHED_RUNS) for path in _files(folder))


def modules_of(source: str) -> list[Path]:
    """The files of this library that a program imports, and those that they import, and so on."""
    waiting = set(_imported(source))
    found: set[Path] = set()
    while waiting:
        name = waiting.pop()
        path = ROOT / Path(*name.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file() and file not in found:
                found.add(file)
                waiting |= _imported(file.read_text(encoding="utf-8"))
    return sorted(found)


@functools.cache  # the chapters share most modules
def _imported(source: str) -> frozenset[str]:
    """The names of this library's modules, and of what may be modules, that a source imports anywhere in it."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a chapter that cannot run says so itself
        return frozenset()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {name for name in names if name.split(".")[0] == "smallcnn"}
    return frozenset(ours | {name.rsplit(".", 1)[0] for name in ours if "." in name})


def sources(edition: Edition) -> str:
    """A hash of all that a build of `edition` begins with."""
    files = [ROOT / name for name in ("_config.yml", "_toc.yml", "requirements.txt")]
    files += [path for folder in (BOOK, ROOT / "smallcnn", MEASUREMENTS, PUBLISHED_RUNS) for path in _files(folder)]
    return hash_of([{name: edition.changes_of(name) for name in CHAPTERS}, str(edition.runs), _digests(files)])


def book_is_current(edition: Edition) -> bool:
    """Whether the published pages are those of the present sources, and as they were published."""
    return _read_book_stamp(edition) == _published(edition, sources(edition))


def sphinx_can_go_on(edition: Edition) -> bool:
    """Whether what Sphinx left is of the last published book, as it was, and with the present configuration.

    A build that was killed or refused may have left half a page or a bad one, a changed table of contents old sidebars;
    and Sphinx goes by the clock, and takes new text for old if that was set back.
    """
    noted, present = _read_book_stamp(edition), _published(edition, "")
    unchanged = all(noted.get(name) == present[name] for name in ("configuration", "sphinx"))
    return unchanged and _book_stamp(edition).stat().st_mtime <= time.time()


def _read_book_stamp(edition: Edition) -> dict[str, str]:
    try:
        noted = json.loads(_book_stamp(edition).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return noted if isinstance(noted, dict) else {}


def note_publication(edition: Edition, from_sources: str) -> None:
    """Notes that the published pages are of `from_sources`, as `sources` gave them before the build began."""
    write_json(_book_stamp(edition), _published(edition, from_sources))


def _book_stamp(edition: Edition) -> Path:
    return edition.folder / "html.stamp.json"


def _published(edition: Edition, from_sources: str) -> dict[str, str]:
    made = {name: hash_of(_digests(_files(edition.folder / name))) for name in MADE}
    source = edition.folder / "source"
    settings = [source / "_config.yml", source / "_toc.yml", ROOT / "requirements.txt", *_files(source / "_static")]
    return {"sources": from_sources, "configuration": hash_of(_digests(settings))} | made


def _files(folder: Path) -> list[Path]:
    unneeded = {"__pycache__", ".ipynb_checkpoints"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and not unneeded & set(path.parts))


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {str(path): digest(path) for path in files}


def digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def hash_of(content: Any) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
