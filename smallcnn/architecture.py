"""A network as a list of layers, and what follows from it: shapes, counts, arithmetic, initial weights.

The vocabulary is that of small Keras models. `models.read_architecture` reads the list from a Keras model and
`models.build_model` turns it back into one. To add a kind of layer, write its record here and its two lines there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from smallcnn.checks import check_choice, check_flag, check_fraction, check_integer, check_number, quote

IMAGE_SIZE = 28
CLASSES = 10
TARGET = 0.99  # the accuracy of the question
MOST_FILTERS = 1024  # more would be a mistake in a study of small networks, and fill the memory

Shape = tuple[int, ...]  # (rows, columns, channels), or (length,) once there are no pixels
Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """One layer; the subclasses are the vocabulary.

    Attributes:
        kind: how a recorded run calls it.
        noun: what it is called within its block.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]

    @property
    def description(self) -> str:
        """What it does, in a few words."""
        return self.noun

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the output for an input of `shape`; raises ValueError if the layer cannot take that."""
        return shape

    def weight_shapes(self, shape: Shape) -> dict[str, Shape]:
        """The shapes of the weights, in Keras' order, for an input of `shape`."""
        return {}

    def multiply_adds(self, shape: Shape) -> int:
        """The multiplications, each with an addition, for one input of `shape`."""
        return 0


@dataclass(frozen=True)
class Convolution(Layer):
    """A convolution over square windows, stride 1.

    Attributes:
        filters: channels of the output.
        kernel_size: rows, and columns, of the window.
        padding: "valid", where the window stays inside the image, or "same", where zeros around it keep its size.
        use_bias: whether a number is added to each channel.
    """

    kind, noun = "convolution", "convolution"
    filters: int
    kernel_size: int = 3
    padding: str = "valid"
    use_bias: bool = True

    def __post_init__(self) -> None:
        check_integer("filters", self.filters, minimum=1, maximum=MOST_FILTERS)
        check_integer("kernel_size", self.kernel_size, minimum=1, maximum=IMAGE_SIZE)
        check_choice("padding", self.padding, ("valid", "same"))
        check_flag("use_bias", self.use_bias)

    @property
    def description(self) -> str:
        padding = "" if self.padding == "valid" else ", padded"
        return f"convolution {self.kernel_size}×{self.kernel_size}{padding}{'' if self.use_bias else ', no bias'}"

    def output_shape(self, shape: Shape) -> Shape:
        rows, columns, _ = _pixels(shape)
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        return _with_pixels(rows - lost, columns - lost, self.filters)

    def weight_shapes(self, shape: Shape) -> dict[str, Shape]:
        kernel = {"kernel": (self.kernel_size, self.kernel_size, shape[2], self.filters)}
        return kernel | ({"bias": (self.filters,)} if self.use_bias else {})

    def multiply_adds(self, shape: Shape) -> int:
        rows, columns, _ = self.output_shape(shape)
        return rows * columns * math.prod(self.weight_shapes(shape)["kernel"])


@dataclass(frozen=True)
class Activation(Layer):
    """A function of each number alone, or softmax over the classes.

    Attributes:
        function: "relu", "leaky_relu" or "softmax".
        slope: of a leaky ReLU below zero.
    """

    kind, noun = "activation", "activation"
    function: str
    slope: float = 0.0

    def __post_init__(self) -> None:
        check_choice("function", self.function, ("relu", "leaky_relu", "softmax"))
        slope = check_fraction("slope", self.slope, below_one=True)
        if (slope > 0) != (self.function == "leaky_relu"):
            raise ValueError(f"slope of {self.function} is {slope}; expected a number above 0 for leaky_relu, else 0")
        object.__setattr__(self, "slope", slope)

    @property
    def description(self) -> str:
        return {"relu": "ReLU", "leaky_relu": f"leaky ReLU {self.slope:g}", "softmax": "softmax"}[self.function]


