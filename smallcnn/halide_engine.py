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

**A pack stays in the cache.** Each pipeline takes one pack at a time and does everything with it that can be done
before sums over the whole batch are needed.

Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) is what needs those sums. A block of the network computes

    x = max(kernel ∗ input + bias, 0),   x̂ = (x − μ) / √(σ² + ε),   y = γ x̂ + β,   output = dropout(pool(y)).

A training step makes four kinds of passes, each with sums over the batch before the next; g is ∂loss/∂y:

    forward    of each block: its input and x, with Σx and Σx² of each channel           `_forward_pipeline`
    head       scores of the classes; and back to the output of the last block           `_scores_pipeline`,
               with Σg and Σg·(x − μ)                                                    `_head_pipeline`
    activate   of each block: from output and sums back to kernel ∗ input + bias         `_activation_pipeline`
    backward   of each block: gradients of kernel and input, with the sums one before    `_backward_pipeline`

Each pack's sums are kept and then added in the order of the packs, so that the same configuration gives the same bits.
What is left works on a few thousand numbers and is NumPy: statistics, softmax, Adam.

In Halide a `Func` is a formula over coordinates, innermost first, and its schedule says in which loops it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import halide as hl
import numpy as np

from smallcnn import data
from smallcnn.models import CLASSES, IMAGE_SIZE, KERNEL_SIZE, Architecture
from smallcnn.training import TrainingConfig, Weights

LANES = 16
BORDER = KERNEL_SIZE - 1
EPSILON = 1e-3  # of batch normalisation, as in Keras
MOMENTUM = 0.99  # of its moving statistics
BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-7
PACKS_PER_CALL = 1
STRIP_BYTES = 16384

PACKS, IMAGES = -1, -2  # sizes that are known at the call only

lane, column, row, channel, pack = (hl.Var(name) for name in ("lane", "column", "row", "channel", "pack"))
MAPS = (lane, column, row, channel, pack)


@dataclass(frozen=True)
class Block:
    """Sizes of one block of the network.

    Attributes:
        number: its place in the network, from 1.
        channels: of its input.
        filters: of its convolution, the channels of its output.
        input_size: rows, and columns, of its input.
        size: rows after its convolution.
        output_size: rows of its output.
        pooled: whether it ends in max pooling.
        dropout: fraction of its output set to zero in training.
    """

    number: int
    channels: int
    filters: int
    input_size: int
    size: int
    output_size: int
    pooled: bool
    dropout: float

    def name(self, array: str) -> str:
        """Names an array of the block, as weights are named."""
        return f"block_{self.number}/{array}"

    @property
    def input(self) -> str:
        """The name of its input, which is the output of the block before; that of "block 0" is the images."""
        return f"block_{self.number - 1}/output"


def describe_blocks(architecture: Architecture) -> list[Block]:
    """Works out the sizes of every block."""
    size, channels, blocks = IMAGE_SIZE, 1, []
    for number, filters in enumerate(architecture.filters, start=1):
        pooled = number in architecture.pool_after
        dropout = architecture.dropout if number in architecture.dropout_after else 0.0
        convolved = size - BORDER
        output_size = convolved // 2 if pooled else convolved
        blocks.append(Block(number, channels, filters, size, convolved, output_size, pooled, dropout))
        size, channels = output_size, filters
    return blocks


# --- Arrays: what pipelines read and write ---


@dataclass(frozen=True)
class Shape:
    """What the compiler may know of an array.

    Attributes:
        sizes: of its axes, outermost first; PACKS or IMAGES for one that is known at the call only.
        border: pixels around each map that hold zeros; a pipeline that writes the array sees none of them.
        type: of its elements.
    """

    sizes: tuple[int, ...]
    border: int = 0
    type: str = "float32"

    def declare(self, name: str) -> hl.ImageParam:
        """Declares the array as something that a pipeline reads."""
        types = {"float32": hl.Float(32), "uint8": hl.UInt(8), "int32": hl.Int(32), "uint32": hl.UInt(32)}
        parameter = hl.ImageParam(types[self.type], len(self.sizes), name.replace("/", "_"))
        self.fix(parameter, self.border)
        return parameter

    def fix(self, array: Any, seen_border: int = 0) -> None:
        """Tells the compiler the sizes and strides of a parameter or an output."""
        stride = 1
        for dimension, size in enumerate(reversed(self.sizes)):
            if size < 0:
                break
            is_map = dimension in (1, 2)
            seen = seen_border * is_map
            array.dim(dimension).set_bounds(-seen, size + 2 * seen).set_stride(stride)
            stride *= size + 2 * self.border * is_map

    def view(self, array: np.ndarray, packs: slice, inside: bool = False) -> hl.Buffer | np.ndarray:
        """Gives an array, or the packs of it that a call handles, as a pipeline that reads or (inside) writes it."""
        if self.sizes[0] == IMAGES:
            return array  # which may be read-only, and a Buffer may not
        buffer, outermost = hl.Buffer(array), array.ndim - 1
        if self.border:
            buffer.set_min([-self.border * (dimension in (1, 2)) for dimension in range(array.ndim)])
            for dimension in (1, 2) if inside else ():
                buffer = buffer.cropped(dimension, 0, self.sizes[outermost - dimension])
        return buffer.cropped(outermost, packs.start, packs.stop - packs.start) if self.sizes[0] == PACKS else buffer

    def allocate(self, packs: int) -> np.ndarray:
        """Makes the array, of zeros, where vectors are aligned with the lines of the cache."""
        sizes = [packs if size == PACKS else size for size in self.sizes]
        for axis in (-2, -3) if self.border else ():
            sizes[axis] += 2 * self.border
        room = np.zeros(int(np.prod(sizes)) + 16, self.type)
        start = -room.ctypes.data % 64 // room.itemsize
        return room[start : start + int(np.prod(sizes))].reshape(sizes)


