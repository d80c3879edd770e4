"""How far the pool reaches: stand-ins that sleep as long as a run takes, on more workers than there are cores."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from smallcnn import pool
from smallcnn.benchmark import describe_machine
from smallcnn.chapters import check_parameters, training_configs
from smallcnn.runs import load_run
from smallcnn.training import Report, TrainingConfig, TrainingRun

WORKERS = (1, 2, 5, 10, 20, 50, 100, 200)
RUNS_TO_COUNT = 1000


@dataclasses.dataclass(frozen=True)
class StandIn:
    """Takes the place of `train`: sleeps, and gives back a recorded run, so that what is sent is as big as in earnest."""

    run: TrainingRun
    seconds: float

    def __call__(self, config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
        for epoch in range(1, self.run.epochs_run + 1):
            time.sleep(self.seconds / self.run.epochs_run)
            report(f"epoch {epoch}")
        return dataclasses.replace(self.run, config=config)


def measure_scaling(workers: Sequence[int] = WORKERS, report: Report = print) -> dict[str, Any]:
    """Measures the runs an hour of each number of workers, and how many runs a second the scheduler can handle.

    Workers are threads of this process, since they only sleep; they talk to the scheduler as processes elsewhere do.
    """
    config = training_configs(check_parameters("approach_3", {"engine": "halide", "seeds": [0]}))[0]
    recorded = load_run(config)
    if recorded is None:
        raise FileNotFoundError("the published run of approach_3 is not recorded; run `make book` first")
    points = []
    for count in workers:
        seconds = _elapsed(count, count, StandIn(recorded, recorded.seconds))
        points.append({"workers": count, "runs_per_hour": 3600 * count / seconds, "seconds": seconds})
        report(f"{count} workers: {points[-1]['runs_per_hour']:.0f} runs an hour")
    overhead = _elapsed(50, RUNS_TO_COUNT, StandIn(recorded, 0.0))
    report(f"without the sleep: {RUNS_TO_COUNT / overhead:.0f} runs a second")
    return {
        "machine": describe_machine(),
        "run_seconds": recorded.seconds,
        "stand_ins": points,
        "runs_per_second_without_work": RUNS_TO_COUNT / overhead,
    }


def _elapsed(workers: int, runs: int, stand_in: StandIn) -> float:
    configs = [dataclasses.replace(stand_in.run.config, seed=seed) for seed in range(runs)]
    with _threads_as_workers(workers):
        started = time.perf_counter()
        finished = sum(1 for _ in pool.compute(configs, {}, lambda line: None, stand_in))
        elapsed = time.perf_counter() - started
    if finished != runs:
        raise RuntimeError(f"{finished} of {runs} stand-ins came back")
    return elapsed


@contextmanager
def _threads_as_workers(count: int) -> Iterator[None]:
    """A cluster in this process, found by the pool as it finds any cluster."""
    from distributed import LocalCluster

    options = {"processes": False, "threads_per_worker": 1, "protocol": "tcp://", "host": "127.0.0.1"}
    with LocalCluster(n_workers=count, dashboard_address=None, **options) as cluster:
        os.environ["DASK_SCHEDULER_ADDRESS"] = cluster.scheduler_address
        try:
            yield
        finally:
            del os.environ["DASK_SCHEDULER_ADDRESS"]
