"""The workers: they give what this process would have given, and with a worker nothing is lost but its own run.

Most runs here are stand-ins, which sleep or die as their seed tells them, and most workers are threads of this process.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client

from benchmarks.scaling import cluster_of_threads
from smallcnn.config import EpochLine, Report, TrainingConfig, TrainingRun, told_apart
from smallcnn.data import load_mnist
from smallcnn.paths import ROOT, mnist_file
from smallcnn.runs import broker, workers
from smallcnn.runs.records import get_runs
from smallcnn.runs.workers import Progress, WorkersError
from smallcnn.training import Diverged, train
from tests.conftest import SMALL_CONFIG
from tests.networks import chain
from tests.runs.stand_ins import DIES, DIES_ONCE, FAILS, MARKER, pretend, pretend_slowly

CONFIG = dataclasses.replace(SMALL_CONFIG, engine="halide", epochs=1)
MANY = 25  # workers; from 20 on, Dask itself would not look who is busy


all_at_work = threading.Barrier(MANY)


def pretend_together(config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
    """A stand-in that ends when as many as there are workers have begun."""
    all_at_work.wait(timeout=30)
    return pretend(config, parent, report)


class Gate:
    """What lets stand-ins end, and which of them have begun."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun: list[str] = []


gate = Gate()


