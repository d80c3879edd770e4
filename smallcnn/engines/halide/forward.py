"""The way forward: from images to the probabilities of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import halide as hl

from smallcnn.architecture import CLASSES
from smallcnn.engines.halide.arrays import LANES, MAPS, Stages, block_stage, number, which
from smallcnn.engines.halide.blocks import Block
from smallcnn.engines.halide.convolution import compute_in, convolve_block, get_activation
from smallcnn.engines.halide.ends import read_images, softmax
from smallcnn.engines.halide.loops import channel_group, channel_sums, in_double, sum_over_packs, vector_by_vector
from smallcnn.engines.halide.output import drop_block, normalise, window_pixels

lane, column, row, channel, pack = MAPS
EPSILON = 1e-3  # of batch normalisation, as in Keras


def forward_pipeline(blocks: Sequence[Block], batch_size: int, stages: Stages) -> None:
    """From images to the probabilities of the classes."""
    stages[blocks[0].input] = read_images(stages["images"])
    for block in blocks:
        if block.keeps_activation:
            stages[block.name("activation")] = convolve_block(block, stages).compute_root().parallel(pack)
        _set_statistics(block, batch_size, stages)
        stages[block.name("output")] = _output(block, stages)
    stages["probabilities"] = _probabilities(blocks[-1], stages)


def _set_statistics(block: Block, batch_size: int, stages: Stages) -> None:
    """Mean, variance and number of positive pixels over the batch; the variance is the unbiased one, as Keras keeps it.

    Then, from these in training and from the moving ones otherwise, 1/√(σ² + ε), and y = γ x̂ + β as one multiply-add of
    x: "normalisation" holds its factor and its summand for each channel. Both are divided by what dropout leaves.
    """
    activation, square, is_positive = get_activation(block, stages), hl.Func("square"), hl.Func("is_positive")
    square[MAPS] = hl.strict_float(activation[MAPS] * activation[MAPS])
    is_positive[MAPS] = hl.select(activation[MAPS] > 0.0, hl.f32(1), hl.f32(0))
    sums = block_stage(block, "activation_sums")
    loop = channel_sums(sums, [activation, square, is_positive], block.filters, block.size, stages)
    compute_in(loop, block, activation)
    packs, count = -(-batch_size // LANES), batch_size * block.size**2
    moments = hl.Func("moments")  # in double precision, because the variance is a small difference
    first, second = (sum_over_packs(in_double(sums), packs, which, channel) / hl.f64(count) for which in range(2))
    moments[channel] = (hl.strict_float(first), hl.max(hl.strict_float(second - first * first), hl.f64(0)))
    moments.compute_root()
    names = ("mean", "variance", "positive", "inverse", "normalisation")
    mean, variance, positive, inverse, normalisation = (hl.Func(name) for name in names)
    mean[channel] = hl.f32(moments[channel][0])
    variance[channel] = hl.f32(hl.strict_float(moments[channel][1] * hl.f64(count / max(count - 1, 1))))
    positive[channel] = hl.f32(sum_over_packs(in_double(sums), packs, 2, channel))
    for name, stage in {"mean": mean, "variance": variance, "positive": positive}.items():
        stages[block.name(name)] = stage.compute_root()

    training = stages["training"][0] != 0
    used = hl.select(training, moments[channel][1], hl.f64(stages[block.name("moving_variance")][channel]))
    inverse[channel] = hl.f32(hl.strict_float(hl.f64(1) / hl.sqrt(used + hl.f64(EPSILON))))
    stages[block.name("inverse")] = inverse.compute_root()
    used = hl.select(training, mean[channel], stages[block.name("moving_mean")][channel])
    kept = hl.select(training, hl.f32(1 - block.dropout), hl.f32(1))
    factor = stages[block.name("gamma")][channel] * inverse[channel]
    summand = stages[block.name("beta")][channel] - used * factor
    normalisation[which, channel] = hl.strict_float(hl.select(which == 0, factor, summand) / kept)
    stages[block.name("normalisation")] = normalisation.compute_root().bound(which, 0, 2).unroll(which)


def _output(block: Block, stages: Stages) -> hl.Func:
    """The output of a block: normalised, pooled, with dropout."""
    activation = get_activation(block, stages)
    normalised = normalise(block, activation, stages)
    value = normalised(*MAPS)
    if block.pooled:
        value = hl.max(*(normalised(lane, x, y, channel, pack) for x, y in window_pixels(column, row)))
    dropped = drop_block(block, value, stages)
    output = block_stage(block, "output")
    output[MAPS] = hl.select(stages["training"][0] != 0, dropped, value) if block.dropout else value
    vector_by_vector(output)
    if not block.keeps_activation:
        outer_channel = hl.Var("outer_channel")
        output.split(channel, outer_channel, channel, channel_group(block.filters))
        output.reorder(lane, column, channel, outer_channel, row, pack)
        compute_in((output, outer_channel), block, activation)
    return output


def _probabilities(block: Block, stages: Stages) -> hl.Func:
    """The head: for each class Σ kernel × output over all elements of an image, plus bias; then softmax."""
    element = hl.RDom([(0, block.filters), (0, block.output_size), (0, block.output_size)], "element")
    outer_number = hl.Var("outer_number")
    scores = hl.Func("scores")
    weight = stages["dense/kernel"][number, element.x, element.y, element.z]
    scores[lane, number, pack] = stages["dense/bias"][number]
    scores[lane, number, pack] += weight * stages[block.name("output")][lane, element.y, element.z, element.x, pack]

    scores.compute_root().vectorize(lane, LANES)
    sums = scores.update().split(number, outer_number, number, CLASSES // 2)
    sums.reorder(lane, number, element.x, element.y, element.z, outer_number, pack)
    sums.vectorize(lane, LANES).unroll(number).parallel(pack)
    return softmax(scores)
