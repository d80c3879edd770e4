"""The processor that loops are compiled for: this one, unless the environment variable HL_JIT_TARGET names another."""

from __future__ import annotations

import halide as hl


def get_target() -> hl.Target:
    """The processor, without the checks that arrays of known sizes make needless."""
    target = hl.get_jit_target_from_environment()
    for unneeded in (hl.TargetFeature.NoAsserts, hl.TargetFeature.NoBoundsQuery):
        target = target.with_feature(unneeded)
    return target


def count_registers() -> tuple[int, int]:
    """The number of vector registers of the processor, and of float32 numbers in one."""
    target = get_target()
    width = target.natural_vector_size(hl.Float(32))
    return (16 if target.arch == hl.TargetArch.X86 and width < 16 else 32), width
