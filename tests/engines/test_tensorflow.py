"""The reference engine on a thousand images: repeatable, masked, and the arithmetic of Keras."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from smallcnn import data, training
from smallcnn.architecture import (
    Activation,
    Architecture,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Dense,
    Flatten,
    GlobalAveragePooling,
    MaxPooling,
    Weights,
    convolution_kernels,
    initial_weights,
    is_trainable,
)
from smallcnn.config import TrainingRun
from smallcnn.engines.start import create_engine
from smallcnn.models import build_model, load_weights
from smallcnn.paths import ROOT
from smallcnn.pruning import pruned_fractions
from smallcnn.runs import workers
from smallcnn.runs.records import find_run, get_runs
from smallcnn.training import data_order, train
from tests.conftest import SMALL_CONFIG, assert_same_arrays
from tests.engines.plain import scores
from tests.networks import chain

if TYPE_CHECKING:
    from smallcnn.engines.tensorflow import TensorFlowEngine

CONFIG = SMALL_CONFIG
TEST_EXAMPLES = 1000
LOAD_MNIST = data.load_mnist

# TensorFlow may run on one thread only, from the first operation on; the fixture sees to it.
pytestmark = [pytest.mark.usefixtures("keras"), pytest.mark.slow]


def quietly(_: str) -> None:
    pass


def load_small_mnist() -> tuple[data.Dataset, data.Dataset]:
    train_set, test_set = data.load_mnist()
    return train_set, data.Dataset(test_set.images[:TEST_EXAMPLES], test_set.labels[:TEST_EXAMPLES])


@pytest.fixture(scope="module")
def mnist() -> tuple[data.Dataset, data.Dataset]:
    """The training set, and the first thousand images of the test set."""
    return load_small_mnist()


@pytest.fixture(scope="module")
def train_set(mnist: tuple[data.Dataset, data.Dataset]) -> data.Dataset:
    """The thousand training images of `CONFIG`."""
    return data.stratified_subset(mnist[0], CONFIG.train_examples)


@pytest.fixture(scope="module")
def small_test_set(mnist: tuple[data.Dataset, data.Dataset]) -> Iterator[None]:
    """Makes `train` measure a thousand test images, since the others would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_mnist", lambda: mnist)
        yield


@pytest.fixture(scope="module")
def run(keras: ModuleType, small_test_set: None) -> TrainingRun:
    """A run of `CONFIG`."""
    return train(CONFIG, report=quietly)


@pytest.fixture(scope="module")
def shared_engine(keras: ModuleType, train_set: data.Dataset) -> tuple[TensorFlowEngine, Weights]:
    """An engine of `CONFIG` that several tests use, since TensorFlow takes seconds to prepare one; its first state."""
    engine = create_engine(CONFIG, train_set, initial_weights(CONFIG.architecture, CONFIG.seed), {})
    return engine, engine.get_state()


@pytest.fixture
def engine(shared_engine: tuple[TensorFlowEngine, Weights]) -> TensorFlowEngine:
    """The engine as a new one is."""
    engine, state = shared_engine
    engine.set_state(state)
    return engine


@pytest.fixture(scope="module")
def pruned_runs(run: TrainingRun) -> list[TrainingRun]:
    """The two rounds of pruning that follow `run`."""
    rounds = [run]
    for config in CONFIG.rounds(pruned_fractions("article", 0.2, 2))[1:]:
        rounds.append(train(config, rounds[-1], quietly))
    return rounds[1:]


def test_the_same_configuration_gives_the_same_bits(run: TrainingRun, assert_same_run: Callable[..., None]) -> None:
    assert_same_run(train(CONFIG, report=quietly), run, measured_once=False)


def test_another_seed_gives_another_run(run: TrainingRun) -> None:
    other = train(dataclasses.replace(CONFIG, seed=1, epochs=1), report=quietly)
    assert other.history["train_loss"][1] != run.history["train_loss"][1]


def test_training_learns(run: TrainingRun) -> None:
    losses = run.history["train_loss"]
    assert losses[2] < losses[1] < np.log(10) + 0.5
    assert run.history["train_accuracy"][2] > 0.4


