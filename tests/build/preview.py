"""A copy of the project, in a path with a space and an umlaut, and the preview of the book built in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallcnn import data
from smallcnn.chapters import CHAPTERS
from smallcnn.paths import ROOT, mnist_file

PAGES = (
    "index",
    *CHAPTERS,
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

    def build(self) -> list[str]:
        """Builds the preview and returns the lines of its output."""
        done = self.python("scripts/book.py", "--preview")
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
