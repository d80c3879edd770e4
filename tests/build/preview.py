"""A copy of the project with one more approach, in a path with a space and an umlaut, and the preview built in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallcnn import data
from smallcnn.build.cache import preview_edition
from smallcnn.paths import ROOT, mnist_file
from smallcnn.study import CHAPTERS

# What somebody adds to the study who follows README.md: a notebook, a line of the contents, a record.
ADDED = "approach_4"
ADDED_LABEL = "approach 4"
ADDED_NETWORK = """\
import tf_keras as keras
from tf_keras import layers

model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(2),
        layers.Conv2D(10, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.GlobalAveragePooling2D(),
        layers.Softmax(),
    ]
)"""
ADDED_COLOUR = "#AA4499"  # which nothing else in the book has
ADDED_RECORD = f"""\
    Chapter(
        "approach_4",
        TRAINING,
        FEW,
        "approach 4",
        "{ADDED_COLOUR}",
        Article(466, 438, accuracy="over 90\\u202f%"),
    ),
"""
ADDED_COUNTS = (466, 438)

CHAPTER_NAMES = (*CHAPTERS, ADDED)
PREVIEW_CHANGES: dict[str, dict[str, Any]] = {name: dict(values) for name, values in preview_edition().changes.items()}
PREVIEW_CHANGES[ADDED] = PREVIEW_CHANGES["approach_1"]
PAGES = (
    "index",
    *CHAPTER_NAMES,
    "draw",
    "training",
    "same_study",
    "why_fast",
    "sweep",
    "scaling",
    "differences",
    "faults",
    "rerun",
    "references",
)


class Copy:
    """A copy of the project as it is in the working tree, and the output of the builds made in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.build_folder = folder / "build" / "preview"
        self.html = self.build_folder / "html"
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        with suppress(FileExistsError):
            (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)

    @property
    def environment(self) -> dict[str, str]:
        """That of this process, with the copy's package in front of the one under test."""
        data.load_mnist()  # so that there is a local copy of it
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("SMALLCNN_", "DASK_"))}
        return ours | {"PYTHONPATH": str(self.folder), "SMALLCNN_MNIST": str(mnist_file()), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def python(self, *arguments: str, folder: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder / folder,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=1800,
            check=False,
        )

    def add_approach(self) -> None:
        """Adds an approach as README.md says: a notebook, a line in the contents, a record."""
        self.replace("_toc.yml", "      - file: approach_3\n", f"      - file: approach_3\n      - file: {ADDED}\n")
        self.replace("smallcnn/study.py", ")\nPRUNED = ", f"{ADDED_RECORD})\nPRUNED = ")
        notebook = json.loads((self.folder / "book" / "approach_2.ipynb").read_text("utf-8"))
        cells = {cell["id"]: cell for cell in notebook["cells"]}
        for cell in cells.values():
            text = "".join(cell["source"]).replace("approach_2", ADDED).replace("approach 2", ADDED_LABEL)
            cell["source"] = text.splitlines(keepends=True)
        cells["title"]["source"] = ["# Approach 4: as small as it gets\n", "\n", "How little is too little?"]
        network_parameters = ("filters", "pool_after", "dropout", "head")
        parameters = cells["parameters"]["source"]
        cells["parameters"]["source"] = [line for line in parameters if not line.startswith(network_parameters)]
        cells["network"]["source"] = ADDED_NETWORK.splitlines(keepends=True)
        (self.folder / "book" / f"{ADDED}.ipynb").write_text(
            json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8"
        )

    def replace(self, name: str, old: str, new: str) -> None:
        """Replaces what stands once in a file."""
        path = self.folder / name
        text = path.read_text("utf-8")
        assert text.count(old) == 1, (name, old)
        path.write_text(text.replace(old, new), "utf-8")

    def build(self) -> list[str]:
        """Builds the preview and returns the lines of its output."""
        done = self.python("-m", "smallcnn", "book", "--preview")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    def make(self, target: str, environment: Mapping[str, str]) -> list[str]:
        """Makes a target with this Python and more variables, and returns the lines of its output."""
        done = subprocess.run(
            ["make", "-s", "-o", ".venv/.installed", target],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            encoding="utf-8",
            timeout=1800,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    def results(self, chapter: str) -> Any:
        return json.loads((self.build_folder / "results" / f"{chapter}.json").read_text("utf-8"))

    def pages(self) -> dict[str, str]:
        """The pages by name, without the checksums that Sphinx adds to some addresses of style sheets."""
        return {path.name: re.sub(r"\?v=\w+", "", path.read_text("utf-8")) for path in self.html.glob("*.html")}

    def files(self) -> dict[str, bytes]:
        """Every file of the book, to the byte."""
        return {str(path.relative_to(self.html)): path.read_bytes() for path in self.html.rglob("*") if path.is_file()}


@dataclass
class Book:
    """The preview as it was first built."""

    copy: Copy
    output: list[str]
