"""How a notebook shows things: tables in the book's style, runs in short, and errors in one line."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from traceback import extract_tb, walk_tb
from types import TracebackType
from typing import Any

import pandas as pd
from IPython import get_ipython

from smallcnn.architecture import Architecture
from smallcnn.commands import CommandError
from smallcnn.config import TrainingConfig, TrainingRun
from smallcnn.data import Dataset
from smallcnn.paths import ROOT
from smallcnn.report import results
from smallcnn.report.tables import percent, to_html
from smallcnn.runs.records import DamagedRun

# JupyterLab aligns every cell of a table right, in a rule with two classes and a name; ours have one name more.
# The output that only carries this style takes no room.
STYLE = """<style class="smallcnn">
div.results { overflow-x: auto; }
div.results table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0.5rem 0; }
div.results :is(th, td) { padding: 0.3rem 0.6rem; border-bottom: 1px solid rgba(127, 127, 127, 0.35); }
div.results :is(th, td):not(.number) { text-align: left; vertical-align: top; }
div.results :is(th, td).number { text-align: right; vertical-align: top; }
div.results td.number { white-space: nowrap; }
div.results .download { font-size: 0.8rem; margin: 0 0 0.5rem; }
figure.picture figcaption { max-width: 42rem; }
div.note { border-left: 0.25rem solid #d55e00; padding: 0.4rem 0.8rem; margin: 0.5rem 0; }
div.note p { margin: 0.2rem 0; }
div.note .admonition-title { font-weight: bold; }
.jp-OutputArea-child:has(> .jp-OutputArea-output > style.smallcnn) { display: none; }
</style>"""
# What may be an error of the reader's, or of the machine. Others are shown as IPython does.
ERRORS = (CommandError, KeyboardInterrupt, ArithmeticError, OSError, RuntimeError, TypeError, ValueError, DamagedRun)
LONGEST_LINE = 300  # characters; longer words of Keras are shown as IPython does
PACKAGE = ROOT / "smallcnn"


def set_up() -> None:
    """Makes the notebook that this runs in show frames, runs and errors the book's way; does nothing elsewhere."""
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(pd.DataFrame, to_html)
    formatter.for_type(TrainingRun, run_view)
    formatter.for_type(TrainingConfig, lambda config: f"<code>{html.escape(repr(config))}</code>")
    formatter.for_type(Architecture, lambda architecture: to_html(results.layers(architecture)))
    plain = shell.display_formatter.formatters["text/plain"]
    plain.for_type(Dataset, lambda dataset, printer, cycle: printer.text(_in_short(dataset)))
    shell.set_custom_exc(ERRORS, _show_error)


def run_view(run: TrainingRun) -> str:
    """A run in a few lines of HTML."""
    accuracies = (
        f"{percent(run.best_test_accuracy)} after epoch {run.best_epoch}, {percent(run.final_test_accuracy)} at the end"
    )
    facts = {
        "network": run.config.architecture.name,
        "seed": run.config.seed,
        "test accuracy": accuracies,
        "epochs": run.epochs_run,
        "engine": run.config.engine,
        "record": run.config.key,
    }
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{html.escape(str(value))}</td></tr>' for name, value in facts.items()
    )
    return f'<div class="results"><table>{rows}</table></div>'


def _in_short(dataset: Dataset) -> str:
    count, height, width = dataset.images.shape
    return f"<Dataset: {count:,} images of {height}×{width} pixels, 0 to 255, and their labels>"


def _show_error(
    shell: Any, kind: type[BaseException], error: BaseException, trace: TracebackType, tb_offset: int | None = None
) -> list[str]:
    """Shows an error that says all that a reader needs in one line, and any other as IPython does."""
    line = _one_line(error, trace, shell.user_ns)
    if line is None:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset, running_compiled_code=True)
    else:
        shell._showtraceback(kind, error, [line])
    return []


def _one_line(error: BaseException, trace: TracebackType, variables: dict[str, Any]) -> str | None:
    """What is to be said of an error; None where a reader needs to see how it came about."""
    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the cell again to go on"
    innermost = extract_tb(trace)[-1]
    if PACKAGE in Path(innermost.filename).parents:
        # What is raised on purpose says all in its message; what happens in a line of other purpose does not.
        return str(error) if (innermost.line or "").startswith("raise") else None
    from smallcnn.models import explain

    text = explain(error)
    is_of_keras = any(name.startswith(("tf_keras", "keras")) for name in _modules(trace))
    if len(text) <= LONGEST_LINE and (is_of_keras or text != " ".join(str(error).split())):
        return f"{text} (line {_line_of_cell(trace, variables)} of the cell)"
    return None


def _modules(trace: TracebackType) -> Iterator[str]:
    """The names of the modules that an error went through."""
    return (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(trace))


def _line_of_cell(trace: TracebackType, variables: dict[str, Any]) -> int:
    """The line, counted in its cell, from which the notebook called what failed."""
    return [line for frame, line in walk_tb(trace) if frame.f_globals is variables][-1]
