"""How a notebook shows things: errors in one line, data frames as tables, and runs in short."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from smallcnn.checks import check_fraction
from smallcnn.commands import CommandError
from smallcnn.data import Dataset
from smallcnn.report import display
from smallcnn.report.parameters import ParameterError
from smallcnn.report.results import layers
from smallcnn.report.tables import points, to_html
from smallcnn.runs.records import Interrupted
from tests.networks import PUBLISHED
from tests.report.made_up import made_up_run


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    """IPython's shell, as if a notebook ran in it, which keeps no history."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.kernel = SimpleNamespace()
    monkeypatch.setattr(display, "get_ipython", lambda: shell)
    display.set_up()
    return shell


def shown(shell: InteractiveShell, value: object) -> str:
    """What a notebook shows of `value`."""
    data, _ = shell.display_formatter.format(value)
    return str(data["text/html"])


def printed_by(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).strip()


def test_outside_of_a_notebook_nothing_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    display.set_up()
    monkeypatch.setattr(display, "get_ipython", SimpleNamespace)  # IPython in a terminal has no kernel
    display.set_up()


# Errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CommandError("there is no book"), "there is no book"),
        (ParameterError("epochs is 0; expected a whole number of at least 1"), "epochs is 0; expected a whole number"),
        (Interrupted("interrupted after epoch 3; the same again goes on"), "interrupted after epoch 3"),
        (KeyboardInterrupt(), "interrupted; run the cell again to go on"),
        (
            ValueError('Exception encountered when calling layer "conv2d_4".\n\nNegative dimension size caused by …'),
            "layer conv2d_4 has no pixels left to work on; use fewer layers or pool less",
        ),
        (
            TypeError("The added layer must be an instance of class Layer. Received: <keras.src.layers.ReLU>"),
            "a layer is of Keras 3; this book's Keras is tf_keras, so import tf_keras as keras",
        ),
    ],
)
def test_an_error_that_says_all_is_one_line(
    error: BaseException, line: str, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    somewhere_in_keras: dict[str, Any] = {"__name__": "tf_keras.src.engine"}
    exec("def fail(error):\n    raise error", somewhere_in_keras)
    shell.user_ns |= {"error": error, "fail": somewhere_in_keras["fail"]}
    shell.run_cell("fail(error)")
    printed = printed_by(capsys)
    assert printed.startswith(line)
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("error", [ValueError("of something else"), TypeError("no number"), KeyError("name")])
def test_any_other_error_has_its_traceback(
    error: Exception, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.user_ns["error"] = error
    shell.run_cell("raise error")
    printed = printed_by(capsys)
    assert "Traceback (most recent call last)" in printed
    assert "raise error" in printed
    assert printed.splitlines()[-1] == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    ("module", "words", "shown"),
    [
        ("tf_keras.src.engine", "x" * 300, "x" * 300 + " (line 3 of the cell)"),
        ("keras.src", "of another Keras", "of another Keras (line 3 of the cell)"),
        ("keras.src", "words  with\nspaces", "words with spaces (line 3 of the cell)"),
        ("tf_keras.src.engine", "x" * 301, None),
        ("numpy.linalg", "of something else", None),
        ("numpy.linalg", "words  with\nspaces", None),
        ("smallcnn.mine", "Negative dimension size caused by …", "no pixels left to work on"),
    ],
)
def test_an_error_of_keras_is_one_line_if_it_fits_and_names_the_line_of_the_cell(
    module: str, words: str, shown: str | None, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere: dict[str, Any] = {"__name__": "numpy.linalg"}
    exec("def through(fail, error):\n    fail(error)", elsewhere)
    inner: dict[str, Any] = {"__name__": module}
    exec("def fail(error):\n    raise error", inner)
    shell.user_ns |= {"error": ValueError(words), "through": elsewhere["through"], "fail": inner["fail"]}
    shell.run_cell("one = 1\n\nthrough(fail, error)")
    printed = printed_by(capsys)
    if shown is None:
        assert "Traceback (most recent call last)" in printed
    else:
        assert shown in printed
        assert len(printed.splitlines()) == 1


def test_what_the_package_raises_is_one_line_and_what_happens_in_it_is_none(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.user_ns |= {"check_fraction": check_fraction, "points": points}
    shell.run_cell("check_fraction('share', 2.0)")
    assert printed_by(capsys) == "share is 2.0; expected a number from 0 to 1"
    shell.run_cell("points(1.0, 'x')")
    assert "Traceback (most recent call last)" in printed_by(capsys)


# What a cell ends in


def test_a_frame_is_shown_as_the_books_table(shell: InteractiveShell) -> None:
    frame = pd.DataFrame({"best_test_accuracy": [0.9941], "best_test_accuracy_sd": [0.0003]})
    assert shown(shell, frame) == to_html(frame)
    assert "99.41\u00a0±\u00a00.03\u202f%" in to_html(frame)


def test_a_run_is_shown_in_a_few_lines(shell: InteractiveShell) -> None:
    run = made_up_run([0.5, 0.9941, 0.97, 0.98], 7, engine="tensorflow")
    assert shown(shell, run) == (
        '<div class="results"><table>'
        '<tr><th scope="row">network</th><td>4-8-16-16-10</td></tr>'
        '<tr><th scope="row">seed</th><td>7</td></tr>'
        '<tr><th scope="row">test accuracy</th>'
        "<td>99.41\u202f% after epoch 2, 98.00\u202f% at the end</td></tr>"
        '<tr><th scope="row">epochs</th><td>4</td></tr>'
        '<tr><th scope="row">engine</th><td>tensorflow</td></tr>'
        f'<tr><th scope="row">record</th><td>{run.config.key}</td></tr></table></div>'
    )


def test_a_data_set_is_shown_in_short(shell: InteractiveShell) -> None:
    dataset = Dataset(np.zeros((1234, 28, 29), np.uint8), np.zeros(1234, np.uint8))
    data, _ = shell.display_formatter.format(dataset)
    assert data["text/plain"] == "<Dataset: 1,234 images of 28×29 pixels, 0 to 255, and their labels>"


def test_a_configuration_is_shown_as_its_short_form(shell: InteractiveShell) -> None:
    config = made_up_run([0.5], 7).config
    assert shown(shell, config) == f"<code>{repr(config).replace('<', '&lt;').replace('>', '&gt;')}</code>"


def test_an_architecture_is_shown_as_its_layers(shell: InteractiveShell) -> None:
    assert shown(shell, PUBLISHED["approach_3"]) == to_html(layers(PUBLISHED["approach_3"]))


def test_runs_configurations_and_architectures_are_one_short_line_in_a_list() -> None:
    run = made_up_run([0.5, 0.9941, 0.98], 7, learning_rate=0.003, epochs=9)
    key = run.config.key
    assert repr(run) == (
        f"<TrainingRun {key}: 4-8-16-16-10, dropout 10 %, seed 7; 99.41 % of the test images after epoch 2 of 3>"
    )
    assert repr(run.config) == (
        f"<TrainingConfig {key}: 4-8-16-16-10, dropout 10 %, seed 7; 9 epochs at most, learning rate 0.003, halide>"
    )
    assert repr(run.config.architecture) == "<Architecture 4-8-16-16-10: 5,382 trainable of 5,490 parameters>"
