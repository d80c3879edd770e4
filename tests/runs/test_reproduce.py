"""Training recorded runs again: which, what is said of each, and what counts as the same."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smallcnn.commands import CommandError
from smallcnn.config import TrainingConfig, TrainingRun
from smallcnn.runs import reproduce as module
from smallcnn.runs import workers
from smallcnn.runs.records import save_run
from smallcnn.runs.reproduce import SAME, NotReproduced, differences, reproduce
from tests.conftest import FakeTraining

Change = Callable[[TrainingRun], object]


class Published:
    """Three seeds and a pruned round of the first, recorded, and what training them again is made to give."""

    def __init__(self, config: TrainingConfig, train: FakeTraining) -> None:
        config = dataclasses.replace(config, engine="halide")
        first, pruned = config.rounds([0.2])
        seeds = [dataclasses.replace(config, seed=seed) for seed in (1, 2)]
        runs = [train(first), *map(train, seeds)]
        runs.append(train(pruned, runs[0]))
        self.runs = {
            run.config.key: dataclasses.replace(run, seconds=100.0 + number) for number, run in enumerate(runs)
        }
        self.first, self.pruned = first, pruned
        self.changes: dict[str, Change] = {}
        self.trained: list[str] = []
        for run in self.runs.values():
            save_run(run)

    def compute(
        self, configs: Sequence[TrainingConfig], parents: dict[str, TrainingRun], report: object
    ) -> Iterator[TrainingRun]:
        assert not parents
        for config in configs:
            self.trained.append(config.key)
            run = copy.deepcopy(self.runs[config.key])
            run = dataclasses.replace(run, seconds=1.0, provenance={"processor": "another"})
            self.changes.get(config.key, lambda run: None)(run)
            yield run


@pytest.fixture
def published(
    config: TrainingConfig, fake_training: FakeTraining, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Published:
    made = Published(config, fake_training)
    monkeypatch.setattr(module, "PUBLISHED_RUNS", runs_folder)
    monkeypatch.setattr(workers, "compute", made.compute)
    monkeypatch.setattr(workers, "count_workers", lambda configs: min(2, len(configs)))
    monkeypatch.setenv("SMALLCNN_BUILD", str(runs_folder.parent / "build"))
    return made


def test_all_published_runs_are_trained_again_each_after_its_parent(published: Published) -> None:
    lines: list[str] = []
    file = reproduce(lines.append)
    assert sorted(published.trained) == sorted(published.runs)
    assert published.trained.index(published.first.key) < published.trained.index(published.pruned.key)
    assert lines[0] == "4 of 4 published runs to train again, in about 3.4 min"  # 406 s on two workers
    assert lines[-1] == f"all 4 runs: {SAME}"
    assert {line.partition("  ")[0] for line in lines[1:-1]} == set(published.runs)
    outcomes = json.loads(file.read_text("utf-8"))["runs"]
    assert {row["outcome"] for row in outcomes.values()} == {SAME} and outcomes.keys() == set(published.runs)
    assert {row["recorded_on"] for row in outcomes.values()} == {
        run.provenance["processor"] for run in published.runs.values()
    }


@pytest.mark.parametrize(("minutes", "expected"), [(0.01, 1), (1.7, 2), (2.6, 3), (10, 4)])
def test_minutes_limit_what_is_trained_but_for_one_run(
    published: Published, minutes: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module.random, "shuffle", lambda chosen: chosen.sort(key=lambda config: (len(config.label), config.seed))
    )
    reproduce(lambda line: None, minutes=minutes)
    assert len(published.trained) == expected


def test_a_sample_is_random_and_takes_its_parents_along(published: Published) -> None:
    samples = set()
    for _ in range(40):
        published.trained.clear()
        reproduce(lambda line: None, sample=1)
        samples.add(tuple(published.trained))
    singles = {(key,) for key in published.runs if key != published.pruned.key}
    assert samples == singles | {(published.first.key, published.pruned.key)}


def test_runs_of_tensorflow_whose_bits_are_those_of_a_processor_are_trained_only_if_named(
    published: Published, config: TrainingConfig, fake_training: FakeTraining
) -> None:
    run = fake_training(config)
    save_run(run)
    published.runs[config.key] = run
    reproduce(lambda line: None)
    assert len(published.trained) == 4 and config.key not in published.trained
    reproduce(lambda line: None, keys=[config.key])
    assert published.trained[4:] == [config.key]


def test_chosen_keys_only(published: Published) -> None:
    reproduce(lambda line: None, keys=[published.first.key])
    assert published.trained == [published.first.key]
    with pytest.raises(CommandError, match="runs/ has no run 'abc'"):
        reproduce(lambda line: None, keys=["abc"])


def test_a_run_that_came_out_otherwise_is_an_error_and_the_others_are_trained_all_the_same(
    published: Published,
) -> None:
    published.changes[published.first.key] = lambda run: run.misclassified[0].append(3)
    lines: list[str] = []
    with pytest.raises(NotReproduced, match="1 of 4 runs came out otherwise"):
        reproduce(lines.append)
    assert len(published.trained) == 4
    assert any(line.startswith(published.first.key) and "differs: the misread images" in line for line in lines)


def set_history(name: str, epoch: int) -> Change:
    def change(run: TrainingRun) -> None:
        run.history.loc[epoch, name] = np.nextafter(run.history.loc[epoch, name], 9)

    return change


def one_bit(run: TrainingRun) -> None:
    array = run.weights["block_2/kernel"].copy()
    array.view(np.uint32)[0, 0, 0, 0] ^= 1
    run.weights["block_2/kernel"] = array


def shorter(run: TrainingRun) -> None:
    object.__setattr__(run, "history", run.history.drop(2))


def another_class(run: TrainingRun) -> Any:
    classes = run.predicted_classes.copy()
    classes[5] += 1
    object.__setattr__(run, "predicted_classes", classes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda run: None, SAME),
        (set_history("test_loss", 2), "differs: test_loss from epoch 2 on"),
        (set_history("learning_rate", 1), "differs: learning_rate from epoch 1 on"),
        (set_history("train_accuracy", 2), "differs: train_accuracy from epoch 2 on"),
        (shorter, "differs: 1 epochs instead of 2"),
        (one_bit, r"differs: 1 of \d+ arrays of weights, by up to \d\.\de-\d\d"),
        (another_class, "differs: the predicted classes"),
        (lambda run: run.misclassified[1].clear(), "differs: the misread images"),
    ],
)
def test_what_differs_is_named(finished_run: TrainingRun, change: Change, expected: str) -> None:
    run = copy.deepcopy(finished_run)
    change(run)
    assert re.fullmatch(expected, differences(run, finished_run))
