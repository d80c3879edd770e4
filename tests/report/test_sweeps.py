"""Sweeps: what a grid means, which grids are refused, and that only new points cost anything."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from smallcnn.architecture import Architecture
from smallcnn.config import TrainingConfig, TrainingRun
from smallcnn.paths import ROOT
from smallcnn.report import notebook, sweeps
from smallcnn.report.parameters import ParameterError
from smallcnn.report.sweeps import Sweep, parse_sweep, run_sweep
from smallcnn.runs import records, workers
from smallcnn.runs.records import Interrupted, save_run
from tests.conftest import FakeTraining
from tests.networks import chain

NETWORK = ("filters", "pool_after", "dropout", "dropout_after", "head")
COLUMNS = ["seed", "best_test_accuracy", "final_test_accuracy", "epochs_run", "seconds", "key"]


@pytest.fixture(autouse=True)
def networks_read(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Networks as the chapters type them, without Keras; with what values each was read."""
    read: list[dict[str, Any]] = []

    def read_network(chapter: str, values: Mapping[str, Any]) -> Architecture:
        read.append(dict(values))
        try:
            return chain(*(values[name] for name in NETWORK))
        except (TypeError, ValueError) as error:
            raise ParameterError(f"{chapter}: {error}") from error

    tagged_source = notebook.tagged_source
    sources = {"network": f"model = chain({', '.join(NETWORK)})"}
    monkeypatch.setattr(notebook, "tagged_source", lambda chapter, tag: sources.get(tag) or tagged_source(chapter, tag))
    monkeypatch.setattr(notebook, "read_network", read_network)
    return read


def test_a_grid_is_every_combination_with_every_seed() -> None:
    sweep = parse_sweep("approach_2", "learning_rate=0.003,0.01 batch_size=100,125,200 seeds=0..4")
    assert sweep.axes == {"learning_rate": [0.003, 0.01], "batch_size": [100, 125, 200]}
    assert len(sweep.configs) == 6
    assert len({config.key for config in sweep.runs}) == len(sweep.runs) == 30
    chosen = sweep.configs[0.01, 200]
    assert [(config.learning_rate, config.batch_size, config.seed) for config in chosen] == [
        (0.01, 200, seed) for seed in range(5)
    ]


def test_a_sweep_has_the_seeds_of_its_chapter_and_the_changes_that_all_points_share() -> None:
    sweep = parse_sweep("approach_3", "learning_rate=0.01", "epochs=3 seeds=7,9")
    assert [(config.epochs, config.seed) for config in sweep.runs] == [(3, 7), (3, 9)]
    assert len(parse_sweep("approach_3", "learning_rate=0.01").runs) == 3


def test_lists_take_their_alternatives_with_slashes() -> None:
    sweep = parse_sweep("approach_2", "filters=4,8,8,8,10/2,4,8,8,10 seeds=0")
    assert [config.architecture.name for config in sweep.runs] == ["4-8-8-8-10", "2-4-8-8-10"]
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
        ("approach_2", "seeds=0,,1", "", "parameter seeds is '0,,1'"),
        ("approach_2", "seeds=0,-1", "", "a value in seeds is -1"),
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
    grids = [
        ("learning_rate=0.01 seeds=0", changes)
        for changes in ("", "epochs=1", "epochs=2", "epochs=1 batch_size=100", f"filters={'1000,' * 6}10")
    ]
    grids += [("learning_rate=0.01,0.02", ""), ("learning_rate=0.03,0.04", ""), ("learning_rate=0.01,0.02 seeds=1", "")]
    grids += [("seeds=0", "learning_rate=0.01"), ("seeds=1", "learning_rate=0.01")]
    grids += [(f"epochs={','.join(map(str, range(1, last, 2)))} seeds=0", "") for last in (100, 102)]
    names = {parse_sweep("approach_2", *grid).name for grid in grids}
    assert len(names) == len(grids)
    assert all(len(name) < 200 and "/" not in name for name in names)


