"""How long an epoch takes: the engines, PyTorch and the article's way side by side, on this machine.

Every way to train has a process of its own, with its own threads. They measure in turn, each a fifth of an epoch with
its share of the test pass, over several rounds, so that whatever else the machine does meets all of them. The same
fifth once more goes before, unmeasured, because a system may leave threads that just woke on one core for a while. Only
the article's way measures whole epochs, with nothing before: the tuning of tf.data wakes at intervals that double, and
an epoch does not end before it has woken (about 10, 20 or 41 seconds after the start), so that a fifth says nothing of
the whole. The pool is the real one: Dask's workers train a run on every core, for a few epochs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np

from smallcnn import data, pool, provenance
from smallcnn.chapters import check_parameters, training_configs
from smallcnn.models import Architecture, build_model, count_multiply_adds, initial_weights, layers
from smallcnn.paths import ROOT, changed_environment
from smallcnn.training import Report, TrainingConfig, create_engine, data_order, is_available, train

APPROACHES = ("approach_1", "approach_2", "approach_3")
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

Measure = Callable[[], float]


def measure_all(report: Report = print, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures every way that is installed here and returns what `build/benchmark.json` holds.

    `seconds_per_epoch` has for each approach and way the median, minimum and maximum over the rounds; `ratios` are
    quotients of medians; `halide` tells more of the fast engine.
    """
    ways = [way for way in WAYS if _is_installed(way)]
    for way in WAYS.keys() - set(ways):
        report(f"{way} is left out, because its package is not installed here")
    has_halide = "halide_one_core" in ways
    halide = {approach: describe_halide(approach) for approach in APPROACHES} if has_halide else {}
    children = {way: Child(way) for way in ways}
    seconds: dict[str, dict[str, list[float]]] = {approach: {} for approach in APPROACHES}
    for number in range(rounds):
        for approach in APPROACHES:
            for way, child in children.items():
                seconds[approach].setdefault(way, []).append(child.measure(approach))
            if has_halide:
                seconds[approach].setdefault("pool_all_cores", []).append(measure_pool(approach))
        report(f"round {number + 1} of {rounds} is done")
    for child in children.values():
        child.stop()
    medians = {approach: {way: median(values) for way, values in of.items()} for approach, of in seconds.items()}
    return {
        "machine": describe_machine(),
        "protocol": {"rounds": rounds, "share_of_an_epoch": 1 / SHARE, "batch_size": _config("approach_1").batch_size},
        "seconds_per_epoch": {
            approach: {way: summarise(values) for way, values in of.items()} for approach, of in seconds.items()
        },
        "operations_per_epoch": {approach: count_operations(_config(approach)) for approach in APPROACHES},
        "ratios": {
            approach: {name: of[way] / of[other] for name, (way, other) in RATIOS.items() if way in of and other in of}
            for approach, of in medians.items()
        },
        "halide": halide,
    }


def measure_pool(approach: str) -> float:
    """Trains a run on every core by the pool; returns elapsed seconds for each epoch that all of it finishes."""
    cores = len(_cores())
    config = dataclasses.replace(_config(approach), engine="halide", epochs=POOL_EPOCHS)
    configs = [dataclasses.replace(config, seed=seed) for seed in range(cores)]
    with changed_environment({"DASK_SCHEDULER_ADDRESS": ""}):
        runs = list(pool.compute(configs, {}, lambda line: None))
    # In the first epoch of one run, and in the last, another may not have begun yet or be over.
    return median(seconds for run in runs for seconds in run.epoch_seconds[1:-1]) / cores


