"""Exponentials and logarithms, rounded as they are written, like every other formula here; Halide's own are not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import halide as hl

LOWEST = -87.0  # e to this is about the smallest normal float32
# ln 2 in two parts; whole numbers of 8 bits times the first are exact.
LOG_2_HIGH, LOG_2_LOW = hl.f32(0.693359375), hl.f32(-2.12194440e-4)


def exponential(x: hl.Expr) -> hl.Expr:
    """e to the power of x, at most 0: 2^n times e^r by its Taylor series, with |r| ≤ ln 2 / 2."""
    x = hl.max(x, LOWEST)
    n = hl.floor(x * hl.f32(1.4426950408889634) + 0.5)
    r = x - n * LOG_2_HIGH - n * LOG_2_LOW
    series = _polynomial([1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0], r)
    return hl.strict_float(series * hl.reinterpret(hl.Float(32), (hl.i32(n) + 127) << 23))


def logarithm(x: hl.Expr) -> hl.Expr:
    """The natural logarithm of a positive normal number 2^n m: with s = (m − 1)/(m + 1), 2 (s + s³/3 + …) + n ln 2."""
    bits = hl.reinterpret(hl.Int(32), x)
    n = (bits - 0x3F3504F3) >> 23  # so that m is between √½ and √2
    m = hl.reinterpret(hl.Float(32), bits - (n << 23))
    s = (m - 1.0) / (m + 1.0)
    series = 2.0 * s * _polynomial([1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0], s * s)
    return hl.strict_float(hl.f32(n) * LOG_2_HIGH + (hl.f32(n) * LOG_2_LOW + series))


def _polynomial(coefficients: Sequence[float], x: hl.Expr) -> hl.Expr:
    """The polynomial with these coefficients, that of the highest power first."""
    return reduce(lambda value, coefficient: value * x + hl.f32(coefficient), coefficients[1:], hl.f32(coefficients[0]))
