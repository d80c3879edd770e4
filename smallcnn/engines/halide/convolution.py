"""The convolution: sums that stay in registers while all channels and taps of a small tile of outputs are added.

It serves three times: for a block's activation, for that once more where it is not kept, and for the gradient of an
input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import halide as hl

from smallcnn.engines.halide.arrays import LANES, MAPS, Stages, block_stage, channel, column, lane, pack, row
from smallcnn.engines.halide.blocks import KERNEL_SIZE, Block
from smallcnn.engines.halide.loops import Loop, channel_group
from smallcnn.engines.halide.target import count_registers


def convolve(
    result: hl.Func,
    maps: Any,
    weight: Callable[..., hl.Expr],
    finish: Callable[[hl.Expr], hl.Expr],
    sizes: tuple[int, int, int],
) -> hl.Func:
    """Convolves maps with 3×3 weights; where that is computed is left to the caller.

    The loops over taps stay loops: in a chain of additions the compiler could change the order, in a loop it cannot.

    Args:
        result: the stage to define.
        maps: `[pack, channel, row, column, lane]`.
        weight: gives the weight of (filter, channel, tap's column, tap's row).
        finish: makes an output from a finished sum.
        sizes: channels of the input, filters that are computed together, rows (and columns) of the output.
    """
    channels, filters, size = sizes
    tile_filters, tile_columns = choose_tile(filters, size)
    tap = hl.RDom([(0, KERNEL_SIZE), (0, KERNEL_SIZE), (0, channels)], "tap")
    total = hl.Func(f"{result.name()}_total")
    total[MAPS] = hl.f32(0)
    total[MAPS] += weight(channel, tap.z, tap.x, tap.y) * maps[lane, column + tap.x, row + tap.y, tap.z, pack]
    result[MAPS] = finish(total[MAPS])

    outer_channel, outer_column = hl.Var("outer_channel"), hl.Var("outer_column")
    result.split(channel, outer_channel, channel, tile_filters, hl.TailStrategy.ShiftInwards)
    result.split(column, outer_column, column, tile_columns, hl.TailStrategy.ShiftInwards)
    result.reorder(lane, channel, column, outer_channel, outer_column, row, pack)
    result.vectorize(lane, LANES).unroll(channel).unroll(column)
    total.compute_at(result, outer_channel).reorder(*MAPS).vectorize(lane, LANES).unroll(channel).unroll(column)
    sums = total.update().reorder(lane, channel, column, tap.x, tap.y, tap.z, row, pack)
    sums.vectorize(lane, LANES).unroll(channel).unroll(column)
    return result


def choose_tile(filters: int, columns: int) -> tuple[int, int]:
    """Chooses how many filters and columns of a convolution's output are kept in registers at a time.

    Of the tiles that fit, the one that takes the fewest cycles for a row of the output: in a cycle two multiply-adds
    and two loads can start, and an accumulator waits four cycles for its last addition.
    """
    registers, width = count_registers()
    vectors = LANES // width

    def cycles(tile: tuple[int, int]) -> float:
        tile_filters, tile_columns = tile
        accumulators = tile_filters * tile_columns * vectors
        tile_cycles = max(accumulators / 2, (tile_columns * vectors + tile_filters) / 2, 4)
        return tile_cycles * -(-filters // tile_filters) * -(-columns // tile_columns)

    room = registers * 3 // 4  # the others hold what is multiplied
    tiles = [(f, c) for f in range(1, filters + 1) for c in range(1, columns + 1) if f * c * vectors <= room]
    return min(tiles, key=cycles)


def convolve_block(block: Block, stages: Stages) -> hl.Func:
    """The convolution with bias, and ReLU."""
    kernel, bias = stages[block.name("kernel")], stages[block.name("bias")]
    filters = block.filters if block.keeps_activation else channel_group(block.filters)
    return convolve(
        block_stage(block, "activation"),
        stages[block.input],
        lambda to_filter, from_channel, x, y: kernel[to_filter, from_channel, x, y],
        lambda total: hl.max(hl.strict_float(total + bias[channel]), 0.0),
        (block.channels, filters, block.size),
    )


def get_activation(block: Block, stages: Stages) -> Any:
    """x of a block: what is kept of it, or the convolution once more, for `compute_in` to place."""
    return stages[block.name("activation")] if block.keeps_activation else convolve_block(block, stages)


def compute_in(loop: Loop, block: Block, activation: Any) -> None:
    """Computes an activation that is not kept in the loop that needs it."""
    if not block.keeps_activation:
        activation.compute_at(*loop)
