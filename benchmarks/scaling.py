"""How the workers scale: runs an hour against their number, with stand-ins in the place of trainings.

`python -m benchmarks.scaling` writes build/scaling.json. It mostly waits, for minutes.

A stand-in sleeps as long as a recorded run took, reports as many epochs, and sends back that run's result. So
everything but the arithmetic is as in a real sweep: the scheduler, the progress of every epoch, results of real size
over TCP. The workers are threads of one process that they share with the scheduler, which makes the scheduler slower
than one with a process of its own.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from smallcnn import commands, paths, provenance
from smallcnn.commands import CommandError, say
from smallcnn.config import EpochLine, Report, TrainingConfig, TrainingRun
from smallcnn.files import write_json
from smallcnn.paths import ROOT, build_folder, changed_environment
from smallcnn.report import measurements
from smallcnn.runs import workers
from smallcnn.runs.records import save_run

if TYPE_CHECKING:
    from distributed import LocalCluster

WORKERS = (10, 50, 200)
RUNS_EACH = 2  # that a worker does one after the other
INSTANT_RUNS = 2000
INSTANT_WORKERS = 50


def measure_scaling(report: Report = say, numbers: Sequence[int] = WORKERS) -> dict[str, Any]:
    """Measures runs an hour with so many stand-ins at a time, and how many runs that take no time pass in a second.

    Returns:
        `run`: which recorded run the stand-ins take after: the label of its network, its seed, key, seconds, epochs,
        and the bytes of its record.
        `stand_ins`: for each number of workers `runs`, `seconds`, `runs_per_hour` and `share`, that of the rate which
        so many workers would have if nothing but the runs took time.
        `instant`: `runs`, `workers`, `seconds`, `runs_per_second` of runs that take no time and report no epoch, and
        the `memory_bytes` that a finished run takes in the process that asked for it.
    """
    run = recorded_run()
    before = provenance.peak_memory_bytes()
    instant_seconds = _seconds(INSTANT_RUNS, INSTANT_WORKERS, 0.0)
    memory_bytes = (provenance.peak_memory_bytes() - before) / INSTANT_RUNS
    report(f"{INSTANT_RUNS / instant_seconds:.0f} runs a second that take no time")
    rows = []
    for number in numbers:
        seconds = _seconds(RUNS_EACH * number, number, run.seconds)
        rate = 3600 * RUNS_EACH * number / seconds
        share = RUNS_EACH * run.seconds / seconds
        rows.append(
            {"workers": number, "runs": RUNS_EACH * number, "seconds": seconds, "runs_per_hour": rate, "share": share}
        )
        report(f"{number} workers: {rate:.0f} runs an hour, {100 * share:.1f} % of what they could do")
    record = paths.PUBLISHED_RUNS / run.config.key
    return {
        "machine": provenance.describe("halide"),
        "run": {
            "label": measurements.EXAMPLE,
            "seed": run.config.seed,
            "key": run.config.key,
            "seconds": run.seconds,
            "epochs": run.epochs_run,
            "record_bytes": sum(path.stat().st_size for path in record.iterdir()),
        },
        "stand_ins": rows,
        "instant": {
            "runs": INSTANT_RUNS,
            "workers": INSTANT_WORKERS,
            "seconds": instant_seconds,
            "runs_per_second": INSTANT_RUNS / instant_seconds,
            "memory_bytes": memory_bytes,
        },
    }


@cache
def recorded_run() -> TrainingRun:
    """The run that stand-ins take after: that of approach 2 which `measurements/engines.json` names first.

    Raises:
        CommandError: if its record is missing or damaged.
    """
    return measurements.recorded_run(measurements.example_key())


def stand_in(seconds: float, config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
    """Sleeps `seconds` instead of training `config`, and returns the recorded run as if it were its own."""
    finished = recorded_run()
    if seconds:
        for epoch in range(1, finished.epochs_run + 1):
            time.sleep(seconds / finished.epochs_run)
            report(EpochLine(f"{config.label}: epoch {epoch}", config.label, epoch, finished.epochs_run))
    return dataclasses.replace(finished, config=config)


def _seconds(runs: int, number: int, seconds: float) -> float:
    """How long so many runs take on a `number` of workers, each asleep for `seconds`, until the last is recorded."""
    configs = [dataclasses.replace(recorded_run().config, seed=seed) for seed in range(runs)]
    lines: list[float] = []  # when they came; the first when the cluster is joined
    finished = []  # as `get_runs` keeps them

    def note(line: str) -> None:
        lines.append(time.perf_counter())

    with (
        TemporaryDirectory() as folder,
        _cluster(number) as address,
        changed_environment({"DASK_SCHEDULER_ADDRESS": address, "SMALLCNN_RUNS": folder}),
    ):
        for run in workers.compute(configs, {}, note, train=partial(stand_in, seconds)):
            save_run(run)
            finished.append(run)
            ended = time.perf_counter()
    return ended - lines[0]


@contextmanager
def _cluster(number: int) -> Iterator[str]:
    """The address of a `number` of workers in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scaling", "serve", str(number)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise CommandError("the cluster of stand-ins did not start")
        yield address
    finally:
        process.communicate("")


def cluster_of_threads(number: int) -> LocalCluster:
    """A scheduler and workers that share this process and speak to each other over TCP."""
    from distributed import LocalCluster  # here: reading a record needs none

    return LocalCluster(
        n_workers=number,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=None,
    )


def main() -> None:
    """Measures, and writes `build/scaling.json`; with `serve` and a number it is the process of a cluster."""
    match sys.argv[1:]:
        case []:
            path = build_folder() / "scaling.json"
            write_json(path, measure_scaling())
            say(f"{path}")
        case ["serve", number]:
            recorded_run()  # read before the threads would all read it at once
            with cluster_of_threads(int(number)) as cluster:
                print(cluster.scheduler_address, flush=True)
                sys.stdin.read()  # until it ends
        case _:
            raise CommandError("benchmarks.scaling takes no arguments")


if __name__ == "__main__":
    from benchmarks import scaling  # a task is found by the name of this module, which must not be __main__

    sys.exit(commands.run(scaling.main))
