"""The family of networks of the book, the three published ones, and their parameter counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from smallcnn.checks import check_choice, check_fraction, check_integers

IMAGE_SIZE = 28
CLASSES = 10
TARGET = 0.99  # the accuracy of the question
KERNEL_SIZE = 3
HEADS = ("dense", "pooled")
MOST_FILTERS = 1024  # more would be a mistake in a study of small networks, and fill the memory


@dataclass(frozen=True)
class Architecture:
    """A chain of blocks and a head.

    A block is a 3×3 convolution (stride 1, no padding), ReLU and batch normalisation, then, where asked for,
    2×2 max pooling and dropout. Blocks are numbered from 1.

    Attributes:
        filters: filters of each block's convolution, first block first.
        pool_after: blocks that end in 2×2 max pooling.
        dropout: fraction of values set to zero where dropout is applied, 0 to below 1.
        dropout_after: blocks that end in dropout.
        head: "dense" (flatten, dense layer of 10, softmax) or "pooled" (global average pooling, softmax; the last
            block then has 10 filters).

    Raises:
        ValueError: if a value is out of range, or no pixel is left for a block.
        TypeError: if a value has the wrong type.
    """

    filters: tuple[int, ...]
    pool_after: tuple[int, ...]
    dropout: float
    dropout_after: tuple[int, ...]
    head: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", check_integers("filters", self.filters, minimum=1, maximum=MOST_FILTERS))
        if not self.filters:
            raise ValueError("filters is empty; expected at least one number of filters, for example [4, 8, 10]")
        for name in ("pool_after", "dropout_after"):
            blocks = check_integers(name, getattr(self, name), minimum=1, maximum=len(self.filters))
            object.__setattr__(self, name, tuple(sorted(set(blocks))))
        object.__setattr__(self, "dropout", check_fraction("dropout", self.dropout, below_one=True))
        check_choice("head", self.head, HEADS)
        if self.head == "pooled" and self.filters[-1] != CLASSES:
            raise ValueError(
                f"the last of filters is {self.filters[-1]}; a pooled head needs {CLASSES}, one filter a class"
            )
        layers(self)

    @property
    def name(self) -> str:
        """The filters joined by hyphens, as in "4-8-16-16-10"."""
        return "-".join(map(str, self.filters))


@dataclass(frozen=True)
class Layer:
    """One layer of a network, as counted.

    Attributes:
        name: such as "block_1/convolution".
        kind: such as "convolution 3×3, ReLU".
        output_shape: (rows, columns, channels), or (length,) once there are no pixels.
        parameters: trainable and other parameters together.
        trainable: parameters that training changes by gradients.
        prunable: kernel weights of a convolution; zero for every other layer.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int = 0
    trainable: int = 0
    prunable: int = 0


def layers(architecture: Architecture) -> list[Layer]:
    """Lists the layers of `architecture` in order, with output shapes and parameter counts.

    Raises:
        ValueError: if a block would have no pixel to work on.
    """
    size, channels, result = IMAGE_SIZE, 1, []
    for block, filters in enumerate(architecture.filters, start=1):
        size -= KERNEL_SIZE - 1
        _check_size(architecture, block, size, "its convolution")
        kernel = KERNEL_SIZE**2 * channels * filters
        shape = (size, size, filters)
        result.append(
            Layer(
                f"block_{block}/convolution", "convolution 3×3, ReLU", shape, kernel + filters, kernel + filters, kernel
            )
        )
        result.append(Layer(f"block_{block}/normalisation", "batch normalisation", shape, 4 * filters, 2 * filters))
        if block in architecture.pool_after:
            size //= 2
            _check_size(architecture, block, size, "its pooling")
            result.append(Layer(f"block_{block}/pooling", "max pooling 2×2", (size, size, filters)))
        if block in architecture.dropout_after and architecture.dropout > 0:
            kind = f"dropout {100 * architecture.dropout:g} %"
            result.append(Layer(f"block_{block}/dropout", kind, (size, size, filters)))
        channels = filters
    if architecture.head == "dense":
        length = size * size * channels
        dense = length * CLASSES + CLASSES
        result.append(Layer("flatten", "flatten", (length,)))
        result.append(Layer("dense", "dense, softmax", (CLASSES,), dense, dense))
    else:
        result.append(Layer("pooled", "global average pooling, softmax", (CLASSES,)))
    return result


def _check_size(architecture: Architecture, block: int, size: int, what: str) -> None:
    if size < 1:
        raise ValueError(
            f"filters {list(architecture.filters)} with pool_after {list(architecture.pool_after)} leave no pixels: "
            f"block {block} has none after {what}; use fewer blocks or pool less"
        )


PUBLISHED = {
    "approach_1": Architecture((32, 14), (1, 2), 0.1, (2,), "dense"),
    "approach_2": Architecture((4, 8, 16, 16, 10), (2,), 0.1, (3, 4, 5), "pooled"),
    "approach_3": Architecture((2, 4, 8, 16, 10), (2,), 0.0, (), "pooled"),
}


def count_total(architecture: Architecture) -> int:
    """Counts all parameters, the moving statistics of batch normalisation included."""
    return sum(layer.parameters for layer in layers(architecture))


