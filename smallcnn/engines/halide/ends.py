"""Both ends of every network: images in; probabilities, their loss and its gradient out."""

from __future__ import annotations

from functools import reduce
from operator import add

import halide as hl
import numpy as np

from smallcnn.architecture import CLASSES
from smallcnn.engines.halide.arrays import LANES, MAPS, Stages, number, which
from smallcnn.engines.halide.functions import exponential, logarithm
from smallcnn.engines.halide.loops import vector_by_vector

lane, column, row, channel, pack = MAPS


def read_images(images: hl.ImageParam) -> hl.Func:
    """Turns images into lanes, as numbers from 0 to 1."""
    pixel = hl.Func("pixel")
    pixel[MAPS] = hl.strict_float(hl.f32(images[column, row, lane, pack]) / 255.0)
    return vector_by_vector(pixel)


def softmax(scores: hl.Func) -> hl.Func:
    """The probabilities of the classes, `[pack, class, lane]`, from their scores."""
    powers, probabilities = hl.Func("powers"), hl.Func("probabilities")
    largest = hl.max(*(scores[lane, each, pack] for each in range(CLASSES)))
    powers[lane, number, pack] = exponential(scores[lane, number, pack] - largest)
    total = reduce(add, (powers[lane, each, pack] for each in range(CLASSES)))
    probabilities[lane, number, pack] = hl.strict_float(powers[lane, number, pack] / total)
    for stage in (powers, probabilities):
        stage.compute_root().vectorize(lane, LANES)
    return probabilities


def loss_and_correct(packs: int, stages: Stages) -> hl.Func:
    """Sums over the batch: cross-entropy, and images whose likeliest class is the right one."""
    image = hl.RDom([(0, LANES), (0, packs)], "image")
    probabilities, by_image, result = stages["probabilities"], hl.Func("by_image"), hl.Func("loss_and_correct")
    right = hl.unsafe_promise_clamped(hl.i32(stages["labels"][lane, pack]), 0, CLASSES - 1)
    right_probability = hl.max(probabilities[lane, right, pack], hl.f32(np.finfo(np.float32).tiny))
    likeliest = hl.max(*(probabilities[lane, each, pack] for each in range(CLASSES)))
    is_right = hl.select(probabilities[lane, right, pack] == likeliest, hl.f32(1), hl.f32(0))
    value = hl.select(which == 0, -logarithm(right_probability), is_right)
    by_image[which, lane, pack] = hl.strict_float(stages["lane_mask"][lane, pack] * value)
    result[which] = hl.f32(0)
    result[which] = hl.strict_float(result[which] + by_image[which, image.x, image.y])
    by_image.compute_root().bound(which, 0, 2).unroll(which)
    return result.compute_root()


def score_gradient(batch_size: int, stages: Stages) -> hl.Func:
    """The gradient of the mean cross-entropy with respect to the scores: `[pack, lane, class]`."""
    expected = hl.select(hl.i32(stages["labels"][lane, pack]) == number, hl.f32(1), hl.f32(0))
    gradient = hl.Func("score_gradient")
    value = stages["probabilities"][lane, number, pack] - expected
    gradient[number, lane, pack] = hl.strict_float(stages["lane_mask"][lane, pack] * value / hl.f32(batch_size))
    return gradient.compute_root()
