"""What a notebook says by itself: the values in its parameters cell, and the network that it types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallcnn.architecture import Architecture
from smallcnn.paths import ROOT
from smallcnn.report import notebook
from smallcnn.report.notebook import (
    check_parameters,
    edited_values,
    notebook_values,
    parameters_source,
    read_network,
    tagged_source,
)
from smallcnn.report.parameters import ParameterError, parse_changes, published_values
from smallcnn.study import CHAPTERS
from tests.networks import PUBLISHED, chain
from tests.report.test_parameters import OF_ANOTHER_TYPE, OUT_OF_RANGE


class Book:
    """A folder of notebooks whose cells a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, chapter: str, parameters: str | None, network: str | None = None) -> None:
        """Writes a notebook with these cells, and others between them."""
        tagged = {"parameters": parameters, "network": network}
        cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# A chapter"]}]
        for tag, source in tagged.items():
            if source is not None:
                cell = {"metadata": {"tags": ["hide-input", tag]}, "source": source.splitlines(keepends=True)}
                cells += [
                    {"cell_type": "code", **cell},
                    {"cell_type": "code", "metadata": {}, "source": ["epochs = 7"]},
                ]
        (self.folder / f"{chapter}.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    """An empty folder of notebooks, and an empty build folder."""
    (tmp_path / "book").mkdir()
    monkeypatch.setattr(notebook, "BOOK", tmp_path / "book")
    monkeypatch.setenv("SMALLCNN_BUILD", str(tmp_path / "build"))
    return Book(tmp_path / "book")


def error_of(chapter: str, changes: Mapping[str, Any]) -> str:
    """The message of the error that these changes give, which must be one line."""
    with pytest.raises(ParameterError) as raised:
        check_parameters(chapter, changes)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


# The parameters cell


def test_a_cell_is_found_by_its_tag() -> None:
    assert tagged_source("approach_2", "parameters").startswith("filters: list[int] = [4, 8, 16, 16, 10]  # filters of")
    assert tagged_source("approach_2", "network").startswith("import tf_keras as keras\n")
    assert tagged_source("comparison", "parameters") == tagged_source("data", "network") == ""
    assert notebook_values("comparison") == {}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_notebook_sets_the_published_values(chapter: str) -> None:
    assert notebook_values(chapter) == published_values(chapter)
    assert edited_values(chapter) == {}


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("epochs: int = 2  # passes over the training set at most [epochs]", {"epochs": 2}),
        ("epochs = 2", {"epochs": 2}),
        ("epochs=2;rounds=3", {"epochs": 2, "rounds": 3}),
        ("epochs = (\n    2\n)  # two", {"epochs": 2}),
        ("epochs = 2\nepochs = 3", {"epochs": 3}),
        ("seeds = [\n    0,  # the first\n    4,\n]", {"seeds": [0, 4]}),
        ("seeds = (0, 4)", {"seeds": (0, 4)}),
        ("learning_rate = -1e-3", {"learning_rate": -0.001}),
        ("dropout = None", {"dropout": None}),  # of which the check says what is wrong
        ("# epochs = 2", {}),
        ("epochs: int", {}),
        ("other = 2\nimport os\nprint(os.name)\nother.epochs = 2\nepochs[0] = 2\n'epochs = 2'", {}),
        ("", {}),
    ],
)
def test_a_parameters_cell_is_read_whatever_else_it_has(line: str, values: dict[str, Any], book: Book) -> None:
    book.write("pruning", line)
    assert notebook_values("pruning") == values


def test_an_experiment_that_was_saved_is_what_differs(book: Book) -> None:
    source = parameters_source("approach_2").replace("epochs: int = 40", "epochs = 2").replace("0.01", "0.0100")
    book.write("approach_2", f"# my experiment\n{source}\nmine = 3\n")
    assert edited_values("approach_2") == {"epochs": 2}
    assert notebook_values("approach_2") == published_values("approach_2") | {"epochs": 2}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("epochs = 2 *", "pruning: its parameters cell is no Python, invalid syntax in line 1"),
        ("rounds = 2\nepochs = (2", "pruning: its parameters cell is no Python, '(' was never closed in line 2"),
        ("%matplotlib inline\nepochs = 2", "pruning: its parameters cell is no Python"),
        ("rounds = 2\nepochs = 2 * 3", "pruning: parameter epochs is 2 * 3; expected a plain value"),
        ("rounds = 2\nepochs = rounds", "pruning: parameter epochs is rounds; expected a plain value"),
        ("epochs = int(input())", "pruning: parameter epochs is int(input()); expected a plain value"),
        ("seeds = list(range(3))", "pruning: parameter seeds is list(range(3)); expected a plain value"),
        ("seeds = {[]: 1}", "pruning: parameter seeds is {[]: 1}; expected a plain value"),
    ],
)
def test_a_cell_that_cannot_be_read_is_refused_in_one_line(source: str, message: str, book: Book) -> None:
    book.write("pruning", source)
    for read in (notebook_values, edited_values):
        with pytest.raises(ParameterError) as raised:
            read("pruning")
        assert str(raised.value).startswith(message)
        assert len(str(raised.value).splitlines()) == 1
    assert error_of("pruning", {}).startswith(message)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"cells": 3}', '{"cells": [{"metadata": {}}, 3]}', "\x00"])
def test_a_notebook_that_cannot_be_read_says_how_it_comes_back(content: str | None, book: Book) -> None:
    if content is not None:
        (book.folder / "data.ipynb").write_text(content, encoding="utf-8")
    with pytest.raises(ParameterError, match="data: book/data.ipynb cannot be read .*; git checkout book/data.ipynb"):
        notebook_values("data")


def test_an_unknown_chapter_is_none() -> None:
    for read in (notebook_values, edited_values, parameters_source):
        with pytest.raises(ParameterError, match="unknown chapter 'approach_4'"):
            read("approach_4")


def test_a_value_that_the_cell_no_longer_sets_is_missing(book: Book) -> None:
    source = parameters_source("approach_2")
    without = "\n".join(line for line in source.splitlines() if not line.startswith("batch_size"))
    book.write("approach_2", without)
    assert error_of("approach_2", {}).startswith("approach_2: parameter batch_size has no value")
    assert check_parameters("approach_2", {"batch_size": 100})["batch_size"] == 100


def test_the_cell_counts_where_nothing_else_is_asked_for(book: Book) -> None:
    book.write("data", "digits_shown = 7")
    assert check_parameters("data", {}) == {"digits_shown": 7}
    assert check_parameters("data", {"digits_shown": 3}) == {"digits_shown": 3}
    book.write("data", "digits_shown = 70")
    assert "digits_shown is 70" in error_of("data", {})


# Limits come before Keras

REFUSED = """
import sys
from smallcnn.report.notebook import check_parameters
from smallcnn.report.parameters import ParameterError, parse_changes
for text in sys.argv[1:]:
    try:
        check_parameters("pruning", parse_changes(text, "pruning"))
    except ParameterError as error:
        assert len(str(error).splitlines()) == 1
    else:
        print("accepted:", text)
print([name for name in ("tensorflow", "tf_keras", "pandas", "numpy.random") if name in sys.modules])
"""


def python(program: str, *arguments: str, build: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SMALLCNN_BUILD": str(build)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    ).stdout


def test_wrong_values_are_refused_without_tensorflow(tmp_path: Path) -> None:
    texts = [text for text in (*OUT_OF_RANGE, *OF_ANOTHER_TYPE) if "\x00" not in text]
    texts = [text if len(text) < 1000 else text[:1000] for text in texts]
    done = python(REFUSED, *texts, "unknown=3", "filters=4,8,10", "filters=10", build=tmp_path / "build")
    loaded = done.splitlines()[-1]
    assert "tensorflow" not in loaded and "tf_keras" not in loaded and "pandas" not in loaded
    assert "accepted" not in done
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("chapter", "text", "message"),
    [
        (
            "approach_2",
            "filters=4,8,10",
            "approach_2: a value in dropout_after is 4; expected a whole number from 1 to 3",
        ),
        ("approach_2", "filters=10", "approach_2: a value in pool_after is 2; expected a whole number from 1 to 1"),
        ("approach_1", "filters=10", "approach_1: a value in pool_after is 2; expected a whole number from 1 to 1"),
    ],
)
def test_another_number_of_filters_needs_blocks_that_there_are(chapter: str, text: str, message: str) -> None:
    assert error_of(chapter, parse_changes(text, chapter)) == message


# The network that a notebook types; what reads it stands in for Keras


class Reader:
    """Instead of running a cell, gives a network and counts."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.architecture = chain((4, 10), (1,), 0.25, (2,))

    def __call__(self, chapter: str, parameters: str, source: str, values: Mapping[str, Any]) -> Architecture:
        self.calls.append(dict(values))
        return self.architecture


@pytest.fixture
def reader(book: Book, monkeypatch: pytest.MonkeyPatch) -> Reader:
    reader = Reader()
    monkeypatch.setattr(notebook, "_run_network_cell", reader)
    book.write("approach_2", "filters = [4]\nepochs = 3\nother = 1", "model = [filters, dropout]")
    return reader


VALUES = {"filters": [4, 8], "dropout": 0.1, "epochs": 40}


def test_a_chapter_without_a_network_cell_types_none(reader: Reader, book: Book) -> None:
    book.write("data", "digits_shown = 7")
    assert read_network("data", {"digits_shown": 7}) is None
    assert reader.calls == []


def test_a_network_is_read_once(reader: Reader) -> None:
    found = [read_network("approach_2", VALUES) for _ in range(3)]
    assert found == [reader.architecture] * 3
    assert reader.calls == [VALUES]


@pytest.mark.parametrize(
    ("change", "calls"), [({"filters": [4, 9]}, 2), ({"dropout": 0.2}, 2), ({"epochs": 3}, 1), ({"seeds": [1]}, 1)]
)
def test_only_the_parameters_of_the_network_matter(change: dict[str, Any], calls: int, reader: Reader) -> None:
    read_network("approach_2", VALUES)
    read_network("approach_2", VALUES | change)
    assert len(reader.calls) == calls


@pytest.mark.parametrize(
    ("parameters", "network"),
    [
        ("filters = [4]\nepochs = 3\nother = 2", "model = [filters, dropout]"),
        ("filters = [4]\nepochs = 3\nother = 1", "model = [filters, dropout] "),
    ],
)
def test_a_changed_cell_is_read_anew(parameters: str, network: str, reader: Reader, book: Book) -> None:
    read_network("approach_2", VALUES)
    reader.architecture = chain((7, 10))
    book.write("approach_2", parameters, network)
    assert read_network("approach_2", VALUES) == reader.architecture
    assert len(reader.calls) == 2


@pytest.mark.parametrize("name", ["architecture.py", "models.py"])
def test_changed_code_that_reads_networks_reads_them_anew(
    name: str, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smallcnn").mkdir()
    for copied in ("architecture.py", "models.py"):
        (tmp_path / "smallcnn" / copied).write_bytes((ROOT / "smallcnn" / copied).read_bytes())
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    before = reader.architecture
    assert read_network("approach_2", VALUES) == before
    reader.architecture = chain((7, 10))
    assert read_network("approach_2", VALUES) == before
    with (tmp_path / "smallcnn" / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert read_network("approach_2", VALUES) == reader.architecture
    assert len(reader.calls) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '[{"kind": "other"}]', '[{"kind": "dense", "units": 3}]'])
def test_a_damaged_note_of_a_network_is_read_anew(content: str, reader: Reader, tmp_path: Path) -> None:
    read_network("approach_2", VALUES)
    (kept,) = (tmp_path / "build" / "networks").iterdir()
    kept.write_text(content, encoding="utf-8")
    assert read_network("approach_2", VALUES) == reader.architecture
    assert len(reader.calls) == 2
    assert read_network("approach_2", VALUES) == reader.architecture
    assert len(reader.calls) == 2


def test_a_network_cell_that_is_no_python_is_refused_in_one_line(reader: Reader, book: Book) -> None:
    book.write("approach_2", "", "model = (")
    with pytest.raises(
        ParameterError, match="approach_2: its network cell is no Python, '\\(' was never closed in line 1"
    ):
        read_network("approach_2", VALUES)
    assert reader.calls == []


# With Keras


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty build folder."""
    monkeypatch.setenv("SMALLCNN_BUILD", str(tmp_path / "build"))
    return tmp_path / "build"


@pytest.mark.slow
@pytest.mark.usefixtures("keras", "build")
@pytest.mark.parametrize("chapter", [*PUBLISHED, "pruning"])
def test_a_chapter_types_the_published_network(chapter: str) -> None:
    published = PUBLISHED["approach_2" if chapter == "pruning" else chapter]
    assert read_network(chapter, published_values(chapter)) == published
    assert check_parameters(chapter, {}) == published_values(chapter)


@pytest.mark.slow
@pytest.mark.usefixtures("keras", "build")
@pytest.mark.parametrize("chapter", [*PUBLISHED, "pruning"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("filters=4,8,10 pool_after=2 dropout_after=3", ((4, 8, 10), (2,), (3,), "pooled")),
        ("filters=10 pool_after=[] dropout_after=[]", ((10,), (), (), "pooled")),
        ("filters=64,64 head=dense pool_after=1 dropout_after=[]", ((64, 64), (1,), (), "dense")),
        ("filters=3,5,7,9,11,10 pool_after=1 dropout_after=1,6", ((3, 5, 7, 9, 11, 10), (1,), (1, 6), "pooled")),
    ],
)
def test_filters_may_be_of_any_number(chapter: str, text: str, expected: tuple[Any, ...]) -> None:
    head = "" if "head" in text else " head=pooled"
    values = check_parameters(chapter, parse_changes(text + head + " dropout=0.5", chapter))
    filters, pool_after, dropout_after, head = expected
    assert read_network(chapter, values) == chain(filters, pool_after, 0.5, dropout_after, head)


@pytest.mark.slow
@pytest.mark.usefixtures("keras", "build")
def test_approach_3_takes_two_wide_blocks_and_a_dense_layer() -> None:
    values = check_parameters("approach_3", parse_changes("filters=64,64 head=dense pool_after=1", "approach_3"))
    assert read_network("approach_3", values) == chain((64, 64), (1,), head="dense")


@pytest.mark.slow
@pytest.mark.usefixtures("keras", "build")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filters=4,8,16,16,8", "the network ends in 8 numbers for an image; expected 10, one a class"),
        ("filters=8,8,8,8,8,8,8,8,8,8,8,8,8,8,10", "no pixels left to work on; use fewer layers or pool less"),
        ("pool_after=1,2,3,4", "no pixels left to work on; use fewer layers or pool less"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_line(text: str, message: str) -> None:
    for chapter in ("approach_2", "pruning", "approach_3"):
        refused = error_of(chapter, parse_changes(text, chapter))
        assert refused.startswith(f"{chapter}: ")
        assert refused.endswith(message)


@pytest.mark.slow
@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("layers = filters", "approach_2: its network cell makes no `model`"),
        ("model = filters", "approach_2: the model is a builtins.list; expected a tf_keras.Sequential"),
        ("model = typo", "approach_2: name 'typo' is not defined"),
        ("raise ValueError('two\\nlines')", "approach_2: two lines"),
        (
            "from tf_keras import *\nmodel = Sequential([Input((32, 32, 3))])",
            "approach_2: the model takes (32, 32, 3); expected (28, 28, 1), one grey image",
        ),
    ],
)
def test_a_network_cell_that_fails_is_refused_in_one_line(network: str, message: str, book: Book) -> None:
    book.write("approach_2", parameters_source("approach_2"), network)
    assert error_of("approach_2", {}) == message
    assert not (book.folder.parent / "build").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("keras", "build")
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "filters": st.lists(st.integers(-1, 40), max_size=8).map(lambda filters: [*filters, 10]),
            "pool_after": st.lists(st.integers(1, 6), max_size=3),
            "dropout_after": st.lists(st.integers(1, 6), max_size=3),
            "dropout": st.floats(0, 1),
            "head": st.sampled_from(["dense", "pooled"]),
        },
    )
)
def test_any_network_is_read_or_refused_in_one_line(changes: dict[str, Any]) -> None:
    try:
        values = check_parameters("pruning", changes)
    except ParameterError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert values == published_values("pruning") | changes


READ = """
import sys
from smallcnn.report.notebook import check_parameters
check_parameters("approach_3", {"filters": [3, 10], "dropout": 0.2})
print([name for name in ("tensorflow", "tf_keras") if name in sys.modules])
"""


@pytest.mark.slow
def test_a_network_that_is_known_needs_no_tensorflow(tmp_path: Path) -> None:
    assert python(READ, build=tmp_path).splitlines()[-1] == "['tensorflow', 'tf_keras']"
    assert python(READ, build=tmp_path).splitlines()[-1] == "[]"