@dataclass(frozen=True)
class BatchNormalisation(Layer):
    """Batch normalisation of each channel (Ioffe & Szegedy 2015, arXiv:1502.03167).

    Attributes:
        use_scale: whether there is a factor γ.
        momentum: what share of the moving statistics a training step keeps.
        epsilon: added to the variance.
        use_center: whether there is a summand β.
    """

    kind, noun = "batch_normalisation", "normalisation"
    use_scale: bool = True
    momentum: float = 0.99
    epsilon: float = 1e-3
    use_center: bool = True

    def __post_init__(self) -> None:
        check_flag("use_scale", self.use_scale)
        check_flag("use_center", self.use_center)
        object.__setattr__(self, "momentum", check_fraction("momentum", self.momentum, below_one=True))
        object.__setattr__(self, "epsilon", check_number("epsilon", self.epsilon))
        if self.epsilon <= 0:
            raise ValueError(f"epsilon is {self.epsilon}; expected a number above 0")

    @property
    def description(self) -> str:
        unusual = [f"no {name}" for name, used in (("γ", self.use_scale), ("β", self.use_center)) if not used]
        unusual += [
            f"{field.name} {getattr(self, field.name):g}"
            for field in fields(self)
            if field.name in ("momentum", "epsilon") and getattr(self, field.name) != field.default
        ]
        return ", ".join(["batch normalisation", *unusual])

    def weight_shapes(self, shape: Shape) -> dict[str, Shape]:
        used = {"gamma": self.use_scale, "beta": self.use_center, "moving_mean": True, "moving_variance": True}
        return {name: (shape[-1],) for name, is_used in used.items() if is_used}


@dataclass(frozen=True)
class _Pooling(Layer):
    size: int = 2

    def __post_init__(self) -> None:
        check_integer("size", self.size, minimum=2, maximum=IMAGE_SIZE)

    @property
    def description(self) -> str:
        return f"{self.kind.replace('_', ' ')} {self.size}×{self.size}"

    def output_shape(self, shape: Shape) -> Shape:
        rows, columns, channels = _pixels(shape)
        return _with_pixels(rows // self.size, columns // self.size, channels)


@dataclass(frozen=True)
class MaxPooling(_Pooling):
    """The maximum of each window of `size` × `size` pixels; windows do not overlap."""

    kind, noun = "max_pooling", "pooling"


@dataclass(frozen=True)
class AveragePooling(_Pooling):
    """The mean of each window of `size` × `size` pixels; windows do not overlap."""

    kind, noun = "average_pooling", "pooling"


@dataclass(frozen=True)
class Dropout(Layer):
    """In training, sets the fraction `rate` of its input to zero and scales the rest (Srivastava et al. 2014)."""

    kind, noun = "dropout", "dropout"
    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", check_fraction("rate", self.rate, below_one=True))

    @property
    def description(self) -> str:
        return f"dropout {100 * self.rate:g} %"


@dataclass(frozen=True)
class Flatten(Layer):
    """All numbers of an image in one row."""

    kind, noun = "flatten", "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True)
class GlobalAveragePooling(Layer):
    """The mean of each channel over all pixels (Lin et al. 2013, arXiv:1312.4400)."""

    kind, noun = "global_average_pooling", "average"

    @property
    def description(self) -> str:
        return "global average pooling"

    def output_shape(self, shape: Shape) -> Shape:
        return (_pixels(shape)[2],)


@dataclass(frozen=True)
class Dense(Layer):
    """Weighted sums of all numbers, `units` of them."""

    kind, noun = "dense", "dense"
    units: int
    use_bias: bool = True

    def __post_init__(self) -> None:
        check_integer("units", self.units, minimum=1, maximum=MOST_FILTERS)
        check_flag("use_bias", self.use_bias)

    @property
    def description(self) -> str:
        return f"dense{'' if self.use_bias else ', no bias'}"

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ValueError(f"its input is {_shown(shape)}; flatten it or average it first")
        return (self.units,)

    def weight_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"kernel": (shape[0], self.units)} | ({"bias": (self.units,)} if self.use_bias else {})

    def multiply_adds(self, shape: Shape) -> int:
        return shape[0] * self.units


