"""Configurations and their keys, early stopping and the learning rate, the order of the data, the loop."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallcnn import config as configuration
from smallcnn import data, models, training
from smallcnn.architecture import (
    Activation,
    Architecture,
    BatchNormalisation,
    Dense,
    Dropout,
    Flatten,
    convolution_kernels,
    initial_weights,
)
from smallcnn.config import Checkpoint, TrainingConfig, TrainingRun, told_apart
from smallcnn.pruning import pruned_fractions
from smallcnn.training import Callbacks, Diverged, cross_entropy, data_order, train
from tests.conftest import TINY_TEST_EXAMPLES, FakeTraining, assert_same_arrays
from tests.networks import PUBLISHED, chain

NAN, INFINITY = float("nan"), float("inf")

OTHER_VALUES = {
    "architecture": PUBLISHED["approach_3"],
    "seed": 1,
    "epochs": 3,
    "batch_size": 100,
    "learning_rate": 0.02,
    "early_stopping_patience": 9,
    "early_stopping_baseline": 0.97,
    "plateau_patience": 5,
    "plateau_factor": 0.25,
    "train_examples": 999,
    "engine": "another",
    "pruned_fractions": (0.2,),
    "gradual_sparsity": 0.5,
    "gradual_epochs": 1,
}
OTHER_OPTIONS = {
    "convolution": {"kernel_size": 2, "padding": "same", "use_bias": False},
    "batch_normalisation": {"use_scale": False, "momentum": 0.9, "epsilon": 0.01},
    "max_pooling": {"size": 3},
    "dropout": {"rate": 0.2},
}


def change(config: TrainingConfig, **changes: Any) -> TrainingConfig:
    if "gradual_sparsity" in changes:
        changes.setdefault("gradual_epochs", 1)
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("seed", -1, ValueError),
        ("seed", 2**63, ValueError),  # TensorFlow's seeds are 64 bits, one of them the sign
        ("seed", 0.5, TypeError),
        ("seed", None, TypeError),
        ("epochs", 0, ValueError),
        ("epochs", 100_001, ValueError),
        ("epochs", -3, ValueError),
        ("epochs", True, TypeError),
        ("epochs", "ten", TypeError),
        ("epochs", 2.0, TypeError),
        ("epochs", NAN, TypeError),
        ("batch_size", 0, ValueError),
        ("batch_size", -125, ValueError),
        ("batch_size", 1001, ValueError),
        ("batch_size", 12.5, TypeError),
        ("train_examples", 9, ValueError),
        ("train_examples", 60_001, ValueError),
        ("train_examples", "all", TypeError),
        ("learning_rate", 0.0, ValueError),
        ("learning_rate", -0.01, ValueError),
        ("learning_rate", INFINITY, TypeError),
        ("learning_rate", NAN, TypeError),
        ("learning_rate", "0.01", TypeError),
        ("learning_rate", False, TypeError),
        ("early_stopping_patience", 0, ValueError),
        ("early_stopping_patience", None, TypeError),
        ("early_stopping_baseline", 98, ValueError),
        ("early_stopping_baseline", -0.1, ValueError),
        ("early_stopping_baseline", NAN, TypeError),
        ("plateau_patience", 0, ValueError),
        ("plateau_patience", 1.5, TypeError),
        ("plateau_factor", 0, ValueError),
        ("plateau_factor", 1, ValueError),
        ("plateau_factor", 2, ValueError),
        ("plateau_factor", "half", TypeError),
        ("engine", "pytorch", ValueError),
        ("engine", None, ValueError),
        ("gradual_sparsity", 1, ValueError),
        ("gradual_sparsity", -0.5, ValueError),
        ("gradual_sparsity", NAN, TypeError),
        ("gradual_epochs", -1, ValueError),
        ("gradual_epochs", 3, ValueError),
        ("gradual_epochs", True, TypeError),
    ],
)
def test_a_bad_value_is_refused_by_name_and_value(
    config: TrainingConfig, name: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        change(config, **{name: value})
    assert str(raised.value).startswith(f"{name} is {value!r}; expected")


@pytest.mark.parametrize(
    ("fractions", "error", "given"),
    [
        ((0,), ValueError, "0"),
        ((1,), ValueError, "1"),
        ((0.2, 1.5), ValueError, "1.5"),
        ((0.2, -0.2), ValueError, "-0.2"),
        ((NAN,), TypeError, "nan"),
        ((True,), TypeError, "True"),
        (("20 %",), TypeError, "'20 %'"),
        ((None,), TypeError, "None"),
    ],
)
def test_a_bad_pruned_fraction_is_refused_by_value(
    config: TrainingConfig, fractions: tuple[Any, ...], error: type[Exception], given: str
) -> None:
    with pytest.raises(error, match=f"pruned fraction is {given}; expected"):
        change(config, pruned_fractions=fractions)


@pytest.mark.parametrize("fractions", [0.2, "0.2", None])
def test_pruned_fractions_that_are_no_list_are_refused_by_name(config: TrainingConfig, fractions: Any) -> None:
    with pytest.raises(TypeError, match=f"pruned_fractions is {fractions!r}"):
        change(config, pruned_fractions=fractions)


def test_values_that_are_no_architecture_are_refused_by_name(config: TrainingConfig) -> None:
    with pytest.raises(TypeError, match="architecture is"):
        change(config, architecture={"filters": [4, 8, 10]})


def test_a_gradual_schedule_needs_epochs_to_reach_its_sparsity(config: TrainingConfig) -> None:
    with pytest.raises(ValueError, match="gradual_epochs is 0"):
        change(config, gradual_sparsity=0.5, gradual_epochs=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 2**63 - 1),
        ("epochs", 1),
        ("epochs", 100_000),
        ("batch_size", 1),
        ("batch_size", 1000),
        ("train_examples", 125),
        ("train_examples", 60_000),
        ("early_stopping_baseline", 0),
        ("early_stopping_baseline", 1),
        ("gradual_sparsity", 0),
        ("gradual_sparsity", 0.999),
        ("gradual_epochs", 2),
        ("learning_rate", 100),
    ],
)
def test_the_ends_of_a_range_are_allowed(config: TrainingConfig, name: str, value: Any) -> None:
    found = getattr(change(config, **{name: value}), name)
    assert found == value
    assert type(found) is type(getattr(config, name))


def test_a_label_tells_a_run_from_its_neighbours(config: TrainingConfig) -> None:
    without = chain((4, 10), dropout=0.0, dropout_after=(1,))
    assert change(config, architecture=without, seed=7).label == "4-10, seed 7"
    layers = [Dropout(0.25), Dropout(0.1), Dropout(0.0), *without.layers]
    assert change(config, architecture=Architecture(layers)).label == "4-10, dropout 10 %, dropout 25 %, seed 0"
    label = "4-8-16-16-10, dropout 10 %"
    assert change(config, pruned_fractions=(0.2, 0.4)).label == f"{label}, pruning round 2, seed 0"
    assert change(config, gradual_sparsity=0.5577).label == f"{label}, gradual to 55.8 %, seed 0"


def test_a_configuration_and_a_run_are_shown_in_a_line(config: TrainingConfig, fake_training: FakeTraining) -> None:
    label = "4-8-16-16-10, dropout 10 %, seed 0"
    assert repr(config) == f"<TrainingConfig {config.key}: {label}; 2 epochs at most, learning rate 0.01, tensorflow>"
    fake_training.accuracies = [0.5, 0.75, 0.25]
    run = fake_training(change(config, epochs=3))
    found = f"<TrainingRun {run.config.key}: {label}; 75.00 % of the test images after epoch 2 of 3>"
    assert repr(run) == found
    for record in (config, run):
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.seed = 1


def test_the_model_of_a_run_has_its_network_and_weights(
    finished_run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "trained_model", lambda *arguments: arguments)
    assert finished_run.model() == (finished_run.config.architecture, finished_run.weights)


def test_the_gradual_schedule_ends_as_sparse_as_the_rounds(config: TrainingConfig) -> None:
    fractions = pruned_fractions("article", 0.2, 2)
    gradual = config.pruned_gradually(fractions, 2)
    assert gradual == change(config, gradual_sparsity=1 - 2309 / 5220, gradual_epochs=2)
    assert config.pruned_gradually([0.2], 1).gradual_sparsity == pytest.approx(0.2)


def test_the_key_of_a_configuration_never_changes(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published runs are found by their keys, so a change of how keys are made would orphan every one of them."""
    monkeypatch.setitem(configuration.RECIPE_VERSIONS, config.engine, 1)
    assert config.key == "a673ab05c3f1c0ef"


