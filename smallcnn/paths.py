"""Where things are: folders of the project, some of which an environment variable can move.

A relative path in such a variable counts from the project's folder, wherever a process runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
MEASUREMENTS = ROOT / "measurements"
PUBLISHED_RUNS = ROOT / "runs"
OWN_RUNS = ROOT / "data" / "runs"
PLACES = ("SMALLCNN_BUILD", "SMALLCNN_RUNS", "SMALLCNN_MNIST")  # variables that hold a path
RUN_KEY = re.compile(r'"([0-9a-f]{16})"')  # as JSON holds it


def build_folder() -> Path:
    """The folder of everything generated: `SMALLCNN_BUILD`, or `build` in the project."""
    return ROOT / (os.environ.get("SMALLCNN_BUILD") or "build")


def runs_folder() -> Path:
    """The folder that new runs are recorded in: `SMALLCNN_RUNS`, or `data/runs`, which git ignores."""
    return ROOT / (os.environ.get("SMALLCNN_RUNS") or OWN_RUNS)


def record_folders() -> list[Path]:
    """Where recorded runs are looked for: `SMALLCNN_RUNS` alone if it is set, else also among the published runs."""
    return [runs_folder()] if os.environ.get("SMALLCNN_RUNS") else [PUBLISHED_RUNS, OWN_RUNS]


def mnist_file() -> Path:
    """The local copy of MNIST: `SMALLCNN_MNIST`, or `data/mnist.npz` in the project."""
    return ROOT / (os.environ.get("SMALLCNN_MNIST") or Path("data", "mnist.npz"))


@contextmanager
def changed_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables, such as those above, for this process and the ones it starts; then resets them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
