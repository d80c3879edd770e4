"""A reader's own runs: listed, removed and published, in folders of the test's own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from smallcnn import paths
from smallcnn.commands import CommandError
from smallcnn.config import TrainingRun
from smallcnn.report import own_runs
from smallcnn.runs.records import load_run, save_run
from smallcnn.study import CHAPTERS
from tests.report.made_up import made_up_run


class Project:
    """Folders of own and of published runs, of measurements and of a build."""

    def __init__(self, folder: Path) -> None:
        self.own, self.published = folder / "data" / "runs", folder / "runs"
        self.measurements, self.build = folder / "measurements", folder / "build"
        self.published.mkdir(parents=True)
        self.measurements.mkdir()
        for chapter in CHAPTERS:
            self.build_chapter(chapter)

    def record(self, run: TrainingRun, *, seconds: float = 0.0) -> str:
        """Records one of the reader's own runs, so many seconds after the epoch of the clock; gives its key."""
        os.utime(save_run(run), (seconds, seconds))
        return run.config.key

    def publish(self, key: str) -> None:
        """Copies a run of the reader to the published ones."""
        shutil.copytree(self.own / key, self.published / key)

    def build_chapter(self, chapter: str, *keys: str, changed: object = None) -> None:
        """Writes results of a chapter that name these runs."""
        path = self.build / "results" / f"{chapter}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"changed_parameters": changed or {}, "runs": [{"key": key, "seed": 1} for key in keys]}
        path.write_text(json.dumps(content), encoding="utf-8")

    def kept(self) -> tuple[set[str], set[str]]:
        """The names in the folders of own and of published runs."""
        own, published = (
            {path.name for path in folder.iterdir()} if folder.exists() else set()
            for folder in (self.own, self.published)
        )
        return own, published


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "a path")
    monkeypatch.setattr(paths, "OWN_RUNS", project.own)
    monkeypatch.setattr(paths, "PUBLISHED_RUNS", project.published)
    monkeypatch.setattr(paths, "MEASUREMENTS", project.measurements)
    monkeypatch.setenv("SMALLCNN_BUILD", str(project.build))
    monkeypatch.delenv("SMALLCNN_RUNS", raising=False)
    return project


# Listing


@pytest.mark.usefixtures("project")
def test_no_runs_are_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    own_runs.show()
    assert capsys.readouterr().out == "no runs of your own in data/runs\n"


def test_a_run_is_a_line_the_newest_last(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    newer = project.record(made_up_run([0.5, 0.9], 3, epochs=7, learning_rate=0.003, train_examples=12_000), seconds=2)
    older = project.record(made_up_run([0.1234], 4, engine="tensorflow"), seconds=1)
    own_runs.show()
    first, second, last = capsys.readouterr().out.splitlines()
    assert (
        first.split()
        == (
            f"{older} 2026-01-02 12.34\u202f% tensorflow 1 of 40 epochs, 60,000 images, learning rate 0.01, "
            "4-8-16-16-10, dropout 10 %, seed 4"
        ).split()
    )
    assert (
        second.split()
        == (
            f"{newer} 2026-01-02 90.00\u202f% halide 2 of 7 epochs, 12,000 images, learning rate 0.003, "
            "4-8-16-16-10, dropout 10 %, seed 3"
        ).split()
    )
    size = sum(file.stat().st_size for key in (older, newer) for file in (project.own / key).iterdir())
    assert last == f"2 runs of your own in data/runs, {size / 1e6:.1f} MB"


def test_runs_that_the_other_columns_do_not_tell_apart_are_told_apart(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for batch_size in (100, 125):
        project.record(made_up_run([0.9], 3, batch_size=batch_size))
    own_runs.show()
    *lines, _ = capsys.readouterr().out.splitlines()
    endings = [line.partition("learning rate 0.01, ")[2] for line in lines]
    assert sorted(endings) == [f"4-8-16-16-10, dropout 10 %, batch_size={size}, seed 3" for size in (100, 125)]


def test_a_damaged_run_is_listed_as_such(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    key = project.record(made_up_run([0.9]))
    (project.own / key / "weights.npz").write_bytes(b"")
    (project.own / ".unfinished.part").mkdir()
    own_runs.show()
    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{key}  the recorded run {key} is damaged (")
    assert last.startswith("1 runs of your own")


# Removing


def test_chosen_runs_are_removed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [project.record(made_up_run([0.9], seed)) for seed in range(4)]
    own_runs.remove([keys[2], keys[0], keys[2]])
    assert project.kept()[0] == {keys[1], keys[3]}
    assert capsys.readouterr().out == "2 runs removed\n"


@pytest.mark.parametrize("wrong", ["0123456789abcdef", "", ".", "..", "../runs", "all", "x" * 1000])
def test_nothing_is_removed_if_one_key_is_wrong(project: Project, wrong: str) -> None:
    key = project.record(made_up_run([0.9]))
    before = project.kept()
    with pytest.raises(CommandError, match="data/runs has no run .*; `python -m smallcnn runs` lists") as raised:
        own_runs.remove([key, wrong])
    assert len(str(raised.value)) < 200
    assert project.kept() == before


def test_all_removes_what_was_interrupted_too(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    own_runs.remove(["all"])
    for seed in range(3):
        project.record(made_up_run([0.9], seed))
    (project.own / ".key.checkpoint.npz").touch()
    own_runs.remove(["all"])
    assert not project.own.exists()
    assert project.published.exists()
    assert capsys.readouterr().out == "0 runs removed\n3 runs removed\n"


# Publishing


def test_runs_that_the_book_uses_are_published(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    used, measured, unused = (project.record(made_up_run([0.9], seed)) for seed in range(3))
    project.build_chapter("approach_2", used)
    (project.measurements / "sweep.json").write_text(json.dumps({"runs": [measured]}), encoding="utf-8")
    own_runs.publish()
    assert project.kept() == ({unused}, {used, measured})
    assert load_run(project.published / used).config.seed == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"{key} is in runs/ now" for key in (used, measured))
    assert last == "2 runs published"


def test_published_runs_that_no_page_uses_are_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, used = (project.record(made_up_run([0.9], seed)) for seed in range(3))
    for key in (one, other, used):
        project.publish(key)
        shutil.rmtree(project.own / key)
    (project.published / ".part").mkdir()
    (project.published / "README.md").touch()
    project.build_chapter("pruning", used)
    own_runs.publish()
    assert capsys.readouterr().out.splitlines() == [
        "0 runs published",
        f"no page uses these of runs/ any more; git rm -r removes them: {' '.join(sorted((one, other)))}",
    ]
    assert project.kept()[1] >= {one, other, used}


def test_a_run_that_somebody_published_already_stays_as_it_is(project: Project) -> None:
    key = project.record(made_up_run([0.9]))
    project.publish(key)
    project.build_chapter("approach_1", key)
    own_runs.publish()
    assert project.kept() == ({key}, {key})
    assert {path.name for path in (project.published / key).iterdir()} == {"run.json", "weights.npz"}


def test_only_a_book_with_published_values_says_what_is_used(project: Project) -> None:
    key = project.record(made_up_run([0.9]))
    project.build_chapter("approach_3", key, changed={"epochs": 3})
    message = "approach_3 is not built with its published values; run 'make book' first"
    with pytest.raises(CommandError, match=message):
        own_runs.publish()
    (project.build / "results" / "approach_3.json").unlink()
    with pytest.raises(CommandError, match=message):
        own_runs.published_keys()
    assert project.kept() == ({key}, set())