def pretend_at_gate(config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
    """A stand-in that begins, and ends when the gate is open."""
    gate.begun.append(config.key)
    gate.open.wait(timeout=30)
    return pretend(config, parent, report)


def with_seeds(*seeds: int) -> list[TrainingConfig]:
    return [dataclasses.replace(CONFIG, seed=seed) for seed in seeds]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At most two workers, whatever the machine."""
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.setenv("HL_NUM_THREADS", "1")  # which workers set, and threads would leave behind
    monkeypatch.setenv(MARKER, str(tmp_path / "died"))
    count_workers = workers.count_workers
    monkeypatch.setattr(workers, "count_workers", lambda configs: min(2, count_workers(configs)))


@pytest.fixture(scope="module")
def scheduler_of_threads() -> Iterator[str]:
    """The address of a scheduler with two workers, all of them threads of this process."""
    with cluster_of_threads(2) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def threads(scheduler_of_threads: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two threads are the workers, of a cluster that is joined; the address of its scheduler."""
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", scheduler_of_threads)
    return scheduler_of_threads


def compute(configs: list[TrainingConfig], lines: list[str] | None = None) -> dict[int, TrainingRun]:
    """Computes stand-ins; by seed."""
    report = (lambda line: None) if lines is None else lines.append
    return {run.config.seed: run for run in workers.compute(configs, {}, report, train=pretend)}


def wait_for(condition: Callable[[], Any]) -> None:
    """Waits until `condition` holds; half a minute is a failure."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


@pytest.mark.slow
def test_every_run_comes_back_and_progress_is_told() -> None:
    lines: list[str] = []
    runs = compute(with_seeds(0, 1, 2, 3), lines)
    assert sorted(runs) == [0, 1, 2, 3]
    assert all(run.provenance["process"] != str(os.getpid()) for run in runs.values())
    assert lines[0].startswith("4 runs to train, ")
    assert re.search("; to watch them: http://127.0.0.1:[0-9]+/status", lines[0])
    assert sum("epoch 1 of at most 1; " in line and " left for " in line for line in lines) == 4


@pytest.mark.slow
def test_the_page_that_shows_the_workers_has_its_plots() -> None:
    with workers.local_cluster(1) as cluster, urllib.request.urlopen(cluster.dashboard_link, timeout=30) as answer:
        page = answer.read().decode()
    assert "Bokeh.safely" in page and "Task Stream" in page


def test_progress_comes_with_the_epoch_that_a_bar_is_drawn_from(threads: str) -> None:
    lines: list[str] = []
    assert sorted(compute(with_seeds(0, 1, 2, 3), lines)) == [0, 1, 2, 3]
    assert lines[0] == f"4 runs to train, on the cluster at {threads}"
    told = [line for line in lines if isinstance(line, EpochLine)]
    assert sorted((line.label, line.epoch, line.epochs) for line in told) == [
        (config.label, 1, 1) for config in with_seeds(0, 1, 2, 3)
    ]
    assert all("epoch 1 of at most 1; " in line and " left for " in line for line in told)


def test_a_pruned_run_gets_its_parent(threads: str) -> None:
    parent = dataclasses.replace(CONFIG, seed=7)
    child = dataclasses.replace(parent, pruned_fractions=(0.2,))
    runs = list(workers.compute([child, parent], {}, lambda line: None, train=pretend))
    assert [run.config for run in runs] == [parent, child]
    assert runs[1].weights["of the parent"] == [7]


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_is_done_by_another() -> None:
    assert sorted(compute(with_seeds(1, DIES_ONCE))) == [1, DIES_ONCE]


@pytest.mark.slow
def test_a_run_that_kills_every_worker_is_given_up_and_the_others_are_not() -> None:
    finished = []
    runs = workers.compute(with_seeds(1, DIES, 2), {}, lambda line: None, train=pretend)
    with pytest.raises(WorkersError, match="worker after worker died"):
        finished.extend(run.config.seed for run in runs)
    # extend takes what was yielded before the error
    assert sorted(finished) == [1, 2]


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_the_error_of_a_run_is_raised_when_the_others_are_done(
    kind: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    if kind == "threads":
        request.getfixturevalue("threads")
    finished = []
    runs = workers.compute(with_seeds(FAILS, 1, 2), {}, lambda line: None, train=pretend)
    message = f"seed {FAILS}: FloatingPointError: the loss is not a number; the others are recorded"
    with pytest.raises(WorkersError, match=message):
        finished.extend(run.config.seed for run in runs)
    assert sorted(finished) == [1, 2]
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("threads")
def test_of_several_runs_that_fail_the_first_is_named_and_how_many_others() -> None:
    runs = [dataclasses.replace(CONFIG, seed=FAILS, learning_rate=rate) for rate in (0.1, 0.2, 0.3)]
    message = "learning_rate=0.1, seed 300: Float.*; 2 more failed, such as .*learning_rate=0.2, seed 300; the"
    with pytest.raises(WorkersError, match=message):
        list(workers.compute(told_apart(runs), {}, lambda line: None, train=pretend))
    message = "^the run diverged; 1 more failed, such as .*learning_rate=0.2, seed 300; the others are recorded$"
    failures = dict(zip((run.key for run in runs[:2]), [Diverged("the run diverged"), ValueError()], strict=True))
    with pytest.raises(WorkersError, match=message):
        raise workers._failure(told_apart(runs)[:2], failures)


@pytest.mark.slow
def test_workers_give_the_bits_of_this_process(
    runs_folder: Path, assert_same_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("halide")
    parent = dataclasses.replace(CONFIG, architecture=chain((3, 10), (1,), 0.1, (1,)))
    child = dataclasses.replace(parent, pruned_fractions=(0.2,))
    from_workers = get_runs([parent, child], lambda line: None)
    here = train(parent, report=lambda line: None)
    assert_same_run(from_workers[0], here, measured_once=False)
    assert_same_run(from_workers[1], train(child, here, lambda line: None), measured_once=False)


def test_every_run_goes_to_a_worker_with_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without stealing, a run that was sent to a busy worker would wait there for ever.
    with dask.config.set({"distributed.scheduler.work-stealing": False}), cluster_of_threads(MANY) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        runs = workers.compute(with_seeds(*range(MANY)), {}, lambda line: None, train=pretend_together)
        assert len(list(runs)) == MANY


class Notebooks:
    """A build's notebooks, threads here, and its one worker, a thread too, whose stand-ins wait for the gate."""

    def __init__(self, scheduler: Any, pool: ThreadPoolExecutor) -> None:
        self._scheduler, self._pool = scheduler, pool
        self.recorded: dict[str, TrainingRun] = {}
        self.lines: list[str] = []

    def start(self, configs: list[TrainingConfig]) -> Future[list[str]]:
        """Computes stand-ins in a notebook of their own; gives their keys."""
        return self._pool.submit(self._compute, configs)

    def _compute(self, configs: list[TrainingConfig]) -> list[str]:
        keys = []
        find = self.recorded.get
        for run in workers.compute(configs, {}, self.lines.append, lambda config: find(config.key), pretend_at_gate):
            self.recorded[run.config.key] = run
            keys.append(run.config.key)
        return keys

    def asking_for(self, config: TrainingConfig) -> int:
        """How many notebooks wait for a run that they have asked the worker for."""
        task = self._scheduler.tasks.get(config.key)
        return len(task.who_wants) if task else 0


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebooks]:
    """Notebooks of one build that has one worker, and a gate that is shut."""
    monkeypatch.setattr(workers, "_use_core", lambda number: None)  # the core would be that of this process
    gate.open.clear()
    gate.begun.clear()
    with (
        workers._dask_settings(),  # as the build's own workers have them
        cluster_of_threads(1) as cluster,
        broker.listening(lambda line: None, lambda: cluster.scheduler_address) as where,
        ThreadPoolExecutor(4) as pool,
    ):
        monkeypatch.setenv(broker.VARIABLE, where)
        yield Notebooks(cluster.scheduler, pool)
        gate.open.set()


