"""What a layer is to the engine: a formula forward, one backward, and the arrays that both need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import halide as hl

from smallcnn import architecture
from smallcnn.architecture import PlacedLayer, is_trainable
from smallcnn.engines.halide.arrays import LANES, Shape, Stages

Kind = TypeVar("Kind", bound=architecture.Layer)


class Layer(ABC, Generic[Kind]):
    """A layer in its place.

    All values are maps, `[pack, channel, row, column, lane]`; numbers without pixels are channels of a single pixel.

    Args:
        layer: what it is.
        placed: its names, shapes and weights.
        number: its place in the chain, from 1.

    Attributes:
        channels, size: of its input; rows are as many as columns.
        filters, output_size: of its output.
        input, output: the names of these arrays.
        gradient: the name of ∂loss/∂output.
        parameters: the names of its weights, by what they are: "kernel", "bias", "gamma" and so on.
    """

    def __init__(self, layer: Kind, placed: PlacedLayer, number: int) -> None:
        self.layer, self.number, self._placed = layer, number, placed
        (self.size, self.channels), (self.output_size, self.filters) = (
            (shape[0] if len(shape) == 3 else 1, shape[-1]) for shape in (placed.input_shape, placed.output_shape)
        )
        self.input, self.output = (f"layer_{place}/output" for place in (number - 1, number))
        self.gradient = f"layer_{number}/gradient"
        self.parameters = {name.rpartition("/")[2]: name for name in placed.weights}

    def arrays(self, packs: int) -> dict[str, Shape]:
        """The arrays that the pipelines read and write for this layer, by name."""
        output = Shape((packs, self.filters, self.output_size, self.output_size, LANES))
        weights = {name: Shape(shape) for name, shape in self._placed.weights.items()}
        gradients = {f"{name}_gradient": shape for name, shape in weights.items() if is_trainable(name)}
        return weights | gradients | {self.output: output, self.gradient: output}

    def stage(self, name: str) -> hl.Func:
        """A stage of this layer, under the name that a profile shows."""
        return hl.Func(f"layer_{self.number}_{name}")

    @abstractmethod
    def forward(self, batch_size: int, stages: Stages) -> hl.Func:
        """The output; may set what else the way back needs."""

    @abstractmethod
    def backward(self, batch_size: int, stages: Stages) -> hl.Func:
        """∂loss/∂input; sets the gradients of the weights."""
