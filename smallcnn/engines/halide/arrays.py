"""What pipelines read and write: arrays of fixed shapes, the names of their axes, and the stages that fill them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import halide as hl
import numpy as np

from smallcnn.architecture import CLASSES, IMAGE_SIZE, Weights
from smallcnn.engines.halide.blocks import KERNEL_SIZE, Block
from smallcnn.engines.halide.target import get_target

LANES = 16  # images in a pack
BORDER = KERNEL_SIZE - 1  # pixels of zeros around a gradient that is convolved with the turned kernel

lane, column, row, channel, pack = (hl.Var(name) for name in ("lane", "column", "row", "channel", "pack"))
number, which = hl.Var("number"), hl.Var("which")  # of a class or a filter; of one of a few values
PER_CHANNEL = (
    *("bias", "gamma", "beta", "moving_mean", "moving_variance", "bias_gradient", "gamma_gradient", "beta_gradient"),
    *("mean", "variance", "inverse", "positive"),
)
MAPS = (lane, column, row, channel, pack)  # the axes of activations, innermost first


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
    def _first(self) -> list[int]:
        """The first index of each axis, innermost axis first as in Halide: the border lies before zero."""
        return [-self.border if dimension in (1, 2) else 0 for dimension in range(len(self.sizes))]

    @property
    def _allocated(self) -> list[int]:
        """Sizes with the border, innermost first."""
        return [size - 2 * first for size, first in zip(reversed(self.sizes), self._first, strict=True)]


def describe_ends(packs: int) -> dict[str, Shape]:
    """The arrays at both ends of every network by name, for batches of so many packs."""
    return {
        "images": Shape((packs, LANES, IMAGE_SIZE, IMAGE_SIZE), type="uint8"),
        "labels": Shape((packs, LANES), type="uint8"),
        "lane_mask": Shape((packs, LANES)),
        "training": Shape((1,), type="int32"),
        "dropout_key": Shape((2,), type="uint32"),
        "probabilities": Shape((packs, CLASSES, LANES)),
        "loss_and_correct": Shape((2,)),
        "score_gradient": Shape((packs, LANES, CLASSES)),
    }


def describe_arrays(blocks: Sequence[Block], packs: int, is_dense: bool) -> dict[str, Shape]:
    """The arrays of a network of blocks by name, for batches of so many packs."""
    last = blocks[-1]
    dense_kernel = Shape((last.output_size, last.output_size, last.filters, CLASSES))
    shapes = {
        blocks[0].input: Shape((packs, 1, IMAGE_SIZE, IMAGE_SIZE, LANES)),
        "dense/kernel": dense_kernel,
        "dense/bias": Shape((CLASSES,)),
    }
    if is_dense:
        shapes |= {"dense/kernel_gradient": dense_kernel, "dense/bias_gradient": Shape((CLASSES,))}
    for block in blocks:
        kernel = Shape((KERNEL_SIZE, KERNEL_SIZE, block.channels, block.filters))
        maps = Shape((packs, block.filters, block.size, block.size, LANES))
        output = Shape((packs, block.filters, block.output_size, block.output_size, LANES))
        block_shapes = dict.fromkeys(PER_CHANNEL, Shape((block.filters,))) | {
            "kernel": kernel,
            "kernel_gradient": kernel,
            "activation": maps,
            "convolution_gradient": dataclasses.replace(maps, border=BORDER),
            "normalisation": Shape((block.filters, 2)),
            "output": output,
            "output_gradient": output,
        }
        shapes |= {block.name(name): shape for name, shape in block_shapes.items()}
    return shapes


def block_stage(block: Block, name: str, part: str = "") -> hl.Func:
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
        inputs = [hl.Argument(parameter) for parameter in self._read.values()]
        call = hl.Pipeline(list(self._written.values())).compile_to_callable(inputs, get_target())
        return partial(call, *(self._shapes[name].buffer(arrays[name]) for name in (*self._read, *self._written)))


def flatten(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Weights]:
    """Copies arrays into one aligned float32 vector; returns it, and its parts by name in their shapes."""
    flat = Shape((sum(array.size for array in arrays.values()),)).allocate()
    np.concatenate([flat[:0], *(array.ravel() for array in arrays.values())], out=flat)
    ends = np.cumsum([array.size for array in arrays.values()], dtype=int)
    parts = np.split(flat, ends)[:-1]
    return flat, {name: part.reshape(arrays[name].shape) for name, part in zip(arrays, parts, strict=True)}