def test_the_engines_are_called_as_published_runs_call_them() -> None:
    assert configuration.ENGINES == ("halide", "tensorflow")


def test_every_field_is_part_of_the_key(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "ENGINES", (*configuration.ENGINES, "another"))
    monkeypatch.setitem(configuration.RECIPE_VERSIONS, "another", config.recipe_version)
    assert OTHER_VALUES.keys() == {field.name for field in dataclasses.fields(TrainingConfig)} - {"varied"}
    keys = {name: change(config, **{name: value}).key for name, value in OTHER_VALUES.items()}
    keys["gradual_sparsity, once more"] = change(config, gradual_sparsity=0.6).key
    keys["nothing"] = config.key
    assert len(set(keys.values())) == len(keys), keys


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("filters", (4, 8, 16, 17, 10)),
        ("pool_after", (1,)),
        ("dropout", 0.2),
        ("dropout_after", (3, 4)),
        ("head", "dense"),
    ],
)
def test_every_layer_of_the_architecture_is_part_of_the_key(config: TrainingConfig, name: str, value: Any) -> None:
    approach_2 = {"filters": (4, 8, 16, 16, 10), "pool_after": (2,), "dropout": 0.1, "dropout_after": (3, 4, 5)}
    assert change(config, architecture=chain(**approach_2)).key == config.key
    assert change(config, architecture=chain(**approach_2 | {name: value})).key != config.key


