"""The convolution, and the dense layer, which is one of 1×1 over a single pixel: y = kernel ∗ x + bias."""

from __future__ import annotations

from typing import Any

import halide as hl

from smallcnn import architecture
from smallcnn.engines.halide.arrays import LANES, MAPS, Shape, Stages
from smallcnn.engines.halide.convolution import convolve, sum_kernel_gradient
from smallcnn.engines.halide.layers.base import Layer
from smallcnn.engines.halide.loops import channel_sums, in_double, sum_over_packs

lane, column, row, channel, pack = MAPS


class Convolution(Layer[architecture.Convolution | architecture.Dense]):
    """∂loss/∂x is ∂loss/∂y, bordered by zeros, convolved with the turned kernel; ∂loss/∂bias its sum."""

    @property
    def kernel_size(self) -> int:
        """Rows, and columns, of the kernel."""
        return getattr(self.layer, "kernel_size", 1)

    @property
    def border(self) -> int:
        """Columns of zeros left of the input, and rows above; Keras puts the larger half behind."""
        return (self.kernel_size - 1) // 2 if getattr(self.layer, "padding", "valid") == "same" else 0

    def arrays(self, packs: int) -> dict[str, Shape]:
        kernel = Shape((self.kernel_size, self.kernel_size, self.channels, self.filters))
        name = self.parameters["kernel"]
        return super().arrays(packs) | {name: kernel, f"{name}_gradient": kernel}

    def forward(self, batch_size: int, stages: Stages) -> hl.Func:
        kernel, maps = stages[self.parameters["kernel"]], self._bordered_input(stages)
        bias = stages[self.parameters["bias"]] if "bias" in self.parameters else None
        result, sizes = self.stage("convolution"), (self.channels, self.filters, self.output_size)

        def weight(to_filter: Any, from_channel: Any, x: Any, y: Any) -> hl.Expr:
            return kernel[to_filter, from_channel, x, y]

        def finish(total: hl.Expr) -> hl.Expr:
            return total if bias is None else hl.strict_float(total + bias[channel])

        convolve(result, maps, weight, finish, sizes, self.kernel_size).compute_root().parallel(pack)
        self._compute_border(maps, stages[self.input], result)
        return result

    def backward(self, batch_size: int, stages: Stages) -> hl.Func:
        packs, gradient = -(-batch_size // LANES), stages[self.gradient]
        if "bias" in self.parameters:
            stages[f"{self.parameters['bias']}_gradient"] = self._bias_gradient(packs, stages)
        maps, name = self._bordered_input(stages), f"{self.parameters['kernel']}_gradient"
        sizes = (self.filters, self.output_size)
        stages[name], _, by_pack = sum_kernel_gradient(
            lambda part: self.stage(f"kernel_gradient_{part}"), maps, gradient, sizes, packs, self.kernel_size, channel
        )
        self._compute_border(maps, stages[self.input], by_pack)
        return self._input_gradient(stages)

    def _bias_gradient(self, packs: int, stages: Stages) -> hl.Func:
        sums, result = self.stage("gradient_sums"), self.stage("bias_gradient")
        channel_sums(sums, [stages[self.gradient]], self.filters, self.output_size, stages)
        result[channel] = hl.f32(sum_over_packs(in_double(sums), packs, 0, channel))
        return result.compute_root()

    def _input_gradient(self, stages: Stages) -> hl.Func:
        kernel, result, last = stages[self.parameters["kernel"]], self.stage("input_gradient"), self.kernel_size - 1
        maps = bordered(stages[self.gradient], self.output_size, last - self.border) if last else stages[self.gradient]

        def weight(to_channel: Any, from_filter: Any, x: Any, y: Any) -> hl.Expr:
            return kernel[from_filter, to_channel, last - x, last - y]

        sizes = (self.filters, self.channels, self.size)
        convolve(result, maps, weight, lambda total: total, sizes, self.kernel_size).compute_root().parallel(pack)
        self._compute_border(maps, stages[self.gradient], result)
        return result

    def _bordered_input(self, stages: Stages) -> Any:
        is_padded = getattr(self.layer, "padding", "valid") == "same"
        return bordered(stages[self.input], self.size, self.border) if is_padded else stages[self.input]

    def _compute_border(self, maps: Any, inner: Any, reader: hl.Func) -> None:
        """Computes maps with a border, if they are more than those inside, for each pack that `reader` reads."""
        if maps is not inner:
            maps.compute_at(reader, pack).vectorize(lane, LANES)


def bordered(maps: Any, size: int, border: int) -> hl.Func:
    """Maps of so many rows and columns with zeros around them, and so many of these before the first pixel."""
    everywhere, inner, result = hl.Range(), hl.Range(0, size), hl.Func("bordered")
    outside = hl.BoundaryConditions.constant_exterior(maps, 0.0, [everywhere, inner, inner, everywhere, everywhere])
    result[MAPS] = outside[lane, column - border, row - border, channel, pack]
    return result
