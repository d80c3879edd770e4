"""How long an epoch takes: the engines, PyTorch and the article's way side by side, on this machine.

`python -m benchmarks.speed` measures the book's approaches, or those that are named behind it, and writes
build/benchmark.json.

Every way to train has a process of its own, with its own threads. They measure in turn, each a fifth of an epoch with
its share of the test pass, over several rounds, so that whatever else the machine does meets all of them. The same
fifth once more goes before, unmeasured, because a system may leave threads that just woke on one core for a while. Only
the article's way measures whole epochs, with nothing before: the tuning of tf.data wakes at intervals that double, and
an epoch does not end before it has woken (about 10, 20 or 41 seconds after the start), so that a fifth says nothing of
the whole; what it tells is a range. The pool is the real one: Dask's workers train a run on every core, for a few
epochs. No round begins that would end too late, and a way that takes much of the time sits out later rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache, partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import numpy as np

from smallcnn import commands, data, provenance
from smallcnn.architecture import (
    Activation,
    Architecture,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling,
    MaxPooling,
    PlacedLayer,
    initial_weights,
)
from smallcnn.commands import CommandError, say
from smallcnn.config import Report, TrainingConfig
from smallcnn.engines.base import is_available
from smallcnn.engines.start import create_engine
from smallcnn.files import write_json
from smallcnn.paths import ROOT, build_folder, changed_environment
from smallcnn.report.chapter import training_configs
from smallcnn.report.notebook import read_network
from smallcnn.report.parameters import published_values
from smallcnn.runs import workers
from smallcnn.study import APPROACHES, CHAPTERS
from smallcnn.training import data_order, train

MINUTES = 10.0
LARGEST_PART = 1 / 3  # of the time, which a way may use and then be measured once more
SHARE = 5  # of an epoch is what is measured at a time, and then multiplied
ROUNDS = 5
POOL_EPOCHS = 4
PROFILED_STEPS = 96
PROFILED_BATCH = 500  # the profiler looks once a millisecond, and bills too little of what takes hardly longer
RATIOS = {
    "article_over_halide_all_cores": ("article", "halide_all_cores"),
    "tensorflow_over_halide_one_core": ("tensorflow_one_core", "halide_one_core"),
    "torch_over_halide_one_core": ("torch_one_core", "halide_one_core"),
    "halide_one_core_over_all_cores": ("halide_one_core", "halide_all_cores"),
    "halide_over_ceiling_one_core": ("halide_one_core", "ceiling_one_core"),
    "article_over_pool": ("article", "pool_all_cores"),
}
POOL = "pool_all_cores"

Measure = Callable[[], float]


def measure_all(
    report: Report = say,
    chapters: Sequence[str] = tuple(approach.name for approach in APPROACHES),
    rounds: int = ROUNDS,
    minutes: float = MINUTES,
) -> dict[str, Any]:
    """Measures every way that is installed here and returns what `build/benchmark.json` holds.

    It ends after `rounds`, after about `minutes`, or when somebody stops it, with what is measured until then.

    `labels` are the names of the networks by chapter. `seconds_per_epoch` has for each chapter and way the median,
    minimum and maximum over the rounds; `ratios` are quotients of medians; `halide` tells more of the fast engine.

    Raises:
        CommandError: if a chapter types no network; nothing has been measured then.
    """
    ends = time.monotonic() + 60 * minutes
    configs = {chapter: make_config(chapter) for chapter in chapters}
    installed = [way for way in WAYS if _is_installed(way)]
    for way in WAYS.keys() - set(installed):
        report(f"{way} is left out, because its package is not installed here")
    ways = [*installed, *([POOL] if "halide_one_core" in installed else [])]
    halide = {chapter: describe_halide(chapter) for chapter in chapters if POOL in ways}
    seconds: dict[str, dict[str, list[float]]] = {chapter: {} for chapter in chapters}
    spent = dict.fromkeys(ways, 0.0)
    done = 0
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        processes = {
            way: stack.enter_context(process_with(_count_cores() if way.endswith("all_cores") else 1))
            for way in installed
        }
        while done < rounds and (left := ends - time.monotonic()) > (sum(spent.values()) / done if done else 0):
            report(f"round {done + 1} of at most {rounds}; {left / 60:.1f} min left")
            for chapter, measured in seconds.items():
                for way in ways:
                    if done and spent[way] > 60 * minutes * LARGEST_PART:
                        continue
                    started = time.monotonic()
                    value = (
                        measure_pool(chapter) if way == POOL else processes[way].submit(measure, way, chapter).result()
                    )
                    measured.setdefault(way, []).append(value)
                    spent[way] += time.monotonic() - started
            done += 1
    if done < rounds:
        report(f"{done} of {rounds} rounds are whole")
    summaries = {
        chapter: {way: summarise(values) for way, values in measured.items()} for chapter, measured in seconds.items()
    }
    return {
        "machine": describe_machine(),
        "protocol": {
            "rounds": done,
            "share_of_an_epoch": 1 / SHARE,
            "batch_size": next(iter(configs.values())).batch_size,
        },
        "labels": {chapter: CHAPTERS[chapter].label for chapter in chapters},
        "seconds_per_epoch": summaries,
        "operations_per_epoch": {chapter: count_operations(config) for chapter, config in configs.items()},
        "ratios": {
            chapter: ratios({way: summary["median"] for way, summary in by_way.items()})
            for chapter, by_way in summaries.items()
        },
        "halide": halide,
    }


def ratios(seconds: Mapping[str, float]) -> dict[str, float]:
    """How many times longer one way takes than another, for every ratio whose ways are both there."""
    return {
        name: seconds[way] / seconds[other]
        for name, (way, other) in RATIOS.items()
        if way in seconds and other in seconds
    }


def measure_pool(chapter: str) -> float:
    """Trains a run on every core by the workers; returns elapsed seconds for each epoch that all of it finishes."""
    cores = _count_cores()
    config = dataclasses.replace(make_config(chapter), engine="halide", epochs=POOL_EPOCHS)
    configs = [dataclasses.replace(config, seed=seed) for seed in range(cores)]
    with changed_environment({"DASK_SCHEDULER_ADDRESS": ""}):
        runs = list(workers.compute(configs, {}, lambda line: None))
    # In the first epoch of one run, and in the last, another may not have begun yet or be over.
    return median(seconds for run in runs for seconds in run.epoch_seconds[1:-1]) / cores


def describe_halide(chapter: str) -> dict[str, Any]:
    """What else there is to know of the fast engine on one core: set-up, memory, and the seconds of every stage.

    `epoch_over_steps` compares epochs as `train` makes them with as many steps and a test pass by themselves. Stages
    are those of the compiler's profile, in seconds a step, with the floating-point operations of those that convolve.
    The profile is made with larger batches and scaled.
    """
    with process_with(threads=1) as process:
        details = process.submit(_measure_halide, chapter).result()
    profiled = subprocess.run(
        [sys.executable, "-c", f"from benchmarks import speed; speed.profile({chapter!r})"],
        env=os.environ | {"HL_NUM_THREADS": "1", "HL_JIT_TARGET": "host-profile", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    config = make_config(chapter)
    stages = parse_profile(profiled.stdout, PROFILED_STEPS * PROFILED_BATCH / config.batch_size)
    convolutions = [layer for layer in config.architecture.placed if layer.kernel]
    for number, layer in enumerate(convolutions, start=1):
        for stage in ("activation", "kernel_gradient", "input_gradient"):
            if (name := f"block_{number}_{stage}") in stages:
                stages[name]["operations"] = 2 * layer.multiply_adds * config.batch_size
    return details | {"stages": stages, "profiled_batch": PROFILED_BATCH}


def parse_profile(text: str, steps: float) -> dict[str, dict[str, float]]:
    """Adds up the reports of Halide's profiler: for each stage the seconds of a step, parts with their stage."""
    seconds: dict[str, float] = {}
    for name, milliseconds in re.findall(r"^ +([\w$]+): +([\d.]+)ms", text, re.MULTILINE):
        stage = re.match(r"block_\d+_(?:[a-z]+_)?(?:activation|output|gradient|sums)", name)
        key = stage.group() if stage else "rest"
        seconds[key] = seconds.get(key, 0.0) + float(milliseconds) / 1000 / steps
    return {name: {"seconds": value} for name, value in seconds.items()}


