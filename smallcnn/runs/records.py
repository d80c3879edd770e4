"""Where finished runs are kept.

A finished run lives in `<folder>/<key>/`: `run.json`, one field a line, and `weights.npz` with the weights of the best
epoch. The key is a hash of the configuration, so a run is found by what was asked for, and two chapters that ask for
the same run share it. The published runs are in `runs/`; what a reader trains goes to `data/runs/`, where git ignores
it, and is found there all the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smallcnn import data
from smallcnn.architecture import CLASSES
from smallcnn.commands import CommandError
from smallcnn.config import (
    HISTORY,
    Caution,
    Checkpoint,
    Report,
    TrainingConfig,
    TrainingRun,
    history_frame,
    told_apart,
)
from smallcnn.files import replacing
from smallcnn.paths import record_folders, runs_folder
from smallcnn.provenance import PACKAGES
from smallcnn.runs import progress, workers
from smallcnn.training import Callbacks, train

WEIGHTS_OF_CHECKPOINT = ("best_weights", "engine_state")
ROUNDING = 1e-9  # of a sum of durations, in seconds


class DamagedRun(Exception):
    """A record that must not be used; the message says what is wrong with it."""


class Interrupted(CommandError):
    """Ctrl-C, or a notebook's stop button; the message says how far the training was and how it goes on."""

    exit_code = 130


def get_runs(configs: Sequence[TrainingConfig], report: Report | None = None) -> list[TrainingRun]:
    """Finds the recorded run of each configuration, and trains and records those that are missing.

    Missing runs are computed by the workers; a single one by this process, on all its cores. A run is recorded the
    moment it is finished.

    Args:
        configs: the runs to get; the earlier rounds of a pruned run need not be listed.
        report: called with lines of text on progress and on records that cannot be used; by default the lines go to
            the terminal, and a notebook shows bars.

    Returns:
        The runs in the order of `configs`, with labels that tell them apart.

    Raises:
        Interrupted: if somebody stops it; what is finished stays recorded.
    """
    configs = told_apart(configs)
    with progress.shown(report) as report:
        finished: dict[str, TrainingRun] = {}
        missing: dict[str, TrainingConfig] = {}  # each after its parent
        for config in configs:
            _look_for(config, finished, missing, report)
        if missing:
            _compute(list(missing.values()), finished, report)
    return [dataclasses.replace(finished[config.key], config=config) for config in configs]


def is_recorded(config: TrainingConfig) -> bool:
    """Whether there is a record of `config`; only `find_run` tells whether it is whole."""
    return _folder_of(config.key) is not None


def _folder_of(key: str) -> Path | None:
    return next((folder / key for folder in record_folders() if (folder / key).exists()), None)


def find_run(config: TrainingConfig) -> TrainingRun | None:
    """Reads the recorded run of `config`, or returns None where there is none.

    Raises:
        DamagedRun: if there is a record that is half-written, changed, or of something else.
    """
    if (folder := _folder_of(config.key)) is None:
        return None
    return load_run(folder)


def recorded(config: TrainingConfig, report: Report = lambda line: None) -> TrainingRun | None:
    """The recorded run of `config`; None if there is none, or only a damaged record, on which `report` is told."""
    try:
        return find_run(config)
    except DamagedRun as damage:
        report(f"{damage}; training it again")
        return None


def load_run(folder: Path) -> TrainingRun:
    """Reads the record in `folder`.

    Raises:
        DamagedRun: if it is half-written or changed.
    """
    try:
        run = _read(folder)
    except Exception as error:  # a damaged file makes its readers fail in any way
        raise DamagedRun(f"the recorded run {folder.name} is damaged ({error})") from error
    if run.config.key != folder.name:
        raise DamagedRun(f"the recorded run {folder.name} is of another configuration")
    return run


def find_runs(keys: Iterable[str]) -> list[TrainingRun]:
    """Reads the recorded runs with these keys, such as a chapter's results name.

    Raises:
        DamagedRun: if one is missing or damaged.
    """
    found = []
    for key in keys:
        if (folder := _folder_of(key)) is None:
            raise DamagedRun(f"the recorded run {key} is missing")
        found.append(load_run(folder))
    return found


