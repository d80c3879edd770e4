"""Between Keras models and architectures: read, built, refused; weights in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from smallcnn import data
from smallcnn.architecture import (
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
    initial_weights,
)
from smallcnn.models import (
    build_model,
    deciding_settings,
    explain,
    import_keras,
    load_weights,
    model_variables,
    read_architecture,
    read_weights,
    trained_model,
)
from tests.conftest import assert_same_arrays
from tests.networks import PUBLISHED, architectures

# TensorFlow may run on one thread only, from the first operation on; the fixture sees to it.
pytestmark = pytest.mark.usefixtures("keras")

published = pytest.mark.parametrize("name", PUBLISHED)


def sequential(keras: ModuleType, *layers: Any) -> Any:
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


def random_weights(architecture: Architecture) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.random(shape, np.float32) for name, shape in architecture.weight_shapes.items()}


# --- Reading and building ---


def test_every_layer_of_the_vocabulary_is_read(keras: ModuleType) -> None:
    layers = keras.layers
    model = sequential(
        keras,
        layers.Rescaling(1 / 255),
        layers.Conv2D(6, 5, padding="same", use_bias=False, name="any_name"),
        layers.LeakyReLU(0.2),
        layers.BatchNormalization(scale=False, momentum=0.8, epsilon=0.01),
        layers.MaxPooling2D(),
        layers.Conv2D(4, (1, 1), activation="relu"),
        layers.AveragePooling2D((3, 3)),
        layers.Dropout(0.25),
        layers.Conv2D(3, 2),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Flatten(),
        layers.Dense(7, use_bias=False),
        layers.Activation("relu"),
        layers.BatchNormalization(),
        layers.Dense(10),
        layers.Softmax(),
    )
    assert read_architecture(model).layers == (
        Convolution(6, 5, "same", use_bias=False),
        Activation("leaky_relu", 0.2),
        BatchNormalisation(use_scale=False, momentum=0.8, epsilon=0.01),
        MaxPooling(2),
        Convolution(4, 1),
        Activation("relu"),
        AveragePooling(3),
        Dropout(0.25),
        Convolution(3, 2),
        Activation("relu"),
        GlobalAveragePooling(),
        Flatten(),
        Dense(7, use_bias=False),
        Activation("relu"),
        BatchNormalisation(),
        Dense(10),
        Activation("softmax"),
    )


def test_an_activation_in_a_layer_and_one_after_it_are_the_same(keras: ModuleType) -> None:
    layers = keras.layers
    inside = [
        layers.Conv2D(3, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(10, activation=keras.activations.softmax),
    ]
    after = [
        *(layers.Conv2D(3, 3, activation=None), layers.Activation("relu")),
        layers.Flatten(),
        *(layers.Dense(10, activation="linear"), layers.Activation("softmax")),
    ]
    assert read_architecture(sequential(keras, *inside)) == read_architecture(sequential(keras, *after))


def build_and_read(architecture: Architecture) -> None:
    """Goes to Keras and back, with the weights; the model's own config survives too."""
    model = build_model(architecture)
    assert read_architecture(model) == architecture
    weights = random_weights(architecture)
    load_weights(model, weights)
    assert_same_arrays(read_weights(model), weights)
    again = build_model(read_architecture(model))
    assert [layer.get_config() for layer in again.layers] == [layer.get_config() for layer in model.layers]


@published
def test_published_networks_go_to_keras_and_come_back(name: str) -> None:
    build_and_read(PUBLISHED[name])


@settings(max_examples=10, phases=[Phase.reuse, Phase.generate])  # models are slow to build, so failures stay as found
@given(architecture=architectures())
def test_any_network_goes_to_keras_and_comes_back(architecture: Architecture) -> None:
    build_and_read(architecture)
    assert_counts_and_shapes_are_those_of_keras(architecture)


