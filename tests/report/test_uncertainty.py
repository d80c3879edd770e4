"""How far an accuracy can be trusted: intervals, spreads, and what choosing the epoch by the test set is worth."""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallcnn.config import TrainingRun
from smallcnn.report.uncertainty import (
    ROUNDING,
    Verdict,
    differs_by,
    is_above,
    mean_and_deviation,
    other_half_accuracy,
    paired_difference,
    reaches,
    unanimous,
    wilson_interval,
)
from tests.report.made_up import made_up_run

SEEN, NOT_SEEN, UNDECIDED = Verdict.SEEN, Verdict.NOT_SEEN, Verdict.UNDECIDED
IMAGES = 2000

# The two-sided 95 % quantiles for 1 to 30 degrees of freedom, as any table of Student's t prints them.
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def run_with(correct: np.ndarray, gradual_epochs: int = 0) -> TrainingRun:
    """A run that classifies as the boolean array `correct` (epochs, images) says."""
    schedule = {"gradual_sparsity": 0.5, "gradual_epochs": gradual_epochs} if gradual_epochs else {}
    run = made_up_run(correct.mean(axis=1).tolist(), images=correct.shape[1], **schedule)
    return dataclasses.replace(run, misclassified=[np.flatnonzero(~row).tolist() for row in correct])


def noise(epochs: int, accuracy: float) -> np.ndarray:
    return np.random.default_rng(7).random((epochs, IMAGES)) < accuracy


# Intervals


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_newcombe_1998(correct: int, images: int, low: float, high: float) -> None:
    assert wilson_interval(correct, images) == pytest.approx((low, high), abs=5e-5)


@settings(max_examples=20)
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
    with warnings.catch_warnings(action="error"):
        mean, deviation = mean_and_deviation([0.99])
    assert mean == 0.99
    assert math.isnan(deviation)


@pytest.mark.parametrize(("degrees", "quantile"), list(enumerate(STUDENT, start=1)))
def test_a_paired_difference_has_the_interval_of_students_table(degrees: int, quantile: float) -> None:
    others = [0.9 + 0.001 * seed for seed in range(degrees + 1)]
    differences = [0.01 * (seed % 3) + 0.02 * (seed == 1) for seed in range(degrees + 1)]
    values = [other + difference for other, difference in zip(others, differences, strict=True)]
    mean, half_width = paired_difference(values, others)
    assert mean == pytest.approx(statistics.mean(differences))
    standard_error = statistics.stdev(differences) / math.sqrt(degrees + 1)
    assert half_width / standard_error == pytest.approx(quantile, abs=5.1e-4)


def test_a_paired_difference_is_taken_seed_by_seed() -> None:
    mean, half_width = paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    assert mean == 2.0
    assert half_width == pytest.approx(4.303 / math.sqrt(3), rel=1e-4)
    assert paired_difference([1.0], [0.5]) == (0.5, math.inf)
    assert paired_difference([], []) == (0.0, math.inf)


# Verdicts


def test_verdicts_are_told_in_these_words() -> None:
    assert [verdict.value for verdict in Verdict] == ["seen", "not seen", "undecided"]


def test_a_claim_of_several_parts_holds_if_each_does() -> None:
    assert Verdict.all([]) is SEEN
    assert Verdict.all([SEEN, SEEN]) is SEEN
    assert Verdict.all([SEEN, UNDECIDED, SEEN]) is UNDECIDED
    assert Verdict.all([SEEN, NOT_SEEN]) is Verdict.all([UNDECIDED, NOT_SEEN, SEEN]) is NOT_SEEN
    assert Verdict.all(verdict for verdict in (NOT_SEEN, UNDECIDED)) is NOT_SEEN


def test_a_verdict_is_named_by_what_it_says() -> None:
    assert [verdict.value for verdict in (SEEN, NOT_SEEN, UNDECIDED)] == ["seen", "not seen", "undecided"]


def test_the_contrary_of_what_is_undecided_is_undecided() -> None:
    assert [verdict.opposite for verdict in (SEEN, NOT_SEEN, UNDECIDED)] == [NOT_SEEN, SEEN, UNDECIDED]


def test_a_difference_is_clear_only_beyond_its_spread_over_seeds() -> None:
    high, low, near = [0.994, 0.995, 0.993], [0.992, 0.9925, 0.991], [0.993, 0.9955, 0.9925]
    assert is_above(high, low) is SEEN
    assert is_above(low, high) is NOT_SEEN
    assert is_above(high, near) is UNDECIDED
    assert is_above([0.999], [0.9]) is UNDECIDED
    assert is_above(high, high) is UNDECIDED