def test_every_option_of_a_layer_is_part_of_the_key(config: TrainingConfig) -> None:
    keys = {config.key}
    for position, layer in enumerate(config.architecture.layers):
        for name, value in OTHER_OPTIONS.get(layer.kind, {}).items():
            layers = list(config.architecture.layers)
            layers[position] = dataclasses.replace(layer, **{name: value})
            keys.add(change(config, architecture=Architecture(tuple(layers))).key)
    assert len(keys) == 1 + 5 * 3 + 5 * 3 + 1 + 3


def test_recipe_and_data_are_part_of_the_key(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    key = config.key
    with monkeypatch.context() as patch:
        patch.setitem(configuration.RECIPE_VERSIONS, config.engine, config.recipe_version + 1)
        assert config.key != key
    with monkeypatch.context() as patch:
        patch.setattr(data, "FINGERPRINT", "other data")
        assert config.key != key
    assert config.key == key


def test_lists_and_whole_numbers_give_the_same_key_as_tuples_and_floats(config: TrainingConfig) -> None:
    as_tuples = change(config, pruned_fractions=(0.2, 0.5), early_stopping_baseline=1.0)
    as_lists = change(config, pruned_fractions=[0.2, 0.5], early_stopping_baseline=1)
    from_lists = Architecture(list(config.architecture.layers))
    assert as_lists == as_tuples
    assert as_lists.key == as_tuples.key
    assert change(config, architecture=from_lists).key == config.key


def test_settings_at_their_defaults_are_left_out_so_that_a_new_one_changes_no_key(config: TrainingConfig) -> None:
    assert config.to_json() == {
        "architecture": config.architecture.to_json(),
        "seed": 0,
        "epochs": 2,
        "batch_size": 125,
        "learning_rate": 0.01,
        "early_stopping_patience": 10,
        "early_stopping_baseline": 0.98,
        "plateau_patience": 4,
        "plateau_factor": 0.5,
        "train_examples": 1000,
        "engine": "tensorflow",
    }
    pruned = change(config, pruned_fractions=(0.2,))
    assert pruned.to_json() == config.to_json() | {"pruned_fractions": [0.2]}


def test_the_key_can_name_a_folder(config: TrainingConfig) -> None:
    assert len(config.key) == 16
    assert set(config.key) <= set("0123456789abcdef")


@given(
    seed=st.integers(0, 2**40),
    learning_rate=st.floats(1e-9, 10),
    fractions=st.lists(st.floats(0.001, 0.999), max_size=3),
    name=st.sampled_from(sorted(PUBLISHED)),
)
def test_a_configuration_survives_json(seed: int, learning_rate: float, fractions: list[float], name: str) -> None:
    config = TrainingConfig(
        PUBLISHED[name], seed, 40, 125, learning_rate, 10, 0.98, 4, 0.5, 60_000, "tensorflow", tuple(fractions)
    )
    again = TrainingConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config
    assert hash(again) == hash(config)
    assert again.key == config.key


def test_an_unknown_field_is_refused(config: TrainingConfig) -> None:
    with pytest.raises(TypeError, match="epoch"):
        TrainingConfig.from_json({**config.to_json(), "epoch": 3})


def test_a_network_without_convolutions_has_nothing_to_prune(config: TrainingConfig) -> None:
    architecture = Architecture((Flatten(), Dense(10), Activation("softmax")))
    assert change(config, architecture=architecture).architecture.prunable == 0
    for pruning in ({"pruned_fractions": (0.2,)}, {"gradual_sparsity": 0.5}):
        with pytest.raises(ValueError, match="without convolutions cannot be pruned"):
            change(config, architecture=architecture, **pruning)


def test_every_field_has_a_sentence_in_the_docstring() -> None:
    assert TrainingConfig.__doc__
    for field in dataclasses.fields(TrainingConfig):
        assert f" {field.name}: " in TrainingConfig.__doc__, field.name


def test_the_parent_of_a_pruned_run_is_the_round_before(config: TrainingConfig) -> None:
    grandchild = change(config, pruned_fractions=(0.2, 0.4))
    assert grandchild.parent == change(config, pruned_fractions=(0.2,))
    assert grandchild.parent.parent == config
    assert config.parent is None


def test_an_incomplete_last_batch_is_left_out(config: TrainingConfig) -> None:
    uneven = change(config, train_examples=1001, batch_size=125)
    assert uneven.steps_per_epoch == 8
    assert data_order(uneven, 1).shape == (8, 125)


def test_an_epoch_visits_every_image_once(config: TrainingConfig) -> None:
    order = data_order(config, 1)
    assert (order.dtype, order.shape) == (np.dtype(np.int32), (8, 125))
    assert np.array_equal(np.sort(order.ravel()), np.arange(1000))


@given(seed=st.integers(0, 2**40), epoch=st.integers(1, 1000), examples=st.integers(10, 300), size=st.integers(1, 10))
def test_any_epoch_visits_different_images(seed: int, epoch: int, examples: int, size: int) -> None:
    config = TrainingConfig(PUBLISHED["approach_2"], seed, 1000, size, 0.01, 10, 0.98, 4, 0.5, examples, "tensorflow")
    order = data_order(config, epoch)
    assert order.shape == (examples // size, size)
    assert len(np.unique(order)) == order.size
    assert 0 <= order.min() <= order.max() < examples


def test_the_order_of_an_epoch_never_changes(config: TrainingConfig) -> None:
    """Another order would be another recipe."""
    assert data_order(change(config, seed=5), 1)[0, :6].tolist() == [381, 36, 487, 43, 76, 435]


def test_epochs_and_seeds_have_orders_of_their_own(config: TrainingConfig) -> None:
    orders = [data_order(change(config, seed=seed), epoch).tobytes() for seed in range(5) for epoch in range(1, 6)]
    assert len(set(orders)) == len(orders)
    assert data_order(config, 3).tobytes() == data_order(config, 3).tobytes()


def ended(callbacks: Callbacks, accuracies: Iterable[float]) -> list[tuple[bool, float, bool]]:
    """Whether each epoch is the best so far, the learning rate after it, and whether training should stop."""
    return [
        (callbacks.epoch_ended(epoch, accuracy), callbacks.learning_rate, callbacks.stop)
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]


def test_the_best_epoch_is_the_first_of_equals(config: TrainingConfig) -> None:
    callbacks = Callbacks(config)
    better = [best for best, _, _ in ended(callbacks, [0.5, 0.99, 0.7, 0.99, 0.99])]
    assert better == [True, True, False, False, False]
    assert callbacks.best_epoch == 2


def test_training_stops_after_the_patience_without_a_better_epoch(config: TrainingConfig) -> None:
    callbacks = Callbacks(change(config, early_stopping_patience=3))
    stops = [stop for _, _, stop in ended(callbacks, [0.985, 0.99, 0.98, 0.99, 0.98])]
    assert stops == [False, False, False, False, True]


def test_a_better_epoch_restarts_the_patience_only_above_the_baseline(config: TrainingConfig) -> None:
    patient = change(config, early_stopping_patience=3, early_stopping_baseline=0.98)
    assert [stop for *_, stop in ended(Callbacks(patient), [0.5, 0.6, 0.98, 0.6])] == [False, False, False, True]
    assert [stop for *_, stop in ended(Callbacks(patient), [0.5, 0.6, 0.981, 0.6])] == [False] * 4


def test_a_better_epoch_never_stops_training(config: TrainingConfig) -> None:
    callbacks = Callbacks(change(config, early_stopping_patience=1, early_stopping_baseline=0.98))
    assert [stop for *_, stop in ended(callbacks, [0.5, 0.6, 0.7, 0.6])] == [False, False, False, True]


def test_the_learning_rate_is_halved_on_a_plateau(config: TrainingConfig) -> None:
    callbacks = Callbacks(change(config, plateau_patience=2, learning_rate=0.01))
    accuracies = [0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.5, 0.7, 0.7, 0.6]
    rates = [rate for _, rate, _ in ended(callbacks, accuracies)]
    assert rates == [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025, 0.0025, 0.0025, 0.0025, 0.00125]


def test_epochs_before_full_gradual_sparsity_do_not_count(config: TrainingConfig) -> None:
    gradual = change(config, epochs=9, gradual_sparsity=0.5, gradual_epochs=3, early_stopping_patience=2)
    callbacks = Callbacks(gradual)
    rows = ended(callbacks, [0.99, 0.98, 0.97, 0.96, 0.95])
    assert [better for better, *_ in rows] == [False, False, True, False, False]
    assert [stop for *_, stop in rows] == [False, False, False, True, True]
    assert callbacks.best_epoch == 3


def test_there_is_no_best_epoch_before_the_first_that_counts(config: TrainingConfig) -> None:
    callbacks = Callbacks(change(config, gradual_sparsity=0.5, gradual_epochs=2))
    assert callbacks.best_epoch == 0
    ended(callbacks, [0.99])
    assert callbacks.best_epoch == 0


class KerasCallbacks:
    """Keras' own early stopping and plateau, without a model."""

    def __init__(self, keras: ModuleType, config: TrainingConfig) -> None:
        rate = keras.backend.variable(config.learning_rate, "float64")
        self.model = SimpleNamespace(
            optimizer=SimpleNamespace(lr=rate), stop_training=False, get_weights=lambda: self.epoch, set_weights=setattr
        )
        self.early = keras.callbacks.EarlyStopping(
            "accuracy",
            mode="max",
            patience=config.early_stopping_patience,
            baseline=config.early_stopping_baseline,
            restore_best_weights=True,
        )
        self.plateau = keras.callbacks.ReduceLROnPlateau(
            "accuracy", mode="max", patience=config.plateau_patience, factor=config.plateau_factor, min_delta=0
        )
        for callback in (self.early, self.plateau):
            callback.set_model(self.model)
            callback.on_train_begin()

    def epoch_ended(self, epoch: int, accuracy: float) -> None:
        self.epoch = epoch
        for callback in (self.early, self.plateau):
            callback.on_epoch_end(epoch - 1, {"accuracy": accuracy})

    @property
    def learning_rate(self) -> float:
        return float(self.model.optimizer.lr.numpy())


@settings(max_examples=150)
@given(
    accuracies=st.lists(st.integers(0, 8).map(lambda eighths: eighths / 8), min_size=1, max_size=25),
    patience=st.integers(1, 6),
    baseline=st.integers(0, 8).map(lambda eighths: eighths / 8),
    plateau_patience=st.integers(1, 5),
)
def test_stopping_and_learning_rate_are_those_of_keras(
    accuracies: list[float], patience: int, baseline: float, plateau_patience: int, keras: ModuleType
) -> None:
    config = TrainingConfig(
        PUBLISHED["approach_2"],
        seed=0,
        epochs=40,
        batch_size=125,
        learning_rate=0.01,
        early_stopping_patience=patience,
        early_stopping_baseline=baseline,
        plateau_patience=plateau_patience,
        plateau_factor=0.5,
        train_examples=1000,
        engine="tensorflow",
    )
    callbacks, expected = Callbacks(config), KerasCallbacks(keras, config)
    for epoch, accuracy in enumerate(accuracies, start=1):
        better = callbacks.epoch_ended(epoch, accuracy)
        expected.epoch_ended(epoch, accuracy)
        assert callbacks.best_epoch == expected.early.best_epoch + 1 == expected.early.best_weights
        assert better == (callbacks.best_epoch == epoch)
        assert callbacks.learning_rate == expected.learning_rate
        assert callbacks.stop == expected.model.stop_training
        if callbacks.stop:
            break


def test_cross_entropy_is_the_mean_of_minus_the_logarithm() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32)
    expected = -(math.log(0.25) + math.log(0.8)) / 2
    assert cross_entropy(probabilities, np.array([1, 2], np.uint8)) == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_of_an_impossible_class_is_finite() -> None:
    probabilities = np.array([[1, 0]], np.float32)
    assert cross_entropy(probabilities, np.array([1])) == pytest.approx(-math.log(1e-7))


def test_cross_entropy_is_that_of_keras(keras: ModuleType) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 6, (500, 10))
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    probabilities[:10] = np.eye(10)
    labels = generator.integers(0, 10, 500).astype(np.uint8)
    expected = keras.losses.categorical_crossentropy(data.one_hot(labels), probabilities).numpy().mean()
    assert cross_entropy(probabilities, labels) == pytest.approx(float(expected), rel=1e-5)


