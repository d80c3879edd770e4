"""Functions that give the same bits on every processor and system, for what enters a record.

IEEE 754 fixes how +, −, ×, ÷ and √ round, but neither logarithms nor powers: those of C and NumPy differ between
libraries, and within one between processors with and without fused multiply-adds or wide vectors.
"""

from __future__ import annotations

import decimal

import numpy as np

LOGARITHM_OF_2 = 0.6931471805599453
LOGARITHM_TERMS = 11  # the next one is below half a unit in the last place


def logarithm(values: np.ndarray) -> np.ndarray:
    """The natural logarithms of positive float64 numbers, to a few units in the last place.

    With value = 2^exponent · m and s = (m − 1)/(m + 1), log m = 2 (s + s³/3 + s⁵/5 + …).
    """
    fraction, exponent = np.frexp(values)
    is_low = fraction < 0.7071067811865476
    m = np.where(is_low, 2 * fraction, fraction)
    s = (m - 1) / (m + 1)
    series = np.zeros_like(s)
    for term in reversed(range(LOGARITHM_TERMS)):
        series = series * (s * s) + 1 / (2 * term + 1)
    result: np.ndarray = (exponent - is_low) * LOGARITHM_OF_2 + 2 * s * series
    return result


def power(base: float, exponent: float) -> float:
    """`base` to the power of `exponent`, rounded from fifty digits; `base` is positive."""
    with decimal.localcontext(decimal.Context(prec=50)):
        return float(decimal.Decimal(base) ** decimal.Decimal(exponent))
