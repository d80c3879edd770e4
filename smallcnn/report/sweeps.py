"""Sweeps: a chapter's network trained with every combination of several parameter values and seeds."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallcnn.architecture import Architecture
from smallcnn.checks import quote
from smallcnn.commands import say
from smallcnn.config import Caution, Report, TrainingConfig, TrainingRun, told_apart
from smallcnn.files import write_text
from smallcnn.paths import build_folder
from smallcnn.report import notebook
from smallcnn.report.chapter import training_configs
from smallcnn.report.parameters import (
    ParameterError,
    check_name,
    check_values,
    parse_changes,
    parse_value,
    published_values,
)
from smallcnn.report.tables import percent, spread, table
from smallcnn.runs import workers
from smallcnn.runs.records import get_runs, is_recorded, recorded
from smallcnn.study import APPROACHES, CHAPTERS, PARAMETERS

if TYPE_CHECKING:
    import pandas as pd

MOST_RUNS = 100_000
LONGEST_NAME = 100
RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")


Point = tuple[Any, ...]


@dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Attributes:
        chapter: whose network it is.
        axes: the values of each parameter that varies, by name; the seeds are not among them.
        configs: those of each point, one a seed; a point has a value for each axis, as `cell_value` gives it.
        changes: the parameters that have one other value at every point.
    """

    chapter: str
    axes: dict[str, list[Any]]
    configs: dict[Point, list[TrainingConfig]]
    changes: dict[str, Any]

    @property
    def name(self) -> str:
        """A file name: the chapter, what varies and what is changed, each with its values, and a hash of the runs.

        Other axes, values or seeds, or another network, make another name; another order of the same does not.
        """
        seeds = [config.seed for config in next(iter(self.configs.values()))]
        given = self.axes | {name: [value] for name, value in self.changes.items()} | {"seeds": seeds}
        words = "-".join(f"{name}={_in_short(values)}" for name, values in sorted(given.items()))
        if len(words) > LONGEST_NAME:
            words = "-".join(sorted(self.axes))[:LONGEST_NAME]
        content = json.dumps([sorted(self.axes), sorted(config.key for config in self.runs)])
        return "-".join(filter(None, [self.chapter, words, hashlib.sha256(content.encode()).hexdigest()[:6]]))

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
    fixed = parse_changes(changes, chapter)
    if not CHAPTERS[chapter].label:
        names = ", ".join(approach.name for approach in APPROACHES)
        raise ParameterError(f"{chapter} does not train one network; those that do: {names}")
    axes = _parse_grid(chapter, grid, fixed)
    varied = {"seeds": axes.pop("seeds")} if "seeds" in axes else {}
    base = notebook.check_parameters(chapter, fixed | varied | {name: values[0] for name, values in axes.items()})
    typed = notebook.network_variables(chapter)
    networks: dict[str, Architecture] = {}  # read once for all points whose values for it are the same
    configs = {}
    for point in itertools.product(*axes.values()):
        values = base | dict(zip(axes, point, strict=True))
        check_values(chapter, values)
        used = repr([(name, value) for name, value in values.items() if name in typed])
        if used not in networks:
            architecture = notebook.read_network(chapter, values)
            if architecture is None:
                raise ParameterError(f"{chapter} types no network: no cell of its notebook has the tag 'network'")
            networks[used] = architecture
        configs[tuple(map(cell_value, point))] = training_configs(networks[used], values)
    sweep = Sweep(chapter, axes, _told_apart(axes, configs), fixed)
    if len(set(sweep.runs)) < len(sweep.runs):
        raise ParameterError(
            f"GRID has the same run at several points: not all values of {', '.join(axes)} change what {chapter} trains"
        )
    return sweep