@pytest.mark.parametrize(
    ("grid", "changes", "words"),
    [
        ("learning_rate=0.01,0.003 seeds=0..4", "", "learning_rate=0.003,0.01-seeds=0..4"),
        ("filters=4,8,8,8,10/2,4,8,8,10 seeds=7", "epochs=10", "epochs=10-filters=2-4-8-8-10,4-8-8-8-10-seeds=7"),
        ("dropout_after=/3", "", "dropout_after=none,3-seeds=0..2"),
        ("head=dense,pooled seeds=0,1,3", "", "head=dense,pooled-seeds=0,1,3"),
        (f"epochs={','.join(map(str, range(1, 100, 2)))} seeds=0", "", "epochs"),
    ],
)
def test_a_name_tells_what_varies_as_long_as_that_is_short(grid: str, changes: str, words: str) -> None:
    assert re.fullmatch(f"approach_2-{re.escape(words)}-[0-9a-f]{{6}}", parse_sweep("approach_2", grid, changes).name)


def test_the_same_grid_in_another_order_has_the_same_name() -> None:
    grids = ("epochs=1,2 learning_rate=0.01,0.02 seeds=0..2", "learning_rate=0.02,0.01 seeds=2,0,1 epochs=2..2,1")
    assert len({parse_sweep("approach_2", grid).name for grid in grids}) == 1


def test_the_same_grid_of_another_network_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    first = parse_sweep("approach_2", "learning_rate=0.01,0.02").name
    monkeypatch.setattr(notebook, "read_network", lambda chapter, values: chain((4, 10)))
    assert parse_sweep("approach_2", "learning_rate=0.01,0.02").name != first


@pytest.mark.parametrize(
    ("grid", "labels"),
    [
        ("learning_rate=0.01,1e30 seeds=0", ["learning_rate=0.01, seed 0", "learning_rate=1e+30, seed 0"]),
        ("pool_after=2/1 seeds=0", ["pool_after=2, seed 0", "pool_after=1, seed 0"]),
        ("dropout_after=3/ seeds=0", ["seed 0", "seed 0"]),  # one has no dropout, which the rest of its label says
        ("seeds=0,1", ["seed 0", "seed 1"]),
        (
            "epochs=1,2 learning_rate=0.1,0.2 seeds=0",
            [f"epochs={epochs}, learning_rate={rate}, seed 0" for epochs in (1, 2) for rate in (0.1, 0.2)],
        ),
    ],
)
def test_a_label_names_the_point_where_the_network_does_not(grid: str, labels: list[str]) -> None:
    runs = parse_sweep("approach_2", grid).runs
    assert [re.sub("4-8-16-16-10(, dropout 10 %)?, ", "", run.label) for run in runs] == labels
    assert len({run.label for run in runs}) == len(runs)


def test_a_network_is_read_once_for_all_points_that_share_it(networks_read: list[dict[str, Any]]) -> None:
    sweep = parse_sweep("approach_2", "epochs=1..40 learning_rate=0.003,0.01 seeds=0")
    assert (len(sweep.runs), len(networks_read)) == (80, 2)  # the check of the parameters reads it too
    networks_read.clear()
    sweep = parse_sweep("approach_2", "epochs=1..40 dropout=0.1,0.2 seeds=0")
    assert {config.architecture for config in sweep.runs} == {
        chain([4, 8, 16, 16, 10], [2], dropout, [3, 4, 5]) for dropout in (0.1, 0.2)
    }
    assert [values["dropout"] for values in networks_read] == [0.1, 0.1, 0.2]


def test_a_list_may_be_empty_at_a_point() -> None:
    sweep = parse_sweep("approach_2", "dropout_after=/3 seeds=0")
    assert list(sweep.configs) == [("none",), ("3",)]


def test_a_chapter_that_types_no_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "read_network", lambda chapter, values: None)
    with pytest.raises(ParameterError, match="approach_2 types no network: no cell of its notebook has the tag"):
        parse_sweep("approach_2", "learning_rate=0.01")


def test_a_bad_grid_ends_a_command_with_one_line_and_without_heavy_packages(tmp_path: Path) -> None:
    code = (
        "import sys; from smallcnn.commands import run; from smallcnn.report.sweeps import parse_sweep; "
        "sys.exit(run(lambda: parse_sweep('approach_2', 'learning_rate=0')))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "SMALLCNN_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, done.stdout) == (2, "")
    assert errors == ["error: approach_2: learning_rate is 0.0; expected a number above 0"]
    for package in ("tensorflow", "tf_keras", "halide", "distributed", "matplotlib"):
        assert f" {package}\n" not in done.stderr


