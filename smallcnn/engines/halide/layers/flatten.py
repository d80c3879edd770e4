"""Flatten: the numbers of an image in one row, channel by channel within a pixel, as Keras orders them."""

from __future__ import annotations

import halide as hl

from smallcnn import architecture
from smallcnn.engines.halide.arrays import MAPS, Stages
from smallcnn.engines.halide.layers.base import Layer
from smallcnn.engines.halide.loops import vector_by_vector

lane, column, row, channel, pack = MAPS


class Flatten(Layer[architecture.Flatten]):
    """Number n is channel n mod channels of pixel n / channels, row by row; gradients go the way back."""

    def forward(self, batch_size: int, stages: Stages) -> hl.Func:
        output, pixel = self.stage("flatten"), channel // self.channels
        output[MAPS] = stages[self.input][
            lane, pixel % self.size + column, pixel // self.size + row, channel % self.channels, pack
        ]
        return vector_by_vector(output)

    def backward(self, batch_size: int, stages: Stages) -> hl.Func:
        result, position = self.stage("flatten_gradient"), (row * self.size + column) * self.channels + channel
        result[MAPS] = stages[self.gradient][lane, 0, 0, position, pack]
        return vector_by_vector(result)