def test_recorded_weights_give_the_recorded_predictions_in_a_new_keras_model(
    run: TrainingRun, mnist: tuple[data.Dataset, data.Dataset]
) -> None:
    model = build_model(CONFIG.architecture)
    load_weights(model, run.weights)
    probabilities = model(data.scale(mnist[1].images), training=False).numpy()
    assert np.array_equal(probabilities.argmax(axis=1), run.predicted_classes)
    wrong = np.flatnonzero(run.predicted_classes != mnist[1].labels)
    assert wrong.tolist() == run.misclassified[run.best_epoch - 1]
    assert run.history["test_correct"][run.best_epoch] == TEST_EXAMPLES - len(wrong)


def test_each_round_keeps_exactly_its_weights(pruned_runs: list[TrainingRun]) -> None:
    kernels = [convolution_kernels(run.weights) for run in pruned_runs]
    assert [sum(np.count_nonzero(kernel) for kernel in one.values()) for one in kernels] == [4176, 2309]
    for name in kernels[0]:
        assert not ((kernels[0][name] == 0) & (kernels[1][name] != 0)).any()


def test_the_smallest_trained_weights_are_those_that_go(run: TrainingRun, pruned_runs: list[TrainingRun]) -> None:
    trained = convolution_kernels(run.weights)
    kept = np.concatenate([np.abs(kernel)[pruned_runs[0].weights[name] != 0] for name, kernel in trained.items()])
    gone = np.concatenate([np.abs(kernel)[pruned_runs[0].weights[name] == 0] for name, kernel in trained.items()])
    assert (len(kept), len(gone)) == (4176, 1044)
    assert gone.max() <= kept.min()


