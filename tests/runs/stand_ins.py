"""Stand-ins for `train`, in a file of their own, so that a worker process imports little but them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from smallcnn.config import HISTORY, EpochLine, Report, TrainingConfig, TrainingRun, history_frame

DIES, DIES_ONCE, FAILS = 100, 200, 300  # seeds
MARKER = "SMALLCNN_TEST_MARKER"


def pretend(config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
    """A stand-in for `train` that takes no time."""
    if config.seed == FAILS:
        raise FloatingPointError("the loss is not a number")
    marker = Path(os.environ.get(MARKER, "/nonexistent"))
    if config.seed == DIES or (config.seed == DIES_ONCE and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    report(EpochLine(f"{config.label}: epoch 1 of at most 1", config.label, 1, 1))
    return TrainingRun(
        config=config,
        history=history_frame({name: [0.5] for name in HISTORY}),
        misclassified=[[]],
        best_epoch=1,
        predicted_classes=np.zeros(10, np.uint8),
        weights={"of the parent": np.zeros(0) if parent is None else np.array([parent.config.seed])},
        epoch_seconds=[0.0],
        seconds=0.0,
        provenance={"process": str(os.getpid())},
    )


def pretend_slowly(config: TrainingConfig, parent: TrainingRun | None, report: Report) -> TrainingRun:
    time.sleep(1)
    return pretend(config, parent, report)