def assert_counts_and_shapes_are_those_of_keras(architecture: Architecture) -> None:
    model = build_model(architecture)
    by_name = {layer.name: layer for layer in model.layers}
    # An activation may be within the Keras layer before it.
    counted = {layer.name.replace("/", "_"): layer for layer in architecture.placed}
    assert [name for name in counted if name in by_name] == list(by_name)
    assert all(counted[name].layer.kind == "activation" for name in counted.keys() - by_name.keys())
    for name, keras_layer in by_name.items():
        layer = counted[name]
        assert layer.input_shape == keras_layer.input_shape[1:], name
        assert layer.output_shape == keras_layer.output_shape[1:], name
        assert layer.parameters == keras_layer.count_params(), name
        assert layer.trainable == sum(int(np.prod(weight.shape)) for weight in keras_layer.trainable_weights), name
        kernel = int(np.prod(keras_layer.kernel.shape)) if name.endswith("_convolution") else 0
        assert layer.prunable == kernel, name
    assert architecture.total == model.count_params()
    assert architecture.trainable == sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@published
def test_published_counts_and_shapes_are_those_of_the_keras_model(name: str) -> None:
    assert_counts_and_shapes_are_those_of_keras(PUBLISHED[name])


@published
def test_initial_weights_have_the_names_and_shapes_of_the_keras_model(name: str) -> None:
    variables = model_variables(build_model(PUBLISHED[name]))
    weights = initial_weights(PUBLISHED[name], seed=3)
    assert {key: array.shape for key, array in weights.items()} == {
        key: tuple(variable.shape) for key, variable in variables.items()
    }
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


# Every kind of layer, no activation within the layer before it.
EVERY_KIND_ALONE = Architecture(
    (
        *(Convolution(4), BatchNormalisation(), Activation("relu"), MaxPooling(), Convolution(3), AveragePooling()),
        *(Activation("leaky_relu", 0.1), Dropout(0.1), GlobalAveragePooling(), Flatten(), Dense(10)),
        *(BatchNormalisation(), Activation("softmax")),
    )
)


@pytest.fixture
def other_settings(keras: ModuleType) -> Iterator[None]:
    """Keras as a reader may have set it up for something else."""
    policy, data_format = keras.mixed_precision.global_policy(), keras.backend.image_data_format()
    epsilon = keras.backend.epsilon()
    keras.mixed_precision.set_global_policy("mixed_float16")
    keras.backend.set_image_data_format("channels_first")
    keras.backend.set_epsilon(0.1)
    yield
    keras.mixed_precision.set_global_policy(policy)
    keras.backend.set_image_data_format(data_format)
    keras.backend.set_epsilon(epsilon)


@pytest.mark.usefixtures("other_settings")
@pytest.mark.parametrize("architecture", [PUBLISHED["approach_1"], EVERY_KIND_ALONE], ids=["folded", "alone"])
def test_a_model_is_the_same_whatever_the_global_settings_are(architecture: Architecture) -> None:
    model = build_model(architecture)
    assert read_architecture(model) == architecture
    assert model.output_shape == (None, 10)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert trained_model(architecture, random_weights(architecture)).output.dtype == "float32"
    backend = import_keras().backend
    assert (backend.image_data_format(), backend.floatx(), backend.epsilon()) == ("channels_last", "float32", 1e-7)


def test_models_say_what_they_are() -> None:
    architecture = PUBLISHED["approach_1"]
    assert build_model(architecture).name == "network"
    model = trained_model(architecture, random_weights(architecture))
    assert (model.name, model.layers[0].name, model.loss) == (
        "trained_network",
        "scale",
        "sparse_categorical_crossentropy",
    )


