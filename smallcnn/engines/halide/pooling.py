"""Normalisation and max pooling in one formula: y of a pixel, and which pixel of a window the pooling takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import halide as hl

from smallcnn.engines.halide.arrays import Stages
from smallcnn.engines.halide.blocks import Block


def normalise(block: Block, activation: Any, stages: Stages) -> Callable[..., hl.Expr]:
    """y = γ x̂ + β for (lane, column, row, channel, pack), divided by what dropout leaves."""
    normalisation = stages[block.name("normalisation")]
    return lambda i, x, y, c, p: normalisation[0, c] * activation[i, x, y, c, p] + normalisation[1, c]


def window_pixels(at_column: Any, at_row: Any) -> list[tuple[Any, Any]]:
    """Columns and rows of the four pixels under one pixel of a pooled map, in row-major order."""
    return [(2 * at_column + x, 2 * at_row + y) for y in range(2) for x in range(2)]


def first_maximum(values: Sequence[hl.Expr]) -> list[hl.Expr]:
    """Tells of each of four values whether it is their maximum, and the first of them if several are.

    Digits have constant backgrounds, so equal values are everywhere, and only one may get the gradient.
    """
    a, b, c, d = values
    is_a = a >= hl.max(b, c, d)
    is_b = hl.logical_not(is_a) & (b >= hl.max(c, d))
    is_c = hl.logical_not(is_a | is_b) & (c >= d)
    return [is_a, is_b, is_c, hl.logical_not(is_a | is_b | is_c)]
