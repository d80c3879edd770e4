"""Pooling over windows of size × size pixels that do not overlap; what fills no window at the border is left out."""

from __future__ import annotations

from typing import Any

import halide as hl

from smallcnn import architecture
from smallcnn.engines.halide.arrays import MAPS, Stages
from smallcnn.engines.halide.layers.base import Kind, Layer
from smallcnn.engines.halide.loops import vector_by_vector

lane, column, row, channel, pack = MAPS


class Pooling(Layer[Kind]):
    """What windows are; a whole map is one, in global average pooling."""

    @property
    def window(self) -> int:
        """Rows, and columns, of a window."""
        return getattr(self.layer, "size", self.size)

    def window_pixel(self) -> tuple[hl.RDom, hl.Expr, hl.Expr]:
        """A loop over the pixels of a window in row-major order, and the column and row of each in the input."""
        pixel = hl.RDom([(0, self.window), (0, self.window)], "pixel")
        return pixel, self.window * column + pixel.x, self.window * row + pixel.y

    def spread(self, value: Any) -> hl.Func:
        """∂loss/∂x: for (column, row) of x, `value` of those of its window; zero outside of all windows."""
        result, last = self.stage("pooling_gradient"), self.output_size - 1
        of_column, of_row = (hl.min(at // self.window, last) for at in (column, row))
        end = self.window * self.output_size
        result[MAPS] = hl.select((column < end) & (row < end), value(of_column, of_row), 0.0)
        return vector_by_vector(result)

    def pool(self, result: hl.Func) -> hl.Func:
        """Schedules a loop over the pixels of windows: vector by vector, the accumulator in a register."""
        vector_by_vector(result)
        pixels = result.update()
        x, y = result.rvars(0)
        pixels.reorder(lane, x, y, column, row, channel, pack).vectorize(lane).parallel(pack)
        return result


class MaxPooling(Pooling[architecture.MaxPooling]):
    """The *first* maximum of a window, row by row, gets the gradient of the window.

    Digits have constant backgrounds, so equal values are everywhere.
    """

    def forward(self, batch_size: int, stages: Stages) -> hl.Func:
        output = self.stage("max_pooling")
        _, x, y = self.window_pixel()
        output[MAPS] = hl.Float(32).min()
        output[MAPS] = hl.max(output[MAPS], stages[self.input][lane, x, y, channel, pack])
        return self.pool(output)

    def backward(self, batch_size: int, stages: Stages) -> hl.Func:
        place, (pixel, x, y) = self.stage("place_of_maximum"), self.window_pixel()
        is_new = stages[self.input][lane, x, y, channel, pack] == stages[self.output][MAPS]
        nowhere = self.window**2
        place[MAPS] = hl.i32(nowhere)
        place[MAPS] = hl.min(place[MAPS], hl.select(is_new, pixel.y * self.window + pixel.x, nowhere))
        self.pool(place)
        here = (row % self.window) * self.window + column % self.window

        def value(of_column: hl.Expr, of_row: hl.Expr) -> hl.Expr:
            at = (lane, of_column, of_row, channel, pack)
            return hl.select(place[at] == here, stages[self.gradient][at], 0.0)

        return self.spread(value)


class AveragePooling(Pooling[architecture.AveragePooling | architecture.GlobalAveragePooling]):
    """The mean of a window; its gradient goes to all pixels in equal parts."""

    def forward(self, batch_size: int, stages: Stages) -> hl.Func:
        total, output = self.stage("window_sum"), self.stage("average_pooling")
        _, x, y = self.window_pixel()
        total[MAPS] = hl.f32(0)
        total[MAPS] = hl.strict_float(total[MAPS] + stages[self.input][lane, x, y, channel, pack])
        output[MAPS] = hl.strict_float(total[MAPS] / hl.f32(self.window**2))
        self.pool(total)
        return vector_by_vector(output)

    def backward(self, batch_size: int, stages: Stages) -> hl.Func:
        gradient, count = stages[self.gradient], hl.f32(self.window**2)
        return self.spread(lambda x, y: hl.strict_float(gradient[lane, x, y, channel, pack] / count))
