"""What somebody deletes, cuts or overwrites in the folder of a real build is there again after the next one."""

from __future__ import annotations

from itertools import cycle

import pytest

from tests.build.preview import Book
from tests.build.test_book import DAMAGES

pytestmark = pytest.mark.slow

# One or more of each kind of file below the build's folder; `test_book` does every damage to every file of a small one.
DAMAGED = (
    "notebooks/data.ipynb",
    "results/data.json",
    "notebooks/comparison.stamp.json",
    "results/comparison.json",
    "generated/summary/summary.svg",
    "generated/measurements/stamp.json",
    "source/index.md",
    "source/pruning.ipynb",
    "source/generated/ways.md",
    "source/_toc.yml",
    "sphinx/_build/html/_images/ways.svg",
    "sphinx/_build/html/approach_1.html",
    "sphinx/_build/html/_static/book.css",
    "sphinx/_build/.doctrees/environment.pickle",
    "sphinx/_build/.doctrees/data.doctree",
    "html/index.html",
    "html/_images/summary.svg",
    "html/searchindex.js",
    "html.log",
    ".lock",
)


def test_what_is_damaged_is_built_again_to_the_byte(book: Book) -> None:
    book.copy.build()  # other tests may have left something to do
    before = book.copy.files()
    for name, damage in zip(DAMAGED, cycle(DAMAGES), strict=False):
        assert (book.copy.build_folder / name).is_file(), name
        damage(book.copy.build_folder / name)
    output = book.copy.build()
    assert [line for line in output if line.startswith("executing ")] == ["executing data", "executing comparison"]
    assert book.copy.files() == before
    for name in DAMAGED:
        assert (book.copy.build_folder / name).is_file(), name
    assert book.copy.build() == ["The book is up to date.", book.output[-1]]


def test_an_image_that_is_lost_before_a_page_is_edited_is_there_again(book: Book) -> None:
    before = book.copy.pages()
    (book.copy.build_folder / "sphinx" / "_build" / "html" / "_images" / "ways.svg").unlink()
    path = book.copy.folder / "book" / "references.md"
    text = path.read_text("utf-8")
    path.write_text(f"{text}\nA new sentence.\n", encoding="utf-8")
    assert book.copy.build() == ["building the pages", book.output[-1]]
    assert "A new sentence." in book.copy.pages()["references.html"]
    path.write_text(text, encoding="utf-8")
    book.copy.build()
    assert book.copy.pages() == before
