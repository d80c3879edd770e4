"""The one training loop of the book: a configuration goes in, a finished run comes out, whatever the engine."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from smallcnn import data, provenance, pruning
from smallcnn.checks import check_choice, check_fraction, check_integer, check_number
from smallcnn.models import Architecture, convolution_kernels, initial_weights

# Part of every run's key. Raise an engine's whenever a change to the code changes the numbers that it gives.
RECIPE_VERSIONS = {"halide": 3, "tensorflow": 1}

ENGINES = tuple(RECIPE_VERSIONS)
MOST_EPOCHS = 100_000

Weights = dict[str, np.ndarray]
Report = Callable[[str], None]


def _setting(help: str, unit: str = "") -> Any:
    return field(metadata={"help": help, "unit": unit})


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the outcome of a run.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range; the message names it and the range.
    """

    architecture: Architecture = _setting("the network")
    seed: int = _setting("decides initial weights, the order of the data and dropout")
    epochs: int = _setting("passes over the training set at most", "epochs")
    batch_size: int = _setting("images for each step; an incomplete last batch of an epoch is left out", "images")
    learning_rate: float = _setting("learning rate of Adam at the start")
    early_stopping_patience: int = _setting("epochs without a better test accuracy before training stops", "epochs")
    early_stopping_baseline: float = _setting(
        "test accuracy that a better epoch must exceed to restart the patience", "0 to 1"
    )
    plateau_patience: int = _setting("epochs without a better test accuracy before the learning rate falls", "epochs")
    plateau_factor: float = _setting("what the learning rate is then multiplied by")
    train_examples: int = _setting("training images, with the classes in their proportions", "images")
    engine: str = _setting("the program that computes the steps")
    pruned_fractions: tuple[float, ...] = field(
        default=(),
        metadata={"help": "fraction of the surviving kernel weights pruned in each round so far", "unit": ""},
    )
    gradual_sparsity: float = field(
        default=0.0, metadata={"help": "sparsity of each kernel under a gradual schedule; 0 for none", "unit": "0 to 1"}
    )
    gradual_epochs: int = field(
        default=0, metadata={"help": "epochs over which the gradual schedule reaches its sparsity", "unit": "epochs"}
    )

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, Architecture):
            raise TypeError(f"architecture is {self.architecture!r}; expected an Architecture")
        check_integer("seed", self.seed, minimum=0, maximum=2**63 - 1)
        check_integer("epochs", self.epochs, minimum=1, maximum=MOST_EPOCHS)
        check_integer("train_examples", self.train_examples, minimum=10, maximum=data.TRAIN_EXAMPLES)
        check_integer("batch_size", self.batch_size, minimum=1, maximum=self.train_examples)
        self._set("learning_rate", check_number("learning_rate", self.learning_rate))
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a number above 0")
        check_integer("early_stopping_patience", self.early_stopping_patience, minimum=1)
        self._set("early_stopping_baseline", check_fraction("early_stopping_baseline", self.early_stopping_baseline))
        check_integer("plateau_patience", self.plateau_patience, minimum=1)
        self._set(
            "plateau_factor", check_fraction("plateau_factor", self.plateau_factor, above_zero=True, below_one=True)
        )
        check_choice("engine", self.engine, ENGINES)
        if not isinstance(self.pruned_fractions, list | tuple):
            raise TypeError(f"pruned_fractions is {self.pruned_fractions!r}; expected a list of numbers")
        self._set("pruned_fractions", tuple(map(pruning.check_pruned_fraction, self.pruned_fractions)))
        self._set("gradual_sparsity", check_fraction("gradual_sparsity", self.gradual_sparsity, below_one=True))
        check_integer(
            "gradual_epochs", self.gradual_epochs, minimum=int(self.gradual_sparsity > 0), maximum=self.epochs
        )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def key(self) -> str:
        """What the run is found by: 16 hexadecimal digits of the hash of configuration, data and recipe."""
        content = json.dumps([self.to_dict(), data.FINGERPRINT, self.recipe_version], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def recipe_version(self) -> int:
        """That of its engine."""
        return RECIPE_VERSIONS[self.engine]

    @property
    def label(self) -> str:
        """A few words that tell this run from its neighbours, for progress lines."""
        extra = f", dropout {100 * self.architecture.dropout:g} %" if self.architecture.dropout else ""
        extra += f", pruning round {len(self.pruned_fractions)}" if self.pruned_fractions else ""
        extra += f", gradual to {100 * self.gradual_sparsity:.1f} %" if self.gradual_sparsity else ""
        return f"{self.architecture.name}{extra}, seed {self.seed}"

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training set."""
        return self.train_examples // self.batch_size

    @property
    def parent(self) -> TrainingConfig | None:
        """The run whose weights the last round of pruning ranks, or None for an unpruned run."""
        if not self.pruned_fractions:
            return None
        return dataclasses.replace(self, pruned_fractions=self.pruned_fractions[:-1])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Reads what `to_dict` gave."""
        return cls(**{**values, "architecture": Architecture(**values["architecture"])})

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True)
class TrainingRun:
    """A finished run.

    Attributes:
        config: what was asked for.
        history: one number an epoch in each list: learning_rate, train_loss, train_accuracy (both averages over the
            epoch's steps, with dropout on), test_loss, test_accuracy (0 to 1), test_correct (images).
        misclassified: for each epoch the indices of the test images it gets wrong.
        best_epoch: the epoch, counted from 1, with the best test accuracy; the first of several.
        predicted_classes: uint8 (10000,), what the weights of the best epoch say of the test images.
        weights: those of the best epoch, named as in `initial_weights`; a pruned weight is exactly zero.
        epoch_seconds: duration of each epoch, its test pass included.
        seconds: duration of the whole run, its preparation included.
        provenance: machine, software and time, as `provenance.describe` names them.
    """

    config: TrainingConfig
    history: dict[str, list[float]]
    misclassified: list[list[int]]
    best_epoch: int
    predicted_classes: np.ndarray
    weights: Weights
    epoch_seconds: list[float]
    seconds: float
    provenance: dict[str, str]

    @property
    def best_test_accuracy(self) -> float:
        """Test accuracy after the best epoch, 0 to 1."""
        return self.history["test_accuracy"][self.best_epoch - 1]

    @property
    def final_test_accuracy(self) -> float:
        """Test accuracy after the last epoch, 0 to 1."""
        return self.history["test_accuracy"][-1]

    @property
    def epochs_run(self) -> int:
        """Epochs until training stopped."""
        return len(self.history["test_accuracy"])


