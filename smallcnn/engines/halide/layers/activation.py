"""ReLU and leaky ReLU: y = x where x > 0, and slope · x elsewhere."""

from __future__ import annotations

import halide as hl

from smallcnn import architecture
from smallcnn.engines.halide.arrays import MAPS, Stages
from smallcnn.engines.halide.layers.base import Layer
from smallcnn.engines.halide.loops import vector_by_vector


class Activation(Layer[architecture.Activation]):
    """∂loss/∂x is ∂loss/∂y where y > 0, which is where x > 0, and slope times it elsewhere."""

    def forward(self, batch_size: int, stages: Stages) -> hl.Func:
        x, output = stages[self.input], self.stage("activation")
        output[MAPS] = self._scaled_unless(x[MAPS] > 0.0, x[MAPS])
        return vector_by_vector(output)

    def backward(self, batch_size: int, stages: Stages) -> hl.Func:
        result = self.stage("activation_gradient")
        result[MAPS] = self._scaled_unless(stages[self.output][MAPS] > 0.0, stages[self.gradient][MAPS])
        return vector_by_vector(result)

    def _scaled_unless(self, positive: hl.Expr, value: hl.Expr) -> hl.Expr:
        slope = self.layer.slope
        return hl.select(positive, value, hl.strict_float(hl.f32(slope) * value) if slope else hl.f32(0))
