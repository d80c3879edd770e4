"""Who sees how far the runs are: the terminal, a notebook's reader, or the command that executes the notebook."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from smallcnn.commands import say
from smallcnn.config import Caution, EpochLine, Report
from smallcnn.runs import broker

if TYPE_CHECKING:
    from IPython.display import DisplayHandle


@contextmanager
def shown(report: Report | None) -> Iterator[Report]:
    """Yields what progress is reported to while runs are computed: `report` itself, or the right one for this process.

    A notebook that a command executes passes its lines on to that command; one that a person runs shows bars, and
    nothing of them once all runs are there.
    """
    if report is not None:
        yield report
    elif broker.is_there():
        yield broker.say
    elif _is_notebook():
        with _Bars() as bars:
            yield bars
    else:
        yield say


def _is_notebook() -> bool:
    """Whether this is the kernel of a notebook; asked without importing what only a notebook has."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


class _Bars:
    """A bar for each run that is being trained, what is left of all, and the last other line, in one changing output.

    It ends as an output of nothing. To clear the cell's outputs would take away what else the cell has shown.
    """

    def __init__(self) -> None:
        self._runs: dict[str, EpochLine] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._line = self._left = ""
        self._display: DisplayHandle | None = None
        self._is_over = False
        self._lock = Lock()  # epochs are told in a thread of Dask's client

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._is_over = True
            if self._display is not None:
                self._display.update({}, raw=True)

    def __call__(self, line: str) -> None:
        with self._lock:
            if not self._is_over:  # a thread may come late
                self._note(line)
                self._show()

    def _note(self, line: str) -> None:

        if isinstance(line, EpochLine):
            self._started.setdefault(line.label, (time.monotonic(), line.epoch))
            self._runs[line.label] = line
            self._left = line.partition("; ")[2]
        elif not isinstance(line, Caution):  # the result says it
            self._line = line
            self._runs = {label: run for label, run in self._runs.items() if not line.startswith(f"{label}: ")}

    def _show(self) -> None:
        from IPython.display import HTML, display

        bars = [self._bar(self._runs[label]) for label in sorted(self._runs)]
        lines = [f"<div>{html.escape(line)}</div>" for line in (self._left, self._line) if line]
        content = HTML("".join([*bars, *lines]))
        if self._display is None:
            self._display = display(content, display_id=True)
        else:
            self._display.update(content)

    def _bar(self, line: EpochLine) -> str:
        started, first = self._started[line.label]
        left = ""
        if line.epoch > first:
            seconds = (time.monotonic() - started) / (line.epoch - first) * (line.epochs - line.epoch)
            left = f", at most {seconds / 60:.0f} min left" if seconds >= 60 else ", under a minute left"
        label = html.escape(line.label)
        bar = f'<progress value="{line.epoch}" max="{line.epochs}" aria-label="{label}"></progress>'
        return f"<div>{bar} {label}: epoch {line.epoch} of at most {line.epochs}{left}</div>"
