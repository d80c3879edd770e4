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
from smallcnn.commands import CommandError
from smallcnn.config import HISTORY, Checkpoint, Report, TrainingConfig, TrainingRun, history_frame
from smallcnn.files import replacing
from smallcnn.paths import record_folders, runs_folder
from smallcnn.runs import progress, workers
from smallcnn.training import train


class DamagedRun(Exception):
    """A record that must not be used; the message says what is wrong with it."""


class Interrupted(CommandError):
    """Ctrl-C, or a notebook's stop button; the message says how far the training was and how it goes on."""

    exit_code = 130


class Caution(str):
    """A line on a run of too few steps, which whoever shows the result of many runs leaves out to say it once."""


def get_runs(configs: Sequence[TrainingConfig], report: Report | None = None) -> list[TrainingRun]:
    """Finds the recorded run of each configuration, and trains and records those that are missing.

    Missing runs are computed by the workers; a single one by this process, on all its cores. A run is recorded the
    moment it is finished.

    Args:
        configs: the runs to get; the earlier rounds of a pruned run need not be listed.
        report: called with lines of text on progress and on records that cannot be used; by default the lines go to
            the terminal, and a notebook shows bars.

    Returns:
        The runs in the order of `configs`.

    Raises:
        Interrupted: if somebody stops it; what is finished stays recorded.
    """
    with progress.shown(report) as report:
        finished: dict[str, TrainingRun] = {}
        missing: list[TrainingConfig] = []
        for config in _parents_first(configs):
            try:
                run = find_run(config)
            except DamagedRun as damage:
                report(f"{damage}; training it again")
                run = None
            if run is None:
                missing.append(config)
            else:
                finished[config.key] = run
        if missing:
            _compute(missing, finished, report)
    return [finished[config.key] for config in configs]


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
    folder = _folder_of(config.key)
    if folder is None:
        return None
    run = load_run(folder)
    if run.config != config:
        raise DamagedRun(f"the recorded run {config.key} is of another configuration")
    return run


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
        folder = _folder_of(key)
        if folder is None:
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
        np.savez(weights, **run.weights)
        (temporary / "weights.npz").write_bytes(weights.getvalue())
        fields = {**_fields(run), "weights_sha256": hashlib.sha256(weights.getvalue()).hexdigest()}
        (temporary / "run.json").write_text(_to_json({**fields, "sha256": _checksum(fields)}), encoding="utf-8")
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not _is_whole(folder):  # else another process was quicker, by less than a look at its record takes
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        load_run(folder)
    except DamagedRun:
        return False
    return True


def _parents_first(configs: Iterable[TrainingConfig]) -> list[TrainingConfig]:
    ordered: dict[str, TrainingConfig] = {}
    for config in configs:
        lineage = [config]
        while lineage[-1].parent is not None:
            lineage.append(lineage[-1].parent)
        for ancestor in reversed(lineage):
            ordered.setdefault(ancestor.key, ancestor)
    return list(ordered.values())


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


def recorded(config: TrainingConfig) -> TrainingRun | None:
    """The recorded run of `config`; None if there is none, or only a damaged record."""
    try:
        return find_run(config)
    except DamagedRun:
        return None


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

    parent = config.parent and finished[config.parent.key]
    try:
        yield train(config, parent, report, checkpoint, keep)
    except KeyboardInterrupt:
        message = f"interrupted after epoch {epochs} of {config.label}; the same again goes on from there"
        raise Interrupted(message) from None


def _checkpoint_file(config: TrainingConfig) -> Path:
    return runs_folder() / f".{config.key}.checkpoint.npz"


def _save_checkpoint(config: TrainingConfig, checkpoint: Checkpoint) -> None:
    fields = dataclasses.asdict(checkpoint)
    arrays = {f"best_weights {name}": array for name, array in fields.pop("best_weights").items()}
    arrays |= {f"engine_state {name}": array for name, array in fields.pop("engine_state").items()}
    arrays["predicted_classes"] = fields.pop("predicted_classes")
    with replacing(_checkpoint_file(config)) as temporary, temporary.open("wb") as file:
        np.savez(file, fields=np.array(json.dumps(fields)), **arrays)


def _load_checkpoint(config: TrainingConfig) -> Checkpoint | None:
    """What an interrupted run of `config` left, if that is whole."""
    try:
        with np.load(_checkpoint_file(config), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        fields = json.loads(str(arrays.pop("fields")))
        parts: dict[str, dict[str, np.ndarray]] = {"best_weights": {}, "engine_state": {}}
        for name in arrays.keys() - {"predicted_classes"}:
            part, array = name.split(" ")
            parts[part][array] = arrays[name]
        return Checkpoint(**fields, **parts, predicted_classes=arrays["predicted_classes"])
    except Exception:  # noqa: BLE001 - a damaged file makes its readers fail in any way
        return None


def _fields(run: TrainingRun) -> dict[str, Any]:
    return {
        "key": run.config.key,
        "recipe_version": run.config.recipe_version,
        "dataset": data.FINGERPRINT,
        "config": run.config.to_json(),
        "provenance": run.provenance,
        "best_test_accuracy": run.best_test_accuracy,
        "best_epoch": run.best_epoch,
        "final_test_accuracy": run.final_test_accuracy,
        "epochs_run": run.epochs_run,
        "seconds": run.seconds,
        "epoch_seconds": run.epoch_seconds,
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
    if fields.pop("sha256") != _checksum(fields) or not is_as_written:
        raise ValueError("run.json is not as it was written")
    config = TrainingConfig.from_json(fields["config"])
    if fields["recipe_version"] != config.recipe_version or fields["dataset"] != data.FINGERPRINT:
        raise ValueError("it is of another recipe or dataset")
    content = (folder / "weights.npz").read_bytes()
    if hashlib.sha256(content).hexdigest() != fields["weights_sha256"]:
        raise ValueError("weights.npz is not as it was written")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        weights = {name: file[name] for name in file.files}
    if {name: array.shape for name, array in weights.items()} != config.architecture.weight_shapes:
        raise ValueError("the weights are not those of its network")
    by_epoch = (*fields["history"].values(), fields["misclassified"], fields["epoch_seconds"])
    lengths = {len(values) for values in by_epoch}
    if len(lengths) != 1 or fields["history"].keys() != set(HISTORY):
        raise ValueError("its history is not of so many epochs")
    run = TrainingRun(
        config=config,
        history=history_frame(fields["history"]),
        misclassified=fields["misclassified"],
        best_epoch=fields["best_epoch"],
        predicted_classes=np.frombuffer(fields["predicted_classes"].encode(), np.uint8) - ord("0"),
        weights=weights,
        epoch_seconds=fields["epoch_seconds"],
        seconds=fields["seconds"],
        provenance=fields["provenance"],
    )
    _check(run, fields)
    return run


def _check(run: TrainingRun, fields: dict[str, Any]) -> None:
    """Raises ValueError if the parts of a record contradict each other."""
    if not 1 <= run.best_epoch <= run.epochs_run <= run.config.epochs:
        raise ValueError("its history is not of so many epochs")
    if any(array.dtype != np.float32 for array in run.weights.values()):
        raise ValueError("its weights are not float32 numbers")
    wrong = len(run.misclassified[run.best_epoch - 1])
    accuracy = run.best_test_accuracy
    images = len(run.predicted_classes)
    if fields["best_test_accuracy"] != accuracy or round(accuracy * images) != images - wrong:
        raise ValueError("its accuracies contradict each other")
