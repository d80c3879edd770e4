"""What is asked of a training, and what comes of it: configuration, finished run, checkpoint of an interrupted one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from smallcnn import data, pruning
from smallcnn.architecture import Architecture, BatchNormalisation, Dropout, Weights, without_defaults
from smallcnn.checks import check_choice, check_fraction, check_integer, check_number

if TYPE_CHECKING:
    import pandas as pd

# Part of every run's key. Raise an engine's whenever a change to the code changes the numbers that it gives.
RECIPE_VERSIONS = {"halide": 4, "tensorflow": 1}

ENGINES = tuple(RECIPE_VERSIONS)
MOST_EPOCHS = 100_000
# Batch normalisation starts its moving averages anew in every run, and keeps most of them, usually 99 %, in a step. At
# the end they should be what the images made of them but for this share: 0.7 %, after 500 steps.
STARTING_SHARE = 0.99**500
HISTORY = ("learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_correct")

Report = Callable[[str], None]


class EpochLine(str):
    """A line on a finished epoch of a run, from which a bar can be drawn too.

    Attributes:
        label: of the run.
        epoch, epochs: how many are finished, and how many there are at most.
    """

    label: str
    epoch: int
    epochs: int

    def __new__(cls, text: str, label: str, epoch: int, epochs: int) -> EpochLine:
        """Makes the line."""
        line = super().__new__(cls, text)
        line.label, line.epoch, line.epochs = label, epoch, epochs
        return line


class Caution(str):
    """A line on a run of too few steps, which whoever shows the result of many runs leaves out to say it once."""


@dataclass(frozen=True, repr=False)
class TrainingConfig:
    """Everything that decides the outcome of a run.

    Attributes:
        architecture: the network.
        seed: decides initial weights, the order of the data and dropout.
        epochs: passes over the training set at most.
        batch_size: images for each step; an incomplete last batch of an epoch is left out.
        learning_rate: of Adam at the start.
        early_stopping_patience: epochs without a better test accuracy before training stops.
        early_stopping_baseline: test accuracy (0 to 1) that a better epoch must exceed to restart the patience.
        plateau_patience: epochs without a better test accuracy before the learning rate falls.
        plateau_factor: what the learning rate is then multiplied by.
        train_examples: training images, with the classes in their proportions.
        engine: the program that computes the steps.
        pruned_fractions: fraction of the surviving kernel weights pruned in each round so far.
        gradual_sparsity: sparsity (0 to 1) of each kernel under a gradual schedule; 0 for none.
        gradual_epochs: epochs over which the gradual schedule reaches its sparsity.
        varied: for its label, what tells it from the runs beside it; decides nothing, and is not recorded.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range; the message names it and the range.
    """

    architecture: Architecture
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    early_stopping_patience: int
    early_stopping_baseline: float
    plateau_patience: int
    plateau_factor: float
    train_examples: int
    engine: str
    pruned_fractions: tuple[float, ...] = ()
    gradual_sparsity: float = 0.0
    gradual_epochs: int = 0
    varied: str = field(default="", compare=False)

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
        if (self.pruned_fractions or self.gradual_sparsity) and not self.architecture.kernels:
            raise ValueError(f"the network {self.architecture.name} cannot be pruned; only convolutions are")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def key(self) -> str:
        """What the run is found by: 16 hexadecimal digits of the hash of configuration, data and recipe."""
        content = json.dumps([self.to_json(), data.FINGERPRINT, self.recipe_version], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def recipe_version(self) -> int:
        """That of its engine."""
        return RECIPE_VERSIONS[self.engine]

    @property
    def label(self) -> str:
        """A few words that tell this run from its neighbours, for progress lines; see `told_apart`."""
        return f"{self.label_without_seed}, seed {self.seed}"

    @property
    def label_without_seed(self) -> str:
        """The label of this run and of those with other seeds."""
        rates = {layer.rate for layer in self.architecture.layers if isinstance(layer, Dropout)} - {0.0}
        extra = "".join(f", dropout {100 * rate:g} %" for rate in sorted(rates))
        extra += f", pruning round {len(self.pruned_fractions)}" if self.pruned_fractions else ""
        extra += f", gradual to {100 * self.gradual_sparsity:.1f} %" if self.gradual_sparsity else ""
        extra += f", {self.varied}" if self.varied else ""
        return f"{self.architecture.name}{extra}"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the outcome but for the seed, by name, with a hash for the network."""
        network = hashlib.sha256(json.dumps(self.architecture.to_json()).encode()).hexdigest()[:6]
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.compare}
        return {name: value for name, value in own.items() if name not in ("architecture", "seed")} | {
            "network": network
        }

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

    def rounds(self, fractions: Sequence[float]) -> list[TrainingConfig]:
        """The runs of a pruning experiment: this one, then one for each round, each the parent of the next."""
        return [
            dataclasses.replace(self, pruned_fractions=tuple(fractions[:count])) for count in range(len(fractions) + 1)
        ]

    def pruned_gradually(self, fractions: Sequence[float], epochs: int) -> TrainingConfig:
        """The run that prunes each kernel by itself, over `epochs`, until it is as sparse as after these rounds."""
        counts = pruning.surviving_counts(self.architecture.prunable, tuple(fractions))
        return dataclasses.replace(self, gradual_sparsity=1 - counts[-1] / counts[0], gradual_epochs=epochs)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Reads what `to_json` gave."""
        return cls(**{**values, "architecture": Architecture.from_json(values["architecture"])})

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values; a setting at its default is left out, so that a new one changes no key."""
        values = without_defaults(self) | {"architecture": self.architecture.to_json()}
        values.pop("varied", None)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def __repr__(self) -> str:
        settings = f"{self.epochs} epochs at most, learning rate {self.learning_rate:g}, {self.engine}"
        return f"<TrainingConfig {self.key}: {self.label}; {settings}>"


