"""What the article says, tested: each function returns what was measured here, in words, and the verdict.

An accuracy is seen if the best seed reaches it, and undecided if it falls short by less than the uncertainty of the
test images. A difference between networks is seen if its 95 % interval over the seeds, paired by seed, does not hold
zero. Anything else is seen if it is so with every seed, and undecided if the seeds disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from smallcnn.architecture import TARGET
from smallcnn.config import TrainingRun
from smallcnn.report.tables import difference, percent, spread
from smallcnn.report.uncertainty import Verdict, differs_by, is_above, reaches, unanimous

Found = tuple[str, Verdict | str]
Runs = Sequence[TrainingRun]


def accuracies(runs: Runs) -> list[float]:
    """The best test accuracy of each run, 0 to 1."""
    return [run.best_test_accuracy for run in runs]


def counts(runs: Runs, total: int, trainable: int) -> Found:
    """Whether the network that was trained has so many parameters, and so many of them trainable."""
    architecture = runs[0].config.architecture
    found = architecture.total, architecture.trainable
    return f"{found[0]:,} and {found[1]:,}", Verdict.SEEN if found == (total, trainable) else Verdict.NOT_SEEN


def reached(runs: Runs, figure: float) -> Found:
    """Whether the best seed reaches the accuracy `figure`."""
    best = accuracies(runs)
    return f"{spread(best)}, highest {percent(max(best))}", reaches(best, figure)


def every_seed_above(runs: Runs, figure: float) -> Found:
    """Whether every seed is above the accuracy `figure`."""
    best = accuracies(runs)
    return f"{spread(best)}, lowest {percent(min(best))}", unanimous([value > figure for value in best])


def above_after(runs: Runs, epoch: int, figure: float) -> Found:
    """Whether the accuracy after `epoch`, or after the last one there is, is above `figure`."""
    after = [float(run.history["test_accuracy"][min(epoch, run.epochs_run)]) for run in runs]
    return ", ".join(map(percent, after)), unanimous([value > figure for value in after])


def settled_after(runs: Runs, epoch: int, figure: float) -> Found:
    """Whether the better of `epoch` and the one after it is above `figure`."""
    after = [float(run.history["test_accuracy"].loc[epoch : epoch + 1].max()) for run in runs]
    better = ", ".join(map(percent, after))
    found = f"better of epochs {epoch} and {epoch + 1}: {better}; seen if above {percent(figure, 1)}"
    if any(run.epochs_run < epoch for run in runs):
        return found, Verdict.UNDECIDED
    return found, unanimous([value > figure for value in after])


def stops_between(runs: Runs, first: int, last: int) -> Found:
    """Whether training stops between two epochs."""
    stops = [run.epochs_run for run in runs]
    found = f"last epoch {', '.join(map(str, stops))}; {runs[0].config.epochs} is the limit"
    return found, unanimous([first <= stop <= last for stop in stops])


def better_without(runs: Runs, others: Runs, what: str) -> Found:
    """Whether networks without something are more accurate than `others` with it, seed by seed."""
    if not others:
        return f"not tried with {what}, which this network has no place for", Verdict.UNDECIDED
    found = f"without {spread(accuracies(runs))}, with {what} {spread(accuracies(others))}"
    return found, is_above(accuracies(runs), accuracies(others))


def lost_in_each_round(by_round: Sequence[Runs], figure: float) -> Found:
    """Whether each round of pruning costs `figure` of accuracy."""
    best = list(map(accuracies, by_round))
    found = ", ".join(difference(after, before) for before, after in pairwise(best))
    return f"change in each round, with its interval: {found} points", Verdict.all(
        differs_by(after, before, -figure) for before, after in pairwise(best)
    )


def reached_in_round(by_round: Sequence[Runs], number: int, figure: float) -> Found:
    """Whether the best seed of a round of pruning reaches the accuracy `figure`."""
    return (
        reached(by_round[number], figure) if number < len(by_round) else ("there was no such round", Verdict.UNDECIDED)
    )


def above_in_each_round(by_round: Sequence[Runs], figure: float = TARGET) -> Found:
    """Whether every seed of every round is above the accuracy `figure`."""
    best = list(map(accuracies, by_round))
    return ", ".join(map(spread, best)), Verdict.all(unanimous([value > figure for value in values]) for values in best)


def fluctuates_more(by_round: Sequence[Runs]) -> Found:
    """Whether the first ten epochs fluctuate more the more is pruned; not if one round fluctuates less than before."""

    def swing(run: TrainingRun) -> float:
        """The mean change of test accuracy between neighbouring epochs among the first ten."""
        steps = run.history["test_accuracy"].loc[:10].diff().abs().dropna()
        return float(steps.mean()) if len(steps) else 0.0

    swings = [list(map(swing, runs)) for runs in by_round]
    found = ", ".join(f"{100 * sum(values) / len(values):.2f}" for values in swings)
    return f"mean change between the first ten epochs: {found} points", Verdict.all(
        is_above(before, after).opposite for before, after in pairwise(swings)
    )


def learns_no_faster(by_round: Sequence[Runs], figure: float = TARGET) -> Found:
    """Whether no round needs fewer epochs to its first accuracy above `figure` than the unpruned network."""
    firsts = [[_first_epoch_above(run, figure) for run in runs] for runs in by_round]
    found = "; ".join(", ".join(str(epoch or "none") for epoch in epochs) for epochs in firsts)
    known = all(map(all, firsts))
    return f"first epoch above {percent(figure, 0)}, seed by seed: {found}", Verdict.all(
        is_above([epoch or 0 for epoch in firsts[0]], [epoch or 0 for epoch in epochs]).opposite
        if known
        else Verdict.UNDECIDED
        for epochs in firsts[1:]
    )


def _first_epoch_above(run: TrainingRun, figure: float) -> int | None:
    above = run.history.index[run.history["test_accuracy"] > figure]
    return int(above[0]) if len(above) else None


def no_better_than_unpruned(by_round: Sequence[Runs]) -> Found:
    """Whether no round is more accurate than the unpruned network."""
    unpruned, *rounds = map(accuracies, by_round)
    return ", ".join(map(spread, (unpruned, *rounds))), Verdict.all(
        is_above(values, unpruned).opposite for values in rounds
    )
