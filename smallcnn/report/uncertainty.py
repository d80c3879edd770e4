"""How far a measured accuracy can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from smallcnn.training import TrainingRun


def wilson_interval(correct: int, images: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval (Wilson 1927) of an accuracy measured on `images` independent images.

    Returns:
        Lower and upper end, 0 to 1; with z = 1.96 the interval holds the true accuracy 95 times in 100.
    """
    share = correct / images
    centre = share + z**2 / (2 * images)
    half_width = z * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    scale = 1 + z**2 / images
    return (centre - half_width) / scale, (centre + half_width) / scale


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation; the deviation of a single value is NaN."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


# What 95 in 100 values of Student's t lie within, for 1, 2, … degrees of freedom.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def paired_difference(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """The mean difference of values paired by position, and half the width of its 95 % interval (Student 1908).

    The interval of a single pair, or of none, has no bounds.
    """
    differences = np.subtract(values, others)
    if len(differences) < 2:
        return float(differences.sum()), math.inf
    deviation = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return float(differences.mean()), STUDENT_T[min(len(differences) - 1, len(STUDENT_T)) - 1] * deviation


def is_above(values: Sequence[float], others: Sequence[float]) -> bool | None:
    """Whether `values` exceed `others`, measured with the same seeds; None where that is unclear.

    Clear is a mean difference whose 95 % interval does not hold zero; one seed never tells.
    """
    mean, half_width = paired_difference(values, others)
    return True if mean > half_width else False if mean < -half_width else None


def changes_by(values: Sequence[float], others: Sequence[float], figure: float) -> bool | None:
    """Whether `values` differ from `others`, measured with the same seeds, by `figure`; None where that is unclear.

    Clear is an interval (95 %) that holds `figure` but not zero, or one that does not hold `figure`.
    """
    mean, half_width = paired_difference(values, others)
    if abs(mean - figure) > half_width:
        return False
    return True if abs(mean) > half_width else None


def all_of(answers: Sequence[bool | None]) -> bool | None:
    """Whether all `answers` are yes: False if one is no, else None if one is unclear."""
    return False if False in answers else None if None in answers else True


def never(answers: Sequence[bool | None]) -> bool | None:
    """Whether all `answers` are no: False if one is yes, else None if one is unclear."""
    return False if True in answers else None if None in answers else True


def unanimous(answers: Sequence[bool]) -> bool | None:
    """True if all seeds say yes, False if all say no, None if they disagree."""
    return answers[0] if len(set(answers)) == 1 else None


def reaches(accuracies: Sequence[float], figure: float, images: int = 10_000) -> bool | None:
    """Whether the best of `accuracies` reaches `figure`; None if it falls short by less than its uncertainty."""
    highest = max(accuracies)
    _, high = wilson_interval(round(highest * images), images)
    return True if highest >= figure else None if figure <= high else False


def accuracy_of_other_half(run: TrainingRun, splits: int = 200) -> float:
    """Estimates the accuracy at the best epoch when other images choose the epoch than those that measure it.

    The test set is split at random into halves, `splits` times; one half chooses the epoch and the other measures its
    accuracy, then the other way round. The mean over all of them is returned (0 to 1). Epochs before
    `config.gradual_epochs` cannot be chosen, as in training.
    """
    images = len(run.predicted_classes)
    correct = np.ones((run.epochs_run, images), bool)
    for epoch, wrong in enumerate(run.misclassified):
        correct[epoch, wrong] = False
    correct = correct[max(run.config.gradual_epochs - 1, 0) :]
    generator = np.random.default_rng(0)
    accuracies = []
    for _ in range(splits):
        order = generator.permutation(images)
        halves = order[: images // 2], order[images // 2 :]
        for chooser, judge in (halves, halves[::-1]):
            chosen = correct[:, chooser].sum(axis=1).argmax()
            accuracies.append(correct[chosen, judge].mean())
    return float(np.mean(accuracies))
