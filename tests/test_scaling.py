"""How the pool scales: stand-ins take their time, and what was recorded is consistent."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from smallcnn import measurements, scaling
from smallcnn.commands import CommandError
from smallcnn.paths import ROOT


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
