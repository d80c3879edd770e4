"""Layers and networks: shapes, counts against the published numbers, names, initial weights, errors, JSON."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from smallcnn.architecture import (
    CLASSES,
    IMAGE_SIZE,
    KINDS,
    TARGET,
    Activation,
    Architecture,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling,
    MaxPooling,
    convolution_kernels,
    initial_weights,
)
from tests.networks import PUBLISHED, architectures, chain

PUBLISHED_COUNTS = {
    # total, trainable, prunable
    "approach_1": (8060, 7968, 9 * 32 + 9 * 32 * 14),
    "approach_2": (5490, 5382, 5220),
    "approach_3": (3170, 3090, 9 * (2 + 2 * 4 + 4 * 8 + 8 * 16 + 16 * 10)),
}

PUBLISHED_SHAPES = {
    "approach_1": [
        ("block_1/convolution", (26, 26, 32)),
        ("block_1/activation", (26, 26, 32)),
        ("block_1/normalisation", (26, 26, 32)),
        ("block_1/pooling", (13, 13, 32)),
        ("block_2/convolution", (11, 11, 14)),
        ("block_2/activation", (11, 11, 14)),
        ("block_2/normalisation", (11, 11, 14)),
        ("block_2/pooling", (5, 5, 14)),
        ("block_2/dropout", (5, 5, 14)),
        ("block_2/flatten", (350,)),
        ("dense", (10,)),
        ("dense/activation", (10,)),
    ],
    "approach_2": [
        ("block_1/convolution", (26, 26, 4)),
        ("block_1/activation", (26, 26, 4)),
        ("block_1/normalisation", (26, 26, 4)),
        ("block_2/convolution", (24, 24, 8)),
        ("block_2/activation", (24, 24, 8)),
        ("block_2/normalisation", (24, 24, 8)),
        ("block_2/pooling", (12, 12, 8)),
        ("block_3/convolution", (10, 10, 16)),
        ("block_3/activation", (10, 10, 16)),
        ("block_3/normalisation", (10, 10, 16)),
        ("block_3/dropout", (10, 10, 16)),
        ("block_4/convolution", (8, 8, 16)),
        ("block_4/activation", (8, 8, 16)),
        ("block_4/normalisation", (8, 8, 16)),
        ("block_4/dropout", (8, 8, 16)),
        ("block_5/convolution", (6, 6, 10)),
        ("block_5/activation", (6, 6, 10)),
        ("block_5/normalisation", (6, 6, 10)),
        ("block_5/dropout", (6, 6, 10)),
        ("block_5/average", (10,)),
        ("block_5/activation_2", (10,)),
    ],
    "approach_3": [
        ("block_1/convolution", (26, 26, 2)),
        ("block_1/activation", (26, 26, 2)),
        ("block_1/normalisation", (26, 26, 2)),
        ("block_2/convolution", (24, 24, 4)),
        ("block_2/activation", (24, 24, 4)),
        ("block_2/normalisation", (24, 24, 4)),
        ("block_2/pooling", (12, 12, 4)),
        ("block_3/convolution", (10, 10, 8)),
        ("block_3/activation", (10, 10, 8)),
        ("block_3/normalisation", (10, 10, 8)),
        ("block_4/convolution", (8, 8, 16)),
        ("block_4/activation", (8, 8, 16)),
        ("block_4/normalisation", (8, 8, 16)),
        ("block_5/convolution", (6, 6, 10)),
        ("block_5/activation", (6, 6, 10)),
        ("block_5/normalisation", (6, 6, 10)),
        ("block_5/average", (10,)),
        ("block_5/activation_2", (10,)),
    ],
}

# In every layer an option that is not its default.
EVERY_KIND = Architecture(
    (
        BatchNormalisation(use_scale=False, momentum=0.8, epsilon=0.01),
        Convolution(6, 5, "same", use_bias=False),
        Activation("leaky_relu", 0.2),
        BatchNormalisation(),
        BatchNormalisation(use_scale=False),
        MaxPooling(3),
        Convolution(3, 2, "same"),
        AveragePooling(3),
        Dropout(0.25),
        Convolution(4, 1),
        GlobalAveragePooling(),
        Flatten(),
        Dense(7, use_bias=False),
        BatchNormalisation(),
        Dense(10),
        Activation("softmax"),
    )
)

NORMALISATION = ("gamma", "beta", "moving_mean", "moving_variance")

published = pytest.mark.parametrize("name", PUBLISHED_COUNTS)


def test_the_question_of_the_study_is_this() -> None:
    assert (IMAGE_SIZE, CLASSES, TARGET) == (28, 10, 0.99)
    assert (BatchNormalisation().use_scale, BatchNormalisation().momentum, BatchNormalisation().epsilon) == (
        True,
        0.99,
        0.001,
    )


def test_every_kind_has_a_noun_and_its_place_in_the_list() -> None:
    assert [(kind, layer.noun) for kind, layer in KINDS.items()] == [
        ("convolution", "convolution"),
        ("activation", "activation"),
        ("batch_normalisation", "normalisation"),
        ("max_pooling", "pooling"),
        ("average_pooling", "pooling"),
        ("dropout", "dropout"),
        ("flatten", "flatten"),
        ("global_average_pooling", "average"),
        ("dense", "dense"),
    ]


def test_rows_and_columns_of_images_that_are_not_square_stay_apart() -> None:
    shape = (9, 7, 2)
    assert Convolution(4).output_shape(shape) == (7, 5, 4)
    assert Convolution(4, 5, "same").output_shape(shape) == (9, 7, 4)
    assert Convolution(4).multiply_adds(shape) == 7 * 5 * (9 * 2 * 4)
    assert MaxPooling(3).output_shape(shape) == AveragePooling(3).output_shape(shape) == (3, 2, 2)
    for too_narrow in (shape, (7, 9, 2)):
        with pytest.raises(ValueError, match="^it leaves no pixels"):
            Convolution(4, 8).output_shape(too_narrow)
    assert Convolution(4, 7).output_shape(shape) == (3, 1, 4)


@pytest.mark.parametrize("record", [*EVERY_KIND.layers, EVERY_KIND, EVERY_KIND.placed[0]], ids=repr)
def test_what_describes_a_network_cannot_be_changed(record: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.name = "another"


def test_exactly_the_three_published_networks_are_named() -> None:
    assert PUBLISHED.keys() == PUBLISHED_COUNTS.keys()


@published
def test_published_counts_are_those_of_the_article(name: str) -> None:
    architecture = PUBLISHED[name]
    assert (architecture.total, architecture.trainable, architecture.prunable) == PUBLISHED_COUNTS[name]


@published
def test_published_layers_have_the_expected_names_and_shapes(name: str) -> None:
    assert [(layer.name, layer.output_shape) for layer in PUBLISHED[name].placed] == PUBLISHED_SHAPES[name]


def test_two_poolings_of_approach_1_leave_350_values_for_the_dense_layer() -> None:
    *_, dense, _ = PUBLISHED["approach_1"].placed
    assert dense.parameters == dense.trainable == 350 * 10 + 10
    assert dense.prunable == 0


def test_the_layers_of_every_kind_have_the_expected_names_shapes_and_weights() -> None:
    assert {layer.kind for layer in EVERY_KIND.layers} == KINDS.keys()
    found = [(layer.name, layer.input_shape, layer.output_shape) for layer in EVERY_KIND.placed]
    names, inputs, outputs = zip(*found, strict=True)
    assert names == (
        "input/normalisation",
        "block_1/convolution",
        "block_1/activation",
        "block_1/normalisation",
        "block_1/normalisation_2",
        "block_1/pooling",
        "block_2/convolution",
        "block_2/pooling",
        "block_2/dropout",
        "block_3/convolution",
        "block_3/average",
        "block_3/flatten",
        "dense",
        "dense/normalisation",
        "dense_2",
        "dense_2/activation",
    )
    assert outputs == (
        (28, 28, 1),
        *((28, 28, 6),) * 4,
        (9, 9, 6),
        (9, 9, 3),
        *((3, 3, 3),) * 2,
        (3, 3, 4),
        *((4,),) * 2,
        *((7,),) * 2,
        *((10,),) * 2,
    )
    assert inputs == ((28, 28, 1), *outputs[:-1])
    assert EVERY_KIND.weight_shapes == {
        "input/beta": (1,),
        "input/moving_mean": (1,),
        "input/moving_variance": (1,),
        "block_1/kernel": (5, 5, 1, 6),
        "block_1/gamma": (6,),
        "block_1/beta": (6,),
        "block_1/moving_mean": (6,),
        "block_1/moving_variance": (6,),
        "block_1/normalisation_2/beta": (6,),
        "block_1/normalisation_2/moving_mean": (6,),
        "block_1/normalisation_2/moving_variance": (6,),
        "block_2/kernel": (2, 2, 6, 3),
        "block_2/bias": (3,),
        "block_3/kernel": (1, 1, 3, 4),
        "block_3/bias": (4,),
        "dense/kernel": (4, 7),
        "dense/gamma": (7,),
        "dense/beta": (7,),
        "dense/moving_mean": (7,),
        "dense/moving_variance": (7,),
        "dense_2/kernel": (7, 10),
        "dense_2/bias": (10,),
    }
    assert list(EVERY_KIND.weight_shapes)[3:8] == [f"block_1/{leaf}" for leaf in ("kernel", *NORMALISATION)]
    assert EVERY_KIND.kernels == ["block_1/kernel", "block_2/kernel", "block_3/kernel"]
    assert EVERY_KIND.prunable == 150 + 72 + 12
    assert EVERY_KIND.total - EVERY_KIND.trainable == 2 * (1 + 6 + 6 + 7)


def test_every_layer_says_what_it_does() -> None:
    assert Activation("relu").description == "ReLU"
    assert [layer.description for layer in EVERY_KIND.layers] == [
        "batch normalisation, no γ, momentum 0.8, epsilon 0.01",
        "convolution 5×5, padded, no bias",
        "leaky ReLU 0.2",
        "batch normalisation",
        "batch normalisation, no γ",
        "max pooling 3×3",
        "convolution 2×2, padded",
        "average pooling 3×3",
        "dropout 25 %",
        "convolution 1×1",
        "global average pooling",
        "flatten",
        "dense, no bias",
        "batch normalisation",
        "dense",
        "softmax",
    ]


@given(architecture=architectures())
def test_counts_are_those_of_the_weights(architecture: Architecture) -> None:
    weights = initial_weights(architecture, seed=0)
    assert {name: array.shape for name, array in weights.items()} == architecture.weight_shapes
    assert {array.dtype for array in weights.values()} <= {np.dtype(np.float32)}
    assert sum(array.size for array in weights.values()) == architecture.total
    assert sum(kernel.size for kernel in convolution_kernels(weights).values()) == architecture.prunable
    assert list(convolution_kernels(weights)) == architecture.kernels
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


@pytest.mark.parametrize(
    ("make", "name", "value", "error"),
    [
        (Convolution, "filters", 0, ValueError),
        (Convolution, "filters", -8, ValueError),
        (Convolution, "filters", 1025, ValueError),
        (Convolution, "filters", 8.0, TypeError),
        (Convolution, "filters", True, TypeError),
        (Convolution, "filters", "4", TypeError),
        (Convolution, "filters", None, TypeError),
        (lambda kernel_size: Convolution(4, kernel_size), "kernel_size", 0, ValueError),
        (lambda kernel_size: Convolution(4, kernel_size), "kernel_size", 29, ValueError),
        (lambda kernel_size: Convolution(4, kernel_size), "kernel_size", (3, 3), TypeError),
        (lambda padding: Convolution(4, padding=padding), "padding", "full", ValueError),
        (lambda use_bias: Convolution(4, use_bias=use_bias), "use_bias", 1, TypeError),
        (Activation, "function", "tanh", ValueError),
        (Activation, "function", None, ValueError),
        (lambda slope: Activation("leaky_relu", slope), "slope", 1, ValueError),
        (lambda slope: Activation("leaky_relu", slope), "slope", -0.1, ValueError),
        (lambda slope: Activation("leaky_relu", slope), "slope", "0.1", TypeError),
        (BatchNormalisation, "use_scale", 0, TypeError),
        (lambda use_center: BatchNormalisation(use_center=use_center), "use_center", 0, TypeError),
        (lambda momentum: BatchNormalisation(momentum=momentum), "momentum", 1, ValueError),
        (lambda momentum: BatchNormalisation(momentum=momentum), "momentum", None, TypeError),
        (lambda epsilon: BatchNormalisation(epsilon=epsilon), "epsilon", 0.0, ValueError),
        (lambda epsilon: BatchNormalisation(epsilon=epsilon), "epsilon", float("inf"), TypeError),
        (MaxPooling, "size", 1, ValueError),
        (MaxPooling, "size", (2, 2), TypeError),
        (AveragePooling, "size", 29, ValueError),
        (Dropout, "rate", 1, ValueError),
        (Dropout, "rate", -0.1, ValueError),
        (Dropout, "rate", float("nan"), TypeError),
        (Dropout, "rate", "10 %", TypeError),
        (Dropout, "rate", True, TypeError),
        (Dense, "units", 0, ValueError),
        (Dense, "units", 1025, ValueError),
        (Dense, "units", 10.0, TypeError),
        (lambda use_bias: Dense(10, use_bias), "use_bias", None, TypeError),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value(
    make: Callable[[Any], Any], name: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        make(value)
    assert str(raised.value).startswith(f"{name} is {value!r}; expected")


@pytest.mark.parametrize(("function", "slope"), [("relu", 0.1), ("softmax", 0.1), ("leaky_relu", 0)])
def test_a_slope_belongs_to_a_leaky_relu(function: str, slope: float) -> None:
    with pytest.raises(ValueError, match=f"slope of {function} is"):
        Activation(function, slope)


SOFTMAX = Activation("softmax")


@pytest.mark.parametrize(
    ("layers", "error", "words"),
    [
        ((), ValueError, "the network must end in softmax, and have it nowhere else"),
        ((Flatten(), Dense(10)), ValueError, "the network must end in softmax, and have it nowhere else"),
        (
            (Flatten(), Dense(10), Activation("relu")),
            ValueError,
            "the network must end in softmax, and have it nowhere else",
        ),
        (
            (SOFTMAX, Flatten(), Dense(10), SOFTMAX),
            ValueError,
            "the network must end in softmax, and have it nowhere else",
        ),
        ((Flatten(), SOFTMAX, Dense(10), SOFTMAX), ValueError, "the network must end in softmax"),
        ((Flatten(), Dense(10), SOFTMAX, SOFTMAX), ValueError, "the network must end in softmax"),
        (
            (Convolution(16), MaxPooling(), GlobalAveragePooling(), SOFTMAX),
            ValueError,
            "the network ends in 16 numbers",
        ),
        ((Convolution(10), SOFTMAX), ValueError, "the network ends in 26×26×10 numbers"),
        ((Dense(10), SOFTMAX), ValueError, "dense (dense): its input is 28×28×1; flatten it"),
        ((Flatten(), Convolution(4), SOFTMAX), ValueError, "block_1/convolution (convolution 3×3): its input is 784"),
        ((Flatten(), MaxPooling(), SOFTMAX), ValueError, "input/pooling (max pooling 2×2): its input is 784"),
        ((Flatten(), GlobalAveragePooling(), SOFTMAX), ValueError, "input/average"),
        (
            (Convolution(4, 5), AveragePooling(25), SOFTMAX),
            ValueError,
            "block_1/pooling (average pooling 25×25): it leaves",
        ),
        ((Flatten(), "dense", SOFTMAX), TypeError, "'dense' is no layer; there are: convolution, activation"),
        ("4-8-10", TypeError, "'4' is no layer"),
        (10, TypeError, "'int' object is not iterable"),
        (None, TypeError, "'NoneType' object is not iterable"),
    ],
)
def test_layers_that_do_not_fit_are_refused_by_name(layers: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(words)}"):
        Architecture(layers)


def test_the_last_pixel_may_be_used_but_no_more() -> None:
    assert chain((1,) * 13, head="dense").placed[-4].output_shape == (2, 2, 1)
    with pytest.raises(ValueError, match="block_14/convolution .* leaves no pixels"):
        chain((1,) * 14, head="dense")


def test_pooling_that_leaves_no_pixel_is_refused() -> None:
    chain((1,) * 7, (1,), head="dense")
    with pytest.raises(ValueError, match="block_7/pooling .* leaves no pixels"):
        chain((1,) * 7, (1, 7), head="dense")


def test_a_list_of_layers_gives_the_same_architecture() -> None:
    architecture = Architecture(list(PUBLISHED["approach_2"].layers))
    assert architecture == PUBLISHED["approach_2"] != PUBLISHED["approach_3"]
    assert hash(architecture) == hash(PUBLISHED["approach_2"])


def test_whole_numbers_give_the_same_layers_as_floats() -> None:
    assert repr(Dropout(0)) == repr(Dropout(0.0))
    assert repr(Activation("relu", 0)) == repr(Activation("relu"))
    assert repr(BatchNormalisation(momentum=0, epsilon=1)) == repr(BatchNormalisation(momentum=0.0, epsilon=1.0))


def test_json_leaves_out_defaults_and_never_changes() -> None:
    """Runs are found by a hash of it, so a change would orphan every one of them."""
    assert chain((2, 10), (1,), 0.1, (1,)).to_json() == [
        {"kind": "convolution", "filters": 2},
        {"kind": "activation", "function": "relu"},
        {"kind": "batch_normalisation"},
        {"kind": "max_pooling"},
        {"kind": "dropout", "rate": 0.1},
        {"kind": "convolution", "filters": 10},
        {"kind": "activation", "function": "relu"},
        {"kind": "batch_normalisation"},
        {"kind": "global_average_pooling"},
        {"kind": "activation", "function": "softmax"},
    ]
    assert EVERY_KIND.to_json() == [
        {"kind": "batch_normalisation", "use_scale": False, "momentum": 0.8, "epsilon": 0.01},
        {"kind": "convolution", "filters": 6, "kernel_size": 5, "padding": "same", "use_bias": False},
        {"kind": "activation", "function": "leaky_relu", "slope": 0.2},
        {"kind": "batch_normalisation"},
        {"kind": "batch_normalisation", "use_scale": False},
        {"kind": "max_pooling", "size": 3},
        {"kind": "convolution", "filters": 3, "kernel_size": 2, "padding": "same"},
        {"kind": "average_pooling", "size": 3},
        {"kind": "dropout", "rate": 0.25},
        {"kind": "convolution", "filters": 4, "kernel_size": 1},
        {"kind": "global_average_pooling"},
        {"kind": "flatten"},
        {"kind": "dense", "units": 7, "use_bias": False},
        {"kind": "batch_normalisation"},
        {"kind": "dense", "units": 10},
        {"kind": "activation", "function": "softmax"},
    ]


@given(architecture=architectures())
def test_an_architecture_survives_json_and_pickle(architecture: Architecture) -> None:
    for again in (
        Architecture.from_json(json.loads(json.dumps(architecture.to_json()))),
        pickle.loads(pickle.dumps(architecture)),
    ):
        assert again == architecture
        assert hash(again) == hash(architecture)
        assert again.placed == architecture.placed


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"kind": "lstm", "units": 3}, ValueError, "^kind is 'lstm'"),
        ({"kind": "dense", "units": 3, "depth": 2}, TypeError, "depth"),
        ({"kind": "dense", "units": "three"}, TypeError, "units is 'three'"),
        ({"units": 3}, TypeError, "kind"),
    ],
)
def test_unknown_kinds_and_options_in_json_are_refused(
    values: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Architecture.from_json([values])


def test_the_name_lists_the_filters() -> None:
    assert PUBLISHED["approach_2"].name == "4-8-16-16-10"
    assert Architecture((Flatten(), Dense(10), SOFTMAX)).name == "without convolutions"
    assert repr(PUBLISHED["approach_2"]) == "<Architecture 4-8-16-16-10: 5,382 trainable of 5,490 parameters>"


def test_multiply_adds_are_weights_times_positions() -> None:
    assert PUBLISHED["approach_1"].multiply_adds == 26**2 * 288 + 11**2 * 4032 + 3500
    assert PUBLISHED["approach_3"].multiply_adds == (26**2 * 18 + 24**2 * 72 + 10**2 * 288 + 8**2 * 1152 + 6**2 * 1440)
    assert EVERY_KIND.multiply_adds == 28**2 * 150 + 9**2 * 72 + 3**2 * 12 + 4 * 7 + 7 * 10


def test_a_normalisation_without_beta_has_none() -> None:
    layer = BatchNormalisation(use_center=False)
    assert layer.description == "batch normalisation, no β"
    assert list(layer.weight_shapes((5, 5, 3))) == ["gamma", "moving_mean", "moving_variance"]
    assert BatchNormalisation(use_scale=False, use_center=False).description == "batch normalisation, no γ, no β"
