"""The way back: from the probabilities of the classes to their loss and to the gradients of all weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import add
from typing import Any

import halide as hl

from smallcnn.architecture import CLASSES
from smallcnn.engines.halide.arrays import BORDER, LANES, MAPS, Stages, block_stage, number
from smallcnn.engines.halide.blocks import Block
from smallcnn.engines.halide.convolution import compute_in, convolve, get_activation, sum_kernel_gradient
from smallcnn.engines.halide.ends import loss_and_correct, score_gradient
from smallcnn.engines.halide.loops import channel_group, channel_sums, in_double, sum_over_packs, vector_by_vector
from smallcnn.engines.halide.output import drop_block, first_maximum, normalise, window_pixels

lane, column, row, channel, pack = MAPS


def backward_pipeline(blocks: Sequence[Block], batch_size: int, is_dense: bool, stages: Stages) -> None:
    """From the probabilities of the classes to their loss and to the gradients of all weights."""
    packs, last = -(-batch_size // LANES), blocks[-1]
    stages["loss_and_correct"] = loss_and_correct(packs, stages)
    stages["score_gradient"] = score_gradient(batch_size, stages)
    if is_dense:
        _set_dense_gradients(last, packs, stages)
    stages[last.name("output_gradient")] = _output_gradient(stages["dense/kernel"], stages["score_gradient"])
    for block, previous in zip(reversed(blocks), [*reversed(blocks[:-1]), None], strict=True):
        coefficients = _set_normalisation_gradients(block, batch_size, stages)
        gradient = _convolution_gradient(block, coefficients, stages)
        if block.keeps_activation:
            stages[block.name("convolution_gradient")] = gradient.compute_root().parallel(pack)
        stage, sizes = partial(block_stage, block, "kernel_gradient"), (block.filters, block.size)
        kernel_gradient, loop, _ = sum_kernel_gradient(stage, stages[block.input], gradient, sizes, packs)
        compute_in(loop, block, gradient)
        stages[block.name("kernel_gradient")] = kernel_gradient
        if previous is not None:
            stages[previous.name("output_gradient")] = _input_gradient(block, stages)


def _output_gradient(kernel: hl.ImageParam, score_gradient: hl.ImageParam) -> hl.Func:
    """The gradient of the last block's output, from that of the scores, `[pack, lane, class]`."""
    terms = (kernel[each, channel, column, row] * score_gradient[each, lane, pack] for each in range(CLASSES))
    gradient = hl.Func("output_gradient")
    gradient[MAPS] = hl.strict_float(reduce(add, terms))
    return vector_by_vector(gradient)


def _set_dense_gradients(block: Block, packs: int, stages: Stages) -> None:
    """The gradients of a dense head's kernel, `[row, column, channel, class]`, and bias."""
    image = hl.RDom([(0, LANES)], "image")
    output, score_gradient = stages[block.name("output")], stages["score_gradient"]
    at = (number, channel, column, row)
    by_pack, kernel_gradient = hl.Func("by_pack"), hl.Func("dense_kernel_gradient")
    by_pack[(*at, pack)] = hl.f32(0)
    term = score_gradient[number, image.x, pack] * output[image.x, column, row, channel, pack]
    by_pack[(*at, pack)] = hl.strict_float(by_pack[(*at, pack)] + term)
    by_pack.compute_root().vectorize(number, CLASSES)
    by_pack.update().reorder(number, image.x, channel, column, row, pack).vectorize(number, CLASSES).parallel(pack)
    kernel_gradient[at] = sum_over_packs(by_pack, packs, *at)
    stages["dense/kernel_gradient"] = kernel_gradient.compute_root().vectorize(number, CLASSES)

    image = hl.RDom([(0, LANES), (0, packs)], "image")
    bias_gradient = hl.Func("dense_bias_gradient")
    bias_gradient[number] = hl.f32(0)
    bias_gradient[number] = hl.strict_float(bias_gradient[number] + score_gradient[number, image.x, image.y])
    stages["dense/bias_gradient"] = bias_gradient.compute_root()


def _gradient_sums(block: Block, stages: Stages) -> hl.Func:
    """Σg, Σg·(x − μ) and Σg where x > 0, of each channel and pack; in a pooled map only the maxima have a gradient."""
    activation, mean = get_activation(block, stages), stages[block.name("mean")]
    x = activation[MAPS]
    if block.pooled:
        window = [(lane, x, y, channel, pack) for x, y in window_pixels(column, row)]
        normalised = normalise(block, activation, stages)
        is_first = first_maximum([normalised(*at) for at in window])
        x = hl.f32(activation[window[3]])
        for at, here in zip(window[:3], is_first[:3], strict=True):
            x = hl.select(here, hl.f32(activation[at]), x)
    names = ("gradient", "gradient_with_x", "gradient_of_positive")
    gradient, with_x, positive_gradient = (hl.Func(name) for name in names)
    gradient[MAPS] = drop_block(block, stages[block.name("output_gradient")][MAPS], stages)
    with_x[MAPS] = hl.strict_float(gradient[MAPS] * (x - mean[channel]))
    positive_gradient[MAPS] = hl.select(x > 0.0, gradient[MAPS], 0.0)
    sums = block_stage(block, "gradient_sums")
    loop = channel_sums(sums, [gradient, with_x, positive_gradient], block.filters, block.output_size, stages)
    compute_in(loop, block, activation)
    return sums