@pytest.mark.parametrize(
    ("name", "decides"),
    [
        *((f"TF_{what}_ANYTHING", True) for what in ("ENABLE", "DISABLE", "SET", "NUM", "XLA", "ONEDNN", "CUDNN")),
        *((f"{what}_ANYTHING", True) for what in ("TF_DETERMINISTIC", "XLA", "ONEDNN", "DNNL")),
        *((name, False) for name in ("TF_CPP_MAX_VLOG_LEVEL", "TF_USE_LEGACY_KERAS", "TF_XLA", "MY_XLA_FLAGS")),
    ],
)
def test_variables_that_can_change_what_is_computed_are_known(
    name: str, decides: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    assert deciding_settings() == [name] * decides


def test_the_setting_of_the_book_decides_nothing_unless_it_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    assert deciding_settings() == []
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert deciding_settings() == ["TF_ENABLE_ONEDNN_OPTS"]


def test_errors_are_explained_in_their_own_words_or_shorter_ones() -> None:
    assert explain(ValueError("one", "two\n three")) == "one two three"
    assert explain(ValueError("one", 2)) == "('one', 2)"
    assert explain(ValueError("Negative dimension size")).startswith("a layer has no pixels left")
    foreign = "must be an instance of class Layer, is keras.src.layers.Flatten"
    assert explain(TypeError(foreign)).startswith("a layer is of Keras 3; this book's Keras is tf_keras")
    own = f"{foreign}, not tf_keras"
    assert explain(TypeError(own)) == own


# --- What is refused ---


def classifier(keras: ModuleType, *layers: Any) -> Any:
    return sequential(keras, *layers, keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax", name="last"))


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("Conv2D", {"filters": 4, "kernel_size": (3, 5)}, "kernel_size=(3, 5); supported for Conv2D is (3, 3)"),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "strides": 2}, "strides=(2, 2); supported for Conv2D is (1, 1)"),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "strides": 2, "activation": "relu"}, "strides=(2, 2)"),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "dilation_rate": 2}, "dilation_rate=(2, 2)"),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "groups": 1, "activation": "tanh"}, "activation='tanh'"),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "activation": "leaky_relu"}, "activations as layers of their own"),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "kernel_regularizer": "l2"}, "kernel_regularizer='L2'"),
        (
            "Conv2D",
            {"filters": 4, "kernel_size": 3, "kernel_initializer": "he_normal"},
            "kernel_initializer='HeNormal'",
        ),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "kernel_constraint": "non_neg"}, "kernel_constraint='NonNeg'"),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "trainable": False}, "trainable=False"),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "dtype": "float64"}, "dtype='float64'"),
        ("Conv2D", {"filters": 2000, "kernel_size": 1}, "a Conv2D whose filters is 2000; expected"),
        ("ReLU", {"max_value": 6}, "max_value=6.0; supported for ReLU is None"),
        ("ReLU", {"negative_slope": 0.5}, "negative_slope=0.5; supported for ReLU is 0.0"),
        ("LeakyReLU", {"alpha": 0.0}, "a LeakyReLU whose slope of leaky_relu is 0.0; expected"),
        ("LeakyReLU", {"alpha": 1.5}, "a LeakyReLU whose slope is 1.5; expected"),
        ("Activation", {"activation": "tanh"}, "is tanh; supported for Activation are relu, softmax"),
        ("Activation", {"activation": "relu", "dtype": "float64"}, "dtype='float64'"),
        ("BatchNormalization", {"axis": 1}, "axis=(1,); supported for BatchNormalization is -1"),
        ("BatchNormalization", {"momentum": 1.0}, "a BatchNormalization whose momentum is 1.0; expected"),
        ("BatchNormalization", {"gamma_initializer": "zeros"}, "gamma_initializer='Zeros'"),
        ("MaxPooling2D", {"pool_size": (2, 3)}, "pool_size=(2, 3); supported for MaxPooling2D is (2, 2)"),
        ("MaxPooling2D", {"pool_size": 1}, "a MaxPooling2D whose size is 1; expected"),
        ("MaxPooling2D", {"strides": 1}, "strides=(1, 1); supported for MaxPooling2D is (2, 2)"),
        ("AveragePooling2D", {"pool_size": (2, 3)}, "pool_size=(2, 3); supported for AveragePooling2D is (2, 2)"),
        ("AveragePooling2D", {"padding": "same"}, "padding='same'; supported for AveragePooling2D is 'valid'"),
        ("Dropout", {"rate": 0.1, "seed": 3}, "seed=3; supported for Dropout is None"),
        ("Dropout", {"rate": 0.1, "noise_shape": (1, 1, 1, 1)}, "noise_shape=(1, 1, 1, 1)"),
        ("Dropout", {"rate": 1}, "a Dropout whose rate is 1; expected"),
        ("GlobalAveragePooling2D", {"keepdims": True}, "keepdims=True"),
        ("SeparableConv2D", {"filters": 4, "kernel_size": 3}, "is a SeparableConv2D; supported are Conv2D, ReLU,"),
        ("ELU", {}, "is a ELU; supported are"),
        ("Rescaling", {"scale": 1 / 255, "offset": -1}, "is a Rescaling; supported are"),
        ("Rescaling", {"scale": 1 / 127.5}, "is a Rescaling; supported are"),
        ("Rescaling", {"scale": 1 / 255, "offset": -0.5}, "is a Rescaling; supported are"),
    ],
)
def test_what_is_outside_the_vocabulary_is_refused_in_one_line_that_names_it(
    keras: ModuleType, kind: str, options: dict[str, Any], words: str
) -> None:
    model = classifier(keras, getattr(keras.layers, kind)(name="this_one", **options))
    with pytest.raises(ValueError, match=f"^layer this_one .*{re.escape(words)}") as raised:
        read_architecture(model)
    assert "\n" not in str(raised.value)


