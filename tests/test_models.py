"""Counts and shapes of networks, against the published numbers and against Keras; initial weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smallcnn.models import (
    PUBLISHED,
    Architecture,
    build_model,
    convolution_kernels,
    count_multiply_adds,
    count_prunable,
    count_total,
    count_trainable,
    initial_weights,
    layers,
    load_weights,
    model_variables,
    read_weights,
)
from tests.conftest import assert_same_arrays

PUBLISHED_COUNTS = {
    # total, trainable, prunable
    "approach_1": (8060, 7968, 9 * 32 + 9 * 32 * 14),
    "approach_2": (5490, 5382, 5220),
    "approach_3": (3170, 3090, 9 * (2 + 2 * 4 + 4 * 8 + 8 * 16 + 16 * 10)),
}

PUBLISHED_SHAPES = {
    "approach_1": [
        ("block_1/convolution", (26, 26, 32)),
        ("block_1/normalisation", (26, 26, 32)),
        ("block_1/pooling", (13, 13, 32)),
        ("block_2/convolution", (11, 11, 14)),
        ("block_2/normalisation", (11, 11, 14)),
        ("block_2/pooling", (5, 5, 14)),
        ("block_2/dropout", (5, 5, 14)),
        ("flatten", (350,)),
        ("dense", (10,)),
    ],
    "approach_2": [
        ("block_1/convolution", (26, 26, 4)),
        ("block_1/normalisation", (26, 26, 4)),
        ("block_2/convolution", (24, 24, 8)),
        ("block_2/normalisation", (24, 24, 8)),
        ("block_2/pooling", (12, 12, 8)),
        ("block_3/convolution", (10, 10, 16)),
        ("block_3/normalisation", (10, 10, 16)),
        ("block_3/dropout", (10, 10, 16)),
        ("block_4/convolution", (8, 8, 16)),
        ("block_4/normalisation", (8, 8, 16)),
        ("block_4/dropout", (8, 8, 16)),
        ("block_5/convolution", (6, 6, 10)),
        ("block_5/normalisation", (6, 6, 10)),
        ("block_5/dropout", (6, 6, 10)),
        ("pooled", (10,)),
    ],
    "approach_3": [
        ("block_1/convolution", (26, 26, 2)),
        ("block_1/normalisation", (26, 26, 2)),
        ("block_2/convolution", (24, 24, 4)),
        ("block_2/normalisation", (24, 24, 4)),
        ("block_2/pooling", (12, 12, 4)),
        ("block_3/convolution", (10, 10, 8)),
        ("block_3/normalisation", (10, 10, 8)),
        ("block_4/convolution", (8, 8, 16)),
        ("block_4/normalisation", (8, 8, 16)),
        ("block_5/convolution", (6, 6, 10)),
        ("block_5/normalisation", (6, 6, 10)),
        ("pooled", (10,)),
    ],
}

published = pytest.mark.parametrize("name", PUBLISHED_COUNTS)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    head = draw(st.sampled_from(["dense", "pooled"]))
    filters = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    blocks = st.sets(st.integers(1, len(filters)))
    if head == "pooled":
        filters[-1] = 10
    try:
        return Architecture(
            tuple(filters), tuple(draw(blocks)), draw(st.sampled_from([0, 0.2])), tuple(draw(blocks)), head
        )
    except ValueError as error:
        assert "leave no pixels" in str(error)
        assume(False)
        raise


def test_exactly_the_three_published_networks_are_named() -> None:
    assert PUBLISHED.keys() == PUBLISHED_COUNTS.keys()


@published
def test_published_counts_are_those_of_the_article(name: str) -> None:
    architecture = PUBLISHED[name]
    assert (
        count_total(architecture),
        count_trainable(architecture),
        count_prunable(architecture),
    ) == PUBLISHED_COUNTS[name]


@published
def test_published_layers_have_the_expected_names_and_shapes(name: str) -> None:
    assert [(layer.name, layer.output_shape) for layer in layers(PUBLISHED[name])] == PUBLISHED_SHAPES[name]


def test_two_poolings_of_approach_1_leave_350_values_for_the_dense_layer() -> None:
    dense = layers(PUBLISHED["approach_1"])[-1]
    assert dense.parameters == dense.trainable == 350 * 10 + 10


def assert_counts_and_shapes_are_those_of_keras(architecture: Architecture) -> None:
    model = build_model(architecture)
    by_name = {layer.name: layer for layer in model.layers}
    counted = layers(architecture)
    expected_names = [layer.name.replace("/", "_") for layer in counted]
    assert list(by_name) == expected_names + (["softmax"] if architecture.head == "pooled" else [])
    for layer, name in zip(counted, expected_names, strict=True):
        keras_layer = by_name[name]
        assert layer.output_shape == keras_layer.output_shape[1:], name
        assert layer.parameters == keras_layer.count_params(), name
        assert layer.trainable == sum(int(np.prod(weight.shape)) for weight in keras_layer.trainable_weights), name
        kernel = int(np.prod(keras_layer.kernel.shape)) if name.endswith("_convolution") else 0
        assert layer.prunable == kernel, name
    assert count_total(architecture) == model.count_params()
    assert count_trainable(architecture) == sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@published
def test_published_counts_and_shapes_are_those_of_the_keras_model(name: str, keras: ModuleType) -> None:
    assert_counts_and_shapes_are_those_of_keras(PUBLISHED[name])


@settings(max_examples=8)
@given(architecture=architectures())
def test_counts_and_shapes_of_any_network_are_those_of_the_keras_model(
    architecture: Architecture, keras: ModuleType
) -> None:
    assert_counts_and_shapes_are_those_of_keras(architecture)


@published
def test_initial_weights_have_the_names_and_shapes_of_the_keras_model(name: str, keras: ModuleType) -> None:
    variables = model_variables(build_model(PUBLISHED[name]))
    weights = initial_weights(PUBLISHED[name], seed=3)
    assert {key: array.shape for key, array in weights.items()} == {
        key: tuple(variable.shape) for key, variable in variables.items()
    }
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


@given(architecture=architectures())
def test_initial_weights_are_as_many_as_counted(architecture: Architecture) -> None:
    weights = initial_weights(architecture, seed=0)
    assert sum(array.size for array in weights.values()) == count_total(architecture)
    assert sum(kernel.size for kernel in convolution_kernels(weights).values()) == count_prunable(architecture)
    assert "dense/kernel" not in convolution_kernels(weights)


def test_initial_kernels_are_glorot_uniform_and_the_rest_zeros_and_ones() -> None:
    weights = initial_weights(PUBLISHED["approach_1"], seed=1)
    limits = {
        "block_1/kernel": np.sqrt(6 / (9 * 1 + 9 * 32)),
        "block_2/kernel": np.sqrt(6 / (9 * 32 + 9 * 14)),
        "dense/kernel": np.sqrt(6 / (350 + 10)),
    }
    for name, limit in limits.items():
        largest = np.abs(weights[name]).max()
        assert 0.97 * limit < largest <= limit * (1 + 1e-6), name
        assert weights[name].std() == pytest.approx(limit / np.sqrt(3), rel=0.1), name
    for name in weights.keys() - limits.keys():
        ones = name.endswith(("/gamma", "/moving_variance"))
        assert (weights[name] == (1 if ones else 0)).all(), name


def test_initial_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    architecture = PUBLISHED["approach_2"]
    first, again, other = (initial_weights(architecture, seed) for seed in (7, 7, 8))
    for name, kernel in convolution_kernels(first).items():
        assert kernel.tobytes() == again[name].tobytes()
        assert not np.array_equal(kernel, other[name])


def test_loaded_weights_are_in_the_model_under_their_names(keras: ModuleType) -> None:
    architecture = PUBLISHED["approach_1"]
    generator = np.random.default_rng(0)
    weights = {
        name: generator.random(array.shape, np.float32) for name, array in initial_weights(architecture, 0).items()
    }
    model = build_model(architecture)
    load_weights(model, weights)
    convolution, normalisation = model.get_layer("block_2_convolution"), model.get_layer("block_2_normalisation")
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    for array, name in zip(normalisation.get_weights(), names, strict=True):
        assert np.array_equal(array, weights[f"block_2/{name}"])
    assert np.array_equal(convolution.get_weights()[0], weights["block_2/kernel"])
    assert np.array_equal(convolution.get_weights()[1], weights["block_2/bias"])
    assert np.array_equal(model.get_layer("dense").get_weights()[0], weights["dense/kernel"])


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_go_to_a_keras_file_and_come_back_to_the_bit(
    keras: ModuleType, tmp_path: Path, name: str, ending: str
) -> None:
    generator = np.random.default_rng(0)
    start = initial_weights(PUBLISHED[name], 0)
    weights = {key: generator.random(array.shape, np.float32) for key, array in start.items()}
    model = build_model(PUBLISHED[name])
    load_weights(model, weights)
    model.save(tmp_path / f"network.{ending}")  # h5 is what older Keras files are
    found = read_weights(keras.models.load_model(tmp_path / f"network.{ending}", compile=False))
    assert_same_arrays(found, weights)


def test_weights_of_another_network_are_refused(keras: ModuleType) -> None:
    model = build_model(PUBLISHED["approach_3"])
    with pytest.raises(ValueError, match="dense/kernel"):
        load_weights(model, initial_weights(PUBLISHED["approach_1"], 0))
    with pytest.raises(ValueError, match="[Ss]hape"):
        load_weights(model, initial_weights(PUBLISHED["approach_2"], 0))


APPROACH_2 = {
    "filters": (4, 8, 16, 16, 10),
    "pool_after": (2,),
    "dropout": 0.1,
    "dropout_after": (3, 4, 5),
    "head": "pooled",
}


@pytest.mark.parametrize(
    ("name", "value", "error", "given"),
    [
        ("filters", (), ValueError, "empty"),
        ("filters", (4, 0, 10), ValueError, "0"),
        ("filters", (4, -8, 10), ValueError, "-8"),
        ("filters", (4, 8.0, 10), TypeError, "8.0"),
        ("filters", (4, True, 10), TypeError, "True"),
        ("filters", ("4", 10), TypeError, "'4'"),
        ("filters", "4-8-10", TypeError, "'4-8-10'"),
        ("filters", 10, TypeError, "10"),
        ("filters", None, TypeError, "None"),
        ("filters", (4, 8, 16, 16, 16), ValueError, "16"),
        ("filters", (1,) * 13 + (10,), ValueError, "block 8"),
        ("pool_after", (0,), ValueError, "0"),
        ("pool_after", (6,), ValueError, "6"),
        ("pool_after", (1, 2, 3), ValueError, "[1, 2, 3]"),
        ("pool_after", 2, TypeError, "2"),
        ("dropout", 1, ValueError, "1"),
        ("dropout", -0.1, ValueError, "-0.1"),
        ("dropout", float("nan"), TypeError, "nan"),
        ("dropout", "10 %", TypeError, "'10 %'"),
        ("dropout", True, TypeError, "True"),
        ("dropout_after", (0,), ValueError, "0"),
        ("dropout_after", (6,), ValueError, "6"),
        ("head", "flatten", ValueError, "'flatten'"),
        ("head", None, ValueError, "None"),
    ],
)
def test_a_bad_architecture_is_refused_by_name_and_value(
    name: str, value: Any, error: type[Exception], given: str
) -> None:
    with pytest.raises(error, match=re.escape(given)) as raised:
        Architecture(**{**APPROACH_2, name: value})
    assert name in str(raised.value)


def test_the_last_pixel_may_be_used_but_no_more() -> None:
    Architecture((1,) * 13, (), 0, (), "dense")
    with pytest.raises(ValueError, match="block 14 has none"):
        Architecture((1,) * 14, (), 0, (), "dense")


def test_pooling_that_leaves_no_pixel_is_refused() -> None:
    Architecture((1,) * 7, (1,), 0, (), "dense")
    with pytest.raises(ValueError, match="block 7 has none after its pooling"):
        Architecture((1,) * 7, (1, 7), 0, (), "dense")


def test_dropout_of_nothing_is_no_layer() -> None:
    architecture = Architecture(**{**APPROACH_2, "dropout": 0})
    assert not any("dropout" in layer.name for layer in layers(architecture))


def test_lists_as_json_has_them_give_the_same_architecture() -> None:
    architecture = Architecture(**json.loads(json.dumps(APPROACH_2)))
    assert architecture == PUBLISHED["approach_2"]
    assert hash(architecture) == hash(PUBLISHED["approach_2"])


def test_blocks_named_twice_or_out_of_order_count_once() -> None:
    assert Architecture(**{**APPROACH_2, "dropout_after": (5, 3, 4, 3)}) == PUBLISHED["approach_2"]


def test_the_name_lists_the_filters() -> None:
    assert PUBLISHED["approach_2"].name == "4-8-16-16-10"


def test_multiply_adds_are_weights_times_positions() -> None:
    assert count_multiply_adds(PUBLISHED["approach_1"]) == 26**2 * 288 + 11**2 * 4032 + 3500
    assert count_multiply_adds(PUBLISHED["approach_3"]) == (
        26**2 * 18 + 24**2 * 72 + 10**2 * 288 + 8**2 * 1152 + 6**2 * 1440
    )
