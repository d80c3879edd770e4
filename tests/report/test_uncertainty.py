"""How far an accuracy can be trusted: intervals, spreads, and what choosing the epoch by the test set is worth."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallcnn.statistics import (
    accuracy_of_other_half,
    all_of,
    changes_by,
    is_above,
    mean_and_deviation,
    never,
    paired_difference,
    reaches,
    unanimous,
    wilson_interval,
)
from smallcnn.training import TrainingRun

IMAGES = 2000


def run_with(run: TrainingRun, correct: np.ndarray, gradual_epochs: int = 0) -> TrainingRun:
    """A run that classifies as the boolean array `correct` (epochs, images) says."""
    accuracies = correct.mean(axis=1).tolist()
    sparsity = 0.5 if gradual_epochs else 0.0
    return dataclasses.replace(
        run,
        config=dataclasses.replace(
            run.config, epochs=len(correct), gradual_sparsity=sparsity, gradual_epochs=gradual_epochs
        ),
        history=run.history | {"test_accuracy": accuracies},
        misclassified=[np.flatnonzero(~row).tolist() for row in correct],
        best_epoch=max(range(max(gradual_epochs - 1, 0), len(correct)), key=accuracies.__getitem__) + 1,
        predicted_classes=np.zeros(correct.shape[1], np.uint8),
    )


def noise(epochs: int, accuracy: float) -> np.ndarray:
    return np.random.default_rng(7).random((epochs, IMAGES)) < accuracy


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_newcombe_1998(correct: int, images: int, low: float, high: float) -> None:
    assert wilson_interval(correct, images, z=1.959964) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images))))
def test_an_interval_holds_the_measured_accuracy_and_stays_between_0_and_1(counts: tuple[int, int]) -> None:
    correct, images = counts
    low, high = wilson_interval(correct, images)
    assert -1e-12 <= low <= correct / images + 1e-12
    assert correct / images - 1e-12 <= high <= 1 + 1e-12
    assert wilson_interval(images - correct, images) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_more_images_make_an_interval_narrower() -> None:
    widths = [high - low for low, high in (wilson_interval(99 * n, 100 * n) for n in (1, 10, 100))]
    assert widths == sorted(widths, reverse=True)


def test_the_deviation_is_that_of_a_sample() -> None:
    assert mean_and_deviation([0.98, 0.99, 1.0]) == pytest.approx((0.99, 0.01))
    assert mean_and_deviation([0.99, 0.99]) == (0.99, 0.0)


def test_a_single_value_has_no_deviation() -> None:
    mean, deviation = mean_and_deviation([0.99])
    assert mean == 0.99
    assert math.isnan(deviation)


def test_where_all_epochs_err_alike_the_choice_of_the_epoch_is_worth_nothing(finished_run: TrainingRun) -> None:
    run = run_with(finished_run, np.repeat(noise(1, 0.9), 5, axis=0))
    assert accuracy_of_other_half(run) == pytest.approx(run.best_test_accuracy, abs=1e-12)


def test_where_epochs_differ_by_chance_the_best_epoch_flatters(finished_run: TrainingRun) -> None:
    run = run_with(finished_run, noise(30, 0.9))
    accuracies = run.history["test_accuracy"]
    other = accuracy_of_other_half(run)
    assert other < run.best_test_accuracy - 0.003
    assert other == pytest.approx(float(np.mean(accuracies)), abs=0.005)


def test_an_epoch_that_is_clearly_better_is_chosen_by_any_half(finished_run: TrainingRun) -> None:
    correct = noise(5, 0.5)
    correct[3] = noise(1, 0.95)
    run = run_with(finished_run, correct)
    assert run.best_epoch == 4
    assert accuracy_of_other_half(run) == pytest.approx(run.best_test_accuracy, abs=1e-12)


def test_epochs_before_full_sparsity_cannot_be_chosen(finished_run: TrainingRun) -> None:
    correct = np.stack([np.ones(IMAGES, bool), *noise(2, 0.6)])
    correct[2] = correct[1]
    assert accuracy_of_other_half(run_with(finished_run, correct)) == 1
    for gradual_epochs in (2, 3):
        run = run_with(finished_run, correct, gradual_epochs)
        assert accuracy_of_other_half(run) == pytest.approx(run.best_test_accuracy, abs=1e-12)


def test_the_estimate_is_the_same_every_time(finished_run: TrainingRun) -> None:
    run = run_with(finished_run, noise(10, 0.9))
    assert accuracy_of_other_half(run) == accuracy_of_other_half(run)
    assert accuracy_of_other_half(run, splits=10) != accuracy_of_other_half(run)


def test_a_difference_is_clear_only_beyond_its_spread_over_seeds() -> None:
    assert is_above([0.994, 0.995, 0.993], [0.992, 0.9925, 0.991]) is True
    assert is_above([0.992, 0.9925, 0.991], [0.994, 0.995, 0.993]) is False
    assert is_above([0.994, 0.995, 0.993], [0.993, 0.9955, 0.9925]) is None
    assert is_above([0.999], [0.9]) is None


def test_a_change_is_seen_if_its_interval_holds_it_and_not_zero() -> None:
    before = [0.994, 0.995, 0.993]
    clearly, hardly = [0.9929, 0.9941, 0.992], [0.9935, 0.9935, 0.9929]
    assert changes_by(clearly, before, -0.001) is True
    assert changes_by(clearly, before, -0.005) is False
    assert changes_by(hardly, before, -0.001) is None


def test_answers_are_added_up() -> None:
    assert [all_of(answers) for answers in ([True, True], [True, None], [None, False])] == [True, None, False]
    assert [never(answers) for answers in ([False, False], [False, None], [None, True])] == [True, None, False]
    assert [unanimous(answers) for answers in ([True, True], [False], [True, False])] == [True, False, None]


def test_a_figure_is_reached_missed_or_within_the_uncertainty() -> None:
    assert [reaches([0.99, 0.9924], figure) for figure in (0.9924, 0.993, 0.995)] == [True, None, False]


def test_a_paired_difference_has_the_interval_of_student() -> None:
    mean, half_width = paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    assert mean == 2.0
    assert half_width == pytest.approx(4.303 / math.sqrt(3))
    assert paired_difference([1.0], [0.5]) == (0.5, math.inf)
    assert paired_difference([], []) == (0.0, math.inf)
