"""Where things are: folders of the project, each of which an environment variable can move."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"


def build_folder() -> Path:
    """The folder of everything generated: `SMALLCNN_BUILD`, or `build` in the project."""
    return Path(os.environ.get("SMALLCNN_BUILD") or ROOT / "build")


def runs_folder() -> Path:
    """The folder of recorded runs: `SMALLCNN_RUNS`, or `runs` in the project."""
    return Path(os.environ.get("SMALLCNN_RUNS") or ROOT / "runs")


def mnist_file() -> Path:
    """The local copy of MNIST: `SMALLCNN_MNIST`, or `data/mnist.npz` in the project."""
    return Path(os.environ.get("SMALLCNN_MNIST") or ROOT / "data" / "mnist.npz")
