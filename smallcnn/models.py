"""Between Keras models and architectures: reading one, building one, and its weights by name."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from smallcnn.architecture import (
    IMAGE_SIZE,
    Activation,
    Architecture,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling,
    Layer,
    MaxPooling,
    Weights,
)

# TensorFlow is imported inside functions: most of the library, and a worker that needs none, must not wait for it.
SUPPORTED = (
    "Conv2D", "ReLU", "LeakyReLU", "Softmax", "Activation", "BatchNormalization", "MaxPooling2D", "AveragePooling2D",
    "Dropout", "Flatten", "GlobalAveragePooling2D", "Dense",
)  # fmt: skip
FOLDED = {"relu": Activation("relu"), "softmax": Activation("softmax")}  # what a convolution or dense layer may end in
OTHER_KERAS = "this book's Keras is tf_keras, so import tf_keras as keras"
# Options that change no number: names, and shapes that follow from the layers before.
FREE_OPTIONS = {"name", "batch_input_shape"}

# How the variables begin that can change what TensorFlow computes; others of TF_ are of its logs, its memory, or of
# programs that have nothing to do with it.
DECIDING = tuple(f"TF_{what}_" for what in ("ENABLE", "DISABLE", "SET", "NUM", "XLA", "ONEDNN", "CUDNN"))
DECIDING += ("TF_DETERMINISTIC_", "XLA_", "ONEDNN_", "DNNL_")
TENSORFLOW_SETTINGS = {"TF_ENABLE_ONEDNN_OPTS": "1"}  # else a processor's kind decides whether oneDNN computes


def import_keras() -> Any:
    """Imports tf_keras as this book uses it, whatever is set for it on this machine.

    What TensorFlow's native code remarks on the machine, which no log level keeps away, is not shown.
    """
    if "tensorflow" not in sys.modules:
        for name in deciding_settings():
            del os.environ[name]
        os.environ |= TENSORFLOW_SETTINGS
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tf_keras" not in sys.modules:
        standard_error, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices()  # looks for graphics cards
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
            os.close(nowhere)
    import tf_keras

    tf_keras.backend.set_image_data_format("channels_last")
    tf_keras.backend.set_floatx("float32")
    tf_keras.backend.set_epsilon(1e-7)
    return tf_keras


def deciding_settings() -> list[str]:
    """The variables of this process, other than the book's own, that can change what TensorFlow computes."""
    return sorted(
        name
        for name, value in os.environ.items()
        if name.startswith(DECIDING) and TENSORFLOW_SETTINGS.get(name) != value
    )


def read_architecture(model: Any) -> Architecture:
    """Reads the layers of a `tf_keras.Sequential`.

    A first `Rescaling(1/255)` is passed over: images are scaled wherever a network of this book is trained.

    Raises:
        ValueError: if a layer or an option is outside the vocabulary, or the layers don't fit; the message names it.
        TypeError: if `model` is no Sequential of tf_keras.
    """
    _check_origin(model)
    if tuple(model.input_shape) != (None, IMAGE_SIZE, IMAGE_SIZE, 1):
        raise ValueError(
            f"the model takes {model.input_shape[1:]}; expected ({IMAGE_SIZE}, {IMAGE_SIZE}, 1), one grey image"
        )
    read: list[Layer] = []
    for position, layer in enumerate(model.layers):
        if position == 0 and _scales_bytes(layer):
            continue
        read += _read_layer(layer)
    return Architecture(tuple(read))


def _scales_bytes(layer: Any) -> bool:
    if _kind(layer) != "Rescaling":
        return False
    options = layer.get_config()
    return (options["scale"], options["offset"]) == (1 / 255, 0)


def _check_origin(model: Any) -> None:
    keras = import_keras()
    if type(model) is not keras.Sequential:
        name = f"{type(model).__module__}.{type(model).__name__}"
        if name.startswith("keras."):
            raise TypeError(f"the model is of Keras 3 ({name}); {OTHER_KERAS}")
        raise TypeError(f"the model is a {name}; expected a tf_keras.Sequential")
    if not model.built:
        raise ValueError("the model does not know its input; begin it with keras.Input((28, 28, 1))")