def test_a_run_keeps_the_best_epoch(config: TrainingConfig, fake_training: FakeTraining) -> None:
    fake_training.accuracies = [0.5, 0.9, 0.7, 0.9, 0.8]
    run = fake_training(change(config, epochs=5))
    assert (run.best_epoch, run.epochs_run, run.steps) == (2, 5, 16)
    assert (run.best_test_accuracy, run.final_test_accuracy) == (0.9, 0.8)
    expected = {name: array + np.float32(2) for name, array in initial_weights(config.architecture, 0).items()}
    assert_same_arrays(run.weights, expected)
    wrong = np.flatnonzero(run.predicted_classes != fake_training.test_set.labels)
    assert wrong.tolist() == run.misclassified[1] == list(range(20))
    assert run.predicted_classes.dtype == np.uint8


def test_a_run_has_one_row_of_history_an_epoch(config: TrainingConfig, fake_training: FakeTraining) -> None:
    fake_training.accuracies = [0.5, 0.5, 0.5, 0.75]
    run = fake_training(change(config, epochs=4, plateau_patience=2))
    history = run.history.to_dict("list")
    assert list(run.history.index) == [1, 2, 3, 4]
    assert run.history.index.name == "epoch"
    assert list(history) == list(configuration.HISTORY)
    assert history["test_accuracy"] == [0.5, 0.5, 0.5, 0.75]
    assert history["test_correct"] == [100, 100, 100, 150]
    assert history["learning_rate"] == [0.01, 0.01, 0.01, 0.005] == fake_training.engine.learning_rates
    assert history["train_loss"] == pytest.approx([1 / 3, 1 / 6, 1 / 9, 1 / 12])
    assert history["train_accuracy"] == [0.5] * 4
    assert run.history["test_loss"][4] == pytest.approx(-(0.75 * math.log(0.91) + 0.25 * math.log(0.01)), rel=1e-5)
    assert [len(wrong) for wrong in run.misclassified] == [100, 100, 100, 50]
    assert len(run.epoch_seconds) == len(fake_training.lines) == 4
    assert sum(run.epoch_seconds) <= run.seconds