def summarise(values: list[float]) -> dict[str, Any]:
    """Median, minimum, maximum, and the values in their order."""
    return {"median": median(values), "minimum": min(values), "maximum": max(values), "values": values}


def describe_machine() -> dict[str, Any]:
    """Processor, cores, instructions and versions."""
    described: dict[str, Any] = {**provenance.describe("tensorflow"), "cores": _count_cores()}
    if is_available("halide"):
        described |= {name: provenance.describe("halide")[name] for name in ("halide", "instructions")}
    if _is_installed("torch_one_core"):
        from importlib.metadata import version

        described["torch"] = version("torch")
    return described


def _is_installed(way: str) -> bool:
    package = way.split("_")[0]
    needed = {"article": "tensorflow", "ceiling": "halide"}.get(package, package)
    return is_available(needed)


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_config(chapter: str) -> TrainingConfig:
    """The published configuration of the network that `chapter` types, whatever engine then computes it.

    Raises:
        CommandError: if there is no such chapter, or it types no network.
    """
    values = published_values(chapter) | {"engine": "tensorflow", "seeds": [0]}
    architecture = read_network(chapter, values)
    if architecture is None:
        raise CommandError(f"{chapter} types no network that can be measured")
    return training_configs(architecture, values)[0]


# --- Processes: one for each way ---


