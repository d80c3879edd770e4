"""Schedules and counts of pruning, and the properties of masks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallcnn.architecture import convolution_kernels, initial_weights
from smallcnn.config import TrainingConfig
from smallcnn.pruning import (
    check_pruned_fraction,
    global_magnitude_masks,
    layer_magnitude_masks,
    pruned_count,
    pruned_fractions,
    surviving_counts,
)
from tests.networks import PUBLISHED

Arrays = dict[str, np.ndarray]

# Few distinct values, so that ties within and across layers are common.
values = st.one_of(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), st.floats(-3, 3, width=32))
fractions = st.floats(0.001, 0.999)


@st.composite
def kernel_sets(draw: st.DrawFn) -> Arrays:
    """Kernels of one to four layers, in any order of names."""
    names = draw(st.lists(st.sampled_from(["block_1", "block_2", "block_10", "dense"]), min_size=1, unique=True))
    shapes = st.sampled_from([(1,), (7,), (2, 3), (3, 3, 1, 2)])
    kernels = {}
    for name in names:
        shape = draw(shapes)
        size = int(np.prod(shape))
        flat = draw(st.lists(values, min_size=size, max_size=size))
        kernels[f"{name}/kernel"] = np.array(flat, np.float32).reshape(shape)
    return kernels


@st.composite
def half_pruned_kernel_sets(draw: st.DrawFn) -> tuple[Arrays, Arrays]:
    """Kernels with the weights that survive so far, pruned ones not always zero."""
    kernels = draw(kernel_sets())
    surviving = {}
    for name, kernel in kernels.items():
        kept = draw(st.lists(st.booleans(), min_size=kernel.size, max_size=kernel.size))
        surviving[name] = np.array(kept, bool).reshape(kernel.shape)
    return kernels, surviving


def count(masks: Arrays) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def select(arrays: Arrays, masks: Arrays) -> np.ndarray:
    return np.concatenate([np.abs(arrays[name])[masks[name]] for name in arrays])


def test_the_article_prunes_20_and_then_44_72_percent_of_the_survivors() -> None:
    schedule = pruned_fractions("article", 0.2, 2)
    assert schedule == pytest.approx((0.2, 0.4472), abs=5e-5)
    assert pruned_fractions("article", 0.2, 3)[2] == pytest.approx(0.2 ** (1 / 3))


def test_each_round_of_the_article_has_its_counts() -> None:
    prunable = PUBLISHED["approach_2"].prunable
    trainable = PUBLISHED["approach_2"].trainable
    schedule = pruned_fractions("article", 0.2, 2)
    surviving = surviving_counts(prunable, schedule)
    assert surviving == [5220, 4176, 2309]
    assert [pruned_count(5220, schedule[0]), pruned_count(4176, schedule[1])] == [1044, 1867]
    assert [trainable - (prunable - left) for left in surviving] == [5382, 4338, 2471]
    assert [f"{100 * (1 - left / prunable):.2f}" for left in surviving] == ["0.00", "20.00", "55.77"]


def test_the_paper_prunes_the_same_fraction_in_every_round() -> None:
    assert pruned_fractions("paper", 0.2, 3) == (0.2, 0.2, 0.2)
    assert surviving_counts(5220, pruned_fractions("paper", 0.2, 3)) == [5220, 4176, 3341, 2673]
    left = surviving_counts(1_000_000, pruned_fractions("paper", 0.2, 10))[-1]
    assert left == pytest.approx(1_000_000 * 0.8**10, abs=10)


@pytest.mark.parametrize(
    ("surviving", "fraction", "expected"),
    [(100, 0.29, 29), (10, 0.19, 1), (10, 0.99, 9), (3, 0.2, 0), (1, 0.5, 0), (0, 0.5, 0), (5220, 0.2, 1044)],
)
def test_a_fraction_of_the_survivors_is_rounded_down(surviving: int, fraction: float, expected: int) -> None:
    assert pruned_count(surviving, fraction) == expected


def test_whole_percentages_of_whole_hundreds_lose_nothing_to_floating_point() -> None:
    assert [pruned_count(100, percent / 100) for percent in range(1, 100)] == list(range(1, 100))


@given(kernels=kernel_sets(), fraction=fractions)
def test_exactly_the_asked_number_of_weights_is_pruned(kernels: Arrays, fraction: float) -> None:
    masks = global_magnitude_masks(kernels, fraction)
    total = sum(kernel.size for kernel in kernels.values())
    assert count(masks) == total - pruned_count(total, fraction)
    assert list(masks) == list(kernels)
    for name, mask in masks.items():
        assert (mask.dtype, mask.shape) == (np.dtype(bool), kernels[name].shape)


@given(half_pruned=half_pruned_kernel_sets(), fraction=fractions)
def test_a_later_round_counts_survivors_only_and_revives_none(
    half_pruned: tuple[Arrays, Arrays], fraction: float
) -> None:
    kernels, surviving = half_pruned
    before = {name: mask.copy() for name, mask in surviving.items()}
    masks = global_magnitude_masks(kernels, fraction, surviving)
    assert count(masks) == count(before) - pruned_count(count(before), fraction)
    for name, mask in masks.items():
        assert not (mask & ~before[name]).any()
        assert np.array_equal(surviving[name], before[name])


@given(half_pruned=half_pruned_kernel_sets(), fraction=fractions)
def test_no_kept_weight_is_smaller_in_magnitude_than_a_newly_pruned_one(
    half_pruned: tuple[Arrays, Arrays], fraction: float
) -> None:
    kernels, surviving = half_pruned
    masks = global_magnitude_masks(kernels, fraction, surviving)
    kept = select(kernels, masks)
    newly_pruned = select(kernels, {name: surviving[name] & ~mask for name, mask in masks.items()})
    if len(kept) and len(newly_pruned):
        assert newly_pruned.max() <= kept.min()


@given(half_pruned=half_pruned_kernel_sets(), fraction=fractions, random=st.randoms())
def test_the_order_of_the_layers_does_not_matter(
    half_pruned: tuple[Arrays, Arrays], fraction: float, random: Any
) -> None:
    kernels, surviving = half_pruned
    shuffled = list(kernels)
    random.shuffle(shuffled)
    masks = global_magnitude_masks(kernels, fraction, surviving)
    other = global_magnitude_masks({name: kernels[name] for name in shuffled}, fraction, surviving)
    for name, mask in masks.items():
        assert np.array_equal(mask, other[name])


@given(kernels=kernel_sets(), fraction=fractions)
def test_the_sign_of_a_weight_does_not_matter(kernels: Arrays, fraction: float) -> None:
    masks = global_magnitude_masks(kernels, fraction)
    for changed in (
        {name: -kernel for name, kernel in kernels.items()},
        {name: np.abs(kernel) for name, kernel in kernels.items()},
    ):
        other = global_magnitude_masks(changed, fraction)
        assert all(np.array_equal(mask, other[name]) for name, mask in masks.items())


def test_small_negative_weights_go_before_large_positive_and_negative_ones() -> None:
    masks = global_magnitude_masks({"a": np.array([-3.0, 0.1, -0.2]), "b": np.array([[2.0], [-0.05]])}, 0.6)
    assert masks["a"].tolist() == [True, False, False]
    assert masks["b"].tolist() == [[True], [False]]


def test_of_equal_weights_the_first_by_name_and_position_goes_first() -> None:
    equal = {"b": np.ones((2, 2)), "a": -np.ones(4)}
    masks = global_magnitude_masks(equal, 0.5)
    assert masks["a"].tolist() == [False] * 4
    assert masks["b"].tolist() == [[True, True], [True, True]]


def test_the_first_of_equal_weights_goes_first_in_large_layers_too() -> None:
    kernel = np.tile(np.float32([1, -1, 2]), 1000)
    mask = global_magnitude_masks({"a": kernel}, 0.25)["a"]
    ones = np.flatnonzero(np.abs(kernel) == 1)
    assert np.array_equal(np.flatnonzero(~mask), ones[:750])


def test_many_zeros_do_not_take_more_than_their_share() -> None:
    kernels = {"a": np.zeros(90), "b": np.arange(1.0, 11.0)}
    masks = global_magnitude_masks(kernels, 0.5)
    assert (count({"a": masks["a"]}), count({"b": masks["b"]})) == (40, 10)


def test_two_rounds_on_approach_2_leave_the_published_counts() -> None:
    kernels = convolution_kernels(initial_weights(PUBLISHED["approach_2"], seed=0))
    first_fraction, second_fraction = pruned_fractions("article", 0.2, 2)
    first = global_magnitude_masks(kernels, first_fraction)
    second = global_magnitude_masks({name: kernels[name] * first[name] for name in kernels}, second_fraction, first)
    assert (count(first), count(second)) == (4176, 2309)


@given(kernels=kernel_sets(), fraction=fractions)
def test_pruning_by_layer_takes_the_smallest_of_each_layer(kernels: Arrays, fraction: float) -> None:
    masks = layer_magnitude_masks(kernels, fraction)
    assert list(masks) == list(kernels)
    for name, kernel in kernels.items():
        kept, pruned = np.abs(kernel)[masks[name]], np.abs(kernel)[~masks[name]]
        assert len(pruned) == pruned_count(kernel.size, fraction)
        if len(kept) and len(pruned):
            assert pruned.max() <= kept.min()


def test_pruning_by_layer_spares_no_layer_of_large_weights() -> None:
    kernels = {"small": np.arange(1.0, 11.0), "large": np.arange(101.0, 111.0)}
    by_layer, together = layer_magnitude_masks(kernels, 0.3), global_magnitude_masks(kernels, 0.3)
    assert [int(by_layer[name].sum()) for name in kernels] == [7, 7]
    assert [int(together[name].sum()) for name in kernels] == [4, 10]


@pytest.mark.parametrize(
    ("name", "value", "error", "given"),
    [
        ("schedule", "lottery", ValueError, "'lottery'"),
        ("schedule", None, ValueError, "None"),
        ("fraction", 0, ValueError, "0"),
        ("fraction", 1, ValueError, "1"),
        ("fraction", 1.5, ValueError, "1.5"),
        ("fraction", -0.2, ValueError, "-0.2"),
        ("fraction", float("nan"), TypeError, "nan"),
        ("fraction", float("inf"), TypeError, "inf"),
        ("fraction", "20 %", TypeError, "'20 %'"),
        ("fraction", True, TypeError, "True"),
        ("rounds", 0, ValueError, "0"),
        ("rounds", 101, ValueError, "101"),
        ("rounds", -1, ValueError, "-1"),
        ("rounds", 2.0, TypeError, "2.0"),
        ("rounds", True, TypeError, "True"),
        ("rounds", "two", TypeError, "'two'"),
    ],
)
@pytest.mark.parametrize("schedule", ["article", "paper"])
def test_a_bad_schedule_is_refused_by_name_and_value(
    schedule: str, name: str, value: Any, error: type[Exception], given: str
) -> None:
    arguments = {"schedule": schedule, "fraction": 0.2, "rounds": 2, name: value}
    with pytest.raises(error) as raised:
        pruned_fractions(**arguments)
    parameter = "pruning_fraction" if name == "fraction" else name
    assert str(raised.value).startswith(f"{parameter} is {given}; expected")
    if name == "schedule":
        assert str(raised.value).endswith("expected one of article, paper")


def test_one_round_and_a_hundred_are_allowed() -> None:
    assert pruned_fractions("paper", 0.2, 1) == (0.2,)
    assert pruned_fractions("paper", 0.2, 100) == (0.2,) * 100


def test_a_pruned_fraction_is_refused_under_the_name_that_it_is_given() -> None:
    assert check_pruned_fraction(0.5) == 0.5
    for arguments, words in (((1,), "a pruned fraction is 1"), ((0, "the share"), "the share is 0")):
        with pytest.raises(ValueError, match=f"^{words}; expected a number above 0 and below 1$"):
            check_pruned_fraction(*arguments)


def test_an_experiment_is_a_chain_of_runs_that_differ_in_their_pruning_only(config: TrainingConfig) -> None:
    configs = config.rounds(pruned_fractions("article", 0.2, 2))
    assert [one.pruned_fractions for one in configs] == [(), (0.2,), (0.2, 0.2**0.5)]
    assert configs[0] == config
    assert [one.parent for one in configs] == [None, configs[0], configs[1]]
    assert all(dataclasses.replace(one, pruned_fractions=()) == config for one in configs)
    assert len({one.key for one in configs}) == 3
