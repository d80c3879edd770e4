"""What was recorded is consistent with the runs, pages take their rows from it, and stand-ins sleep as long as told."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import scaling
from smallcnn import paths, study
from smallcnn.commands import CommandError
from smallcnn.config import TrainingConfig, TrainingRun
from smallcnn.report import measurements
from smallcnn.runs.records import is_recorded, load_run, save_run
from tests.conftest import FakeTraining
from tests.networks import PUBLISHED
from tests.report.made_up import PROVENANCE, made_up_run
from tests.report.reading import table_of

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
    differences = parts["sweep_differences.md"].decode().splitlines()[2:]
    assert len(differences) == 3 and len({line.split("|")[1] for line in differences}) == 1
    seconds = round(measurements.read_measurement("scaling.json")["run"]["seconds"])
    told = f"{seconds} seconds, as long as the recorded run of approach 2 with seed 0 took"
    assert told in parts["scaling_machine.md"].decode()
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


# --- What they say: from numbers of which no two are alike ---

WAYS = {
    "article": "the article's way, all cores",
    "tensorflow_one_core": "TensorFlow, one core",
    "torch_one_core": "PyTorch, one core",
    "torch_all_cores": "PyTorch, all cores",
    "halide_one_core": "Halide, one core",
    "halide_all_cores": "Halide, all cores, one run",
    "pool_all_cores": "Halide, all cores, a run on each",
    "ceiling_one_core": "the arithmetic alone, one core",
}
RATIOS = {
    "tensorflow_over_halide_one_core": "Halide against TensorFlow, one core each",
    "torch_over_halide_one_core": "Halide against PyTorch, one core each",
    "halide_one_core_over_all_cores": "Halide on all cores against one, a single run",
    "article_over_halide_all_cores": "Halide on all cores, a single run, against the article's way",
    "article_over_pool": "a Halide run on each core against the article's way",
    "halide_over_ceiling_one_core": "share of the core's highest rate of arithmetic",
}
LABELS = ("approach 2", "my network")


def benchmark() -> dict[str, Any]:
    """What `read_benchmark` gives of two networks."""
    medians = {label: [0.61 + 0.7 * place + 0.2 * number for place in range(8)] for number, label in enumerate(LABELS)}
    return {
        "machine": {
            "date": "2026-03-04T05:06:07+00:00", "processor": "Chip 5", "cores": 3, "system": "Linux x",
            "instructions": "avx2-fma", "halide": "21.1", "tensorflow": "2.19", "torch": "2.7",
        },
        "protocol": {"batch_size": 126, "rounds": 7, "share_of_an_epoch": 0.125},
        "seconds_per_epoch": {
            label: {
                way: {"median": median, "minimum": 0.8 * median, "maximum": 1.3 * median}
                for way, median in zip(WAYS, medians[label], strict=True)
            }
            for label in LABELS
        },
        "operations_per_epoch": {"approach 2": 400_000, "my network": 700_000},
        "ratios": {
            label: {ratio: 1.15 + place + 7 * number for place, ratio in enumerate(RATIOS)}
            for number, label in enumerate(LABELS)
        },
        "halide": {
            label: {
                "set_up_seconds": 31.2 + number, "step_seconds": 0.0043 + number / 100,
                "test_pass_seconds": 0.57 + number, "epoch_over_steps": 1.06 + number,
                "peak_memory_bytes": 612e6 + number * 1e8,
                "stages": {
                    "output": {"seconds": 0.003 + number, "operations": 25.0},
                    "rest": {"seconds": 0.002 + number},
                    "input": {"seconds": 0.001 + number, "operations": 50.0},
                },
            }
            for number, label in enumerate(LABELS)
        },
    }  # fmt: skip


def row_of(headings: Iterable[str], *values: str) -> dict[str, str]:
    return dict(zip(headings, values, strict=True))


def cells(values: Iterable[str]) -> dict[str, str]:
    return row_of(LABELS, *values)


def test_ways_have_their_seconds() -> None:
    measured = benchmark()
    rows = table_of(measurements.ways_table(measured))
    assert list(rows) == list(WAYS.values())
    for way, name in WAYS.items():
        for label, cell in rows[name].items():
            median = measured["seconds_per_epoch"][label][way]["median"]
            shown = [f"{factor * median:.{2 if median < 3 else 1}f}" for factor in (1, 0.8, 1.3)]
            assert cell == "{} ({}–{})".format(*shown)
    assert rows["TensorFlow, one core"] == cells(["1.31 (1.05–1.70)", "1.51 (1.21–1.96)"])
    assert measurements._range({"median": 3.0, "minimum": 2.99, "maximum": 3.01}) == "3.0 (3.0–3.0)"
    assert measurements._range({"median": 2.99, "minimum": 2.0, "maximum": 13.01}) == "2.99 (2.00–13.01)"


def test_ratios_stand_in_the_row_that_says_of_what() -> None:
    rows = table_of(measurements.ratios_table(benchmark()))
    assert rows == {
        name: cells(f"{first:.1f}×" for first in (1.15 + place, 8.15 + place))
        for place, name in enumerate(list(RATIOS.values())[:5])
    } | {RATIOS["halide_over_ceiling_one_core"]: cells(["16 %", "8 %"])}  # 1 / 6.15 and 1 / 13.15


def test_the_fast_engine_has_its_times_and_its_memory() -> None:
    assert table_of(measurements.halide_table(benchmark())) == {
        "set-up: compiling the stages, seconds": cells(["31.2", "32.2"]),
        "one step, milliseconds": cells(["4.3", "14.3"]),
        "test pass, seconds": cells(["0.57", "1.57"]),
        "an epoch against its steps and test pass": cells(["1.06", "2.06"]),
        "peak memory of the process, MB": cells(["612", "712"]),
    }
    assert measurements.halide_table(benchmark()).startswith("| one core |")


def test_a_pool_has_the_rates_of_its_workers() -> None:
    text = measurements.pool_table(benchmark())
    assert text.startswith("| runs of 40 epochs an hour |")
    one, pool = (3.41, 3.61), (4.81, 5.01)  # seconds an epoch
    assert list(table_of(text))[:2] == ["1 worker", "3 workers"]
    assert table_of(text) == {
        "1 worker": cells(f"{3600 / 40 / seconds:.0f}" for seconds in one),
        "3 workers": cells(f"{3600 / 40 / seconds:.0f}" for seconds in pool),
        "share of the sum of the cores": cells(
            f"{100 * alone / together / 3:.0f} %" for alone, together in zip(one, pool, strict=True)
        ),
    }


def test_machines_stand_beside_their_ratios() -> None:
    other = benchmark()
    other["machine"] |= {"processor": "Chip 6", "instructions": "x86-avx512"}
    other["ratios"] = {"approach 9": {"article_over_pool": 33.3}}
    text = measurements.machines_table([benchmark(), other])
    headings = ("TensorFlow", "PyTorch", "a second core", "the article's way")
    assert text.startswith("| machine | network | TensorFlow | PyTorch |")
    assert table_of(text, labels=2) == {
        "Chip 5, AVX2, approach 2": row_of(headings, "1.1×", "2.1×", "3.1×", "5.2×"),
        "Chip 5, AVX2, my network": row_of(headings, "8.2×", "9.2×", "10.2×", "12.2×"),
        "Chip 6, AVX-512, approach 9": row_of(headings, "–", "–", "–", "33.3×"),
    }
    assert text.splitlines()[1] == "| :-- | :-- | --: | --: | --: | --: |"


def test_the_machine_and_the_protocol_are_named() -> None:
    measured = benchmark()
    before = (
        "Measured on 2026-03-04: Chip 5, 3 cores, Linux x, `avx2-fma`; Halide 21.1, TensorFlow 2.19, PyTorch 2.7; "
        "batches of 126. All ways took turns over 7 rounds, each with 12 % of an epoch and of its test pass at a time, "
        "the article's way with all of it.\n"
    )
    assert measurements.machine_sentence(measured) == before
    del measured["machine"]["torch"]
    assert measurements.machine_sentence(measured) == before.replace(", PyTorch 2.7", "")


def test_stages_have_their_milliseconds_and_those_of_their_arithmetic() -> None:
    measured, arithmetic = measurements.stages(benchmark(), "my network")
    assert measured == pytest.approx({"output": 1003, "rest": 1002, "input": 1001})
    assert list(measured) == ["output", "rest", "input"]
    operation = 1000 * (0.61 + 0.7 * 7 + 0.2) / 700_000  # milliseconds
    assert arithmetic == pytest.approx({"output": 25 * operation, "input": 50 * operation})


@pytest.mark.parametrize(("mean", "told_apart"), [(12.707, "yes"), (12.705, "no"), (-12.707, "yes"), (-12.705, "no")])
def test_engines_are_told_apart_by_the_interval_of_their_difference(mean: float, told_apart: str) -> None:
    halide = [0.98 + (mean + spread) * 1e-4 for spread in (-1, 1)]
    rows = table_of(measurements.engines_table({"a": {"halide": halide, "tensorflow": [0.98, 0.98]}}))
    assert rows["a"]["told apart"] == told_apart


def test_engines_have_their_accuracies_and_the_differences_of_their_runs() -> None:
    pairs = {
        "one": {"tensorflow": [0.97], "halide": [0.98]},
        "same": {"halide": [0.9, 0.8, 0.7], "tensorflow": [0.9, 0.8, 0.7]},
        "two": {"halide": [0.98, 0.99], "tensorflow": [0.99, 0.975]},
    }
    headings = ("seeds", "Halide", "TensorFlow", "difference in points, 95 % interval", "told apart")
    assert table_of(measurements.engines_table(pairs)) == {
        "one": row_of(headings, "1", "98.00 %", "97.00 %", "+1.00", "too few seeds"),
        "same": row_of(headings, "3", "80.00 ± 10.00 %", "80.00 ± 10.00 %", "+0.00 ± 0.00", "no"),
        "two": row_of(headings, "2", "98.50 ± 0.71 %", "98.25 ± 1.06 %", "+0.25 ± 15.88", "no"),
    }


def test_many_runs_are_summed_up_by_what_made_them() -> None:
    def made(day: int, **changes: Any) -> TrainingRun:
        return made_up_run([0.5], provenance=PROVENANCE | {"date": f"2026-01-0{day}T03:04:05+00:00"}, **changes)

    runs = [made(3), made(2, engine="tensorflow"), made(2), made(4)]
    headings = ("machine", "runs", "trained on")
    assert table_of(measurements.provenance_summary(runs)) == {
        "halide": row_of(headings, "Processor 9, Linux x86_64", "3", "2026-01-02 to 2026-01-04"),
        "tensorflow": row_of(headings, "Processor 9, Linux x86_64", "1", "2026-01-02"),
    }


SCALING = {
    "machine": {"date": "2026-05-06T07:08:09", "processor": "Chip 7", "system": "Linux z", "cores": 9},
    "run": {"seconds": 77.6, "epochs": 39, "record_bytes": 123_456, "label": "approach 8", "seed": 6},
    "instant": {"runs": 4000, "workers": 12, "runs_per_second": 287.4, "memory_bytes": 345_678},
    "stand_ins": [
        {"workers": 1, "runs": 20, "seconds": 1555.55, "runs_per_hour": 46.28, "share": 0.9978},
        {"workers": 1150, "runs": 2200, "seconds": 166.66, "runs_per_hour": 47_521.0, "share": 0.9123},
    ],
}


class Drawn:
    """Stands in for `figures`, and keeps what each function was to draw."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[Any, ...]] = {}

    def __getattr__(self, name: str) -> Callable[..., SimpleNamespace]:
        def draw(*arguments: Any) -> SimpleNamespace:
            self.asked[name] = arguments
            return SimpleNamespace(to_svg=lambda: f"<{name}>".encode())

        return draw


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    stand_in = Drawn()
    monkeypatch.setitem(sys.modules, "smallcnn.report.figures", stand_in)
    monkeypatch.setattr("smallcnn.report.figures", stand_in, raising=False)
    return stand_in


