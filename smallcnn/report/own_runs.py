"""A reader's own runs in `data/runs`: what they are, removing them, and publishing those that the book uses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from smallcnn import paths
from smallcnn.checks import quote
from smallcnn.commands import CommandError, say
from smallcnn.config import told_apart
from smallcnn.report.tables import percent
from smallcnn.runs.records import DamagedRun, load_run
from smallcnn.study import CHAPTERS


def folders() -> list[Path]:
    """The records of a reader's own runs, the newest last."""
    return sorted(_records(paths.OWN_RUNS), key=lambda folder: folder.stat().st_mtime)


def _records(parent: Path) -> list[Path]:
    found = parent.iterdir() if parent.exists() else ()
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]


def show() -> None:
    """Prints a line for each run, after one for each damaged record."""
    own, runs = folders(), []
    for folder in own:
        try:
            runs.append(load_run(folder))
        except DamagedRun as damage:
            say(f"{folder.name}  {damage}")
    shown = ("epochs", "learning_rate", "train_examples", "engine")
    settings = [{name: value for name, value in run.config.settings.items() if name not in shown} for run in runs]
    for run, config in zip(runs, told_apart([run.config for run in runs], settings), strict=True):
        say(
            f"{config.key}  {run.provenance['date'][:10]}  {percent(run.best_test_accuracy):>8}  {config.engine:10} "
            f"{run.epochs_run} of {config.epochs} epochs, {config.train_examples:,} images, "
            f"learning rate {config.learning_rate:g}, {config.label}"
        )
    size = sum(path.stat().st_size for folder in own for path in folder.iterdir())
    say(f"{len(own)} runs of your own in data/runs, {size / 1e6:.1f} MB" if own else "no runs of your own in data/runs")


def remove(keys: Sequence[str]) -> None:
    """Removes the records with these keys, or all of them.

    Raises:
        CommandError: if there is no such record; nothing is removed then.
    """
    own = {folder.name: folder for folder in folders()}
    chosen = list(own) if list(keys) == ["all"] else list(dict.fromkeys(keys))
    if unknown := [key for key in chosen if key not in own]:
        raise CommandError(f"data/runs has no run {quote(unknown[0])}; `python -m smallcnn runs` lists what it has")
    for key in chosen:
        shutil.rmtree(own[key])
    if list(keys) == ["all"] and paths.OWN_RUNS.exists():  # checkpoints of interrupted runs too
        shutil.rmtree(paths.OWN_RUNS)
    say(f"{len(chosen)} runs removed")


def publish() -> None:
    """Moves the runs that the book uses as published to `runs/`, and names the published ones that it does not use.

    Raises:
        CommandError: if the book is not built as published.
    """
    used = published_keys()
    before = {folder.name for folder in _records(paths.PUBLISHED_RUNS)}  # somebody else may have published the same
    moved = [folder for folder in folders() if folder.name in used - before]
    for folder in moved:
        shutil.move(folder, paths.PUBLISHED_RUNS / folder.name)
        say(f"{folder.name} is in runs/ now")
    unused = sorted(before - used)
    say(f"{len(moved)} runs published")
    if unused:
        say(f"no page uses these of runs/ any more; git rm -r removes them: {' '.join(unused)}")


def published_keys() -> set[str]:
    """The keys of all runs that the chapters, built with published values, and the recorded measurements name.

    Raises:
        CommandError: if a chapter is not built, or with other values.
    """
    used: set[str] = set()
    for chapter in CHAPTERS:
        path = paths.build_folder() / "results" / f"{chapter}.json"
        text = path.read_text(encoding="utf-8") if path.exists() else "{}"
        if json.loads(text).get("changed_parameters", True):
            raise CommandError(f"{chapter} is not built with its published values; run 'make book' first")
        used |= set(paths.RUN_KEY.findall(text))
    for path in paths.MEASUREMENTS.glob("*.json"):
        used |= set(paths.RUN_KEY.findall(path.read_text(encoding="utf-8")))
    return used
