"""What produced a run: machine, software, time."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from smallcnn.models import TENSORFLOW_SETTINGS

PACKAGES = {
    "halide": ("numpy", "halide"),
    "tensorflow": ("numpy", "tensorflow", "tf_keras", "tensorflow-model-optimization"),
}


def describe(engine: str) -> dict[str, str]:
    """Names the processor, the operating system, what `engine` computes with, and the time (UTC)."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES[engine]},
        **(TENSORFLOW_SETTINGS if engine == "tensorflow" else {"instructions": instruction_set()}),
    }


def instruction_set() -> str:
    """What Halide's code uses of the processor, in its names, as in "x86-64-linux-avx-avx2-f16c-fma-sse41"."""
    import halide as hl  # here: TensorFlow runs where there is none

    return str(hl.get_jit_target_from_environment().without_feature(hl.TargetFeature.JIT))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_memory_bytes() -> int:
    """The most memory that this process has had."""
    import resource  # here: there is none on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