def told_apart(
    configs: Sequence[TrainingConfig], settings: Sequence[Mapping[str, Any]] | None = None
) -> list[TrainingConfig]:
    """The same configurations; those whose labels would be the same name the settings in which they differ.

    Args:
        configs: that are shown together.
        settings: of each, by name, the same names for all; by default `TrainingConfig.settings`.
    """
    settings = settings or [config.settings for config in configs]
    values: dict[tuple[str, str], set[str]] = {}  # of each setting, among the configurations with the same label
    for config, own in zip(configs, settings, strict=True):
        for name, value in own.items():
            values.setdefault((config.label_without_seed, name), set()).add(repr(value))
    named = []
    for config, own in zip(configs, settings, strict=True):
        words = [f"{name}={own[name]}" for name in own if len(values[config.label_without_seed, name]) > 1]
        named.append(dataclasses.replace(config, varied=", ".join(filter(None, [config.varied, *words]))))
    return named


@dataclass(frozen=True, repr=False)
class TrainingRun:
    """A finished run.

    Attributes:
        config: what was asked for.
        history: a row an epoch, counted from 1: learning_rate, train_loss, train_accuracy (both averages over the
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
    history: pd.DataFrame
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
        return float(self.history["test_accuracy"][self.best_epoch])

    @property
    def final_test_accuracy(self) -> float:
        """Test accuracy after the last epoch, 0 to 1."""
        return float(self.history["test_accuracy"].iloc[-1])

    @property
    def epochs_run(self) -> int:
        """Epochs until training stopped."""
        return len(self.history)

    @property
    def steps(self) -> int:
        """Training steps until the best epoch, whose weights are kept."""
        return self.best_epoch * self.config.steps_per_epoch

    @property
    def caution(self) -> str:
        """What must be said of a run of too few steps for its test accuracies; empty for any other."""
        momenta = [layer.momentum for layer in self.config.architecture.layers if isinstance(layer, BatchNormalisation)]
        momentum = max(momenta, default=0.0)
        share = momentum**self.steps
        if share <= STARTING_SHARE:
            return ""
        enough = round(math.log(STARTING_SHARE) / math.log(momentum))
        return (
            f"only {self.steps} training steps: the moving averages of batch normalisation, which the test images are "
            f"judged with, are still {100 * share:.0f} % what they started from, so the test accuracy says little "
            f"about the network; take more images or epochs, {enough} steps or more"
        )

    def model(self) -> Any:
        """The trained network as a Keras model, which takes images as they are stored, 0 to 255."""
        from smallcnn.models import trained_model  # here: a worker must not wait for TensorFlow

        return trained_model(self.config.architecture, self.weights)

    def __repr__(self) -> str:
        accuracy = f"{100 * self.best_test_accuracy:.2f} % of the test images after epoch {self.best_epoch}"
        return f"<TrainingRun {self.config.key}: {self.config.label}; {accuracy} of {self.epochs_run}>"


@dataclass
class Checkpoint:
    """What an interrupted run goes on from, after whole epochs.

    Attributes:
        history, misclassified, epoch_seconds: as in `TrainingRun`, so far, the history as a list a column.
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


def history_frame(columns: Mapping[str, list[float]]) -> pd.DataFrame:
    """The history of a run as a frame: a row an epoch, counted from 1."""
    import pandas as pd  # here: a configuration must not wait for it

    epochs = range(1, len(columns["test_accuracy"]) + 1)
    return pd.DataFrame({name: columns[name] for name in HISTORY}, index=pd.Index(epochs, name="epoch"))