def test_survivors_start_at_their_initial_values(
    run: TrainingRun, pruned_runs: list[TrainingRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Weights] = []

    def start_and_stop(*arguments: Any) -> None:
        started.append(create_engine(*arguments).get_weights())
        raise InterruptedError

    monkeypatch.setattr(training, "create_engine", start_and_stop)
    with pytest.raises(InterruptedError):
        train(pruned_runs[0].config, run, quietly)
    survivors = {name: kernel != 0 for name, kernel in convolution_kernels(pruned_runs[0].weights).items()}
    for name, initial in initial_weights(CONFIG.architecture, CONFIG.seed).items():
        assert np.array_equal(started[0][name], initial * survivors.get(name, 1)), name


# `gradual_epochs` epochs of 8 steps, or of 125, of which the schedule uses every hundredth.
@pytest.mark.parametrize(("batch_size", "gradual_epochs"), [(125, 2), (8, 1)])
def test_a_gradual_schedule_leaves_each_kernel_its_share(
    batch_size: int, gradual_epochs: int, small_test_set: None
) -> None:
    config = dataclasses.replace(
        CONFIG, batch_size=batch_size, epochs=gradual_epochs, gradual_sparsity=0.5577, gradual_epochs=gradual_epochs
    )
    run = train(config, report=quietly)
    assert run.best_epoch == gradual_epochs
    kernels = convolution_kernels(run.weights)
    # 44.23 % of 36, 288, 1152, 2304 and 1440 weights
    assert [np.count_nonzero(kernel) for kernel in kernels.values()] == [16, 127, 510, 1019, 637]


def test_an_epoch_is_one_of_keras_on_the_same_batches(keras: ModuleType, train_set: data.Dataset) -> None:
    architecture = chain((4, 8, 10), (2,))
    config = dataclasses.replace(CONFIG, architecture=architecture)
    weights = initial_weights(architecture, seed=0)
    order = data_order(config, 1)
    engine = create_engine(config, train_set, weights, {})
    loss, accuracy = engine.train_epoch(order, 0.005)

    model = build_model(architecture)
    load_weights(model, weights)
    model.compile(keras.optimizers.Adam(0.005), "categorical_crossentropy", ["accuracy"])
    images, targets = data.scale(train_set.images)[order.ravel()], data.one_hot(train_set.labels)[order.ravel()]
    history = model.fit(images, targets, config.batch_size, shuffle=False, verbose=0).history
    assert loss == pytest.approx(history["loss"][0], rel=1e-4)
    assert accuracy == pytest.approx(history["accuracy"][0], abs=2e-3)
    test_images = train_set.images[:200]
    expected = model(data.scale(test_images), training=False).numpy()
    np.testing.assert_allclose(engine.predict(test_images), expected, atol=1e-3)


# Between them, every layer of the vocabulary that the published networks do not have.
OTHER_NETWORKS = {
    "convolutions of other kinds": Architecture(
        (
            Convolution(4, 5, "same", use_bias=False),
            Activation("leaky_relu", 0.2),
            BatchNormalisation(use_scale=False, momentum=0.7),
            AveragePooling(2),
            Convolution(6, 1),
            Activation("relu"),
            MaxPooling(3),
            Convolution(5, 2, "same"),
            BatchNormalisation(epsilon=0.05),
            GlobalAveragePooling(),
            Dense(8),
            Activation("leaky_relu", 0.05),
            Dense(10, use_bias=False),
            Activation("softmax"),
        )
    ),
    "no convolution": Architecture(
        (
            Flatten(),
            Dense(16, use_bias=False),
            BatchNormalisation(momentum=0.9),
            Activation("relu"),
            Dense(12),
            Activation("relu"),
            Dense(10),
            Activation("softmax"),
        )
    ),
}


@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_networks_of_the_whole_vocabulary_learn_by_gradients_that_are_right(name: str, train_set: data.Dataset) -> None:
    """Gradients are compared with differences of the loss in float64, which `plain` computes; dropout is left out."""
    architecture, generator = OTHER_NETWORKS[name], np.random.default_rng(0)
    weights = initial_weights(architecture, seed=0)
    for key, array in weights.items():  # at zeros and ones half of the mistakes would not show
        if is_trainable(key) and array.ndim == 1:
            array += generator.normal(0, 0.2, array.shape).astype(np.float32)
    config = dataclasses.replace(CONFIG, architecture=architecture, batch_size=50)
    engine = create_engine(config, train_set, weights, {})
    batches = np.concatenate([data_order(config, epoch) for epoch in range(1, 4)])
    images, labels = train_set.images[batches[0]] / 255.0, train_set.labels[batches[0]]
    exact = {key: array.astype(np.float64) for key, array in weights.items()}

    def exact_loss(changed: Weights, moments: Weights) -> float:
        found = scores(architecture.to_json(), changed, images, moments)
        return float((np.log(np.exp(found).sum(axis=1)) - found[np.arange(len(labels)), labels]).mean())

    loss, _ = engine.train_epoch(batches[:1], 0.0)
    moments: Weights = {}
    assert loss == pytest.approx(exact_loss(exact, moments), rel=1e-5)
    for key, gradient in first_gradients(engine).items():
        for direction in generator.normal(size=(3, *gradient.shape)):
            ahead, behind = (exact_loss({**exact, key: exact[key] + step * direction}, {}) for step in (1e-6, -1e-6))
            rounding = 1e-3 * float(np.linalg.norm(gradient)) + 1e-6  # a bias before a normalisation changes nothing
            assert float((gradient * direction).sum()) == pytest.approx((ahead - behind) / 2e-6, abs=rounding), key

    moved = engine.get_weights()
    for placed in architecture.placed:
        for key in placed.weights.keys() & moments.keys():
            kept = placed.layer.momentum
            count = len(images) * math.prod(placed.input_shape[:-1])
            # Of maps Keras keeps the unbiased variance, of rows of numbers the other one.
            unbiased = key.endswith("variance") and len(placed.input_shape) == 3
            expected = kept * weights[key] + (1 - kept) * moments[key] * (count / (count - 1) if unbiased else 1)
            np.testing.assert_allclose(moved[key], expected, rtol=1e-4, atol=1e-6, err_msg=key)

    losses = [engine.train_epoch(batch[None], 0.01)[0] for batch in batches]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:3])
    powers = np.exp(scores(architecture.to_json(), engine.get_weights(), images))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(engine.predict(train_set.images[batches[0]]), expected, atol=1e-5)


def first_gradients(engine: TensorFlowEngine) -> Weights:
    """The gradients of an engine's first step, by name: a first moment of Adam is a tenth of its gradient then."""
    names = filter(is_trainable, engine.get_weights())
    return {name: moment.numpy() / 0.1 for name, moment in zip(names, engine._optimizer._momentums, strict=True)}


def test_without_a_learning_rate_nothing_is_learnt_but_the_moving_statistics(engine: TensorFlowEngine) -> None:
    weights = engine.get_weights()
    engine.train_epoch(data_order(CONFIG, 1), 0.0)
    for name, array in engine.get_weights().items():
        assert np.array_equal(array, weights[name]) == ("/moving_" not in name), name


def test_predictions_are_probabilities_whatever_the_number_of_images(
    engine: TensorFlowEngine, train_set: data.Dataset
) -> None:
    images = np.concatenate([train_set.images, train_set.images])
    probabilities = engine.predict(images[:1700])
    assert (probabilities.shape, probabilities.dtype) == ((1700, 10), np.dtype(np.float32))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(engine.predict(images[:3]), probabilities[:3], rtol=1e-4)