def _parse_grid(chapter: str, grid: str, fixed: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of every parameter in `grid`, of which `fixed` has none; those of `seeds` are the seeds."""
    known = published_values(chapter)
    texts: dict[str, list[str]] = {}
    for word in grid.split():
        name, equals, text = word.partition("=")
        if not equals or not text:
            raise ParameterError(f"cannot read {quote(word)}; write GRID as name=value,value or name=0..4, with spaces")
        check_name(chapter, name, known)
        if name in texts or name in fixed:
            raise ParameterError(f"parameter {name} is given twice")
        is_list = PARAMETERS[name].type == "list[int]" and name != "seeds"
        texts[name] = text.split("/") if is_list else [value for part in text.split(",") for value in _range(part)]
    if not texts:
        raise ParameterError('GRID is empty; for example GRID="learning_rate=0.003,0.01,0.03 seeds=0..4"')
    size = math.prod(map(len, texts.values()))
    if "seeds" not in texts:
        size *= len(fixed.get("seeds", known["seeds"]))
    if size > MOST_RUNS:
        raise ParameterError(f"GRID has {size} runs; expected at most {MOST_RUNS}")
    axes = {
        name: parse_value(name, ",".join(values)) if name == "seeds" else [parse_value(name, text) for text in values]
        for name, values in texts.items()
    }
    for name, values in axes.items():
        if len(values) != len(set(map(repr, values))):
            raise ParameterError(f"GRID has a value of {name} twice")
    return axes


def _told_apart(
    axes: Iterable[str], configs: Mapping[Point, Sequence[TrainingConfig]]
) -> dict[Point, list[TrainingConfig]]:
    """The configurations of each point, with labels that name it where the networks alone do not."""
    points = [dict(zip(axes, point, strict=True)) for point, runs in configs.items() for _ in runs]
    named = iter(told_apart([config for runs in configs.values() for config in runs], points))
    return {point: list(itertools.islice(named, len(runs))) for point, runs in configs.items()}


def _range(text: str) -> Iterable[str]:
    match = RANGE.fullmatch(text)
    if not match:
        return [text]
    first, last = int(match[1]), int(match[2])
    if not first <= last <= first + MOST_RUNS:
        raise ParameterError(f"cannot read the range {quote(text)}; expected first..last, as in 0..4")
    return map(str, range(first, last + 1))


def cell_value(value: Any) -> Any:
    """A parameter's value as a frame holds it: a number or a word as it is, a list as text such as "4-8-10"."""
    return ("-".join(map(str, value)) or "none") if isinstance(value, list | tuple) else value


def _in_short(values: Sequence[Any]) -> str:
    """The values of one parameter for a file name, in order; whole numbers without a gap as a range."""
    ordered = sorted(values)
    first, last = ordered[0], ordered[-1]
    if isinstance(first, int) and len(ordered) > 2 and last - first == len(ordered) - 1:
        return f"{first}..{last}"
    return ",".join(str(cell_value(value)) for value in ordered)


# --- What came of it ---


def finished_runs(sweep: Sweep) -> list[tuple[Point, TrainingRun]]:
    """The recorded runs with their points, without those whose record is damaged."""
    runs = ((point, recorded(config)) for point, configs in sweep.configs.items() for config in configs)
    return [(point, run) for point, run in runs if run is not None]


def sweep_frame(axes: Sequence[str], runs: Iterable[tuple[Sequence[Any], TrainingRun]]) -> pd.DataFrame:
    """A row a run.

    Args:
        axes: the names of the parameters that vary.
        runs: each with its point.

    Returns:
        The columns are the axes, then seed, best_test_accuracy and final_test_accuracy (0 to 1), epochs_run, seconds
        and key.
    """
    import pandas as pd  # here: a grid that is refused must not wait for it

    rows = [
        dict(zip(axes, point, strict=True))
        | {
            "seed": run.config.seed,
            "best_test_accuracy": run.best_test_accuracy,
            "final_test_accuracy": run.final_test_accuracy,
            "epochs_run": run.epochs_run,
            "seconds": round(run.seconds, 1),
            "key": run.config.key,
        }
        for point, run in runs
    ]
    return pd.DataFrame(rows)


def frame_axes(frame: pd.DataFrame) -> list[str]:
    """The names of the parameters that vary in a sweep's frame."""
    return list(frame.columns[: frame.columns.get_loc("seed")])


def accuracies_by_point(frame: pd.DataFrame) -> dict[tuple[str, ...], list[float]]:
    """The best test accuracies (0 to 1) at each point of a sweep's frame, by the texts of its values."""
    points: dict[tuple[str, ...], list[float]] = {}
    for *point, accuracy in frame[[*frame_axes(frame), "best_test_accuracy"]].itertuples(index=False):
        points.setdefault(tuple(map(str, point)), []).append(accuracy)
    return points


def sweep_table(frame: pd.DataFrame, caution: str = "") -> str:
    """Mean and spread, best and lowest of each point as Markdown, and below it what must be said of the runs."""
    axes = frame_axes(frame)
    rows = [
        (*point, len(values), spread(values), percent(max(values)), percent(min(values)))
        for point, values in accuracies_by_point(frame).items()
    ]
    header = (*axes, "seeds", "best test accuracy", "highest seed", "lowest seed")
    return table(header, rows, left=len(axes)) + (f"\n**Mind:** {caution}.\n" if caution else "")


def caution_of(runs: Sequence[TrainingRun]) -> str:
    """What must be said of runs of too few steps, once for all of them; empty if there are none among `runs`."""
    few = [run for run in runs if run.caution]
    worst = min(few, key=lambda run: run.steps, default=None)
    if worst is None or len(runs) == 1:
        return worst.caution if worst else ""
    return f"{len(few)} of {len(runs)} runs are too short; the shortest has {worst.caution}"


def run_sweep(sweep: Sweep, report: Report = say) -> Path:
    """Finds the recorded runs of `sweep`, trains and records the others, and writes what came of it to `build/sweeps`.

    What is finished is also written if somebody stops it, or a run fails.

    Args:
        sweep: what to train.
        report: called with lines of text.

    Returns:
        The CSV, a line a run; a Markdown table and a figure stand beside it.

    Raises:
        WorkersError: if the address of a cluster is wrong, or its scheduler is gone.
        Interrupted: if somebody stops it.
    """
    workers.scheduler_address()  # refused here, before anything starts
    missing = [config for config in sweep.runs if not is_recorded(config)]
    points = "1 point" if len(sweep.configs) == 1 else f"{len(sweep.configs)} points"
    report(f"{len(sweep.runs)} runs at {points}, {len(sweep.runs) - len(missing)} of them recorded")
    if missing:
        minutes = sum(map(workers.expected_seconds, missing)) / workers.count_workers(missing) / 60
        report(f"about {minutes:.0f} min at most for the rest, on this machine's cores")
    path = build_folder() / "sweeps" / f"{sweep.name}.csv"
    try:
        # What must be said of short runs is said once, below the table.
        get_runs(sweep.runs, lambda line: None if isinstance(line, Caution) else report(line))
    finally:
        if finished := finished_runs(sweep):
            _write(list(sweep.axes), finished, path, report)
    return path


def _write(axes: list[str], finished: Sequence[tuple[Point, TrainingRun]], path: Path, report: Report) -> None:
    from smallcnn.report import figures  # here: matplotlib takes a second

    frame = sweep_frame(axes, finished)
    text = sweep_table(frame, caution_of([run for _, run in finished]))
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))
    write_text(path.with_suffix(".md"), text)
    write_text(path.with_suffix(".svg"), figures.sweep_points(axes, accuracies_by_point(frame)).to_svg().decode())
    report(text)
    report(f"{path.with_suffix('')}.csv, .md and .svg")