KINDS: dict[str, type[Layer]] = {
    layer.kind: layer
    for layer in (
        Convolution, Activation, BatchNormalisation, MaxPooling, AveragePooling, Dropout, Flatten, GlobalAveragePooling,
        Dense,
    )
}  # fmt: skip


def _pixels(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"its input is {_shown(shape)}, which has no rows and columns any more")
    return shape[0], shape[1], shape[2]


def _with_pixels(rows: int, columns: int, channels: int) -> Shape:
    if rows < 1 or columns < 1:
        raise ValueError("it leaves no pixels; use fewer layers or pool less")
    return rows, columns, channels


def _shown(shape: Shape) -> str:
    return "×".join(map(str, shape))


@dataclass(frozen=True)
class PlacedLayer:
    """A layer in its place in a network.

    Attributes:
        name: such as "block_1/convolution"; a convolution begins a block.
        layer: what it is.
        input_shape, output_shape: (rows, columns, channels), or (length,) once there are no pixels.
        weights: shapes by name, as a recorded run names them: "block_1/kernel", …, "dense/bias".
    """

    name: str
    layer: Layer
    input_shape: Shape
    output_shape: Shape
    weights: dict[str, Shape]

    @property
    def parameters(self) -> int:
        """Trainable and other parameters together."""
        return sum(map(math.prod, self.weights.values()))

    @property
    def trainable(self) -> int:
        """Parameters that training changes by gradients."""
        return sum(math.prod(shape) for name, shape in self.weights.items() if is_trainable(name))

    @property
    def prunable(self) -> int:
        """Kernel weights of a convolution, the only weights that the book prunes; zero for every other layer."""
        return math.prod(self.weights[self.kernel]) if self.kernel else 0

    @property
    def kernel(self) -> str:
        """The name of a convolution's kernel; empty for every other layer."""
        return next(iter(self.weights)) if isinstance(self.layer, Convolution) else ""

    @property
    def multiply_adds(self) -> int:
        """The multiplications, each with an addition, for one image."""
        return self.layer.multiply_adds(self.input_shape)


def is_trainable(name: str) -> bool:
    """Whether the weight of this name is changed by gradients, unlike the moving statistics."""
    return "/moving_" not in name


