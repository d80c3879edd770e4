"""Measures the engines, PyTorch and the article's way side by side; writes build/benchmark.json."""

from __future__ import annotations

import sys

from smallcnn.commands import run, say
from smallcnn.paths import ROOT


def main() -> None:
    from smallcnn.benchmark import APPROACHES, measure_all
    from smallcnn.data import load_mnist
    from smallcnn.files import write_json

    load_mnist()
    result = measure_all(say)
    for approach in APPROACHES:
        print(f"\n{approach}, seconds an epoch, test pass included: median (minimum to maximum)")
        for way, of in result["seconds_per_epoch"][approach].items():
            print(f"  {way:20} {of['median']:7.2f} ({of['minimum']:.2f} to {of['maximum']:.2f})")
        for name, ratio in result["ratios"][approach].items():
            print(f"  {name:40} {ratio:5.2f}")
    write_json(ROOT / "build" / "benchmark.json", result)
    print(f"\n{ROOT / 'build' / 'benchmark.json'}")


if __name__ == "__main__":
    sys.exit(run(main))
