"""Results as data frames and sentences: numbers that can be sorted, and what they look like on a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from pandas.api.types import is_float_dtype, is_integer_dtype

from smallcnn.architecture import (
    Activation,
    Architecture,
    Dense,
    Flatten,
    Weights,
    convolution_kernels,
    initial_weights,
)
from smallcnn.config import TrainingRun
from smallcnn.report import results
from smallcnn.report.uncertainty import Verdict, other_half_accuracy, wilson_interval
from smallcnn.study import CHAPTERS, PARAMETERS
from tests.networks import PUBLISHED, chain
from tests.report.made_up import PROVENANCE, made_up_run, made_up_runs
from tests.report.reading import plain, table_of

# Layers


@pytest.mark.parametrize(
    ("name", "total", "trainable"),
    [("approach_1", 8060, 7968), ("approach_2", 5490, 5382), ("approach_3", 3170, 3090)],
)
def test_the_table_of_layers_adds_up(name: str, total: int, trainable: int) -> None:
    frame = results.layers(PUBLISHED[name])
    assert list(frame.columns) == ["layer", "what_it_does", "output_shape", "total", "trainable"]
    assert list(frame.iloc[-1]) == ["**all**", "", "", total, trainable]
    assert frame["total"][:-1].sum() == total
    assert frame["trainable"][:-1].sum() == trainable
    assert is_integer_dtype(frame["total"]) and is_integer_dtype(frame["trainable"])
    last = table_of(frame)["**all**"]
    assert last == {"what it does": "", "output shape": "", "parameters": f"{total:,}", "trainable": f"{trainable:,}"}
    assert frame.attrs["name"] == "layers"


def test_a_layer_is_named_with_what_it_does_its_shape_and_its_activation() -> None:
    rows = [tuple(row) for row in results.layers(chain((6, 10), (1,), 0.25, (2,))).itertuples(index=False)]
    assert rows == [
        ("block_1/convolution", "convolution 3×3, ReLU", "26×26×6", 60, 60),
        ("block_1/normalisation", "batch normalisation", "26×26×6", 24, 12),
        ("block_1/pooling", "max pooling 2×2", "13×13×6", 0, 0),
        ("block_2/convolution", "convolution 3×3, ReLU", "11×11×10", 550, 550),
        ("block_2/normalisation", "batch normalisation", "11×11×10", 40, 20),
        ("block_2/dropout", "dropout 25 %", "11×11×10", 0, 0),
        ("block_2/average", "global average pooling, softmax", "10", 0, 0),
        ("**all**", "", "", 674, 642),
    ]


def test_an_activation_is_said_of_the_layer_before_it_and_else_has_a_row_of_its_own() -> None:
    network = Architecture((Activation("relu"), Flatten(), Activation("relu"), Dense(10), Activation("softmax")))
    frame = results.layers(network)
    assert list(frame["what_it_does"]) == ["ReLU", "flatten, ReLU", "dense, softmax", ""]
    assert list(frame["output_shape"]) == ["28×28×1", "784", "10", ""]


# Runs

# Best, last and other accuracies all differ, and so do the numbers of epochs.
RUNS = [
    made_up_run([0.5, 0.76, 0.755, 0.7, 0.64], 3, images=1000),
    made_up_run([0.8, 0.81, 0.83, 0.853, 0.85, 0.79, 0.75], 1, images=1000),
]


def shown_percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f} %"


def test_the_frame_of_runs_has_a_row_a_seed_with_what_it_reached() -> None:
    frame = results.runs(RUNS)
    others = list(map(other_half_accuracy, RUNS))
    assert others[0] < 0.758 and others[1] < 0.852
    intervals = [wilson_interval(correct, 1000) for correct in (760, 853)]
    assert frame.to_dict("list") == {
        "seed": [3, 1],
        "best_test_accuracy": [0.76, 0.853],
        "interval_low": [low for low, _ in intervals],
        "interval_high": [high for _, high in intervals],
        "best_epoch": [2, 4],
        "final_test_accuracy": [0.64, 0.75],
        "other_half_accuracy": others,
        "epochs_run": [5, 7],
    }
    assert frame.attrs["name"] == "runs"
    assert table_of(frame) == {
        "3": {
            "best test accuracy": "76.00 %",
            "95 % interval": "73.26 to 78.54 %",
            "at epoch": "2",
            "after the last epoch": "64.00 %",
            "epoch chosen by other images": shown_percent(others[0]),
            "epochs": "5",
        },
        "1": {
            "best test accuracy": "85.30 %",
            "95 % interval": "82.97 to 87.36 %",
            "at epoch": "4",
            "after the last epoch": "75.00 %",
            "epoch chosen by other images": shown_percent(others[1]),
            "epochs": "7",
        },
    }


def test_numbers_stay_numbers_that_can_be_sorted_and_plotted() -> None:
    frame = results.runs(made_up_runs(0.75, 0.85, 0.65, images=200))
    assert list(frame.sort_values("best_test_accuracy")["seed"]) == [2, 0, 1]
    assert all(is_float_dtype(frame[name]) or is_integer_dtype(frame[name]) for name in frame)
    rounds = results.rounds([[pruned(5220, ())], [pruned(4176, (0.2,))]], [])
    assert all(is_float_dtype(rounds[name]) or is_integer_dtype(rounds[name]) for name in rounds.columns[1:])
    assert list(rounds[rounds["pruned_in_round"] > 0]["network"]) == ["pruned, round 1"]


FIRST_SEED = (
    "With seed 3 the network classifies 760 of 1,000 test images correctly, **76.00 %**, after epoch 2 of 5. That many "
    "images fix an accuracy only to within 73.26 to 78.54 % (95 % interval)."
)


def test_the_result_sentence_counts_images() -> None:
    assert plain(results.sentence(RUNS[:1])) == FIRST_SEED


def test_the_result_sentence_says_what_all_seeds_reached() -> None:
    assert plain(results.sentence(RUNS)) == (
        f"{FIRST_SEED} Over 2 seeds the best test accuracy is 80.65 ± 6.58 %, from 76.00 % to 85.30 %. Above 99 % are "
        "0 of 2 seeds, and 0 where other images choose the epoch."
    )
    flattered = made_up_run(
        [0.9, *[0.991] * 3], 2, images=1000
    )  # by the best of equal epochs, which others would not choose
    at_the_figure = made_up_run([0.8, 0.99, 0.7], 4, images=1000)
    above = made_up_run([0.98, 0.992, 0.97], 5, images=1000)
    trained = [*RUNS, flattered, at_the_figure, above]
    assert [other_half_accuracy(run) > 0.99 for run in trained] == [False] * 4 + [True]
    assert plain(results.sentence(trained)).endswith(
        "Above 99 % are 2 of 5 seeds, and 1 where other images choose the epoch."
    )


# Runs of too few steps


@pytest.mark.parametrize(
    ("train_examples", "batch_size", "best_epoch", "steps"),
    [(12_375, 99, 4, 500), (12_375, 125, 5, 495), (1000, 125, 2, 16), (60_000, 125, 2, 960)],
)
def test_fewer_than_500_steps_call_for_caution(
    train_examples: int, batch_size: int, best_epoch: int, steps: int
) -> None:
    accuracies = [0.5] * (best_epoch - 1) + [0.6, 0.55]
    run = made_up_run(accuracies, train_examples=train_examples, batch_size=batch_size)
    sentence = results.sentence([run])
    assert run.steps == steps
    assert bool(run.caution) is ("**Mind:**" in sentence) is (steps < 500)
    if steps < 500:
        assert f"**Mind:** only {steps} training steps: the moving averages of batch normalisation" in sentence
        assert f"{100 * 0.99**steps:.0f} % what they started from" in sentence
        assert sentence.endswith(f" (95 % interval).\n\n**Mind:** {run.caution}.")


def test_a_network_without_batch_normalisation_needs_no_caution() -> None:
    layers = PUBLISHED["approach_2"].layers
    plain = Architecture(tuple(layer for layer in layers if layer.kind != "batch_normalisation"))
    run = made_up_run([0.5, 0.6], architecture=plain, train_examples=1000)
    assert run.steps == 16
    assert run.caution == ""
    assert "Mind" not in results.sentence([run])


def test_the_same_caution_of_several_seeds_is_said_once() -> None:
    runs = made_up_runs(0.8, 0.9, images=500, train_examples=1000)
    assert results.sentence(runs).count("**Mind:**") == 1
    other = made_up_run([0.9], 2, images=500, train_examples=1000)
    sentence = results.sentence([*runs, other])
    assert sentence.count("**Mind:**") == 2
    assert "only 16 training steps" in sentence and "only 8 training steps" in sentence


# Claims


def test_claims_are_marked_as_seen_or_not() -> None:
    frame = results.claims(
        {
            "one": ("1", Verdict.SEEN),
            "two": ("2", Verdict.NOT_SEEN),
            "three": ("3", Verdict.UNDECIDED),
            "four": ("4", "cannot be tested"),
        }
    )
    assert frame.to_dict("list") == {
        "the_article": ["one", "two", "three", "four"],
        "measured_here": ["1", "2", "3", "4"],
        "verdict": ["✓\u00a0seen", "✗\u00a0not seen", "–\u00a0undecided", "cannot be tested"],
    }


# Pruning


def kept(remaining: int) -> Weights:
    """Weights of approach 2 with only the first kernel weights left, the first layer first; all of them are one."""
    weights = initial_weights(PUBLISHED["approach_2"], 0)
    for name, kernel in convolution_kernels(weights).items():
        flat = np.zeros(kernel.size, np.float32)
        flat[:remaining] = 1
        weights[name] = flat.reshape(kernel.shape)
        remaining -= min(kernel.size, remaining)
    return weights


def pruned(remaining: int, fractions: tuple[float, ...], accuracy: float = 0.99, seed: int = 0) -> TrainingRun:
    """A run of a pruned network."""
    accuracies = [
        0.5,
        accuracy,
        accuracy - 0.001,
        0.6,
    ]  # the last but one errs on other images, so some would choose it
    return made_up_run(accuracies, seed, images=1000, weights=kept(remaining), pruned_fractions=fractions)


@pytest.mark.parametrize(("remaining", "trainable"), [(5220, 5382), (4176, 4338), (2309, 2471), (0, 162)])
def test_a_pruned_network_is_counted_by_what_is_left(remaining: int, trainable: int) -> None:
    assert results.pruning_counts(pruned(remaining, ())) == {
        "prunable": 5220,
        "remaining": remaining,
        "pruned_fraction": pytest.approx(1 - remaining / 5220),
        "trainable_remaining": trainable,
    }


FRACTIONS = (0.2, 0.2**0.5)
ROUNDS = [
    [pruned(5220, (), 0.9941), pruned(5220, (), 0.9963, 1)],
    [pruned(4176, FRACTIONS[:1], 0.9831), pruned(4176, FRACTIONS[:1], 0.9935, 1), pruned(4176, (0.2,), 0.97, 2)],
    [pruned(2309, FRACTIONS, 0.9721), pruned(2309, FRACTIONS, 0.9827, 1)],
]
GRADUAL = [pruned(2310, (), 0.9676)]


def mean_and_spread(values: Sequence[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{deviation} %"


def test_the_frame_of_rounds_has_the_counts_and_accuracies_of_each() -> None:
    rows = table_of(results.rounds(ROUNDS, GRADUAL))
    counts = {
        "unpruned": ("–", "–", "5,220", "0.00 %", "5,382"),
        "pruned, round 1": ("20.00 %", "1,044", "4,176", "20.00 %", "4,338"),
        "pruned, round 2": ("44.72 %", "1,867", "2,309", "55.77 %", "2,471"),
        "pruned gradually": ("–", "–", "2,310", "55.75 %", "2,472"),
    }
    headings = ("round fraction", "pruned in round", "remaining", "pruned fraction", "trainable")
    assert list(rows) == list(counts)
    for (network, row), trained in zip(rows.items(), [*ROUNDS, GRADUAL], strict=True):
        bests, others = [max(run.history["test_accuracy"]) for run in trained], list(map(other_half_accuracy, trained))
        shown = {
            "best test accuracy": mean_and_spread(bests),
            "epoch chosen by other images": mean_and_spread(others),
            "seeds": str(len(trained)),
        }
        assert row == dict(zip(headings, counts[network], strict=True)) | shown
        assert shown["best test accuracy"] != shown["epoch chosen by other images"]


def test_the_frame_of_rounds_keeps_the_numbers() -> None:
    frame = results.rounds(ROUNDS, GRADUAL)
    assert (frame.attrs["name"], frame.columns[0]) == ("rounds", "network")
    others = [[other_half_accuracy(run) for run in runs] for runs in (*ROUNDS, GRADUAL)]
    assert list(frame["other_half_accuracy"]) == pytest.approx([np.mean(values) for values in others])
    assert frame["other_half_accuracy_sd"][1] == pytest.approx(np.std(others[1], ddof=1))
    assert frame["best_test_accuracy_sd"][0] == pytest.approx(statistics.stdev([0.9941, 0.9963]))
    assert math.isnan(frame["best_test_accuracy_sd"][3])
    assert list(frame["remaining"]) == [5220, 4176, 2309, 2310]
    assert list(frame["pruned_in_round"].isna()) == [True, False, False, True]
    assert list(results.rounds(ROUNDS[:2], [])["network"]) == ["unpruned", "pruned, round 1"]


def test_the_last_round_stands_beside_the_gradual_schedule_in_words() -> None:
    of_both = "Round 2 keeps 2,471 trainable parameters and reaches 97.74 ± 0.75 %; the gradual schedule, as sparse, "
    assert plain(results.rounds_sentence(ROUNDS, GRADUAL)) == (
        f"{of_both}reaches 96.76 %. With seed 0, the one of both, the difference is +0.45 points, which may be chance."
    )
    several = results.rounds_sentence(ROUNDS, [pruned(2310, (), 0.9986, 1), pruned(2310, (), 0.9, 7), GRADUAL[0]])
    assert plain(several) == (
        f"{of_both}reaches 95.54 ± 5.04 %. Over the 2 seeds of both the difference is −0.57 ± 12.96 points "
        "(95 % interval)."
    )
    other_seed = results.rounds_sentence(ROUNDS, [pruned(2310, (), 0.9986, 7)])
    assert plain(other_seed) == f"{of_both}reaches 99.86 %. They have no seed in common."


def test_the_frame_of_survivors_counts_each_layer() -> None:
    frame = results.survivors({"before": pruned(5220, ()), "after": pruned(36 + 144, (0.2,))})
    assert list(frame.columns) == ["kernel", "weights", "before", "before_share", "after", "after_share"]
    assert frame.attrs["name"] == "survivors"
    rows = table_of(frame)
    assert rows["block_1/kernel"] == {"weights": "36", "before": "36 (100 %)", "after": "36 (100 %)"}
    assert rows["block_2/kernel"] == {"weights": "288", "before": "288 (100 %)", "after": "144 (50 %)"}
    assert rows["block_5/kernel"] == {"weights": "1,440", "before": "1,440 (100 %)", "after": "0 (0 %)"}
    assert list(frame["after"]) == [36, 144, 0, 0, 0]


# Parameters and provenance


def test_the_frame_of_parameters_marks_what_was_changed() -> None:
    published = CHAPTERS["approach_2"].published
    frame = results.parameters(published, {**published, "epochs": 10})
    assert (frame.attrs["name"], frame.columns[0]) == ("parameters", "parameter")
    rows = table_of(frame)
    assert list(rows) == [f"`{name}`" for name in published]
    for name, value in published.items():
        known = PARAMETERS[name]
        assert rows[f"`{name}`"] == {
            "meaning": f"{known.help} ({known.unit})" if known.unit else known.help,
            "published": str(value),
            "used here": "**10** (changed)" if name == "epochs" else str(value),
        }


def test_the_frame_of_provenance_names_record_and_machine() -> None:
    run = made_up_run([0.5], 7)
    other = made_up_run(
        [0.5], 8, PUBLISHED["approach_3"], engine="tensorflow",
        provenance={"date": "2026-02-03T04:05:06", "processor": "Other", "system": "macOS", "tensorflow": "2.19"},
    )  # fmt: skip
    frame = results.provenance([run, other])
    assert (frame.attrs["name"], frame.columns[0]) == ("provenance", "record")
    assert table_of(frame) == {
        f"`{run.config.key}`": {
            "run": "4-8-16-16-10, dropout 10 %, seed 7",
            "engine": "halide",
            "trained on": "2026-01-02",
            "machine": "Processor 9, Linux x86_64",
            "software": "python 3.12.1, numpy 2.3.4, halide 21.0.0",
        },
        f"`{other.config.key}`": {
            "run": "2-4-8-16-10, seed 8",
            "engine": "tensorflow",
            "trained on": "2026-02-03",
            "machine": "Other, macOS",
            "software": "tensorflow 2.19, numpy 1.2.3, tf_keras 1.2.3, tensorflow-model-optimization 1.2.3",
        },
    }
    assert run.provenance["date"] == PROVENANCE["date"]  # making the table takes nothing out of the run
