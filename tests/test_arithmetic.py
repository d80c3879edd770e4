"""Logarithms and powers that round alike everywhere."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from smallcnn.arithmetic import logarithm, power


def test_logarithms_are_those_of_mathematics_to_a_few_units_in_the_last_place() -> None:
    generator = np.random.default_rng(0)
    near_one = 1 + np.array([-1, 1, -3, 5]) * 2.0**-53
    edges = np.array([1e-7, math.sqrt(0.5), np.nextafter(math.sqrt(0.5), 0), 0.5, 2, 5e-324, 1e308])
    values = np.concatenate([generator.random(1000), 10 ** generator.uniform(-30, 30, 1000), near_one, edges])
    expected = np.array(list(map(math.log, values)))
    assert np.all(np.abs(logarithm(values) - expected) <= 3 * np.spacing(np.abs(expected)))
    assert logarithm(np.ones(1)) == 0


@pytest.mark.parametrize("base", [0.9, 0.999, 0.2])
@pytest.mark.parametrize("exponent", [1, 2, 7, 160])
def test_powers_are_those_of_mathematics_rounded_once(base: float, exponent: int) -> None:
    assert power(base, exponent) == float(Fraction(base) ** exponent)


def test_a_root_is_one() -> None:
    assert power(0.25, 1 / 2) == 0.5
    assert power(0.2, 1 / 3) == pytest.approx(0.2 ** (1 / 3), rel=1e-15)
