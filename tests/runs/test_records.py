"""The store of finished runs: what is written comes back to the bit, and what is damaged is never used."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from smallcnn import config as configurations
from smallcnn import paths
from smallcnn.architecture import (
    KINDS,
    Activation,
    Architecture,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    MaxPooling,
    initial_weights,
)
from smallcnn.config import Caution, Checkpoint, Report, TrainingConfig, TrainingRun
from smallcnn.models import trained_model
from smallcnn.provenance import PACKAGES
from smallcnn.pruning import pruned_fractions
from smallcnn.runs import records, workers
from smallcnn.runs.records import DamagedRun, Interrupted, find_run, find_runs, get_runs, load_run, save_run
from tests.conftest import FakeTraining

CompareRuns = Callable[..., None]


@pytest.fixture
def record(finished_run: TrainingRun, runs_folder: Path) -> Path:
    """The folder of a recorded run."""
    return save_run(finished_run)


@pytest.fixture
def computed(fake_training: FakeTraining, monkeypatch: pytest.MonkeyPatch) -> list[TrainingConfig]:
    """What was computed for want of a record, by a stand-in for the workers."""
    configs: list[TrainingConfig] = []

    def compute(missing: list[TrainingConfig], finished: dict[str, TrainingRun], report: Any) -> None:
        for config in missing:
            run = fake_training(config, config.parent and finished[config.parent.key])
            save_run(run)
            finished[config.key] = run
            configs.append(config)

    monkeypatch.setattr(records, "_compute", compute)
    return configs


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def change_byte(path: Path, position: int, bits: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bits
    path.write_bytes(content)


def rewrite(record: Path, **changes: Any) -> None:
    """Changes fields of run.json, with the checksum that belongs to them."""
    fields = json.loads((record / "run.json").read_text())
    del fields["sha256"]
    fields.update(changes)
    (record / "run.json").write_text(records._to_json({**fields, "sha256": records._checksum(fields)}))


def test_nothing_is_found_where_nothing_was_recorded(config: TrainingConfig, runs_folder: Path) -> None:
    assert find_run(config) is None
    assert not records.is_recorded(config)
    runs_folder.mkdir()
    assert find_run(config) is None


def test_a_run_comes_back_equal_to_the_bit(
    finished_run: TrainingRun, record: Path, assert_same_run: CompareRuns
) -> None:
    found = find_run(finished_run.config)
    assert_same_run(found, finished_run)
    assert records.is_recorded(finished_run.config)
    assert found.best_test_accuracy == finished_run.best_test_accuracy == 0.75


def test_awkward_numbers_come_back_equal_to_the_bit(
    finished_run: TrainingRun, runs_folder: Path, assert_same_run: CompareRuns
) -> None:
    numbers = [5e-324, 0.1 + 0.2]
    weights = {**finished_run.weights}
    weights["block_1/bias"] = np.array([-0.0, 1e-45, np.float32(1 / 3), np.inf], np.float32)
    history = finished_run.history.assign(train_loss=numbers)
    awkward = dataclasses.replace(finished_run, history=history, weights=weights, seconds=1e300)
    save_run(awkward)
    assert_same_run(find_run(awkward.config), awkward)


def test_a_record_is_two_files_under_its_key(finished_run: TrainingRun, record: Path, runs_folder: Path) -> None:
    key = finished_run.config.key
    assert record == runs_folder / key
    assert everything_in(runs_folder) == [key, f"{key}/run.json", f"{key}/weights.npz"]
    with np.load(record / "weights.npz", allow_pickle=False) as file:
        assert set(file.files) == set(finished_run.weights)
    assert json.loads((record / "run.json").read_text())["key"] == key


def test_a_pruned_run_comes_back_with_its_zeros(
    config: TrainingConfig,
    finished_run: TrainingRun,
    fake_training: FakeTraining,
    runs_folder: Path,
    assert_same_run: CompareRuns,
) -> None:
    pruned = fake_training(dataclasses.replace(config, pruned_fractions=(0.2,)), finished_run)
    save_run(pruned)
    assert_same_run(find_run(pruned.config), pruned)
    assert find_run(config) is None


def test_a_changed_bit_in_run_json_is_found(finished_run: TrainingRun, runs_folder: Path) -> None:
    record = save_run(dataclasses.replace(finished_run, seconds=0.1 + 0.2, epoch_seconds=[0.1, 0.1]))
    content = (record / "run.json").read_bytes()
    last_digit = content.index(b"0.30000000000000004") + 18  # with a 5 there it is the same number
    for position in (last_digit, *np.linspace(0, len(content) - 1, 80).astype(int)):
        change_byte(record / "run.json", position, 1)
        with pytest.raises(DamagedRun, match=finished_run.config.key):
            find_run(finished_run.config)
        (record / "run.json").write_bytes(content)


@pytest.mark.parametrize("more", ["0", "000000000000000000001"])
def test_a_digit_that_changes_no_number_is_found(finished_run: TrainingRun, runs_folder: Path, more: str) -> None:
    path = save_run(dataclasses.replace(finished_run, seconds=0.5)) / "run.json"
    written = '"seconds": 0.5'
    assert float(f"0.5{more}") == 0.5
    assert written in path.read_text()
    path.write_text(path.read_text().replace(written, f"{written}{more}"))
    with pytest.raises(DamagedRun, match=r"damaged \(run.json is not as it was written\)"):
        find_run(finished_run.config)


def test_line_ends_of_another_system_do_no_harm(
    finished_run: TrainingRun, record: Path, assert_same_run: CompareRuns
) -> None:
    path = record / "run.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert_same_run(find_run(finished_run.config), finished_run)


def test_any_change_of_run_json_is_found_or_changes_nothing(
    finished_run: TrainingRun, record: Path, assert_same_run: CompareRuns
) -> None:
    content = (record / "run.json").read_bytes()
    generator = random.Random(0)
    for _ in range(150):
        change_byte(record / "run.json", generator.randrange(len(content)), generator.randrange(1, 256))
        try:
            found = find_run(finished_run.config)
        except DamagedRun:
            found = finished_run
        assert_same_run(found, finished_run)
        (record / "run.json").write_bytes(content)


def test_a_changed_bit_in_the_weights_is_found(finished_run: TrainingRun, record: Path) -> None:
    content = (record / "weights.npz").read_bytes()
    for position in np.linspace(0, len(content) - 1, 40).astype(int):
        change_byte(record / "weights.npz", position, 1)
        with pytest.raises(DamagedRun, match="weights.npz"):
            find_run(finished_run.config)
        (record / "weights.npz").write_bytes(content)


@pytest.mark.parametrize("name", ["run.json", "weights.npz"])
@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
def test_a_truncated_file_is_found(finished_run: TrainingRun, record: Path, name: str, kept: float) -> None:
    content = (record / name).read_bytes()
    (record / name).write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    if name == "run.json" and kept == -1:
        assert find_run(finished_run.config) is not None  # the last byte is only the end of the last line
        (record / name).write_bytes(content[:-2])
    with pytest.raises(DamagedRun):
        find_run(finished_run.config)


@pytest.mark.parametrize("name", ["run.json", "weights.npz"])
def test_a_missing_file_is_found(finished_run: TrainingRun, record: Path, name: str) -> None:
    (record / name).unlink()
    with pytest.raises(DamagedRun, match=name):
        find_run(finished_run.config)


def test_an_empty_folder_is_no_record(finished_run: TrainingRun, runs_folder: Path) -> None:
    (runs_folder / finished_run.config.key).mkdir(parents=True)
    with pytest.raises(DamagedRun):
        find_run(finished_run.config)


@pytest.mark.parametrize("content", ["[]", "1", "null", '"run"', "{}", "", "\x00", "<html>"])
def test_a_run_json_of_something_else_is_found(finished_run: TrainingRun, record: Path, content: str) -> None:
    (record / "run.json").write_text(content)
    with pytest.raises(DamagedRun):
        find_run(finished_run.config)


@pytest.mark.parametrize("name", ["recipe_version", "dataset", "config", "history", "predicted_classes", "best_epoch"])
def test_a_record_without_a_field_is_found(finished_run: TrainingRun, record: Path, name: str) -> None:
    fields = json.loads((record / "run.json").read_text())
    del fields["sha256"], fields[name]
    (record / "run.json").write_text(records._to_json({**fields, "sha256": records._checksum(fields)}))
    with pytest.raises(DamagedRun, match=name):
        find_run(finished_run.config)


def test_a_record_of_another_recipe_or_dataset_is_found(finished_run: TrainingRun, record: Path) -> None:
    rewrite(record)
    assert find_run(finished_run.config) is not None
    rewrite(record, recipe_version=finished_run.config.recipe_version + 1)
    with pytest.raises(DamagedRun, match="another recipe"):
        find_run(finished_run.config)
    rewrite(record, recipe_version=finished_run.config.recipe_version, dataset="other data")
    with pytest.raises(DamagedRun, match="another recipe or dataset"):
        find_run(finished_run.config)


def test_a_new_recipe_finds_no_old_record(
    finished_run: TrainingRun, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = finished_run.config.engine
    monkeypatch.setitem(configurations.RECIPE_VERSIONS, engine, configurations.RECIPE_VERSIONS[engine] + 1)
    assert find_run(finished_run.config) is None


def test_a_record_under_the_key_of_another_configuration_is_found(finished_run: TrainingRun, record: Path) -> None:
    other = dataclasses.replace(finished_run.config, seed=1)
    shutil.copytree(record, record.with_name(other.key))
    with pytest.raises(DamagedRun, match="another configuration"):
        find_run(other)
    with pytest.raises(DamagedRun, match=f"^the recorded run {other.key} is of another configuration$"):
        load_run(record.with_name(other.key))


def test_weights_of_another_network_are_found(finished_run: TrainingRun, runs_folder: Path) -> None:
    for weights in (
        {name: array for name, array in finished_run.weights.items() if name != "block_5/bias"},
        {**finished_run.weights, "block_5/bias": np.zeros(11, np.float32)},
        {**finished_run.weights, "dense/bias": np.zeros(10, np.float32)},
    ):
        save_run(dataclasses.replace(finished_run, weights=weights))
        with pytest.raises(DamagedRun, match=r"damaged \(the weights are not those of its network\)"):
            find_run(finished_run.config)


def test_the_checksum_of_what_is_recorded_never_changes() -> None:
    expected = hashlib.sha256(b'{"a": [0.5, true], "b": {"c": 2, "d": "\\u00fc"}}').hexdigest()
    assert records._checksum({"b": {"d": "ü", "c": 2}, "a": [0.5, True]}) == expected


@pytest.mark.parametrize("names", [["block_5/bias"], None])
def test_weights_of_another_type_are_found(
    finished_run: TrainingRun, runs_folder: Path, names: list[str] | None
) -> None:
    other = {name: finished_run.weights[name].astype(np.float64) for name in names or finished_run.weights}
    save_run(dataclasses.replace(finished_run, weights=finished_run.weights | other))
    with pytest.raises(DamagedRun, match=r"damaged \(its weights are not float32 numbers\)"):
        find_run(finished_run.config)


def test_weights_that_would_run_a_program_are_neither_written_nor_read(finished_run: TrainingRun, record: Path) -> None:
    weights = finished_run.weights | {"block_5/bias": np.array([{}] * 10, object)}
    with pytest.raises(ValueError, match="[Oo]bject"):
        save_run(dataclasses.replace(finished_run, weights=weights))
    content = io.BytesIO()
    np.savez(content, **weights)
    (record / "weights.npz").write_bytes(content.getvalue())
    rewrite(record, weights_sha256=hashlib.sha256(content.getvalue()).hexdigest())
    with pytest.raises(DamagedRun, match="Object arrays cannot be loaded"):
        find_run(finished_run.config)


def test_json_too_deep_to_read_is_found(finished_run: TrainingRun, record: Path) -> None:
    (record / "run.json").write_text("[" * 100_000)
    with pytest.raises(DamagedRun):
        find_run(finished_run.config)


ANOTHER_RECIPE, SHORT = "it is of another recipe or dataset", "its history is not of so many epochs"
PREDICTIONS, ACCURACIES = "its predictions are not those of so many images", "its accuracies contradict each other"
DURATIONS, RULES = "its losses or durations are none", "its best epoch or learning rates do not follow"
PROVENANCE, FIELDS = "its provenance is not that of its engine", "its fields contradict each other"


def in_history(**columns: list[float]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda fields: {"history": fields["history"] | columns}


# What is wrong in the record of a run of two epochs, right in 100 and in 150 of 200 images, and what is said of it.
CONTRADICTIONS: list[tuple[str, Any, str]] = [
    ("key", "0123456789abcdef", FIELDS),
    ("recipe_version", 0, ANOTHER_RECIPE),
    ("dataset", "another", ANOTHER_RECIPE),
    ("config", lambda fields: {"config": fields["config"] | {"epochs": 1}}, SHORT),
    ("config", lambda fields: {"config": fields["config"] | {"learning_rate": 0.02}}, RULES),
    ("config", lambda fields: {"config": fields["config"] | {"gradual_sparsity": 0.0}}, FIELDS),  # a default
    ("provenance", {}, PROVENANCE),
    ("provenance", lambda fields: {"provenance": fields["provenance"] | {"tensorflow": 2}}, PROVENANCE),
    ("provenance", None, "'NoneType' object has no attribute 'items'"),
    ("best_test_accuracy", 0.8, FIELDS),
    ("best_epoch", -1, SHORT),
    ("best_epoch", 0, SHORT),
    ("best_epoch", 1, RULES),
    ("best_epoch", 3, SHORT),
    ("final_test_accuracy", 0.5, FIELDS),
    ("epochs_run", 1, FIELDS),
    ("seconds", -1.0, DURATIONS),
    ("seconds", 0.0, DURATIONS),
    ("seconds", "1", "can only concatenate str"),
    ("epoch_seconds", [0.0], SHORT),
    ("epoch_seconds", [0.0, 1e9], DURATIONS),
    ("epoch_seconds", [1e-9, -1e-9], DURATIONS),
    ("history", {}, SHORT),
    ("history", lambda fields: {"history": fields["history"] | {"loss": [1.0, 1.0]}}, SHORT),
    ("history", in_history(learning_rate=[0.01, 0.005]), RULES),
    ("history", in_history(learning_rate=[0.02, 0.01]), RULES),
    ("history", in_history(train_loss=[1.0]), SHORT),
    ("history", in_history(train_loss=[1.0, -1.0]), DURATIONS),
    ("history", in_history(test_loss=[1.0, -1.0]), DURATIONS),
    ("history", in_history(train_accuracy=[1.5, 0.5]), ACCURACIES),
    ("history", in_history(train_accuracy=[0.5, -0.5]), ACCURACIES),
    ("history", in_history(test_accuracy=[0.5, 0.8]), ACCURACIES),
    ("history", in_history(test_accuracy=[0.75, 0.5]), ACCURACIES),
    ("history", in_history(test_correct=[100, 151]), ACCURACIES),
    ("history", in_history(test_correct=[150, 100]), ACCURACIES),
    ("misclassified", [], SHORT),
    ("misclassified", [[], []], ACCURACIES),
    ("misclassified", lambda fields: {"misclassified": fields["misclassified"][::-1]}, ACCURACIES),
    ("misclassified", [[*range(100)], [*range(49), 200]], PREDICTIONS),
    ("misclassified", [[*range(100)], [*range(49), -1]], PREDICTIONS),
    ("misclassified", [[*range(100)], [*range(49), 48]], PREDICTIONS),
    ("misclassified", [[*range(100)], [*range(50)][::-1]], PREDICTIONS),
    ("predicted_classes", "012", PREDICTIONS),
    ("predicted_classes", "0" * 199, ACCURACIES),
    ("predicted_classes", "0" * 199 + ":", PREDICTIONS),  # the sign after 9
    ("weights_sha256", "0" * 64, "weights.npz is not as it was written"),
]


def test_every_field_is_among_those_that_may_contradict(record: Path) -> None:
    fields = json.loads((record / "run.json").read_text())
    assert {name for name, *_ in CONTRADICTIONS} == fields.keys() - {"sha256"}
    columns = {
        name for _, change, _ in CONTRADICTIONS if callable(change) for name in change(fields).get("history", {})
    }
    assert columns > fields["history"].keys()


@pytest.mark.parametrize(("name", "value", "words"), CONTRADICTIONS)
def test_a_record_that_contradicts_itself_is_found(
    finished_run: TrainingRun, record: Path, name: str, value: Any, words: str
) -> None:
    fields = json.loads((record / "run.json").read_text())
    changes = value(fields) if callable(value) else {name: value}
    assert changes[name] != fields[name]
    rewrite(record, **changes)
    with pytest.raises(DamagedRun, match=f"{finished_run.config.key} is damaged \\({re.escape(words)}"):
        find_run(finished_run.config)


def test_a_record_that_contradicts_nothing_is_whole_after_rewriting(finished_run: TrainingRun, record: Path) -> None:
    history = {"train_accuracy": [0.0, 1.0], "train_loss": [0.0, 1.0], "test_loss": [1.0, 0.0]}
    fields = json.loads((record / "run.json").read_text())
    rewrite(record, history=fields["history"] | history, seconds=3.0, epoch_seconds=[0.0, 3.0])
    assert find_run(finished_run.config).history["train_accuracy"].tolist() == [0.0, 1.0]
    rewrite(record, seconds=0.3, epoch_seconds=[0.1, 0.2])  # whose sum is 0.30000000000000004
    assert find_run(finished_run.config).seconds == 0.3
    rewrite(record, seconds=0.0, epoch_seconds=[0.0, 0.0])
    assert find_run(finished_run.config).seconds == 0
    packages = {name: fields["provenance"][name] for name in PACKAGES[finished_run.config.engine]}
    rewrite(record, provenance=packages)
    assert find_run(finished_run.config).provenance == packages


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_a_record_takes_the_place_of_what_is_no_folder(
    finished_run: TrainingRun, runs_folder: Path, tmp_path: Path, assert_same_run: CompareRuns, kind: str
) -> None:
    folder = runs_folder / finished_run.config.key
    runs_folder.mkdir()
    if kind == "file":
        folder.write_text("not a folder")
    else:
        folder.symlink_to(tmp_path if kind == "link" else tmp_path / "nothing")
    save_run(finished_run)
    assert_same_run(find_run(finished_run.config), finished_run)
    assert tmp_path.exists()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_history_with_values_that_are_no_numbers_is_found(
    finished_run: TrainingRun, record: Path, number: str
) -> None:
    path = record / "run.json"
    changed = path.read_text().replace(json.dumps(finished_run.history["train_loss"].iloc[0]), number)
    assert number in changed
    path.write_text(changed)
    with pytest.raises(DamagedRun):
        find_run(finished_run.config)


def test_a_history_with_values_that_are_no_numbers_is_not_recorded(
    finished_run: TrainingRun, runs_folder: Path
) -> None:
    history = finished_run.history.assign(test_loss=[0.5, float("nan")])
    with pytest.raises(ValueError, match="JSON"):
        save_run(dataclasses.replace(finished_run, history=history))
    assert find_run(finished_run.config) is None
    assert everything_in(runs_folder) == []


def test_a_half_written_temporary_folder_is_not_a_record(
    finished_run: TrainingRun, runs_folder: Path, assert_same_run: CompareRuns
) -> None:
    for process in (12345, os.getpid()):
        leftover = runs_folder / f".{finished_run.config.key}.{process}.part"
        leftover.mkdir(parents=True)
        (leftover / "weights.npz").write_bytes(b"half")
    assert find_run(finished_run.config) is None
    save_run(finished_run)
    assert_same_run(find_run(finished_run.config), finished_run)


def test_a_record_takes_the_place_of_an_older_one(
    finished_run: TrainingRun, record: Path, runs_folder: Path, assert_same_run: CompareRuns
) -> None:
    newer = dataclasses.replace(finished_run, seconds=12.5)
    (record / "stray file").write_text("of the older record")
    save_run(newer)
    assert_same_run(find_run(finished_run.config), newer)
    assert len(everything_in(runs_folder)) == 3


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["savez", "_to_json", "replace"])
def test_a_failing_save_leaves_nothing_that_looks_whole(
    finished_run: TrainingRun, runs_folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr({"savez": np, "_to_json": records, "replace": records.os}[step], step, fail)
    with pytest.raises(type(error)):
        save_run(finished_run)
    assert find_run(finished_run.config) is None
    assert everything_in(runs_folder) == []


@pytest.mark.parametrize("step", ["savez", "_to_json"])
def test_a_save_that_fails_while_writing_leaves_the_older_record(
    finished_run: TrainingRun,
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    assert_same_run: CompareRuns,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr({"savez": np, "_to_json": records}[step], step, fail)
        with pytest.raises(OSError, match="no space"):
            save_run(dataclasses.replace(finished_run, seconds=12.5))
    assert_same_run(find_run(finished_run.config), finished_run)


def test_recorded_runs_are_not_computed_again(
    finished_run: TrainingRun, record: Path, computed: list[TrainingConfig], assert_same_run: CompareRuns
) -> None:
    lines: list[str] = []
    first, second = get_runs([finished_run.config, finished_run.config], lines.append)
    assert_same_run(first, finished_run)
    assert_same_run(second, finished_run)
    assert (computed, lines) == ([], [])


def test_runs_come_in_the_order_asked_for_with_their_parents_computed_first(
    config: TrainingConfig, runs_folder: Path, computed: list[TrainingConfig]
) -> None:
    unpruned, first, second = config.rounds(pruned_fractions("article", 0.2, 2))
    other = dataclasses.replace(config, seed=1)
    found = get_runs([second, other, unpruned, second])
    assert [run.config for run in found] == [second, other, unpruned, second]
    assert computed == [unpruned, first, second, other]
    assert find_run(first) is not None


def test_only_what_is_missing_is_computed(config: TrainingConfig, record: Path, computed: list[TrainingConfig]) -> None:
    unpruned, first = config.rounds(pruned_fractions("article", 0.2, 1))
    get_runs([unpruned, first])
    assert computed == [first]


@pytest.mark.parametrize("damage", ["changed", "missing", "another configuration"])
def test_a_damaged_record_is_named_and_computed_again(
    finished_run: TrainingRun,
    record: Path,
    computed: list[TrainingConfig],
    damage: str,
    assert_same_run: CompareRuns,
) -> None:
    wanted = finished_run.config
    if damage == "changed":
        change_byte(record / "weights.npz", 1000, 4)
    elif damage == "missing":
        (record / "weights.npz").unlink()
    else:
        wanted = dataclasses.replace(wanted, seed=1)
        record.rename(record.with_name(wanted.key))
    lines: list[str] = []
    run, _ = get_runs([wanted, wanted], lines.append)
    assert computed == [wanted]
    assert [line for line in lines if wanted.key in line and "again" in line] == lines[:1] != []
    assert_same_run(find_run(wanted), run)


@pytest.mark.parametrize("interrupted_after", [1, 2, 4])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    interrupted_after: int,
    config: TrainingConfig,
    fake_training: FakeTraining,
    runs_folder: Path,
    assert_same_run: CompareRuns,
) -> None:
    config = dataclasses.replace(config, engine="halide", epochs=6, early_stopping_patience=2, plateau_patience=1)
    fake_training.accuracies = [0.5, 0.99, 0.985, 0.995, 0.6, 0.7]
    whole = fake_training(config)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if len(lines) == interrupted_after:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"after epoch {interrupted_after} of"):
        get_runs([config], report)
    assert find_run(config) is None
    (run,) = get_runs([config], lines.append)
    assert f"going on after epoch {interrupted_after}" in lines[interrupted_after]
    assert_same_run(run, whole, measured_once=False)
    assert [path.name for path in runs_folder.iterdir()] == [config.key]


def test_a_damaged_unfinished_run_is_started_again(
    config: TrainingConfig, fake_training: FakeTraining, runs_folder: Path, assert_same_run: CompareRuns
) -> None:
    config = dataclasses.replace(config, engine="halide")
    whole = fake_training(config)
    runs_folder.mkdir()
    for content in (b"", b"PK\x05\x06" + bytes(18), b"not an archive"):
        records._checkpoint_file(config).write_bytes(content)
        assert records._load_checkpoint(config) is None
    (run,) = get_runs([config], lambda line: None)
    assert_same_run(run, whole, measured_once=False)


def test_an_unfinished_run_that_would_run_a_program_is_not_read(config: TrainingConfig, runs_folder: Path) -> None:
    checkpoint = Checkpoint({"block_1/bias": np.zeros(4, np.float32)}, np.zeros(10, np.uint8))
    records._save_checkpoint(config, checkpoint)
    assert records._load_checkpoint(config) is not None
    checkpoint.best_weights["block_1/bias"] = np.array([{}] * 4, object)
    with pytest.raises(ValueError, match="[Oo]bject"):
        records._save_checkpoint(config, checkpoint)
    with np.load(records._checkpoint_file(config)) as file:
        np.savez(records._checkpoint_file(config), **{**file, "best_weights block_1/bias": np.array([{}] * 4, object)})
    assert records._load_checkpoint(config) is None


def test_flipped_bits_of_an_unfinished_run_never_stop_a_command(
    config: TrainingConfig, fake_training: FakeTraining, runs_folder: Path
) -> None:
    config = dataclasses.replace(config, engine="halide", epochs=3)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        get_runs([config], interrupt)
    path = records._checkpoint_file(config)
    content = path.read_bytes()
    assert records._load_checkpoint(config) is not None
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        position = generator.randrange(len(content) - 2500, len(content))  # where the archive says what it holds
        changed = bytearray(content)
        changed[position] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        refused += records._load_checkpoint(config) is None
    assert refused > 100


def test_no_runs_are_asked_for_and_none_are_given(runs_folder: Path, computed: list[TrainingConfig]) -> None:
    assert get_runs([]) == []


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty folders in the place of `runs`, of published runs, and `data/runs`, of a reader's own."""
    published, own = tmp_path / "runs", tmp_path / "data" / "runs"
    monkeypatch.delenv("SMALLCNN_RUNS", raising=False)
    monkeypatch.setattr(paths, "PUBLISHED_RUNS", published)
    monkeypatch.setattr(paths, "OWN_RUNS", own)
    return published, own


