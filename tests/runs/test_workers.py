"""The pool: a worker gives what this process would have given, and with a worker nothing is lost but its own run.

Most runs here are stand-ins, which sleep or die as their seed tells them.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import Client

from smallcnn import pool
from smallcnn.paths import ROOT, mnist_file
from smallcnn.pool import PoolError, Progress
from smallcnn.runs import get_runs
from smallcnn.scaling import cluster_of_threads
from smallcnn.training import HISTORY, Report, TrainingConfig, TrainingRun, train
from tests.conftest import SMALL_CONFIG

CONFIG = dataclasses.replace(SMALL_CONFIG, engine="halide", epochs=1)
DIES, DIES_ONCE, FAILS = 100, 200, 300  # seeds
MARKER = "SMALLCNN_TEST_MARKER"


def pretend(config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
    """A stand-in for `train` that takes no time."""
    if config.seed == FAILS:
        raise FloatingPointError("the loss is not a number")
    marker = Path(os.environ.get(MARKER, "/nonexistent"))
    if config.seed == DIES or (config.seed == DIES_ONCE and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    report(f"{config.label}: epoch 1 of at most 1")
    return TrainingRun(
        config=config,
        history={name: [0.5] for name in HISTORY},
        misclassified=[[]],
        best_epoch=1,
        predicted_classes=np.zeros(10, np.uint8),
        weights={"of the parent": np.zeros(0) if parent is None else np.array([parent.config.seed])},
        epoch_seconds=[0.0],
        seconds=0.0,
        provenance={"process": str(os.getpid())},
    )


def pretend_slowly(config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
    time.sleep(1)
    return pretend(config, parent, report)


def pretend_for_three_seconds(config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
    time.sleep(3)
    return pretend(config, parent, report)


def with_seeds(*seeds: int) -> list[TrainingConfig]:
    return [dataclasses.replace(CONFIG, seed=seed) for seed in seeds]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pool of at most two workers, whatever the machine."""
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.setenv(MARKER, str(tmp_path / "died"))
    count_workers = pool.count_workers
    monkeypatch.setattr(pool, "count_workers", lambda configs: min(2, count_workers(configs)))


def compute(configs: list[TrainingConfig], lines: list[str] | None = None) -> dict[int, TrainingRun]:
    """Computes stand-ins; by seed."""
    report = (lambda line: None) if lines is None else lines.append
    return {run.config.seed: run for run in pool.compute(configs, {}, report, pretend)}


def test_every_run_comes_back_and_progress_is_told() -> None:
    lines: list[str] = []
    runs = compute(with_seeds(0, 1, 2, 3), lines)
    assert sorted(runs) == [0, 1, 2, 3]
    assert all(run.provenance["process"] != str(os.getpid()) for run in runs.values())
    assert lines[0].startswith("4 runs to train, ")
    assert "http://127.0.0.1:" in lines[0]
    assert sum("epoch 1 of at most 1; " in line and " left for " in line for line in lines) == 4


def test_a_pruned_run_gets_its_parent() -> None:
    parent = dataclasses.replace(CONFIG, seed=7)
    child = dataclasses.replace(parent, pruned_fractions=(0.2,))
    runs = list(pool.compute([child, parent], {}, lambda line: None, pretend))
    assert [run.config for run in runs] == [parent, child]
    assert runs[1].weights["of the parent"] == [7]


def test_a_run_whose_worker_is_killed_is_done_by_another() -> None:
    assert sorted(compute(with_seeds(1, DIES_ONCE))) == [1, DIES_ONCE]


def test_a_run_that_kills_every_worker_is_given_up_and_the_others_are_not() -> None:
    finished = []
    with pytest.raises(PoolError, match="worker after worker died"):
        finished.extend(run.config.seed for run in pool.compute(with_seeds(1, DIES, 2), {}, lambda _: None, pretend))
    # extend takes what was yielded before the error
    assert sorted(finished) == [1, 2]


def test_the_error_of_a_run_is_raised_when_the_others_are_done(capfd: pytest.CaptureFixture[str]) -> None:
    finished = []
    with pytest.raises(FloatingPointError, match="not a number"):
        finished.extend(run.config.seed for run in pool.compute(with_seeds(FAILS, 1, 2), {}, lambda _: None, pretend))
    assert sorted(finished) == [1, 2]
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_workers_give_the_bits_of_this_process(
    runs_folder: Path, assert_same_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("halide")
    parent = CONFIG
    child = dataclasses.replace(parent, pruned_fractions=(0.2,))
    from_pool = get_runs([parent, child], lambda line: None)
    here = train(parent, report=lambda line: None)
    assert_same_run(from_pool[0], here, measured_once=False)
    assert_same_run(from_pool[1], train(child, here, lambda line: None), measured_once=False)


def test_every_run_goes_to_a_worker_with_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = 25  # from 20 on, Dask itself would not look who is busy
    with cluster_of_threads(workers) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        started = time.monotonic()
        assert (
            len(list(pool.compute(with_seeds(*range(workers)), {}, lambda line: None, pretend_for_three_seconds))) == 25
        )
        assert time.monotonic() - started < 5.5


def test_the_pool_listens_on_the_loopback_address_only() -> None:
    listening = set()
    for _ in pool.compute(with_seeds(1, 2), {}, lambda line: None, pretend_slowly):
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            connections = process.net_connections(kind="inet")
            listening |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A scheduler and two workers, each a process of its own; the fixture is the scheduler's."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    dask = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
    ]
    scheduler = subprocess.Popen(dask, stderr=subprocess.PIPE, text=True, env=environment)
    address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    workers = [subprocess.Popen(worker, stderr=subprocess.DEVNULL, env=environment) for _ in range(2)]
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    yield scheduler
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