def test_scaling_has_its_rates_its_machine_and_its_limits(drawn: Drawn) -> None:
    parts = measurements.scaling_parts(SCALING, benchmark())
    headings = ("runs", "seconds", "runs an hour", "share of the ideal")
    assert table_of(str(parts["scaling.md"])) == {
        "1": row_of(headings, "20", "1555.5", "46", "99.8 %"),
        "1,150": row_of(headings, "2200", "166.7", "47,521", "91.2 %"),
    }
    assert str(parts["scaling.md"]).splitlines()[1] == "| --: | --: | --: | --: | --: |"
    assert parts["scaling_machine.md"] == (
        "Measured on 2026-05-06: Chip 7, Linux z. Every stand-in sleeps 78 seconds, as long as the recorded run of "
        "approach 8 with seed 6 took, and reports 39 epochs.\n"
    )
    assert parts["scheduler.md"] == (
        "Runs that take no time at all, 4,000 of them on 12 workers, pass at 287 a second, their records written. With "
        "runs of 78 seconds the scheduler, or the command that writes the records, is the limit at 22,000 workers at "
        "the latest; the progress of their epochs, which these runs do not report, and memory for their connections "
        "may be one long before.\n"
    )
    assert table_of(str(parts["many_runs.md"])) == {
        "1 worker": {"need": "9.0 days"},
        "1,150 workers": {"need": "0.2 hours"},
        "disk for the records": {"need": "1.2 GB"},
        "memory of the command": {"need": "3.5 GB"},
    }
    assert str(parts["many_runs.md"]).startswith("| 10,000 runs like this one | need |\n| :-- | --: |")
    assert parts["scaling.svg"] == b"<runs_an_hour>"
    stand_ins, real, ideal, limit, label = drawn.asked["runs_an_hour"]
    assert (stand_ins, label) == ({1: 46.28, 1150: 47_521.0}, "approach 2")
    assert real == pytest.approx({1: 3600 / (40 * 3.41), 3: 3600 / (40 * 4.81)})
    assert (ideal, limit) == pytest.approx((3600 / 77.6, 3600 * 287.4))
    unnamed = SCALING | {"run": {"seconds": 77.4, "epochs": 39, "record_bytes": 1}}
    assert "sleeps 77 seconds, as long as the recorded run of approach 2 with seed 0 took" in str(
        measurements.scaling_parts(unnamed, benchmark())["scaling_machine.md"]
    )