def test_published_runs_are_found_and_own_ones_are_kept_apart(
    config: TrainingConfig,
    finished_run: TrainingRun,
    fake_training: FakeTraining,
    folders: tuple[Path, Path],
    computed: list[TrainingConfig],
) -> None:
    published, own = folders
    other = dataclasses.replace(config, seed=1)
    shutil.move(save_run(finished_run), published / config.key)
    runs = get_runs([config, other])
    assert computed == [other]
    assert [path.name for path in published.iterdir()] == [config.key]
    assert [path.name for path in own.iterdir()] == [other.key]
    assert [run.config for run in find_runs([other.key, config.key])] == [other, config]
    get_runs([config, other])
    assert (computed, len(runs)) == ([other], 2)


def test_a_damaged_published_run_is_replaced_where_it_is(
    config: TrainingConfig, finished_run: TrainingRun, folders: tuple[Path, Path], computed: list[TrainingConfig]
) -> None:
    published, own = folders
    shutil.move(save_run(finished_run), published / config.key)
    (published / config.key / "weights.npz").write_bytes(b"")
    get_runs([config], lambda line: None)
    assert computed == [config]
    assert load_run(published / config.key).config == config
    assert everything_in(own) == []


def test_a_folder_that_the_environment_names_is_the_only_one(
    config: TrainingConfig, finished_run: TrainingRun, folders: tuple[Path, Path], runs_folder: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SMALLCNN_RUNS")
        shutil.copytree(save_run(finished_run), folders[0] / config.key)
        assert find_run(config) is not None
    assert find_run(config) is None
    with pytest.raises(DamagedRun, match=f"{config.key} is missing"):
        find_runs([config.key])
    save_run(finished_run)
    assert (runs_folder / config.key).is_dir()
    assert [run.config for run in find_runs([config.key])] == [config]


def test_what_another_process_recorded_meanwhile_is_not_recorded_again(
    config: TrainingConfig,
    finished_run: TrainingRun,
    fake_training: FakeTraining,
    runs_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs = [config, dataclasses.replace(config, seed=1)]
    asked: list[str] = []

    def compute(
        missing: list[TrainingConfig],
        parents: dict[str, TrainingRun],
        report: Report,
        recorded: Callable[[TrainingConfig], TrainingRun | None],
    ) -> Any:
        assert (parents, callable(report)) == ({}, True)
        save_run(dataclasses.replace(finished_run, seconds=12.5))  # by the other process
        for each in missing:
            asked.append(each.key)
            yield recorded(each) or fake_training(each)

    monkeypatch.setattr(workers, "compute", compute)
    first, second = get_runs(configs, lambda line: None)
    assert asked == [each.key for each in configs]
    assert (first.seconds, find_run(config).seconds) == (12.5, 12.5)
    assert find_run(configs[1]).seconds == second.seconds


def test_another_process_that_is_quicker_by_a_moment_is_no_error(
    finished_run: TrainingRun, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, other = records.os.replace, dataclasses.replace(finished_run, seconds=12.5)

    def after_the_other_one(source: Path, target: Path) -> None:
        monkeypatch.setattr(records.os, "replace", replace)
        monkeypatch.setattr(records.os, "getpid", lambda: 1)
        save_run(other)
        replace(source, target)

    monkeypatch.setattr(records.os, "replace", after_the_other_one)
    save_run(finished_run)
    assert find_run(finished_run.config).seconds == 12.5
    assert len(everything_in(runs_folder)) == 3


def test_an_interrupted_run_says_how_far_it_was(
    config: TrainingConfig, fake_training: FakeTraining, runs_folder: Path
) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted) as raised:
        get_runs([dataclasses.replace(config, engine="halide")], interrupt)
    label = "4-8-16-16-10, dropout 10 %, seed 0"
    assert str(raised.value) == f"interrupted after epoch 1 of {label}; the same again goes on from there"
    assert raised.value.exit_code == 130


def test_a_run_that_is_interrupted_in_its_first_epoch_says_so(
    config: TrainingConfig, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "train", interrupted)
    with pytest.raises(Interrupted, match="^interrupted after epoch 0 of"):
        get_runs([dataclasses.replace(config, engine="halide")], lambda line: None)


def test_a_run_at_its_best_after_the_first_epoch_comes_back(
    config: TrainingConfig, fake_training: FakeTraining, runs_folder: Path, assert_same_run: CompareRuns
) -> None:
    fake_training.accuracies = [0.75, 0.5]
    run = fake_training(config)
    save_run(run)
    assert_same_run(find_run(config), run)
    assert (run.best_epoch, run.final_test_accuracy) == (1, 0.5)


def test_interrupted_workers_say_how_much_is_left(
    config: TrainingConfig, fake_training: FakeTraining, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(missing: list[TrainingConfig], *_: Any) -> Any:
        yield fake_training(missing[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "compute", compute)
    with pytest.raises(Interrupted, match=r"^interrupted; the same again trains the 2 of 3 runs that are left$"):
        get_runs([dataclasses.replace(config, seed=seed) for seed in range(3)], lambda line: None)
    assert len(list(runs_folder.iterdir())) == 1


def test_a_run_of_too_few_steps_is_told_apart_from_others(
    config: TrainingConfig, fake_training: FakeTraining, runs_folder: Path
) -> None:
    lines: list[str] = []
    get_runs([dataclasses.replace(config, engine="halide")], lines.append)
    assert lines[-2].endswith(": 75.00 % after epoch 2, recorded")
    assert isinstance(lines[-1], Caution)
    assert "only 16 training steps" in lines[-1]
    assert not any(isinstance(line, Caution) for line in lines[:-1])


def test_a_recorded_round_of_pruning_does_not_need_its_parent(
    config: TrainingConfig, runs_folder: Path, fake_training: FakeTraining
) -> None:
    unpruned, pruned = config.rounds([0.2])
    save_run(fake_training(pruned, fake_training(unpruned)))
    lines: list[str] = []
    assert [run.config for run in get_runs([pruned], lines.append)] == [pruned]
    assert lines == []
    assert [path.name for path in runs_folder.iterdir()] == [pruned.key]


def test_runs_that_are_asked_for_together_are_told_apart(
    config: TrainingConfig, fake_training: FakeTraining, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "compute", lambda missing, *_: map(fake_training, missing))
    rates = [dataclasses.replace(config, learning_rate=rate) for rate in (0.01, 0.02, 0.03)]
    save_run(fake_training(rates[0]))
    assert "learning_rate" not in "".join(fake_training.lines)
    fake_training.lines.clear()
    lines: list[str] = []
    runs = get_runs(rates, lines.append)
    labels = [f"4-8-16-16-10, dropout 10 %, learning_rate={rate}, seed 0" for rate in (0.01, 0.02, 0.03)]
    assert [run.config.label for run in runs] == labels
    assert [run.config for run in runs] == rates
    told = [line.partition(": ")[0] for line in [*fake_training.lines, *lines]]
    assert set(told) == set(labels[1:])
    assert not any("learning_rate=" in (runs_folder / run.config.key / "run.json").read_text() for run in runs)
    assert [load_run(runs_folder / run.config.key).config.varied for run in runs] == ["", "", ""]


@pytest.mark.slow
def test_the_page_on_reruns_keeps_a_network_in_a_file_that_both_kinds_of_keras_open(
    keras: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras as keras_3

    page = (paths.ROOT / "book" / "rerun.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if ".save(" in block)
    (tmp_path / "runs").symlink_to(paths.PUBLISHED_RUNS)
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    exec(code, variables)
    (kept,) = tmp_path.glob("network.*")
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)
    expected = variables["model"].predict(images, verbose=0)
    for kind in (keras, keras_3):
        opened = kind.models.load_model(kept)
        assert type(opened).__module__.split(".")[0] == kind.__name__
        assert np.allclose(opened.predict(images, verbose=0), expected, atol=1e-5)


@pytest.mark.slow
def test_both_kinds_of_keras_open_a_network_of_all_layers(keras: ModuleType, tmp_path: Path) -> None:
    import keras as keras_3

    blocks = [Convolution(4, 3, "same", False), Activation("leaky_relu", 0.1), BatchNormalisation(False, 0.9, 0.01)]
    blocks += [AveragePooling(2), Convolution(6), Activation("relu"), MaxPooling(3), Dropout(0.5)]
    network = Architecture((*blocks, Flatten(), Dense(10, False), Activation("softmax")))
    assert {layer.kind for layer in network.layers} == KINDS.keys() - {"global_average_pooling"}  # of published ones
    model = trained_model(network, initial_weights(network, 0))
    model.save(tmp_path / "network.h5")
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    opened = keras_3.models.load_model(tmp_path / "network.h5")
    assert np.allclose(opened.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5)
