"""Tries whether a 64-bit ARM processor computes the same bits: `python -m tests.engines.arm`.

Needs the Debian packages qemu-user, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross. The pipelines of a few training
steps are compiled for ARM, and a small C program calls them in an emulator, from the same bytes as this processor.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import halide as hl
import numpy as np
import pytest

from smallcnn import data
from smallcnn.architecture import initial_weights
from smallcnn.config import TrainingConfig
from smallcnn.engines.halide import engine as engine_module
from smallcnn.engines.halide import target as target_module
from smallcnn.engines.halide.arrays import Stages
from smallcnn.engines.halide.engine import HalideEngine
from smallcnn.engines.halide.update import step_size
from smallcnn.training import data_order
from tests.engines.test_bits import configurations

STEPS, LEARNING_RATE = 2, 0.01
GIVEN = ("images", "labels", "training", "dropout_key", "step_size")  # what a step is given from outside
TARGET = "arm-64-linux-no_asserts-no_bounds_query"

MAIN = """
#include "HalideRuntime.h"
#include <stdio.h>
#include <stdlib.h>
static unsigned char *arena;
static halide_buffer_t *buffer(long offset, int code, int bits, int rank, const int *sizes) {
    halide_buffer_t *made = calloc(1, sizeof *made);
    halide_dimension_t *dims = calloc(rank, sizeof *dims);
    for (int i = 0, stride = 1; i < rank; stride *= sizes[2 * i + 1], i++) {
        dims[i].min = sizes[2 * i], dims[i].extent = sizes[2 * i + 1], dims[i].stride = stride;
        made->host = arena + offset, made->dim = dims, made->dimensions = rank;
    }
    made->type.code = code, made->type.bits = bits, made->type.lanes = 1;
    return made;
}
%s
int main(void) {
    arena = aligned_alloc(64, %d);
    FILE *in = fopen("in", "rb"), *out = fopen("out", "wb");
    if (fread(arena, 1, %d, in) != %d) return 1;
    for (int step = 0; step < %d; step++) {
        %s
        %s
    }
    return fwrite(arena, 1, %d, out) != %d;
}
"""


def compile_for_arm(folder: Path, config: TrainingConfig, train_set: data.Dataset) -> list[list[tuple[str, object]]]:
    """Compiles the pipelines of an engine into `folder`; returns the names and shapes of the arrays of each."""
    arguments: list[list[tuple[str, object]]] = []

    class ArmStages(Stages):
        def compile(self, arrays: Mapping[str, np.ndarray]) -> Callable[[], None]:
            number = len(arguments)
            pipeline, inputs = hl.Pipeline(list(self._written.values())), list(map(hl.Argument, self._read.values()))
            target = hl.Target(TARGET + ("-no_runtime" if number else ""))
            pipeline.compile_to_static_library(str(folder / f"stage_{number}"), inputs, f"stage_{number}", target)
            arguments.append([(name, self._shapes[name]) for name in (*self._read, *self._written)])
            return lambda: None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "Stages", ArmStages)
        patch.setattr(target_module, "get_target", lambda: hl.Target(TARGET))
        HalideEngine(config, train_set, initial_weights(config.architecture, config.seed), {})
    return arguments


def place(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, int], int]:
    """Places all arrays in one piece of memory, those that share memory in the same way; gives offsets and size."""
    offsets, size, end = {}, 0, 0
    for name, array in sorted(arrays.items(), key=lambda item: (item[1].ctypes.data, -item[1].nbytes)):
        start = array.ctypes.data
        if start >= end:
            base, size = start, -(-size // 64) * 64 + start % 64
            origin = size
        offsets[name] = origin + start - base
        end = max(end, start + array.nbytes)
        size = max(size, offsets[name] + array.nbytes)
    return offsets, -(-size // 64) * 64


def run_on_arm(config: TrainingConfig) -> list[str]:
    """Makes the steps here and on ARM; returns the names of the arrays that differ."""
    train_set = data.stratified_subset(data.load_mnist()[0], config.train_examples)
    here = HalideEngine(config, train_set, initial_weights(config.architecture, config.seed), {})
    arrays, order = here._arrays, data_order(config, 1)
    offsets, size = place(arrays)
    arena = np.zeros(size, np.uint8)

    def content(name: str) -> np.ndarray:
        return np.ascontiguousarray(arrays[name]).view(np.uint8).ravel()

    for name in arrays:
        arena[offsets[name] : offsets[name] + arrays[name].nbytes] = content(name)
    given = [arena.tobytes()]
    for step in range(1, STEPS + 1):
        here._compute_gradient(order[step - 1])
        arrays["step_size"][:] = step_size(LEARNING_RATE, step)
        given += [content(name).tobytes() for name in GIVEN]
        here._change_weights(LEARNING_RATE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").write_bytes(b"".join(given))
        declarations, calls = "", ""
        for number, arguments in enumerate(compile_for_arm(folder, config, train_set)):
            declarations += f"int stage_{number}({', '.join(['halide_buffer_t *'] * len(arguments))});\n"
            buffers = []
            for argument, shape in arguments:
                code, bits = {"float32": (2, 32), "uint8": (1, 8), "int32": (0, 32), "uint32": (1, 32)}[shape.type]
                sizes = ", ".join(
                    f"{first}, {count}" for first, count in zip(shape._first, shape._allocated, strict=True)
                )
                buffers.append(
                    f"buffer({offsets[argument]}, {code}, {bits}, {len(shape.sizes)}, (const int[]){{{sizes}}})"
                )
            calls += f"if (stage_{number}({', '.join(buffers)})) return 2;\n"
        reads = "".join(
            f"if (fread(arena + {offsets[name]}, 1, {arrays[name].nbytes}, in) != {arrays[name].nbytes}) return 1;\n"
            for name in GIVEN
        )
        (folder / "main.c").write_text(MAIN % (declarations, size, size, size, STEPS, reads, calls, size, size))
        include = Path(hl.install_dir()) / "include"
        command = ["aarch64-linux-gnu-gcc", "-O1", "-static", f"-I{include}", "main.c"]
        libraries = [f"stage_{number}.a" for number in (1, 2, 0)]
        subprocess.run([*command, *libraries, "-o", "main", "-lpthread", "-ldl", "-lm"], cwd=folder, check=True)
        subprocess.run(["qemu-aarch64", "./main"], cwd=folder, check=True)
        there = np.frombuffer((folder / "out").read_bytes(), np.uint8)
    return [
        name
        for name, offset in offsets.items()
        if not np.array_equal(there[offset : offset + arrays[name].nbytes], content(name))
    ]


if __name__ == "__main__":
    all_other: list[str] = []
    for name, config in configurations().items():
        other = run_on_arm(config)
        all_other += other
        print(f"{name}:", ", ".join(other) + " differ" if other else "the same bits", flush=True)
    sys.exit(bool(all_other))
