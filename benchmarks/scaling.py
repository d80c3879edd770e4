"""How the pool scales: runs an hour against workers, with stand-ins in the place of trainings.

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

from smallcnn import measurements, pool, provenance
from smallcnn.chapters import check_parameters, training_configs
from smallcnn.commands import CommandError
from smallcnn.paths import ROOT, changed_environment
from smallcnn.runs import save_run
from smallcnn.training import Report, TrainingConfig, TrainingRun

if TYPE_CHECKING:
    from distributed import LocalCluster

WORKERS = (10, 50, 200)
RUNS_EACH = 2  # that a worker does one after the other
INSTANT_RUNS = 2000
INSTANT_WORKERS = 50


def measure_scaling(report: Report = print, workers: Sequence[int] = WORKERS) -> dict[str, Any]:
    """Measures runs an hour with `workers` stand-ins, and how many runs that take no time pass in a second.

    Returns:
        `run`: which recorded run the stand-ins take after: its key, seconds, epochs, and the bytes of its record.
        `stand_ins`: for each number of workers `runs`, `seconds`, `runs_per_hour` and `share`, that of the rate which
        so many workers would have if nothing but the runs took time.
        `instant`: `runs`, `workers`, `seconds`, `runs_per_second` of runs that take no time and report no epoch, and
        the `memory_bytes` that a finished run takes in the process that asked for it.
    """
    run = recorded_run()
    record = ROOT / "runs" / run.config.key
    before = provenance.peak_memory_bytes()
    instant_seconds = _seconds(INSTANT_RUNS, INSTANT_WORKERS, 0.0)
    memory_bytes = (provenance.peak_memory_bytes() - before) / INSTANT_RUNS
    report(f"{INSTANT_RUNS / instant_seconds:.0f} runs a second that take no time")
    rows = []
    for number in workers:
        seconds = _seconds(RUNS_EACH * number, number, run.seconds)
        rate = 3600 * RUNS_EACH * number / seconds
        share = rate / (3600 * number / run.seconds)
        rows.append(
            {"workers": number, "runs": RUNS_EACH * number, "seconds": seconds, "runs_per_hour": rate, "share": share}
        )
        report(f"{number} workers: {rate:.0f} runs an hour, {100 * share:.1f} % of what they could do")
    return {
        "machine": provenance.describe("halide"),
        "run": {
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
    """The run that stand-ins take after: approach 2 as published, with its first seed.

    Raises:
        CommandError: if its record is missing or damaged.
    """
    (config,) = training_configs(check_parameters("approach_2", {"seeds": [0]}))
    return measurements.recorded_run(config)


def stand_in(seconds: float, config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
    """Sleeps `seconds` instead of training `config`, and returns the recorded run as if it were its own."""
    finished = recorded_run()
    if seconds:
        for epoch in range(1, finished.epochs_run + 1):
            time.sleep(seconds / finished.epochs_run)
            report(f"{config.label}: epoch {epoch}")
    return dataclasses.replace(finished, config=config)


def _seconds(runs: int, workers: int, seconds: float) -> float:
    """How long `runs` stand-ins take from the first submission to the last record, once the workers are there."""
    configs = [dataclasses.replace(recorded_run().config, seed=seed) for seed in range(runs)]
    started = ended = 0.0
    finished = []  # as `get_runs` keeps them

    def note(line: str) -> None:
        nonlocal started
        started = started or time.perf_counter()  # the pool's first line comes when it has joined the cluster

    with TemporaryDirectory() as folder, _cluster(workers, folder):
        for run in pool.compute(configs, {}, note, partial(stand_in, seconds)):
            save_run(run)
            finished.append(run)
            ended = time.perf_counter()
    return ended - started


@contextmanager
def _cluster(workers: int, records: str) -> Iterator[None]:
    """A cluster of `workers` in a process of its own, which the pool joins; runs are recorded in `records`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "smallcnn.scaling", str(workers)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise CommandError("the cluster of stand-ins did not start")
        with changed_environment({"DASK_SCHEDULER_ADDRESS": address, "SMALLCNN_RUNS": records}):
            yield
    finally:
        process.communicate("")


def cluster_of_threads(workers: int) -> LocalCluster:
    """A scheduler and workers that share this process and speak to each other over TCP."""
    from distributed import LocalCluster  # here: reading a record needs none

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=None,
    )


def _serve(workers: int) -> None:
    """What the process of a cluster does: print the scheduler's address, and stay until its input ends."""
    from smallcnn import scaling  # as tasks know this module

    scaling.recorded_run()  # read before the threads would all read it at once
    with cluster_of_threads(workers) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
