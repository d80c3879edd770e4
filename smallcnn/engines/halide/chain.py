"""A chain of any layers of the vocabulary, each computed by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import halide as hl
import numpy as np

from smallcnn import architecture
from smallcnn.architecture import IMAGE_SIZE, Architecture
from smallcnn.engines.halide.arrays import LANES, MAPS, Shape, Stages, number
from smallcnn.engines.halide.ends import loss_and_correct, read_images, score_gradient, softmax
from smallcnn.engines.halide.layers.activation import Activation
from smallcnn.engines.halide.layers.base import Layer
from smallcnn.engines.halide.layers.convolution import Convolution
from smallcnn.engines.halide.layers.dropout import Dropout
from smallcnn.engines.halide.layers.flatten import Flatten
from smallcnn.engines.halide.layers.normalisation import Normalisation
from smallcnn.engines.halide.layers.pooling import AveragePooling, MaxPooling
from smallcnn.engines.halide.loops import vector_by_vector

lane, _, _, channel, pack = MAPS
KINDS: dict[type[architecture.Layer], type[Layer[Any]]] = {
    architecture.Convolution: Convolution,
    architecture.Dense: Convolution,
    architecture.Activation: Activation,
    architecture.BatchNormalisation: Normalisation,
    architecture.MaxPooling: MaxPooling,
    architecture.AveragePooling: AveragePooling,
    architecture.GlobalAveragePooling: AveragePooling,
    architecture.Dropout: Dropout,
    architecture.Flatten: Flatten,
}


class Chain:
    """The layers of a network without the softmax at its end, which `ends` computes."""

    def __init__(self, network: Architecture) -> None:
        placed = enumerate(network.placed[:-1], start=1)
        self._layers = [KINDS[type(each.layer)](each.layer, each, place) for place, each in placed]

    def arrays(self, packs: int) -> dict[str, Shape]:
        """The arrays of the layers, and of both ends, for batches of so many packs."""
        shapes = {self._layers[0].input: Shape((packs, 1, IMAGE_SIZE, IMAGE_SIZE, LANES))}
        for layer in self._layers:
            shapes |= layer.arrays(packs)
        return shapes

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Fills arrays that nothing writes later; there are none."""

    def forward(self, batch_size: int, stages: Stages) -> None:
        """From images to the probabilities of the classes."""
        stages[self._layers[0].input] = read_images(stages["images"])
        for layer in self._layers:
            stages[layer.output] = layer.forward(batch_size, stages)
        scores = hl.Func("scores")
        scores[lane, number, pack] = stages[self._layers[-1].output][lane, 0, 0, number, pack]
        stages["probabilities"] = softmax(scores)

    def backward(self, batch_size: int, stages: Stages) -> None:
        """From the probabilities of the classes to their loss and to the gradients of all weights."""
        stages["loss_and_correct"] = loss_and_correct(-(-batch_size // LANES), stages)
        stages["score_gradient"] = score_gradient(batch_size, stages)
        gradient = hl.Func("last_gradient")
        gradient[MAPS] = stages["score_gradient"][channel, lane, pack]
        gradient = vector_by_vector(gradient)
        for layer in reversed(self._layers):
            stages[layer.gradient] = gradient
            gradient = layer.backward(batch_size, stages)
