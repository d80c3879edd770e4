"""Between a build and its notebooks: lines arrive, workers start once and when asked for, strangers get nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from smallcnn.config import EpochLine
from smallcnn.runs import broker


class Build:
    """What a build's broker heard, and how often its workers were started."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.starts = 0
        self.fails = False
        self.where = ""

    def start_pool(self) -> str:
        self.starts += 1
        if self.fails:
            raise OSError("no space left on device")
        return "tcp://127.0.0.1:8786"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """A build that listens, to what this process asks as its notebook."""
    build = Build()
    with broker.listening(build.lines.append, build.start_pool) as build.where:
        monkeypatch.setenv(broker.VARIABLE, build.where)
        yield build


def ask(build: Build, line: bytes) -> dict[str, str]:
    """The answer to a line as it stands."""
    host, port, _ = build.where.split(" ")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(line + b"\n")
        with connection.makefile(encoding="utf-8") as answers:
            return json.loads(answers.readline())


def test_without_a_build_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(broker.VARIABLE, raising=False)
    assert not broker.is_there()


def test_lines_arrive_in_their_order(build: Build) -> None:
    assert broker.is_there()
    lines = ["a line", "Zeile 2 – mit “Zeichen”", "x" * 5000, EpochLine("epoch 1", "a run", 1, 2)]
    for line in lines:
        broker.say(line)
    assert build.lines == lines
    assert build.starts == 0


def test_workers_start_at_the_first_question_and_once(build: Build) -> None:
    with ThreadPoolExecutor(8) as notebooks:
        addresses = [each.result() for each in [notebooks.submit(broker.pool_address) for _ in range(8)]]
    assert set(addresses) == {"tcp://127.0.0.1:8786"}
    assert (build.starts, build.lines) == (1, [])


def test_workers_that_do_not_start_are_told_to_who_asked_and_tried_again(build: Build) -> None:
    build.fails = True
    with pytest.raises(RuntimeError, match="no space left on device"):
        broker.pool_address()
    build.fails = False
    assert broker.pool_address() == "tcp://127.0.0.1:8786"
    broker.say("still here")
    assert (build.starts, build.lines) == (2, ["still here"])


def test_a_wrong_password_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port, password = build.where.split(" ")
    monkeypatch.setenv(broker.VARIABLE, f"{host} {port} {password[::-1]}")
    for question in (broker.pool_address, lambda: broker.say("a line")):
        with pytest.raises(RuntimeError, match="this is not a notebook of the build"):
            question()
    assert (build.starts, build.lines) == (0, [])


@pytest.mark.parametrize("line", [b"", b"GET / HTTP/1.1", b"[]", b"{}", b'{"pool": true}', b'{"say": "x"}', b"\xff"])
def test_what_is_no_question_of_a_notebook_gets_an_error(build: Build, line: bytes) -> None:
    assert "error" in ask(build, line)
    assert (build.starts, build.lines) == (0, [])
    broker.say("still here")
    assert build.lines == ["still here"]


def test_it_listens_on_the_loopback_address_with_another_password_each_time(build: Build) -> None:
    host, _, password = build.where.split(" ")
    with broker.listening(build.lines.append, build.start_pool) as where:
        assert host == where.split(" ")[0] == "127.0.0.1"
        assert len(password) == 32
        assert password != where.split(" ")[2]
