"""The workers: many runs at a time, each on a core of its own, on this machine or on a cluster.

They are Dask's: processes that this command or the build around it starts and ends, or those of the cluster whose
scheduler `DASK_SCHEDULER_ADDRESS` names. They get a configuration and send back a finished run; no disk is shared.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from queue import Empty, Queue
from threading import Event, Lock, current_thread, main_thread
from typing import TYPE_CHECKING

from smallcnn import data
from smallcnn.commands import CommandError
from smallcnn.config import EpochLine, Report, TrainingConfig, TrainingRun
from smallcnn.engines.base import is_available
from smallcnn.paths import build_folder
from smallcnn.runs import broker
from smallcnn.training import train

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

# What one image costs, forward and back, for each multiply-add of the network; measured on a core of an AMD EPYC with
# AVX2. The estimate of what is left starts from it and then goes by what this command measures.
SECONDS_PER_MULTIPLY_ADD = {"halide": 1.65e-10, "tensorflow": 1.2e-9}
# More than a run has been seen to need.
BYTES_PER_RUN = {"halide": 500e6, "tensorflow": 2e9}

JOIN_SECONDS = 10.0
SCHEDULER_PATIENCE = 30.0  # seconds without a scheduler before it counts as gone
SILENCE = logging.CRITICAL  # what matters of a lost worker or a failed run is said in our own words
ALLOWED_DEATHS = 3  # of workers over the same run
SCHEDULER_GONE = "the scheduler is gone; finished runs are recorded, and the same command goes on from them"
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HL_NUM_THREADS": "1",
    # Dask makes its workers give freed memory back at once. A training step frees and takes megabytes again and again,
    # and then spends 40 % of its time in page faults (measured: 65 s an epoch with TensorFlow instead of 33 s).
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}


class WorkersError(CommandError):
    """Runs could not be computed; the message says why and what to do."""


def scheduler_address() -> str | None:
    """The cluster's scheduler, `DASK_SCHEDULER_ADDRESS`; None where this machine's own cores are to work.

    Raises:
        WorkersError: if that is no address.
    """
    address = os.environ.get("DASK_SCHEDULER_ADDRESS") or None
    if address and not re.fullmatch(r"(tcp|tls)://([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}", address):
        raise WorkersError(f"DASK_SCHEDULER_ADDRESS is {address!r}; expected an address such as tcp://127.0.0.1:8786")
    return address


def expected_seconds(config: TrainingConfig) -> float:
    """Roughly what a run takes on one core if it is not stopped early."""
    multiply_adds = config.architecture.multiply_adds * config.train_examples * config.epochs
    return SECONDS_PER_MULTIPLY_ADD[config.engine] * multiply_adds


def compute(
    configs: Sequence[TrainingConfig],
    parents: dict[str, TrainingRun],
    report: Report,
    recorded: Callable[[TrainingConfig], TrainingRun | None] = lambda config: None,
    train: Callable[..., TrainingRun] = train,
) -> Iterator[TrainingRun]:
    """Computes runs on the workers and yields each when it is finished.

    The run that is expected to take longest goes first, as soon as its parent is there, whichever notebook of a build
    asked for it. The run of a worker that dies is done again by another.

    Args:
        configs: the runs, each after its parent.
        parents: finished runs by key; those that are computed here are added.
        report: called with lines of text on progress.
        recorded: the record of a configuration, or None; another notebook may have made it since `configs` were listed.
        train: what a worker does with a configuration, the finished parent or None, and a `Report`.

    Raises:
        WorkersError: if the scheduler is gone; or a run failed, or workers died over it too often, after all others.
        KeyboardInterrupt: if somebody stops it.
    """
    ready: list[TrainingConfig] = []  # the longest last
    children: dict[str, list[TrainingConfig]] = {}  # what waits, by the key of its parent
    for config in sorted(configs, key=expected_seconds):
        if config.parent is None or config.parent.key in parents:
            ready.append(config)
        else:
            children.setdefault(config.parent.key, []).append(config)
    finished: Queue[Future[TrainingRun]] = Queue()
    running: set[str] = set()
    failures: dict[str, Exception] = {}  # by the key of the run
    with _noted_interrupt() as interrupted, _pool(configs, report) as client, _scheduler_errors():
        progress = Progress(configs)
        is_ours = scheduler_address() is None
        topic = f"progress of {client.id}"  # a cluster may serve several commands
        client.subscribe_topic(topic, lambda event: report(progress.line(*event[1])))

        def finish(run: TrainingRun) -> TrainingRun:
            parents[run.config.key] = run
            for config in children.pop(run.config.key, []):
                insort(ready, config, key=expected_seconds)
            return run

        while True:
            progress.cores = _count_cores(client)
            while ready and len(running) < progress.cores:
                config = ready.pop()
                if (run := recorded(config)) is not None:
                    progress.finished(config.key)
                    yield finish(run)
                    continue
                parent = parents[config.parent.key] if config.parent else None
                future = client.submit(
                    *(_compute_here, train, config, config.key, parent, topic, is_ours),
                    key=config.key,
                    priority=expected_seconds(config),
                    _data_producer=True,  # so that it goes to a worker with nothing to do, though Dask knows no length
                )
                future.add_done_callback(finished.put)
                running.add(config.key)
            if not running:
                break
            future = _next_finished(client, finished, interrupted)
            key = str(future.key)
            running.remove(key)
            progress.finished(key)
            if (error := future.exception()) is None:
                yield finish(future.result())
            else:  # the other runs are not to suffer from it
                failures[key] = error
    if failures:
        failed = [config for config in configs if config.key in failures]
        raise _failure(failed, failures) from failures[failed[0].key]


def _failure(failed: Sequence[TrainingConfig], errors: dict[str, Exception]) -> WorkersError:
    """What is said of runs that failed: why the first did, and how many others."""
    from distributed.scheduler import KilledWorker

    first, *others = failed
    error = errors[first.key]
    why = f"{type(error).__name__}: {error}"
    if isinstance(error, KilledWorker):
        why = "worker after worker died over it, for want of memory perhaps"
    # An error of ours names its run.
    message = str(error) if isinstance(error, CommandError) else f"{first.label}: {why}"
    also = f"; {len(others)} more failed, such as {others[0].label}" if others else ""
    return WorkersError(f"{message}{also}; the others are recorded")


@contextmanager
def _scheduler_errors() -> Iterator[None]:
    """Turns what a lost connection raises into an error for the user."""
    try:
        yield
    except OSError as error:  # such as Dask's CommClosedError, or a TimeoutError
        raise WorkersError(SCHEDULER_GONE) from error


def _count_cores(client: Client) -> int:
    try:
        return max(1, sum(map(int, client.nthreads().values())))
    except AttributeError as error:  # a client that has lost its scheduler has none to ask
        raise WorkersError(SCHEDULER_GONE) from error


@contextmanager
def _noted_interrupt() -> Iterator[Event]:
    """An event that Ctrl-C sets; the KeyboardInterrupt that it also raises may get lost in a callback of a library."""
    interrupted = Event()

    def interrupt(number: int, frame: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    if current_thread() is not main_thread():  # only that one may set a handler, and gets the interrupt
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _next_finished(client: Client, finished: Queue[Future[TrainingRun]], interrupted: Event) -> Future[TrainingRun]:
    last_seen = time.monotonic()
    while time.monotonic() - last_seen < SCHEDULER_PATIENCE:
        if interrupted.is_set():
            raise KeyboardInterrupt
        if client.status == "running":
            last_seen = time.monotonic()
        try:
            future = finished.get(timeout=1.0)
        except Empty:
            continue
        if not future.cancelled():
            return future
        break
    raise WorkersError(SCHEDULER_GONE)


@contextmanager
def _pool(configs: Sequence[TrainingConfig], report: Report) -> Iterator[Client]:
    """Joins the cluster of `DASK_SCHEDULER_ADDRESS` or the build's workers, or starts some that end after the block."""
    from distributed import Client  # here: recorded runs need no workers

    cluster: LocalCluster | str
    with _dask_settings(), ExitStack() as stack:
        if cluster := scheduler_address() or "":
            who, failure = (
                f"on the cluster at {cluster}",
                (f"no scheduler answers at DASK_SCHEDULER_ADDRESS={cluster}; start it, or unset the variable"),
            )
        elif broker.is_there():
            cluster, who, failure = broker.pool_address(), "by the workers of this build", SCHEDULER_GONE
        else:
            cluster, failure = stack.enter_context(local_cluster(count_workers(configs))), SCHEDULER_GONE
            who = f"{len(cluster.workers)} at a time{_where(cluster)}"
        try:
            client = Client(cluster, timeout=JOIN_SECONDS, set_as_default=False)
        except OSError as error:
            raise WorkersError(failure) from error
        report(f"{_counted(len(configs))} to train, {who}")
        try:
            yield client
        finally:
            client.close(timeout=5)