def save_run(run: TrainingRun) -> Path:
    """Records `run` under its key, whole or not at all, in the place of any record that was there.

    The record is in `runs_folder()`, unless another folder has a damaged one, which is replaced where it is.

    Returns:
        The folder of the record.
    """
    folder = _folder_of(run.config.key) or runs_folder() / run.config.key
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        weights = io.BytesIO()
        np.savez(weights, allow_pickle=False, **run.weights)
        (temporary / "weights.npz").write_bytes(weights.getvalue())
        fields = {**_fields(run), "weights_sha256": hashlib.sha256(weights.getvalue()).hexdigest()}
        (temporary / "run.json").write_text(_to_json({**fields, "sha256": _checksum(fields)}), encoding="utf-8")
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
        try:
            os.replace(temporary, folder)
        except OSError as error:
            try:
                load_run(folder)  # if it is whole, another process was quicker, by less than a look at it takes
            except DamagedRun:
                raise error from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _look_for(
    config: TrainingConfig, finished: dict[str, TrainingRun], missing: dict[str, TrainingConfig], report: Report
) -> None:
    """Adds the run to `finished`, or else its parent to either and then itself to `missing`."""
    if config.key in finished or config.key in missing:
        return
    if (run := recorded(config, report)) is not None:
        finished[config.key] = run
        return
    if config.parent is not None:
        _look_for(config.parent, finished, missing, report)
    missing[config.key] = config


def _compute(missing: list[TrainingConfig], finished: dict[str, TrainingRun], report: Report) -> None:
    """Trains `missing`, parents first, records each and adds it to `finished`."""
    alone = len(missing) == 1 and missing[0].engine == "halide" and workers.scheduler_address() is None
    runs = _train_here(missing[0], finished, report) if alone else workers.compute(missing, finished, report, recorded)
    try:
        for run in runs:
            if recorded(run.config) is None:  # another process may have been quicker
                save_run(run)
            finished[run.config.key] = run
            _checkpoint_file(run.config).unlink(missing_ok=True)
            report(f"{run.config.label}: {100 * run.best_test_accuracy:.2f} % after epoch {run.best_epoch}, recorded")
            if run.caution:
                report(Caution(f"{run.config.label}: {run.caution}"))
    except KeyboardInterrupt:
        left = sum(config.key not in finished for config in missing)
        message = f"interrupted; the same again trains the {left} of {len(missing)} runs that are left"
        raise Interrupted(message) from None


def _train_here(config: TrainingConfig, finished: dict[str, TrainingRun], report: Report) -> Iterator[TrainingRun]:
    """Trains a single run in this process, on all its cores, and keeps what an interrupted one can go on from."""
    checkpoint = _load_checkpoint(config)
    epochs = len(checkpoint.epoch_seconds) if checkpoint else 0
    if checkpoint is not None:
        report(f"{config.label}: going on after epoch {epochs}")

    def keep(reached: Checkpoint) -> None:
        nonlocal epochs
        _save_checkpoint(config, reached)
        epochs = len(reached.epoch_seconds)

    try:
        yield train(config, finished[config.parent.key] if config.parent else None, report, checkpoint, keep)
    except KeyboardInterrupt:
        message = f"interrupted after epoch {epochs} of {config.label}; the same again goes on from there"
        raise Interrupted(message) from None


def _checkpoint_file(config: TrainingConfig) -> Path:
    return runs_folder() / f".{config.key}.checkpoint.npz"


def _save_checkpoint(config: TrainingConfig, checkpoint: Checkpoint) -> None:
    fields = dataclasses.asdict(checkpoint)
    arrays = {f"{part} {name}": array for part in WEIGHTS_OF_CHECKPOINT for name, array in fields.pop(part).items()}
    arrays["predicted_classes"] = fields.pop("predicted_classes")
    with replacing(_checkpoint_file(config)) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, fields=np.array(json.dumps(fields)), **arrays)


def _load_checkpoint(config: TrainingConfig) -> Checkpoint | None:
    """What an interrupted run of `config` left, if that is whole."""
    try:
        with np.load(_checkpoint_file(config), allow_pickle=False) as file:
            arrays = dict(file)
        fields = json.loads(str(arrays.pop("fields")))
        fields |= {part: {} for part in WEIGHTS_OF_CHECKPOINT} | {"predicted_classes": arrays.pop("predicted_classes")}
        for name in arrays:
            part, array = name.split(" ")
            fields[part][array] = arrays[name]
        return Checkpoint(**fields)
    except Exception:  # noqa: BLE001 - a damaged file makes its readers fail in any way
        return None