def test_a_run_of_too_few_steps_for_its_moving_averages_says_so(finished_run: TrainingRun) -> None:
    assert finished_run.steps == 16
    assert finished_run.caution.startswith("only 16 training steps: the moving averages of batch normalisation")
    assert "are still 85 % what they started from" in finished_run.caution
    assert finished_run.caution.endswith("500 steps or more")

    def with_steps(steps: int, architecture: Architecture) -> TrainingRun:
        config = change(finished_run.config, architecture=architecture, train_examples=steps, batch_size=1)
        return dataclasses.replace(finished_run, config=config, best_epoch=1)

    usual = finished_run.config.architecture
    assert "499 training steps" in with_steps(499, usual).caution
    assert with_steps(500, usual).caution == ""
    slow = Architecture((BatchNormalisation(momentum=0.999), *usual.layers))
    assert with_steps(5000, slow).caution.endswith("5023 steps or more")
    assert with_steps(5023, slow).caution == ""
    assert with_steps(10, Architecture((Flatten(), Dense(10), Activation("softmax")))).caution == ""


def test_each_epoch_is_told_in_a_line(config: TrainingConfig, fake_training: FakeTraining) -> None:
    fake_training.accuracies = [0.25, 0.75]
    fake_training(config)
    first, second = fake_training.lines
    label = "4-8-16-16-10, dropout 10 %, seed 0"
    told = rf"{re.escape(label)}: epoch {{}} of at most 2, training 50.00 %, test {{}}.00 %, \d+\.\d s"
    assert re.fullmatch(told.format(1, 25), first)
    assert re.fullmatch(told.format(2, 75), second)
    assert isinstance(second, configuration.EpochLine)
    assert (second.label, second.epoch, second.epochs) == (label, 2, 2)
    assert (first.epoch, first.epochs) == (1, 2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes a second pass with every look at the clock; the call sets it back."""

    def set_back() -> None:
        monkeypatch.setattr(training.time, "perf_counter", iter(map(float, range(100, 200))).__next__)

    set_back()
    return set_back


def test_a_checkpoint_is_what_a_run_goes_on_from(
    config: TrainingConfig, fake_training: FakeTraining, clock: Callable[[], None], assert_same_run: Callable[..., None]
) -> None:
    config = change(config, epochs=6, early_stopping_patience=2, plateau_patience=1)
    fake_training.accuracies = [0.5, 0.99, 0.985, 0.995, 0.6, 0.7]
    kept: list[Checkpoint] = []
    whole = train(config, report=lambda line: None, keep=lambda reached: kept.append(copy.deepcopy(reached)))
    assert (whole.epochs_run, whole.best_epoch) == (6, 4)
    # The clock is looked at once before the epochs, three times in each, and once after them.
    assert (whole.epoch_seconds, whole.seconds) == ([1.0] * 6, 19.0)
    assert [checkpoint.seconds for checkpoint in kept] == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    assert [len(checkpoint.engine_state["orders"]) for checkpoint in kept] == [1, 2, 3, 4, 5, 6]
    for epochs, checkpoint in enumerate(kept, start=1):
        assert checkpoint.history == {name: column[:epochs] for name, column in whole.history.to_dict("list").items()}
        assert checkpoint.misclassified == whole.misclassified[:epochs]
        clock()
        again = train(config, report=lambda line: None, checkpoint=copy.deepcopy(checkpoint))
        assert_same_run(again, whole, measured_once=False)
        assert fake_training.engine.learning_rates == whole.history["learning_rate"].tolist()[epochs:]
        assert (again.epoch_seconds, again.seconds) == ([1.0] * 6, 19.0)


def test_a_checkpoint_before_the_first_epoch_that_counts_has_the_initial_weights(
    config: TrainingConfig, fake_training: FakeTraining
) -> None:
    gradual = change(config, gradual_sparsity=0.5, gradual_epochs=2)
    kept: list[Checkpoint] = []
    train(gradual, report=lambda line: None, keep=lambda reached: kept.append(copy.copy(reached)))
    assert_same_arrays(kept[0].best_weights, initial_weights(config.architecture, config.seed))
    assert_same_arrays({"classes": kept[0].predicted_classes}, {"classes": np.zeros(TINY_TEST_EXAMPLES, np.uint8)})
    assert kept[1].predicted_classes.any()


def test_a_run_stops_early(config: TrainingConfig, fake_training: FakeTraining) -> None:
    fake_training.accuracies = [0.99, 0.98, 0.98, 0.98, 0.98]
    run = fake_training(change(config, epochs=5, early_stopping_patience=2))
    assert (run.epochs_run, run.best_epoch) == (3, 1)


def test_a_gradual_run_keeps_no_network_that_is_not_fully_sparse(
    config: TrainingConfig, fake_training: FakeTraining
) -> None:
    fake_training.accuracies = [0.99, 0.9, 0.8]
    run = fake_training(change(config, epochs=3, gradual_sparsity=0.5, gradual_epochs=2))
    assert run.best_epoch == 2
    assert run.best_test_accuracy == 0.9


def test_the_engine_is_given_the_data_in_the_order_of_each_epoch(
    config: TrainingConfig, fake_training: FakeTraining
) -> None:
    fake_training(config)
    engine = fake_training.engine
    assert len(engine.train_set.labels) == config.train_examples
    for epoch, order in enumerate(engine.orders, start=1):
        assert np.array_equal(order, data_order(config, epoch))


@pytest.mark.parametrize("loss", [NAN, INFINITY])
def test_a_loss_that_is_no_number_ends_the_run(
    config: TrainingConfig, fake_training: FakeTraining, loss: float
) -> None:
    fake_training.loss = loss
    with pytest.raises(Diverged, match="^4-8-16-16-10, dropout 10 %, seed 0: the loss of epoch 1 .* learning_rate"):
        fake_training(config)


def test_a_test_loss_that_is_no_number_ends_the_run(
    config: TrainingConfig, fake_training: FakeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "cross_entropy", lambda *_: NAN)
    with pytest.raises(Diverged, match="epoch 1"):
        fake_training(config)


# Labels


def labels(configs: list[TrainingConfig], *settings: dict[str, Any]) -> list[str]:
    return [config.label.removeprefix("4-8-16-16-10, dropout 10 %, ") for config in told_apart(configs, settings)]


def test_labels_name_what_differs_among_runs_and_nothing_else(config: TrainingConfig) -> None:
    seeds = [change(config, seed=seed) for seed in (0, 1)]
    assert labels(seeds) == ["seed 0", "seed 1"]
    rates = [change(run, learning_rate=rate) for rate in (0.01, 1e30) for run in seeds]
    assert labels(rates) == [f"learning_rate={rate}, seed {seed}" for rate in (0.01, 1e30) for seed in (0, 1)]
    both = [config, change(config, batch_size=100, engine="halide")]
    assert labels(both) == ["batch_size=125, engine=tensorflow, seed 0", "batch_size=100, engine=halide, seed 0"]
    assert labels([config, config]) == ["seed 0", "seed 0"]
    assert labels([]) == []


def test_runs_whose_labels_differ_anyway_name_nothing_more(config: TrainingConfig) -> None:
    other = change(config, architecture=chain((4, 10)), epochs=1)
    rounds = change(config, batch_size=100).rounds([0.2, 0.2])
    assert told_apart([config, other, *rounds[1:]]) == [config, other, *rounds[1:]]
    assert not any(run.varied for run in told_apart([config, other, *rounds[1:]]))


@pytest.mark.parametrize("name", sorted(OTHER_VALUES.keys() - {"seed"}))
def test_any_two_configurations_have_two_labels(config: TrainingConfig, name: str) -> None:
    value = "halide" if name == "engine" else OTHER_VALUES[name]
    one, other = told_apart([config, change(config, **{name: value})])
    assert one.label != other.label


def test_what_tells_a_run_apart_changes_neither_its_key_nor_what_is_recorded(config: TrainingConfig) -> None:
    named, _ = told_apart([config, change(config, epochs=1)])
    assert named.varied == "epochs=2"
    assert (named, named.key, hash(named), named.to_json()) == (config, config.key, hash(config), config.to_json())
    assert change(named, pruned_fractions=(0.2,)).parent.varied == "epochs=2"


def test_networks_of_the_same_name_are_told_apart(config: TrainingConfig) -> None:
    networks = [chain((4, 10), pool_after) for pool_after in ((1,), (2,), ())]
    runs = [change(config, architecture=network) for network in networks]
    assert len({run.label for run in told_apart(runs)}) == 3
    pools = [{"pool_after": word} for word in ("1", "2", "none")]
    assert [run.label for run in told_apart(runs, pools)] == [f"4-10, pool_after={word}, seed 0" for word in "12"] + [
        "4-10, pool_after=none, seed 0"
    ]


def test_an_unpruned_run_has_no_masks(config: TrainingConfig, fake_training: FakeTraining) -> None:
    fake_training(config)
    assert fake_training.engine.masks == {}


def test_each_round_rewinds_its_survivors_and_zeroes_the_rest(
    config: TrainingConfig, fake_training: FakeTraining
) -> None:
    initial = convolution_kernels(initial_weights(config.architecture, config.seed))
    run, masks_before = None, {name: np.ones(kernel.shape, np.float32) for name, kernel in initial.items()}
    for one, survivors in zip(config.rounds(pruned_fractions("article", 0.2, 2)), [5220, 4176, 2309], strict=True):
        parent, run = run, fake_training(one, run)
        kernels = convolution_kernels(run.weights)
        assert sum(np.count_nonzero(kernel) for kernel in kernels.values()) == survivors
        if parent is None:
            continue
        masks = fake_training.engine.masks
        assert masks.keys() == initial.keys()
        for name, mask in masks.items():
            assert mask.dtype == np.float32
            assert set(np.unique(mask)) <= {0, 1}
            assert (mask <= masks_before[name]).all()
            assert np.array_equal(fake_training.engine.initial_weights[name], initial[name] * mask)
        kept = np.concatenate([np.abs(parent.weights[name])[mask == 1] for name, mask in masks.items()])
        gone = np.concatenate([np.abs(parent.weights[name])[mask == 0] for name, mask in masks.items()])
        assert gone.max() <= kept.min()
        masks_before = masks


def test_a_pruned_run_needs_the_run_of_its_previous_round(
    config: TrainingConfig, finished_run: TrainingRun, fake_training: FakeTraining
) -> None:
    for wrong_parent in (None, dataclasses.replace(finished_run, config=change(config, seed=1))):
        with pytest.raises(ValueError, match="previous round"):
            fake_training(change(config, pruned_fractions=(0.2,)), wrong_parent)
    with pytest.raises(ValueError, match="previous round"):
        fake_training(change(config, pruned_fractions=(0.2, 0.2)), finished_run)