def maps_shape(channels: int, size: int, border: int = 0) -> Shape:
    """The shape of `channels` maps of `size` × `size` pixels."""
    return Shape((PACKS, channels, size, size, LANES), border)


def describe_arrays(blocks: Sequence[Block]) -> dict[str, Shape]:
    """The arrays of a network by name."""
    last = blocks[-1]
    dense = (last.output_size, last.output_size, last.filters, CLASSES)
    shapes = {
        "images": Shape((IMAGES, IMAGE_SIZE, IMAGE_SIZE), type="uint8"),
        "order": Shape((PACKS, LANES), type="int32"),
        "lane_mask": Shape((PACKS, LANES)),
        blocks[0].input: maps_shape(1, IMAGE_SIZE),
        "scores": Shape((PACKS, CLASSES, LANES)),
        "score_gradient": Shape((PACKS, LANES, CLASSES)),
        "dense/kernel": Shape(dense),
        "dense/kernel_gradient": Shape((PACKS, *dense)),
    }
    for block in blocks:
        kernel = (KERNEL_SIZE, KERNEL_SIZE, block.channels, block.filters)
        of_block = {
            "kernel": Shape(kernel),
            "bias": Shape((block.filters,)),
            "activation": maps_shape(block.filters, block.size),
            "activation_sums": Shape((PACKS, block.filters, 2)),
            "normalisation": Shape((block.filters, 3)),
            "dropout_keys": Shape((3,), type="uint32"),
            "output": maps_shape(block.filters, block.output_size),
            "output_gradient": maps_shape(block.filters, block.output_size),
            "gradient_sums": Shape((PACKS, block.filters, 2)),
            "coefficients": Shape((block.filters, 3)),
            "convolution_gradient": maps_shape(block.filters, block.size, BORDER),
            "kernel_gradient": Shape((PACKS, *kernel)),
            "bias_gradient": Shape((PACKS, block.filters)),
        }
        shapes |= {block.name(name): shape for name, shape in of_block.items()}
    return shapes


