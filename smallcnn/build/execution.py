"""Executing a chapter in a process of its own, whose kernel starts while the chapter still waits for what it reads."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import nbformat

from smallcnn.build import cache, gates, outputs
from smallcnn.build.cache import Edition
from smallcnn.commands import CommandError
from smallcnn.files import replacing
from smallcnn.paths import BOOK
from smallcnn.report.notebook import tagged_source

# What a kernel runs before its chapter does, so that the seconds of these imports pass while the chapter waits.
IMPORTS = "import scipy.stats; from smallcnn.report import chapter, figures; del chapter, figures, scipy"
IMPORTS_WITH_NETWORK = f"from smallcnn.models import import_keras; import_keras(); del import_keras; {IMPORTS}"
END_SECONDS = 5.0  # for a process to clear up after itself
SOCKETS = Path("/tmp")  # a socket's path may have a hundred letters, which those of other folders may exceed


class BuildError(CommandError):
    """The book cannot be built; the message says which chapter or page, and why."""


class Execution:
    """A chapter's process, as the build sees it.

    Attributes:
        chapter: its name.
        answer: what becomes ready when the chapter is done, or failed.
    """

    def __init__(self, edition: Edition, chapter: str) -> None:
        self.chapter = chapter
        spawning = multiprocessing.get_context("spawn")
        self.answer: Connection[Any, Any]
        self.answer, there = spawning.Pipe()
        self._process = spawning.Process(target=_live, args=(edition, chapter, there, os.getpid()))
        self._process.start()
        there.close()

    def begin(self) -> None:
        """Lets the chapter be executed: what it reads is there."""
        with suppress(OSError):  # a process that ended meanwhile is found by `finish`
            self.answer.send(None)

    def finish(self) -> None:
        """Waits for its end and raises what went wrong."""
        try:
            error = self.answer.recv()
        except (EOFError, OSError):
            raise BuildError(f"{self.chapter}: the process that executes it ended") from None
        if error is not None:
            raise error
        self._process.join()

    def end(self) -> None:
        """Ends the process and its kernel, whatever they do."""
        self._process.terminate()
        self._process.join(END_SECONDS)
        self._process.kill()  # its kernel then ends by itself
        self._process.join()


def _live(edition: Edition, chapter: str, build: Connection[Any, Any], parent: int) -> None:
    """The life of a chapter's process; the build gets None when the chapter is done, or what went wrong."""
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the build gets it too, and ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the kernel is shut down
    error: Exception | None = None
    try:
        code = cache.code_inputs(chapter)  # before the kernel imports any of it
        with kernel_of(chapter) as kernel:
            import papermill  # noqa: F401 - while the kernel starts

            build.recv()
            execute(edition, chapter, kernel, code)
    except (CommandError, OSError) as known:
        error = known
    except EOFError:
        return  # the build is gone
    except Exception as unknown:  # noqa: BLE001 - whatever it is, the build must hear of it
        error = BuildError(f"{chapter}: {type(unknown).__name__}: {unknown}")
    build.send(error)


def end_with_parent(parent: int) -> None:
    """Makes this process end soon after `parent`, however that ends; kernels do the same when this process ends."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def kernel_of(chapter: str) -> Iterator[Any]:
    """A kernel for `chapter`, which starts while the block runs and is shut down after it; yields its manager."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    class OurKernel(KernelSpecManager):
        """Knows no other, whatever is installed for Jupyter on this machine."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            argv = [sys.executable, "-m", "smallcnn.build.kernel", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, language="python", display_name=kernel_name)

    with TemporaryDirectory(prefix="smallcnn-", dir=SOCKETS if SOCKETS.is_dir() else None) as sockets:
        # Kernels that start at the same moment could race for TCP ports; socket files are their own.
        manager = AsyncKernelManager(
            kernel_spec_manager=OurKernel(), transport="ipc", ip=os.path.join(sockets, "kernel")
        )
        imports = IMPORTS_WITH_NETWORK if tagged_source(chapter, "network") else IMPORTS
        run_sync(manager.start_kernel)(
            extra_arguments=["--HistoryManager.hist_file=:memory:", f"--IPKernelApp.exec_lines={imports}"],
            cwd=str(BOOK),
            stderr=subprocess.DEVNULL,  # what libraries remark on the machine; errors of cells do not come this way
        )
        try:
            yield manager
        finally:
            run_sync(manager.shutdown_kernel)(now=True)


def execute(edition: Edition, chapter: str, kernel: Any, code: str) -> None:
    """Executes one chapter with papermill; its notebook appears under `notebooks` only if all of it ran.

    Args:
        edition: the build.
        chapter: the chapter's name.
        kernel: the manager of the kernel that is to do it.
        code: what `cache.code_inputs` gave before that kernel started.
    """
    import papermill

    output, limit = edition.notebook(chapter), cell_seconds()
    from_inputs = cache.inputs(edition, chapter, code)
    with replacing(output) as temporary:
        try:
            papermill.execute_notebook(
                _literal(BOOK / f"{chapter}.ipynb"),
                _literal(temporary),
                parameters=edition.changes_of(chapter),
                cwd=BOOK,
                progress_bar=False,
                start_timeout=limit,
                timeout_func=lambda cell: None if "get_runs(" in cell.source else limit,  # training takes its time
                km=kernel,
            )
        except papermill.PapermillExecutionError as error:
            failed = _keep_failed(edition, chapter, temporary)
            reason = " ".join(f"{error.ename}: {error.evalue}".split())
            raise BuildError(
                f"{chapter}: cell {error.exec_count} failed with {reason} (the notebook so far: {failed})"
            ) from None
        except TimeoutError as error:
            raise BuildError(
                f"{chapter}: a cell ran for more than {limit} seconds; SMALLCNN_CELL_SECONDS={10 * limit} would let it"
            ) from error
        except RuntimeError as error:  # such as a kernel that died, or did not start
            raise BuildError(f"{chapter}: {error} ({type(error).__name__})") from error
        if problems := _notebook_problems(edition, chapter, temporary):
            raise BuildError(
                f"{chapter}: the executed notebook must not enter the book: {'; '.join(problems)} "
                f"(it is kept: {_keep_failed(edition, chapter, temporary)})"
            )
    cache.note_execution(edition, chapter, from_inputs)


def _literal(path: Path) -> str:
    """A path as papermill reads it, for which a name in braces is a parameter's."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _keep_failed(edition: Edition, chapter: str, executed: Path) -> Path:
    failed = edition.folder / "failed" / f"{chapter}.ipynb"
    failed.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(executed, failed))


def cell_seconds() -> int:
    """How long a cell may run that trains nothing: `SMALLCNN_CELL_SECONDS`, or ten minutes.

    Raises:
        BuildError: if that is not a whole number above zero.
    """
    text = os.environ.get("SMALLCNN_CELL_SECONDS") or "600"
    if not text.isdecimal() or int(text) == 0:
        raise BuildError(f"SMALLCNN_CELL_SECONDS is {text!r}; expected a whole number of seconds")
    return int(text)


def _notebook_problems(edition: Edition, chapter: str, executed: Path) -> list[str]:
    source = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    notebook = nbformat.read(executed, as_version=4)
    problems = gates.notebook_problems(notebook, source, edition.changes_of(chapter))
    return [*problems, *outputs.missing_results(notebook.cells, edition.results(chapter))]