def pair(mean: float, spread: float) -> list[float]:
    """Differences of two seeds: their interval's half width is 12.7062 times `spread`."""
    return [mean - spread, mean + spread]


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [(12.707, SEEN), (12.705, UNDECIDED), (0, UNDECIDED), (-12.705, UNDECIDED), (-12.707, NOT_SEEN)],
)
def test_two_seeds_tell_beyond_12_706_times_their_spread(mean: float, verdict: Verdict) -> None:
    assert is_above(pair(mean, 1.0), [0.0, 0.0]) is verdict


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (-32.707, NOT_SEEN),  # the figure is -20, the interval ends 12.706 from the mean
        (-32.705, SEEN),
        (-20, SEEN),
        (-12.707, SEEN),
        (-12.705, UNDECIDED),  # holds the figure, and zero
        (-7.295, UNDECIDED),
        (-7.293, NOT_SEEN),
        (20, NOT_SEEN),
    ],
)
def test_a_change_is_seen_if_its_interval_holds_it_and_not_zero(mean: float, verdict: Verdict) -> None:
    assert differs_by(pair(mean, 1.0), [0.0, 0.0], -20) is verdict


def test_a_change_that_is_the_same_for_all_seeds_may_be_off_by_rounding_and_no_more() -> None:
    assert differs_by([ROUNDING] * 2, [0.0] * 2, 0) is SEEN
    assert differs_by([1.001 * ROUNDING] * 2, [0.0] * 2, 0) is NOT_SEEN
    assert differs_by([0.5] * 2, [0.5] * 2, 0) is UNDECIDED  # no difference at all is none that can be seen


def test_three_seeds_that_lose_the_same_have_lost_it_whatever_the_last_digit_is() -> None:
    for start in range(9800, 9990):
        before = [(start + seed) / 10_000 for seed in range(3)]
        after = [(start + seed - 10) / 10_000 for seed in range(3)]
        assert differs_by(after, before, -0.001) is SEEN
        assert differs_by(after, before, -0.0011) is NOT_SEEN


def test_an_interval_without_width_ends_where_it_begins() -> None:
    assert differs_by([1.0, 1.0], [1.0, 1.0], 0) is UNDECIDED  # it holds the figure, and zero
    assert differs_by([1.0, 1.0], [1.0, 1.0], ROUNDING) is UNDECIDED
    assert differs_by([1.0, 1.0], [1.0, 1.0], 2 * ROUNDING) is NOT_SEEN
    assert differs_by([2.0, 2.0], [1.0, 1.0], 1) is SEEN


def test_seeds_that_agree_answer() -> None:
    assert [unanimous(answers) for answers in ([True, True], [False], [True, False])] == [SEEN, NOT_SEEN, UNDECIDED]


def test_a_figure_is_reached_missed_or_within_the_uncertainty() -> None:
    assert [reaches([0.99, 0.9924], figure) for figure in (0.9924, 0.993, 0.995)] == [SEEN, UNDECIDED, NOT_SEEN]
    _, high = wilson_interval(9924, 10_000)
    assert reaches([0.9924], high) is UNDECIDED
    assert reaches([0.9924], math.nextafter(high, 1)) is NOT_SEEN
    assert reaches([0.9924], 0.995, images=1000) is UNDECIDED  # fewer images fix it less


# What choosing the epoch by the test set is worth


def test_where_all_epochs_err_alike_the_choice_of_the_epoch_is_worth_nothing() -> None:
    run = run_with(np.repeat(noise(1, 0.9), 5, axis=0))
    assert other_half_accuracy(run) == pytest.approx(run.best_test_accuracy, abs=1e-12)


def test_where_epochs_differ_by_chance_the_best_epoch_flatters() -> None:
    run = run_with(noise(30, 0.9))
    other = other_half_accuracy(run)
    assert other < run.best_test_accuracy - 0.003
    assert other == pytest.approx(run.history["test_accuracy"].mean(), abs=0.005)


def test_an_epoch_that_is_clearly_better_is_chosen_by_any_half() -> None:
    correct = noise(5, 0.5)
    correct[3] = noise(1, 0.95)
    run = run_with(correct)
    assert run.best_epoch == 4
    assert other_half_accuracy(run) == pytest.approx(run.best_test_accuracy, abs=1e-12)


def test_epochs_before_full_sparsity_cannot_be_chosen() -> None:
    correct = np.stack([np.ones(IMAGES, bool), *noise(2, 0.6)])
    correct[2] = correct[1]
    assert other_half_accuracy(run_with(correct)) == 1
    for gradual_epochs in (2, 3):
        run = run_with(correct, gradual_epochs)
        assert other_half_accuracy(run) == pytest.approx(run.best_test_accuracy, abs=1e-12)


def test_the_estimate_is_the_mean_over_200_splits_each_used_both_ways() -> None:
    correct = noise(6, 0.9)[:, :301]
    generator = np.random.default_rng(0)
    judged = []
    for _ in range(200):
        order = generator.permutation(301)
        one, other = order[:150], order[150:]
        for chooser, judge in ((one, other), (other, one)):
            best = max(range(6), key=lambda epoch: int(correct[epoch, chooser].sum()))
            judged.append(correct[best, judge].sum() / len(judge))
    assert other_half_accuracy(run_with(correct)) == pytest.approx(statistics.fmean(judged), abs=1e-12)


def test_the_estimate_is_the_same_every_time() -> None:
    run = run_with(noise(10, 0.9))
    assert other_half_accuracy(run) == other_half_accuracy(run, splits=200) == pytest.approx(0.894855, abs=1e-9)
    assert other_half_accuracy(run, splits=10) != other_half_accuracy(run)