@dataclass
class Unfinished:
    """What an interrupted run goes on from, after whole epochs.

    Attributes:
        history, misclassified, epoch_seconds: as in `TrainingRun`, so far.
        best_weights, predicted_classes: of the best epoch so far; the initial weights and zeros before there is one.
        engine_state: what the engine gave as its state after the last epoch; empty before the first.
        seconds: spent so far, preparation included.
    """

    best_weights: Weights
    predicted_classes: np.ndarray
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in HISTORY})
    misclassified: list[list[int]] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    engine_state: Weights = field(default_factory=dict)
    seconds: float = 0.0


class Engine(Protocol):
    """What the loop needs of a program that trains."""

    def train_epoch(self, order: np.ndarray, learning_rate: float) -> tuple[float, float]:
        """Makes one step of Adam for each row of `order`, int32 (steps, batch size) of training images.

        Returns the averages over the epoch of cross-entropy loss and of accuracy (0 to 1).
        """

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 class probabilities (n, 10) for uint8 images (n, 28, 28)."""

    def get_weights(self) -> Weights:
        """Returns a copy of the weights, named as in `initial_weights`."""

    def get_state(self) -> Weights:
        """Returns a copy of all that the next epoch starts from."""

    def set_state(self, state: Weights) -> None:
        """Goes back to what `get_state` returned, in this or another process."""


def is_available(engine: str) -> bool:
    """Whether the package of `engine` is installed; Halide has no wheel for some platforms."""
    return importlib.util.find_spec(engine) is not None


def create_engine(config: TrainingConfig, train_set: data.Dataset, weights: Weights, masks: Weights) -> Engine:
    """Starts the engine of `config` at `weights`, with `masks` (one for a kept kernel weight) by kernel name.

    Raises:
        ModuleNotFoundError: if the engine is not installed here.
    """
    if not is_available(config.engine):
        raise ModuleNotFoundError(f"{config.engine} is not installed on this machine; choose engine=tensorflow")
    if config.engine == "halide":  # imported here: a configuration must wait for no engine, a run only for its own
        from smallcnn.halide_engine import HalideEngine

        return HalideEngine(config, train_set, weights, masks)
    from smallcnn.tensorflow_engine import TensorFlowEngine

    return TensorFlowEngine(config, train_set, weights, masks)


def train(
    config: TrainingConfig,
    parent: TrainingRun | None = None,
    report: Report = print,
    unfinished: Unfinished | None = None,
    keep: Callable[[Unfinished], None] | None = None,
) -> TrainingRun:
    """Trains `config` from its initial weights, or from where an interrupted run was.

    Args:
        config: the run to make.
        parent: for a pruned run, the finished run of `config.parent`, whose weights are ranked.
        report: called with a line of text after every epoch.
        unfinished: what `keep` last got from an interrupted run of `config`; the result is as if it had not been.
        keep: called after every epoch with what an interrupted run can go on from.

    Raises:
        FloatingPointError: if the loss is not a number any more.
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
    so_far = unfinished or Unfinished(weights, np.zeros(len(test_set.labels), np.uint8))
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
        test_loss = cross_entropy(probabilities, test_set.labels)
        if not (math.isfinite(train_loss) and math.isfinite(test_loss)):
            raise FloatingPointError(f"{config.label}: the loss of epoch {epoch} is not a number; lower learning_rate")
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
        report(
            f"{config.label}: epoch {epoch} of at most {config.epochs}, training {100 * train_accuracy:.2f} %, "
            f"test {100 * correct / len(predictions):.2f} %, {so_far.epoch_seconds[-1]:.1f} s"
        )
    return TrainingRun(
        config=config,
        history=so_far.history,
        misclassified=so_far.misclassified,
        best_epoch=callbacks.best_epoch,
        predicted_classes=so_far.predicted_classes,
        weights=so_far.best_weights,
        epoch_seconds=so_far.epoch_seconds,
        seconds=time.perf_counter() - started,
        provenance=provenance.describe(config.engine),
    )


HISTORY = ("learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_correct")


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


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of −log p of the right class, p at least 1e-7 as in Keras."""
    of_right_class = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(of_right_class, 1e-7)).mean())


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