def describe_halide(approach: str) -> dict[str, Any]:
    """What else there is to know of the fast engine on one core: set-up, memory, and the seconds of every stage.

    `epoch_over_steps` compares epochs as `train` makes them with as many steps and a test pass by themselves. Stages
    are those of the compiler's profile, in seconds a step, with the floating-point operations of those that convolve.
    The profile is made with larger batches and scaled.
    """
    details = json.loads(_run_child("details", approach))
    profile = _run_child("profile", approach, HL_JIT_TARGET="host-profile")
    steps = PROFILED_STEPS * PROFILED_BATCH / _config(approach).batch_size
    details |= {"stages": parse_profile(profile, steps), "profiled_batch": PROFILED_BATCH}
    blocks = {layer.name: layer for layer in layers(_config(approach).architecture) if layer.prunable}
    per_image = {name: 2 * layer.prunable * layer.output_shape[0] ** 2 for name, layer in blocks.items()}
    for number, operations in enumerate(per_image.values(), start=1):
        for stage in ("activation", "kernel_gradient", "input_gradient"):
            if (name := f"block_{number}_{stage}") in details["stages"]:
                details["stages"][name]["operations"] = operations * _config(approach).batch_size
    return details


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
    described: dict[str, Any] = {**provenance.describe("tensorflow"), "cores": len(_cores())}
    if is_available("halide"):
        import halide as hl

        described |= {"halide": provenance.describe("halide")["halide"], "instructions": str(hl.get_host_target())}
    if _is_installed("torch_one_core"):
        from importlib.metadata import version

        described["torch"] = version("torch")
    return described


def _is_installed(way: str) -> bool:
    package = way.split("_")[0]
    needed = {"article": "tensorflow", "ceiling": "halide"}.get(package, package)
    return is_available(needed)


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _config(approach: str) -> TrainingConfig:
    """The published configuration, whatever engine then computes it."""
    return training_configs(check_parameters(approach, {"engine": "tensorflow", "seeds": [0]}))[0]


# --- Processes: one for each way ---


