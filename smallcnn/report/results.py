"""Results as data frames that a reader can sort, filter and plot. Accuracies and shares are 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from smallcnn import study
from smallcnn.architecture import TARGET, Activation, Architecture, convolution_kernels
from smallcnn.config import TrainingRun
from smallcnn.report.tables import difference, named_frame, percent, spread
from smallcnn.report.uncertainty import Verdict, mean_and_deviation, other_half_accuracy, wilson_interval

VERDICTS = {Verdict.SEEN: "✓\u00a0seen", Verdict.NOT_SEEN: "✗\u00a0not seen", Verdict.UNDECIDED: "–\u00a0undecided"}


def layers(architecture: Architecture) -> pd.DataFrame:
    """The layers in order: output shape, total and trainable parameters; the last row is the whole network."""
    rows: list[dict[str, Any]] = []
    for placed in architecture.placed:
        if isinstance(placed.layer, Activation) and rows:  # it changes no shape and has no weights
            rows[-1]["what_it_does"] += f", {placed.layer.description}"
            continue
        rows.append(
            {
                "layer": placed.name,
                "what_it_does": placed.layer.description,
                "output_shape": "×".join(map(str, placed.output_shape)),
                "total": placed.parameters,
                "trainable": placed.trainable,
            }
        )
    everything = {"total": architecture.total, "trainable": architecture.trainable}
    return named_frame("layers", [*rows, {"layer": "**all**", "what_it_does": "", "output_shape": "", **everything}])


def runs(trained: Sequence[TrainingRun]) -> pd.DataFrame:
    """A row a run: its best accuracy, how far the test images fix that, and what it is worth.

    `other_half_accuracy` is the accuracy when one half of the test images chooses the epoch and the other measures it.
    """
    rows = []
    for run in trained:
        correct = int(run.history["test_correct"][run.best_epoch])
        low, high = wilson_interval(correct, len(run.predicted_classes))
        rows.append(
            {
                "seed": run.config.seed,
                "best_test_accuracy": run.best_test_accuracy,
                "interval_low": low,
                "interval_high": high,
                "best_epoch": run.best_epoch,
                "final_test_accuracy": run.final_test_accuracy,
                "other_half_accuracy": other_half_accuracy(run),
                "epochs_run": run.epochs_run,
            }
        )
    return named_frame("runs", rows)


def sentence(trained: Sequence[TrainingRun]) -> str:
    """What the first seed reached, how sure that is, and what all seeds say; Markdown."""
    run = trained[0]
    images = len(run.predicted_classes)
    correct = int(run.history["test_correct"][run.best_epoch])
    low, high = wilson_interval(correct, images)
    text = (
        f"With seed {run.config.seed} the network classifies {correct:,} of {images:,} test images correctly, "
        f"**{percent(run.best_test_accuracy)}**, after epoch {run.best_epoch} of {run.epochs_run}. That many "
        f"images fix an accuracy only to within {100 * low:.2f} to {percent(high)} (95 % interval)."
    )
    if len(trained) > 1:
        values, others = [run.best_test_accuracy for run in trained], list(map(other_half_accuracy, trained))
        above, above_with_others = (sum(value > TARGET for value in accuracies) for accuracies in (values, others))
        text += (
            f" Over {len(trained)} seeds the best test accuracy is {spread(values)}, "
            f"from {percent(min(values))} to {percent(max(values))}. Above {percent(TARGET, 0)} are {above} of "
            f"{len(trained)} seeds, and {above_with_others} where other images choose the epoch."
        )
    return with_cautions(text, cautions(trained))


def cautions(trained: Iterable[TrainingRun]) -> list[str]:
    """What must be said of runs of too few steps, each once."""
    return list(dict.fromkeys(run.caution for run in trained if run.caution))


def with_cautions(text: str, found: Iterable[str]) -> str:
    """A text, and below it what must be said too; Markdown."""
    return text + "".join(f"\n\n**Mind:** {caution}." for caution in found)


def claims(found: Mapping[str, tuple[str, Verdict | str]]) -> pd.DataFrame:
    """Claims of the article beside what was measured here, and the verdict, which may be in words."""
    return named_frame(
        "claims",
        [
            {
                "the_article": claim,
                "measured_here": measured,
                "verdict": verdict if isinstance(verdict, str) else VERDICTS[verdict],
            }
            for claim, (measured, verdict) in found.items()
        ],
    )


def rounds(by_round: Sequence[Sequence[TrainingRun]], gradual: Sequence[TrainingRun]) -> pd.DataFrame:
    """The rounds of pruning with all their counts, and the gradual schedule in the last row.

    Args:
        by_round: for each round, from 0, its run with each seed.
        gradual: the gradually pruned run with each seed; none leaves that row out.
    """
    rows, before = [], 0
    for number, trained in enumerate(by_round):
        counts = pruning_counts(trained[0])
        rows.append(
            {
                "network": study.round_label(number),
                "round_fraction": trained[0].config.pruned_fractions[-1] if number else math.nan,
                "pruned_in_round": before - counts["remaining"] if number else pd.NA,
            }
            | _counts_and_accuracies(trained)
        )
        before = counts["remaining"]
    if gradual:
        unknown = {"network": study.GRADUAL, "round_fraction": math.nan, "pruned_in_round": pd.NA}
        rows.append(unknown | _counts_and_accuracies(gradual))
    return named_frame("rounds", rows).astype({"pruned_in_round": "Int64"})


def _counts_and_accuracies(trained: Sequence[TrainingRun]) -> dict[str, Any]:
    counts = pruning_counts(trained[0])
    bests, others = [run.best_test_accuracy for run in trained], list(map(other_half_accuracy, trained))
    (best, best_sd), (other, other_sd) = mean_and_deviation(bests), mean_and_deviation(others)
    return {
        "remaining": counts["remaining"],
        "pruned_fraction": counts["pruned_fraction"],
        "trainable": counts["trainable_remaining"],
        "best_test_accuracy": best,
        "best_test_accuracy_sd": best_sd,
        "other_half_accuracy": other,
        "other_half_accuracy_sd": other_sd,
        "seeds": len(trained),
    }


def rounds_sentence(by_round: Sequence[Sequence[TrainingRun]], gradual: Sequence[TrainingRun]) -> str:
    """The last round beside the gradual schedule, as sparse, in words; they are compared seed by seed."""
    last, other = ({run.config.seed: run.best_test_accuracy for run in trained} for trained in (by_round[-1], gradual))
    common = [seed for seed in last if seed in other]
    left = pruning_counts(by_round[-1][0])["trainable_remaining"]
    text = (
        f"Round {len(by_round) - 1} keeps {left:,} trainable parameters and reaches {spread(list(last.values()))}; the "
        f"gradual schedule, as sparse, reaches {spread(list(other.values()))}."
    )
    if not common:
        return f"{text} They have no seed in common."
    shown = difference([last[seed] for seed in common], [other[seed] for seed in common])
    if len(common) == 1:
        return f"{text} With seed {common[0]}, the one of both, the difference is {shown} points, which may be chance."
    return f"{text} Over the {len(common)} seeds of both the difference is {shown} points (95 % interval)."


def survivors(trained: Mapping[str, TrainingRun]) -> pd.DataFrame:
    """What is left in the kernel of each layer: its weights, and for each run the number and the share that survive."""
    first = next(iter(trained.values()))
    rows = []
    for name, kernel in convolution_kernels(first.weights).items():
        row: dict[str, Any] = {"kernel": name, "weights": kernel.size}
        for label, run in trained.items():
            left = np.count_nonzero(run.weights[name])
            row |= {label: left, f"{label}_share": left / kernel.size}
        rows.append(row)
    return named_frame("survivors", rows)


def pruning_counts(run: TrainingRun) -> dict[str, Any]:
    """The counts of a pruned network: prunable, remaining, pruned_fraction (0 to 1), trainable_remaining."""
    prunable = run.config.architecture.prunable
    remaining = sum(int(np.count_nonzero(kernel)) for kernel in convolution_kernels(run.weights).values())
    return {
        "prunable": prunable,
        "remaining": remaining,
        "pruned_fraction": (prunable - remaining) / prunable,
        "trainable_remaining": run.config.architecture.trainable - (prunable - remaining),
    }


def parameters(published: Mapping[str, Any], used: Mapping[str, Any]) -> pd.DataFrame:
    """The parameters of a chapter, as published and as used; what was changed is in bold."""
    rows = []
    for name, value in published.items():
        parameter = study.PARAMETERS[name]
        changed = used[name] != value
        rows.append(
            {
                "parameter": f"`{name}`",
                "meaning": parameter.help + (f" ({parameter.unit})" if parameter.unit else ""),
                "published": str(value),
                "used_here": f"**{used[name]}** (changed)" if changed else str(used[name]),
            }
        )
    return named_frame("parameters", rows)


def provenance(trained: Iterable[TrainingRun]) -> pd.DataFrame:
    """Where the numbers of a page come from: the record of each run, and what made it."""
    rows = []
    for run in trained:
        made = dict(run.provenance)
        date, machine = made.pop("date")[:10], f"{made.pop('processor')}, {made.pop('system')}"
        rows.append(
            {
                "record": f"`{run.config.key}`",
                "run": run.config.label,
                "engine": run.config.engine,
                "trained": date,
                "machine": machine,
                "software": ", ".join(f"{name} {version}" for name, version in made.items()),
            }
        )
    return named_frame("provenance", rows)
