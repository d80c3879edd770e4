"""Results as data frames and sentences: numbers that can be sorted, and what they look like on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.api.types import is_float_dtype, is_integer_dtype

from smallcnn.architecture import Architecture, Weights, convolution_kernels, initial_weights
from smallcnn.config import TrainingRun
from smallcnn.report import measurements, results
from smallcnn.report.tables import to_markdown
from smallcnn.report.uncertainty import Verdict, other_half_accuracy, wilson_interval
from smallcnn.study import CHAPTERS
from tests.networks import PUBLISHED, chain
from tests.report.made_up import PROVENANCE, made_up_run, made_up_runs
from tests.report.reading import cells_of

NARROW = "\u202f"
WIDE = "\u00a0"


def texts(frame: pd.DataFrame) -> list[dict[str, str]]:
    """What a page shows, row by row."""
    header, *rows = cells_of(to_markdown(frame))
    return [dict(zip(header, row, strict=True)) for row in rows]


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
    assert texts(frame)[-1]["parameters"] == f"{total:,}"
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


# Runs


def test_the_frame_of_runs_has_a_row_a_seed_with_what_it_reached() -> None:
    trained = [made_up_run([0.5, 0.75, 0.7], 3, images=200), made_up_run([0.8, 0.81, 0.83, 0.85, 0.84], 1, images=200)]
    frame = results.runs(trained)
    assert frame.to_dict("list") == {
        "seed": [3, 1],
        "best_test_accuracy": [0.75, 0.85],
        "interval_low": [wilson_interval(150, 200)[0], wilson_interval(170, 200)[0]],
        "interval_high": [wilson_interval(150, 200)[1], wilson_interval(170, 200)[1]],
        "best_epoch": [2, 4],
        "final_test_accuracy": [0.7, 0.84],
        "other_half_accuracy": list(map(other_half_accuracy, trained)),
        "epochs_run": [3, 5],
    }
    first, second = texts(frame)
    assert first["95 % interval"] == f"68.57 to 80.49{NARROW}%"
    assert first["best test accuracy"] == f"75.00{NARROW}%"
    assert (first["at epoch"], first["after the last epoch"], first["epochs"]) == ("2", f"70.00{NARROW}%", "3")
    assert second["seed"] == "1"


def test_numbers_stay_numbers_that_can_be_sorted_and_plotted() -> None:
    frame = results.runs(made_up_runs(0.75, 0.85, 0.65))
    assert list(frame.sort_values("best_test_accuracy")["seed"]) == [2, 0, 1]
    assert all(is_float_dtype(frame[name]) or is_integer_dtype(frame[name]) for name in frame)
    rounds = results.rounds([[pruned(5220, ())], [pruned(4176, (0.2,))]], [])
    assert all(is_float_dtype(rounds[name]) or is_integer_dtype(rounds[name]) for name in rounds.columns[1:])
    assert list(rounds[rounds["pruned_in_round"] > 0]["network"]) == ["pruned, round 1"]


def test_the_result_sentence_counts_images() -> None:
    one = made_up_run([0.5, 0.75, 0.7], 4, images=200)
    sentence = results.sentence([one])
    assert "With seed 4 the network classifies 150 of 200 test images" in sentence
    assert f"**75.00{NARROW}%**, after epoch 2 of 3" in sentence
    assert f"68.57 to 80.49{NARROW}%" in sentence
    assert "seeds" not in sentence


def test_the_result_sentence_says_what_all_seeds_reached() -> None:
    good, bad = made_up_run([0.992, 0.98, 0.97], 0), made_up_run([0.98, 0.9898, 0.98], 1)
    flattered = made_up_run([0.9901] * 3, 2)  # by the best of equal epochs, which others would not all choose
    sentence = results.sentence([good, bad, flattered])
    assert "classifies 9,920 of 10,000" in sentence
    assert f"Over 3 seeds the best test accuracy is 99.06{WIDE}±{WIDE}0.12{NARROW}%" in sentence
    assert f"from 98.98{NARROW}% to 99.20{NARROW}%" in sentence
    others = sum(other_half_accuracy(run) > 0.99 for run in (good, bad, flattered))
    assert others == 1
    assert f"Above 99{NARROW}% are 2 of 3 seeds, and 1 where other images choose the epoch." in sentence


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


def test_a_network_without_batch_normalisation_needs_no_caution() -> None:
    layers = PUBLISHED["approach_2"].layers
    plain = Architecture(tuple(layer for layer in layers if layer.kind != "batch_normalisation"))
    run = made_up_run([0.5, 0.6], architecture=plain, train_examples=1000)
    assert run.steps == 16
    assert run.caution == ""
    assert "Mind" not in results.sentence([run])


def test_the_same_caution_of_several_seeds_is_said_once() -> None:
    runs = made_up_runs(0.8, 0.9, train_examples=1000)
    assert results.sentence(runs).count("**Mind:**") == 1
    other = made_up_run([0.9], 2, train_examples=1000)
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
    return made_up_run([0.5, accuracy, 0.6], seed, images=1000, weights=kept(remaining), pruned_fractions=fractions)


@pytest.mark.parametrize(("remaining", "trainable"), [(5220, 5382), (4176, 4338), (2309, 2471), (0, 162)])
def test_a_pruned_network_is_counted_by_what_is_left(remaining: int, trainable: int) -> None:
    assert results.pruning_counts(pruned(remaining, ())) == {
        "prunable": 5220,
        "remaining": remaining,
        "pruned_fraction": pytest.approx(1 - remaining / 5220),
        "trainable_remaining": trainable,
    }


ROUNDS = [
    [pruned(5220, (), 0.9941), pruned(5220, (), 0.9943, 1)],
    [pruned(4176, (0.2,), 0.9931), pruned(4176, (0.2,), 0.9935, 1)],
    [pruned(2309, (0.2, 0.2**0.5), 0.9921), pruned(2309, (0.2, 0.2**0.5), 0.9927, 1)],
]
GRADUAL = [pruned(2310, (), 0.9876)]


def test_the_frame_of_rounds_has_the_counts_of_the_study() -> None:
    rows = texts(results.rounds(ROUNDS, GRADUAL))
    assert [list(row.values())[:6] for row in rows] == [
        ["unpruned", "–", "–", "5,220", f"0.00{NARROW}%", "5,382"],
        ["pruned, round 1", f"20.00{NARROW}%", "1,044", "4,176", f"20.00{NARROW}%", "4,338"],
        ["pruned, round 2", f"44.72{NARROW}%", "1,867", "2,309", f"55.77{NARROW}%", "2,471"],
        ["pruned gradually", "–", "–", "2,310", f"55.75{NARROW}%", "2,472"],
    ]
    assert [row["best test accuracy"] for row in rows] == [
        f"99.42{WIDE}±{WIDE}0.01{NARROW}%",
        f"99.33{WIDE}±{WIDE}0.03{NARROW}%",
        f"99.24{WIDE}±{WIDE}0.04{NARROW}%",
        f"98.76{NARROW}%",
    ]
    assert [row["seeds"] for row in rows] == ["2", "2", "2", "1"]


def test_the_frame_of_rounds_keeps_the_numbers() -> None:
    frame = results.rounds(ROUNDS, GRADUAL)
    assert frame.attrs["name"] == "rounds"
    others = [[other_half_accuracy(run) for run in runs] for runs in (*ROUNDS, GRADUAL)]
    assert list(frame["other_half_accuracy"]) == pytest.approx([np.mean(values) for values in others])
    assert frame["other_half_accuracy_sd"][1] == pytest.approx(np.std(others[1], ddof=1))
    assert math.isnan(frame["best_test_accuracy_sd"][3])
    assert list(frame["remaining"]) == [5220, 4176, 2309, 2310]
    assert list(results.rounds(ROUNDS[:2], [])["network"]) == ["unpruned", "pruned, round 1"]


def test_the_last_round_stands_beside_the_gradual_schedule_in_words() -> None:
    assert results.rounds_sentence(ROUNDS, GRADUAL) == (
        f"Round 2 keeps 2,471 trainable parameters and reaches 99.24{WIDE}±{WIDE}0.04{NARROW}%; the gradual schedule, "
        f"as sparse, reaches 98.76{NARROW}%. With seed 0, the one of both, the difference is +0.45 points, which may "
        "be chance."
    )
    several = results.rounds_sentence(ROUNDS, [pruned(2310, (), 0.9986, 1), GRADUAL[0]])
    assert several.endswith(
        f"Over the 2 seeds of both the difference is −0.07{WIDE}±{WIDE}6.61 points (95 % interval)."
    )
    other_seed = results.rounds_sentence(ROUNDS, [pruned(2310, (), 0.9986, 7)])
    assert other_seed.endswith("They have no seed in common.")


def test_the_frame_of_survivors_counts_each_layer() -> None:
    frame = results.survivors({"before": pruned(5220, ()), "after": pruned(36 + 144, (0.2,))})
    assert list(frame.columns) == ["kernel", "weights", "before", "before_share", "after", "after_share"]
    rows = [list(row.values()) for row in texts(frame)]
    assert rows[0] == ["block_1/kernel", "36", f"36 (100{NARROW}%)", f"36 (100{NARROW}%)"]
    assert rows[1] == ["block_2/kernel", "288", f"288 (100{NARROW}%)", f"144 (50{NARROW}%)"]
    assert rows[4] == ["block_5/kernel", "1,440", f"1,440 (100{NARROW}%)", f"0 (0{NARROW}%)"]
    assert list(frame["after"]) == [36, 144, 0, 0, 0]


# Parameters and provenance


def test_the_frame_of_parameters_marks_what_was_changed() -> None:
    published = CHAPTERS["approach_2"].published
    rows = {row["parameter"]: row for row in texts(results.parameters(published, {**published, "epochs": 10}))}
    assert rows.keys() == {f"`{name}`" for name in published}
    assert (rows["`epochs`"]["published"], rows["`epochs`"]["used here"]) == ("40", "**10** (changed)")
    assert (rows["`batch_size`"]["published"], rows["`batch_size`"]["used here"]) == ("125", "125")
    assert "(images)" in rows["`batch_size`"]["meaning"]
    assert rows["`dropout_after`"]["published"] == "[3, 4, 5]"
    assert [row for row in rows.values() if "changed" in row["used here"]] == [rows["`epochs`"]]


def test_the_frame_of_provenance_names_record_and_machine() -> None:
    run = made_up_run([0.5], 7)
    other = made_up_run([0.5], 8, provenance=PROVENANCE | {"date": "2026-02-03T04:05:06+00:00", "processor": "Other"})
    first, second = texts(results.provenance([run, other]))
    assert list(first.values()) == [
        f"`{run.config.key}`",
        "4-8-16-16-10, dropout 10 %, seed 7",
        "halide",
        "2026-01-02",
        "Processor 9, Linux x86_64",
        "python 3.12.1, numpy 2.3.4, halide 21.0.0",
    ]
    assert (second["record"], second["trained on"]) == (f"`{other.config.key}`", "2026-02-03")
    assert second["machine"] == "Other, Linux x86_64"
    assert run.provenance["date"] == PROVENANCE["date"]  # making the table takes nothing out of the run


def test_many_runs_are_summed_up_by_what_made_them() -> None:
    def made(day: int, **changes: Any) -> TrainingRun:
        dated: Mapping[str, str] = PROVENANCE | {"date": f"2026-01-0{day}T03:04:05+00:00"}
        return made_up_run([0.5], provenance=dated, **changes)

    runs = [made(3), made(2, engine="tensorflow"), made(2), made(4)]
    assert cells_of(measurements.provenance_summary(runs))[1:] == [
        ["halide", "Processor 9, Linux x86_64", "3", "2026-01-02 to 2026-01-04"],
        ["tensorflow", "Processor 9, Linux x86_64", "1", "2026-01-02"],
    ]