def explain(error: BaseException) -> str:
    """What went wrong while layers were typed, in one line: Keras' own words, or shorter ones where it has many."""
    are_words = all(isinstance(part, str) for part in error.args)
    text = " ".join((" ".join(error.args) if are_words else str(error)).split())
    if "must be an instance of class Layer" in text and "keras.src" in text and "tf_keras" not in text:
        return f"a layer is of Keras 3; {OTHER_KERAS}"
    if "Negative dimension size" in text or "dimensions in the output is <= 0" in text:
        layer = re.search(r'layer "([\w.]+)"|in ([\w.]+)\. Consider', text)
        name = f"layer {layer[1] or layer[2]}" if layer else "a layer"
        return f"{name} has no pixels left to work on; use fewer layers or pool less"
    return text


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _read_layer(layer: Any) -> list[Layer]:
    """The records of one Keras layer: what it is, and the activation that it ends in if it has one."""
    kind = _kind(layer)
    if kind not in SUPPORTED or type(layer) is not getattr(import_keras().layers, kind):
        raise ValueError(f"layer {layer.name} is a {kind}; supported are {', '.join(SUPPORTED)}")
    ends_in = str(layer.get_config().get("activation"))
    if ends_in in FOLDED and layer.activation is not getattr(import_keras().activations, ends_in):
        raise ValueError(f"layer {layer.name} has a function of its own called {ends_in}; expected Keras' {ends_in}")
    if kind == "Activation" and ends_in not in FOLDED:
        raise ValueError(f"layer {layer.name} is {ends_in}; supported for Activation are {', '.join(FOLDED)}")
    try:
        main = _read_record(layer)
    except (ValueError, TypeError) as error:  # what the record says of a number that is out of range
        raise ValueError(f"layer {layer.name} is a {kind} whose {error}") from error
    if kind == "Activation" or ends_in not in FOLDED:
        _check_options(layer, main, "linear")
        return [main]
    _check_options(layer, main, ends_in)
    return [main, FOLDED[ends_in]]


def _read_record(layer: Any) -> Layer:
    """The record of one Keras layer, without the activation that it ends in."""
    options = layer.get_config()
    match _kind(layer):
        case "Conv2D":
            return Convolution(options["filters"], options["kernel_size"][0], options["padding"], options["use_bias"])
        case "Dense":
            return Dense(options["units"], options["use_bias"])
        case "BatchNormalization":
            return BatchNormalisation(*(options[name] for name in ("scale", "momentum", "epsilon", "center")))
        case "ReLU":
            return Activation("relu")
        case "LeakyReLU":
            # Keras keeps it in float32; the shortest number that it can have been is what was typed.
            return Activation("leaky_relu", float(str(np.float32(options["alpha"]))))
        case "Softmax":
            return Activation("softmax")
        case "Activation":
            return FOLDED[options["activation"]]
        case "MaxPooling2D":
            return MaxPooling(options["pool_size"][0])
        case "AveragePooling2D":
            return AveragePooling(options["pool_size"][0])
        case "Dropout":
            return Dropout(options["rate"])
        case "Flatten":
            return Flatten()
        case "GlobalAveragePooling2D":
            return GlobalAveragePooling()
    raise TypeError(f"a {_kind(layer)} has no record")


def _check_options(layer: Any, record: Layer, activation: str) -> None:
    """Raises ValueError if `layer` has an option that its record does not hold."""
    supported = _build_layer(record, activation).get_config()
    options = layer.get_config()
    if options.get("axis") == [len(layer.input_shape) - 1]:
        options["axis"] = -1  # a normalisation counts the last axis from the front once it knows its input
    for name, value in options.items():
        if name not in supported and name != "activation":  # that of an Activation is its record's function
            raise ValueError(f"layer {layer.name} has {name}={_plain(value)!r}, an option that this book does not know")
        if name not in FREE_OPTIONS and _plain(value) != _plain(supported.get(name, value)):
            expected = repr(_plain(supported[name]))
            if name == "activation":
                expected = "'linear', 'relu' or 'softmax', and other activations as layers of their own"
            raise ValueError(
                f"layer {layer.name} has {name}={_plain(value)!r}; supported for {_kind(layer)} is {expected}"
            )