@contextmanager
def local_cluster(workers: int | None = None) -> Iterator[LocalCluster]:
    """Worker processes of this machine, for as long as the block runs.

    Args:
        workers: how many; by default as many as any of the book's runs let this machine have.
    """
    from distributed import LocalCluster

    data.load_mnist()  # fetched once, here, before several workers want it
    with ExitStack() as stack:
        with _dask_settings(), _interrupts_are_ours():
            cluster = LocalCluster(
                n_workers=_fitting(max(BYTES_PER_RUN.values())) if workers is None else workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=SILENCE,
            )
            stack.callback(cluster.close, timeout=5)
        yield cluster


@contextmanager
def _interrupts_are_ours() -> Iterator[None]:
    """Keeps interrupts from the threads and processes that start in the block, and its own for after the block.

    Ctrl-C, or a notebook's stop button, reaches a whole group of processes. Workers would write of it to the terminal
    or into the notebook, and an interrupt while they start would leave some behind.
    """
    came = Event()
    is_main = current_thread() is main_thread()  # only that one may set a handler, and gets the interrupt
    before = signal.signal(signal.SIGINT, lambda number, frame: came.set()) if is_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by what starts
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if is_main:
            signal.signal(signal.SIGINT, before)
    if came.is_set():
        raise KeyboardInterrupt


