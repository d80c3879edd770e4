"""Global magnitude pruning and the rounds of the lottery ticket hypothesis (Frankle & Carbin, arXiv:1803.03635).

A round is: train, rank the surviving kernel weights of all layers together by magnitude, mask the smallest, rewind the
survivors to their initial values, train again with the mask held. Which fraction each round prunes is a schedule's
choice. The functions here know arrays and numbers only; the training loop applies the masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from smallcnn.arithmetic import power
from smallcnn.checks import check_choice, check_integer, check_number

SCHEDULES = ("article", "paper")
MOST_ROUNDS = 100


def pruned_fractions(schedule: str, fraction: float, rounds: int) -> tuple[float, ...]:
    """Gives the fraction of the surviving weights that each round prunes.

    Args:
        schedule: "article", where round r prunes fraction^(1/r), more in every round; or "paper", where every round
            prunes `fraction`, so that (1 - fraction)^rounds is kept (Frankle & Carbin 2018, section 2).
        fraction: p, above 0 and below 1.
        rounds: 1 to `MOST_ROUNDS`.

    Raises:
        ValueError: if a value is out of range.
        TypeError: if a value has the wrong type.
    """
    check_choice("schedule", schedule, SCHEDULES)
    fraction = check_pruned_fraction(fraction, "pruning_fraction")
    check_integer("rounds", rounds, minimum=1, maximum=MOST_ROUNDS)
    return tuple(power(fraction, 1 / r) if schedule == "article" else fraction for r in range(1, rounds + 1))


def check_pruned_fraction(value: Any, name: str = "a pruned fraction") -> float:
    """Returns `value` as a float if it is above 0 and below 1, else raises TypeError or ValueError."""
    number = check_number(name, value)
    if not 0 < number < 1:
        raise ValueError(f"{name} is {value}; expected a number above 0 and below 1")
    return number


def pruned_count(surviving: int, fraction: float) -> int:
    """The number of weights that a round prunes: `fraction` of `surviving`, rounded down."""
    return math.floor(fraction * surviving + 1e-9)  # 0.29 × 100 is 28.999999999999996 in floating point


def surviving_counts(prunable: int, fractions: tuple[float, ...]) -> list[int]:
    """The number of weights left before the first round and after each."""
    counts = [prunable]
    for fraction in fractions:
        counts.append(counts[-1] - pruned_count(counts[-1], fraction))
    return counts


def global_magnitude_masks(
    kernels: Mapping[str, np.ndarray], fraction: float, surviving: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Masks the smallest weights of all layers together.

    Args:
        kernels: the trained weights by name, any shapes.
        fraction: how much of the surviving weights to prune, 0 to below 1.
        surviving: boolean arrays of the same names and shapes, True for a weight not pruned so far; None for all.

    Returns:
        Boolean arrays of the same names and shapes, True for a weight that is kept. Exactly
        `pruned_count(survivors, fraction)` more weights are False than before. Of equal magnitudes the one that comes
        first, by name and then by position, is pruned first.
    """
    names = sorted(kernels)
    magnitudes = np.concatenate([np.abs(kernels[name]).ravel() for name in names])
    if surviving is None:
        mask = np.ones(len(magnitudes), bool)
    else:
        mask = np.concatenate([surviving[name].ravel() for name in names]).astype(bool)
    survivors = np.flatnonzero(mask)
    smallest_first = survivors[np.argsort(magnitudes[survivors], kind="stable")]
    mask[smallest_first[: pruned_count(len(survivors), fraction)]] = False
    sizes = [kernels[name].size for name in names]
    parts = np.split(mask, np.cumsum(sizes)[:-1])
    by_name = {name: part.reshape(kernels[name].shape) for name, part in zip(names, parts, strict=True)}
    return {name: by_name[name] for name in kernels}


def layer_magnitude_masks(kernels: Mapping[str, np.ndarray], fraction: float) -> dict[str, np.ndarray]:
    """Masks the smallest weights of each layer by itself, the same fraction in every layer."""
    return {name: global_magnitude_masks({name: kernel}, fraction)[name] for name, kernel in kernels.items()}
