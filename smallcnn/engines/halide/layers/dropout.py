"""Dropout: in training, a fraction of all values becomes zero, and what is kept is divided by the share that is."""

from __future__ import annotations

import halide as hl

from smallcnn import architecture
from smallcnn.engines.halide.arrays import MAPS, Stages
from smallcnn.engines.halide.layers.base import Layer
from smallcnn.engines.halide.loops import vector_by_vector
from smallcnn.engines.halide.output import drop


class Dropout(Layer[architecture.Dropout]):
    """∂loss/∂x is ∂loss/∂y, dropped and divided alike."""

    def forward(self, batch_size: int, stages: Stages) -> hl.Func:
        x, output = stages[self.input][MAPS], self.stage("dropout")
        output[MAPS] = hl.select(stages["training"][0] != 0, self._drop(x, stages), x)
        return vector_by_vector(output)

    def backward(self, batch_size: int, stages: Stages) -> hl.Func:
        result = self.stage("dropout_gradient")
        result[MAPS] = self._drop(stages[self.gradient][MAPS], stages)
        return vector_by_vector(result)

    def _drop(self, value: hl.Expr, stages: Stages) -> hl.Expr:
        rate = self.layer.rate
        scaled = hl.strict_float(value / hl.f32(1 - rate))
        return drop(scaled, rate, self.number, (self.channels, self.size), stages)