def test_two_notebooks_that_share_a_run_train_it_once(notebooks: Notebooks) -> None:
    short, middle, shared = (dataclasses.replace(CONFIG, epochs=epochs) for epochs in (1, 2, 3))
    first, second = notebooks.start([short, shared]), notebooks.start([shared, middle])
    wait_for(lambda: gate.begun and notebooks.asking_for(shared) == 2)
    gate.open.set()
    assert first.result(timeout=60) == [shared.key, short.key]
    assert second.result(timeout=60) == [shared.key, middle.key]
    assert gate.begun[0] == shared.key
    assert sorted(gate.begun) == sorted(config.key for config in (short, middle, shared))
    assert notebooks.lines.count("2 runs to train, by the workers of this build") == 2


def test_of_all_that_wait_the_longest_run_goes_first_whoever_asked_for_it(notebooks: Notebooks) -> None:
    at_work, *waiting = (dataclasses.replace(CONFIG, epochs=epochs) for epochs in (1, 2, 4, 3))
    asked = [notebooks.start([at_work])]
    wait_for(lambda: gate.begun)
    for config in waiting:
        asked.append(notebooks.start([config]))
        wait_for(lambda config=config: notebooks.asking_for(config))
    gate.open.set()
    for each in asked:
        each.result(timeout=60)
    epochs = {config.key: config.epochs for config in (at_work, *waiting)}
    assert [epochs[key] for key in gate.begun] == [1, 4, 3, 2]


def test_what_another_notebook_recorded_meanwhile_is_taken_from_there(threads: str) -> None:
    configs = with_seeds(0, 1)
    other = pretend(configs[0], None, lambda line: None)
    asked = []

    def recorded(config: TrainingConfig) -> TrainingRun | None:
        asked.append(config.seed)
        return other if config == configs[0] else None

    found = {run.config.seed: run for run in workers.compute(configs, {}, lambda line: None, recorded, pretend)}
    assert found[0] is other
    assert sorted(asked) == sorted(found) == [0, 1]


@pytest.mark.slow
def test_the_pool_listens_on_the_loopback_address_only() -> None:
    listening = set()
    for _ in workers.compute(with_seeds(1, 2), {}, lambda line: None, train=pretend_slowly):
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            connections = process.net_connections(kind="inet")
            listening |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A scheduler and two workers, each a process of its own; the fixture is the scheduler's."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    dask_scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    scheduler = subprocess.Popen(
        [*dask_scheduler, "--port", "0", "--no-dashboard"], stderr=subprocess.PIPE, text=True, env=environment
    )
    address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    processes = [subprocess.Popen(worker, stderr=subprocess.DEVNULL, env=environment) for _ in range(2)]
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    yield scheduler
    for process in (*processes, scheduler):
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_cluster_is_joined_and_left_alone(cluster: subprocess.Popen[str]) -> None:
    lines: list[str] = []
    for seeds in ((0, 1, 2), (3, 4)):
        assert sorted(compute(with_seeds(*seeds), lines)) == list(seeds)
    assert "on the cluster at tcp://127.0.0.1" in lines[0]


