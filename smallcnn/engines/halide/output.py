"""What follows an activation: normalisation and max pooling in one formula, and dropout.

Which numbers are dropped is a function of seed, step, block and place, so that it can be computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import halide as hl
import numpy as np

from smallcnn.engines.halide.arrays import LANES, Stages, channel, column, lane, pack, row
from smallcnn.engines.halide.blocks import Block


def normalise(block: Block, activation: Any, stages: Stages) -> Callable[..., hl.Expr]:
    """y = γ x̂ + β for (lane, column, row, channel, pack), divided by what dropout leaves."""
    normalisation = stages[block.name("normalisation")]
    return lambda i, x, y, c, p: hl.strict_float(normalisation[0, c] * activation[i, x, y, c, p] + normalisation[1, c])


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


def drop_block(block: Block, value: hl.Expr, stages: Stages) -> hl.Expr:
    """The output of a block, or its gradient, with dropout."""
    return drop(value, block.dropout, block.number, (block.filters, block.output_size), stages)


def drop(value: hl.Expr, rate: float, number: int, sizes: tuple[int, int], stages: Stages) -> hl.Expr:
    """Dropout, the same forward and backward: zero where the hash of an element's number is below a threshold.

    Args:
        value: of an element, before it is scaled.
        rate: fraction that is set to zero.
        number: tells this dropout from others.
        sizes: channels of the maps, and their rows (and columns).
        stages: of the pipeline.
    """
    if rate == 0:
        return value
    key, (channels, size) = stages["dropout_key"], sizes
    element = lane + LANES * (column + size * (row + size * (channel + channels * pack)))
    own_key = hash_number(hl.u32(number), key[0], key[1], hl.u32)
    hashed = hash_number(hl.u32(element), own_key, hl.u32(0), hl.u32)
    return hl.select(hashed >= hl.u32(dropout_threshold(rate)), value, 0.0)


def dropout_threshold(rate: float) -> int:
    """What a fraction `rate` of all numbers of 32 bits is below."""
    return min(round(rate * 2**32), 2**32 - 1)


def hash_number(number: Any, key: Any, second_key: Any, uint32: Callable[[int], Any] = np.uint32) -> Any:
    """Scrambles a number into 32 bits that look random, in two rounds, each with a key.

    The shifts and multipliers are those of C. Wellons' "lowbias32" (2018). Serves Halide and NumPy alike.
    """
    mixed = number + key
    mixed = (mixed ^ (mixed >> uint32(16))) * uint32(0x7FEB352D)
    mixed = (mixed ^ (mixed >> uint32(15)) ^ second_key) * uint32(0x846CA68B)
    return mixed ^ (mixed >> uint32(16))
