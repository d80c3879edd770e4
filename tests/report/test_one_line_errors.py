"""Errors in a notebook: one line where that says all, and what IPython shows where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from smallcnn.config import TrainingConfig
from smallcnn.data import Dataset
from smallcnn.report.display import ERRORS, _in_short, _one_line
from smallcnn.report.parameters import ParameterError
from smallcnn.runs.records import Interrupted


def said_of(source: str, **variables: Any) -> str | None:
    """What is said of the error that a cell raises; None for a traceback."""
    try:
        exec(compile(source, "<cell>", "exec"), variables)
    except ERRORS as error:
        assert error.__traceback__ is not None
        return _one_line(error, error.__traceback__, variables)
    raise AssertionError("the cell raised nothing")


@pytest.mark.parametrize("kind", [ParameterError, Interrupted])
def test_an_error_for_the_user_is_its_message(kind: type[Exception]) -> None:
    assert said_of("raise kind('epochs is 0; expected more')", kind=kind) == "epochs is 0; expected more"


def test_an_interrupt_is_one_line() -> None:
    assert said_of("raise KeyboardInterrupt") == "interrupted; run the cell again to go on"


def test_what_the_project_refuses_is_one_line(config: TrainingConfig) -> None:
    source = "import dataclasses\ndataclasses.replace(config, learning_rate=-1)"
    assert said_of(source, config=config) == "learning_rate is -1.0; expected a number above 0"


def test_what_goes_wrong_by_accident_keeps_its_traceback() -> None:
    assert said_of("raise ValueError('mine')") is None
    assert said_of("from smallcnn.report import results\nresults.runs(3)") is None


@pytest.mark.slow
def test_what_keras_refuses_is_one_line_with_its_place_in_the_cell(keras: Any) -> None:
    said = said_of("layers = keras.layers\n\nlayers.Conv2D(0, 3)", keras=keras)
    assert said is not None and said.endswith("Received filters=0. (line 3 of the cell)")
    said = said_of("keras.layers.Conv2D(4, 3, activaton='relu')", keras=keras)
    assert said == "Keyword argument not understood: activaton (line 1 of the cell)"


def test_a_dataset_is_a_line(fake_training: Any) -> None:
    short = "<Dataset: 2,000 images of 28×28 pixels, 0 to 255, and their labels>"
    dataset: Dataset = fake_training.train_set
    assert _in_short(dataset) == short