@pytest.mark.parametrize(("rate", "need"), [(10_000 / 48, "2.0 days"), (10_000 / 47.96, "48.0 hours")])
def test_two_days_are_no_longer_hours(rate: float, need: str) -> None:
    rows = [{"workers": 1, "runs_per_hour": rate}]
    assert table_of(measurements.many_runs_table(SCALING | {"stand_ins": rows}))["1 worker"] == {"need": need}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, TrainingRun]:
    """Runs of a sweep and of both engines in the place of recorded ones; the middle point of the sweep is the best."""
    bests = {"a": (0.97, 0.975), "b": (0.98, 0.982), "c": (0.96, 0.966)}
    runs = {
        f"{point}{seed}": made_up_run(
            [0.5, best, 0.6], seed, images=1000, epochs=9 + seed, engine="tensorflow" if point == "c" else "halide"
        )
        for point, both in bests.items()
        for seed, best in enumerate(both)
    }
    points = [{"values": [rate, size], "runs": [f"{name}0", f"{name}1"]} for name, rate, size in SWEPT]
    engines = {"approach 2": {"halide": ["b0", "b1"], "tensorflow": ["c0", "c1"]}}
    measured = {
        "sweep.json": {"axes": ["learning_rate", "batch_size"], "points": points},
        "engines.json": {"runs": engines},
        "scaling.json": SCALING,
        "faults.json": {"outcomes": {"a fault": "found"}},
    }
    monkeypatch.setattr(measurements, "read_measurement", measured.__getitem__)
    monkeypatch.setattr(measurements, "recorded_run", runs.__getitem__)
    return runs


