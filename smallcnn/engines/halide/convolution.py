"""The convolution: sums that stay in registers while all channels and taps of a small tile of outputs are added.

It serves three times: for an activation, for that once more where it is not kept, and for the gradient of an input.
The gradient of a kernel is another sum of products, over images and pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import halide as hl

from smallcnn.engines.halide.arrays import LANES, MAPS, Stages, block_stage, channel, column, lane, number, pack, row
from smallcnn.engines.halide.blocks import KERNEL_SIZE, Block
from smallcnn.engines.halide.loops import Loop, channel_group, sum_over_packs
from smallcnn.engines.halide.target import count_registers

STRIP_BYTES = 20000  # of the first-level cache, for a strip of rows whose gradients are summed


def convolve(
    result: hl.Func,
    maps: Any,
    weight: Callable[..., hl.Expr],
    finish: Callable[[hl.Expr], hl.Expr],
    sizes: tuple[int, int, int],
    kernel_size: int = KERNEL_SIZE,
) -> hl.Func:
    """Convolves maps with weights; where that is computed is left to the caller.

    The loops over taps stay loops: in a chain of additions the compiler could change the order, in a loop it cannot.

    Args:
        result: the stage to define.
        maps: `[pack, channel, row, column, lane]`.
        weight: gives the weight of (filter, channel, tap's column, tap's row).
        finish: makes an output from a finished sum.
        sizes: channels of the input, filters that are computed together, rows (and columns) of the output.
        kernel_size: rows, and columns, of the weights.
    """
    channels, filters, size = sizes
    tile_filters, tile_columns = choose_tile(filters, size)
    tap = hl.RDom([(0, kernel_size), (0, kernel_size), (0, channels)], "tap")
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


def sum_kernel_gradient(
    stage: Callable[[str], hl.Func],
    maps: Any,
    gradient: Any,
    sizes: tuple[int, int],
    packs: int,
    kernel_size: int = KERNEL_SIZE,
    at_once: hl.Var = pack,
) -> tuple[hl.Func, Loop, hl.Func]:
    """Sums the gradient of a kernel: input × gradient over images and pixels.

    The taps of a row and a few filters are summed in registers, over a strip of rows that is small enough for the
    first-level cache; strips, lanes and packs are added after. Where a register holds fewer than all lanes, one part of
    them is summed after the other, so that the sums and their bits are the same.

    Args:
        stage: makes a stage of this name.
        maps: the input, `[pack, channel, row, column, lane]`.
        gradient: that of the output.
        sizes: filters, rows (and columns) of the output.
        packs: in a batch.
        kernel_size: rows, and columns, of the kernel.
        at_once: a loop whose sums are kept while lanes are apart: `pack`, or `channel`, which needs less memory.

    Returns:
        `[row, column, channel, filter]`, the loop that reads a strip of the gradient, and the stage around that loop.
    """
    filters, size = sizes
    group, width = _filter_group(filters, kernel_size)
    rows = _strip_rows(size, size + kernel_size - 1)
    pixel = hl.RDom([(0, size), (0, rows)], "pixel")
    strip = hl.RDom([(0, size // rows)], "strip")
    image = hl.RDom([(0, LANES)], "image")
    tap_column, tap_row, strip_number = (hl.Var(name) for name in ("tap_column", "tap_row", "strip_number"))
    weight = (tap_column, number, tap_row, channel)
    x, y = pixel.x, rows * strip_number + pixel.y
    in_strip, by_lane, by_pack, result = (stage(part) for part in ("in_strip", "by_lane", "by_pack", ""))
    in_strip[lane, *weight, strip_number, pack] = hl.f32(0)
    in_strip[lane, *weight, strip_number, pack] += (
        maps[lane, x + tap_column, y + tap_row, channel, pack]
        * gradient[lane, x, y, hl.min(number, filters - 1), pack]  # a last group may have filters too many
    )
    by_lane[lane, *weight, pack] = hl.f32(0)
    so_far = by_lane[lane, *weight, pack]
    by_lane[lane, *weight, pack] = hl.strict_float(so_far + in_strip[lane, *weight, strip.x, pack])
    at = (number, channel, tap_column, tap_row)
    by_pack[(*at, pack)] = hl.f32(0)
    by_pack[(*at, pack)] += by_lane[image.x, *weight, pack]
    result[at] = sum_over_packs(by_pack, packs, *at)

    outer_number, vector = hl.Var("outer_number"), hl.Var("vector")
    result.compute_root()
    sums = by_pack.compute_root().update().reorder(image.x, number, tap_column, tap_row, channel, pack)
    sums.atomic().vectorize(image.x, LANES).parallel(pack)
    by_lane.compute_at(by_pack, at_once).bound_extent(number, -(-filters // group) * group).vectorize(lane, LANES)
    sums = by_lane.update().split(number, outer_number, number, group).split(lane, vector, lane, width)
    sums.reorder(lane, tap_column, number, vector, tap_row, channel, outer_number, strip.x, pack)
    sums.vectorize(lane).unroll(tap_column).unroll(number)
    in_strip.compute_at(by_lane, vector).vectorize(lane, width).unroll(tap_column).unroll(number)
    sums = in_strip.update()
    sums.reorder(lane, tap_column, number, pixel.x, pixel.y, tap_row, channel, strip_number, pack)
    sums.vectorize(lane, width).unroll(tap_column).unroll(number)
    return result, (by_lane, outer_number), by_pack


def _filter_group(filters: int, kernel_size: int) -> tuple[int, int]:
    """Chooses how many filters are summed at a time, as `choose_tile` does, and gives a vector's width."""
    registers, width = count_registers()

    def cycles(group: int) -> float:
        return max(kernel_size * group / 2, (kernel_size + group) / 2, 4) * -(-filters // group)

    groups = [group for group in range(1, filters + 1) if kernel_size * group <= registers - 4]
    return min(groups, key=cycles, default=1), width


def _strip_rows(size: int, input_size: int) -> int:
    """The most rows of a map that divide it evenly and of which one input map and four gradients fit STRIP_BYTES."""
    row_bytes = 4 * LANES * (4 * size + input_size)
    rows = [rows for rows in range(1, size + 1) if size % rows == 0 and rows * row_bytes <= STRIP_BYTES]
    return max(rows, default=1)


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
