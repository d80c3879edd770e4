"""The engine's exponential and logarithm against NumPy's in double precision."""

from __future__ import annotations

import doctest
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("halide", reason="the package halide is not installed")

import halide as hl

import smallcnn.engines.halide
from smallcnn.engines.halide.functions import exponential, logarithm


def evaluate(function: Callable[[hl.Expr], hl.Expr], values: np.ndarray) -> np.ndarray:
    """The function of each of these float32 values."""
    at, argument, result = hl.Var("at"), hl.ImageParam(hl.Float(32), 1), hl.Func("result")
    result[at] = function(argument[at])
    found = np.empty_like(values)
    result.compile_to_callable([hl.Argument(argument)])(hl.Buffer(values), hl.Buffer(found))
    return found


def in_units(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """How far float32 results are from exact ones, in units in the last place."""
    return np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))


def test_exponentials_are_right_to_two_units_in_the_last_place() -> None:
    values = -np.random.default_rng(0).uniform(0, 87, 10_000).astype(np.float32)
    assert in_units(evaluate(exponential, values), np.exp(values.astype(np.float64))).max() < 2
    edges = np.array([0.0, -0.0, -1e-9, -88.0, -1e9, -np.inf], np.float32)
    found = evaluate(exponential, edges)
    assert found[:3].tolist() == [1, 1, 1]
    assert (found[3:] > 0).all() and (found[3:] < 2e-38).all()


def test_logarithms_are_right_to_three_units_in_the_last_place() -> None:
    generator = np.random.default_rng(0)
    near_one = 1 - np.arange(1, 50) * 2.0**-24
    values = np.concatenate([generator.random(10_000), 10 ** generator.uniform(-37, 38, 10_000), near_one, [0.5, 2]])
    values = values.astype(np.float32)
    assert in_units(evaluate(logarithm, values), np.log(values.astype(np.float64))).max() < 3
    assert evaluate(logarithm, np.ones(1, np.float32)) == 0


def test_the_worked_example_of_the_package_is_true() -> None:
    tested = doctest.testmod(smallcnn.engines.halide)
    assert tested.attempted > 10
    assert tested.failed == 0