def test_scaling_is_passed_over_only_where_it_comes_first(keras: ModuleType) -> None:
    with pytest.raises(ValueError, match="is a Rescaling"):
        read_architecture(classifier(keras, keras.layers.ReLU(), keras.layers.Rescaling(1 / 255)))


def test_a_layer_of_the_readers_own_is_refused_by_name(keras: ModuleType) -> None:
    class Twice(keras.layers.Layer):
        def __init__(self, factor: float, name: str) -> None:
            super().__init__(name=name)
            self.factor = factor

        def call(self, inputs: Any) -> Any:
            return self.factor * inputs

    with pytest.raises(ValueError, match="layer this_one is a Twice; supported are"):
        read_architecture(classifier(keras, Twice(2.0, "this_one")))


def test_layers_that_make_no_classifier_are_refused(keras: ModuleType) -> None:
    layers = keras.layers
    with pytest.raises(ValueError, match="must end in softmax"):
        read_architecture(sequential(keras, layers.Flatten(), layers.Dense(10)))
    with pytest.raises(ValueError, match="ends in 9 numbers"):
        read_architecture(sequential(keras, layers.Flatten(), layers.Dense(9, activation="softmax")))


def test_a_model_of_other_images_is_refused(keras: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"takes \(8, 8, 3\); expected \(28, 28, 1\)"):
        read_architecture(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]))
    with pytest.raises(ValueError, match=r"begin it with keras.Input\(\(28, 28, 1\)\)"):
        read_architecture(keras.Sequential([keras.layers.Flatten()]))


def test_what_is_no_sequential_of_this_keras_is_refused(keras: ModuleType) -> None:
    import keras as keras_3

    other = keras_3.Sequential([keras_3.Input((28, 28, 1)), keras_3.layers.Flatten()])
    with pytest.raises(
        TypeError, match="the model is of Keras 3 .*; this book's Keras is tf_keras, so import tf_keras"
    ):
        read_architecture(other)
    with pytest.raises(TypeError, match="a builtins.int; expected a tf_keras.Sequential"):
        read_architecture(3)
    images = keras.Input((28, 28, 1))
    with pytest.raises(TypeError, match="Functional; expected a tf_keras.Sequential"):
        read_architecture(keras.Model(images, keras.layers.Flatten()(images)))


def test_what_keras_says_while_layers_are_typed_is_put_in_one_line(keras: ModuleType) -> None:
    import keras as keras_3

    layers = keras.layers
    for wrong, words in (
        (lambda: sequential(keras, keras_3.layers.Flatten()), "a layer is of Keras 3; this book's Keras is tf_keras"),
        (lambda: sequential(keras, layers.Conv2D(4, 30, name="this")), "layer this has no pixels left to work on"),
        (lambda: sequential(keras, layers.MaxPooling2D(30, name="this")), "layer this has no pixels left to work on"),
        (lambda: layers.Conv2D(4, 0), "kernel_size"),
    ):
        with pytest.raises((ValueError, TypeError)) as raised:
            wrong()
        assert words in explain(raised.value)
        assert "\n" not in explain(raised.value)


# --- Weights ---