def test_a_damaged_record_counts_as_not_finished(fake_training: FakeTraining, runs_folder: Path) -> None:
    sweep = parse_sweep("approach_2", "learning_rate=0.01 seeds=0,1", "epochs=2 train_examples=1000")
    for config in sweep.runs:
        save_run(fake_training(config))
    (runs_folder / sweep.runs[0].key / "run.json").write_text("{}")
    assert [(point, run.config.seed) for point, run in sweeps.finished_runs(sweep)] == [((0.01,), 1)]


def test_the_frame_has_a_row_for_every_run_and_the_table_one_for_every_point(
    fake_training: FakeTraining, runs_folder: Path
) -> None:
    sweep = parse_sweep("approach_2", "learning_rate=0.003,0.01 seeds=0,1", "epochs=2 train_examples=1000")
    assert sweeps.finished_runs(sweep) == []
    for config in sweep.runs[:3]:
        fake_training.accuracies = [0.5, 0.9 + config.seed / 20]
        save_run(fake_training(config))
    frame = sweeps.sweep_frame(list(sweep.axes), sweeps.finished_runs(sweep))
    assert list(frame.columns) == ["learning_rate", *COLUMNS]
    assert list(frame["learning_rate"]) == [0.003, 0.003, 0.01]
    assert list(frame["seed"]) == [0, 1, 0]
    assert list(frame["best_test_accuracy"]) == [0.9, 0.95, 0.9]
    assert list(frame["key"]) == [config.key for config in sweep.runs[:3]]
    assert sweeps.frame_axes(frame) == ["learning_rate"]
    assert sweeps.accuracies_by_point(frame) == {("0.003",): [0.9, 0.95], ("0.01",): [0.9]}
    _, _, first, second = sweeps.sweep_table(frame).splitlines()
    assert first == "| 0.003 | 2 | 92.50\u00a0±\u00a03.54\u202f% | 95.00\u202f% | 90.00\u202f% |"
    assert second == "| 0.01 | 1 | 90.00\u202f% | 90.00\u202f% | 90.00\u202f% |"


def test_a_frame_of_several_axes_or_of_none_has_its_points(finished_run: TrainingRun) -> None:
    both = sweeps.sweep_frame(
        ["filters", "batch_size"], [(("4-8-10", 100), finished_run), (("none", 125), finished_run)]
    )
    assert list(sweeps.accuracies_by_point(both)) == [("4-8-10", "100"), ("none", "125")]
    neither = sweeps.sweep_frame([], [((), finished_run), ((), finished_run)])
    assert sweeps.accuracies_by_point(neither) == {(): [0.75, 0.75]}
    assert sweeps.sweep_table(neither).startswith("| seeds |")


class TrainedSweeps:
    """Runs sweeps whose runs come from `FakeTraining`, one after the other in this process.

    Attributes:
        trained: the configurations that were trained.
        lines: what was reported.
        pictures: what the figures were drawn from.
    """

    def __init__(self, fake_training: FakeTraining) -> None:
        self._train = fake_training
        self.trained: list[TrainingConfig] = []
        self.lines: list[str] = []
        self.pictures: list[Any] = []
        self.stop_after = 100

    def compute(self, missing: list[TrainingConfig], *_: Any) -> Any:
        for config in missing:
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            self.trained.append(config)
            yield self._train(config)

    def sweep_points(self, axes: list[str], points: dict[tuple[str, ...], list[float]]) -> SimpleNamespace:
        self.pictures.append((axes, points))
        return SimpleNamespace(to_svg=lambda: b"<svg/>")

    def __call__(self, sweep: Sweep) -> Path:
        return run_sweep(sweep, self.lines.append)


