"""Measures how the pool scales, with stand-ins that sleep; writes build/scaling.json."""

from __future__ import annotations

import sys
from functools import partial

from smallcnn.commands import run
from smallcnn.files import write_json
from smallcnn.paths import ROOT


def main() -> None:
    from smallcnn.scaling import measure_scaling

    write_json(ROOT / "build" / "scaling.json", measure_scaling(report=partial(print, flush=True)))
    print(ROOT / "build" / "scaling.json")


if __name__ == "__main__":
    sys.exit(run(main))