def test_loaded_weights_are_in_the_model_under_their_names() -> None:
    weights = random_weights(PUBLISHED["approach_1"])
    model = build_model(PUBLISHED["approach_1"])
    load_weights(model, weights)
    convolution, normalisation = model.get_layer("block_2_convolution"), model.get_layer("block_2_normalisation")
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    for array, name in zip(normalisation.get_weights(), names, strict=True):
        assert np.array_equal(array, weights[f"block_2/{name}"])
    assert np.array_equal(convolution.get_weights()[0], weights["block_2/kernel"])
    assert np.array_equal(convolution.get_weights()[1], weights["block_2/bias"])
    assert np.array_equal(model.get_layer("dense").get_weights()[0], weights["dense/kernel"])


@pytest.mark.parametrize("ending", ["keras", "h5"])
@published
def test_weights_go_to_a_keras_file_and_come_back_to_the_bit(
    keras: ModuleType, tmp_path: Path, name: str, ending: str
) -> None:
    weights = random_weights(PUBLISHED[name])
    model = build_model(PUBLISHED[name])
    load_weights(model, weights)
    model.save(tmp_path / f"network.{ending}")  # h5 is what older Keras files are
    again = keras.models.load_model(tmp_path / f"network.{ending}", compile=False)
    assert read_architecture(again) == PUBLISHED[name]
    assert_same_arrays(read_weights(again), weights)


def test_weights_of_another_network_are_refused() -> None:
    model = build_model(PUBLISHED["approach_3"])
    with pytest.raises(ValueError, match="dense/kernel"):
        load_weights(model, initial_weights(PUBLISHED["approach_1"], 0))
    with pytest.raises(ValueError, match="[Ss]hape"):
        load_weights(model, initial_weights(PUBLISHED["approach_2"], 0))


@published
def test_a_trained_model_takes_bytes_and_says_what_the_network_says(name: str) -> None:
    weights = random_weights(PUBLISHED[name])
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    network = build_model(PUBLISHED[name])
    load_weights(network, weights)
    expected = network(data.scale(images), training=False).numpy()
    model = trained_model(PUBLISHED[name], weights)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-7)
    for as_stored in (images, images[..., None], images.astype(np.float32)):
        np.testing.assert_allclose(model(as_stored), expected, rtol=1e-5, atol=1e-7)
    assert model.evaluate(images, expected.argmax(axis=1), verbose=0)[1] == 1
    assert read_architecture(model) == PUBLISHED[name]
    assert_same_arrays(read_weights(model), weights)


def square(values: Any) -> Any:
    return values * values


@pytest.mark.parametrize("word", ["relu", "softmax"])
def test_a_function_that_only_has_the_name_of_keras_is_refused(word: str, keras: ModuleType) -> None:
    layers = keras.layers
    own = type(square)(square.__code__, globals(), word)
    for typed in ([layers.Conv2D(10, 3, activation=own)], [layers.Conv2D(10, 3), layers.Activation(own)]):
        model = keras.Sequential([keras.Input((28, 28, 1)), *typed, layers.GlobalAveragePooling2D(), layers.Softmax()])
        with pytest.raises(ValueError, match=f"a function of its own called {word}; expected Keras' {word}"):
            read_architecture(model)


def test_a_layer_or_a_model_of_ones_own_is_refused_whatever_it_is_called(keras: ModuleType) -> None:
    layers = keras.layers
    own_layer = type("Dense", (layers.Dense,), {})(10)
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), own_layer, layers.Softmax()])
    with pytest.raises(ValueError, match="is a Dense; supported are"):
        read_architecture(model)
    own_model = type("Own", (keras.Sequential,), {})(build_model(PUBLISHED["approach_2"]).layers)
    with pytest.raises(TypeError, match=r"Own; expected a tf_keras\.Sequential"):
        read_architecture(own_model)


def test_an_option_that_only_some_layers_tell_of_is_refused(keras: ModuleType) -> None:
    layers = keras.layers
    normalised = layers.BatchNormalization(renorm=True)
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Conv2D(10, 3), normalised, layers.GlobalAveragePooling2D(), layers.Softmax()]
    )
    with pytest.raises(ValueError, match="has renorm=True, an option that this book does not know"):
        read_architecture(model)