@dataclass(frozen=True)
class Architecture:
    """A chain of layers from an image (28, 28, 1) to the probabilities of the ten classes.

    Raises:
        ValueError: if a layer cannot take the output of the one before, or the last is not softmax over ten numbers.
        TypeError: if something is no layer of the vocabulary.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        for layer in self.layers:
            if type(layer) not in KINDS.values():
                raise TypeError(f"{quote(layer)} is no layer; there are: {', '.join(KINDS)}")
        softmax = Activation("softmax")
        if not self.layers or self.layers[-1] != softmax or softmax in self.layers[:-1]:
            raise ValueError("the network must end in softmax, and have it nowhere else")
        if self.placed[-1].output_shape != (CLASSES,):
            shape = _shown(self.placed[-1].output_shape)
            raise ValueError(f"the network ends in {shape} numbers for an image; expected {CLASSES}, one a class")

    @cached_property
    def placed(self) -> tuple[PlacedLayer, ...]:
        """The layers with names, shapes and weights.

        Weights are named by the block, or the dense layer, that they belong to, and by what they are. A second
        normalisation in the same block adds its number.
        """
        shape: Shape = (IMAGE_SIZE, IMAGE_SIZE, 1)
        group, blocks, denses = "input", 0, 0
        names: set[str] = set()
        placed = []
        for layer in self.layers:
            if isinstance(layer, Convolution):
                blocks += 1
                group = f"block_{blocks}"
            elif isinstance(layer, Dense):
                denses += 1
                group = "dense" if denses == 1 else f"dense_{denses}"
            base = group if isinstance(layer, Dense) else f"{group}/{layer.noun}"
            name, number = base, 1
            while name in names:
                number += 1
                name = f"{base}_{number}"
            names.add(name)
            try:
                output_shape = layer.output_shape(shape)
            except ValueError as error:
                raise ValueError(f"{name} ({layer.description}): {error}") from error
            prefix = group if number == 1 else name
            weights = {f"{prefix}/{leaf}": size for leaf, size in layer.weight_shapes(shape).items()}
            placed.append(PlacedLayer(name, layer, shape, output_shape, weights))
            shape = output_shape
        return tuple(placed)

    @property
    def name(self) -> str:
        """The filters of the convolutions joined by hyphens, as in "4-8-16-16-10"."""
        filters = [layer.filters for layer in self.layers if isinstance(layer, Convolution)]
        return "-".join(map(str, filters)) or "without convolutions"

    @property
    def weight_shapes(self) -> dict[str, Shape]:
        """The shapes of all weights by name, in the order of the layers."""
        return {name: shape for layer in self.placed for name, shape in layer.weights.items()}

    @property
    def total(self) -> int:
        """All parameters, the moving statistics of batch normalisation included."""
        return sum(layer.parameters for layer in self.placed)

    @property
    def trainable(self) -> int:
        """The parameters that training changes by gradients."""
        return sum(layer.trainable for layer in self.placed)

    @property
    def prunable(self) -> int:
        """The kernel weights of all convolutions, the only weights that the book prunes."""
        return sum(layer.prunable for layer in self.placed)

    @property
    def kernels(self) -> list[str]:
        """The names of the convolutions' kernels, in their order."""
        return [layer.kernel for layer in self.placed if layer.kernel]

    @property
    def multiply_adds(self) -> int:
        """The multiplications, each with an addition, that one image takes."""
        return sum(layer.multiply_adds for layer in self.placed)

    def to_json(self) -> list[dict[str, Any]]:
        """The layers as JSON values; an option at its default is left out, so that a new one changes no key."""
        return [{"kind": layer.kind} | without_defaults(layer) for layer in self.layers]

    @classmethod
    def from_json(cls, layers: Sequence[Mapping[str, Any]]) -> Architecture:
        """Reads what `to_json` gave."""
        return cls(tuple(_layer_from_json(**values) for values in layers))

    def __repr__(self) -> str:
        return f"<Architecture {self.name}: {self.trainable:,} trainable of {self.total:,} parameters>"


def _layer_from_json(kind: str, **options: Any) -> Layer:
    return KINDS[check_choice("kind", kind, tuple(KINDS))](**options)


def without_defaults(record: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, or have none."""
    values = ((field, getattr(record, field.name)) for field in fields(record))
    return {field.name: value for field, value in values if field.default is MISSING or value != field.default}


def initial_weights(architecture: Architecture, seed: int) -> Weights:
    """Draws the weights that a run with `seed` starts from, the same for every engine.

    Kernels are Glorot uniform (Glorot & Bengio 2010, eq. 16), biases and β zero, γ one, moving means zero and moving
    variances one.

    Returns:
        float32 arrays in Keras' shapes by name, `block_1/kernel` (rows, columns, in, out), `block_1/bias` (out,), and
        so on.
    """
    generator = np.random.default_rng(seed)

    def draw(name: str, shape: Shape) -> np.ndarray:
        if name.endswith("/kernel"):
            limit = math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
            uniform = 2 * limit * generator.random(shape) - limit  # in two roundings, which `uniform` may fuse into one
            return uniform.astype(np.float32)
        return np.full(shape, name.endswith(("/gamma", "/moving_variance")), np.float32)

    return {name: draw(name, shape) for name, shape in architecture.weight_shapes.items()}


def convolution_kernels(weights: Mapping[str, np.ndarray]) -> Weights:
    """Picks the kernels of the convolutions, the prunable weights, in the order of the blocks."""
    return {name: array for name, array in weights.items() if name.endswith("/kernel") and array.ndim == 4}
