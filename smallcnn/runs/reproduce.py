"""Training recorded runs again, to see whether they come out as they were recorded, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from smallcnn import provenance
from smallcnn.checks import quote
from smallcnn.commands import CommandError
from smallcnn.config import HISTORY, EpochLine, Report, TrainingConfig, TrainingRun
from smallcnn.files import write_json
from smallcnn.paths import PUBLISHED_RUNS, build_folder
from smallcnn.runs import workers
from smallcnn.runs.records import load_run

SAME = "same bytes"


class NotReproduced(CommandError):
    """Runs came out otherwise than recorded; the message says how many."""


def reproduce(
    report: Report, keys: Sequence[str] = (), sample: int | None = None, minutes: float | None = None
) -> Path:
    """Trains published runs again, without any record of them, and says of each whether it is the same.

    The earlier rounds of a pruned run are trained and compared too.

    Args:
        report: called with lines of text.
        keys: the runs to train; by default all of the fast engine, whose bits are the same everywhere.
        sample: take so many of these, at random.
        minutes: take as many of these, at random, as so many minutes are expected to be enough for, at least one.

    Returns:
        A file with the outcome of each run, and the machines that it was recorded and repeated on.

    Raises:
        CommandError: if there is no such run, or its record is damaged.
        NotReproduced: if any came out otherwise; the file is written all the same.
    """
    recorded = {run.config.key: run for run in map(load_run, sorted(_folders()))}
    if unknown := [key for key in keys if key not in recorded]:
        raise CommandError(f"runs/ has no run {quote(unknown[0])}")
    promised = [key for key, run in recorded.items() if run.config.engine == "halide"]
    chosen = [recorded[key].config for key in dict.fromkeys(keys or promised)]
    if sample is not None or minutes is not None:
        random.shuffle(chosen)
    configs = _with_parents(chosen[:sample], recorded, minutes)
    seconds = _expected_seconds(configs, recorded)
    report(f"{len(configs)} of {len(recorded)} published runs to train again, in about {seconds / 60:.1f} min")
    outcomes: dict[str, str] = {}
    finished: dict[str, TrainingRun] = {}
    file = build_folder() / "reproduced.json"
    for run in workers.compute(configs, finished, lambda line: None if isinstance(line, EpochLine) else report(line)):
        key = run.config.key
        outcomes[key] = differences(run, recorded[key])
        report(f"{key}  {run.config.label}: {outcomes[key]} ({len(outcomes)} of {len(configs)})")
        write_json(file, {"machine": provenance.describe(run.config.engine), "runs": _outcome_rows(outcomes, recorded)})
    differ = sum(outcome != SAME for outcome in outcomes.values())
    if differ:
        raise NotReproduced(f"{differ} of {len(configs)} runs came out otherwise than recorded; {file} has them")
    report(f"all {len(configs)} runs: {SAME}")
    return file


def _folders() -> list[Path]:
    return [path for path in PUBLISHED_RUNS.iterdir() if (path / "run.json").exists()]


def _with_parents(
    chosen: Sequence[TrainingConfig], recorded: Mapping[str, TrainingRun], minutes: float | None
) -> list[TrainingConfig]:
    """The runs to train, each after its parent, and no more than `minutes` are expected to be enough for."""
    configs: dict[str, TrainingConfig] = {}
    for config in chosen:
        more = dict(configs)
        line = [config]
        while (parent := line[-1].parent) is not None:
            line.append(parent)
        more.update({each.key: each for each in reversed(line)})
        if not configs or minutes is None or _expected_seconds(list(more.values()), recorded) <= 60 * minutes:
            configs = more
    return list(configs.values())


def _expected_seconds(configs: Sequence[TrainingConfig], recorded: Mapping[str, TrainingRun]) -> float:
    """What these runs took when they were recorded, shared by the workers, or the longest of them."""
    seconds = [recorded[config.key].seconds for config in configs]
    return max(sum(seconds) / workers.count_workers(configs), *seconds)


def _outcome_rows(outcomes: Mapping[str, str], recorded: Mapping[str, TrainingRun]) -> dict[str, dict[str, str]]:
    return {
        key: {"recorded_on": recorded[key].provenance["processor"], "outcome": outcome}
        for key, outcome in outcomes.items()
    }


def differences(run: TrainingRun, recorded: TrainingRun) -> str:
    """What of a run is not as recorded, its durations and machine aside; `SAME` if nothing is."""
    found = []
    for name in HISTORY:
        ours, theirs = run.history[name].to_numpy(), recorded.history[name].to_numpy()
        if len(ours) != len(theirs):
            found = [f"{len(ours)} epochs instead of {len(theirs)}"]
            break
        if (where := np.flatnonzero(ours != theirs)).size:
            found.append(f"{name} from epoch {where[0] + 1} on")
    if run.misclassified != recorded.misclassified:
        found.append("the misread images")
    if run.predicted_classes.tobytes() != recorded.predicted_classes.tobytes():
        found.append("the predicted classes")
    apart = [name for name, array in recorded.weights.items() if array.tobytes() != run.weights[name].tobytes()]
    if apart:
        furthest = max(float(np.abs(run.weights[name] - recorded.weights[name]).max()) for name in apart)
        found.append(f"{len(apart)} of {len(recorded.weights)} arrays of weights, by up to {furthest:.1e}")
    return f"differs: {', '.join(found)}" if found else SAME
