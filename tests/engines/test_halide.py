"""The Halide engine against Keras in float64, on real digits and weights far from their initial values.

At initial values half of the mistakes do not show: γ is one, β and biases are zero. In float32 a value that is a
rounding error away from a tie or from zero may go the other way, before a pooling above all, so that a gradient there
may differ by a thousandth; TensorFlow's own float32 gradients differ from float64 by more.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from smallcnn import data
from smallcnn.architecture import (
    CLASSES,
    Architecture,
    BatchNormalisation,
    Convolution,
    Dropout,
    Weights,
    convolution_kernels,
    initial_weights,
    is_trainable,
)
from smallcnn.engines.base import Unsupported
from smallcnn.engines.halide.blocks import describe_network
from smallcnn.models import build_model, load_weights, model_variables
from smallcnn.paths import ROOT
from smallcnn.training import data_order
from tests.conftest import SMALL_CONFIG, assert_same_arrays
from tests.networks import PUBLISHED, architectures, chain

pytest.importorskip("halide", reason="the package halide is not installed")

from smallcnn.engines.halide import engine as engine_module
from smallcnn.engines.halide.arrays import flatten
from smallcnn.engines.halide.engine import HalideEngine
from smallcnn.engines.halide.output import hash_number
from smallcnn.engines.halide.target import count_registers
from smallcnn.provenance import instruction_set

slow = pytest.mark.slow  # compiling an engine takes a second or two
CONFIG = dataclasses.replace(SMALL_CONFIG, seed=3, epochs=1)
LEARNING_RATE = 0.003

# The published networks, and others that reach what those do not: odd maps before a pooling, several poolings, a
# pooling at the end, dropout after a pooling, filters that fill no tile, a single filter, batches of any size.
NETWORKS = {
    "approach_1": (PUBLISHED["approach_1"], 45),
    "approach_2": (PUBLISHED["approach_2"], 125),
    "approach_3": (PUBLISHED["approach_3"], 70),
    "odd maps": (chain((5, 7, 3), (1, 2), 0.3, (1, 2, 3), "dense"), 37),
    "pooled to one pixel": (chain((3, 1, 10), (1, 2, 3), 0.2, (3,), "pooled"), 16),
    "wide": (chain((17, 10), (2,), 0.5, (1,), "pooled"), 3),
    "one block": (chain((11,), (), 0.0, (), "dense"), 50),
}


@lru_cache(maxsize=1)
def load_train_set() -> data.Dataset:
    return data.stratified_subset(data.load_mnist()[0], CONFIG.train_examples)


@pytest.fixture(scope="module")
def train_set() -> data.Dataset:
    return load_train_set()


def random_weights(architecture: Architecture, seed: int = 1) -> Weights:
    """Weights with scales of both signs and everything else away from zero and one."""
    generator = np.random.default_rng(seed)
    weights = initial_weights(architecture, seed)
    for name, array in weights.items():
        if name.endswith("gamma"):
            array[:] = generator.uniform(0.5, 1.5, array.shape) * generator.choice([-1, 1], array.shape)
        elif name.endswith("moving_variance"):
            array[:] = generator.uniform(0.2, 2, array.shape)
        elif not name.endswith("kernel"):
            array[:] = generator.normal(0, 0.2, array.shape)
    return weights


def create_engine(
    architecture: Architecture,
    batch_size: int,
    weights: Weights,
    masks: Weights | None = None,
    train_set: data.Dataset | None = None,
) -> HalideEngine:
    config = dataclasses.replace(CONFIG, architecture=architecture, batch_size=batch_size)
    return HalideEngine(config, train_set or load_train_set(), weights, masks or {})


class Compiled:
    """An engine that several tests share, since compiling it takes longer than its steps.

    Attributes:
        weights: what it starts from: `random_weights`, a third of the kernels' weights masked.
        masks: of those.
    """

    def __init__(self, architecture: Architecture, batch_size: int, train_set: data.Dataset | None = None) -> None:
        self.weights = random_weights(architecture)
        self.masks = random_masks(self.weights)
        self._engine = create_engine(architecture, batch_size, self.weights, self.masks, train_set)

    def start(self, weights: Weights | None = None) -> HalideEngine:
        """The engine as a new one is, at `weights` or at its own."""
        weights = weights or self.weights
        trained, _ = flatten({name: array for name, array in weights.items() if is_trainable(name)})
        moving, _ = flatten({name: array for name, array in weights.items() if not is_trainable(name)})
        zero = np.zeros_like(trained)
        state = {"weights": trained, "moving": moving, "first_moment": zero, "second_moment": zero}
        self._engine.set_state(state | {"steps": np.array(0)})
        return self._engine


@lru_cache(maxsize=len(NETWORKS))
def compiled(name: str) -> Compiled:
    """The engine of one of `NETWORKS`."""
    return Compiled(*NETWORKS[name])


class Reference:
    """The network in Keras with float64; dropout uses the masks that the engine uses at the same step."""

    def __init__(
        self, keras: ModuleType, architecture: Architecture, weights: Weights, masks: Weights | None = None
    ) -> None:
        self._masks, self._steps, self._start = masks or {}, 0, weights
        self._architecture, self._numbers = architecture, dropout_numbers(architecture)
        self.smallest_gradient: Weights = {}  # over all steps, by name
        self._layers = []
        self.variables: dict[str, Any] = {}
        names = iter([layer.weights for layer in architecture.placed if layer.weights])
        for layer in build_model(architecture).layers:
            exact = type(layer).from_config(layer.get_config() | {"dtype": "float64"})
            exact.build(layer.input_shape)
            self._layers.append(exact)
            if exact.weights:
                self.variables |= zip(next(names), exact.weights, strict=True)
        for name, variable in self.variables.items():
            variable.assign(weights[name])
        self._optimizer = keras.optimizers.Adam(LEARNING_RATE, jit_compile=False)

    def gradient(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and gradients by name; moves the moving statistics, with the biased variance."""
        import tensorflow as tf

        self._steps += 1
        self._images = len(images)
        with tf.GradientTape() as tape:
            values = tf.constant(images[..., None] / 255.0)
            *layers, last = self._layers
            for layer in layers:
                if layer.name in self._numbers:
                    number = self._numbers[layer.name]
                    values = values * dropout_mask(layer.rate, self._steps, number, tuple(values.shape))
                else:
                    values = layer(values, training=True)
            scores = values
            if last.weights:  # a dense layer, softmax included
                scores = values @ last.kernel + (last.bias if last.use_bias else 0.0)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels.astype(int), scores))
        names = list(filter(is_trainable, self.variables))
        gradients = tape.gradient(loss, [self.variables[name] for name in names])
        return float(loss), {name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)}

    def weights(self) -> Weights:
        """The weights so far; moving variances are made unbiased, as Keras keeps them in float32 alone."""
        weights = {name: variable.numpy() for name, variable in self.variables.items()}
        for placed in self._architecture.placed:
            if isinstance(placed.layer, BatchNormalisation) and len(placed.input_shape) == 3:
                name, count = list(placed.weights)[-1], self._images * placed.input_shape[0] ** 2
                start = self._start[name] * placed.layer.momentum**self._steps
                weights[name] = start + count / max(count - 1, 1) * (weights[name] - start)
        return weights

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        loss, gradients = self.gradient(images, labels)
        for name, gradient in gradients.items():
            smallest = self.smallest_gradient.get(name, np.inf)
            self.smallest_gradient[name] = np.minimum(smallest, np.abs(gradient))
        pairs = [(gradient, self.variables[name]) for name, gradient in gradients.items()]
        self._optimizer.apply_gradients(pairs)
        for name, mask in self._masks.items():
            self.variables[name].assign(self.variables[name] * mask)
        return loss