SWEPT = (("a", 0.001, 100), ("b", 0.003, 125), ("c", 0.01, 200))


def test_the_recorded_sweep_has_its_points_and_their_differences_from_the_best(
    recorded: dict[str, TrainingRun], drawn: Drawn
) -> None:
    parts = measurements.sweep_parts()
    headings = ("seeds", "best test accuracy", "highest seed", "lowest seed")
    table, _, caution = str(parts["sweep.md"]).partition("\n\n")
    assert table_of(table, labels=2) == {
        "0.001, 100": row_of(headings, "2", "97.25 ± 0.35 %", "97.50 %", "97.00 %"),
        "0.003, 125": row_of(headings, "2", "98.10 ± 0.14 %", "98.20 %", "98.00 %"),
        "0.01, 200": row_of(headings, "2", "96.30 ± 0.42 %", "96.60 %", "96.00 %"),
    }
    assert table.startswith("| learning_rate | batch_size |")
    assert caution == ""
    headings = ("seeds", "points, 95 % interval", "accuracy is")
    best = "learning rate batch size 0.003 125"
    assert table_of(str(parts["sweep_differences.md"]), labels=2) == {
        f"{best}, learning rate batch size 0.001 100": row_of(headings, "2", "+0.85 ± 1.91", "undecided"),
        f"{best}, learning rate batch size 0.01 200": row_of(headings, "2", "+1.80 ± 2.54", "undecided"),
    }
    assert parts["sweep_provenance.md"] == measurements.provenance_summary(recorded.values())
    assert parts["sweep.svg"] == b"<sweep_points>"
    accuracies = {("0.001", "100"): [0.97, 0.975], ("0.003", "125"): [0.98, 0.982], ("0.01", "200"): [0.96, 0.966]}
    assert drawn.asked["sweep_points"] == (["learning_rate", "batch_size"], accuracies)