def _set_normalisation_gradients(block: Block, batch_size: int, stages: Stages) -> hl.Func:
    """The gradients of γ, β and bias; returns what ∂loss/∂x is made of.

    With means of g and of g·x̂ over the batch, ∂loss/∂x = γ/√(σ² + ε) · (g − mean(g) − x̂ · mean(g·x̂)). This is linear
    in g and in x: the factors of g and x, and the summand, for each channel. The gradient of the bias is the sum of
    ∂loss/∂x where x > 0, so it follows from the sums of g, x and 1 there.
    """
    sums = _gradient_sums(block, stages)
    packs, count = -(-batch_size // LANES), batch_size * block.size**2
    sum_g, sum_g_x, sum_g_positive = (
        hl.f32(sum_over_packs(in_double(sums), packs, which, channel)) for which in range(3)
    )
    kept, inverse = hl.f32(1 - block.dropout), stages[block.name("inverse")][channel]
    beta_gradient, gamma_gradient, coefficients = hl.Func("beta"), hl.Func("gamma"), hl.Func("coefficients")
    beta_gradient[channel] = hl.strict_float(sum_g / kept)
    gamma_gradient[channel] = hl.strict_float(sum_g_x * inverse / kept)
    stages[block.name("beta_gradient")] = beta_gradient.compute_root()
    stages[block.name("gamma_gradient")] = gamma_gradient.compute_root()
    scale = stages[block.name("gamma")][channel] * inverse
    factor_x = -scale * inverse * gamma_gradient[channel] / hl.f32(count)
    summand = -scale * beta_gradient[channel] / hl.f32(count) - factor_x * stages[block.name("mean")][channel]
    coefficients[channel] = tuple(map(hl.strict_float, (scale / kept, factor_x, summand)))
    mean, positive = (stages[block.name(name)][channel] for name in ("mean", "positive"))
    positive_sums = (sum_g_positive, mean * hl.f32(count), positive)
    bias_gradient = hl.Func("bias_gradient")
    terms = (hl.f64(coefficients[channel][i]) * hl.f64(total) for i, total in enumerate(positive_sums))
    bias_gradient[channel] = hl.f32(hl.strict_float(reduce(add, terms)))
    stages[block.name("bias_gradient")] = bias_gradient.compute_root()
    return coefficients.compute_root()


def _convolution_gradient(block: Block, coefficients: hl.Func, stages: Stages) -> hl.Func:
    """The gradient of kernel ∗ input + bias, from that of the output back through pooling, normalisation and ReLU.

    Around it lies a border of zeros, for the convolution that goes on from here; the first block's is not kept either.
    """
    output_gradient, inside, result = hl.Func("dropped"), hl.Func("inside"), block_stage(block, "convolution_gradient")
    output_gradient[MAPS] = drop_block(block, stages[block.name("output_gradient")][MAPS], stages)
    activation = get_activation(block, stages)
    normalised = normalise(block, activation, stages)
    g = _unpool(block, output_gradient, normalised) if block.pooled else output_gradient[MAPS]
    x, factors = activation[MAPS], coefficients[channel]
    value = hl.strict_float((factors[0] * g + (factors[1] * x + factors[2])) * stages["lane_mask"][lane, pack])
    inside[MAPS] = hl.select(x > 0.0, value, 0.0)
    everywhere, inner = hl.Range(), hl.Range(0, block.size)
    bounds = [everywhere, inner, inner, everywhere, everywhere]
    bordered = hl.BoundaryConditions.constant_exterior(inside, 0.0, bounds)
    result[MAPS] = bordered[MAPS] if block.keeps_activation else inside[MAPS]

    outer_channel = hl.Var("outer_channel")
    result.split(channel, outer_channel, channel, channel_group(block.filters)).vectorize(lane, LANES)
    if block.pooled:
        outer_column, outer_row = hl.Var("outer_column"), hl.Var("outer_row")
        result.split(column, outer_column, column, 2).split(row, outer_row, row, 2)
        result.reorder(lane, column, row, outer_column, outer_row, channel, outer_channel, pack)
        result.unroll(column).unroll(row)
    compute_in((result, outer_channel), block, activation)
    return result


def _unpool(block: Block, output_gradient: hl.Func, normalised: Callable[..., hl.Expr]) -> hl.Expr:
    """Gives the gradient of a pooled pixel to the first maximum of its window, zero to the rest of the window."""
    last = 2 * block.output_size - 1  # an odd map has another row and column, which no window covers
    x, y = (hl.min(at, last) if block.size % 2 else at for at in (column, row))
    is_first = first_maximum([normalised(lane, *at, channel, pack) for at in window_pixels(x // 2, y // 2)])
    left, top = column % 2 == 0, row % 2 == 0
    here = hl.select(top, hl.select(left, is_first[0], is_first[1]), hl.select(left, is_first[2], is_first[3]))
    if block.size % 2:
        here = here & (column <= last) & (row <= last)
    return hl.select(here, output_gradient[lane, x // 2, y // 2, channel, pack], 0.0)


def _input_gradient(block: Block, stages: Stages) -> hl.Func:
    """The gradient of the input: that of the convolution, bordered by zeros, convolved with the turned kernel."""
    kernel, gradient = stages[block.name("kernel")], stages[block.name("convolution_gradient")]
    shifted = hl.Func("shifted")
    shifted[MAPS] = gradient[lane, column - BORDER, row - BORDER, channel, pack]

    def weight(to_channel: Any, from_filter: Any, x: Any, y: Any) -> hl.Expr:
        return kernel[from_filter, to_channel, BORDER - x, BORDER - y]

    result = block_stage(block, "input_gradient")
    sizes = (block.filters, block.channels, block.input_size)
    return convolve(result, shifted, weight, lambda total: total, sizes).compute_root().parallel(pack)
