"""The command line: help and errors at once and in one line, and what is typed arrives to the letter."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallcnn import cli
from smallcnn.build import cache
from smallcnn.build.cache import Edition
from smallcnn.commands import CommandError
from smallcnn.paths import ROOT
from smallcnn.report import notebook, own_runs, parameters, sweeps
from smallcnn.report.parameters import published_values
from smallcnn.runs import reproduce
from smallcnn.study import CHAPTERS

COMMANDS = {"book", "rerun", "sweep", "runs", "reproduce", "parameters", "serve"}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """The one line of an error that was printed since the last call."""

    def read() -> str:
        output = capsys.readouterr()
        assert len(output.err.splitlines()) == 1
        assert output.err.startswith("error: ")
        assert output.out == ""
        return output.err.strip().removeprefix("error: ")

    return read


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Edition]:
    """The editions that are built, instead of building them."""
    editions: list[Edition] = []

    def publish(edition: Edition) -> Path:
        editions.append(edition)
        if edition.runs is not None:
            edition.runs.mkdir(parents=True)
        return edition.html / "index.html"

    monkeypatch.setattr(cli, "_publish", publish)
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    monkeypatch.setenv("SMALLCNN_BUILD", str(tmp_path / "build"))
    return editions


@pytest.fixture
def without_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are not read, for which Keras would be imported."""
    monkeypatch.setattr(notebook, "read_network", lambda chapter, values: None)


def exit_code(*arguments: str) -> int:
    """What a command ends with, whether it returns it or leaves with it."""
    try:
        return cli.main(arguments)
    except SystemExit as left:
        assert isinstance(left.code, int)
        return left.code


# Help and malformed commands


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    text = capsys.readouterr().out
    assert set(re.findall(r"^    (\w+)\b", text, re.MULTILINE)) == COMMANDS
    assert "python -m smallcnn rerun approach_2 epochs=10" in text


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(command, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m smallcnn {command}")
    assert max(map(len, text.splitlines())) <= 120
    if command == "rerun":
        assert all(chapter in text for chapter in CHAPTERS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: command"),
        (["boook"], "invalid choice: 'boook'"),
        (["book", "--fresh", "--preview"], "not allowed with argument"),
        (["book", "extra"], "unrecognized arguments: extra"),
        (["runs", "--remove"], "expected at least one argument"),
        (["runs", "--remove", "a", "--publish"], "not allowed with argument"),
        (["reproduce", "--sample", "2", "--minutes", "1"], "not allowed with argument"),
        (["serve", "8000", "8001"], "unrecognized arguments: 8001"),
        (["--nonsense"], "required: command"),
        (["rerun", "--", "approach_2", "--"], "'--' stands where a value is expected"),
        (["serve", "--", "--"], "'--' stands where a value is expected"),
    ],
)
def test_a_malformed_command_is_one_line(arguments: list[str], message: str, printed: Callable[[], str]) -> None:
    assert exit_code(*arguments) == 2
    line = printed()
    assert message in line
    assert re.search(r"; see python -m smallcnn( \w+)? --help$", line)