def _where(cluster: LocalCluster) -> str:
    """Where its workers can be watched, and what else there is to know of them."""
    without_halide = "" if is_available("halide") else "; Halide is not installed on this machine, so TensorFlow trains"
    return f"; to watch them: {cluster.dashboard_link}{without_halide}"


@contextmanager
def build_workers(report: Report) -> Iterator[Callable[[], str]]:
    """Yields what starts a build's workers and returns their scheduler's address; the workers end after the block."""
    with ExitStack() as stack:

        def start() -> str:
            cluster = stack.enter_context(local_cluster())
            report(f"runs are missing; {len(cluster.workers)} workers train them{_where(cluster)}")
            return cluster.scheduler_address

        yield start


@contextmanager
def _dask_settings() -> Iterator[None]:
    import dask

    options = {
        "temporary-directory": str(build_folder() / "dask"),
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
        "distributed.scheduler.allowed-failures": ALLOWED_DEATHS,
        # Else a worker gets a second run in advance, which then goes before any longer one that is asked for meanwhile.
        "distributed.scheduler.worker-saturation": 1.0,
        # Dask's workers look at themselves many times a second, for which they need the interpreter; measured: 5 %.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "5s",
    }
    logging.getLogger("distributed").setLevel(SILENCE)
    with dask.config.set(options):
        yield


def _counted(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def count_workers(configs: Sequence[TrainingConfig]) -> int:
    """As many workers as there are cores and runs, but no more than memory has room for."""
    return min(len(configs), _fitting(max(BYTES_PER_RUN[config.engine] for config in configs)))


def _fitting(bytes_each: float) -> int:
    """How many processes this machine has cores and memory for."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return max(1, min(CPU_COUNT, int(MEMORY_LIMIT // bytes_each)))


def _compute_here(
    train: Callable[..., TrainingRun],
    config: TrainingConfig,
    key: str,
    parent: TrainingRun | None,
    topic: str,
    is_ours: bool,
) -> TrainingRun:
    """What a worker does; one that this command started has a number for a name, and gets the core of that number."""
    from distributed import get_worker

    if config.key != key:
        raise WorkersError("a worker has another version of this project or of its data; update it")
    os.environ.setdefault("HL_NUM_THREADS", "1")  # for workers that somebody else started
    worker = get_worker()
    if is_ours:
        _use_core(worker.name)

    def report(line: str) -> None:
        epoch = line.epoch if isinstance(line, EpochLine) else 0
        worker.log_event(topic, (key, epoch, str(line)))  # Dask sends plain strings only

    return train(config, parent, report)


def _use_core(number: int) -> None:
    """Gives this thread a core of its own; systems have been seen to leave two workers on one core for minutes."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(os.getppid()))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


class Progress:
    """How far the runs of a command are.

    Attributes:
        cores: that work on them.
    """

    def __init__(self, configs: Sequence[TrainingConfig], cores: int = 1) -> None:
        self.cores = cores
        self._started = time.monotonic()
        self._configs = {config.key: config for config in configs}
        self._left = {config.key: expected_seconds(config) for config in configs}
        self._all_left, self._done = sum(self._left.values()), 0.0
        self._lock = Lock()  # lines come in a thread of Dask's client

    def finished(self, key: str) -> None:
        """Takes note of a finished run, which may have been stopped early."""
        with self._lock:
            self._all_left -= self._left.pop(key)

    def line(self, key: str, epoch: int, text: str) -> EpochLine:
        """Takes note of a finished epoch of a run; adds to `text` what is left at most, from the pace so far."""
        config = self._configs[key]
        expected = expected_seconds(config) / config.epochs
        with self._lock:
            if key in self._left:
                gone = min(self._left[key], expected)
                self._left[key] -= gone
                self._all_left -= gone
                self._done += expected
            busy = max(1, min(self.cores, len(self._left)))
            pace = (time.monotonic() - self._started) * busy / max(self._done, expected)
            minutes = self._all_left * pace / busy / 60
            runs = _counted(len(self._left))
        left = f"at most {minutes:.0f} min" if minutes >= 1 else "under a minute"
        return EpochLine(f"{text}; {left} left for {runs}", config.label, epoch, config.epochs)
