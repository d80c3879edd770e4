"""Runs with whatever accuracies a test needs; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from smallcnn.architecture import Architecture, Weights, initial_weights
from smallcnn.config import HISTORY, TrainingConfig, TrainingRun, history_frame
from smallcnn.provenance import PACKAGES
from smallcnn.study import TRAINING
from smallcnn.training import Callbacks
from tests.networks import PUBLISHED

PROVENANCE = {
    "date": "2026-01-02T03:04:05+00:00",
    "processor": "Processor 9",
    "system": "Linux x86_64",
    "python": "3.12.1",
    "numpy": "2.3.4",
    "halide": "21.0.0",
}


def made_up_run(
    accuracies: Sequence[float],
    seed: int = 0,
    architecture: Architecture = PUBLISHED["approach_2"],
    *,
    images: int = 10_000,
    weights: Weights | None = None,
    provenance: Mapping[str, str] = PROVENANCE,
    seconds: float = 0.0,
    **settings: Any,
) -> TrainingRun:
    """A run with these test accuracies, an epoch each; every epoch errs on other images, and no two columns are alike.

    Args:
        settings: of the configuration, where they differ from the published ones.
    """
    settings = {name: value for name, value in TRAINING.items() if name != "seeds"} | {"engine": "halide"} | settings
    config = TrainingConfig(architecture, seed, **settings)
    correct = [round(accuracy * images) for accuracy in accuracies]
    epochs = np.arange(1, len(accuracies) + 1)
    columns = {
        "learning_rate": learning_rates(config, accuracies),
        "train_loss": (0.7 + seed / 100) / epochs,
        "train_accuracy": 0.3 + seed / 100 + 0.4 * epochs / len(epochs),
        "test_loss": (0.5 + seed / 100) / epochs,
        "test_accuracy": accuracies,
        "test_correct": correct,
    }
    first = max(config.gradual_epochs - 1, 0)
    return TrainingRun(
        config=config,
        history=history_frame({name: list(columns[name]) for name in HISTORY}),
        misclassified=[
            sorted((((images // 7) * epoch + np.arange(images - right)) % images).tolist())
            for epoch, right in enumerate(correct)
        ],
        best_epoch=max(range(first, len(accuracies)), key=accuracies.__getitem__) + 1,
        predicted_classes=np.zeros(images, np.uint8),
        weights=weights or initial_weights(architecture, seed),
        epoch_seconds=list(seconds * epochs / epochs.sum()),
        seconds=seconds,
        provenance={**provenance, **dict.fromkeys(PACKAGES[config.engine], "1.2.3"), **provenance},
    )


def learning_rates(config: TrainingConfig, accuracies: Sequence[float]) -> Iterator[float]:
    """Those that such accuracies lead to."""
    callbacks = Callbacks(config)
    for epoch, accuracy in enumerate(accuracies, start=1):
        yield callbacks.learning_rate
        callbacks.epoch_ended(epoch, accuracy)


def made_up_runs(*bests: float, **options: Any) -> list[TrainingRun]:
    """A run for each of these best test accuracies, with the seeds 0, 1, ….

    Each is at its best after epoch 2 of 4. The next epoch is almost as good and errs on other images, so that other
    images would often choose it.
    """
    return [made_up_run([0.5, best, best - 0.001, 0.6 - best / 9], seed, **options) for seed, best in enumerate(bests)]