def test_weights_taken_from_an_engine_do_not_change_with_it(engine: TensorFlowEngine) -> None:
    before = engine.get_weights()
    assert_same_arrays(before, initial_weights(CONFIG.architecture, CONFIG.seed))
    copies = {name: array.copy() for name, array in before.items()}
    engine.train_epoch(data_order(CONFIG, 1), 0.01)
    assert_same_arrays(before, copies)
    assert not np.array_equal(engine.get_weights()["block_1/kernel"], before["block_1/kernel"])


def test_an_engine_refuses_a_process_with_several_threads(
    train_set: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    def too_late(_: int) -> None:
        raise RuntimeError("Intra op parallelism cannot be modified after initialization.")

    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 0)
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", too_late)
    with pytest.raises(RuntimeError, match="process of its own"):
        create_engine(CONFIG, train_set, initial_weights(CONFIG.architecture, seed=0), {})


def test_workers_give_the_bits_of_this_process(
    runs_folder: Path, monkeypatch: pytest.MonkeyPatch, assert_same_run: Callable[..., None]
) -> None:
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.setattr(workers, "count_workers", lambda configs: 1)  # so that the others of a busy machine go on
    monkeypatch.setattr(data, "load_mnist", LOAD_MNIST)  # a worker measures the whole test set
    unpruned, pruned = dataclasses.replace(CONFIG, architecture=chain((3, 10), (1,)), epochs=1).rounds([0.2])
    lines: list[str] = []
    child, parent = get_runs([pruned, unpruned], lines.append)
    expected_parent = train(unpruned, report=quietly)
    assert_same_run(parent, expected_parent, measured_once=False)
    assert_same_run(child, train(pruned, expected_parent, quietly), measured_once=False)
    assert_same_run(find_run(pruned), child)
    assert_same_run(find_run(unpruned), parent)
    assert any("epoch 1 of at most 1" in line for line in lines)


def test_tensorflow_remarks_nothing_and_errors_are_still_seen() -> None:
    code = "import sys, smallcnn.engines.tensorflow as engine; engine.tf.constant(1); print('seen', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "seen\n"


HOSTILE = {
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "DNNL_DEFAULT_FPMATH_MODE": "ANY",
    "TF_NUM_INTRAOP_THREADS": "2",
    "KERAS_BACKEND": "jax",
}
STEPS = """\
import hashlib, json, os
from smallcnn.models import import_keras
keras = import_keras()
from smallcnn.engines.start import create_engine
from smallcnn.architecture import initial_weights
from smallcnn.data import Dataset
from tests.conftest import SMALL_CONFIG
import numpy as np
images = np.random.default_rng(0).integers(0, 256, (1000, 28, 28), np.uint8)
dataset = Dataset(images, (np.arange(1000) % 10).astype(np.uint8))
engine = create_engine(SMALL_CONFIG, dataset, initial_weights(SMALL_CONFIG.architecture, 0), {})
engine.train_epoch(np.arange(1000).reshape(8, 125), 0.01)
hashed = hashlib.sha256(b"".join(array.tobytes() for array in engine.get_weights().values())).hexdigest()
layer = keras.layers.Conv2D(2, 3)
print(json.dumps([hashed, layer.data_format, layer.dtype, os.environ["TF_ENABLE_ONEDNN_OPTS"]]))
"""


def test_no_setting_for_tensorflow_or_keras_changes_what_is_trained(tmp_path: Path) -> None:
    settings = tmp_path / ".keras" / "keras.json"
    settings.parent.mkdir()
    settings.write_text(
        '{"image_data_format": "channels_first", "floatx": "float64", "epsilon": 0.1, "backend": "jax"}'
    )

    def train_under(**variables: str) -> list[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        done = subprocess.run([sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    plain = train_under()
    assert plain[1:] == ["channels_last", "float32", "1"]
    assert train_under(**HOSTILE, HOME=str(tmp_path)) == plain


def test_tensorflow_that_somebody_imported_under_other_settings_trains_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    train_set, _ = load_small_mnist()
    with pytest.raises(RuntimeError, match="imported with ONEDNN_DEFAULT_FPMATH_MODE set"):
        create_engine(CONFIG, train_set, initial_weights(CONFIG.architecture, 0), {})