def test_a_cluster_is_joined_and_left_alone(cluster: subprocess.Popen[str]) -> None:
    lines: list[str] = []
    for seeds in ((0, 1, 2), (3, 4)):
        assert sorted(compute(with_seeds(*seeds), lines)) == list(seeds)
    assert "on the cluster at tcp://127.0.0.1" in lines[0]


def test_a_scheduler_that_goes_is_an_error_and_what_was_finished_is_kept(
    cluster: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SCHEDULER_PATIENCE", 2.0)
    finished = []
    with pytest.raises(PoolError, match="the scheduler is gone"):
        for run in pool.compute(with_seeds(*range(20)), {}, lambda line: None, pretend_slowly):
            finished.append(run)
            if len(finished) == 2:
                cluster.kill()
    assert 2 <= len(finished) < 20


@pytest.mark.parametrize("error", [OSError("timed out"), TimeoutError(), AttributeError("'NoneType' has no 'ncores'")])
def test_whatever_a_lost_scheduler_raises_is_the_same_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(client: Client) -> None:
        raise error

    monkeypatch.setattr(Client, "nthreads", fail)
    with pytest.raises(PoolError, match="the scheduler is gone"):
        compute(with_seeds(0))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.0.0.1:8786",
        "garbage",
        "http://127.0.0.1:80",
        "inproc://x",
        "tcp://h:abc",
        " ",
        "tcp://:1",
        "\n",
    ],
)
def test_what_is_no_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    with pytest.raises(PoolError, match="DASK_SCHEDULER_ADDRESS is .*; expected an address such as tcp://"):
        compute(with_seeds(0))


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "")
    assert pool.scheduler_address() is None
    for address in ("tcp://127.0.0.1:8786", "tls://scheduler.example.org:8786", "tcp://[::1]:8786"):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        assert pool.scheduler_address() == address


def test_a_scheduler_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    monkeypatch.setattr(pool, "JOIN_SECONDS", 1.0)
    with pytest.raises(PoolError, match="no scheduler answers at DASK_SCHEDULER_ADDRESS=tcp://127.0.0.1:1"):
        compute(with_seeds(0))


def test_a_worker_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PoolError, match="another version"):
        pool._compute_here(pretend, CONFIG, "0123456789abcdef", None, "progress", is_ours=True)


def test_memory_has_a_say_in_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("dask.system.CPU_COUNT", 64)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 8e9)
    both = [*with_seeds(*range(100)), SMALL_CONFIG]
    assert pool.count_workers(both[:3]) == 3
    assert pool.count_workers(both[:-1]) == 8e9 // pool.BYTES_PER_RUN["halide"]
    assert pool.count_workers(both) == 8e9 // pool.BYTES_PER_RUN["tensorflow"]
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 1e8)
    assert pool.count_workers(both) == 1


def test_what_is_left_follows_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pool.time, "monotonic", lambda: now)
    configs = [dataclasses.replace(CONFIG, seed=seed, epochs=10) for seed in range(4)]
    progress = Progress(configs, cores=2)
    now += 60  # in which each core finished an epoch
    progress.line(configs[0].key, "one")
    assert progress.line(configs[1].key, "epoch") == "epoch; at most 19 min left for 4 runs"
    progress.finished(configs[2].key)
    assert progress.line(configs[1].key, "epoch").endswith("for 3 runs")
    for config in configs[:2]:
        progress.finished(config.key)
    for _ in range(9):
        line = progress.line(configs[3].key, "epoch")
    assert line == "epoch; under a minute left for 1 run"


def test_an_interrupt_that_gets_lost_ends_the_command_all_the_same() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        for _ in pool.compute(with_seeds(1, 2, 3, 4), {}, lambda line: None, pretend_slowly):
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_ctrl_c_ends_everything_and_the_same_sweep_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("halide")
    copy = tmp_path / "copy"
    for name in ("smallcnn", "scripts", "book"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy / name)], check=True)
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "SMALLCNN_MNIST": str(mnist_file()),
        "CHAPTER": "approach_3",
        "GRID": "learning_rate=0.01 seeds=0..3",
        "PARAMS": "epochs=8 train_examples=6000",
    }
    command = [sys.executable, str(copy / "scripts" / "sweep.py")]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if line.endswith(", recorded\n"):
            break
    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    process.wait(timeout=10)
    while group_is_alive(process.pid) and time.monotonic() - started < 10:
        time.sleep(0.1)
    assert not group_is_alive(process.pid)
    assert process.returncode == 130
    assert "interrupted; finished runs are recorded" in process.stderr.read()
    recorded = {path.name for path in (copy / "build" / "sweeps" / "runs").glob("[!.]*")}
    assert recorded
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert f"4 runs in 1 points, {len(recorded)} of them recorded" in again
    assert (
        len(
            (copy / "build" / "sweeps" / "approach_3-learning_rate-epochs=8-train_examples=6000.csv")
            .read_text()
            .splitlines()
        )
        == 5
    )


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
