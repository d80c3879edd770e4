"""Bars in a notebook: what they show while runs are trained, and that nothing of them is left."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from IPython import display

from smallcnn.config import Caution, EpochLine, TrainingConfig, told_apart
from smallcnn.runs import progress


class Shown:
    """An output of a notebook, as IPython's `display` returns it."""

    def __init__(self) -> None:
        self.contents: list[Any] = []

    def __call__(self, content: Any, display_id: bool) -> Shown:
        assert display_id and not self.contents
        self.update(content)
        return self

    def update(self, content: Any, raw: bool = False) -> None:
        self.contents.append(content if raw else content.data)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """The output of a notebook that a person runs."""
    shown = Shown()
    monkeypatch.setattr(display, "display", shown)
    monkeypatch.setattr(progress, "_is_notebook", lambda: True)
    monkeypatch.delenv("SMALLCNN_BROKER", raising=False)
    return shown


def epoch(seed: int, number: int) -> EpochLine:
    text = f"4-8, seed {seed}: epoch {number} of at most 40, 1.0 s; at most 3 min left for 2 runs"
    return EpochLine(text, f"4-8, seed {seed}", number, 40)


def test_each_run_has_a_bar_until_it_is_recorded(shown: Shown) -> None:
    with progress.shown(None) as report:
        report("2 runs to train")
        report(epoch(1, 1))
        report(epoch(0, 1))
        report(epoch(0, 2))
        latest = shown.contents[-1]
        assert latest.count("<progress ") == 2
        assert latest.index("4-8, seed 0: epoch 2 of at most 40, under a minute left") < latest.index(
            "4-8, seed 1: epoch"
        )
        assert "<div>at most 3 min left for 2 runs</div><div>2 runs to train</div>" in latest
        report("4-8, seed 0: 99.00 % after epoch 2, recorded")
        report(Caution("4-8, seed 0: only 96 training steps"))
        assert shown.contents[-1].count("<progress ") == 1
        assert shown.contents[-1].endswith("<div>4-8, seed 0: 99.00 % after epoch 2, recorded</div>")


def test_runs_that_differ_in_a_setting_only_have_a_bar_each(shown: Shown, config: TrainingConfig) -> None:
    rates = told_apart([dataclasses.replace(config, learning_rate=rate) for rate in (0.01, 0.02)])
    with progress.shown(None) as report:
        for run in rates:
            report(EpochLine(f"{run.label}: epoch 1 of at most 2", run.label, 1, 2))
        for rate in (0.01, 0.02):
            assert f'aria-label="4-8-16-16-10, dropout 10 %, learning_rate={rate}, seed 0"' in shown.contents[-1]


def test_nothing_is_left_when_all_runs_are_there_even_if_a_line_comes_late(shown: Shown) -> None:
    with progress.shown(None) as report:
        report("1 run to train")
    report(epoch(0, 1))
    assert shown.contents[1:] == [{}]


def test_where_nothing_is_trained_nothing_is_shown(shown: Shown) -> None:
    with progress.shown(None):
        pass
    assert shown.contents == []


def test_who_asks_for_the_lines_gets_them_in_a_notebook_too(shown: Shown) -> None:
    lines: list[str] = []
    with progress.shown(lines.append) as report:
        report("1 run to train")
    assert (lines, shown.contents) == (["1 run to train"], [])
