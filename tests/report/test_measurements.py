"""What was recorded is consistent with the runs, and stand-ins of the scaling take their time."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from smallcnn import measurements, pages, scaling, tables
from smallcnn.chapters import check_parameters, gradual_configs, pruning_configs, run_summary, training_configs
from smallcnn.commands import CommandError
from smallcnn.models import PUBLISHED, count_total, count_trainable
from smallcnn.paths import ROOT
from smallcnn.training import TrainingConfig


@pytest.mark.slow
def test_stand_ins_take_as_long_as_they_sleep_and_leave_no_record(runs_folder: Path) -> None:
    assert 2 <= scaling._seconds(runs=4, workers=2, seconds=1.0) < 5
    assert not runs_folder.exists()


def test_a_record_that_a_page_shows_must_be_there_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = scaling.recorded_run().config.key
    monkeypatch.setattr(measurements, "ROOT", tmp_path)
    with pytest.raises(CommandError, match=f"runs/{key} is missing; a page shows it: git checkout runs brings it back"):
        scaling.recorded_run.__wrapped__()
    shutil.copytree(ROOT / "runs" / key, tmp_path / "runs" / key)
    (tmp_path / "runs" / key / "weights.npz").write_bytes(b"")
    with pytest.raises(CommandError, match=f"{key} is damaged .*; a page shows it: git checkout runs/{key} brings"):
        scaling.recorded_run.__wrapped__()


def test_the_recorded_scaling_is_consistent() -> None:
    recorded = json.loads((measurements.MEASUREMENTS / "scaling.json").read_text(encoding="utf-8"))
    run = scaling.recorded_run()
    assert recorded["run"]["key"] == run.config.key
    assert (recorded["run"]["seconds"], recorded["run"]["epochs"]) == (run.seconds, run.epochs_run)
    for row in recorded["stand_ins"]:
        assert math.isclose(row["runs_per_hour"], 3600 * row["runs"] / row["seconds"])
        assert math.isclose(row["share"], row["runs_per_hour"] * run.seconds / 3600 / row["workers"])
        assert 0.5 < row["share"] <= 1
    assert recorded["stand_ins"][-1]["workers"] == 200


def test_the_recorded_sweep_is_whole() -> None:
    rows = measurements.sweep_parts()["sweep.md"].decode().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["0.001", "0.003", "0.01", "0.03"]
    assert {row.split("|")[2].strip() for row in rows} == {"5"}


def test_the_figure_of_the_readme_is_that_of_the_recorded_runs() -> None:
    def summaries(configs: list[TrainingConfig]) -> list[dict[str, Any]]:
        return [run_summary(measurements.recorded_run(config)) for config in configs]

    def accuracies(configs: list[TrainingConfig]) -> dict[str, Any]:
        runs = [measurements.recorded_run(config) for config in configs]
        kinds = {"best_test_accuracies": "best_test_accuracy", "other_half_accuracies": "other_half_accuracy"}
        return tables.pruning_counts(runs[0]) | {
            name: [run_summary(run)[kind] for run in runs] for name, kind in kinds.items()
        }

    parameters = {chapter: check_parameters(chapter, {}) for chapter in (*pages.APPROACHES, "pruning")}
    results: dict[str, dict[str, Any]] = {
        chapter: {
            "total_parameters": count_total(PUBLISHED[chapter]),
            "trainable_parameters": count_trainable(PUBLISHED[chapter]),
            "runs": summaries(training_configs(parameters[chapter])),
        }
        for chapter in pages.APPROACHES
    }
    by_round = zip(*pruning_configs(parameters["pruning"]), strict=True)
    results["pruning"] = {
        "total_parameters": count_total(PUBLISHED["approach_2"]),
        "rounds": [{"round": number, **accuracies(list(configs))} for number, configs in enumerate(by_round)],
        "gradual": accuracies(gradual_configs(parameters["pruning"])),
    }
    assert pages.summary_figure(results) == (ROOT / "book" / "_static" / "summary.svg").read_bytes()
