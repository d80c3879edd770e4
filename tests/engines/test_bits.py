"""Runs give the recorded bits: whatever processor computes them, however wide its vectors, on any number of cores.

`python -m tests.engines.test_bits --every` tries all kinds of processors that this one can stand in for.
`python -m tests.engines.test_bits --record` records anew, after RECIPE_VERSIONS were raised.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    Layer,
    MaxPooling,
)
from smallcnn.config import RECIPE_VERSIONS, Checkpoint, TrainingConfig, TrainingRun
from smallcnn.engines.base import is_available
from smallcnn.paths import ROOT
from smallcnn.training import train
from tests.conftest import SMALL_CONFIG
from tests.engines.test_recorded_losses import use_small_test_set
from tests.networks import PUBLISHED, chain

RECORDED = Path(__file__).with_name("bits.json")
MODULE = "tests.engines.test_bits"
ADVICE = f"raise RECIPE_VERSIONS in smallcnn/config.py, then run: python -m {MODULE} --record"

# Kinds of processors with AVX2, by the names that Halide gives to what they understand.
AVX2 = "x86-64-linux-avx-avx2-f16c-fma-sse41"
SKYLAKE = f"{AVX2}-avx512-avx512_skylake"
CANNONLAKE = f"{SKYLAKE}-avx512_cannonlake"
ZEN_4 = f"{CANNONLAKE}-avx512_zen4"
PROCESSORS = {
    "this one": "host",
    "AVX2": AVX2,
    "Zen 3": f"{AVX2}-tune_znver3",
    "AVX-512 Skylake": SKYLAKE,
    "AVX-512 Cannonlake": CANNONLAKE,
    "Zen 4": f"{ZEN_4}-tune_znver4",
    "Sapphire Rapids": f"{ZEN_4}-avx512_sapphirerapids-avxvnni",
}
# Without wide vectors and fused multiply-adds in NumPy and in the mathematics of C.
NARROW = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-AVX",
}

# Chains that are computed layer by layer: which layers, the size of a batch, what share of the kernels is pruned.
CHAINS: dict[str, tuple[tuple[Layer, ...], int, tuple[float, ...]]] = {
    "5×5 padded, no bias": (
        (
            *(Convolution(6, 5, "same", use_bias=False), BatchNormalisation(use_center=False)),
            *(Activation("leaky_relu", 0.1), MaxPooling(2), Dropout(0.2)),
            *(Convolution(8, 1), Activation("relu"), Convolution(7, 3, "same"), AveragePooling(3)),
            *(Flatten(), Dense(20), BatchNormalisation(momentum=0.9), Activation("relu"), Dense(10, use_bias=False)),
            Activation("softmax"),
        ),
        45,
        (0.3,),
    ),
    "no normalisation": (
        (
            *(Convolution(5), Activation("relu"), Convolution(9), MaxPooling(3), Activation("relu"), Dropout(0.3)),
            *(Convolution(10, 2), GlobalAveragePooling(), Activation("softmax")),
        ),
        125,
        (),
    ),
    "normalised images and scores": (
        (
            *(BatchNormalisation(epsilon=0.01), MaxPooling(2), Convolution(3, 5), BatchNormalisation(use_scale=False)),
            *(Activation("relu"), Dropout(0.1), Convolution(17, 1), Activation("relu"), AveragePooling(2)),
            *(Flatten(), Dropout(0.4), Dense(10), BatchNormalisation(momentum=0.5), Activation("softmax")),
        ),
        7,
        (),
    ),
    "dense alone": (
        (
            *(Flatten(), Dense(33), Activation("leaky_relu", 0.3), Dense(17), Activation("relu")),
            *(Dense(10), Activation("softmax")),
        ),
        64,
        (),
    ),
    "one filter, one image": (
        (
            *(Convolution(1, 3, "same"), BatchNormalisation(), Activation("relu"), MaxPooling(2)),
            *(Convolution(1, 4, "same"), MaxPooling(7), Flatten(), Dense(10), Activation("softmax")),
        ),
        1,
        (),
    ),
}


def has_avx2() -> bool:
    """Whether this processor understands AVX2 and fused multiply-adds."""
    path = Path("/proc/cpuinfo")
    return path.exists() and {"avx2", "fma"} <= set(path.read_text("utf-8").split())


def configurations() -> dict[str, TrainingConfig]:
    """The runs that are recorded: the published networks, and others that reach what those do not."""
    networks = {
        **{name: (architecture, 125, ()) for name, architecture in PUBLISHED.items()},
        "odd maps": (chain((5, 7, 3), (1, 3), 0.3, (1, 2, 3), "dense"), 37, (0.3,)),
        "pooled to one pixel": (chain((3, 1, 10), (1, 2, 3), 0.2, (3,)), 16, ()),
        "wide": (chain((17, 10), (2,), 0.5, (1,)), 3, (0.5, 0.4)),
        "one block": (chain((11,), (), 0.0, (), "dense"), 50, ()),
        "four blocks": (chain((6, 9, 20, 10), (1, 3), 0.25, (2, 4)), 70, ()),
    }

    networks |= {name: (Architecture(layers), *rest) for name, (layers, *rest) in CHAINS.items()}

    def configuration(architecture: Architecture, batch_size: int, pruned: tuple[float, ...]) -> TrainingConfig:
        return dataclasses.replace(
            SMALL_CONFIG,
            architecture=architecture,
            batch_size=batch_size,
            train_examples=3 * batch_size + 8,
            pruned_fractions=pruned,
            plateau_patience=1,
            engine="halide",
        )

    return {name: configuration(*network) for name, network in networks.items()}


def measure(config: TrainingConfig) -> list[list[str]]:
    """For each epoch, SHA-256 of what the next one starts from, weights above all, and of the history."""
    found: list[list[str]] = []

    def keep(so_far: Checkpoint) -> None:
        state = b"".join(array.tobytes() for _, array in sorted(so_far.engine_state.items()))
        history = json.dumps([so_far.history, so_far.misclassified]).encode()
        found.append([hashlib.sha256(content).hexdigest() for content in (state, history)])

    train(config, parent_run(config), report=lambda line: None, keep=keep)
    return found


def parent_run(config: TrainingConfig) -> TrainingRun | None:
    """The run that `config` is pruned from, if it is."""
    parent = config.parent
    return parent and train(parent, parent_run(parent), report=lambda line: None)


def measure_all() -> dict[str, list[list[str]]]:
    """Measures every configuration, in this process."""
    use_small_test_set(pytest.MonkeyPatch())
    return {name: measure(config) for name, config in configurations().items()}


def measure_as(processor: str, threads: int, narrow: bool = False) -> dict[str, list[list[str]]]:
    """Measures every configuration in a process that takes this processor for another."""
    settings = {"HL_JIT_TARGET": PROCESSORS[processor], "HL_NUM_THREADS": str(threads)} | (NARROW if narrow else {})
    command = [sys.executable, "-m", MODULE, "--measure"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def recorded() -> dict[str, list[list[str]]]:
    content = json.loads(RECORDED.read_text("utf-8"))
    assert content["recipe_version"] == RECIPE_VERSIONS["halide"], f"the bits are of another recipe; {ADVICE}"
    return dict(content["epochs"])


@pytest.mark.slow
@pytest.mark.skipif(not is_available("halide"), reason="the package halide is not installed")
@pytest.mark.skipif(not has_avx2(), reason="bits are those of an x86-64 processor with AVX2")
@pytest.mark.parametrize(("processor", "threads", "narrow"), [("this one", 1, False), ("AVX2", 3, True)])
def test_runs_give_the_recorded_bits(processor: str, threads: int, narrow: bool) -> None:
    assert measure_as(processor, threads, narrow) == recorded(), ADVICE


def try_every_processor() -> bool:
    """Prints for all that this processor can stand in for whether they give the recorded bits."""
    expected, all_same = recorded(), True
    for processor in PROCESSORS:
        for threads, narrow in ((1, True), (3, False)):
            found = measure_as(processor, threads, narrow)
            other = [name for name, epochs in found.items() if epochs != expected[name]]
            all_same &= not other
            print(
                f"{processor}, {threads} threads:",
                ", ".join(other) + " differ" if other else "the same bits",
                flush=True,
            )
    return all_same


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--measure"]:
            print(json.dumps(measure_all()))
        case ["--record"]:
            content = {"recipe_version": RECIPE_VERSIONS["halide"], "epochs": measure_all()}
            RECORDED.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        case ["--every"]:
            sys.exit(not try_every_processor())
