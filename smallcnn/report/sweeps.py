"""Sweeps: a chapter's network trained with every combination of several parameter values and seeds."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallcnn.chapters import check_parameters, training_configs
from smallcnn.checks import quote
from smallcnn.parameters import ParameterError, parse_changes, parse_value, read_parameters
from smallcnn.runs import DamagedRun, is_recorded, load_run, save_run
from smallcnn.tables import percent, spread, table
from smallcnn.training import TrainingConfig, TrainingRun

MOST_RUNS = 100_000
LONGEST_NAME = 100
RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")


@dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Attributes:
        chapter: whose network it is.
        axes: the values of each parameter that varies, by name; the seeds are not among them.
        configs: the configurations of each point, one a seed; a point has a value for each axis.
        changes: the parameters that have one other value at every point.
    """

    chapter: str
    axes: dict[str, list[Any]]
    configs: dict[tuple[Any, ...], list[TrainingConfig]]
    changes: dict[str, Any]

    @property
    def name(self) -> str:
        """The chapter, the axes and what is changed besides, as a file name."""
        changes = "-".join(f"{name}={_cell(value)}" for name, value in self.changes.items())
        if len(changes) > LONGEST_NAME:
            changes = hashlib.sha256(changes.encode()).hexdigest()[:16]
        return "-".join([self.chapter, *self.axes, *([changes] if changes else [])])

    @property
    def runs(self) -> list[TrainingConfig]:
        """All configurations, point by point."""
        return [config for configs in self.configs.values() for config in configs]


def parse_sweep(chapter: str, grid: str, changes: str = "") -> Sweep:
    """Reads a grid, `learning_rate=0.003,0.01 seeds=0..4`, and checks every point of it.

    A parameter that is a list takes its alternatives with slashes, `filters=4,8,10/2,4,10`; `seeds` lists the seeds.

    Args:
        chapter: one that trains one network.
        grid: for each parameter that varies its values.
        changes: parameters with one other value, as for a rerun.

    Raises:
        ParameterError: if chapter, grid or changes are malformed or out of range.
    """
    known = read_parameters(chapter)
    fixed = parse_changes(changes, chapter)
    if "seeds" not in known or "rounds" in known:
        raise ParameterError(f"{chapter} does not train one network; sweep approach_1, approach_2 or approach_3")
    texts: dict[str, list[str]] = {}
    for word in grid.split():
        name, equals, text = word.partition("=")
        if not equals or not text:
            raise ParameterError(f"cannot read {quote(word)}; write GRID as name=value,value or name=0..4, with spaces")
        if name not in known:
            raise ParameterError(f"unknown parameter {quote(name)} for {chapter}; it has: {', '.join(known)}")
        if name in texts or name in fixed:
            raise ParameterError(f"parameter {name} is given twice")
        is_list = known[name].type == "list[int]" and name != "seeds"
        texts[name] = text.split("/") if is_list else [value for part in text.split(",") for value in _range(part)]
    if not texts:
        raise ParameterError('GRID is empty; for example GRID="learning_rate=0.003,0.01,0.03 seeds=0..4"')
    size = math.prod(map(len, texts.values()))
    if "seeds" not in texts:
        size *= len(fixed.get("seeds", known["seeds"].default))
    if size > MOST_RUNS:
        raise ParameterError(f"GRID has {size} runs; expected at most {MOST_RUNS}")
    axes = {name: [parse_value(known[name], text) for text in of_name] for name, of_name in texts.items()}
    for name, values in axes.items():
        if len(values) != len({repr(value) for value in values}):
            raise ParameterError(f"GRID has a value of {name} twice")
    seeds = [seed for (seed,) in axes.pop("seeds")] if "seeds" in axes else None
    configs = {}
    for point in itertools.product(*axes.values()):
        values = fixed | dict(zip(axes, point, strict=True)) | ({} if seeds is None else {"seeds": seeds})
        configs[tuple(map(_cell, point))] = training_configs(check_parameters(chapter, values))
    sweep = Sweep(chapter, axes, configs, fixed)
    if len({config.key for config in sweep.runs}) < len(sweep.runs):
        raise ParameterError(
            f"GRID has the same run at several points: not all values of {', '.join(axes)} change what {chapter} trains"
        )
    return sweep


def _range(text: str) -> Iterable[str]:
    match = RANGE.fullmatch(text)
    if not match:
        return [text]
    first, last = int(match[1]), int(match[2])
    if not first <= last <= first + MOST_RUNS:
        raise ParameterError(f"cannot read the range {quote(text)}; expected first..last, as in 0..4")
    return map(str, range(first, last + 1))


def _cell(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def use_recorded(configs: Iterable[TrainingConfig], records: Path) -> None:
    """Copies the records that another folder has already, so that nothing is trained twice."""
    for config in configs:
        run = None if is_recorded(config) else _load(config, records)
        if run is not None:
            save_run(run)


def _load(config: TrainingConfig, records: Path | None = None) -> TrainingRun | None:
    """The recorded run of `config`; None if there is none, or only a damaged record."""
    try:
        return load_run(config, records)
    except DamagedRun:
        return None


def finished_runs(sweep: Sweep) -> dict[tuple[Any, ...], list[TrainingRun]]:
    """The recorded runs of each point that has any, without those whose record is damaged."""
    runs = {point: list(map(_load, configs)) for point, configs in sweep.configs.items()}
    found = {point: [run for run in of_point if run is not None] for point, of_point in runs.items()}
    return {point: of_point for point, of_point in found.items() if of_point}


def to_csv(axes: Sequence[str], runs: Mapping[tuple[Any, ...], Sequence[TrainingRun]]) -> str:
    """One line a run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, "seed", "best_test_accuracy", "final_test_accuracy", "epochs_run", "seconds", "key"])
    for point, of_point in runs.items():
        for run in of_point:
            accuracies = (run.best_test_accuracy, run.final_test_accuracy)
            rest = (run.config.seed, *accuracies, run.epochs_run, round(run.seconds, 1), run.config.key)
            writer.writerow([*point, *rest])
    return text.getvalue()


def read_csv(text: str) -> tuple[list[str], dict[tuple[str, ...], list[float]]]:
    """The axes of a sweep's CSV, and the best test accuracies of each of its points."""
    header, *rows = csv.reader(io.StringIO(text))
    axes = header[: header.index("seed")]
    points: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        points.setdefault(tuple(row[: len(axes)]), []).append(float(row[header.index("best_test_accuracy")]))
    return axes, points


def sweep_table(axes: Sequence[str], points: Mapping[tuple[str, ...], Sequence[float]]) -> str:
    """Mean and spread, best and lowest of each point."""
    rows = [
        (*point, len(values), spread(values), percent(max(values)), percent(min(values)))
        for point, values in points.items()
    ]
    return table((*axes, "seeds", "best test accuracy", "highest seed", "lowest seed"), rows, left=len(axes))
