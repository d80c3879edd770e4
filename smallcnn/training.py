"""The one training loop of the book: a configuration goes in, a finished run comes out, whatever the engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from smallcnn import data, provenance, pruning
from smallcnn.architecture import Weights, convolution_kernels, initial_weights
from smallcnn.arithmetic import logarithm
from smallcnn.commands import CommandError
from smallcnn.config import HISTORY, Checkpoint, EpochLine, Report, TrainingConfig, TrainingRun, history_frame
from smallcnn.engines.start import create_engine


class Diverged(CommandError):
    """A loss is not a number; the message names the run."""


def train(
    config: TrainingConfig,
    parent: TrainingRun | None = None,
    report: Report = print,
    checkpoint: Checkpoint | None = None,
    keep: Callable[[Checkpoint], None] | None = None,
) -> TrainingRun:
    """Trains `config` from its initial weights, or from where an interrupted run was.

    Args:
        config: the run to make.
        parent: for a pruned run, the finished run of `config.parent`, whose weights are ranked.
        report: called with a line of text after every epoch.
        checkpoint: what `keep` last got from an interrupted run of `config`; the result is as if it had not been.
        keep: called after every epoch with what an interrupted run can go on from.

    Raises:
        Diverged: if the loss is not a number any more.
    """
    started = time.perf_counter()
    train_set, test_set = data.load_mnist()
    train_set = data.stratified_subset(train_set, config.train_examples)
    masks = pruning_masks(config, parent)
    weights = initial_weights(config.architecture, config.seed)
    for name, mask in masks.items():
        weights[name] *= mask
    engine = create_engine(config, train_set, weights, masks)
    callbacks = Callbacks(config)
    so_far = checkpoint or Checkpoint(weights, np.zeros(len(test_set.labels), np.uint8))
    if so_far.engine_state:
        engine.set_state(so_far.engine_state)
    for epoch, test_accuracy in enumerate(so_far.history["test_accuracy"], start=1):
        callbacks.epoch_ended(epoch, test_accuracy)

    started -= so_far.seconds
    for epoch in range(len(so_far.epoch_seconds) + 1, config.epochs + 1):
        if callbacks.stop:
            break
        epoch_started = time.perf_counter()
        learning_rate = callbacks.learning_rate
        train_loss, train_accuracy = engine.train_epoch(data_order(config, epoch), learning_rate)
        probabilities = engine.predict(test_set.images)
        test_loss = cross_entropy(probabilities, test_set.labels, config.engine)
        if not (math.isfinite(train_loss) and math.isfinite(test_loss)):
            raise Diverged(f"{config.label}: the loss of epoch {epoch} is not a number; lower learning_rate")
        predictions = probabilities.argmax(axis=1).astype(np.uint8)
        wrong = np.flatnonzero(predictions != test_set.labels)
        correct = len(predictions) - len(wrong)
        row = (learning_rate, train_loss, train_accuracy, test_loss, correct / len(predictions), correct)
        for name, value in zip(HISTORY, row, strict=True):
            so_far.history[name].append(value)
        so_far.misclassified.append(wrong.tolist())
        if callbacks.epoch_ended(epoch, correct / len(predictions)):
            so_far.best_weights, so_far.predicted_classes = engine.get_weights(), predictions
        so_far.epoch_seconds.append(time.perf_counter() - epoch_started)
        so_far.seconds = time.perf_counter() - started
        if keep is not None:
            so_far.engine_state = engine.get_state()
            keep(so_far)
        text = (
            f"{config.label}: epoch {epoch} of at most {config.epochs}, training {100 * train_accuracy:.2f} %, "
            f"test {100 * correct / len(predictions):.2f} %, {so_far.epoch_seconds[-1]:.1f} s"
        )
        report(EpochLine(text, config.label, epoch, config.epochs))
    return TrainingRun(
        config=config,
        history=history_frame(so_far.history),
        misclassified=so_far.misclassified,
        best_epoch=callbacks.best_epoch,
        predicted_classes=so_far.predicted_classes,
        weights=so_far.best_weights,
        epoch_seconds=so_far.epoch_seconds,
        seconds=time.perf_counter() - started,
        provenance=provenance.describe(config.engine),
    )


class Callbacks:
    """Early stopping and the learning rate on a plateau, as Keras' callbacks of these names do it.

    An epoch is better if its test accuracy is above that of every epoch before. Early stopping counts the epochs since
    the last better one that is also above the baseline; the plateau counts those since the last better one or the
    last drop of the learning rate. Under a gradual pruning schedule epochs count from the one that ends at full
    sparsity, since no earlier network is pruned as asked.

    Attributes:
        learning_rate: that of the next epoch.
        best_epoch: the best epoch so far, counted from 1; 0 before the first that counts.
        stop: whether training should stop.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self.learning_rate = config.learning_rate
        self.best_epoch = 0
        self.stop = False
        self._best = -math.inf
        self._since_better = 0
        self._since_better_or_drop = 0

    def epoch_ended(self, epoch: int, test_accuracy: float) -> bool:
        """Takes the test accuracy after `epoch` and returns whether it is the best so far."""
        if epoch < self._config.gradual_epochs:
            return False
        better = test_accuracy > self._best
        self._since_better += 1
        self._since_better_or_drop += 1
        if better:
            self._best, self.best_epoch = test_accuracy, epoch
            self._since_better_or_drop = 0
            if test_accuracy > self._config.early_stopping_baseline:
                self._since_better = 0
        if self._since_better_or_drop >= self._config.plateau_patience:
            self.learning_rate *= self._config.plateau_factor
            self._since_better_or_drop = 0
        self.stop = not better and self._since_better >= self._config.early_stopping_patience
        return better


def data_order(config: TrainingConfig, epoch: int) -> np.ndarray:
    """Shuffles the training images anew for `epoch` (from 1), into int32 (steps, batch size)."""
    order = np.random.default_rng((config.seed, epoch)).permutation(config.train_examples)
    steps = config.steps_per_epoch
    return order[: steps * config.batch_size].reshape(steps, config.batch_size).astype(np.int32)


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray, engine: str = "halide") -> float:
    """The mean of −log p of the right class, p at least 1e-7 as in Keras.

    It has the same bits on every processor, but for TensorFlow, whose probabilities have not: its recorded runs are
    of NumPy's logarithm.
    """
    right = np.maximum(probabilities[np.arange(len(labels)), labels].astype(np.float64), 1e-7)
    return float(-np.log(right).mean()) if engine == "tensorflow" else -math.fsum(logarithm(right)) / len(labels)


def pruning_masks(config: TrainingConfig, parent: TrainingRun | None) -> Weights:
    """The masks of a pruned run, by kernel name: float32, one for a weight that is kept. Empty for an unpruned run.

    Raises:
        ValueError: if `parent` is not the run that `config` was pruned from.
    """
    if config.parent is None:
        return {}
    if parent is None or parent.config != config.parent:
        raise ValueError(f"{config.label} needs the finished run of its previous round")
    kernels = convolution_kernels(parent.weights)
    surviving = {name: kernel != 0 for name, kernel in kernels.items()} if parent.config.pruned_fractions else None
    masks = pruning.global_magnitude_masks(kernels, config.pruned_fractions[-1], surviving)
    return {name: mask.astype(np.float32) for name, mask in masks.items()}
