"""Every recorded network, computed once more in plain NumPy, gives the recorded predictions and accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from smallcnn import data
from smallcnn.paths import PUBLISHED_RUNS
from tests.engines.plain import scores

RECORDS = sorted(path.parent for path in PUBLISHED_RUNS.glob("*/run.json"))
IMAGES_AT_A_TIME = 50


def test_there_are_records_of_every_kind() -> None:
    configs = [json.loads((record / "run.json").read_text("utf-8"))["config"] for record in RECORDS]
    assert {config["engine"] for config in configs} == {"halide", "tensorflow"}
    assert {len(config.get("pruned_fractions", ())) for config in configs} == {0, 1, 2}
    assert any(config.get("gradual_sparsity") for config in configs)


@pytest.mark.slow
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_recorded_network_gives_its_predictions_and_its_accuracy(record: Path) -> None:
    _, test_set = data.load_mnist()
    run = json.loads((record / "run.json").read_text("utf-8"))
    with np.load(record / "weights.npz", allow_pickle=False) as file:
        weights = {name: file[name].astype(np.float32) for name in file.files}
    images = test_set.images.astype(np.float32) / np.float32(255)
    classes = np.concatenate(
        [
            scores(run["config"]["architecture"], weights, images[start : start + IMAGES_AT_A_TIME]).argmax(axis=1)
            for start in range(0, len(images), IMAGES_AT_A_TIME)
        ]
    )
    assert "".join(map(str, classes)) == run["predicted_classes"]
    assert (classes == test_set.labels).sum() / len(classes) == run["best_test_accuracy"]
    assert np.flatnonzero(classes != test_set.labels).tolist() == run["misclassified"][run["best_epoch"] - 1]
    kernels = [array for name, array in weights.items() if name.endswith("/kernel") and name.startswith("block_")]
    pruned = sum(kernel.size - np.count_nonzero(kernel) for kernel in kernels)
    asked = run["config"].get("pruned_fractions") or run["config"].get("gradual_sparsity")
    assert (pruned > 0) == bool(asked)