def _plain(value: Any) -> Any:
    """An option as one would type it: a serialised object by the name of its class."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.item()
    return value.get("class_name", value) if isinstance(value, dict) else value


def _build_layer(record: Layer, activation: str = "linear", name: str | None = None) -> Any:
    """The Keras layer of a record, with the activation that it ends in."""
    layers = import_keras().layers
    # What a reader's global settings could change is said here.
    pixels = {"data_format": "channels_last", "name": name, "dtype": "float32"}
    match record:
        case Convolution():
            options = {"padding": record.padding, "use_bias": record.use_bias, "activation": activation}
            return layers.Conv2D(record.filters, record.kernel_size, **options, **pixels)
        case Dense():
            return layers.Dense(record.units, activation, record.use_bias, name=name, dtype="float32")
        case BatchNormalisation():
            options = {"momentum": record.momentum, "epsilon": record.epsilon, "scale": record.use_scale}
            return layers.BatchNormalization(**options, center=record.use_center, name=name, dtype="float32")
        case Activation(function="relu"):
            return layers.ReLU(name=name, dtype="float32")
        case Activation(function="leaky_relu"):
            return layers.LeakyReLU(record.slope, name=name, dtype="float32")
        case Activation():
            return layers.Softmax(name=name, dtype="float32")
        case MaxPooling():
            return layers.MaxPooling2D(record.size, **pixels)
        case AveragePooling():
            return layers.AveragePooling2D(record.size, **pixels)
        case Dropout():
            return layers.Dropout(record.rate, name=name, dtype="float32")
        case Flatten():
            return layers.Flatten(**pixels)
        case GlobalAveragePooling():
            return layers.GlobalAveragePooling2D(**pixels)
    raise TypeError(f"{record!r} has no Keras layer")


def build_model(architecture: Architecture) -> Any:
    """Builds the Keras model of `architecture`, with Keras' own initial weights.

    Returns:
        A `tf_keras.Sequential` from images (batch, 28, 28, 1) in 0 to 1 to class probabilities (batch, 10).
    """
    keras = import_keras()
    model = keras.Sequential([keras.Input((IMAGE_SIZE, IMAGE_SIZE, 1), dtype="float32")], name="network")
    placed = list(architecture.placed)
    while placed:
        current, activation = placed.pop(0), "linear"
        if isinstance(current.layer, Convolution | Dense) and placed:
            following = placed[0].layer
            if isinstance(following, Activation) and following.function in FOLDED:
                activation = following.function
                del placed[0]
        model.add(_build_layer(current.layer, activation, current.name.replace("/", "_")))
    return model


def trained_model(architecture: Architecture, weights: Mapping[str, np.ndarray]) -> Any:
    """The Keras model of a trained network, ready to be asked.

    Returns:
        A `tf_keras.Sequential` from images (batch, 28, 28) or (batch, 28, 28, 1) as they are stored, 0 to 255, to class
        probabilities (batch, 10): its first layer scales them. It is compiled, so `evaluate(images, labels)` works too.
    """
    keras = import_keras()
    network = build_model(architecture)
    load_weights(network, weights)
    scale = keras.layers.Rescaling(1 / 255, name="scale", dtype="float32")
    layers = [keras.Input((IMAGE_SIZE, IMAGE_SIZE, 1)), scale, *network.layers]
    model = keras.Sequential(layers, name="trained_network")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def model_variables(model: Any) -> dict[str, Any]:
    """Maps the names of `initial_weights` to the variables of a Keras model that `read_architecture` can read."""
    placed = [layer for layer in read_architecture(model).placed if layer.weights]
    with_weights = [layer for layer in model.layers if layer.weights]
    return {
        name: variable
        for names, layer in zip(placed, with_weights, strict=True)
        for name, variable in zip(names.weights, layer.weights, strict=True)
    }


def load_weights(model: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Puts named arrays, as a recorded run keeps them, into a Keras model.

    Raises:
        ValueError: if names or shapes are not those of the model.
    """
    variables = model_variables(model)
    if variables.keys() != weights.keys():
        raise ValueError(f"the weights are {sorted(weights)}; the model has {sorted(variables)}")
    for name, variable in variables.items():
        variable.assign(weights[name])


def read_weights(model: Any) -> Weights:
    """Gives the weights of a Keras model as named float32 arrays, as a recorded run keeps them."""
    return {name: variable.numpy() for name, variable in model_variables(model).items()}
