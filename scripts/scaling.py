"""Measures how the pool scales, with sleeping stand-ins; writes build/scaling.json. Mostly waits, for minutes."""

from __future__ import annotations

import sys

from smallcnn.commands import run, say
from smallcnn.paths import ROOT


def main() -> None:
    from smallcnn.files import write_json
    from smallcnn.scaling import measure_scaling

    write_json(ROOT / "build" / "scaling.json", measure_scaling(say))
    say(f"{ROOT / 'build' / 'scaling.json'}")


if __name__ == "__main__":
    sys.exit(run(main))
