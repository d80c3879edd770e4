"""How a notebook shows things: tables in the book's style, runs in short, and errors in one line."""

from __future__ import annotations

import html
from types import TracebackType
from typing import Any

import pandas as pd
from IPython import get_ipython

from smallcnn.architecture import Architecture
from smallcnn.commands import CommandError
from smallcnn.config import TrainingConfig, TrainingRun
from smallcnn.report import results
from smallcnn.report.tables import percent, to_html

STYLE = """<style>
.results { overflow-x: auto; }
.results table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0.5rem 0; }
.results th, .results td { padding: 0.3rem 0.6rem; border-bottom: 1px solid rgba(127, 127, 127, 0.35); }
.results th, .results td { vertical-align: top; }
.results .text { text-align: left; }
.results .number { text-align: right; }
.results .download { font-size: 0.8rem; margin: 0 0 0.5rem; }
.note { border-left: 0.25rem solid #d55e00; padding: 0.4rem 0.8rem; margin: 0.5rem 0; }
.note p { margin: 0.2rem 0; }
</style>"""


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
    shell.set_custom_exc((CommandError, KeyboardInterrupt, TypeError, ValueError), _show_error)


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


def _show_error(
    shell: Any, kind: type[BaseException], error: BaseException, trace: TracebackType, tb_offset: int | None = None
) -> list[str]:
    """Shows an error that says all that a reader needs in one line, and any other as IPython does."""
    line = _one_line(error)
    lines = (
        shell.InteractiveTB.structured_traceback(kind, error, trace, tb_offset=tb_offset) if line is None else [line]
    )
    shell._showtraceback(kind, error, lines)
    return lines


def _one_line(error: BaseException) -> str | None:
    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the cell again to go on"
    from smallcnn.models import explain

    short = explain(error)
    return short if short != " ".join(str(error).split()) else None
