"""Both engines predict, and report of their training, what plain NumPy computes from their weights in float64."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from smallcnn import data, training
from smallcnn.architecture import Weights, convolution_kernels, initial_weights
from smallcnn.config import ENGINES, HISTORY, Checkpoint, TrainingConfig, TrainingRun, history_frame
from smallcnn.engines.base import Engine, is_available
from smallcnn.engines.start import create_engine
from smallcnn.training import data_order, pruning_masks, train
from tests.conftest import SMALL_CONFIG, assert_same_arrays
from tests.engines.plain import scores
from tests.networks import chain

pytestmark = [pytest.mark.usefixtures("keras"), pytest.mark.slow]

# Batches fill no vector of a processor, and the last one of an epoch is incomplete.
CONFIG = dataclasses.replace(
    SMALL_CONFIG, architecture=chain((3, 5), (1,), head="dense"), batch_size=20, train_examples=130, epochs=3
)
WITH_DROPOUT = dataclasses.replace(CONFIG, architecture=chain((3, 5, 10), (1,), 0.5, (1, 2, 3)), seed=1)
LEARNING_RATE = 0.003


def noisy_classes(count: int, seed: int) -> data.Dataset:
    """Images of ten patterns under noise, so that a few steps learn something but not all."""
    patterns = np.random.default_rng(0).integers(0, 256, (10, 28, 28))
    labels = (np.arange(count) % 10).astype(np.uint8)
    noise = np.random.default_rng(seed).integers(0, 256, (count, 28, 28))
    return data.Dataset(((patterns[labels] + 2 * noise) // 3).astype(np.uint8), labels)


TRAIN_SET = noisy_classes(CONFIG.train_examples, seed=1)
TEST_IMAGES = noisy_classes(70, seed=2).images


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    if not is_available(request.param):
        pytest.skip(f"{request.param} is not installed on this machine")
    return str(request.param)


def probabilities(
    config: TrainingConfig, weights: Weights, images: np.ndarray, *, in_training: bool = False
) -> np.ndarray:
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    found = scores(config.architecture.to_json(), exact, images / 255.0, {} if in_training else None)
    powers = np.exp(found - found.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def settled_weights(config: TrainingConfig) -> Weights:
    """Initial weights with the statistics of the training images, which a few steps would not bring about."""
    weights, moments = initial_weights(config.architecture, config.seed), {}
    scores(config.architecture.to_json(), weights, TRAIN_SET.images / 255.0, moments)
    return weights | {name: array.astype(np.float32) for name, array in moments.items()}


def loss_and_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, 1e-7)).mean()), float((probabilities.argmax(axis=1) == labels).mean())


def assert_predicts_as_numpy(engine: Engine, config: TrainingConfig) -> None:
    expected = probabilities(config, engine.get_weights(), TEST_IMAGES)
    for count in (len(TEST_IMAGES), 1, 37):
        np.testing.assert_allclose(engine.predict(TEST_IMAGES[:count]), expected[:count], rtol=1e-4, atol=1e-6)


def test_predictions_go_by_the_moving_statistics_and_without_dropout(engine_name: str) -> None:
    config = dataclasses.replace(WITH_DROPOUT, engine=engine_name)
    weights = initial_weights(config.architecture, config.seed)
    generator = np.random.default_rng(0)
    masks = {
        name: generator.integers(0, 2, kernel.shape).astype(np.float32)
        for name, kernel in convolution_kernels(weights).items()
    }
    for name, mask in masks.items():
        weights[name] *= mask
    engine = create_engine(config, TRAIN_SET, weights, masks)
    assert_predicts_as_numpy(engine, config)
    for epoch in (1, 2):
        engine.train_epoch(data_order(config, epoch), LEARNING_RATE)
        assert_predicts_as_numpy(engine, config)
    for name, mask in masks.items():
        assert np.array_equal(engine.get_weights()[name] != 0, mask != 0)
    after_two, state = engine.predict(TEST_IMAGES), engine.get_state()
    engine.train_epoch(data_order(config, 3), LEARNING_RATE)
    assert not np.allclose(engine.predict(TEST_IMAGES), after_two, atol=1e-3)
    engine.set_state(state)
    assert_predicts_as_numpy(engine, config)
    assert np.array_equal(engine.predict(TEST_IMAGES), after_two)


def test_a_run_reports_what_numpy_finds_and_keeps_the_best_epoch(
    engine_name: str, monkeypatch: pytest.MonkeyPatch, assert_same_run: Callable[..., None]
) -> None:
    config = dataclasses.replace(CONFIG, engine=engine_name, learning_rate=LEARNING_RATE, pruned_fractions=(0.3,))
    parent = parent_of(config)
    masks = pruning_masks(config, parent)
    weights = settled_weights(config)
    monkeypatch.setattr(training, "initial_weights", lambda architecture, seed: {**weights})
    weights |= {name: weights[name] * mask for name, mask in masks.items()}
    engine = create_engine(config, TRAIN_SET, weights, masks)
    start = engine.get_state()

    expected: dict[str, list[float]] = {"train_loss": [], "train_accuracy": []}
    after, found = [], []
    for epoch in range(1, config.epochs + 1):
        steps = []
        for batch in data_order(config, epoch):
            images, labels = TRAIN_SET.images[batch], TRAIN_SET.labels[batch]
            at_step = probabilities(config, engine.get_weights(), images, in_training=True)
            steps.append(loss_and_accuracy(at_step, labels))
            engine.train_epoch(batch[None], LEARNING_RATE)
        assert len(steps) == 6
        for name, values in zip(expected, zip(*steps, strict=True), strict=True):
            expected[name].append(float(np.mean(values)))
        after.append(engine.get_weights())
        found.append(probabilities(config, after[-1], TEST_IMAGES))

    # Most right answers are those of the second epoch, and the fewest those of the first, so the best is not the last.
    first, second, third = (each.argmax(axis=1).astype(np.uint8) for each in found)
    answers = np.concatenate([second[:38], third[38:60], first[60:]])
    monkeypatch.setattr(data, "load_mnist", lambda: (TRAIN_SET, data.Dataset(TEST_IMAGES, answers)))

    def start_again(
        asked: TrainingConfig, train_set: data.Dataset, initial: Weights, held: Weights
    ) -> Engine:  # a second engine would take seconds to compile
        assert asked == config
        assert np.array_equal(train_set.images, TRAIN_SET.images)
        assert_same_arrays(initial, weights)
        assert_same_arrays(held, masks)
        engine.set_state(start)
        return engine

    monkeypatch.setattr(training, "create_engine", start_again)
    checkpoints: list[Checkpoint] = []
    run = train(config, parent, lambda line: None, keep=lambda reached: checkpoints.append(copy.deepcopy(reached)))
    expected["test_loss"], expected["test_accuracy"] = map(
        list, zip(*(loss_and_accuracy(each, answers) for each in found), strict=True)
    )
    for name, values in expected.items():
        assert len({round(value, 4) for value in values}) == 3, f"{name} is the same in several epochs"
        assert run.history[name].tolist() == pytest.approx(values, rel=1e-3), name
    assert run.misclassified == [np.flatnonzero(each.argmax(axis=1) != answers).tolist() for each in found]
    assert (run.best_epoch, run.best_test_accuracy) == (2, max(expected["test_accuracy"]))
    assert run.final_test_accuracy == expected["test_accuracy"][2] < run.best_test_accuracy
    assert np.array_equal(run.predicted_classes, second)
    for name, array in after[1].items():
        np.testing.assert_allclose(run.weights[name], array, rtol=1e-3, atol=1e-5, err_msg=name)

    for checkpoint in checkpoints:
        resumed = train(config, parent, lambda line: None, copy.deepcopy(checkpoint))
        assert_same_run(resumed, run, measured_once=False)


def parent_of(config: TrainingConfig) -> TrainingRun:
    """A made-up run, of which only the weights matter."""
    assert config.parent is not None
    return TrainingRun(
        config=config.parent,
        history=history_frame({name: [0.5] for name in HISTORY}),
        misclassified=[[]],
        best_epoch=1,
        predicted_classes=np.zeros(len(TEST_IMAGES), np.uint8),
        weights=initial_weights(config.architecture, seed=5),
        epoch_seconds=[0.0],
        seconds=0.0,
        provenance={},
    )