def test_each_part_has_what_its_name_says(
    recorded: dict[str, TrainingRun], drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = {name: benchmark() for name in ("benchmark_epyc_avx2.json", "benchmark_xeon_avx512.json")}
    for place, (name, content) in enumerate(older.items()):
        content["machine"] |= {"processor": f"Old {place}", "instructions": name}
    pairs = {"approach 2": {"halide": [0.98, 0.982], "tensorflow": [0.96, 0.966]}}
    monkeypatch.setattr(measurements, "read_benchmark", ({"benchmark.json": benchmark()} | older).__getitem__)
    monkeypatch.setattr(measurements, "sweep_parts", lambda: {"sweep.md": "of a sweep"})
    parts = measurements.measured_parts()
    for name, expected in {
        "engines.md": measurements.engines_table(pairs),
        "machine.md": measurements.machine_sentence(benchmark()),
        "ways.md": measurements.ways_table(benchmark()),
        "ratios.md": measurements.ratios_table(benchmark()),
        "halide.md": measurements.halide_table(benchmark()),
        "pool.md": measurements.pool_table(benchmark()),
        "earlier_machines.md": measurements.machines_table(older.values()),
        "scaling.md": measurements.scaling_parts(SCALING, benchmark())["scaling.md"],
        "sweep.md": "of a sweep",
        "faults.md": "| fault | what happened |\n| :-- | :-- |\n| a fault | found |\n",
    }.items():
        assert parts[name].decode() == expected, name
    assert table_of(parts["engines_provenance.md"].decode()).keys() == {"halide", "tensorflow"}
    assert all(row["runs"] == "2" for row in table_of(parts["engines_provenance.md"].decode()).values())
    drawings = {
        "engines.svg": ("paired_accuracies", (pairs,)),
        "ways.svg": ("seconds_of_ways", (benchmark()["seconds_per_epoch"], WAYS)),
        "stages.svg": ("seconds_of_stages", measurements.stages(benchmark(), "approach 2")),
        "lanes.svg": ("lanes", ()),
    }
    for name, (function, arguments) in drawings.items():
        assert (parts[name].decode(), drawn.asked[function]) == (f"<{function}>", arguments)


def test_what_is_to_be_recorded_is_named_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    said: list[str] = []
    monkeypatch.setattr(measurements, "record_engines", lambda chapters: asked.append(chapters) or "engines.json")
    monkeypatch.setattr(measurements, "record_sweep", lambda: "sweep.json")
    monkeypatch.setattr(measurements, "say", said.append)
    for arguments in (["record-engines", "approach_1", "mine"], ["record-engines"], ["record-sweep"]):
        monkeypatch.setattr(sys, "argv", ["measurements", *arguments])
        measurements.main()
    assert (asked, said) == ([["approach_1", "mine"], []], ["engines.json", "engines.json", "sweep.json"])
    monkeypatch.setattr(sys, "argv", ["measurements", "record"])
    with pytest.raises(
        CommandError, match="^expected record-engines, with the names of chapters if not of all, or rec"
    ):
        measurements.main()


# --- Scaling ---


@pytest.mark.slow
def test_stand_ins_take_as_long_as_they_sleep_and_leave_no_record(runs_folder: Path) -> None:
    assert scaling._seconds(runs=4, number=2, seconds=1.0) >= 2
    assert not runs_folder.exists()


def test_stand_ins_take_after_the_first_recorded_run_of_approach_2() -> None:
    run = scaling.recorded_run()
    config = run.config
    assert (config.architecture, config.seed, config.engine) == (PUBLISHED["approach_2"], 0, "halide")
    lines: list[str] = []
    asked = dataclasses.replace(config, seed=7)
    assert scaling.stand_in(0.001, asked, None, lines.append).config == asked
    assert (len(lines), lines[0].epochs) == (run.epochs_run, run.epochs_run)


def test_the_recorded_scaling_is_consistent() -> None:
    recorded = measurements.read_measurement("scaling.json")
    run = scaling.recorded_run()
    assert (recorded["run"]["seconds"], recorded["run"]["epochs"]) == (run.seconds, run.epochs_run)
    for row in recorded["stand_ins"]:
        assert math.isclose(row["runs_per_hour"], 3600 * row["runs"] / row["seconds"])
        assert math.isclose(row["share"], row["runs_per_hour"] * run.seconds / 3600 / row["workers"])
        assert 0.5 < row["share"] <= 1
    assert recorded["stand_ins"][-1]["workers"] == 200