# Reproduce


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ([], None, None)),
        (["--sample", "3"], ([], 3, None)),
        (["--minutes", "2.5", "--", ""], ([], None, 2.5)),
        (["--", "abc def"], (["abc", "def"], None, None)),
        (["abc", "def"], (["abc", "def"], None, None)),
    ],
)
def test_reproduce_takes_a_sample_or_minutes_or_keys(
    arguments: list[str], expected: tuple[list[str], int | None, float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(reproduce, "reproduce", lambda report, *options: asked.append(options))
    assert exit_code("reproduce", *arguments) == 0
    assert asked == [expected]


@pytest.mark.parametrize("option", ["sample", "minutes"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x", "", "1e9"])
def test_reproduce_refuses_other_numbers(option: str, value: str, printed: Callable[[], str]) -> None:
    assert exit_code("reproduce", f"--{option}={value}") == 2
    assert f"{option.upper()} is {value!r}; expected a number above 0" in printed()


# Rerun


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a chapter, as in: make rerun CHAPTER=approach_2 PARAMS="),
        (["", "epochs=3"], "name a chapter"),
        (["approach_4"], "unknown chapter 'approach_4', perhaps approach_3; there are: data, approach_1,"),
        (["book/pruning.ipynb"], "unknown chapter 'book/pruning.ipynb', perhaps pruning; there are: data, approach_1,"),
        (["approach_2", "epoch=3"], "unknown parameter 'epoch' for approach_2, perhaps epochs; it has: filters,"),
        (["approach_2", "epochs=ten"], "parameter epochs is 'ten'; expected a whole number"),
        (["approach_2", "epochs"], "cannot read 'epochs'; write parameters as name=value"),
        (["approach_2", "epochs=3", "epochs=4"], "parameter epochs is given twice"),
        (["pruning", "rounds=0"], "pruning: rounds is 0"),
        (["approach_2", "epochs=3\nepochs=\u2028$(id) 'x'"], "epochs"),
        (["comparison", "epochs=3"], "unknown parameter 'epochs' for comparison; it has: no parameters"),
    ],
)
def test_a_wrong_rerun_starts_nothing(
    arguments: list[str], message: str, started: list[Edition], printed: Callable[[], str]
) -> None:
    assert exit_code("rerun", "--", *arguments) == 2
    assert message in printed()
    assert started == []


@pytest.mark.usefixtures("without_networks")
def test_a_rerun_builds_the_book_with_one_chapter_changed(
    started: list[Edition], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code("rerun", "approach_2", "epochs=10", "filters=4,8,8,8,10") == 0
    assert exit_code("rerun", "--", "approach_2", "epochs=10 learning_rate=0.003") == 0
    assert exit_code("rerun", "--", "approach_2", "") == 0
    assert [edition.changes_of("approach_2") for edition in started] == [
        {"epochs": 10, "filters": [4, 8, 8, 8, 10]},
        {"epochs": 10, "learning_rate": 0.003},
        {},
    ]
    page = tmp_path / "build" / "html" / "approach_2.html"
    assert capsys.readouterr().out.splitlines() == [f"Open {page}"] * 3


NASTY = st.sampled_from(
    [
        "$(touch x)",
        "$$(touch x)",
        "`id`",
        "'",
        '"',
        "\n",
        "\\",
        ";",
        "!!python/object/apply:os.system",
        "{{",
        "x" * 5000,
    ]
)
malformed = st.one_of(
    st.lists(NASTY, min_size=1).map("".join).map("epochs={}".format),
    st.builds(
        "{}={}".format, st.text(max_size=9).filter(lambda name: name not in published_values("approach_2")), NASTY
    ),
    st.text(st.characters(exclude_characters="="), min_size=1).filter(str.strip),
    st.builds("epochs={} epochs={}".format, st.integers(), NASTY),
    st.sampled_from(["--", "--help", "-h", "--fresh", "-", "-x=1"]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=malformed)
def test_malformed_parameters_are_answered_with_one_line_and_start_nothing(
    text: str, started: list[Edition], printed: Callable[[], str]
) -> None:
    assert exit_code("rerun", "--", "approach_2", text) == 2
    assert len(printed()) < 1000
    assert started == []


@pytest.mark.parametrize(
    "value",
    [
        "epochs=10 learning_rate=0.003",
        "epochs=$(shell touch harm)",
        "quotes ' \" \\ and # hash % percent ü",
        "two\nlines\n\tmore",
        "--help",
        "-- --",
        "@file",
        "",
    ],
)
def test_what_make_passes_on_arrives_to_the_letter(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived: list[Any] = []

    def read(*texts: str) -> None:
        arrived.extend(texts)
        raise CommandError("read")

    monkeypatch.setattr(parameters, "parse_changes", read)
    monkeypatch.setattr(sweeps, "parse_sweep", read)
    assert exit_code("rerun", "--", "approach_2", value) == 1
    assert arrived == [value, "approach_2"]
    arrived.clear()
    assert exit_code("sweep", f"--with={value}", "--", "approach_2", value) == 1
    assert arrived == ["approach_2", value, value]


# Book, runs, parameters


def test_an_edition_of_the_book_is_chosen(
    started: list[Edition], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], ["--preview"], ["--fresh"]):
        assert exit_code("book", *options) == 0
    published, preview, fresh = started
    assert (published.runs, published.changes, published.preview) == (None, {}, False)
    assert preview.preview and preview.changes["approach_1"] == CHAPTERS["approach_1"].preview
    assert fresh.runs == tmp_path / "build" / "fresh" / "runs"
    assert capsys.readouterr().out.splitlines()[0] == f"Open {published.html / 'index.html'}"


def test_a_finished_fresh_build_begins_again_and_an_interrupted_one_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    recorded = tmp_path / "build" / "fresh" / "runs" / "key"
    found: list[bool] = []

    def publish(edition: Edition) -> Path:
        found.append(recorded.exists())
        recorded.mkdir(parents=True, exist_ok=True)
        if len(found) == 1:
            raise KeyboardInterrupt
        return edition.html / "index.html"

    monkeypatch.setattr(cli, "_publish", publish)
    assert [exit_code("book", "--fresh") for _ in range(3)] == [130, 0, 0]
    assert found == [False, True, False]


def test_a_book_that_is_up_to_date_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edition = Edition(tmp_path, None, {})
    (tmp_path / ".lock").touch()
    monkeypatch.setattr(cache, "book_is_current", lambda edition: True)
    assert cli._publish(edition) == tmp_path / "html" / "index.html"
    assert capsys.readouterr().out == "The book is up to date.\n"


def test_runs_are_listed_removed_or_published(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(own_runs, "show", lambda: done.append("shown"))
    monkeypatch.setattr(own_runs, "remove", done.append)
    monkeypatch.setattr(own_runs, "publish", lambda: done.append("published"))
    monkeypatch.setattr(cache, "book_is_current", lambda edition: edition == cache.published_edition())
    for options in ([], ["--remove", "a", "b"], ["--publish"]):
        assert exit_code("runs", *options) == 0
    assert done == ["shown", ["a", "b"], "published"]
    monkeypatch.setattr(cache, "book_is_current", lambda edition: False)
    assert exit_code("runs", "--publish") == 1
    assert done == ["shown", ["a", "b"], "published"]


def test_a_run_that_there_is_not_is_one_line(printed: Callable[[], str]) -> None:
    assert exit_code("runs", "--remove", "no such\nrun") == 1
    assert printed().startswith("data/runs has no run 'no such\\nrun'; ")


@pytest.mark.parametrize(
    ("changed", "line"),
    [(["data", "pruning"], "written: data, pruning"), ([], "every notebook has the published values")],
)
def test_published_parameters_are_written(
    changed: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebook, "write_published_parameters", lambda: changed)
    assert exit_code("parameters") == 0
    assert capsys.readouterr().out == f"{line}\n"


# Sweep


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a chapter, as in: make sweep CHAPTER=approach_2 GRID="),
        (["approach_4", "seeds=0"], "unknown chapter 'approach_4'"),
        (["approach_2", ""], "GRID is empty"),
        (["approach_2", "learning_rate=ten"], "parameter learning_rate is 'ten'"),
    ],
)
def test_a_wrong_sweep_starts_nothing(arguments: list[str], message: str, printed: Callable[[], str]) -> None:
    assert exit_code("sweep", "--with=", "--", *arguments) == 2
    assert message in printed()


# Serve


def test_serve_without_a_book_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, printed: Callable[[], str]
) -> None:
    monkeypatch.setenv("SMALLCNN_BUILD", str(tmp_path))
    assert exit_code("serve") == 1
    assert printed() == "there is no book in build/html yet; run 'make book' first"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A build folder with a page."""
    monkeypatch.setenv("SMALLCNN_BUILD", str(tmp_path))
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("the book", encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    "port", ["", "0", "-1", "--help", "65536", "99999", "000080", "abc", "80 80", "8e3", "+80", "٨٠٠٠", "²", "x" * 5000]
)
def test_a_wrong_port_is_one_line(port: str, printed: Callable[[], str]) -> None:
    assert exit_code("serve", "--", port) == 1
    line = printed()
    assert line.startswith("PORT is ")
    assert line.endswith("expected a number from 1 to 65535, as in: make serve PORT=8080")
    assert len(line) < 200


@pytest.mark.usefixtures("served")
def test_a_port_in_use_is_one_line(printed: Callable[[], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert exit_code("serve", str(port)) == 1
    assert printed().startswith(f"port {port}: Address already in use; another one may do: make serve PORT=8080")


# As a program

RUN = """
import sys
from smallcnn.cli import main
try:
    code = main()
except SystemExit as left:
    code = left.code
slow = ("tensorflow", "tf_keras", "distributed", "pandas", "matplotlib", "nbformat")
print([name for name in slow if name in sys.modules])
sys.exit(code)
"""


def program(*arguments: str, build: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command; its last line says which of the slow packages it has imported."""
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SMALLCNN_BUILD": str(build)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["rerun", "approach_2", "epochs=ten"], ["rerun", "pruning", "rounds=0"]]
)
def test_help_and_errors_come_within_a_second_and_import_nothing_slow(arguments: list[str], tmp_path: Path) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        done = program(*arguments, build=tmp_path / "build")
        assert done.returncode == (0 if arguments == ["--help"] else 2)
        assert done.stdout.splitlines()[-1] == "[]"
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 1
    assert not (tmp_path / "build").exists()


def test_the_package_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "smallcnn", "rerun"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: name a chapter")
