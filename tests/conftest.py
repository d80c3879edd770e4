"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, settings

from smallcnn import data, training
from smallcnn.architecture import Weights
from smallcnn.config import TrainingConfig, TrainingRun
from smallcnn.models import import_keras
from tests.networks import PUBLISHED

if TYPE_CHECKING:
    from tests.build.preview import Book

settings.register_profile("smallcnn", deadline=None)
settings.register_profile("quick", deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
settings.load_profile("smallcnn")

TINY_TRAIN_EXAMPLES = 2000
TINY_TEST_EXAMPLES = 200


# Approach 2 on a thousand images.
SMALL_CONFIG = TrainingConfig(
    architecture=PUBLISHED["approach_2"],
    seed=0,
    epochs=2,
    batch_size=125,
    learning_rate=0.01,
    early_stopping_patience=10,
    early_stopping_baseline=0.98,
    plateau_patience=4,
    plateau_factor=0.5,
    train_examples=1000,
    engine="tensorflow",
)


class FakeEngine:
    """Trains nothing: its test accuracy is scripted, and its weights grow by one for each epoch."""

    def __init__(
        self, accuracies: list[float], labels: np.ndarray, train_set: data.Dataset, weights: Weights, masks: Weights
    ) -> None:
        self._accuracies, self._labels, self._weights = accuracies, labels, weights
        self.train_set, self.masks, self.initial_weights = train_set, masks, {**weights}
        self.orders: list[np.ndarray] = []
        self.learning_rates: list[float] = []
        self.loss = 1 / 3

    def train_epoch(self, order: np.ndarray, learning_rate: float) -> tuple[float, float]:
        self.orders.append(order)
        self.learning_rates.append(learning_rate)
        return self.loss / len(self.orders), 0.5

    def predict(self, images: np.ndarray) -> np.ndarray:
        assert len(images) == len(self._labels)
        classes = self._labels.astype(int).copy()
        wrong = len(classes) - round(self._accuracies[len(self.orders) - 1] * len(classes))
        classes[:wrong] = (classes[:wrong] + 1) % 10
        return np.full((len(classes), 10), 0.01, np.float32) + np.float32(0.9) * np.eye(10, dtype=np.float32)[classes]

    def get_weights(self) -> Weights:
        grown = {name: array + np.float32(len(self.orders)) for name, array in self._weights.items()}
        return {name: array * self.masks.get(name, np.float32(1)) for name, array in grown.items()}

    def get_state(self) -> Weights:
        return {"orders": np.array(self.orders)}

    def set_state(self, state: Weights) -> None:
        self.orders = list(state["orders"])


class FakeTraining:
    """Calls `training.train` on a tiny data set with a `FakeEngine`, which it keeps as `engine`."""

    def __init__(self) -> None:
        self.accuracies = [0.5, 0.75]
        self.loss = 1 / 3
        self.lines: list[str] = []
        labels = (np.arange(TINY_TRAIN_EXAMPLES) % 10).astype(np.uint8)
        images = np.zeros((TINY_TRAIN_EXAMPLES, 28, 28), np.uint8)
        self.train_set = data.Dataset(images, labels)
        self.test_set = data.Dataset(images[:TINY_TEST_EXAMPLES], labels[:TINY_TEST_EXAMPLES])

    def create_engine(
        self, config: TrainingConfig, train_set: data.Dataset, weights: Weights, masks: Weights
    ) -> FakeEngine:
        self.engine = FakeEngine(self.accuracies, self.test_set.labels, train_set, weights, masks)
        self.engine.loss = self.loss
        return self.engine

    def __call__(self, config: TrainingConfig, parent: TrainingRun | None = None) -> TrainingRun:
        return training.train(config, parent, self.lines.append)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file in one process, and all that need the built book: they share what is slow to make."""
    for item in items:
        group = "the book" if "book" in getattr(item, "fixturenames", ()) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def config() -> TrainingConfig:
    """A small, valid configuration of approach 2."""
    return SMALL_CONFIG


@pytest.fixture
def fake_training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    """`train` with an engine that needs neither TensorFlow nor MNIST."""
    fake = FakeTraining()
    monkeypatch.setattr(training, "create_engine", fake.create_engine)
    monkeypatch.setattr(data, "load_mnist", lambda: (fake.train_set, fake.test_set))
    return fake


@pytest.fixture
def finished_run(config: TrainingConfig, fake_training: FakeTraining) -> TrainingRun:
    """A run of `config`, as `train` makes it."""
    return fake_training(config)


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of recorded runs, with a space in its path."""
    folder = tmp_path / "recorded runs"
    monkeypatch.setenv("SMALLCNN_RUNS", str(folder))
    return folder


@pytest.fixture
def assert_same_run() -> Callable[..., None]:
    """Compares two runs, arrays to the bit; durations and machine too, unless they were measured twice."""

    def compare(one: TrainingRun, other: TrainingRun, *, measured_once: bool = True) -> None:
        assert one.config == other.config
        pd.testing.assert_frame_equal(one.history, other.history, check_exact=True)
        assert one.misclassified == other.misclassified
        assert one.best_epoch == other.best_epoch
        assert_same_arrays({"classes": one.predicted_classes}, {"classes": other.predicted_classes})
        assert_same_arrays(one.weights, other.weights)
        if measured_once:
            assert (one.seconds, one.epoch_seconds) == (other.seconds, other.epoch_seconds)
            assert one.provenance == other.provenance

    return compare


def assert_same_arrays(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
        assert array.tobytes() == other[name].tobytes(), name


@pytest.fixture(scope="session")
def keras() -> Iterator[ModuleType]:
    """tf_keras, with TensorFlow on one thread from its first operation, as the engine wants it."""
    tf_keras = import_keras()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    yield tf_keras


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """The preview of the project with one more approach, built once for all tests."""
    from tests.build.preview import Book, Copy  # here, because only the tests of the build need it

    copy = Copy(tmp_path_factory.mktemp("preview") / "a path" / "prüfung")
    copy.add_approach()
    imported = copy.python("-c", "import smallcnn; print(smallcnn.__file__)", folder="book").stdout
    assert imported.strip() == str(copy.folder / "smallcnn" / "__init__.py")
    return Book(copy, copy.build())
