"""Between a build and the notebooks that it executes: their lines of progress, and one pool of workers for all.

The build listens on the loopback address. A notebook sends one line of JSON at a time: words for the terminal, or the
question where the workers are. They start when a notebook first asks, so a build that trains nothing starts none.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import socketserver
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Event, Lock, Thread

from smallcnn.config import Report

VARIABLE = "SMALLCNN_BROKER"  # host, port and password of the build's broker, in the environment of a notebook
ANSWER_SECONDS = 120.0  # starting workers takes some
POLL_SECONDS = 0.05  # how long a build may have to wait for its broker to end


def is_there() -> bool:
    """Whether a build executes this notebook."""
    return bool(os.environ.get(VARIABLE))


def say(line: str) -> None:
    """Sends a line to the build's terminal."""
    _ask({"say": str(line)})


def pool_address() -> str:
    """The scheduler of the build's workers, which start if they have not yet."""
    return _ask({"pool": True})["pool"]


def _ask(question: dict[str, object]) -> dict[str, str]:
    host, port, password = os.environ[VARIABLE].split(" ")
    with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
        connection.sendall(json.dumps(question | {"password": password}).encode() + b"\n")
        with connection.makefile(encoding="utf-8") as answers:
            answer: dict[str, str] = json.loads(answers.readline())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


@contextmanager
def listening(report: Report, start_pool: Callable[[], str]) -> Iterator[str]:
    """Answers notebooks while the block runs.

    Args:
        report: called with their lines.
        start_pool: starts the workers and returns the address of their scheduler; called once, when first asked for.

    Yields:
        What `VARIABLE` must be in the notebooks' environment.
    """
    password, lock, is_over = secrets.token_hex(16), Lock(), Event()
    pool_address = cache(start_pool)

    def answer(question: dict[str, object]) -> dict[str, str]:
        if question.get("password") != password:
            return {"error": "this is not a notebook of the build"}
        with lock:
            if "say" in question:
                report(str(question["say"]))
                return {}
            return {"error": "the build is over"} if is_over.is_set() else {"pool": pool_address()}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            """Answers one question; what goes wrong is the notebook's to tell."""
            try:
                answered = answer(json.loads(self.rfile.readline(100_000)))
            except Exception as error:  # noqa: BLE001 - whatever it is, the notebook must hear of it
                answered = {"error": f"{error}"}
            self.wfile.write(json.dumps(answered).encode() + b"\n")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A notebook that is gone needs no answer."""

    with Server(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        try:
            yield f"127.0.0.1 {server.server_address[1]} {password}"
        finally:
            server.shutdown()
            with lock:  # workers that are just starting do so before they are ended, and no others start
                is_over.set()