class Arrays:
    """The arrays that one pipeline reads, declared when they are first asked for, by name."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self._declared: dict[str, hl.ImageParam] = {}

    def __getitem__(self, name: str) -> hl.ImageParam:
        if name not in self._declared:
            self._declared[name] = self._shapes[name].declare(name)
        return self._declared[name]

    def compile(self, outputs: Mapping[str, hl.Func]) -> Pipeline:
        """Compiles the pipeline that writes `outputs`."""
        for name, output in outputs.items():
            self._shapes[name].fix(output.output_buffer())
        target = hl.get_host_target().with_feature(hl.TargetFeature.NoAsserts)
        inputs = [hl.Argument(parameter) for parameter in self._declared.values()]
        call = hl.Pipeline(list(outputs.values())).compile_to_callable(inputs, target)
        return Pipeline(call, tuple(self._declared), tuple(outputs))


@dataclass(frozen=True)
class Pipeline:
    """Compiled stages, and the names of the arrays that they read and write, in the order of the arguments."""

    call: Callable[..., None]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


# --- Stages: formulas, and the loops that compute them ---


def _read_images(images: hl.ImageParam, order: hl.ImageParam) -> hl.Func:
    """Gathers the images of a batch into lanes, as numbers from 0 to 1."""
    pixel = hl.Func("pixel")
    which = hl.unsafe_promise_clamped(order[lane, pack], 0, images.dim(2).extent() - 1)
    pixel[MAPS] = hl.f32(images[column, row, which]) / 255.0
    return _vector_by_vector(pixel)


def _vector_by_vector(stage: hl.Func) -> hl.Func:
    """Schedules a stage without sums: one pass over memory, a vector at a time."""
    return stage.compute_root().reorder(*MAPS).vectorize(lane, LANES)


def _convolve(
    maps: Any, weight: Callable[..., hl.Expr], finish: Callable[[hl.Expr], hl.Expr], sizes: tuple[int, int, int]
) -> hl.Func:
    """Convolves maps with 3×3 weights.

    Args:
        maps: `[pack, channel, row, column, lane]`.
        weight: gives the weight of (filter, channel, tap's column, tap's row).
        finish: makes an output from a finished sum.
        sizes: channels of the input, filters, rows (and columns) of the output.
    """
    channels, filters, size = sizes
    tile_filters, tile_columns = _tile(filters, size)
    tap = hl.RDom([(0, KERNEL_SIZE), (0, KERNEL_SIZE), (0, channels)], "tap")
    total, result = hl.Func("total"), hl.Func("convolved")
    total[MAPS] = hl.f32(0)
    total[MAPS] += weight(channel, tap.z, tap.x, tap.y) * maps[lane, column + tap.x, row + tap.y, tap.z, pack]
    result[MAPS] = finish(total[MAPS])

    outer_channel, outer_column = hl.Var("outer_channel"), hl.Var("outer_column")
    result.compute_root().split(channel, outer_channel, channel, tile_filters, hl.TailStrategy.ShiftInwards)
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

    tiles = [(f, c) for f in range(1, filters + 1) for c in range(1, columns + 1) if f * c * vectors <= registers - 4]
    return min(tiles, key=cycles)


def _registers() -> tuple[int, int]:
    """The number of vector registers of this processor, and of float32 numbers in one."""
    target = hl.get_host_target()
    width = target.natural_vector_size(hl.Float(32))
    return (16 if target.arch == hl.TargetArch.X86 and width < 16 else 32), width


def _channel_sums(first: hl.Func, second: hl.Func, size: int, lane_mask: hl.ImageParam) -> hl.Func:
    """Sums two functions of a pixel over the pixels and images of a pack: `[pack, channel, 2]`."""
    pixel = hl.RDom([(0, size), (0, size)], "pixel")
    image = hl.RDom([(0, LANES)], "image")
    which = hl.Var("which")
    by_lane, result = hl.Func("by_lane"), hl.Func("channel_sums")
    at = (lane, pixel.x, pixel.y, channel, pack)
    by_lane[lane, channel, pack] = (hl.f32(0), hl.f32(0))
    so_far = by_lane[lane, channel, pack]
    by_lane[lane, channel, pack] = (so_far[0] + first[at], so_far[1] + second[at])
    of_image = by_lane[image.x, channel, pack]
    result[which, channel, pack] = hl.f32(0)
    result[which, channel, pack] += lane_mask[image.x, pack] * hl.select(which == 0, of_image[0], of_image[1])

    result.compute_root().unroll(which, 2)
    result.update().reorder(which, image.x, channel, pack).unroll(which, 2)
    by_lane.compute_at(result, channel).vectorize(lane, LANES)
    by_lane.update().reorder(lane, pixel.x, pixel.y, channel, pack).vectorize(lane, LANES)
    return result


def _normalised(block: Block, arrays: Arrays) -> Callable[..., hl.Expr]:
    """y = γ x̂ + β as one multiply-add, for (lane, column, row, channel, pack).

    "normalisation" holds for each channel its factor γ/√(σ² + ε), its summand β − μ γ/√(σ² + ε), and μ.
    """
    activation, normalisation = arrays[block.name("activation")], arrays[block.name("normalisation")]
    return lambda i, x, y, c, p: normalisation[0, c] * activation[i, x, y, c, p] + normalisation[1, c]


def _window(at_column: Any, at_row: Any) -> list[tuple[Any, Any]]:
    """Columns and rows of the four pixels under one pixel of a pooled map, in row-major order."""
    return [(2 * at_column + x, 2 * at_row + y) for y in range(2) for x in range(2)]


def _output(block: Block, arrays: Arrays) -> hl.Func:
    """The output of a block: normalised, pooled, with dropout. (Dropout's 1/(1 − p) is in "normalisation".)"""
    normalised = _normalised(block, arrays)
    value = normalised(*MAPS)
    if block.pooled:
        value = hl.max(*(normalised(lane, x, y, channel, pack) for x, y in _window(column, row)))
    output = hl.Func("output")
    output[MAPS] = _drop(block, value, arrays)
    return _vector_by_vector(output)


def _drop(block: Block, value: hl.Expr, arrays: Arrays) -> hl.Expr:
    """Dropout, the same forward and backward: zero where the hash of an element's number is below a threshold."""
    if block.dropout == 0:
        return value
    keys, size = arrays[block.name("dropout_keys")], block.output_size
    number = lane + LANES * (column + size * (row + size * (channel + block.filters * pack)))
    return hl.select(hash_number(hl.u32(number), keys[0], keys[1], hl.u32) >= keys[2], value, 0.0)


def hash_number(number: Any, key: Any, second_key: Any, uint32: Callable[[int], Any] = np.uint32) -> Any:
    """Scrambles a number into 32 bits that look random, in two rounds, each with a key.

    The shifts and multipliers are those of C. Wellons' "lowbias32" (2018). Serves Halide and NumPy alike.
    """
    mixed = number + key
    mixed = (mixed ^ (mixed >> uint32(16))) * uint32(0x7FEB352D)
    mixed = (mixed ^ (mixed >> uint32(15)) ^ second_key) * uint32(0x846CA68B)
    return mixed ^ (mixed >> uint32(16))


def _scores(block: Block, output: hl.Func, kernel: hl.ImageParam) -> hl.Func:
    """The head: Σ kernel × output over all elements of an image, for each class: `[pack, class, lane]`."""
    element = hl.RDom([(0, block.filters), (0, block.output_size), (0, block.output_size)], "element")
    number, outer_number = hl.Var("class"), hl.Var("outer_class")
    scores = hl.Func("scores")
    weight = kernel[number, element.x, element.y, element.z]
    scores[lane, number, pack] = hl.f32(0)
    scores[lane, number, pack] += weight * output[lane, element.y, element.z, element.x, pack]
    scores.compute_root().vectorize(lane, LANES)
    sums = scores.update().split(number, outer_number, number, CLASSES // 2)
    sums.reorder(lane, number, element.x, element.y, element.z, outer_number, pack)
    sums.vectorize(lane, LANES).unroll(number)
    return scores


def _output_gradient(kernel: hl.ImageParam, score_gradient: hl.ImageParam) -> hl.Func:
    """The gradient of the last block's output, from that of the scores, `[pack, lane, class]`."""
    terms = [kernel[number, channel, column, row] * score_gradient[number, lane, pack] for number in range(CLASSES)]
    gradient = hl.Func("output_gradient")
    gradient[MAPS] = sum(terms[1:], terms[0])
    return _vector_by_vector(gradient)


def _dense_gradient(output: hl.ImageParam, score_gradient: hl.ImageParam) -> hl.Func:
    """The gradient of the dense kernel in one pack, `[pack, row, column, channel, class]`."""
    image = hl.RDom([(0, LANES)], "image")
    number = hl.Var("class")
    at = (number, channel, column, row, pack)
    gradient = hl.Func("dense_gradient")
    gradient[at] = hl.f32(0)
    gradient[at] += score_gradient[number, image.x, pack] * output[image.x, column, row, channel, pack]
    gradient.compute_root().vectorize(number, CLASSES)
    gradient.update().reorder(number, image.x, channel, column, row, pack).vectorize(number, CLASSES)
    return gradient


def _gradient_sums(block: Block, output_gradient: Any, arrays: Arrays) -> hl.Func:
    """Σg and Σg·(x − μ) of each channel; in a pooled map only the maxima have a gradient."""
    activation, normalisation = arrays[block.name("activation")], arrays[block.name("normalisation")]
    x = activation[MAPS]
    if block.pooled:
        window = [(lane, x, y, channel, pack) for x, y in _window(column, row)]
        normalised = _normalised(block, arrays)
        is_first = _first_maximum([normalised(*at) for at in window])
        x = activation[window[3]]
        for at, here in zip(window[:3], is_first[:3], strict=True):
            x = hl.select(here, activation[at], x)
    gradient, with_x = hl.Func("gradient"), hl.Func("gradient_with_x")
    gradient[MAPS] = _drop(block, output_gradient[MAPS], arrays)
    with_x[MAPS] = gradient[MAPS] * (x - normalisation[2, channel])
    return _channel_sums(gradient, with_x, block.output_size, arrays["lane_mask"])


def _first_maximum(values: Sequence[hl.Expr]) -> list[hl.Expr]:
    """Tells of each of four values whether it is their maximum, and the first of them if several are.

    Digits have constant backgrounds, so equal values are everywhere, and only one may get the gradient.
    """
    a, b, c, d = values
    is_a = a >= hl.max(b, c, d)
    is_b = hl.logical_not(is_a) & (b >= hl.max(c, d))
    is_c = hl.logical_not(is_a | is_b) & (c >= d)
    return [is_a, is_b, is_c, hl.logical_not(is_a | is_b | is_c)]


def _convolution_gradient(block: Block, arrays: Arrays) -> hl.Func:
    """The gradient of kernel ∗ input + bias: from that of the output back through pooling, normalisation and ReLU.

    With means of g and of g·x̂ over the batch, ∂loss/∂x = γ/√(σ² + ε) · (g − mean(g) − x̂ · mean(g·x̂)). This is linear
    in g and in x; "coefficients" holds for each channel the factors of g and x, and the summand.
    """
    output_gradient = hl.Func("dropped")
    output_gradient[MAPS] = _drop(block, arrays[block.name("output_gradient")][MAPS], arrays)
    g = _unpool(block, output_gradient, _normalised(block, arrays)) if block.pooled else output_gradient[MAPS]
    x, coefficients = arrays[block.name("activation")][MAPS], arrays[block.name("coefficients")]
    value = coefficients[0, channel] * g + (coefficients[1, channel] * x + coefficients[2, channel])
    result = hl.Func("convolution_gradient")
    result[MAPS] = hl.select(x > 0.0, value * arrays["lane_mask"][lane, pack], 0.0)

    _vector_by_vector(result)
    if block.pooled:
        outer_column, outer_row = hl.Var("outer_column"), hl.Var("outer_row")
        result.split(column, outer_column, column, 2).split(row, outer_row, row, 2)
        result.reorder(lane, column, row, outer_column, outer_row, channel, pack).unroll(column).unroll(row)
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


def _bias_gradient(block: Block, gradient: hl.Func) -> hl.Func:
    """The gradient of the bias in one pack: a sum over pixels and lanes, of which ghosts are zero."""
    pixel = hl.RDom([(0, block.size), (0, block.size)], "pixel")
    image = hl.RDom([(0, LANES)], "image")
    by_lane, result = hl.Func("by_lane"), hl.Func("bias_gradient")
    by_lane[lane, channel, pack] = hl.f32(0)
    by_lane[lane, channel, pack] += gradient[lane, pixel.x, pixel.y, channel, pack]
    result[channel, pack] = hl.f32(0)
    result[channel, pack] += by_lane[image.x, channel, pack]
    result.compute_root()
    by_lane.compute_at(result, channel).vectorize(lane, LANES)
    by_lane.update().reorder(lane, pixel.x, pixel.y, channel, pack).vectorize(lane, LANES)
    return result


def _kernel_gradient(block: Block, maps: hl.ImageParam, gradient: hl.ImageParam) -> hl.Func:
    """The gradient of the kernel in one pack: Σ input × gradient over images and pixels.

    The three taps of a row and a few filters are summed in registers, over a strip of rows that is small enough for
    the first-level cache; strips and lanes are added after.
    """
    group, width = _filter_group(block.filters)
    rows = _strip_rows(block)
    pixel = hl.RDom([(0, LANES // width), (0, block.size), (0, rows)], "pixel")
    strip = hl.RDom([(0, block.size // rows)], "strip")
    image = hl.RDom([(0, width)], "image")
    number, tap_column, tap_row, of_strip = (hl.Var(name) for name in ("filter", "tap_column", "tap_row", "of_strip"))
    weight = (tap_column, number, tap_row, channel)
    x, y, i = pixel.y, rows * of_strip + pixel.z, width * pixel.x + lane
    in_strip, by_lane, result = hl.Func("in_strip"), hl.Func("by_lane"), hl.Func("kernel_gradient")
    in_strip[lane, *weight, of_strip, pack] = hl.f32(0)
    in_strip[lane, *weight, of_strip, pack] += (
        maps[i, x + tap_column, y + tap_row, channel, pack]
        * gradient[i, x, y, hl.min(number, block.filters - 1), pack]  # a last group may have filters too many
    )
    by_lane[lane, *weight, pack] = hl.f32(0)
    by_lane[lane, *weight, pack] += in_strip[lane, *weight, strip.x, pack]
    result[number, channel, tap_column, tap_row, pack] = hl.f32(0)
    result[number, channel, tap_column, tap_row, pack] += by_lane[image.x, *weight, pack]

    outer_number = hl.Var("outer_filter")
    result.compute_root()
    result.update().reorder(image.x, number, channel, tap_column, tap_row, pack).atomic().vectorize(image.x, width)
    by_lane.compute_at(result, pack).bound_extent(number, -(-block.filters // group) * group).vectorize(lane, width)
    sums = by_lane.update().split(number, outer_number, number, group)
    sums.reorder(lane, tap_column, number, tap_row, channel, outer_number, strip.x, pack)
    sums.vectorize(lane, width).unroll(tap_column).unroll(number)
    in_strip.compute_at(by_lane, tap_row).vectorize(lane, width).unroll(tap_column).unroll(number)
    sums = in_strip.update()
    sums.reorder(lane, tap_column, number, pixel.x, pixel.y, pixel.z, tap_row, channel, of_strip, pack)
    sums.vectorize(lane, width).unroll(tap_column).unroll(number)
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


def _input_gradient(block: Block, arrays: Arrays) -> hl.Func:
    """The gradient of the input: that of the convolution, bordered by zeros, convolved with the turned kernel."""
    kernel, gradient = arrays[block.name("kernel")], arrays[block.name("convolution_gradient")]
    shifted = hl.Func("shifted")
    shifted[MAPS] = gradient[lane, column - BORDER, row - BORDER, channel, pack]

    def weight(of_channel: Any, of_filter: Any, x: Any, y: Any) -> hl.Expr:
        return kernel[of_filter, of_channel, BORDER - x, BORDER - y]

    return _convolve(shifted, weight, lambda total: total, (block.filters, block.channels, block.input_size))


# --- Pipelines: what happens to a pack between two sums over the batch ---


def _forward_pipeline(block: Block, previous: Block | None, shapes: Mapping[str, Shape]) -> Pipeline:
    """The input of a block, from the activations of the one before or from images; its activations and their sums."""
    arrays = Arrays(shapes)
    maps = _read_images(arrays["images"], arrays["order"]) if previous is None else _output(previous, arrays)
    kernel, bias = arrays[block.name("kernel")], arrays[block.name("bias")]
    activation = _convolve(
        maps,
        lambda of_filter, of_channel, x, y: kernel[of_filter, of_channel, x, y],
        lambda total: hl.max(total + bias[channel], 0.0),
        (block.channels, block.filters, block.size),
    )
    square = hl.Func("square")
    square[MAPS] = activation[MAPS] * activation[MAPS]
    sums = _channel_sums(activation, square, block.size, arrays["lane_mask"])
    return arrays.compile(
        {block.input: maps, block.name("activation"): activation, block.name("activation_sums"): sums}
    )


def _scores_pipeline(block: Block, shapes: Mapping[str, Shape]) -> Pipeline:
    """The output of the last block and the scores of the classes, without the bias of a dense head."""
    arrays = Arrays(shapes)
    output = _output(block, arrays)
    return arrays.compile({block.name("output"): output, "scores": _scores(block, output, arrays["dense/kernel"])})


def _head_pipeline(block: Block, is_dense: bool, shapes: Mapping[str, Shape]) -> Pipeline:
    """From the gradient of the scores to that of the last block's output, with its sums, and of a dense kernel."""
    arrays = Arrays(shapes)
    gradient = _output_gradient(arrays["dense/kernel"], arrays["score_gradient"])
    outputs = {
        block.name("output_gradient"): gradient,
        block.name("gradient_sums"): _gradient_sums(block, gradient, arrays),
    }
    if is_dense:
        outputs["dense/kernel_gradient"] = _dense_gradient(arrays[block.name("output")], arrays["score_gradient"])
    return arrays.compile(outputs)


def _activation_pipeline(block: Block, shapes: Mapping[str, Shape]) -> Pipeline:
    """From the gradient of a block's output to those of its convolution and bias."""
    arrays = Arrays(shapes)
    gradient = _convolution_gradient(block, arrays)
    bias_gradient = _bias_gradient(block, gradient)
    return arrays.compile({block.name("convolution_gradient"): gradient, block.name("bias_gradient"): bias_gradient})


def _backward_pipeline(block: Block, previous: Block | None, shapes: Mapping[str, Shape]) -> Pipeline:
    """From the gradient of a convolution to those of its kernel and input, with the sums of the block before."""
    arrays = Arrays(shapes)
    gradient = arrays[block.name("convolution_gradient")]
    outputs = {block.name("kernel_gradient"): _kernel_gradient(block, arrays[block.input], gradient)}
    if previous is not None:
        input_gradient = _input_gradient(block, arrays)
        outputs[previous.name("output_gradient")] = input_gradient
        outputs[previous.name("gradient_sums")] = _gradient_sums(previous, input_gradient, arrays)
    return arrays.compile(outputs)


# --- The engine: the order of things, and what is left for NumPy ---


class HalideEngine:
    """Trains one network on one thread; see `training.Engine` for the methods.

    Args:
        config: the run; decides the network, the steps of an epoch and dropout.
        train_set: what `order` in `train_epoch` counts in.
        weights: the weights to start from, named as in `models.initial_weights`.
        masks: float32 by kernel name, zero for a weight that stays zero; empty for none.

    Raises:
        ValueError: if `config` asks for a gradual pruning schedule.
    """

    def __init__(self, config: TrainingConfig, train_set: data.Dataset, weights: Weights, masks: Weights) -> None:
        if config.gradual_sparsity > 0:
            raise ValueError(
                f"gradual_sparsity is {config.gradual_sparsity}; the Halide engine has no gradual pruning, "
                "so train with engine='tensorflow'"
            )
        self._seed, self._batch_size = config.seed, config.batch_size
        self._images, self._labels = np.ascontiguousarray(train_set.images), train_set.labels
        self._is_dense = config.architecture.head == "dense"
        self._blocks = describe_blocks(config.architecture)
        self._steps = 0

        self._names = list(weights)
        self._moving = {name: array.astype(np.float32) for name, array in weights.items() if "/moving_" in name}
        trained = {name: array for name, array in weights.items() if name not in self._moving}
        self._flat_weights, self._trained = flatten(trained)
        self._flat_mask, _ = flatten({name: masks.get(name, np.ones_like(array)) for name, array in trained.items()})
        self._flat_gradient, self._gradient = flatten(trained)
        self._adam = Adam(len(self._flat_weights))

        self._packs = -(-self._batch_size // LANES)
        self._shapes = describe_arrays(self._blocks)
        self._arrays = self._allocate()
        self._statistics: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}
        self._bind_pipelines()

    def train_epoch(self, order: np.ndarray, learning_rate: float) -> tuple[float, float]:
        sums = np.zeros(2)
        for batch in order:
            sums += self._compute_gradient(batch)
            self._adam.step(self._flat_weights, self._flat_gradient, learning_rate)
            self._flat_weights *= self._flat_mask
        loss, accuracy = sums / len(order)
        return float(loss), float(accuracy)

    def predict(self, images: np.ndarray) -> np.ndarray:
        self._prepare_inference()
        read_images = self._bind(self._first_pipeline, {"images": np.ascontiguousarray(images)})
        passes = [read_images, *self._forward[1:], self._score]
        probabilities = np.empty((len(images), CLASSES), np.float32)
        for start in range(0, len(images), self._packs * LANES):
            batch = np.arange(start, min(start + self._packs * LANES, len(images)))
            self._fill_lanes("order", batch)
            for one in passes:
                one()
            probabilities[batch] = softmax(self._read_scores(len(batch)))
        return probabilities

    def get_weights(self) -> Weights:
        return {name: {**self._trained, **self._moving}[name].copy() for name in self._names}

    def _allocate(self) -> dict[str, np.ndarray]:
        """Makes the arrays of all pipelines; trained weights are parts of the flat vector that Adam changes."""
        arrays = {name: shape.allocate(self._packs) for name, shape in self._shapes.items() if name != "images"}
        for name in self._trained.keys() & arrays.keys():
            arrays[name] = self._trained[name].reshape(arrays[name].shape)
        if not self._is_dense:  # global average pooling is a dense layer with a fixed kernel
            arrays["dense/kernel"][:] = np.eye(CLASSES) / self._blocks[-1].output_size ** 2
        arrays["lane_mask"].reshape(-1)[: self._batch_size] = 1
        return arrays | {"images": self._images}

    def _bind_pipelines(self) -> None:
        """Compiles the pipelines and ties them to the arrays, in the order of a training step."""
        shapes, blocks = self._shapes, self._blocks
        before = [None, *blocks[:-1]]
        last = blocks[-1]
        forward = [_forward_pipeline(*pair, shapes) for pair in zip(blocks, before, strict=True)]
        self._first_pipeline = forward[0]
        self._forward = [self._bind(one) for one in forward]
        self._score = self._bind(_scores_pipeline(last, shapes))
        self._head = self._bind(_head_pipeline(last, self._is_dense, shapes))
        self._activate = [self._bind(_activation_pipeline(one, shapes)) for one in blocks]
        self._backward = [self._bind(_backward_pipeline(*pair, shapes)) for pair in zip(blocks, before, strict=True)]

    def _bind(self, pipeline: Pipeline, others: Mapping[str, np.ndarray] | None = None) -> Callable[[], None]:
        """Ties a pipeline to its arrays; what is returned runs it for all packs, in order."""
        arrays = self._arrays | (others or {})
        calls = []
        for first in range(0, self._packs, PACKS_PER_CALL):
            packs = slice(first, min(first + PACKS_PER_CALL, self._packs))
            arguments = [self._shapes[name].view(arrays[name], packs) for name in pipeline.reads]
            arguments += [self._shapes[name].view(arrays[name], packs, inside=True) for name in pipeline.writes]
            calls.append(partial(pipeline.call, *arguments))

        def run() -> None:
            for call in calls:
                call()

        return run

    def _compute_gradient(self, batch: np.ndarray) -> tuple[float, float]:
        """Computes the gradient at a batch of training images, and returns loss and accuracy.

        Counts as a step for dropout and the moving statistics.
        """
        self._steps += 1
        self._fill_lanes("order", batch)
        for block, forward in zip(self._blocks, self._forward, strict=True):
            forward()
            self._normalise(block)
        self._score()
        loss, accuracy = self._descend_head(self._labels[batch])
        self._head()
        for block in reversed(self._blocks):
            self._normalise_backward(block)
            self._activate[block.number - 1]()
            self._backward[block.number - 1]()
        self._collect_gradient()
        return loss, accuracy

    def _fill_lanes(self, name: str, values: np.ndarray) -> None:
        self._arrays[name].reshape(-1)[: len(values)] = values

    def _read_scores(self, count: int) -> np.ndarray:
        """The scores of the classes, float32 (count, 10)."""
        scores = self._arrays["scores"].transpose(0, 2, 1).reshape(-1, CLASSES)[:count]
        return scores + self._trained["dense/bias"] if self._is_dense else scores

    def _descend_head(self, labels: np.ndarray) -> tuple[float, float]:
        """Softmax and mean cross-entropy of the batch: leaves the gradient of the scores, returns loss and accuracy."""
        scores = self._read_scores(len(labels))
        probabilities = softmax(scores)
        images = np.arange(len(labels))
        loss = -np.log(np.maximum(probabilities[images, labels], np.finfo(np.float32).tiny)).mean()
        accuracy = (scores.argmax(axis=1) == labels).mean()
        gradient = self._arrays["score_gradient"].reshape(-1, CLASSES)[: len(labels)]
        gradient[:] = probabilities
        gradient[images, labels] -= 1
        gradient /= len(labels)
        if self._is_dense:
            self._gradient["dense/bias"][:] = gradient.sum(axis=0)
        return float(loss), float(accuracy)

    def _normalise(self, block: Block) -> None:
        """Takes mean and variance of the batch from the sums over its packs; they also move the moving statistics."""
        count = self._batch_size * block.size**2
        sums = self._arrays[block.name("activation_sums")].sum(axis=0, dtype=np.float64)
        mean = sums[:, 0] / count
        variance = np.maximum(sums[:, 1] / count - mean**2, 0)
        self._statistics[block.number] = count, mean, self._set_normalisation(block, mean, variance, training=True)
        unbiased = variance * count / max(count - 1, 1)  # which is what Keras' fused layer keeps
        for name, value in (("moving_mean", mean), ("moving_variance", unbiased)):
            moving = self._moving[block.name(name)]
            moving += (1 - MOMENTUM) * (value - moving)

    def _set_normalisation(self, block: Block, mean: np.ndarray, variance: np.ndarray, training: bool) -> np.ndarray:
        """Tells the pipelines how to normalise and drop; returns 1/√(σ² + ε)."""
        inverse = 1 / np.sqrt(variance + EPSILON)
        dropout = block.dropout if training else 0
        scale = self._trained[block.name("gamma")] * inverse
        shift = self._trained[block.name("beta")] - mean * scale
        self._arrays[block.name("normalisation")][:] = np.stack([scale / (1 - dropout), shift / (1 - dropout), mean], 1)
        keys = np.random.SeedSequence((self._seed, self._steps, block.number)).generate_state(2) if dropout else (0, 0)
        self._arrays[block.name("dropout_keys")][:] = *keys, min(round(dropout * 2**32), 2**32 - 1)
        return inverse

    def _normalise_backward(self, block: Block) -> None:
        """Gradients of γ and β from the sums over the packs, and what ∂loss/∂x is made of."""
        count, mean, inverse = self._statistics[block.number]
        sums = self._arrays[block.name("gradient_sums")].sum(axis=0, dtype=np.float64) / (1 - block.dropout)
        beta_gradient, gamma_gradient = sums[:, 0], sums[:, 1] * inverse
        self._gradient[block.name("beta")][:] = beta_gradient
        self._gradient[block.name("gamma")][:] = gamma_gradient
        scale = self._trained[block.name("gamma")] * inverse
        of_x = -scale * inverse * gamma_gradient / count
        summand = -scale * beta_gradient / count - of_x * mean
        self._arrays[block.name("coefficients")][:] = np.stack([scale / (1 - block.dropout), of_x, summand], 1)

    def _prepare_inference(self) -> None:
        for block in self._blocks:
            mean, variance = (self._moving[block.name(name)] for name in ("moving_mean", "moving_variance"))
            self._set_normalisation(block, mean, variance, training=False)

    def _collect_gradient(self) -> None:
        """Adds up the packs' gradients of kernels and biases, in order."""
        for name, gradient in self._gradient.items():
            by_pack = self._arrays.get(f"{name}_gradient")
            if by_pack is not None:
                np.sum(by_pack, axis=0, out=gradient.reshape(by_pack.shape[1:]))


class Adam:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980) as Keras writes it, with ε outside the bias correction."""

    def __init__(self, size: int) -> None:
        self._first_moment, self._second_moment = np.zeros((2, size), np.float32)
        self._steps = 0

    def step(self, weights: np.ndarray, gradient: np.ndarray, learning_rate: float) -> None:
        """Changes `weights` in place."""
        self._steps += 1
        rate = learning_rate * np.sqrt(1 - BETA_2**self._steps) / (1 - BETA_1**self._steps)
        self._first_moment += (1 - BETA_1) * (gradient - self._first_moment)
        self._second_moment += (1 - BETA_2) * (gradient**2 - self._second_moment)
        weights -= rate * self._first_moment / (np.sqrt(self._second_moment) + ADAM_EPSILON)


def flatten(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Copies arrays into one float32 vector; returns it, and its parts by name in their shapes."""
    flat = np.concatenate([array.ravel() for array in arrays.values()]).astype(np.float32)
    ends = np.cumsum([array.size for array in arrays.values()])
    parts = np.split(flat, ends[:-1])
    return flat, {name: part.reshape(arrays[name].shape) for name, part in zip(arrays, parts, strict=True)}


def softmax(scores: np.ndarray) -> np.ndarray:
    """The probabilities of the classes, the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