@pytest.mark.slow
def test_a_scheduler_that_goes_is_an_error_and_what_was_finished_is_kept(
    cluster: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SCHEDULER_PATIENCE", 2.0)
    finished = []
    with pytest.raises(WorkersError, match="the scheduler is gone"):
        for run in workers.compute(with_seeds(*range(20)), {}, lambda line: None, train=pretend_slowly):
            finished.append(run)
            if len(finished) == 2:
                cluster.kill()
    assert 2 <= len(finished) < 20


@pytest.mark.parametrize("error", [OSError("timed out"), TimeoutError(), AttributeError("'NoneType' has no 'ncores'")])
def test_whatever_a_lost_scheduler_raises_is_the_same_error(
    error: Exception, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(client: Client) -> None:
        raise error

    monkeypatch.setattr(Client, "nthreads", fail)
    with pytest.raises(WorkersError, match="the scheduler is gone"):
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
    with pytest.raises(WorkersError, match="DASK_SCHEDULER_ADDRESS is .*; expected an address such as tcp://"):
        compute(with_seeds(0))


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "")
    assert workers.scheduler_address() is None
    for address in ("tcp://127.0.0.1:8786", "tls://scheduler.example.org:8786", "tcp://[::1]:8786"):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        assert workers.scheduler_address() == address


def test_a_scheduler_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    monkeypatch.setattr(workers, "JOIN_SECONDS", 0.2)
    with pytest.raises(WorkersError, match="no scheduler answers at DASK_SCHEDULER_ADDRESS=tcp://127.0.0.1:1"):
        compute(with_seeds(0))


def test_a_worker_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkersError, match="another version"):
        workers._compute_here(pretend, CONFIG, "0123456789abcdef", None, "progress", is_ours=True)


def test_memory_has_a_say_in_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("dask.system.CPU_COUNT", 64)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 8e9)
    both = [*with_seeds(*range(100)), SMALL_CONFIG]
    assert workers.count_workers(both[:3]) == 3
    assert workers.count_workers(both[:-1]) == 8e9 // workers.BYTES_PER_RUN["halide"]
    assert workers.count_workers(both) == 8e9 // workers.BYTES_PER_RUN["tensorflow"]
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 1e8)
    assert workers.count_workers(both) == 1


def test_what_is_left_follows_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(workers.time, "monotonic", lambda: now)
    configs = [dataclasses.replace(CONFIG, seed=seed, epochs=10) for seed in range(4)]
    progress = Progress(configs, cores=2)
    now += 60  # in which each core finished an epoch
    progress.line(configs[0].key, 1, "one")
    line = progress.line(configs[1].key, 1, "epoch")
    assert line == "epoch; at most 19 min left for 4 runs"
    assert (line.label, line.epoch, line.epochs) == (configs[1].label, 1, 10)
    progress.finished(configs[2].key)
    assert progress.line(configs[1].key, 2, "epoch").endswith("for 3 runs")
    for config in configs[:2]:
        progress.finished(config.key)
    for epoch in range(1, 10):
        line = progress.line(configs[3].key, epoch, "epoch")
    assert line == "epoch; under a minute left for 1 run"


def test_an_interrupt_that_gets_lost_ends_the_command_all_the_same(threads: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        for _ in workers.compute(with_seeds(1, 2, 3, 4), {}, lambda line: None, train=pretend):
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_ctrl_c_ends_everything_and_the_same_sweep_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("halide")
    copy = tmp_path / "copy"
    for name in ("smallcnn", "book"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy / name)], check=True)
    load_mnist()  # so that there is a local copy of it
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SMALLCNN_")}
    environment = ours | {"PYTHONPATH": str(copy), "SMALLCNN_MNIST": str(mnist_file())}
    # A small network, read without Keras; two of the four runs are short, so that not all end together.
    code = (
        "import sys; from smallcnn.architecture import Architecture; from smallcnn.commands import run; "
        "from smallcnn.report import notebook; from smallcnn.report.sweeps import parse_sweep, run_sweep; "
        f"architecture = Architecture.from_json({chain((10,), (1,)).to_json()}); "
        "notebook.read_network = lambda chapter, values: architecture; "
        "grid = ('approach_3', 'epochs=1,30 seeds=0,1', 'train_examples=1000'); "
        "sys.exit(run(lambda: run_sweep(parse_sweep(*grid))))"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.endswith(", recorded\n"):
            break
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=60)
    wait_for(lambda: not group_is_alive(process.pid))
    assert process.returncode == 130
    assert "\nerror: interrupted; the same again trains the " in f"\n{process.stderr.read()}"
    recorded = {path.name for path in (copy / "data" / "runs").glob("[!.]*")}
    assert recorded
    again = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=True)
    assert f"4 runs at 2 points, {len(recorded)} of them recorded" in again.stdout
    (csv,) = (copy / "build" / "sweeps").glob("approach_3-epochs=1,30-seeds=0,1-train_examples=1000-*.csv")
    assert len(csv.read_text().splitlines()) == 5


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
