"""Where things are: folders of the project, some of which an environment variable can move.

In such a variable `~` is a user's home, and a relative path counts from the project's folder, wherever a process runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smallcnn.checks import perhaps
from smallcnn.commands import CommandError

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
MEASUREMENTS = ROOT / "measurements"
PUBLISHED_RUNS = ROOT / "runs"
OWN_RUNS = ROOT / "data" / "runs"
OWN_MNIST = ROOT / "data" / "mnist.npz"
RUN_KEY = re.compile(r'"([0-9a-f]{16})"')  # as JSON holds it

# The environment variables that a user may set, as the README explains them; the first hold a path.
PLACES = ("SMALLCNN_MNIST", "SMALLCNN_RUNS", "SMALLCNN_BUILD")
VARIABLES = (
    *PLACES,
    "DASK_SCHEDULER_ADDRESS",
    "SMALLCNN_CELL_SECONDS",
    "HL_NUM_THREADS",
)
OURS = [name for name in VARIABLES if name.startswith("SMALLCNN_")]
OF_A_BUILD = ("SMALLCNN_PREVIEW", "SMALLCNN_BROKER")  # a build sets these for its notebooks


class PlaceError(CommandError):
    """An environment variable that is unknown, or names a wrong place; the message says what to do."""


def build_folder() -> Path:
    """The folder of everything generated: `SMALLCNN_BUILD`, or `build` in the project."""
    return _place("SMALLCNN_BUILD", ROOT / "build")


def runs_folder() -> Path:
    """The folder that new runs are recorded in: `SMALLCNN_RUNS`, or `data/runs`, which git ignores."""
    return _place("SMALLCNN_RUNS", OWN_RUNS)


def record_folders() -> list[Path]:
    """Where recorded runs are looked for: `SMALLCNN_RUNS` alone if it is set, else also among the published runs."""
    return [runs_folder()] if os.environ.get("SMALLCNN_RUNS") else [PUBLISHED_RUNS, OWN_RUNS]


def mnist_file() -> Path:
    """The local copy of MNIST: `SMALLCNN_MNIST`, which must be there, or `data/mnist.npz` in the project.

    Raises:
        PlaceError: if the variable names what is no file that can be read.
    """
    path = _place("SMALLCNN_MNIST", OWN_MNIST)
    if not os.environ.get("SMALLCNN_MNIST") or (os.path.isfile(path) and os.access(path, os.R_OK)):
        return path
    problem = "is a folder" if os.path.isdir(path) else "cannot be read" if os.path.exists(path) else "does not exist"
    raise PlaceError(
        f"SMALLCNN_MNIST is {str(path)!r}, which {problem}; give the path of a copy of mnist.npz, or unset it to use "
        "data/mnist.npz, which is fetched where it is missing"
    )


def check_environment() -> None:
    """Refuses, before anything starts, what the project's environment variables must not be.

    Raises:
        PlaceError: if one is unknown, perhaps misspelt, or names a place that cannot be used.
    """
    for name, meant in unknown_variables(os.environ).items():
        raise PlaceError(f"unknown environment variable {name}{meant}; there are: {', '.join(OURS)}")
    mnist_file()
    for variable, folder in {"SMALLCNN_RUNS": runs_folder(), "SMALLCNN_BUILD": build_folder()}.items():
        if os.environ.get(variable) and (problem := _no_folder(folder)):
            raise PlaceError(f"{variable} is {str(folder)!r}, {problem}; give a folder to write to, or unset it")


def unknown_variables(environment: Iterable[str]) -> dict[str, str]:
    """The names that look like those of the project and are none, each with the words on which was meant."""
    names = {name: perhaps(name, OURS, alike=0.85) for name in environment if name not in {*VARIABLES, *OF_A_BUILD}}
    return {name: meant for name, meant in names.items() if meant or name.startswith("SMALLCNN_")}


def _place(variable: str, otherwise: Path) -> Path:
    """The absolute path that `variable` means, or `otherwise` where it is not set."""
    text = os.environ.get(variable)
    if not text:
        return otherwise
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise PlaceError(f"{variable} is {text!r}, and {text.split('/')[0]} is no user here; give a path without ~")
    return ROOT / expanded


def _no_folder(path: Path) -> str:
    """Why nothing can be written to the folder `path`, which may be yet to be made; empty where it can."""
    while not os.path.lexists(path):
        path = path.parent
    if not os.path.isdir(path):
        return f"and {path} is no folder"
    return "" if os.access(path, os.R_OK | os.W_OK | os.X_OK) else f"and {path} cannot be read and written to"


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
