"""jupyter-book, started before there is anything to build: it imports first, then reads its arguments.

`python -m smallcnn.build.jupyter_book` reads one line of JSON, the list of arguments; the end of its input ends it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from importlib import import_module

from smallcnn.build.execution import end_with_parent

# Those that take time; a name that is not there is only not imported early.
IMPORTED_EARLY = (
    "jupyter_book.sphinx",
    "jupyter_book.config",
    "myst_nb.sphinx_ext",
    "sphinx.application",
    "sphinx.builders.html",
    "sphinx_book_theme",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinx_external_toc",
)


def main() -> None:
    """Waits, and then is jupyter-book."""
    end_with_parent(os.getppid())
    from jupyter_book.cli.main import main as jupyter_book

    for name in IMPORTED_EARLY:
        with suppress(ImportError):
            import_module(name)
    if line := sys.stdin.readline():
        sys.argv = ["jupyter-book", *json.loads(line)]
        jupyter_book()


if __name__ == "__main__":
    main()
