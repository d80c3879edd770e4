"""The fast engine: the training step as a few loops that Halide compiles for the processor it runs on.

A framework hands each operation to a library that was tuned for hundreds of channels. These networks have 1 to 32,
and most of a core's time goes into padding, copying and walking through memory. The loops here are made for few
channels instead. Three ideas carry them.

**Sixteen images side by side.** Arrays of activations are `[pack, channel, row, column, lane]`: a pack holds 16
images, and the last axis, contiguous in memory, has one number of each. A vector register then holds the same pixel
of 8 or 16 images, and a convolution is nothing but "weight × vector" added up, for any number of channels. A batch of
125 images is 8 packs whose last three lanes are ghosts; `lane_mask` keeps them out of sums and gradients.

**Sums stay in registers.** A small tile of outputs, some filters × some columns, is held in registers while all
channels and taps are added, so that every load feeds several multiply-adds. `_tile` weighs the possible tiles.

**Few passes over memory.** Whatever can be said in one formula is computed in one loop: normalisation, pooling and
dropout together, bias and ReLU at the end of a convolution, the gradients of all three while they are read. The first
block has the largest maps and the cheapest convolution, so its maps are never kept: whoever needs a few rows of them
computes these once more (`_activation`).

Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) needs sums over the whole batch. A block of the network
computes

    x = max(kernel ∗ input + bias, 0),   x̂ = (x − μ) / √(σ² + ε),   y = γ x̂ + β,   output = dropout(pool(y)).

A training step is three pipelines. `_forward_pipeline` goes from images to the probabilities of the classes, and keeps
input, μ and 1/√(σ² + ε) of every block, and x of all but the first. `_backward_pipeline` goes back from there to the
gradients of all weights; g is ∂loss/∂y. `_update_pipeline` then changes the weights. Stages that walk over the images
share out the packs among the cores. Each pack's sums are kept and then added in the order of the packs, so that the
same configuration gives the same bits on any number of cores. NumPy is left with gathering the images of a batch.

In Halide a `Func` is a formula over coordinates, innermost first, and its schedule says in which loops it is computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

import halide as hl
import numpy as np

from smallcnn.architecture import CLASSES, IMAGE_SIZE, Weights
from smallcnn.config import TrainingConfig
from smallcnn.data import Dataset
from smallcnn.engines.base import Unsupported
from smallcnn.engines.halide.blocks import KERNEL_SIZE, Block, describe_network

LANES = 16
BORDER = KERNEL_SIZE - 1
EPSILON = 1e-3  # of batch normalisation, as in Keras
MOMENTUM = 0.99  # of its moving statistics
BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-7
STRIP_BYTES = 20000
Loop = tuple[hl.Func, hl.Var]  # a loop of a stage, in which another stage can be computed
STATE = ("weights", "moving", "first_moment", "second_moment")  # vectors that an epoch starts from

lane, column, row, channel, pack = (hl.Var(name) for name in ("lane", "column", "row", "channel", "pack"))
number, which = hl.Var("number"), hl.Var("which")
MAPS = (lane, column, row, channel, pack)


# --- Arrays: what pipelines read and write ---


@dataclass(frozen=True)
class Shape:
    """What the compiler knows of an array.

    Attributes:
        sizes: of its axes, outermost first.
        border: pixels around each map, beyond `sizes`.
        type: of its elements.
    """

    sizes: tuple[int, ...]
    border: int = 0
    type: str = "float32"

    def declare(self, name: str) -> hl.ImageParam:
        """Declares the array as something that a pipeline reads."""
        types = {"float32": hl.Float(32), "uint8": hl.UInt(8), "int32": hl.Int(32), "uint32": hl.UInt(32)}
        parameter = hl.ImageParam(types[self.type], len(self.sizes), name.replace("/", "_"))
        self.fix(parameter)
        return parameter

    def fix(self, array: Any) -> None:
        """Tells the compiler the sizes and strides of a parameter or an output."""
        stride = 1
        for dimension, (first, size) in enumerate(zip(self._first, self._allocated, strict=True)):
            array.dim(dimension).set_bounds(first, size).set_stride(stride)
            stride *= size

    def buffer(self, array: np.ndarray) -> hl.Buffer:
        """Gives an array as a pipeline reads or writes it."""
        buffer = hl.Buffer(array)
        buffer.set_min(self._first)
        return buffer

    def allocate(self) -> np.ndarray:
        """Makes the array, of zeros, where vectors are aligned with the lines of the cache."""
        count = math.prod(self._allocated)
        room = np.zeros(count + 64, self.type)
        start = -room.ctypes.data % 64 // room.itemsize
        return room[start : start + count].reshape(self._allocated[::-1])

    @property
    def _allocated(self) -> list[int]:
        """Sizes with the border, innermost first as in Halide."""
        border = self._border
        return [size + 2 * border[dimension] for dimension, size in enumerate(reversed(self.sizes))]

    @property
    def _first(self) -> list[int]:
        return [-border for border in self._border]

    @property
    def _border(self) -> list[int]:
        return [self.border if dimension in (1, 2) else 0 for dimension in range(len(self.sizes))]


def describe_arrays(blocks: Sequence[Block], packs: int, is_dense: bool) -> dict[str, Shape]:
    """The arrays of a network by name, for batches of so many packs."""
    last = blocks[-1]
    dense_kernel = Shape((last.output_size, last.output_size, last.filters, CLASSES))
    shapes = {
        "images": Shape((packs, LANES, IMAGE_SIZE, IMAGE_SIZE), type="uint8"),
        "labels": Shape((packs, LANES), type="uint8"),
        "lane_mask": Shape((packs, LANES)),
        "training": Shape((1,), type="int32"),
        "dropout_key": Shape((2,), type="uint32"),
        blocks[0].input: Shape((packs, 1, IMAGE_SIZE, IMAGE_SIZE, LANES)),
        "probabilities": Shape((packs, CLASSES, LANES)),
        "loss_and_correct": Shape((2,)),
        "score_gradient": Shape((packs, LANES, CLASSES)),
        "dense/kernel": dense_kernel,
        "dense/bias": Shape((CLASSES,)),
    }
    if is_dense:
        shapes |= {"dense/kernel_gradient": dense_kernel, "dense/bias_gradient": Shape((CLASSES,))}
    for block in blocks:
        kernel = Shape((KERNEL_SIZE, KERNEL_SIZE, block.channels, block.filters))
        of_channels = Shape((block.filters,))
        maps = Shape((packs, block.filters, block.size, block.size, LANES))
        output = Shape((packs, block.filters, block.output_size, block.output_size, LANES))
        of_block = {
            "kernel": kernel,
            "bias": of_channels,
            "gamma": of_channels,
            "beta": of_channels,
            "moving_mean": of_channels,
            "moving_variance": of_channels,
            "activation": maps,
            "mean": of_channels,
            "variance": of_channels,
            "inverse": of_channels,
            "positive": of_channels,
            "normalisation": Shape((block.filters, 2)),
            "output": output,
            "output_gradient": output,
            "convolution_gradient": dataclasses.replace(maps, border=BORDER),
            "kernel_gradient": kernel,
            "bias_gradient": of_channels,
            "gamma_gradient": of_channels,
            "beta_gradient": of_channels,
        }
        shapes |= {block.name(name): shape for name, shape in of_block.items()}
    return shapes


def _stage(block: Block, name: str, part: str = "") -> hl.Func:
    """A stage of a block, or of it a part that is computed on the way, under the name that a profile shows."""
    return hl.Func(f"block_{block.number}_{name}{part and '_' + part}")


class Stages:
    """The named stages of one pipeline. What it does not compute itself is an array that it reads."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self._read: dict[str, hl.ImageParam] = {}
        self._written: dict[str, hl.Func] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self._written:
            return self._written[name]
        if name not in self._read:
            self._read[name] = self._shapes[name].declare(name)
        return self._read[name]

    def __setitem__(self, name: str, stage: hl.Func) -> None:
        self._shapes[name].fix(stage.output_buffer())
        self._written[name] = stage

    def compile(self, arrays: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Compiles the pipeline and ties it to the arrays that it reads and writes."""
        target = hl.get_jit_target_from_environment()
        for unneeded in (hl.TargetFeature.NoAsserts, hl.TargetFeature.NoBoundsQuery):
            target = target.with_feature(unneeded)
        inputs = [hl.Argument(parameter) for parameter in self._read.values()]
        call = hl.Pipeline(list(self._written.values())).compile_to_callable(inputs, target)
        return partial(call, *(self._shapes[name].buffer(arrays[name]) for name in (*self._read, *self._written)))


# --- Stages: formulas, and the loops that compute them ---


def _read_images(images: hl.ImageParam) -> hl.Func:
    """Turns images into lanes, as numbers from 0 to 1."""
    pixel = hl.Func("pixel")
    pixel[MAPS] = hl.f32(images[column, row, lane, pack]) / 255.0
    return _vector_by_vector(pixel)


def _vector_by_vector(stage: hl.Func) -> hl.Func:
    """Schedules a stage without sums: one pass over memory, a vector at a time."""
    return stage.compute_root().reorder(*MAPS).vectorize(lane, LANES).parallel(pack)


def _convolve(
    result: hl.Func,
    maps: Any,
    weight: Callable[..., hl.Expr],
    finish: Callable[[hl.Expr], hl.Expr],
    sizes: tuple[int, int, int],
) -> hl.Func:
    """Convolves maps with 3×3 weights; where that is computed is left to the caller.

    Args:
        result: the stage to define.
        maps: `[pack, channel, row, column, lane]`.
        weight: gives the weight of (filter, channel, tap's column, tap's row).
        finish: makes an output from a finished sum.
        sizes: channels of the input, filters that are computed together, rows (and columns) of the output.
    """
    channels, filters, size = sizes
    tile_filters, tile_columns = _tile(filters, size)
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
    sums.vectorize(lane, LANES).unroll(channel).unroll(column).unroll(tap.x).unroll(tap.y)
    return result


def _tile(filters: int, columns: int) -> tuple[int, int]:
    """Chooses how many filters and columns of a convolution's output are kept in registers at a time.

    Of the tiles that fit, the one that takes the fewest cycles for a row of the output: in a cycle two multiply-adds
    and two loads can start, and an accumulator waits four cycles for its last addition.
    """
    registers, width = _registers()
    vectors = LANES // width

    def cycles(tile: tuple[int, int]) -> float:
        tile_filters, tile_columns = tile
        accumulators = tile_filters * tile_columns * vectors
        of_a_tile = max(accumulators / 2, (tile_columns * vectors + tile_filters) / 2, 4)
        return of_a_tile * -(-filters // tile_filters) * -(-columns // tile_columns)

    room = registers * 3 // 4  # the others hold what is multiplied
    tiles = [(f, c) for f in range(1, filters + 1) for c in range(1, columns + 1) if f * c * vectors <= room]
    return min(tiles, key=cycles)


def _registers() -> tuple[int, int]:
    """The number of vector registers of this processor, and of float32 numbers in one."""
    target = hl.get_host_target()
    width = target.natural_vector_size(hl.Float(32))
    return (16 if target.arch == hl.TargetArch.X86 and width < 16 else 32), width


def _channel_sums(result: hl.Func, values: Sequence[hl.Func], block: Block, size: int, stages: Stages) -> Loop:
    """Sums functions of a pixel over the pixels and images of a pack, as `result`: `[pack, channel, value]`.

    Returns:
        The loop in which a row of a few channels is summed, for what is to be computed on the way.
    """
    pixel = hl.RDom([(0, size)], "pixel")
    all_rows = hl.RDom([(0, size)], "all_rows")
    image = hl.RDom([(0, LANES)], "image")
    in_row, by_lane = (hl.Func(f"{result.name()}_{part}") for part in ("in_row", "by_lane"))
    zeros = (hl.f32(0),) * len(values)
    in_row[lane, channel, row, pack] = zeros
    so_far = in_row[lane, channel, row, pack]
    in_row[lane, channel, row, pack] = tuple(
        so_far[i] + value[lane, pixel.x, row, channel, pack] for i, value in enumerate(values)
    )
    by_lane[lane, channel, pack] = zeros
    so_far, of_row = by_lane[lane, channel, pack], in_row[lane, channel, all_rows.x, pack]
    by_lane[lane, channel, pack] = tuple(so_far[i] + of_row[i] for i in range(len(values)))
    of_image = by_lane[image.x, channel, pack]
    result[which, channel, pack] = hl.f32(0)
    result[which, channel, pack] += stages["lane_mask"][image.x, pack] * hl.mux(
        which, [of_image[i] for i in range(len(values))]
    )

    outer_channel, group = hl.Var("outer_channel"), _channel_group(block.filters)
    result.compute_root().unroll(which, len(values))
    result.update().reorder(which, image.x, channel, pack).unroll(which, len(values)).parallel(pack)
    by_lane.compute_at(result, pack).vectorize(lane, LANES)
    sums = by_lane.update().split(channel, outer_channel, channel, group)
    sums.reorder(lane, channel, outer_channel, all_rows.x, pack).vectorize(lane, LANES).unroll(channel)
    in_row.compute_at(by_lane, outer_channel).vectorize(lane, LANES).unroll(channel)
    in_row.update().reorder(lane, channel, pixel.x, row, pack).vectorize(lane, LANES).unroll(channel)
    return by_lane, outer_channel


def _channel_group(filters: int) -> int:
    """The channels that are worked on at a time where every one is a sum or a map of its own."""
    return next(group for group in (4, 2, 1) if filters % group == 0)


def _sum_over_packs(by_pack: hl.Func, packs: int, *at: Any) -> hl.Expr:
    """Adds up what the packs have at `at`, in their order."""
    return reduce(add, (by_pack[(*at, number)] for number in range(packs)))


def _set_statistics(block: Block, batch_size: int, stages: Stages) -> None:
    """Mean, variance and number of positive pixels over the batch; the variance is the unbiased one, as Keras keeps it.

    Then, from these in training and from the moving ones otherwise, 1/√(σ² + ε), and y = γ x̂ + β as one multiply-add of
    x: "normalisation" holds its factor and its summand for each channel. Both are divided by what dropout leaves.
    """
    activation, square, is_positive = _activation(block, stages), hl.Func("square"), hl.Func("is_positive")
    square[MAPS] = activation[MAPS] * activation[MAPS]
    is_positive[MAPS] = hl.select(activation[MAPS] > 0.0, hl.f32(1), hl.f32(0))
    sums = _stage(block, "activation_sums")
    loop = _channel_sums(sums, [activation, square, is_positive], block, block.size, stages)
    _compute_in(loop, block, activation)
    packs, count = -(-batch_size // LANES), batch_size * block.size**2
    moments = hl.Func("moments")  # in double precision, because the variance is a small difference
    first, second = (_sum_over_packs(_doubled(sums), packs, which, channel) / hl.f64(count) for which in range(2))
    moments[channel] = (first, hl.max(second - first * first, hl.f64(0)))
    moments.compute_root()
    names = ("mean", "variance", "positive", "inverse", "normalisation")
    mean, variance, positive, inverse, normalisation = (hl.Func(name) for name in names)
    mean[channel] = hl.f32(moments[channel][0])
    variance[channel] = hl.f32(moments[channel][1] * hl.f64(count / max(count - 1, 1)))
    positive[channel] = hl.f32(_sum_over_packs(_doubled(sums), packs, 2, channel))
    for name, stage in {"mean": mean, "variance": variance, "positive": positive}.items():
        stages[block.name(name)] = stage.compute_root()

    training = stages["training"][0] != 0
    used = hl.select(training, moments[channel][1], hl.f64(stages[block.name("moving_variance")][channel]))
    inverse[channel] = hl.f32(hl.f64(1) / hl.sqrt(used + hl.f64(EPSILON)))
    stages[block.name("inverse")] = inverse.compute_root()
    used = hl.select(training, mean[channel], stages[block.name("moving_mean")][channel])
    kept = hl.select(training, hl.f32(1 - block.dropout), hl.f32(1))
    factor = stages[block.name("gamma")][channel] * inverse[channel]
    summand = stages[block.name("beta")][channel] - used * factor
    normalisation[which, channel] = hl.select(which == 0, factor, summand) / kept
    stages[block.name("normalisation")] = normalisation.compute_root().bound(which, 0, 2).unroll(which)


def _doubled(stage: hl.Func) -> hl.Func:
    """The stage in double precision."""
    doubled = hl.Func("doubled")
    doubled[which, channel, pack] = hl.f64(stage[which, channel, pack])
    return doubled


def _normalised(block: Block, activation: Any, stages: Stages) -> Callable[..., hl.Expr]:
    """y = γ x̂ + β for (lane, column, row, channel, pack), divided by what dropout leaves."""
    normalisation = stages[block.name("normalisation")]
    return lambda i, x, y, c, p: normalisation[0, c] * activation[i, x, y, c, p] + normalisation[1, c]


def _window(at_column: Any, at_row: Any) -> list[tuple[Any, Any]]:
    """Columns and rows of the four pixels under one pixel of a pooled map, in row-major order."""
    return [(2 * at_column + x, 2 * at_row + y) for y in range(2) for x in range(2)]


def _output(block: Block, stages: Stages) -> hl.Func:
    """The output of a block: normalised, pooled, with dropout."""
    activation = _activation(block, stages)
    normalised = _normalised(block, activation, stages)
    value = normalised(*MAPS)
    if block.pooled:
        value = hl.max(*(normalised(lane, x, y, channel, pack) for x, y in _window(column, row)))
    dropped = _drop(block, value, stages)
    output = _stage(block, "output")
    output[MAPS] = hl.select(stages["training"][0] != 0, dropped, value) if block.dropout else value
    _vector_by_vector(output)
    if not block.keeps_activation:
        outer_channel = hl.Var("outer_channel")
        output.split(channel, outer_channel, channel, _channel_group(block.filters))
        output.reorder(lane, column, channel, outer_channel, row, pack)
        _compute_in((output, outer_channel), block, activation)
    return output


def _drop(block: Block, value: hl.Expr, stages: Stages) -> hl.Expr:
    """Dropout, the same forward and backward: zero where the hash of an element's number is below a threshold."""
    if block.dropout == 0:
        return value
    key, size = stages["dropout_key"], block.output_size
    element = lane + LANES * (column + size * (row + size * (channel + block.filters * pack)))
    block_key = hash_number(hl.u32(block.number), key[0], key[1], hl.u32)
    hashed = hash_number(hl.u32(element), block_key, hl.u32(0), hl.u32)
    return hl.select(hashed >= hl.u32(dropout_threshold(block.dropout)), value, 0.0)


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


def _probabilities(block: Block, stages: Stages) -> hl.Func:
    """The head: for each class Σ kernel × output over all elements of an image, plus bias; then softmax."""
    element = hl.RDom([(0, block.filters), (0, block.output_size), (0, block.output_size)], "element")
    outer_number = hl.Var("outer_number")
    scores, powers, probabilities = hl.Func("scores"), hl.Func("powers"), hl.Func("probabilities")
    weight = stages["dense/kernel"][number, element.x, element.y, element.z]
    scores[lane, number, pack] = stages["dense/bias"][number]
    scores[lane, number, pack] += weight * stages[block.name("output")][lane, element.y, element.z, element.x, pack]
    largest = hl.max(*(scores[lane, each, pack] for each in range(CLASSES)))
    powers[lane, number, pack] = hl.exp(scores[lane, number, pack] - largest)
    total = reduce(add, (powers[lane, each, pack] for each in range(CLASSES)))
    probabilities[lane, number, pack] = powers[lane, number, pack] / total

    for stage in (scores, powers, probabilities):
        stage.compute_root().vectorize(lane, LANES)
    sums = scores.update().split(number, outer_number, number, CLASSES // 2)
    sums.reorder(lane, number, element.x, element.y, element.z, outer_number, pack)
    sums.vectorize(lane, LANES).unroll(number).parallel(pack)
    return probabilities


def _loss_and_correct(packs: int, stages: Stages) -> hl.Func:
    """Sums over the batch: cross-entropy, and images whose likeliest class is the right one."""
    image = hl.RDom([(0, LANES), (0, packs)], "image")
    probabilities, of_image, result = stages["probabilities"], hl.Func("of_image"), hl.Func("loss_and_correct")
    right = hl.unsafe_promise_clamped(hl.i32(stages["labels"][lane, pack]), 0, CLASSES - 1)
    of_right_class = hl.max(probabilities[lane, right, pack], hl.f32(np.finfo(np.float32).tiny))
    likeliest = hl.max(*(probabilities[lane, each, pack] for each in range(CLASSES)))
    is_right = hl.select(probabilities[lane, right, pack] == likeliest, hl.f32(1), hl.f32(0))
    of_image[which, lane, pack] = stages["lane_mask"][lane, pack] * hl.select(
        which == 0, -hl.log(of_right_class), is_right
    )
    result[which] = hl.f32(0)
    result[which] += of_image[which, image.x, image.y]
    of_image.compute_root().bound(which, 0, 2).unroll(which)
    return result.compute_root()


def _score_gradient(batch_size: int, stages: Stages) -> hl.Func:
    """The gradient of the mean cross-entropy with respect to the scores: `[pack, lane, class]`."""
    expected = hl.select(hl.i32(stages["labels"][lane, pack]) == number, hl.f32(1), hl.f32(0))
    gradient = hl.Func("score_gradient")
    value = stages["probabilities"][lane, number, pack] - expected
    gradient[number, lane, pack] = stages["lane_mask"][lane, pack] * value / hl.f32(batch_size)
    return gradient.compute_root()


def _output_gradient(kernel: hl.ImageParam, score_gradient: hl.ImageParam) -> hl.Func:
    """The gradient of the last block's output, from that of the scores, `[pack, lane, class]`."""
    terms = (kernel[each, channel, column, row] * score_gradient[each, lane, pack] for each in range(CLASSES))
    gradient = hl.Func("output_gradient")
    gradient[MAPS] = reduce(add, terms)
    return _vector_by_vector(gradient)


def _set_dense_gradients(block: Block, packs: int, stages: Stages) -> None:
    """The gradients of a dense head's kernel, `[row, column, channel, class]`, and bias."""
    image = hl.RDom([(0, LANES)], "image")
    output, score_gradient = stages[block.name("output")], stages["score_gradient"]
    at = (number, channel, column, row)
    by_pack, kernel_gradient = hl.Func("by_pack"), hl.Func("dense_kernel_gradient")
    by_pack[(*at, pack)] = hl.f32(0)
    by_pack[(*at, pack)] += score_gradient[number, image.x, pack] * output[image.x, column, row, channel, pack]
    by_pack.compute_root().vectorize(number, CLASSES)
    by_pack.update().reorder(number, image.x, channel, column, row, pack).vectorize(number, CLASSES).parallel(pack)
    kernel_gradient[at] = _sum_over_packs(by_pack, packs, *at)
    stages["dense/kernel_gradient"] = kernel_gradient.compute_root().vectorize(number, CLASSES)

    image = hl.RDom([(0, LANES), (0, packs)], "image")
    bias_gradient = hl.Func("dense_bias_gradient")
    bias_gradient[number] = hl.f32(0)
    bias_gradient[number] += score_gradient[number, image.x, image.y]
    stages["dense/bias_gradient"] = bias_gradient.compute_root()


def _gradient_sums(block: Block, stages: Stages) -> hl.Func:
    """Σg, Σg·(x − μ) and Σg where x > 0, of each channel and pack; in a pooled map only the maxima have a gradient."""
    activation, mean = _activation(block, stages), stages[block.name("mean")]
    x = activation[MAPS]
    if block.pooled:
        window = [(lane, x, y, channel, pack) for x, y in _window(column, row)]
        normalised = _normalised(block, activation, stages)
        is_first = _first_maximum([normalised(*at) for at in window])
        x = hl.f32(activation[window[3]])
        for at, here in zip(window[:3], is_first[:3], strict=True):
            x = hl.select(here, hl.f32(activation[at]), x)
    gradient, with_x, of_positive = (hl.Func(f"gradient{of}") for of in ("", "_with_x", "_of_positive"))
    gradient[MAPS] = _drop(block, stages[block.name("output_gradient")][MAPS], stages)
    with_x[MAPS] = gradient[MAPS] * (x - mean[channel])
    of_positive[MAPS] = hl.select(x > 0.0, gradient[MAPS], 0.0)
    sums = _stage(block, "gradient_sums")
    loop = _channel_sums(sums, [gradient, with_x, of_positive], block, block.output_size, stages)
    _compute_in(loop, block, activation)
    return sums


def _first_maximum(values: Sequence[hl.Expr]) -> list[hl.Expr]:
    """Tells of each of four values whether it is their maximum, and the first of them if several are.

    Digits have constant backgrounds, so equal values are everywhere, and only one may get the gradient.
    """
    a, b, c, d = values
    is_a = a >= hl.max(b, c, d)
    is_b = hl.logical_not(is_a) & (b >= hl.max(c, d))
    is_c = hl.logical_not(is_a | is_b) & (c >= d)
    return [is_a, is_b, is_c, hl.logical_not(is_a | is_b | is_c)]


def _set_normalisation_gradients(block: Block, batch_size: int, stages: Stages) -> hl.Func:
    """The gradients of γ, β and bias; returns what ∂loss/∂x is made of.

    With means of g and of g·x̂ over the batch, ∂loss/∂x = γ/√(σ² + ε) · (g − mean(g) − x̂ · mean(g·x̂)). This is linear
    in g and in x: the factors of g and x, and the summand, for each channel. The gradient of the bias is the sum of
    ∂loss/∂x where x > 0, so it follows from the sums of g, x and 1 there.
    """
    sums = _gradient_sums(block, stages)
    packs, count = -(-batch_size // LANES), batch_size * block.size**2
    of_sums = [hl.f32(_sum_over_packs(_doubled(sums), packs, which, channel)) for which in range(3)]
    kept, inverse = hl.f32(1 - block.dropout), stages[block.name("inverse")][channel]
    beta_gradient, gamma_gradient, coefficients = hl.Func("beta"), hl.Func("gamma"), hl.Func("coefficients")
    beta_gradient[channel] = of_sums[0] / kept
    gamma_gradient[channel] = of_sums[1] * inverse / kept
    stages[block.name("beta_gradient")] = beta_gradient.compute_root()
    stages[block.name("gamma_gradient")] = gamma_gradient.compute_root()
    scale = stages[block.name("gamma")][channel] * inverse
    of_x = -scale * inverse * gamma_gradient[channel] / hl.f32(count)
    summand = -scale * beta_gradient[channel] / hl.f32(count) - of_x * stages[block.name("mean")][channel]
    coefficients[channel] = (scale / kept, of_x, summand)
    mean, positive = (stages[block.name(name)][channel] for name in ("mean", "positive"))
    sums_of_positive = (of_sums[2], mean * hl.f32(count), positive)
    bias_gradient = hl.Func("bias_gradient")
    bias_gradient[channel] = hl.f32(
        reduce(add, (hl.f64(coefficients[channel][i]) * hl.f64(of) for i, of in enumerate(sums_of_positive)))
    )
    stages[block.name("bias_gradient")] = bias_gradient.compute_root()
    return coefficients.compute_root()


def _convolution_gradient(block: Block, coefficients: hl.Func, stages: Stages) -> hl.Func:
    """The gradient of kernel ∗ input + bias, from that of the output back through pooling, normalisation and ReLU.

    Around it lies a border of zeros, for the convolution that goes on from here; the first block's is not kept either.
    """
    output_gradient, inside, result = hl.Func("dropped"), hl.Func("inside"), _stage(block, "convolution_gradient")
    output_gradient[MAPS] = _drop(block, stages[block.name("output_gradient")][MAPS], stages)
    activation = _activation(block, stages)
    normalised = _normalised(block, activation, stages)
    g = _unpool(block, output_gradient, normalised) if block.pooled else output_gradient[MAPS]
    x, factors = activation[MAPS], coefficients[channel]
    value = factors[0] * g + (factors[1] * x + factors[2])
    inside[MAPS] = hl.select(x > 0.0, value * stages["lane_mask"][lane, pack], 0.0)
    everywhere, inner = hl.Range(), hl.Range(0, block.size)
    bounds = [everywhere, inner, inner, everywhere, everywhere]
    bordered = hl.BoundaryConditions.constant_exterior(inside, 0.0, bounds)
    result[MAPS] = bordered[MAPS] if block.keeps_activation else inside[MAPS]

    outer_channel = hl.Var("outer_channel")
    result.split(channel, outer_channel, channel, _channel_group(block.filters)).vectorize(lane, LANES)
    if block.pooled:
        outer_column, outer_row = hl.Var("outer_column"), hl.Var("outer_row")
        result.split(column, outer_column, column, 2).split(row, outer_row, row, 2)
        result.reorder(lane, column, row, outer_column, outer_row, channel, outer_channel, pack)
        result.unroll(column).unroll(row)
    _compute_in((result, outer_channel), block, activation)
    return result


def _unpool(block: Block, output_gradient: hl.Func, normalised: Callable[..., hl.Expr]) -> hl.Expr:
    """Gives the gradient of a pooled pixel to the first maximum of its window, zero to the rest of the window."""
    last = 2 * block.output_size - 1  # an odd map has another row and column, which no window covers
    x, y = (hl.min(at, last) if block.size % 2 else at for at in (column, row))
    is_first = _first_maximum([normalised(lane, *at, channel, pack) for at in _window(x // 2, y // 2)])
    left, top = column % 2 == 0, row % 2 == 0
    here = hl.select(top, hl.select(left, is_first[0], is_first[1]), hl.select(left, is_first[2], is_first[3]))
    if block.size % 2:
        here = here & (column <= last) & (row <= last)
    return hl.select(here, output_gradient[lane, x // 2, y // 2, channel, pack], 0.0)


def _kernel_gradient(block: Block, packs: int, gradient: hl.Func, stages: Stages) -> hl.Func:
    """The gradient of the kernel: Σ input × gradient over images and pixels.

    The three taps of a row and a few filters are summed in registers, over a strip of rows that is small enough for
    the first-level cache; strips, lanes and packs are added after.
    """
    maps = stages[block.input]
    group, width = _filter_group(block.filters)
    rows = _strip_rows(block)
    pixel = hl.RDom([(0, LANES // width), (0, block.size), (0, rows)], "pixel")
    strip = hl.RDom([(0, block.size // rows)], "strip")
    image = hl.RDom([(0, width)], "image")
    tap_column, tap_row, of_strip = (hl.Var(name) for name in ("tap_column", "tap_row", "of_strip"))
    weight = (tap_column, number, tap_row, channel)
    x, y, i = pixel.y, rows * of_strip + pixel.z, width * pixel.x + lane
    parts = ("in_strip", "by_lane", "by_pack", "")
    in_strip, by_lane, by_pack, result = (_stage(block, "kernel_gradient", part) for part in parts)
    in_strip[lane, *weight, of_strip, pack] = hl.f32(0)
    in_strip[lane, *weight, of_strip, pack] += (
        maps[i, x + tap_column, y + tap_row, channel, pack]
        * gradient[i, x, y, hl.min(number, block.filters - 1), pack]  # a last group may have filters too many
    )
    by_lane[lane, *weight, pack] = hl.f32(0)
    by_lane[lane, *weight, pack] += in_strip[lane, *weight, strip.x, pack]
    at = (number, channel, tap_column, tap_row)
    by_pack[(*at, pack)] = hl.f32(0)
    by_pack[(*at, pack)] += by_lane[image.x, *weight, pack]
    result[at] = _sum_over_packs(by_pack, packs, *at)

    outer_number = hl.Var("outer_number")
    result.compute_root()
    sums = by_pack.compute_root().update().reorder(image.x, *at, pack)
    sums.atomic().vectorize(image.x, width).parallel(pack)
    by_lane.compute_at(by_pack, pack).bound_extent(number, -(-block.filters // group) * group).vectorize(lane, width)
    sums = by_lane.update().split(number, outer_number, number, group)
    sums.reorder(lane, tap_column, number, tap_row, channel, outer_number, strip.x, pack)
    sums.vectorize(lane, width).unroll(tap_column).unroll(number)
    in_strip.compute_at(by_lane, tap_row).vectorize(lane, width).unroll(tap_column).unroll(number)
    sums = in_strip.update()
    sums.reorder(lane, tap_column, number, pixel.x, pixel.y, pixel.z, tap_row, channel, of_strip, pack)
    sums.vectorize(lane, width).unroll(tap_column).unroll(number)
    if not block.keeps_activation:
        gradient.compute_at(by_lane, outer_number)
    return result


def _filter_group(filters: int) -> tuple[int, int]:
    """Chooses how many filters `_kernel_gradient` sums at a time and the width of its vectors, as `_tile` does."""
    registers, width = _registers()

    def cycles(choice: tuple[int, int]) -> float:
        group, lanes = choice
        vectors = lanes // width
        of_a_group = max(KERNEL_SIZE * group * vectors / 2, (KERNEL_SIZE + group) * vectors / 2, 4)
        return of_a_group * -(-filters // group) * (LANES // lanes)

    choices = [
        (group, lanes)
        for lanes in sorted({width, LANES})
        for group in range(1, filters + 1)
        if KERNEL_SIZE * group * lanes // width <= registers - 4
    ]
    return min(choices, key=cycles)


def _strip_rows(block: Block) -> int:
    """The most rows of a map that divide it evenly and of which one input map and four gradients fit STRIP_BYTES."""
    row_bytes = 4 * LANES * (4 * block.size + block.input_size)
    rows = [rows for rows in range(1, block.size + 1) if block.size % rows == 0 and rows * row_bytes <= STRIP_BYTES]
    return max(rows, default=1)


def _input_gradient(block: Block, stages: Stages) -> hl.Func:
    """The gradient of the input: that of the convolution, bordered by zeros, convolved with the turned kernel."""
    kernel, gradient = stages[block.name("kernel")], stages[block.name("convolution_gradient")]
    shifted = hl.Func("shifted")
    shifted[MAPS] = gradient[lane, column - BORDER, row - BORDER, channel, pack]

    def weight(of_channel: Any, of_filter: Any, x: Any, y: Any) -> hl.Expr:
        return kernel[of_filter, of_channel, BORDER - x, BORDER - y]

    result = _stage(block, "input_gradient")
    sizes = (block.filters, block.channels, block.input_size)
    return _convolve(result, shifted, weight, lambda total: total, sizes).compute_root().parallel(pack)


def _activation(block: Block, stages: Stages) -> Any:
    """x of a block: what is kept of it, or the convolution once more, for `_compute_in` to place."""
    return stages[block.name("activation")] if block.keeps_activation else _convolution(block, stages)


def _compute_in(loop: Loop, block: Block, activation: Any) -> None:
    """Computes an activation that is not kept in the loop that needs it."""
    if not block.keeps_activation:
        activation.compute_at(*loop)


def _convolution(block: Block, stages: Stages) -> hl.Func:
    """The convolution with bias, and ReLU."""
    kernel, bias = stages[block.name("kernel")], stages[block.name("bias")]
    filters = block.filters if block.keeps_activation else _channel_group(block.filters)
    return _convolve(
        _stage(block, "activation"),
        stages[block.input],
        lambda of_filter, of_channel, x, y: kernel[of_filter, of_channel, x, y],
        lambda total: hl.max(total + bias[channel], 0.0),
        (block.channels, filters, block.size),
    )


# --- Pipelines: the stages in their order ---


def _forward_pipeline(blocks: Sequence[Block], batch_size: int, stages: Stages) -> None:
    """From images to the probabilities of the classes."""
    stages[blocks[0].input] = _read_images(stages["images"])
    for block in blocks:
        if block.keeps_activation:
            stages[block.name("activation")] = _convolution(block, stages).compute_root().parallel(pack)
        _set_statistics(block, batch_size, stages)
        stages[block.name("output")] = _output(block, stages)
    stages["probabilities"] = _probabilities(blocks[-1], stages)


def _backward_pipeline(blocks: Sequence[Block], batch_size: int, is_dense: bool, stages: Stages) -> None:
    """From the probabilities of the classes to their loss and to the gradients of all weights."""
    packs, last = -(-batch_size // LANES), blocks[-1]
    stages["loss_and_correct"] = _loss_and_correct(packs, stages)
    stages["score_gradient"] = _score_gradient(batch_size, stages)
    if is_dense:
        _set_dense_gradients(last, packs, stages)
    stages[last.name("output_gradient")] = _output_gradient(stages["dense/kernel"], stages["score_gradient"])
    for block, previous in zip(reversed(blocks), [*reversed(blocks[:-1]), None], strict=True):
        coefficients = _set_normalisation_gradients(block, batch_size, stages)
        gradient = _convolution_gradient(block, coefficients, stages)
        if block.keeps_activation:
            stages[block.name("convolution_gradient")] = gradient.compute_root().parallel(pack)
        stages[block.name("kernel_gradient")] = _kernel_gradient(block, packs, gradient, stages)
        if previous is not None:
            stages[previous.name("output_gradient")] = _input_gradient(block, stages)


def _update_pipeline(stages: Stages) -> None:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980) as Keras writes it, with ε outside the bias correction.

    Pruned weights stay zero, and the moving statistics follow those of the batch. Each stage is written in the place of
    what it reads, element by element.
    """
    at = hl.Var("at")
    gradient, rate = stages["gradient"][at], stages["step_size"][0]
    first, second, weights, moving = (hl.Func(name) for name in ("first", "second", "weights", "moving"))
    first[at] = stages["first_moment"][at] + hl.f32(1 - BETA_1) * (gradient - stages["first_moment"][at])
    second[at] = stages["second_moment"][at] + hl.f32(1 - BETA_2) * (gradient**2 - stages["second_moment"][at])
    step = rate * first[at] / (hl.sqrt(second[at]) + hl.f32(ADAM_EPSILON))
    weights[at] = stages["mask"][at] * (stages["weights"][at] - step)
    moving[at] = stages["moving"][at] + hl.f32(1 - MOMENTUM) * (stages["statistics"][at] - stages["moving"][at])
    for name, stage in {"first_moment": first, "second_moment": second, "weights": weights, "moving": moving}.items():
        # No element twice, which a last vector that is shifted inwards would do.
        stages[name] = stage.compute_root().vectorize(at, LANES, hl.TailStrategy.GuardWithIf)


# --- The engine: what a training step and a prediction are made of ---


class HalideEngine:
    """Trains one network on all cores that Halide may use; see `base.Engine` for the methods.

    The environment variable `HL_NUM_THREADS` limits the cores; the outcome does not depend on their number, to the bit.

    Args:
        config: the run; decides the network, the steps of an epoch and dropout.
        train_set: what `order` in `train_epoch` counts in.
        weights: the weights to start from, named as in `architecture.initial_weights`.
        masks: float32 by kernel name, zero for a weight that stays zero; empty for none.

    Raises:
        Unsupported: if `config` asks for a gradual pruning schedule, or for a network that it cannot train.
    """

    def __init__(self, config: TrainingConfig, train_set: Dataset, weights: Weights, masks: Weights) -> None:
        if config.gradual_sparsity > 0:
            raise Unsupported(
                f"gradual_sparsity is {config.gradual_sparsity}; the Halide engine has no gradual pruning, "
                "so train with engine='tensorflow'"
            )
        self._train_set, self._steps = train_set, 0
        network, batch_size = describe_network(config.architecture), config.batch_size
        blocks, is_dense = network.blocks, network.is_dense
        shapes = describe_arrays(blocks, -(-batch_size // LANES), is_dense)
        arrays = {name: shape.allocate() for name, shape in shapes.items()}
        arrays["lane_mask"].reshape(-1)[:batch_size] = 1
        arrays["dropout_key"][0] = np.random.SeedSequence(config.seed).generate_state(1)[0]
        if not is_dense:  # global average pooling is a dense layer with a fixed kernel and no bias
            arrays["dense/kernel"][:] = np.eye(CLASSES) / blocks[-1].output_size ** 2

        # What the update reads and writes lies in vectors, of which the other pipelines have the parts.
        self._names = list(weights)
        moving = {name: array for name, array in weights.items() if "/moving_" in name}
        trained = {name: array for name, array in weights.items() if name not in moving}
        mask = {name: masks.get(name, np.ones_like(array)) for name, array in trained.items()}
        vectors: Weights = {"step_size": np.zeros(1, np.float32)}
        vectors["weights"], self._trained = flatten(trained)
        vectors["mask"], _ = flatten(mask)
        vectors["gradient"], self._gradient = flatten({name: 0 * array for name, array in trained.items()})
        vectors["moving"], self._moving = flatten(moving)
        vectors["statistics"], statistics = flatten({name: 0 * array for name, array in moving.items()})
        vectors["first_moment"], vectors["second_moment"] = np.zeros((2, *vectors["weights"].shape), np.float32)
        parts = self._trained | self._moving | {f"{name}_gradient": part for name, part in self._gradient.items()}
        parts |= {name.replace("/moving_", "/"): part for name, part in statistics.items()}
        arrays |= vectors | {name: part.reshape(arrays[name].shape) for name, part in parts.items()}
        shapes |= {name: Shape(vector.shape) for name, vector in vectors.items()}

        self._arrays = arrays
        self._images = arrays["images"].reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
        self._labels = arrays["labels"].reshape(-1)
        forward, backward, update = Stages(shapes), Stages(shapes), Stages(shapes)
        _forward_pipeline(blocks, batch_size, forward)
        _backward_pipeline(blocks, batch_size, is_dense, backward)
        _update_pipeline(update)
        self._forward, self._backward, self._update = (stages.compile(arrays) for stages in (forward, backward, update))

    def train_epoch(self, order: np.ndarray, learning_rate: float) -> tuple[float, float]:
        sums = np.zeros(2)
        for batch in order:
            sums += self._compute_gradient(batch)
            self._change_weights(learning_rate)
        loss, accuracy = sums / order.size
        return float(loss), float(accuracy)

    def predict(self, images: np.ndarray) -> np.ndarray:
        self._arrays["training"][:] = False
        probabilities = np.empty((len(images), CLASSES), np.float32)
        for start in range(0, len(images), len(self._images)):
            batch = slice(start, start + len(self._images))
            count = len(images[batch])
            self._images[:count] = images[batch]
            self._forward()
            probabilities[batch] = self._arrays["probabilities"].transpose(0, 2, 1).reshape(-1, CLASSES)[:count]
        return probabilities

    def get_weights(self) -> Weights:
        return {name: {**self._trained, **self._moving}[name].copy() for name in self._names}

    def get_state(self) -> Weights:
        return {name: self._arrays[name].copy() for name in STATE} | {"steps": np.array(self._steps)}

    def set_state(self, state: Weights) -> None:
        self._steps = int(state["steps"])
        for name in STATE:
            self._arrays[name][:] = state[name]

    def _compute_gradient(self, batch: np.ndarray) -> np.ndarray:
        """Computes the gradient at a batch of training images; returns summed loss and images that were right.

        Counts as a step for dropout and Adam.
        """
        self._steps += 1
        self._arrays["training"][:] = True
        self._arrays["dropout_key"][1] = self._steps
        self._train_set.images.take(batch, axis=0, out=self._images[: len(batch)], mode="clip")
        self._train_set.labels.take(batch, axis=0, out=self._labels[: len(batch)], mode="clip")
        self._forward()
        self._backward()
        return self._arrays["loss_and_correct"]

    def _change_weights(self, learning_rate: float) -> None:
        correction = math.sqrt(1 - BETA_2**self._steps) / (1 - BETA_1**self._steps)
        self._arrays["step_size"][:] = learning_rate * correction
        self._update()


def flatten(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Weights]:
    """Copies arrays into one float32 vector; returns it, and its parts by name in their shapes."""
    flat = np.concatenate([array.ravel() for array in arrays.values()]).astype(np.float32)
    ends = np.cumsum([array.size for array in arrays.values()])
    parts = np.split(flat, ends[:-1])
    return flat, {name: part.reshape(arrays[name].shape) for name, part in zip(arrays, parts, strict=True)}