def _fields(run: TrainingRun) -> dict[str, Any]:
    """What `run.json` says, but for the checksums."""
    own = ("best_test_accuracy", "best_epoch", "final_test_accuracy", "epochs_run", "seconds", "epoch_seconds")
    return {
        "key": run.config.key,
        "recipe_version": run.config.recipe_version,
        "dataset": data.FINGERPRINT,
        "config": run.config.to_json(),
        "provenance": run.provenance,
        **{name: getattr(run, name) for name in own},
        "history": run.history.to_dict("list"),
        "misclassified": run.misclassified,
        "predicted_classes": "".join(map(str, run.predicted_classes.tolist())),
    }


def _checksum(fields: dict[str, Any]) -> str:
    """A hash of `fields`; raises ValueError if a number among them is NaN or infinite."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _to_json(fields: dict[str, Any]) -> str:
    lines = (f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in fields.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _read(folder: Path) -> TrainingRun:
    text = (folder / "run.json").read_text(encoding="utf-8")
    fields = json.loads(text)
    is_as_written = text.rstrip("\n") == _to_json(fields).rstrip("\n")  # a 17th digit may change and mean the same
    _expect(fields.pop("sha256") == _checksum(fields) and is_as_written, "run.json is not as it was written")
    config = TrainingConfig.from_json(fields["config"])
    is_current = fields["recipe_version"] == config.recipe_version and fields["dataset"] == data.FINGERPRINT
    _expect(is_current, "it is of another recipe or dataset")
    content = (folder / "weights.npz").read_bytes()
    is_as_written = hashlib.sha256(content).hexdigest() == fields["weights_sha256"]
    _expect(is_as_written, "weights.npz is not as it was written")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        weights = dict(file)
    shapes = {name: array.shape for name, array in weights.items()}
    _expect(shapes == config.architecture.weight_shapes, "the weights are not those of its network")
    _expect(all(array.dtype == np.float32 for array in weights.values()), "its weights are not float32 numbers")
    by_epoch = (*fields["history"].values(), fields["misclassified"], fields["epoch_seconds"])
    epochs, best_epoch = len(fields["epoch_seconds"]), fields["best_epoch"]
    is_whole = fields["history"].keys() == set(HISTORY) and {len(values) for values in by_epoch} == {epochs}
    _expect(is_whole and 1 <= best_epoch <= epochs <= config.epochs, "its history is not of so many epochs")
    kept = ("misclassified", "best_epoch", "epoch_seconds", "seconds", "provenance")
    run = TrainingRun(
        config=config,
        history=history_frame(fields["history"]),
        predicted_classes=np.frombuffer(fields["predicted_classes"].encode(), np.uint8) - ord("0"),
        weights=weights,
        **{name: fields[name] for name in kept},
    )
    _expect_consistency(run, fields["history"])
    is_consistent = fields == {**_fields(run), "weights_sha256": fields["weights_sha256"]}
    _expect(is_consistent, "its fields contradict each other")
    return run


def _expect_consistency(run: TrainingRun, history: dict[str, list[float]]) -> None:
    packages = {name: text for name, text in run.provenance.items() if isinstance(text, str)}
    _expect(packages.keys() >= set(PACKAGES[run.config.engine]), "its provenance is not that of its engine")
    images = len(run.predicted_classes)
    numbers = set(range(images))
    are_images = all(wrong == sorted(numbers.intersection(wrong)) for wrong in run.misclassified)
    are_classes = bool((run.predicted_classes < CLASSES).all())
    _expect(are_images and are_classes, "its predictions are not those of so many images")
    correct = [images - len(wrong) for wrong in run.misclassified]
    are_counted = history["test_correct"] == correct and history["test_accuracy"] == [each / images for each in correct]
    are_fractions = all(0 <= accuracy <= 1 for accuracy in history["train_accuracy"])
    _expect(are_counted and are_fractions, "its accuracies contradict each other")
    are_amounts = min(history["train_loss"] + history["test_loss"] + run.epoch_seconds) >= 0
    _expect(are_amounts and sum(run.epoch_seconds) <= run.seconds + ROUNDING, "its losses or durations are none")
    callbacks, rates = Callbacks(run.config), []
    for epoch, accuracy in enumerate(history["test_accuracy"], start=1):
        rates.append(callbacks.learning_rate)
        callbacks.epoch_ended(epoch, accuracy)
    follows = history["learning_rate"] == rates and run.best_epoch == callbacks.best_epoch
    _expect(follows, "its best epoch or learning rates do not follow from its accuracies")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
