"""Every recorded network, computed once more in plain NumPy, gives the recorded predictions and accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from smallcnn import data
from smallcnn.paths import ROOT

RECORDS = sorted(path.parent for path in (ROOT / "runs").glob("*/run.json"))
EPSILON = 1e-3  # of Keras' batch normalisation
IMAGES_AT_A_TIME = 50


def convolve(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A 3×3 convolution without padding: images (n, h, w, in), kernel (3, 3, in, out)."""
    count, height, width, channels = images.shape
    patches = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))  # (n, h - 2, w - 2, in, 3, 3)
    rows = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * channels)
    return (rows @ kernel.reshape(9 * channels, -1)).reshape(count, height - 2, width - 2, -1)


def pool(images: np.ndarray) -> np.ndarray:
    """Maxima of 2×2 pixels; an odd last row or column is left out."""
    count, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(count, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def classify(images: np.ndarray, architecture: dict, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The class of each image, uint8 (n, 28, 28)."""
    values = images[..., None] / 255.0
    for block in range(1, len(architecture["filters"]) + 1):
        of = {name.partition("/")[2]: array for name, array in weights.items() if name.startswith(f"block_{block}/")}
        values = np.maximum(convolve(values, of["kernel"]) + of["bias"], 0)
        scale = of["gamma"] / np.sqrt(of["moving_variance"] + EPSILON)
        values = (values - of["moving_mean"]) * scale + of["beta"]
        if block in architecture["pool_after"]:
            values = pool(values)
    if architecture["head"] == "dense":
        scores = values.reshape(len(values), -1) @ weights["dense/kernel"] + weights["dense/bias"]
    else:
        scores = values.mean(axis=(1, 2))
    return scores.argmax(axis=1)


def test_there_are_records_of_every_kind() -> None:
    configs = [json.loads((record / "run.json").read_text("utf-8"))["config"] for record in RECORDS]
    assert {config["engine"] for config in configs} == {"halide", "tensorflow"}
    assert {len(config["pruned_fractions"]) for config in configs} == {0, 1, 2}
    assert any(config["gradual_sparsity"] for config in configs)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_recorded_network_gives_its_predictions_and_its_accuracy(record: Path) -> None:
    _, test_set = data.load_mnist()
    run = json.loads((record / "run.json").read_text("utf-8"))
    with np.load(record / "weights.npz", allow_pickle=False) as file:
        weights = {name: file[name].astype(np.float32) for name in file.files}
    classes = np.concatenate(
        [
            classify(
                test_set.images[start : start + IMAGES_AT_A_TIME].astype(np.float32),
                run["config"]["architecture"],
                weights,
            )
            for start in range(0, len(test_set.images), IMAGES_AT_A_TIME)
        ]
    )
    assert "".join(map(str, classes)) == run["predicted_classes"]
    assert (classes == test_set.labels).sum() / len(classes) == run["best_test_accuracy"]
    assert np.flatnonzero(classes != test_set.labels).tolist() == run["misclassified"][run["best_epoch"] - 1]
    kernels = [array for name, array in weights.items() if name.endswith("/kernel") and name.startswith("block_")]
    pruned = sum(kernel.size - np.count_nonzero(kernel) for kernel in kernels)
    assert (pruned > 0) == bool(run["config"]["pruned_fractions"] or run["config"]["gradual_sparsity"])