def count_trainable(architecture: Architecture) -> int:
    """Counts the parameters that training changes by gradients."""
    return sum(layer.trainable for layer in layers(architecture))


def count_prunable(architecture: Architecture) -> int:
    """Counts the kernel weights of all convolutions, the only weights that the book prunes."""
    return sum(layer.prunable for layer in layers(architecture))


def count_multiply_adds(architecture: Architecture) -> int:
    """Counts the multiplications, each with an addition, that convolutions and dense layer take for one image."""
    listed = layers(architecture)
    convolutions = sum(layer.prunable * layer.output_shape[0] ** 2 for layer in listed)
    dense = listed[-1].parameters - CLASSES if architecture.head == "dense" else 0
    return convolutions + dense


def initial_weights(architecture: Architecture, seed: int) -> dict[str, np.ndarray]:
    """Draws the weights that a run with `seed` starts from, the same for every engine.

    Kernels are Glorot uniform (Glorot & Bengio 2010, eq. 16), biases and β zero, γ one, moving means zero and moving
    variances one.

    Returns:
        float32 arrays in Keras' shapes by name, `block_1/kernel` (3, 3, in, out), `block_1/bias` (out,), and so on to
        `dense/kernel` (length, 10) and `dense/bias` (10,) for a dense head.
    """
    generator = np.random.default_rng(seed)

    def glorot_uniform(shape: tuple[int, ...]) -> np.ndarray:
        receptive_field = int(np.prod(shape[:-2]))
        limit = np.sqrt(6 / (receptive_field * (shape[-2] + shape[-1])))
        return generator.uniform(-limit, limit, shape).astype(np.float32)

    weights, channels = {}, 1
    for block, filters in enumerate(architecture.filters, start=1):
        weights[f"block_{block}/kernel"] = glorot_uniform((KERNEL_SIZE, KERNEL_SIZE, channels, filters))
        weights[f"block_{block}/bias"] = np.zeros(filters, np.float32)
        weights[f"block_{block}/gamma"] = np.ones(filters, np.float32)
        weights[f"block_{block}/beta"] = np.zeros(filters, np.float32)
        weights[f"block_{block}/moving_mean"] = np.zeros(filters, np.float32)
        weights[f"block_{block}/moving_variance"] = np.ones(filters, np.float32)
        channels = filters
    if architecture.head == "dense":
        (length,) = layers(architecture)[-2].output_shape
        weights["dense/kernel"] = glorot_uniform((length, CLASSES))
        weights["dense/bias"] = np.zeros(CLASSES, np.float32)
    return weights


def convolution_kernels(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Picks the kernels of the convolutions, the prunable weights, in the order of the blocks."""
    return {name: array for name, array in weights.items() if name.startswith("block_") and name.endswith("/kernel")}


def build_model(architecture: Architecture) -> Any:
    """Builds the Keras model of `architecture`, with Keras' own initial weights.

    Returns:
        A `tf_keras.Sequential` from images (batch, 28, 28, 1) in 0 to 1 to class probabilities (batch, 10).
    """
    import tf_keras as keras  # here, because counting parameters must not wait for TensorFlow

    model = keras.Sequential([keras.Input((IMAGE_SIZE, IMAGE_SIZE, 1))], name="network")
    for block, filters in enumerate(architecture.filters, start=1):
        model.add(keras.layers.Conv2D(filters, KERNEL_SIZE, activation="relu", name=f"block_{block}_convolution"))
        model.add(keras.layers.BatchNormalization(name=f"block_{block}_normalisation"))
        if block in architecture.pool_after:
            model.add(keras.layers.MaxPooling2D(2, name=f"block_{block}_pooling"))
        if block in architecture.dropout_after and architecture.dropout > 0:
            model.add(keras.layers.Dropout(architecture.dropout, name=f"block_{block}_dropout"))
    if architecture.head == "dense":
        model.add(keras.layers.Flatten(name="flatten"))
        model.add(keras.layers.Dense(CLASSES, activation="softmax", name="dense"))
    else:
        model.add(keras.layers.GlobalAveragePooling2D(name="pooled"))
        model.add(keras.layers.Softmax(name="softmax"))
    return model


def model_variables(model: Any) -> dict[str, Any]:
    """Maps the names of `initial_weights` to the variables of a model that `build_model` made."""
    variables = {}
    for layer in model.layers:
        block = layer.name.removesuffix("_convolution").removesuffix("_normalisation")
        for variable in layer.weights:
            variables[f"{block}/{variable.name.split('/')[-1].split(':')[0]}"] = variable
    return variables


def load_weights(model: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Puts named arrays, as a recorded run keeps them, into a model that `build_model` made.

    Raises:
        ValueError: if names or shapes are not those of the model.
    """
    variables = model_variables(model)
    if variables.keys() != weights.keys():
        raise ValueError(f"the weights are {sorted(weights)}; the model has {sorted(variables)}")
    for name, variable in variables.items():
        variable.assign(weights[name])


def read_weights(model: Any) -> dict[str, np.ndarray]:
    """Gives the weights of a model that `build_model` made as named float32 arrays, as a recorded run keeps them."""
    return {name: variable.numpy() for name, variable in model_variables(model).items()}


ARCHITECTURE_FIELDS = tuple(field.name for field in fields(Architecture))
