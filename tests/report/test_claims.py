"""Claims of the article: what is said of made-up runs, and the verdicts at, just above and just below each limit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from smallcnn.config import TrainingRun
from smallcnn.report import claims
from smallcnn.report.uncertainty import Verdict, wilson_interval
from tests.report.made_up import made_up_run, made_up_runs

SEEN, NOT_SEEN, UNDECIDED = Verdict.SEEN, Verdict.NOT_SEEN, Verdict.UNDECIDED
IMAGE = 0.0001  # one of ten thousand

PERCENT = "\u202f%"


def runs_of(*histories: Sequence[float]) -> list[TrainingRun]:
    """Runs with these accuracies after each epoch, seeds 0, 1, …."""
    return [made_up_run(history, seed) for seed, history in enumerate(histories)]


def spread_around(mean: float, spread: float) -> list[float]:
    """Two accuracies: the 95 % interval of their mean, as of a difference from equal ones, is 12.706 times `spread`."""
    return [mean - spread, mean + spread]


def test_counts_must_both_be_those_of_the_network() -> None:
    runs = runs_of([0.5])
    assert claims.counts(runs, 5490, 5382) == ("5,490 and 5,382", SEEN)
    for total, trainable in ((5491, 5382), (5490, 5381), (5382, 5490)):
        assert claims.counts(runs, total, trainable) == ("5,490 and 5,382", NOT_SEEN)


def test_a_figure_is_reached_by_the_best_seed() -> None:
    runs = made_up_runs(0.9941, 0.9947, 0.9938)
    assert claims.accuracies(runs) == [0.9941, 0.9947, 0.9938]
    assert claims.reached(runs, 0.9947) == (f"99.42\u00a0±\u00a00.05{PERCENT}, highest 99.47{PERCENT}", SEEN)
    assert claims.reached(runs, 0.9947 - IMAGE)[1] is SEEN
    assert claims.reached(runs, 0.9947 + IMAGE)[1] is UNDECIDED
    _, high = wilson_interval(9947, 10_000)
    assert claims.reached(runs, high - 1e-12)[1] is UNDECIDED
    assert claims.reached(runs, high + 1e-12)[1] is NOT_SEEN


def test_above_a_figure_is_every_seed_or_none() -> None:
    found, verdict = claims.every_seed_above(made_up_runs(0.9903, 0.9901), 0.99)
    assert (found, verdict) == (f"99.02\u00a0±\u00a00.01{PERCENT}, lowest 99.01{PERCENT}", SEEN)
    assert claims.every_seed_above(made_up_runs(0.9901, 0.99), 0.99)[1] is UNDECIDED
    assert claims.every_seed_above(made_up_runs(0.99, 0.9899), 0.99)[1] is NOT_SEEN
    assert claims.every_seed_above(made_up_runs(0.9901), 0.99)[1] is SEEN


def test_an_accuracy_after_an_epoch_is_that_epochs_or_the_last_ones() -> None:
    found = claims.above_after(runs_of([0.99, 0.97, 0.99], [0.5, 0.9801, 0.5]), 2, 0.97)
    assert found == (f"97.00{PERCENT}, 98.01{PERCENT}", UNDECIDED)
    assert claims.above_after(runs_of([0.5, 0.9701, 0.5], [0.5, 0.9801]), 2, 0.97)[1] is SEEN
    assert claims.above_after(runs_of([0.99, 0.97, 0.99]), 2, 0.97)[1] is NOT_SEEN
    assert claims.above_after(runs_of([0.5, 0.98]), 5, 0.97) == (f"98.00{PERCENT}", SEEN)


def test_a_network_has_settled_if_an_epoch_or_the_next_is_above() -> None:
    before = [0.5, 0.99]
    runs = runs_of([*before, 0.9851, 0.1, 0.99], [*before, 0.2, 0.986, 0.99])
    found, verdict = claims.settled_after(runs, 3, 0.985)
    assert found == f"better of epochs 3 and 4: 98.51{PERCENT}, 98.60{PERCENT}; seen if above 98.5{PERCENT}"
    assert verdict is SEEN
    assert claims.settled_after(runs, 3, 0.9851)[1] is UNDECIDED
    assert claims.settled_after(runs, 3, 0.986)[1] is NOT_SEEN
    assert claims.settled_after(runs_of([*before, 0.99]), 3, 0.985)[1] is SEEN  # the last epoch has none after it
    found, verdict = claims.settled_after([runs_of(before)[0], runs[0]], 3, 0.985)
    assert found.startswith(f"better of epochs 3 and 4: –, 98.51{PERCENT};")
    assert verdict is UNDECIDED  # one of them stopped before
    assert claims.settled_after([runs_of(before)[0], runs[0]], 3, 0.999)[1] is UNDECIDED


def test_training_stops_between_two_epochs_both_of_them_included() -> None:
    runs = [made_up_run([0.9] * stop, seed, epochs=20) for seed, stop in enumerate((12, 15))]
    assert claims.stops_between(runs, 12, 15) == ("last epoch 12, 15; 20 is the limit", SEEN)
    assert claims.stops_between(runs, 13, 15)[1] is UNDECIDED
    assert claims.stops_between(runs, 12, 14)[1] is UNDECIDED
    assert claims.stops_between(runs, 13, 14)[1] is NOT_SEEN


def test_without_something_is_better_seed_by_seed() -> None:
    others = made_up_runs(0.98, 0.98)
    found, verdict = claims.better_without(made_up_runs(*spread_around(0.98 + 0.0013, IMAGE)), others, "dropout")
    assert found == (f"without 98.13\u00a0±\u00a00.01{PERCENT}, with dropout 98.00\u00a0±\u00a00.00{PERCENT}")
    assert verdict is SEEN  # 13 images at a half width of 12.7
    for images, expected in ((12.5, UNDECIDED), (0, UNDECIDED), (-12.5, UNDECIDED), (-13, NOT_SEEN)):
        runs = made_up_runs(*spread_around(0.98 + images * IMAGE, IMAGE))
        assert claims.better_without(runs, others, "dropout")[1] is expected
    assert claims.better_without(made_up_runs(0.99), made_up_runs(0.9), "dropout")[1] is UNDECIDED
    assert claims.better_without(others, [], "dropout") == (
        "not tried with dropout, which this network has no place for",
        UNDECIDED,
    )


@pytest.mark.parametrize(
    ("lost", "verdict"), [(32.5, SEEN), (33, NOT_SEEN), (20, SEEN), (13, SEEN), (12.5, UNDECIDED), (7, NOT_SEEN)]
)
def test_each_round_costs_a_figure(lost: float, verdict: Verdict) -> None:
    before, after = made_up_runs(0.99, 0.99), made_up_runs(*spread_around(0.99 - lost * IMAGE, IMAGE))
    assert claims.lost_in_each_round([before, after], 20 * IMAGE)[1] is verdict


def test_one_round_that_costs_something_else_decides() -> None:
    rounds = [made_up_runs(*(start - seed * 0.001 for seed in range(3))) for start in (0.994, 0.993, 0.992, 0.985)]
    found, verdict = claims.lost_in_each_round(rounds[:3], 0.001)
    assert found == "change in each round, with its interval: −0.10\u00a0±\u00a00.00, −0.10\u00a0±\u00a00.00 points"
    assert verdict is SEEN
    assert claims.lost_in_each_round(rounds, 0.001)[1] is NOT_SEEN
    assert claims.lost_in_each_round(rounds[::-1], 0.001)[1] is NOT_SEEN  # gained
    assert claims.lost_in_each_round([runs[:1] for runs in rounds], 0.001)[1] is UNDECIDED


def test_a_round_reaches_a_figure_if_there_is_one() -> None:
    rounds = [made_up_runs(0.995), made_up_runs(0.992, 0.991), made_up_runs(0.98)]
    assert claims.reached_in_round(rounds, 1, 0.992) == claims.reached(rounds[1], 0.992)
    assert [claims.reached_in_round(rounds, number, 0.992)[1] for number in range(3)] == [SEEN, SEEN, NOT_SEEN]
    assert claims.reached_in_round(rounds, 3, 0.1) == ("there was no such round", UNDECIDED)


def test_above_in_each_round_is_every_seed_of_every_round() -> None:
    rounds = [made_up_runs(0.9941, 0.9943), made_up_runs(0.9901, 0.9902)]
    found = f"99.42\u00a0±\u00a00.01{PERCENT}, 99.02\u00a0±\u00a00.01{PERCENT}"
    assert claims.above_in_each_round(rounds) == (found, SEEN)
    assert claims.above_in_each_round(rounds, 0.9901)[1] is UNDECIDED
    assert claims.above_in_each_round(rounds, 0.9902)[1] is NOT_SEEN
    assert claims.above_in_each_round([*rounds, made_up_runs(0.99, 0.99)])[1] is NOT_SEEN


def swinging(*swings: float, epochs: int = 10) -> list[TrainingRun]:
    """Runs whose accuracy goes up and down by these amounts, after epoch 10 up by twice as much, and then far down."""
    return runs_of(
        *(
            [
                0.5 if epoch > 10 else 0.9 + (1 - epoch % 2) * swing * (1 + (epoch == 10))
                for epoch in range(1, epochs + 1)
            ]
            for swing in swings
        )
    )


def test_what_is_pruned_more_fluctuates_more_in_the_first_ten_epochs() -> None:
    rounds = [swinging(0.01, 0.012, epochs=20), swinging(0.02, 0.022), swinging(0.03, 0.032, epochs=12)]
    found, verdict = claims.fluctuates_more(rounds)
    assert found == "mean change between the first ten epochs: 1.22, 2.33, 3.44 points"
    assert verdict is SEEN
    assert claims.fluctuates_more(rounds[::-1])[1] is NOT_SEEN
    assert claims.fluctuates_more([*rounds, rounds[1]])[1] is NOT_SEEN
    assert claims.fluctuates_more([*rounds, rounds[2]])[1] is UNDECIDED
    assert claims.fluctuates_more([runs[:1] for runs in rounds])[1] is UNDECIDED
    for swing, expected in ((12.6, UNDECIDED), (12.8, SEEN)):
        later = swinging(0.02 + (swing - 1) * IMAGE, 0.02 + (swing + 1) * IMAGE)
        assert claims.fluctuates_more([swinging(0.02, 0.02), later])[1] is expected


def test_a_single_epoch_does_not_fluctuate() -> None:
    found, verdict = claims.fluctuates_more([swinging(0.01, 0.01, epochs=1)] * 2)
    assert found.endswith("0.00, 0.00 points")
    assert verdict is UNDECIDED


def learning(*firsts: int, figure: float = 0.99) -> list[TrainingRun]:
    """Runs that are first above `figure` after these epochs, and exactly there before; 0 is never."""
    return runs_of(
        *([figure + IMAGE * (0 < first == epoch) for epoch in range(1, max(first, 2) + 1)] for first in firsts)
    )


def test_a_round_learns_faster_if_it_needs_fewer_epochs() -> None:
    unpruned, later, sooner = learning(5, 6, 7), learning(8, 10, 11), learning(2, 3, 5)
    found, verdict = claims.learns_no_faster([unpruned, later])
    assert found == f"first epoch above 99{PERCENT}, seed by seed: 5, 6, 7; 8, 10, 11"
    assert verdict is SEEN
    assert claims.learns_no_faster([unpruned, later, sooner])[1] is NOT_SEEN
    assert claims.learns_no_faster([unpruned, later, unpruned])[1] is UNDECIDED
    assert claims.learns_no_faster([unpruned, learning(6, 6, 6)])[1] is UNDECIDED
    assert claims.learns_no_faster([later, unpruned])[1] is NOT_SEEN
    assert claims.learns_no_faster([learning(5), learning(9)])[1] is UNDECIDED


def test_a_round_that_is_never_above_decides_nothing() -> None:
    found, verdict = claims.learns_no_faster([learning(5, 6, 7), learning(8, 0, 9)])
    assert found.endswith("5, 6, 7; 8, none, 9")
    assert verdict is UNDECIDED
    assert claims.learns_no_faster([learning(30, 31, 32), learning(2, 0, 3)])[1] is UNDECIDED
    high = learning(3, 4, figure=0.995)
    assert claims.learns_no_faster([high, high], figure=0.995)[0].endswith("3, 4; 3, 4")
    assert claims.learns_no_faster([high, high])[0].endswith("1, 1; 1, 1")


def test_no_round_is_better_than_the_unpruned_network() -> None:
    unpruned = made_up_runs(0.98, 0.98)
    for images, expected in ((13, NOT_SEEN), (12.5, UNDECIDED), (-12.5, UNDECIDED), (-13, SEEN)):
        runs = made_up_runs(*spread_around(0.98 + images * IMAGE, IMAGE))
        assert claims.no_better_than_unpruned([unpruned, runs])[1] is expected
    lower, higher = made_up_runs(0.97, 0.971), made_up_runs(0.99, 0.991)
    found, verdict = claims.no_better_than_unpruned([unpruned, lower])
    assert found == f"98.00\u00a0±\u00a00.00{PERCENT}, 97.05\u00a0±\u00a00.07{PERCENT}"
    assert verdict is SEEN
    assert claims.no_better_than_unpruned([unpruned, lower, higher])[1] is NOT_SEEN
    assert claims.no_better_than_unpruned([unpruned, lower, unpruned])[1] is UNDECIDED