def dropout_numbers(architecture: Architecture) -> dict[str, int]:
    """What the engine tells a dropout from others by: its block, or its place in the chain; by the name in Keras."""
    blocks, numbers = 0, {}
    for place, placed in enumerate(architecture.placed, start=1):
        blocks += isinstance(placed.layer, Convolution)
        if isinstance(placed.layer, Dropout):
            numbers[placed.name.replace("/", "_")] = blocks if describe_network(architecture) else place
    return numbers


def dropout_mask(rate: float, step: int, number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Zero, or 1/(1 - rate), for each value of (images, rows, columns, channels): the formula of the engine."""
    images, rows, columns, channels = shape if len(shape) == 4 else (shape[0], 1, 1, shape[1])
    packs = -(-images // 16)
    numbers = np.arange(packs * channels * rows * columns * 16, dtype=np.uint32)
    numbers = numbers.reshape(packs, channels, rows, columns, 16).transpose(0, 4, 2, 3, 1)
    seed_key = np.random.SeedSequence(CONFIG.seed).generate_state(1)
    key = hash_number(np.uint32([number]), seed_key, np.uint32(step))
    kept = hash_number(numbers, key, np.uint32(0)) >= np.uint32(round(rate * 2**32))
    return kept.reshape(-1, rows, columns, channels)[:images].reshape(shape) / (1 - rate)


def batches(batch_size: int, count: int) -> np.ndarray:
    return data_order(dataclasses.replace(CONFIG, batch_size=batch_size), 1)[:count]


@st.composite
def random_networks(draw: st.DrawFn) -> tuple[Architecture, int]:
    """An architecture of one to three blocks and a batch size, of any that fit."""
    blocks = draw(st.integers(1, 3))
    head = draw(st.sampled_from(["dense", "pooled"]))
    filters = draw(st.lists(st.integers(1, 20), min_size=blocks, max_size=blocks))
    if head == "pooled":
        filters[-1] = CLASSES
    numbers = range(1, blocks + 1)
    pool_after = draw(st.sets(st.sampled_from(numbers)))
    dropout_after = draw(st.sets(st.sampled_from(numbers)))
    dropout = draw(st.floats(0.05, 0.5)) if dropout_after else 0.0
    return chain(filters, pool_after, dropout, dropout_after, head), draw(st.integers(2, 50))


@slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_published_networks_and_those_of_odd_sizes_are_those_of_keras(
    keras: ModuleType, name: str, train_set: data.Dataset
) -> None:
    check_gradients(keras, *NETWORKS[name], compiled(name), train_set)


@slow
@settings(max_examples=30, deadline=None, derandomize=True, phases=[Phase.generate])
@given(architecture=architectures(), batch_size=st.integers(2, 50))
def test_any_chain_of_layers_is_that_of_keras(
    keras: ModuleType, architecture: Architecture, batch_size: int, train_set: data.Dataset
) -> None:
    shared = Compiled(architecture, batch_size)
    # What is added just before a normalisation has no gradient, and changes what moving statistics it has at random.
    check_gradients(keras, architecture, batch_size, shared, train_set, nothing=1e-2)
    check_five_steps(keras, architecture, batch_size, shared, train_set, are_statistics_certain=False)


@slow
@pytest.mark.parametrize("way", ["fused", "layer by layer"])
@pytest.mark.parametrize("case", ["one class, equal images", "blank images", "one image", "dead channels"])
def test_what_random_digits_leave_out_is_that_of_keras(
    keras: ModuleType, case: str, way: str, train_set: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = train_set.images.copy(), train_set.labels.copy()
    batch_size = 1 if case == "one image" else 20
    if case == "one class, equal images":
        images[:], labels[:] = images[0], 7
    elif case == "blank images":
        images[:], images[::3, 10:20] = 0, 255  # equal pixels, windows of zeros, ties
    architecture = chain((4, 6, 10), (1, 2), 0.2, (2,), "dense")
    if way == "layer by layer":
        monkeypatch.setattr(engine_module, "describe_network", lambda architecture: None)
        monkeypatch.setattr(sys.modules[__name__], "describe_network", lambda architecture: None)
    unusual = data.Dataset(images, labels)
    shared = Compiled(architecture, batch_size, unusual)
    if case == "dead channels":
        shared.weights["block_1/bias"][1:3] = shared.weights["block_2/bias"][0] = -50
    check_gradients(keras, architecture, batch_size, shared, unusual)


@slow
@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(network=random_networks())
def test_random_networks_are_those_of_keras(
    keras: ModuleType, network: tuple[Architecture, int], train_set: data.Dataset
) -> None:
    shared = Compiled(*network)
    check_gradients(keras, *network, shared, train_set)
    check_five_steps(keras, *network, shared, train_set)


def momentum(architecture: Architecture, name: str) -> float:
    """That of the normalisation with this weight."""
    return next(placed.layer.momentum for placed in architecture.placed if name in placed.weights)


def check_gradients(
    keras: ModuleType,
    architecture: Architecture,
    batch_size: int,
    shared: Compiled,
    train_set: data.Dataset,
    nothing: float = 1e-4,
) -> None:
    """Loss, all gradients and the statistics of three batches; `nothing` is a share of the whole gradient."""
    engine = shared.start()
    reference = Reference(keras, architecture, shared.weights)
    farthest = []
    for batch in batches(batch_size, 3):
        loss, _ = engine._compute_gradient(batch)
        engine._change_weights(0.0)
        expected_loss, expected = reference.gradient(train_set.images[batch], train_set.labels[batch])
        assert loss / batch_size == pytest.approx(expected_loss, rel=1e-5)
        whole = 1e-30 + np.sqrt(sum(np.sum(gradient**2) for gradient in expected.values()))
        farthest.append(
            max(
                np.linalg.norm(engine._gradient[name] - gradient) / max(np.linalg.norm(gradient), nothing * whole)
                for name, gradient in expected.items()
            )
        )
    # A mistake shows in every batch; a value that goes the other way, in some.
    assert min(farthest) < 3e-4
    assert max(farthest) < 0.2
    moved, expected_weights = engine.get_weights(), reference.weights()
    for name in filter(lambda name: not is_trainable(name), moved):
        start = shared.weights[name] * momentum(architecture, name) ** 3
        np.testing.assert_allclose(
            moved[name] - start, expected_weights[name] - start, rtol=1e-3, atol=1e-6, err_msg=name
        )


@slow
def test_a_processor_without_avx2_and_fused_multiply_adds_trains_too(
    keras: ModuleType, train_set: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HL_JIT_TARGET", "x86-64-linux-sse41")
    assert instruction_set() == "x86-64-linux-sse41"
    assert count_registers() == (16, 4)
    network = NETWORKS["odd maps"]
    check_gradients(keras, *network, Compiled(*network), train_set)


@slow
def test_the_moving_variance_is_the_unbiased_one_as_in_keras_float32(
    keras: ModuleType, train_set: data.Dataset
) -> None:
    (architecture, batch_size), shared = NETWORKS["pooled to one pixel"], compiled("pooled to one pixel")
    engine = shared.start()
    model = build_model(architecture)
    load_weights(model, shared.weights)
    (batch,) = batches(batch_size, 1)
    engine.train_epoch(batch[None], 0.0)
    block_1 = [layer for layer in model.layers if layer.name.startswith("block_1_")][:2]
    values = data.scale(train_set.images[batch])
    for layer in block_1:
        values = layer(values, training=True)
    expected = model_variables(model)["block_1/moving_variance"].numpy()
    np.testing.assert_allclose(engine.get_weights()["block_1/moving_variance"], expected, rtol=1e-6)


@slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_five_steps_are_those_of_keras_and_masks_hold(keras: ModuleType, name: str, train_set: data.Dataset) -> None:
    check_five_steps(keras, *NETWORKS[name], compiled(name), train_set)


def check_five_steps(
    keras: ModuleType,
    architecture: Architecture,
    batch_size: int,
    shared: Compiled,
    train_set: data.Dataset,
    are_statistics_certain: bool = True,
) -> None:
    """Losses, and where the weights are after five steps of Adam with a third of the kernels' weights masked."""
    engine = shared.start()
    reference = Reference(keras, architecture, shared.weights, shared.masks)
    for batch in batches(batch_size, 5):
        loss, _ = engine.train_epoch(batch[None], LEARNING_RATE)
        expected_loss = reference.step(train_set.images[batch], train_set.labels[batch])
        assert loss == pytest.approx(expected_loss, rel=1e-3)
    trained, expected = engine.get_weights(), reference.weights()
    for name, mask in shared.masks.items():
        assert np.array_equal(trained[name] != 0, mask != 0), name
    for name, array in trained.items():
        # Adam makes a step of the learning rate of any gradient, of one that is nothing but rounding too.
        certain = reference.smallest_gradient.get(name, np.full(array.shape, are_statistics_certain)) > 1e-4
        assert np.abs(array - expected[name])[certain].sum() < 0.05 * LEARNING_RATE * array.size, name


def random_masks(weights: Weights) -> Weights:
    """Masks a third of each convolution's kernel, and the weights with it."""
    generator, masks = np.random.default_rng(2), {}
    for name, kernel in convolution_kernels(weights).items():
        masks[name] = (generator.random(kernel.shape) > 1 / 3).astype(np.float32)
        kernel *= masks[name]
    return masks


@slow
def test_adam_is_that_of_keras(keras: ModuleType) -> None:
    engine = compiled("one block").start()
    name = "dense/kernel"
    variable = keras.backend.variable(engine.get_weights()[name], dtype="float64")
    optimizer, generator = keras.optimizers.Adam(0.01, jit_compile=False), np.random.default_rng(0)
    for step in range(1, 6):
        gradient = generator.normal(size=variable.shape) * 10.0 ** generator.uniform(-8, 1, variable.shape)
        engine._gradient[name][:] = gradient
        engine._steps = step
        engine._change_weights(0.01)
        optimizer.apply_gradients([(gradient, variable)])
    np.testing.assert_allclose(engine.get_weights()[name], variable.numpy(), rtol=1e-5, atol=1e-6)


@slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_inference_is_that_of_keras_on_all_test_images(keras: ModuleType, name: str) -> None:
    engine = compiled(name).start()
    images = data.load_mnist()[1].images
    model = build_model(NETWORKS[name][0])
    load_weights(model, compiled(name).weights)
    expected = model.predict(data.scale(images), batch_size=500, verbose=0)
    probabilities = engine.predict(images)
    assert (probabilities.shape, probabilities.dtype) == ((len(images), CLASSES), np.dtype(np.float32))
    np.testing.assert_array_equal(probabilities.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(engine.predict(images[:3]), probabilities[:3])


@slow
def test_the_same_configuration_gives_the_same_bits(train_set: data.Dataset) -> None:
    architecture, batch_size = NETWORKS["odd maps"]
    shared, order = compiled("odd maps"), batches(batch_size, 4)

    def train(engine: HalideEngine, predict_between: bool) -> tuple[Weights, tuple[float, float]]:
        engine.train_epoch(order[:2], LEARNING_RATE)
        if predict_between:
            engine.predict(train_set.images[:200])
        averages = engine.train_epoch(order[2:], LEARNING_RATE)
        return engine.get_weights(), averages

    used, new = shared.start(), create_engine(architecture, batch_size, shared.weights, shared.masks)
    (weights, averages), (other_weights, other_averages) = train(new, False), train(used, True)
    assert_same_arrays(weights, other_weights)
    assert averages == other_averages


@slow
def test_an_engine_goes_on_from_the_state_of_another() -> None:
    architecture, batch_size = NETWORKS["pooled to one pixel"]
    shared, order = compiled("pooled to one pixel"), batches(batch_size, 6)
    whole = shared.start()
    whole.train_epoch(order[:3], LEARNING_RATE)
    averages = whole.train_epoch(order[3:], LEARNING_RATE)
    expected = whole.get_weights()
    before = shared.start()
    before.train_epoch(order[:3], LEARNING_RATE)
    after = create_engine(architecture, batch_size, initial_weights(architecture, 0), shared.masks)
    after.set_state(before.get_state())
    assert after.train_epoch(order[3:], LEARNING_RATE) == averages
    assert_same_arrays(after.get_weights(), expected)


@slow
def test_training_learns() -> None:
    architecture, batch_size = NETWORKS["approach_3"]
    engine = compiled("approach_3").start(initial_weights(architecture, 0))
    epochs = [engine.train_epoch(batches(batch_size, 14), 0.01) for _ in range(5)]
    assert epochs[-1][0] < 0.5 * epochs[0][0]
    assert epochs[-1][1] > 0.7


@slow
def test_without_a_learning_rate_nothing_is_learnt_but_the_moving_statistics() -> None:
    shared = compiled("odd maps")
    engine = shared.start()
    before = engine.get_weights()
    engine.train_epoch(batches(NETWORKS["odd maps"][1], 2), 0.0)
    assert_same_arrays(before, shared.weights)
    for name, array in engine.get_weights().items():
        assert np.array_equal(array, shared.weights[name]) == ("/moving_" not in name), name


def test_dropout_drops_its_share_anew_in_every_step_and_block() -> None:
    shape = (32, 10, 10, 16)
    masks = [dropout_mask(0.1, step, block, shape) == 0 for step, block in ((1, 3), (2, 3), (1, 4))]
    for mask in masks:
        assert mask.mean() == pytest.approx(0.1, abs=0.005)
        for axis in range(4):  # neighbours are dropped together by chance only
            both = np.take(mask, range(shape[axis] - 1), axis) & np.take(mask, range(1, shape[axis]), axis)
            assert both.mean() == pytest.approx(0.01, abs=0.003)
    assert (masks[0] & masks[1]).mean() == pytest.approx(0.01, abs=0.003)
    assert (masks[0] & masks[2]).mean() == pytest.approx(0.01, abs=0.003)


def test_a_gradual_schedule_is_refused(train_set: data.Dataset) -> None:
    config = dataclasses.replace(CONFIG, gradual_sparsity=0.5, gradual_epochs=1)
    with pytest.raises(Unsupported, match="gradual_sparsity is 0.5"):
        HalideEngine(config, train_set, initial_weights(CONFIG.architecture, 0), {})


def test_the_engine_does_not_import_tensorflow() -> None:
    code = "import sys, smallcnn.engines.halide.engine; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@slow
def test_a_training_process_never_imports_tensorflow(runs_folder: Path) -> None:
    program = (
        "import sys; from smallcnn.runs.records import get_runs; from tests.engines.test_halide import *; "
        "get_runs([dataclasses.replace(CONFIG, engine='halide', architecture=NETWORKS['one block'][0])]); "
        "assert not {'tensorflow', 'tf_keras', 'keras'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@slow
def test_two_threads_give_the_bits_of_one() -> None:
    code = """
from tests.engines.test_halide import *
for architecture, batch_size in ((chain((3, 10), (1,), 0.3, (1,)), 45), (chain((5, 3), (2,), 0.3, (1,), "dense"), 37)):
    engine = create_engine(architecture, batch_size, initial_weights(architecture, 0))
    engine.train_epoch(batches(batch_size, 5), LEARNING_RATE)
    print([array.tobytes() for array in engine.get_weights().values()])
    print(engine.predict(data.load_mnist()[0].images[:300]).tobytes())
"""
    one, two = (
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"HL_NUM_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    )
    assert one
    assert one == two
