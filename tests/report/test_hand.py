"""What a page carries of the networks, so that it can run them."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest

from smallcnn import study
from smallcnn.architecture import initial_weights
from smallcnn.config import TrainingRun
from smallcnn.data import load_mnist
from smallcnn.report import hand
from smallcnn.report.results import pruning_counts
from tests.drawings import published_results
from tests.engines.plain import scores

pytestmark = pytest.mark.slow  # it reads MNIST


def carried(part: bytes) -> Any:
    """What a part of a page carries."""
    (content,) = re.findall(r'<script type="application/json">(.*)</script>', part.decode())
    return json.loads(content)


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return {name: carried(part) for name, part in hand.generated_parts(published_results()).items()}


@pytest.fixture(scope="module")
def trained() -> dict[str, TrainingRun]:
    return hand.first_runs(published_results())


def weights_of(network: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights of a carried network by layer and name."""
    numbers = np.frombuffer(base64.b64decode(network["weights"]), "<f4")
    found = {}
    for layer in network["layers"]:
        for name, shape in layer["weights"].items():
            count = int(np.prod(shape))
            found[f"{layer['name']} {name}"], numbers = numbers[:count].reshape(shape), numbers[count:]
    assert not len(numbers)
    return found


def test_every_network_of_the_study_is_carried_with_its_first_seed(parts: dict[str, Any]) -> None:
    labels = [network["label"] for network in parts["hand.md"]["networks"]]
    assert labels == [
        "approach 1",
        "approach 2, untrained",
        "approach 2",
        "approach 2, pruned, round 1",
        "approach 2, pruned, round 2",
        "approach 3",
    ]
    assert [network["label"] for network in parts["field.md"]["networks"]] == [
        label for label in labels if "untrained" not in label
    ]


def test_a_network_is_carried_with_its_own_weights_and_counts(
    parts: dict[str, Any], trained: dict[str, TrainingRun]
) -> None:
    for network in parts["hand.md"]["networks"]:
        label = network["label"].removesuffix(", untrained")
        run, weights = trained[label], list(weights_of(network).values())
        is_untrained = network["label"] != label
        expected = initial_weights(run.config.architecture, run.config.seed) if is_untrained else run.weights
        assert all(map(np.array_equal, weights, expected.values()))
        if is_untrained:
            assert network["wrong"] is None
        else:
            assert network["trainable"] == pruning_counts(run)["trainable_remaining"]
            assert network["wrong"] == round((1 - run.best_test_accuracy) * 10_000)


def test_the_carried_layers_say_all_that_a_network_needs(
    parts: dict[str, Any], trained: dict[str, TrainingRun]
) -> None:
    images = load_mnist()[1].images[:50] / 255
    for network in parts["field.md"]["networks"]:
        run = trained[network["label"]]
        found = scores(network["layers"], weights_of(network), images)
        assert np.array_equal(found.argmax(axis=1), run.predicted_classes[:50])


def test_samples_are_one_of_each_digit_that_all_read_and_some_that_most_misread(
    parts: dict[str, Any], trained: dict[str, TrainingRun]
) -> None:
    images, labels = load_mnist()[1].images, load_mnist()[1].labels
    samples = parts["hand.md"]["samples"]
    assert [sample["digit"] for sample in samples[:10]] == list(range(10))
    assert [sample["hard"] for sample in samples] == [False] * 10 + [True] * hand.HARD_SAMPLES
    assert parts["field.md"]["samples"] == samples[:10]
    for sample in samples:
        pixels = np.frombuffer(base64.b64decode(sample["pixels"]), np.uint8).reshape(28, 28)
        (number,) = np.flatnonzero((images == pixels).all(axis=(1, 2)))
        assert labels[number] == sample["digit"]
        misread = sum(run.predicted_classes[number] != sample["digit"] for run in trained.values())
        assert misread > len(trained) / 2 if sample["hard"] else misread == 0


def test_nothing_that_is_carried_can_end_the_script() -> None:
    sample = {"digit": 1, "hard": False, "pixels": ""}
    part = hand._part("whole", [{"label": "</script><b>"}], [sample])
    assert carried(part)["networks"] == [{"label": "</script><b>"}]


def test_a_round_of_pruning_stands_after_what_it_prunes() -> None:
    labels = list(hand.first_runs(published_results()))
    pruned = study.CHAPTERS[study.PRUNED].label
    assert labels[labels.index(pruned) + 1] == f"{pruned}, {study.round_label(1)}"
