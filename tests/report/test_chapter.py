"""A chapter while its notebook runs: what was changed, and the results that other pages read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from IPython.display import Markdown

from smallcnn import chapters
from smallcnn.chapters import (
    CHAPTERS,
    Chapter,
    chapter_configs,
    check_parameters,
    gradual_configs,
    pruning_configs,
    read_results,
    results_file,
    training_configs,
)
from smallcnn.parameters import ParameterError, read_parameters
from smallcnn.statistics import accuracy_of_other_half
from smallcnn.training import TrainingRun

REQUIRED = {
    "chapter", "parameters", "changed_parameters", "total_parameters", "trainable_parameters", "best_test_accuracy",
    "best_epoch", "epochs_run", "runs",
}  # fmt: skip
REQUIRED_OF_A_RUN = {
    *("seed", "key", "best_test_accuracy", "final_test_accuracy", "other_half_accuracy", "epochs_run", "seconds")
}


@pytest.fixture(autouse=True)
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty build folder, outside a preview, without recorded runs."""
    monkeypatch.setenv("SMALLCNN_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("SMALLCNN_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("SMALLCNN_PREVIEW", raising=False)
    return tmp_path / "build"


def variables(name: str, **changes: Any) -> dict[str, Any]:
    """What a notebook's `globals()` hold: its parameters as used, and more."""
    return {key: parameter.default for key, parameter in read_parameters(name).items()} | {"other": 1} | changes


def text_of(note: Markdown) -> str:
    return str(note.data)


def test_a_chapter_as_published_has_no_changes_and_no_note() -> None:
    for name in CHAPTERS:
        chapter = Chapter(name, variables(name))
        assert chapter.changed == {}
        assert chapter.note() is None
    assert chapter.note_on({}) is None
    assert chapter.note_on({"approach_1": {"changed_parameters": {}}}) is None


def test_changed_parameters_are_those_that_differ() -> None:
    changes = {"filters": [4, 10], "pool_after": [], "dropout_after": [], "epochs": 10}
    chapter = Chapter("approach_2", variables("approach_2", learning_rate=0.01, **changes))
    assert chapter.changed == changes
    assert chapter.parameters == check_parameters("approach_2", changes)
    assert "other" not in chapter.parameters


def test_the_note_names_what_was_changed_from_what() -> None:
    note = text_of(Chapter("approach_2", variables("approach_2", epochs=10, filters=[4, 8, 16, 16, 10, 10])).note())
    assert "approach_2: <code>epochs</code> is 10 instead of 40" in note
    assert "approach_2: <code>filters</code> is [4, 8, 16, 16, 10, 10] instead of [4, 8, 16, 16, 10]" in note
    assert "Changed parameters" in note
    assert note.count("<li>") == 2


def test_a_page_that_reads_others_names_their_changes() -> None:
    results = {
        "approach_1": {"changed_parameters": {}},
        "approach_3": {"changed_parameters": {"dropout": 0.5}},
    }
    note = text_of(Chapter("comparison", {}).note_on(results))
    assert "approach_3: <code>dropout</code> is 0.5 instead of 0.0" in note
    assert note.count("<li>") == 1


def test_the_note_of_a_preview_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLCNN_PREVIEW", "1")
    assert ">Preview<" in text_of(Chapter("approach_2", variables("approach_2", epochs=10)).note())


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"epochs": "10"}, {"filters": []}, {"learning_rate": float("nan")}])
def test_a_notebook_refuses_wrong_parameters(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(changes))):
        Chapter("approach_2", variables("approach_2", **changes))


def test_results_are_read_as_they_were_written(build: Path) -> None:
    chapter = Chapter("approach_2", variables("approach_2", epochs=10))
    path = chapter.write_results(counts=[1, 2], name="four – ü")
    assert path == results_file("approach_2") == build / "results" / "approach_2.json"
    assert read_results("approach_2") == {
        "chapter": "approach_2",
        "parameters": chapter.parameters,
        "changed_parameters": {"epochs": 10},
        "counts": [1, 2],
        "name": "four – ü",
    }
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_results_that_are_no_numbers_are_refused_and_leave_the_old_ones() -> None:
    chapter = Chapter("data", variables("data"))
    path = chapter.write_results(value=1)
    with pytest.raises(ValueError, match="JSON compliant"):
        chapter.write_results(value=float("nan"))
    assert read_results("data")["value"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_chapter_that_trains_writes_every_required_field(finished_run: TrainingRun) -> None:
    chapter = Chapter("approach_2", variables("approach_2"))
    path = chapter.write_training_results([finished_run, finished_run], extra="more")
    results = json.loads(path.read_text("utf-8"))
    assert results.keys() == REQUIRED | {"extra"}
    assert (results["total_parameters"], results["trainable_parameters"]) == (5490, 5382)
    assert (results["best_test_accuracy"], results["best_epoch"], results["epochs_run"]) == (0.75, 2, 2)
    assert [run.keys() for run in results["runs"]] == [REQUIRED_OF_A_RUN] * 2
    assert results["runs"][0] == {
        "seed": 0,
        "key": finished_run.config.key,
        "best_test_accuracy": 0.75,
        "final_test_accuracy": 0.75,
        "other_half_accuracy": accuracy_of_other_half(finished_run),
        "epochs_run": 2,
        "seconds": finished_run.seconds,
    }


def test_missing_results_say_what_to_do() -> None:
    with pytest.raises(
        FileNotFoundError, match="approach_1 has no results yet; run its notebook first, or `make book`"
    ):
        read_results("approach_1")


def test_every_chapter_comes_after_those_it_reads() -> None:
    before: set[str] = set()
    for name, reads in CHAPTERS.items():
        assert before.issuperset(reads)
        before.add(name)


def test_a_chapter_has_one_configuration_for_each_seed() -> None:
    parameters = check_parameters("approach_1", {"seeds": [5, 0], "epochs": 3, "engine": "tensorflow"})
    configs = training_configs(parameters)
    assert [config.seed for config in configs] == [5, 0]
    assert {config.epochs for config in configs} == {3}
    assert chapter_configs(parameters) == configs
    assert chapter_configs(check_parameters("data", {})) == []


def test_pruning_needs_its_rounds_and_gradual_runs_as_sparse() -> None:
    parameters = check_parameters("pruning", {"seeds": [0, 1], "gradual_seeds": [0, 4], "engine": "tensorflow"})
    rounds = pruning_configs(parameters)
    assert [[len(config.pruned_fractions) for config in configs] for configs in rounds] == [[0, 1, 2]] * 2
    gradual = gradual_configs(parameters)
    assert [config.seed for config in gradual] == [0, 4]
    assert gradual[0].gradual_sparsity == pytest.approx(2911 / 5220)
    assert gradual[0].gradual_epochs == 10
    assert chapter_configs(parameters) == [*rounds[0], *rounds[1], *gradual]
    assert rounds[0][0] == training_configs(check_parameters("approach_2", {"engine": "tensorflow"}))[0]


# Where Halide is not installed


@pytest.fixture
def without_halide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chapters, "is_available", lambda engine: engine != "halide")


@pytest.mark.usefixtures("without_halide")
def test_without_halide_auto_is_tensorflow_and_halide_an_error_before_anything_starts() -> None:
    automatic = training_configs(check_parameters("approach_2", {"seeds": [5]}))
    assert [config.engine for config in automatic] == ["tensorflow"]
    with pytest.raises(ParameterError, match="engine is 'halide', which is not installed on this machine"):
        check_parameters("approach_2", {"seeds": [5], "engine": "halide"})