def process_with(threads: int) -> ProcessPoolExecutor:
    """A process with so many threads of Halide, for one call at a time."""
    return ProcessPoolExecutor(1, get_context("spawn"), _set_up_process, (threads,))


def _set_up_process(threads: int) -> None:
    os.environ |= {"HL_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)  # what libraries print does not belong between the results


def measure(way: str, chapter: str) -> float:
    """Seconds an epoch, after one that warms up; the article's way, whose epochs are whole, does that only once."""
    measured = _prepared(way, chapter)
    if way != "article":
        measured()
    return measured()


@cache
def _prepared(way: str, chapter: str) -> Measure:
    prepared = WAYS[way](make_config(chapter), way)
    if way == "article":
        prepared()
    return prepared


def _measure_halide(chapter: str) -> dict[str, float]:
    """What a process of its own tells of the Halide engine."""
    config = dataclasses.replace(make_config(chapter), engine="halide", epochs=3)
    started = time.perf_counter()
    train_set, test_set = data.load_mnist()
    loaded = time.perf_counter()
    engine = create_engine(config, train_set, initial_weights(config.architecture, config.seed), {})
    set_up = time.perf_counter()
    steps = [_seconds(engine.train_epoch, batch[None], config.learning_rate) for batch in data_order(config, 1)]
    test_pass = median(_seconds(engine.predict, test_set.images) for _ in range(3))
    run = train(config, report=lambda line: None)
    return {
        "load_seconds": loaded - started,
        "set_up_seconds": set_up - loaded,
        "step_seconds": median(steps),
        "test_pass_seconds": test_pass,
        "epoch_over_steps": median(run.epoch_seconds) / (sum(steps) + test_pass),
        "peak_memory_bytes": provenance.peak_memory_bytes(),
    }


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def profile(chapter: str) -> None:
    """Computes gradients with a compiler that prints a profile after every call.

    The change of the weights is left out: with AVX-512 its few instructions crash when they are profiled.
    """
    config = dataclasses.replace(make_config(chapter), engine="halide", batch_size=PROFILED_BATCH)
    engine = create_engine(config, data.load_mnist()[0], initial_weights(config.architecture, config.seed), {})
    for batch in data_order(config, 1)[:PROFILED_STEPS]:
        engine._compute_gradient(batch)


# --- Ways: each prepares a configuration and returns what measures it, in seconds an epoch ---


def _prepare_engine(config: TrainingConfig, way: str) -> Measure:
    """An engine of this project."""
    engine_name = way.split("_")[0]
    train_set, test_set = data.load_mnist()
    weights = initial_weights(config.architecture, config.seed)
    engine = create_engine(dataclasses.replace(config, engine=engine_name), train_set, weights, {})
    order = data_order(config, 1)[: config.steps_per_epoch // SHARE]
    test_images = test_set.images[: len(test_set.images) // SHARE]

    def work() -> None:
        engine.train_epoch(order, config.learning_rate)
        engine.predict(test_images)

    return lambda: SHARE * _seconds(work)


def _prepare_article(config: TrainingConfig, way: str) -> Measure:
    """The article's way: tf.data maps, caches, shuffles and batches example by example, and Keras fits."""
    import tensorflow as tf
    import tf_keras as keras

    from smallcnn.models import build_model

    def dataset(part: data.Dataset, shuffled: bool) -> tf.data.Dataset:
        targets = np.eye(10, dtype=np.float32)[part.labels]
        examples = tf.data.Dataset.from_tensor_slices((part.images[..., None], targets))
        scaled = examples.map(lambda image, target: (tf.cast(image, tf.float32) / 255.0, target), tf.data.AUTOTUNE)
        cached = scaled.cache()
        ordered = cached.shuffle(len(part.labels)) if shuffled else cached
        return ordered.batch(config.batch_size).prefetch(tf.data.AUTOTUNE)

    train_set, test_set = data.load_mnist()
    train_dataset, test_dataset = dataset(train_set, shuffled=True), dataset(test_set, shuffled=False)
    model = build_model(config.architecture)
    model.compile(keras.optimizers.Adam(config.learning_rate), "categorical_crossentropy", ["accuracy"])

    return lambda: _seconds(partial(model.fit, train_dataset, validation_data=test_dataset, epochs=1, verbose=0))


def _prepare_torch(config: TrainingConfig, way: str) -> Measure:
    """PyTorch with the data in memory."""
    import torch

    torch.set_num_threads(1 if way.endswith("one_core") else _count_cores())
    train_set, test_set = data.load_mnist()
    images, labels = torch.from_numpy(train_set.images), torch.from_numpy(train_set.labels).long()
    test_images = torch.from_numpy(test_set.images[: len(test_set.images) // SHARE])
    order = torch.from_numpy(data_order(config, 1)[: config.steps_per_epoch // SHARE]).long()
    model = build_torch_model(config.architecture)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, eps=1e-7)
    loss = torch.nn.CrossEntropyLoss()

    def scale(batch: torch.Tensor) -> torch.Tensor:
        return batch[:, None].float() / 255

    def work() -> None:
        model.train()
        for batch in order:
            optimizer.zero_grad()
            loss(model(scale(images[batch])), labels[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for batch in test_images.split(1000):
                model(scale(batch)).argmax(1)

    return lambda: SHARE * _seconds(work)


def build_torch_model(architecture: Architecture) -> Any:
    """The network as a PyTorch module that gives scores, from images (n, 1, 28, 28) to (n, 10)."""
    from torch import nn

    return nn.Sequential(*map(_torch_layer, architecture.placed[:-1]))  # without softmax


def _torch_layer(placed: PlacedLayer) -> Any:
    from torch import nn

    channels = placed.input_shape[-1]
    match placed.layer:
        case Convolution() as layer:
            return nn.Conv2d(channels, layer.filters, layer.kernel_size, padding=layer.padding, bias=layer.use_bias)
        case Activation(function="relu"):
            return nn.ReLU()
        case Activation(function="leaky_relu", slope=slope):
            return nn.LeakyReLU(slope)
        case BatchNormalisation() as layer:
            kind = nn.BatchNorm2d if len(placed.input_shape) == 3 else nn.BatchNorm1d
            normalisation = kind(channels, eps=layer.epsilon, momentum=1 - layer.momentum)
            normalisation.weight.requires_grad_(layer.use_scale)
            return normalisation
        case MaxPooling(size=size):
            return nn.MaxPool2d(size)
        case AveragePooling(size=size):
            return nn.AvgPool2d(size)
        case Dropout(rate=rate):
            return nn.Dropout(rate)
        case Flatten():
            return nn.Flatten()
        case GlobalAveragePooling():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case Dense() as layer:
            return nn.Linear(channels, layer.units, layer.use_bias)
    raise TypeError(f"{placed.layer!r} has no PyTorch layer")


def _prepare_ceiling(config: TrainingConfig, way: str) -> Measure:
    """The arithmetic of an epoch at the rate of fused multiply-adds that one core reaches in its registers."""
    import halide as hl

    width, chains, steps = hl.get_host_target().natural_vector_size(hl.Float(32)), 12, 1_000_000
    lane, chain, step = hl.Var("lane"), hl.Var("chain"), hl.RDom([(0, steps)], "step")
    factors, value, output = hl.ImageParam(hl.Float(32), 1, "factors"), hl.Func("value"), hl.Func("output")
    value[lane, chain] = hl.f32(0)
    value[lane, chain] = value[lane, chain] * factors[0] + factors[1] + hl.f32(0 * step)
    output[lane, chain] = value[lane, chain]
    for stage in (output, value):
        stage.compute_root().bound(lane, 0, width).bound(chain, 0, chains).vectorize(lane).unroll(chain)
    value.update().reorder(lane, chain, step.x).vectorize(lane).unroll(chain)
    call = output.compile_to_callable([hl.Argument(factors)], hl.get_host_target())
    values, written = hl.Buffer(np.array([0.999, 0.001], np.float32)), hl.Buffer(hl.Float(32), [width, chains])

    times = count_operations(config) / (2 * width * chains * steps)
    return lambda: times * _seconds(call, values, written)


def count_operations(config: TrainingConfig) -> int:
    """Floating-point operations of an epoch's convolutions and dense layers, its test pass included.

    A training step goes through each layer three times, forward and for the gradients of kernel and input, but for
    the first layer, whose input is data.
    """
    whole = config.architecture.multiply_adds
    first = next(layer.multiply_adds for layer in config.architecture.placed if layer.multiply_adds)
    return 2 * ((3 * whole - first) * config.train_examples + whole * data.TEST_EXAMPLES)


WAYS: Mapping[str, Callable[[TrainingConfig, str], Measure]] = {
    "article": _prepare_article,
    "tensorflow_one_core": _prepare_engine,
    "halide_one_core": _prepare_engine,
    "halide_all_cores": _prepare_engine,
    "torch_one_core": _prepare_torch,
    "torch_all_cores": _prepare_torch,
    "ceiling_one_core": _prepare_ceiling,
}


def main() -> None:
    """Measures, and writes `build/benchmark.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="Measures seconds an epoch.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long it may take, instead of ten")
    parser.add_argument("chapters", nargs="*", default=[approach.name for approach in APPROACHES])
    options = parser.parse_args()
    if not options.minutes > 0:
        raise CommandError(f"MINUTES is {options.minutes:g}; expected a number above 0, as in: make bench MINUTES=5")
    chapters = options.chapters
    data.load_mnist()  # fetched once, here, before several processes want it
    result = measure_all(say, chapters, minutes=options.minutes)
    for chapter in chapters:
        say(f"\n{chapter}, seconds an epoch, test pass included: median (minimum to maximum)")
        for way, seconds in result["seconds_per_epoch"][chapter].items():
            say(f"  {way:20} {seconds['median']:7.2f} ({seconds['minimum']:.2f} to {seconds['maximum']:.2f})")
        for name, ratio in result["ratios"][chapter].items():
            say(f"  {name:40} {ratio:5.2f}")
    path = build_folder() / "benchmark.json"
    write_json(path, result)
    say(f"\n{path}")


if __name__ == "__main__":
    from benchmarks import speed  # a process finds its work by the name of this module, which must not be __main__

    sys.exit(commands.run(speed.main))
