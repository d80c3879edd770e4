"""Sweeps: what a grid means, which grids are refused, and that only new points cost anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smallcnn import sweeps
from smallcnn.parameters import ParameterError
from smallcnn.paths import ROOT
from smallcnn.runs import save_run
from smallcnn.sweeps import parse_sweep
from smallcnn.training import TrainingRun
from tests.conftest import FakeTraining


def test_a_grid_is_every_combination_with_every_seed() -> None:
    sweep = parse_sweep("approach_2", "learning_rate=0.003,0.01 batch_size=100,125,200 seeds=0..4")
    assert sweep.axes == {"learning_rate": [0.003, 0.01], "batch_size": [100, 125, 200]}
    assert len(sweep.configs) == 6
    assert len({config.key for config in sweep.runs}) == len(sweep.runs) == 30
    chosen = sweep.configs["0.01", "200"]
    assert [(config.learning_rate, config.batch_size, config.seed) for config in chosen] == [
        (0.01, 200, seed) for seed in range(5)
    ]


def test_a_sweep_has_the_seeds_of_its_chapter_and_the_changes_that_all_points_share() -> None:
    sweep = parse_sweep("approach_3", "learning_rate=0.01", "epochs=3 seeds=7,9")
    assert [(config.epochs, config.seed) for config in sweep.runs] == [(3, 7), (3, 9)]
    assert len(parse_sweep("approach_3", "learning_rate=0.01").runs) == 3


def test_lists_take_their_alternatives_with_slashes() -> None:
    sweep = parse_sweep("approach_2", "filters=4,8,8,8,10/2,4,8,8,10 seeds=0")
    assert [config.architecture.filters for config in sweep.runs] == [(4, 8, 8, 8, 10), (2, 4, 8, 8, 10)]
    assert list(sweep.configs) == [("4-8-8-8-10",), ("2-4-8-8-10",)]


@pytest.mark.parametrize(
    ("chapter", "grid", "changes", "expected"),
    [
        ("approach_2", "", "", "GRID is empty"),
        ("approach_9", "seeds=0", "", "unknown chapter"),
        ("data", "digits_shown=1", "", "does not train one network"),
        ("pruning", "learning_rate=0.01", "", "does not train one network"),
        ("approach_2", "learning_rate", "", "cannot read 'learning_rate'"),
        ("approach_2", "learning_rate=", "", "cannot read"),
        ("approach_2", "learning_rat=0.1", "", "unknown parameter 'learning_rat'"),
        ("approach_2", "learning_rate=0.1,ten", "", "parameter learning_rate is 'ten'"),
        ("approach_2", "learning_rate=0.1,-1", "", "learning_rate is -1.0"),
        ("approach_2", "learning_rate=0.1,,0.2", "", "parameter learning_rate is ''"),
        ("approach_2", "learning_rate=0.1,0.10", "", "a value of learning_rate twice"),
        ("approach_2", "learning_rate=0.1 learning_rate=0.2", "", "learning_rate is given twice"),
        ("approach_2", "learning_rate=0.1", "learning_rate=0.2", "learning_rate is given twice"),
        ("approach_2", "seeds=4..0", "", "cannot read the range '4..0'"),
        ("approach_2", "seeds=0..999999999", "", "cannot read the range"),
        ("approach_2", "seeds=0,0", "", "a value of seeds twice"),
        ("approach_2", "seeds=0..99999 epochs=1..2", "", "GRID has 200000 runs"),
        ("approach_2", "epochs=1..40000", "", "GRID has 120000 runs"),
        ("approach_2", "seeds=٠..٤", "", "parameter seeds is '٠..٤'"),
        ("approach_2", f"head={'x' * 300},dense", "", "head is 'xxx"),
        ("approach_3", "dropout_tried=0.1,0.2", "", "not all values of dropout_tried change what approach_3 trains"),
        ("approach_2", "pool_after=2/2,2", "", "the same run at several points"),
        ("approach_2", "epochs=$(touch x)", "", "cannot read 'x)'"),
        ("approach_2", "dropout=0.1..0.5", "", "parameter dropout is '0.1..0.5'"),
        ("approach_2", "learning_rate=0.1", "epochs=0", "epochs is 0"),
    ],
)
def test_a_bad_grid_is_refused(chapter: str, grid: str, changes: str, expected: str) -> None:
    with pytest.raises(ParameterError) as raised:
        parse_sweep(chapter, grid, changes)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_sweeps_that_differ_have_different_names() -> None:
    names = {
        parse_sweep("approach_2", "learning_rate=0.01 seeds=0", changes).name
        for changes in ("", "epochs=1", "epochs=2", "epochs=1 batch_size=100", f"filters={'1000,' * 6}10")
    }
    assert len(names) == 5
    assert {"approach_2-learning_rate", "approach_2-learning_rate-epochs=1"} < names
    assert all(len(name) < 200 and "/" not in name for name in names)


def test_a_bad_grid_ends_the_command_with_one_line_and_without_tensorflow(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "sweep.py")],
        env=os.environ | {"CHAPTER": "approach_2", "GRID": "learning_rate=0", "SMALLCNN_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, done.stdout) == (2, "")
    assert errors == ["error: approach_2: learning_rate is 0.0; expected a number above 0"]
    for package in ("tensorflow", "halide", "distributed", "matplotlib"):
        assert f" {package}\n" not in done.stderr


def test_what_another_folder_has_is_not_trained_again(
    finished_run: TrainingRun, runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run(finished_run)
    other = tmp_path / "of the sweep"
    monkeypatch.setenv("SMALLCNN_RUNS", str(other))
    sweeps.use_recorded([finished_run.config], runs_folder)
    sweeps.use_recorded([finished_run.config], runs_folder)
    assert [path.name for path in other.iterdir()] == [finished_run.config.key]


def test_a_damaged_record_counts_as_not_finished(
    finished_run: TrainingRun, fake_training: FakeTraining, runs_folder: Path, tmp_path: Path
) -> None:
    sweep = parse_sweep("approach_2", "learning_rate=0.01 seeds=0,1", "epochs=2 train_examples=1000")
    for config in sweep.runs:
        save_run(fake_training(config))
    (runs_folder / sweep.runs[0].key / "run.json").write_text("{}")
    assert [[run.config.seed for run in runs] for runs in sweeps.finished_runs(sweep).values()] == [[1]]


def test_the_csv_has_a_line_for_every_run_and_the_table_one_for_every_point(
    fake_training: FakeTraining, runs_folder: Path
) -> None:
    sweep = parse_sweep("approach_2", "learning_rate=0.003,0.01 seeds=0,1", "epochs=2 train_examples=1000")
    assert sweeps.finished_runs(sweep) == {}
    for config in sweep.runs[:3]:
        fake_training.accuracies = [0.5, 0.9 + config.seed / 20]
        save_run(fake_training(config))
    text = sweeps.to_csv(list(sweep.axes), sweeps.finished_runs(sweep))
    assert len(text.splitlines()) == 4
    axes, points = sweeps.read_csv(text)
    assert (axes, points) == (["learning_rate"], {("0.003",): [0.9, 0.95], ("0.01",): [0.9]})
    _, _, first, second = sweeps.sweep_table(axes, points).splitlines()
    assert first == "| 0.003 | 2 | 92.50\u00a0±\u00a03.54\u202f% | 95.00\u202f% | 90.00\u202f% |"
    assert second == "| 0.01 | 1 | 90.00\u202f% | 90.00\u202f% | 90.00\u202f% |"
