"""The benchmark: what it counts, how it reads a profile, and that the recorded one is consistent."""

from __future__ import annotations

import dataclasses
import json
import os
from statistics import median

import pytest

from smallcnn import benchmark, measurements
from smallcnn.benchmark import APPROACHES, Child, count_operations, parse_profile, summarise
from smallcnn.models import PUBLISHED, count_trainable
from tests.conftest import SMALL_CONFIG

PROFILE = """
f0
 total time: 9.0 ms  samples: 9  runs: 1  time per run: 9.0 ms
 heap allocations: 27  peak heap usage: 147456 bytes
    halide_malloc:                0.250ms ( 2.7%)
    block_1_activation:           1.000ms (11.1%)
    block_1_activation_total:     2.000ms (22.2%)    stack: 256
    block_2_kernel_gradient_in_strip$1: 3.000ms (33.3%)
    block_2_gradient_sums:        0.500ms ( 5.5%)
    probabilities:                0.250ms ( 2.7%)
    block_1_activation:           1.000ms (11.1%)
"""


def test_a_profile_is_added_up_by_stage() -> None:
    assert parse_profile(PROFILE, steps=2) == {
        "rest": {"seconds": pytest.approx(0.25e-3)},
        "block_1_activation": {"seconds": pytest.approx(2e-3)},
        "block_2_kernel_gradient": {"seconds": pytest.approx(1.5e-3)},
        "block_2_gradient_sums": {"seconds": pytest.approx(0.25e-3)},
    }


def test_the_operations_of_an_epoch_are_three_passes_of_training_and_one_of_the_test_images() -> None:
    # Approach 2: 24,336 multiply-adds of the first convolution, 504,720 of all.
    expected = 2 * ((3 * 504_720 - 24_336) * 1000 + 504_720 * 10_000)
    assert count_operations(SMALL_CONFIG) == expected
    doubled = dataclasses.replace(SMALL_CONFIG, train_examples=2000)
    assert count_operations(doubled) - expected == 2 * (3 * 504_720 - 24_336) * 1000


def test_a_summary_has_the_extremes() -> None:
    assert summarise([3.0, 1.0, 2.0]) == {"median": 2.0, "minimum": 1.0, "maximum": 3.0, "values": [3.0, 1.0, 2.0]}


def test_a_child_measures_on_request() -> None:
    pytest.importorskip("halide")
    child = Child("ceiling_one_core")
    largest, smallest = (min(child.measure(approach) for _ in range(3)) for approach in ("approach_1", "approach_3"))
    child.stop()
    assert 0.05 < smallest < largest < 60  # more than three times as much arithmetic


@pytest.mark.slow
def test_the_pool_is_measured_by_its_own_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("halide")
    small = dataclasses.replace(SMALL_CONFIG, architecture=PUBLISHED["approach_3"])
    monkeypatch.setattr(benchmark, "_config", lambda approach: small)
    monkeypatch.setattr(benchmark, "_cores", lambda: [0, 1])
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    assert 0 < benchmark.measure_pool("approach_3") < 60
    assert os.environ["DASK_SCHEDULER_ADDRESS"] == "tcp://127.0.0.1:1"


def test_a_child_that_ends_early_is_an_error() -> None:
    child = Child("no such way")
    with pytest.raises((RuntimeError, BrokenPipeError)):
        child.measure("approach_1")


def test_the_network_in_pytorch_has_the_same_weights() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; requirements-bench.txt has it")
    for architecture in PUBLISHED.values():
        model = benchmark.build_torch_model(architecture)
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
        assert sum(parameter.numel() for parameter in model.parameters()) == count_trainable(architecture)


@pytest.mark.parametrize("name", ["benchmark.json", *measurements.EARLIER_BENCHMARKS])
def test_a_recorded_benchmark_is_consistent(name: str) -> None:
    recorded = json.loads((measurements.MEASUREMENTS / name).read_text(encoding="utf-8"))
    for approach in APPROACHES:
        ways = recorded["seconds_per_epoch"][approach]
        assert ways.keys() == measurements.WAY_NAMES.keys()
        for of_way in ways.values():
            assert len(of_way["values"]) == recorded["protocol"]["rounds"] >= 3
            assert of_way["median"] == median(of_way["values"])
            assert 0 < of_way["minimum"] <= of_way["median"] <= of_way["maximum"]
        for name, (way, other) in benchmark.RATIOS.items():
            assert recorded["ratios"][approach][name] == ways[way]["median"] / ways[other]["median"]
        assert ways["ceiling_one_core"]["median"] < ways["halide_one_core"]["median"]
        assert recorded["halide"][approach]["peak_memory_bytes"] < 400e6
        assert recorded["operations_per_epoch"][approach] == count_operations(benchmark._config(approach))