class Child:
    """A process that measures one way."""

    def __init__(self, way: str) -> None:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
        environment["HL_NUM_THREADS"] = str(len(_cores())) if way.endswith("all_cores") else "1"
        self._way = way
        self._process = subprocess.Popen(
            [sys.executable, "-m", "smallcnn.benchmark", way],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def measure(self, approach: str) -> float:
        """Measures, and returns seconds an epoch."""
        self._process.stdin.write(f"{approach}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that measures {self._way} ended early")
        return float(line)

    def stop(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def _run_child(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "smallcnn.benchmark", *arguments],
        env=os.environ | {"HL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def _measure_on_request(way: str) -> None:
    """What a child does at each request: run once to warm up, then measure."""
    prepared: dict[str, Measure] = {}
    output = os.dup(1)
    os.dup2(2, 1)  # what libraries print does not belong between the results
    for line in sys.stdin:
        approach = line.strip()
        if is_new := approach not in prepared:
            prepared[approach] = WAYS[way](_config(approach), way)
        if is_new or way != "article":
            prepared[approach]()
        os.write(output, f"{prepared[approach]()!r}\n".encode())


def _print_details(approach: str) -> None:
    """What a child of its own tells of the Halide engine."""
    config = dataclasses.replace(_config(approach), engine="halide", epochs=3)
    started = time.perf_counter()
    train_set, test_set = data.load_mnist()
    loaded = time.perf_counter()
    engine = create_engine(config, train_set, initial_weights(config.architecture, config.seed), {})
    set_up = time.perf_counter()
    order = data_order(config, 1)
    steps, passes = [], []
    for batch in order:
        before = time.perf_counter()
        engine.train_epoch(batch[None], config.learning_rate)
        steps.append(time.perf_counter() - before)
    for _ in range(3):
        before = time.perf_counter()
        engine.predict(test_set.images)
        passes.append(time.perf_counter() - before)
    run = train(config, report=lambda line: None)
    by_themselves = sum(steps) + median(passes)
    details = {
        "load_seconds": loaded - started,
        "set_up_seconds": set_up - loaded,
        "step_seconds": median(steps),
        "test_pass_seconds": median(passes),
        "epoch_over_steps": median(run.epoch_seconds) / by_themselves,
        "peak_memory_bytes": provenance.peak_memory_bytes(),
    }
    print(json.dumps(details))


def _profile(approach: str) -> None:
    """Computes gradients with a compiler that prints a profile after every call.

    The change of the weights is left out: with AVX-512 its few instructions crash when they are profiled.
    """
    config = dataclasses.replace(_config(approach), engine="halide", batch_size=PROFILED_BATCH)
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

    def measure() -> float:
        started = time.perf_counter()
        engine.train_epoch(order, config.learning_rate)
        engine.predict(test_images)
        return SHARE * (time.perf_counter() - started)

    return measure


def _prepare_article(config: TrainingConfig, way: str) -> Measure:
    """The article's way: tf.data maps, caches, shuffles and batches example by example, and Keras fits."""
    import tensorflow as tf
    import tf_keras as keras

    def dataset(part: data.Dataset, shuffled: bool) -> tf.data.Dataset:
        targets = np.eye(10, dtype=np.float32)[part.labels]
        examples = tf.data.Dataset.from_tensor_slices((part.images[..., None], targets))
        scaled = examples.map(lambda image, target: (tf.cast(image, tf.float32) / 255.0, target), tf.data.AUTOTUNE)
        cached = scaled.cache()
        return (
            (cached.shuffle(len(part.labels)) if shuffled else cached)
            .batch(config.batch_size)
            .prefetch(tf.data.AUTOTUNE)
        )

    train_set, test_set = data.load_mnist()
    train_dataset, test_dataset = dataset(train_set, shuffled=True), dataset(test_set, shuffled=False)
    model = build_model(config.architecture)
    model.compile(keras.optimizers.Adam(config.learning_rate), "categorical_crossentropy", ["accuracy"])

    def measure() -> float:
        started = time.perf_counter()
        model.fit(train_dataset, validation_data=test_dataset, epochs=1, verbose=0)
        return time.perf_counter() - started

    return measure


def _prepare_torch(config: TrainingConfig, way: str) -> Measure:
    """PyTorch with the data in memory."""
    import torch

    torch.set_num_threads(1 if way.endswith("one_core") else len(_cores()))
    train_set, test_set = data.load_mnist()
    images, labels = torch.from_numpy(train_set.images), torch.from_numpy(train_set.labels).long()
    test_images = torch.from_numpy(test_set.images[: len(test_set.images) // SHARE])
    order = torch.from_numpy(data_order(config, 1)[: config.steps_per_epoch // SHARE]).long()
    model = build_torch_model(config.architecture)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, eps=1e-7)
    loss = torch.nn.CrossEntropyLoss()

    def scale(batch: torch.Tensor) -> torch.Tensor:
        return batch[:, None].float() / 255

    def measure() -> float:
        started = time.perf_counter()
        model.train()
        for batch in order:
            optimizer.zero_grad()
            loss(model(scale(images[batch])), labels[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for batch in test_images.split(1000):
                model(scale(batch)).argmax(1)
        return SHARE * (time.perf_counter() - started)

    return measure


def build_torch_model(architecture: Architecture) -> Any:
    """The network as a PyTorch module that gives scores."""
    from torch import nn

    modules: list[Any] = []
    channels = 1
    for number, filters in enumerate(architecture.filters, start=1):
        modules += [nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)]
        modules += [nn.MaxPool2d(2)] if number in architecture.pool_after else []
        modules += [nn.Dropout(architecture.dropout)] if number in architecture.dropout_after else []
        channels = filters
    modules += (
        [nn.Flatten(), nn.LazyLinear(10)] if architecture.head == "dense" else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    )
    return nn.Sequential(*modules)


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

    def measure() -> float:
        started = time.perf_counter()
        call(values, written)
        rate = 2 * width * chains * steps / (time.perf_counter() - started)
        return count_operations(config) / rate

    return measure


def count_operations(config: TrainingConfig) -> int:
    """Floating-point operations of an epoch's convolutions and dense layer, its test pass included.

    A training step goes through each layer three times, forward and for the gradients of kernel and input, but for
    the first layer, whose input is data.
    """
    whole = count_multiply_adds(config.architecture)
    first = next(layer.prunable * layer.output_shape[0] ** 2 for layer in layers(config.architecture) if layer.prunable)
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


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    if task == "details":
        _print_details(*rest)
    elif task == "profile":
        _profile(*rest)
    else:
        _measure_on_request(task)
