"""What was recorded is consistent with the runs, pages take their rows from it, and stand-ins sleep as long as told."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import scaling
from smallcnn import paths, study
from smallcnn.commands import CommandError
from smallcnn.config import TrainingConfig, TrainingRun
from smallcnn.report import measurements
from smallcnn.runs.records import is_recorded, load_run, save_run
from tests.conftest import FakeTraining
from tests.networks import PUBLISHED

ENGINES = ("halide", "tensorflow")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of `runs`, and one in the place of `measurements`."""
    monkeypatch.setattr(paths, "PUBLISHED_RUNS", tmp_path / "runs")
    monkeypatch.setattr(paths, "MEASUREMENTS", tmp_path / "measurements")
    return tmp_path / "runs"


@pytest.fixture
def in_published(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs are recorded in the place of `runs`."""
    monkeypatch.setenv("SMALLCNN_RUNS", str(published))
    yield


# --- Recorded runs that pages show ---


def test_a_run_that_a_page_shows_must_be_there_and_whole(
    published: Path, in_published: None, finished_run: TrainingRun
) -> None:
    key = finished_run.config.key
    with pytest.raises(CommandError) as raised:
        measurements.recorded_run(key)
    assert str(raised.value) == f"runs/{key} is missing; a page shows it: git checkout runs brings it back"
    save_run(finished_run)
    assert measurements.recorded_run(key).config == finished_run.config
    (published / key / "weights.npz").write_bytes(b"")
    with pytest.raises(
        CommandError, match=f"{key} is damaged .*; a page shows it: git checkout runs/{key} brings"
    ) as raised:
        measurements.recorded_run(key)
    assert "\n" not in str(raised.value)


def test_a_page_shows_published_runs_wherever_a_build_keeps_its_own(
    published: Path, finished_run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMALLCNN_RUNS", str(tmp_path / "of a preview"))
    folder = save_run(finished_run)
    with pytest.raises(CommandError, match="missing"):
        measurements.recorded_run(folder.name)
    shutil.move(folder, published / folder.name)
    assert measurements.recorded_run(folder.name).config == finished_run.config


def test_the_engines_can_be_recorded_anew(
    published: Path, fake_training: FakeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stand_in_for_training(fake_training, monkeypatch)
    lines: list[str] = []
    path = measurements.record_engines(["approach_1", "approach_3"], lines.append)
    assert lines[0] == "12 runs, 0 of them in runs/"
    assert {path.name for path in published.iterdir()} == {config.key for config in asked}
    record = json.loads(path.read_text())
    assert (record["seeds"], list(record["runs"])) == ([0, 1, 2], ["approach 1", "approach 3"])
    runs = measurements.runs_of_both_engines()
    for label, chapter in (("approach 1", "approach_1"), ("approach 3", "approach_3")):
        for engine in ENGINES:
            configs = [run.config for run in runs[label][engine]]
            assert {config.architecture for config in configs} == {PUBLISHED[chapter]}
            assert [(config.engine, config.seed, config.epochs) for config in configs] == [
                (engine, seed, 40) for seed in (0, 1, 2)
            ]
    measurements.record_engines(["approach_1"], lines.append)
    assert (lines[-1], len(asked)) == ("6 runs, 6 of them in runs/", 12)
    with pytest.raises(CommandError, match="data types no network that can be compared"):
        measurements.record_engines(["data"], lines.append)


def test_the_sweep_can_be_recorded_anew(
    published: Path, fake_training: FakeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stand_in_for_training(fake_training, monkeypatch)
    path = measurements.record_sweep("approach_3", "batch_size=100,125 seeds=0,1", "epochs=3", lambda line: None)
    assert json.loads(path.read_text()) == {
        "chapter": "approach_3",
        "changes": {"epochs": 3},
        "axes": ["batch_size"],
        "points": [
            {"values": [100], "runs": [config.key for config in asked[:2]]},
            {"values": [125], "runs": [config.key for config in asked[2:]]},
        ],
    }
    assert {config.batch_size for config in asked[:2]} == {100}


def stand_in_for_training(fake_training: FakeTraining, monkeypatch: pytest.MonkeyPatch) -> list[TrainingConfig]:
    """Runs come from `FakeTraining`, and networks without Keras; returns what is trained, as it goes."""
    asked: list[TrainingConfig] = []

    def get_runs(configs: list[TrainingConfig], report: Callable[[str], None]) -> list[TrainingRun]:
        for config in configs:
            if not is_recorded(config):
                asked.append(config)
                small = fake_training(dataclasses.replace(config, train_examples=1000, epochs=2))
                save_run(dataclasses.replace(small, config=config))
        return [load_run(paths.runs_folder() / config.key) for config in configs]

    monkeypatch.setattr("smallcnn.runs.records.get_runs", get_runs)
    monkeypatch.setattr("smallcnn.report.notebook.read_network", lambda chapter, values: PUBLISHED.get(chapter))
    return asked


def test_both_engines_were_recorded_with_the_same_seeds() -> None:
    recorded = measurements.read_measurement("engines.json")
    runs = measurements.runs_of_both_engines()
    assert list(runs) == ["approach 1", "approach 2", "approach 3"]
    assert recorded["seeds"] == [0, 1, 2]
    for label, by_engine in runs.items():
        assert tuple(by_engine) == ENGINES
        for engine, trained in by_engine.items():
            assert [(run.config.engine, run.config.seed) for run in trained] == [(engine, seed) for seed in (0, 1, 2)]
        configs = [run.config for trained in by_engine.values() for run in trained]
        assert len({dataclasses.replace(config, engine="halide", seed=0) for config in configs}) == 1
        assert {config.architecture for config in configs} == {PUBLISHED[label.replace(" ", "_")]}
        assert {(config.epochs, config.train_examples) for config in configs} == {(40, 60_000)}


def test_the_recorded_sweep_is_whole() -> None:
    recorded = measurements.read_measurement("sweep.json")
    for point in recorded["points"]:
        configs = [measurements.recorded_run(key).config for key in point["runs"]]
        assert [(config.seed, config.epochs, config.engine) for config in configs] == [
            (seed, 10, "halide") for seed in range(5)
        ]
        assert [[config.learning_rate] for config in configs] == 5 * [point["values"]]
        assert {config.architecture for config in configs} == {PUBLISHED[recorded["chapter"]]}
    assert (recorded["axes"], [point["values"] for point in recorded["points"]]) == (
        ["learning_rate"],
        [[0.001], [0.003], [0.01], [0.03]],
    )


# --- What pages are made of ---


@pytest.fixture
def without_chapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other chapters than those of which measurements were recorded."""
    pytest.importorskip("matplotlib")
    from smallcnn.report import figures  # noqa: F401 - which names an approach where it is imported

    monkeypatch.setattr(study, "APPROACHES", ())
    monkeypatch.setattr(study, "CHAPTERS", {})
    monkeypatch.setattr(measurements, "APPROACHES", ())


def test_pages_show_what_was_recorded_whatever_chapters_there_are(
    without_chapters: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smallcnn.report import notebook

    monkeypatch.setattr(notebook, "tagged_source", None)  # no notebook is read
    parts = measurements.measured_parts()
    head = "| {} | approach 1 | approach 2 | approach 3 |"
    assert parts["ways.md"].decode().startswith(head.format("seconds an epoch"))
    assert parts["ratios.md"].decode().startswith(head.format("times faster"))
    assert parts["halide.md"].decode().startswith(head.format("one core"))
    assert parts["pool.md"].decode().startswith(head.format("runs of 40 epochs an hour"))
    assert [row.split("|")[1].strip() for row in parts["engines.md"].decode().splitlines()[2:]] == [
        "approach 1",
        "approach 2",
        "approach 3",
    ]
    rows = [row.split("|")[1:3] for row in parts["sweep.md"].decode().splitlines()[2:]]
    assert [(rate.strip(), seeds.strip()) for rate, seeds in rows] == [
        (rate, "5") for rate in ("0.001", "0.003", "0.01", "0.03")
    ]
    assert parts["sweep_differences.md"].decode().count("| learning rate 0.01 | learning rate 0.0") == 3
    assert (
        "78 seconds, as long as the recorded run of approach 2 with seed 0 took" in parts["scaling_machine.md"].decode()
    )
    assert all(content.rstrip() for content in parts.values())


def test_a_benchmark_may_have_other_networks_and_ways_that_one_of_them_lacks(published: Path) -> None:
    seconds = {"median": 2.0, "minimum": 1.0, "maximum": 4.0}
    paths.MEASUREMENTS.mkdir()
    content = {
        "labels": {"mine": "my network"},
        "seconds_per_epoch": {
            "approach_1": {"article": seconds, "halide_one_core": seconds},
            "mine": {"article": seconds},
        },
        "operations_per_epoch": {"approach_1": 1, "mine": 2},
        "ratios": {"approach_1": {"torch_over_halide_one_core": 3.0}, "mine": {}},
        "halide": {},
    }
    (paths.MEASUREMENTS / "benchmark.json").write_text(json.dumps(content))
    benchmark = measurements.read_benchmark("benchmark.json")
    assert measurements.ways_table(benchmark).splitlines() == [
        "| seconds an epoch | approach 1 | my network |",
        "| :-- | --: | --: |",
        "| the article's way, all cores | 2.00 (1.00–4.00) | 2.00 (1.00–4.00) |",
        "| Halide, one core | 2.00 (1.00–4.00) | – |",
    ]
    assert measurements.ratios_table(benchmark).splitlines()[2:] == [
        "| Halide against PyTorch, one core each | 3.0× | – |",
    ]
    assert measurements.halide_table(benchmark).splitlines()[0] == "| one core |"


def test_engines_are_told_apart_by_the_interval_of_their_difference() -> None:
    pairs = {
        "apart": {"halide": [0.98, 0.99], "tensorflow": [0.97, 0.98]},
        "not apart": {"halide": [0.98, 0.99], "tensorflow": [0.99, 0.98]},
        "one": {"halide": [0.98], "tensorflow": [0.97]},
    }
    rows = measurements.engines_table(pairs).splitlines()[2:]
    assert [row.split("|")[-2].strip() for row in rows] == ["yes", "no", "too few seeds"]


# --- Scaling ---


@pytest.mark.slow
def test_stand_ins_take_as_long_as_they_sleep_and_leave_no_record(runs_folder: Path) -> None:
    assert scaling._seconds(runs=4, number=2, seconds=1.0) >= 2
    assert not runs_folder.exists()


def test_stand_ins_take_after_the_first_recorded_run_of_approach_2() -> None:
    config = scaling.recorded_run().config
    assert (config.architecture, config.seed, config.engine) == (PUBLISHED["approach_2"], 0, "halide")
    lines: list[str] = []
    asked = dataclasses.replace(config, seed=7)
    assert scaling.stand_in(0.001, asked, None, lines.append).config == asked
    assert (len(lines), lines[0].epochs) == (40, 40)


def test_the_recorded_scaling_is_consistent() -> None:
    recorded = measurements.read_measurement("scaling.json")
    run = scaling.recorded_run()
    assert (recorded["run"]["seconds"], recorded["run"]["epochs"]) == (run.seconds, run.epochs_run)
    for row in recorded["stand_ins"]:
        assert math.isclose(row["runs_per_hour"], 3600 * row["runs"] / row["seconds"])
        assert math.isclose(row["share"], row["runs_per_hour"] * run.seconds / 3600 / row["workers"])
        assert 0.5 < row["share"] <= 1
    assert recorded["stand_ins"][-1]["workers"] == 200
