"""Runs a sweep: CHAPTER, GRID and PARAMS are environment variables; its results go to build/sweeps."""

from __future__ import annotations

import os
import sys

from smallcnn.commands import run, say
from smallcnn.parameters import ParameterError
from smallcnn.paths import ROOT, runs_folder


def main() -> None:
    from smallcnn import sweeps

    chapter, grid = os.environ.get("CHAPTER", ""), os.environ.get("GRID", "")
    if not chapter:
        raise ParameterError(
            'name a chapter, as in: make sweep CHAPTER=approach_2 GRID="learning_rate=0.003,0.01 seeds=0..4"'
        )
    sweep = sweeps.parse_sweep(chapter, grid, os.environ.get("PARAMS", ""))
    from smallcnn import figures, pool  # here: an error must not wait for them

    pool.scheduler_address()  # refused here, before anything starts
    from smallcnn.files import replacing, write_text
    from smallcnn.runs import get_runs, is_recorded

    folder = ROOT / "build" / "sweeps"
    records = runs_folder()
    os.environ["SMALLCNN_RUNS"] = str(folder / "runs")
    sweeps.use_recorded(sweep.runs, records)
    missing = [config for config in sweep.runs if not is_recorded(config)]
    say(f"{len(sweep.runs)} runs in {len(sweep.configs)} points, {len(sweep.runs) - len(missing)} of them recorded")
    if missing:
        minutes = sum(map(pool.expected_seconds, missing)) / pool.count_workers(missing) / 60
        say(f"about {minutes:.0f} min at most for the rest, on this machine's cores")
    try:
        get_runs(sweep.runs, say)
    finally:
        found = sweeps.finished_runs(sweep)
        if found:
            text = sweeps.to_csv(list(sweep.axes), found)
            axes, points = sweeps.read_csv(text)
            write_text(folder / f"{sweep.name}.csv", text)
            write_text(folder / f"{sweep.name}.md", sweeps.sweep_table(axes, points))
            figures.use_book_style()
            with replacing(folder / f"{sweep.name}.svg") as temporary:
                temporary.write_bytes(figures.to_svg(figures.sweep_points(axes, points)))
            say(sweeps.sweep_table(axes, points))
            say(f"{folder / sweep.name}.csv, .md and .svg")


if __name__ == "__main__":
    sys.exit(run(main))
