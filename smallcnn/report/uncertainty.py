"""How far a measured accuracy can be trusted. Intervals and quantiles are SciPy's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum

import numpy as np

from smallcnn.config import TrainingRun

CONFIDENCE = 0.95
ROUNDING = 1e-9  # more than floating point adds to a difference of accuracies, less than an image


class Verdict(Enum):
    """What measurements say of a claim."""

    SEEN = "seen"
    NOT_SEEN = "not seen"
    UNDECIDED = "undecided"

    @classmethod
    def all(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """Of a claim that holds if each of several does."""
        found = set(verdicts)
        return next((verdict for verdict in (cls.NOT_SEEN, cls.UNDECIDED) if verdict in found), cls.SEEN)

    @property
    def opposite(self) -> Verdict:
        """Of the claim that says the contrary."""
        return {Verdict.SEEN: Verdict.NOT_SEEN, Verdict.NOT_SEEN: Verdict.SEEN}.get(self, self)


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """The Wilson score interval (Wilson 1927) of an accuracy measured on `images` independent images.

    Returns:
        Lower and upper end, 0 to 1; the interval holds the true accuracy 95 times in 100.
    """
    from scipy.stats import binomtest  # here: SciPy's statistics take half a second

    interval = binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation; the deviation of a single value is NaN."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def paired_difference(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """The mean difference of values paired by position, and half the width of its 95 % interval (Student 1908).

    The interval of a single pair, or of none, has no bounds.
    """
    differences = np.subtract(values, others)
    if len(differences) < 2:
        return float(differences.sum()), math.inf
    from scipy.stats import t as student

    deviation = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return float(differences.mean()), float(student.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * deviation


def is_above(values: Sequence[float], others: Sequence[float]) -> Verdict:
    """Whether `values` exceed `others`, measured with the same seeds.

    Seen, or not, is a mean difference whose 95 % interval does not hold zero; one seed never tells.
    """
    mean, half_width = paired_difference(values, others)
    return Verdict.SEEN if mean > half_width else Verdict.NOT_SEEN if mean < -half_width else Verdict.UNDECIDED


def differs_by(values: Sequence[float], others: Sequence[float], figure: float) -> Verdict:
    """Whether `values` differ from `others`, measured with the same seeds, by `figure`.

    Seen is an interval (95 %) that holds `figure` but not zero; undecided is one that holds both.
    """
    mean, half_width = paired_difference(values, others)
    if abs(mean - figure) > half_width + ROUNDING:
        return Verdict.NOT_SEEN
    return Verdict.SEEN if abs(mean) > half_width else Verdict.UNDECIDED


def unanimous(answers: Sequence[bool]) -> Verdict:
    """Seen if all seeds say yes, not seen if all say no, undecided if they disagree."""
    if len(set(answers)) != 1:
        return Verdict.UNDECIDED
    return Verdict.SEEN if answers[0] else Verdict.NOT_SEEN


def reaches(accuracies: Sequence[float], figure: float, images: int = 10_000) -> Verdict:
    """Whether the best of `accuracies` reaches `figure`; undecided if it falls short by less than its uncertainty."""
    highest = max(accuracies)
    _, high = wilson_interval(round(highest * images), images)
    return Verdict.SEEN if highest >= figure else Verdict.UNDECIDED if figure <= high else Verdict.NOT_SEEN


def other_half_accuracy(run: TrainingRun, splits: int = 200) -> float:
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
