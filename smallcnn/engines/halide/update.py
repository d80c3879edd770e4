"""The change of the weights: a step of Adam, and of the moving statistics."""

from __future__ import annotations

import math

import halide as hl

from smallcnn.arithmetic import power
from smallcnn.engines.halide.arrays import LANES, Stages

BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-7


def update_pipeline(stages: Stages, has_statistics: bool) -> None:
    """Adam (Kingma & Ba 2014, arXiv:1412.6980) as Keras writes it, with ε outside the bias correction.

    Pruned weights stay zero, and the moving statistics follow those of the batch. Each stage is written in the place of
    what it reads, element by element.
    """
    at = hl.Var("at")
    gradient, rate = stages["gradient"][at], stages["step_size"][0]
    first, second, weights = (hl.Func(name) for name in ("first", "second", "weights"))
    first[at] = hl.strict_float(_approach(stages["first_moment"][at], gradient, hl.f32(1 - BETA_1)))
    second[at] = hl.strict_float(_approach(stages["second_moment"][at], gradient * gradient, hl.f32(1 - BETA_2)))
    step = rate * first[at] / (hl.sqrt(second[at]) + hl.f32(ADAM_EPSILON))
    weights[at] = hl.strict_float(stages["mask"][at] * (stages["weights"][at] - step))
    changed = {"first_moment": first, "second_moment": second, "weights": weights}
    if has_statistics:
        moving, share = hl.Func("moving"), stages["moving_share"][at]
        moving[at] = hl.strict_float(_approach(stages["moving"][at], stages["statistics"][at], share))
        changed["moving"] = moving
    for name, stage in changed.items():
        # No element twice, which a last vector that is shifted inwards would do.
        stages[name] = stage.compute_root().vectorize(at, LANES, hl.TailStrategy.GuardWithIf)


def _approach(average: hl.Expr, value: hl.Expr, share: hl.Expr) -> hl.Expr:
    """A moving average with so large a share of a new value."""
    return average + share * (value - average)


def step_size(learning_rate: float, steps: int) -> float:
    """What Adam multiplies its quotient of moments by in the step of this number, counted from 1: bias correction."""
    correction = math.sqrt(1 - power(BETA_2, steps)) / (1 - power(BETA_1, steps))
    return learning_rate * correction