@pytest.fixture
def trained_sweeps(
    fake_training: FakeTraining, runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainedSweeps:
    """`run_sweep` without workers and figures, in folders of its own."""
    fake = TrainedSweeps(fake_training)
    monkeypatch.setenv("SMALLCNN_BUILD", str(tmp_path / "build"))
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.setattr(workers, "compute", fake.compute)
    monkeypatch.setitem(sys.modules, "smallcnn.report.figures", SimpleNamespace(sweep_points=fake.sweep_points))
    monkeypatch.setattr("smallcnn.report.figures", sys.modules["smallcnn.report.figures"], raising=False)
    return fake


FEW = "epochs=2 train_examples=1000 engine=tensorflow"


def test_a_sweep_leaves_a_csv_a_table_and_a_figure_and_trains_only_new_points(
    trained_sweeps: TrainedSweeps, runs_folder: Path, tmp_path: Path
) -> None:
    path = trained_sweeps(parse_sweep("approach_2", "learning_rate=0.003,0.01 seeds=0,1", FEW))
    assert path.parent == tmp_path / "build" / "sweeps"
    assert trained_sweeps.lines[0] == "4 runs at 2 points, 0 of them recorded"
    assert trained_sweeps.lines[1].endswith(" min at most for the rest, on this machine's cores")
    assert {file.suffix for file in path.parent.iterdir()} == {".csv", ".md", ".svg"}
    frame = pd.read_csv(path, dtype={"key": str})
    assert list(frame.columns) == ["learning_rate", *COLUMNS]
    assert list(frame["key"]) == [config.key for config in trained_sweeps.trained]
    assert list(frame["learning_rate"]) == [0.003, 0.003, 0.01, 0.01]
    assert path.with_suffix(".md").read_text() in trained_sweeps.lines
    assert trained_sweeps.pictures == [(["learning_rate"], {("0.003",): [0.75, 0.75], ("0.01",): [0.75, 0.75]})]
    assert len(list(runs_folder.iterdir())) == 4
    trained_sweeps(parse_sweep("approach_2", "learning_rate=0.003,0.01,0.03 seeds=0,1", FEW))
    assert [config.learning_rate for config in trained_sweeps.trained[4:]] == [0.03, 0.03]
    assert "6 runs at 3 points, 4 of them recorded" in trained_sweeps.lines


def test_the_csv_is_as_it_always_was(trained_sweeps: TrainedSweeps) -> None:
    sweep = parse_sweep("approach_2", "filters=4,8,16,16,10/2,4,8,16,10 learning_rate=0.01 seeds=7", FEW)
    first, second = trained_sweeps(sweep).read_text().splitlines()[1:]
    seconds = [records.find_run(config).seconds for config in sweep.runs]
    keys = [config.key for config in sweep.runs]
    assert first == f"4-8-16-16-10,0.01,7,0.75,0.75,2,{round(seconds[0], 1)},{keys[0]}"
    assert second == f"2-4-8-16-10,0.01,7,0.75,0.75,2,{round(seconds[1], 1)},{keys[1]}"


def test_that_runs_are_too_short_is_said_once(trained_sweeps: TrainedSweeps, fake_training: FakeTraining) -> None:
    fake_training.accuracies = [0.75, 0.5]
    grid = "train_examples=1000,2000 seeds=0,1"
    path = trained_sweeps(parse_sweep("approach_2", grid, "epochs=2 batch_size=125 engine=tensorflow"))
    sentence = "**Mind:** 4 of 4 runs are too short; the shortest has only 8 training steps: the moving averages"
    for text in (path.with_suffix(".md").read_text(), "\n".join(trained_sweeps.lines)):
        assert sentence in text
        assert text.count("training steps: the moving averages") == 1
    enough = parse_sweep("approach_2", "seeds=0,1", "epochs=2 train_examples=2000 batch_size=2 engine=tensorflow")
    assert "Mind" not in trained_sweeps(enough).with_suffix(".md").read_text()


def test_an_interrupted_sweep_shows_what_is_finished_and_goes_on(trained_sweeps: TrainedSweeps) -> None:
    sweep = parse_sweep("approach_2", "learning_rate=0.003,0.01 seeds=0,1", FEW)
    trained_sweeps.stop_after = 3
    with pytest.raises(Interrupted, match="trains the 1 of 4 runs that are left"):
        trained_sweeps(sweep)
    assert "| 0.01 | 1 | " in trained_sweeps.lines[-2]
    trained_sweeps.stop_after = 100
    assert len(pd.read_csv(io.StringIO(trained_sweeps(sweep).read_text()))) == 4
    assert len(trained_sweeps.trained) == 4


def test_a_cluster_that_is_no_address_is_refused_before_anything_starts(
    trained_sweeps: TrainedSweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "garbage")
    with pytest.raises(workers.WorkersError, match="expected an address"):
        trained_sweeps(parse_sweep("approach_2", "seeds=0", FEW))
    assert trained_sweeps.lines == []
