"""The benchmark: what it counts, how it reads a profile, which networks it takes; the recorded ones are consistent."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from types import SimpleNamespace

import pytest

from benchmarks import speed
from benchmarks.speed import count_operations, parse_profile, ratios, summarise
from smallcnn.architecture import (
    CLASSES,
    Activation,
    Architecture,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    MaxPooling,
)
from smallcnn.commands import CommandError
from smallcnn.report import measurements
from tests.conftest import SMALL_CONFIG
from tests.networks import PUBLISHED

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
# Every kind of layer, most with an option that the published networks have not.
EVERY_LAYER = Architecture(
    (
        Convolution(3, 5, "same", use_bias=False),
        BatchNormalisation(use_scale=False, momentum=0.9, epsilon=1e-4),
        Activation("leaky_relu", 0.1),
        AveragePooling(3),
        Convolution(4, 2),
        Activation("relu"),
        MaxPooling(2),
        Dropout(0.2),
        Flatten(),
        Dense(7),
        BatchNormalisation(),
        Dense(CLASSES, use_bias=False),
        Activation("softmax"),
    )
)


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


def test_the_first_layer_that_computes_may_be_a_dense_one() -> None:
    architecture = Architecture((Flatten(), Dense(CLASSES), Activation("softmax")))
    config = dataclasses.replace(SMALL_CONFIG, architecture=architecture)
    assert count_operations(config) == 2 * 7840 * (2 * 1000 + 10_000)


def test_a_summary_has_the_extremes() -> None:
    assert summarise([3.0, 1.0, 2.0]) == {"median": 2.0, "minimum": 1.0, "maximum": 3.0, "values": [3.0, 1.0, 2.0]}


def test_ratios_are_of_ways_that_were_both_measured() -> None:
    assert ratios({"article": 6.0, "halide_one_core": 2.0, "pool_all_cores": 1.5}) == {"article_over_pool": 4.0}


def test_a_chapter_without_a_network_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match=r"^data types no network that can be measured$"):
        speed.make_config("data")
    with pytest.raises(CommandError, match=r"^unknown chapter 'nothing'; there are: "):
        speed.measure_all(lambda line: None, ["nothing"])


def test_networks_are_measured_as_their_chapters_type_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "read_network", lambda chapter, values: PUBLISHED[chapter])
    config = speed.make_config("approach_1")
    assert (config.architecture, config.seed, config.epochs) == (PUBLISHED["approach_1"], 0, 40)


ENGINES = ("tensorflow_one_core", "halide_one_core")


class FakeMachine:
    """Measures nothing: notes what is asked for, and lets so many seconds pass as a way is said to take."""

    def __init__(self, ways: tuple[str, ...], seconds: dict[str, float]) -> None:
        self.ways, self.seconds = ways, seconds
        self.asked: list[tuple[str, str]] = []
        self.now = 1000.0

    def measure(self, way: str, chapter: str) -> float:
        self.asked.append((chapter, way))
        self.now += self.seconds.get(way, 0.0)
        if self.seconds.get(way) == STOPS:
            raise KeyboardInterrupt
        return float(len(self.asked))

    @contextmanager
    def process_with(self, threads: int) -> Iterator[FakeMachine]:
        assert threads == 1
        yield self
        self.asked.append(("ended", ""))

    def submit(self, work: Callable[..., float], *arguments: str) -> SimpleNamespace:
        return SimpleNamespace(result=lambda: work(*arguments))


STOPS = -1.0


@pytest.fixture
def machine_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeMachine]:
    def make(ways: tuple[str, ...] = ENGINES, **seconds: float) -> FakeMachine:
        machine = FakeMachine(ways, seconds)
        monkeypatch.setattr(speed, "process_with", machine.process_with)
        monkeypatch.setattr(speed, "measure", machine.measure)
        monkeypatch.setattr(speed, "measure_pool", lambda chapter: machine.measure(speed.POOL, chapter))
        monkeypatch.setattr(speed, "_is_installed", lambda way: way in machine.ways)
        monkeypatch.setattr(speed, "describe_halide", lambda chapter: {"of": chapter})
        monkeypatch.setattr(speed, "time", SimpleNamespace(monotonic=lambda: machine.now))
        networks = {"approach_1": EVERY_LAYER, "approach_2": PUBLISHED["approach_2"]}
        monkeypatch.setattr(speed, "read_network", lambda chapter, values: networks[chapter])
        return machine

    return make


def test_every_way_that_is_installed_is_measured_in_turn(machine_with: Callable[..., FakeMachine]) -> None:
    machine, lines = machine_with(), list[str]()
    result = speed.measure_all(lines.append, ["approach_1", "approach_2"], rounds=2)
    assert "torch_one_core is left out, because its package is not installed here" in lines
    ways = (*ENGINES, speed.POOL)
    measured = [(chapter, way) for chapter in ("approach_1", "approach_2") for way in ways]
    assert machine.asked == [*measured, *measured, *[("ended", "")] * len(ENGINES)]
    assert result["labels"] == {"approach_1": "approach 1", "approach_2": "approach 2"}
    seconds = result["seconds_per_epoch"]
    assert seconds["approach_1"] == {way: summarise([1.0 + place, 7.0 + place]) for place, way in enumerate(ways)}
    assert seconds["approach_2"].keys() == set(ways)
    assert result["ratios"]["approach_2"] == {"tensorflow_over_halide_one_core": 7.0 / 8.0}
    assert result["halide"] == {"approach_1": {"of": "approach_1"}, "approach_2": {"of": "approach_2"}}


def test_without_halide_there_is_no_pool(machine_with: Callable[..., FakeMachine]) -> None:
    machine_with(ENGINES[:1])
    result = speed.measure_all(lambda line: None, ["approach_2"], rounds=1)
    assert (set(result["seconds_per_epoch"]["approach_2"]), result["halide"]) == ({ENGINES[0]}, {})


def test_a_round_begins_if_it_can_end_in_time(machine_with: Callable[..., FakeMachine]) -> None:
    machine_with(tensorflow_one_core=5.0, halide_one_core=4.0, pool_all_cores=6.0)
    lines: list[str] = []
    result = speed.measure_all(lines.append, ["approach_2"], minutes=0.8)  # 48 seconds, 15 a round
    assert result["protocol"]["rounds"] == 3
    assert len(result["seconds_per_epoch"]["approach_2"]["halide_one_core"]["values"]) == 3
    assert [line for line in lines if "left out" not in line] == [
        "round 1 of at most 5; 0.8 min left",
        "round 2 of at most 5; 0.6 min left",
        "round 3 of at most 5; 0.3 min left",
        "3 of 5 rounds are whole",
    ]


def test_a_way_that_takes_much_of_the_time_sits_out_later_rounds(machine_with: Callable[..., FakeMachine]) -> None:
    machine_with(("article", *ENGINES), article=70.0, halide_one_core=1.0)
    result = speed.measure_all(lambda line: None, ["approach_2"], minutes=10)
    numbers = {way: len(told["values"]) for way, told in result["seconds_per_epoch"]["approach_2"].items()}
    assert numbers == {"article": 3, **dict.fromkeys((*ENGINES, speed.POOL), 5)}  # of 200 seconds it has had 210


def test_what_is_measured_until_somebody_stops_it_is_kept(machine_with: Callable[..., FakeMachine]) -> None:
    machine_with(halide_one_core=STOPS)
    result = speed.measure_all(lambda line: None, ["approach_1", "approach_2"])
    assert result["protocol"]["rounds"] == 0
    assert result["seconds_per_epoch"] == {
        "approach_1": {"tensorflow_one_core": summarise([1.0])},
        "approach_2": {},
    }


@pytest.mark.slow
def test_a_process_measures_on_request() -> None:
    pytest.importorskip("halide")
    with speed.process_with(threads=1) as process:
        chapters = ("approach_1", "approach_3", "approach_1")
        seconds = [process.submit(speed.measure, "ceiling_one_core", chapter).result() for chapter in chapters]
    assert min(seconds) > 0


@pytest.mark.slow
def test_the_pool_is_measured_by_its_own_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("halide")
    small = dataclasses.replace(SMALL_CONFIG, architecture=PUBLISHED["approach_3"])
    monkeypatch.setattr(speed, "make_config", lambda chapter: small)
    monkeypatch.setattr(speed, "_count_cores", lambda: 2)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    assert speed.measure_pool("approach_3") > 0
    assert os.environ["DASK_SCHEDULER_ADDRESS"] == "tcp://127.0.0.1:1"


@pytest.mark.slow
def test_a_process_that_ends_early_is_an_error() -> None:
    with speed.process_with(threads=1) as process, pytest.raises(RuntimeError):
        process.submit(os._exit, 1).result()


@pytest.mark.parametrize("name", [*PUBLISHED, "every layer"])
def test_the_network_in_pytorch_has_the_same_weights(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; requirements-bench.txt has it")
    architecture = PUBLISHED.get(name, EVERY_LAYER)
    model = speed.build_torch_model(architecture)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == architecture.trainable


@pytest.mark.parametrize("name", ["benchmark.json", *measurements.EARLIER_BENCHMARKS])
def test_a_recorded_benchmark_is_consistent(name: str) -> None:
    recorded = measurements.read_measurement(name)
    for chapter, ways in recorded["seconds_per_epoch"].items():
        assert ways.keys() == measurements.WAY_NAMES.keys()
        assert len(ways["halide_one_core"]["values"]) == recorded["protocol"]["rounds"] >= 3
        for seconds in ways.values():
            assert 1 <= len(seconds["values"]) <= recorded["protocol"]["rounds"]
            assert seconds["median"] == median(seconds["values"])
            assert 0 < seconds["minimum"] <= seconds["median"] <= seconds["maximum"]
        assert recorded["ratios"][chapter] == ratios({way: seconds["median"] for way, seconds in ways.items()})
        assert ways["ceiling_one_core"]["median"] < ways["halide_one_core"]["median"]
        assert recorded["halide"][chapter]["peak_memory_bytes"] < 400e6
    for chapter, architecture in PUBLISHED.items():
        config = dataclasses.replace(SMALL_CONFIG, architecture=architecture, train_examples=60_000)
        assert recorded["operations_per_epoch"][chapter] == count_operations(config)
