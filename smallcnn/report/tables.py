"""The tables of the chapters, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from IPython.display import Markdown

from smallcnn.models import TARGET, Architecture, convolution_kernels, count_prunable, count_trainable, layers
from smallcnn.statistics import (
    accuracy_of_other_half,
    is_above,
    mean_and_deviation,
    paired_difference,
    wilson_interval,
)
from smallcnn.training import TrainingRun

if TYPE_CHECKING:
    from smallcnn.chapters import Chapter


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """Lays out a Markdown table; the first `left` columns are aligned left, the others, numbers, right."""
    align = [":--" if column < left else "--:" for column in range(len(header))]
    lines = [header, align, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def percent(share: float, digits: int = 2) -> str:
    """Shows 0 to 1 as per cent, with a narrow space before the sign."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}\u202f%"


def spread(values: Sequence[float]) -> str:
    """Shows accuracies (0 to 1) as mean ± standard deviation in per cent, or the one value there is."""
    mean, deviation = mean_and_deviation(values)
    return percent(mean) if math.isnan(deviation) else f"{100 * mean:.2f}\u00a0±\u00a0{100 * deviation:.2f}\u202f%"


def difference(values: Sequence[float], others: Sequence[float]) -> str:
    """Shows how much higher accuracies (0 to 1) are than those of the same seeds: mean and 95 % interval, in points."""
    mean, half_width = paired_difference(values, others)
    shown = f"{100 * mean:+.2f}".replace("-", "−")
    return shown if math.isinf(half_width) else f"{shown}\u00a0±\u00a0{100 * half_width:.2f}"


def difference_table(rows: Iterable[tuple[str, str, Sequence[float], Sequence[float]]]) -> str:
    """Networks against each other: two names, and the accuracies (0 to 1) of each with the same seeds."""
    verdicts = {True: "higher", False: "lower", None: "unclear"}
    return table(
        ("what", "against", "seeds", "points, 95 % interval", "accuracy is"),
        [
            (one, other, len(values), difference(values, others), verdicts[is_above(values, others)])
            for one, other, values, others in rows
        ],
        left=2,
    )


def layer_table(architecture: Architecture) -> Markdown:
    """The layers with their output shapes and parameters, and the totals."""
    listed = layers(architecture)
    rows = [
        (
            layer.name,
            layer.kind,
            "×".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}",
            f"{layer.trainable:,}",
        )
        for layer in listed
    ]
    total, trainable = (sum(getattr(layer, name) for layer in listed) for name in ("parameters", "trainable"))
    rows.append(("**all**", "", "", f"**{total:,}**", f"**{trainable:,}**"))
    return Markdown(table(("layer", "what it does", "output shape", "parameters", "trainable"), rows, left=2))


def parameter_table(chapter: Chapter) -> Markdown:
    """The parameters of a chapter, as the book has them and as used; what was changed is in bold."""
    rows = []
    for name, parameter in chapter.published.items():
        used = f"**{chapter.parameters[name]}** (changed)" if name in chapter.changed else chapter.parameters[name]
        unit = f" ({parameter.unit})" if parameter.unit else ""
        rows.append((f"`{name}`", parameter.help + unit, parameter.default, used))
    return Markdown(table(("parameter", "meaning", "in the book", "used here"), rows, left=2))


def run_table(runs: Sequence[TrainingRun]) -> Markdown:
    """One line for each seed, and their mean ± standard deviation."""
    others = list(map(accuracy_of_other_half, runs))
    rows = [
        (
            run.config.seed,
            percent(run.best_test_accuracy),
            _interval(run),
            run.best_epoch,
            percent(run.final_test_accuracy),
            percent(other),
            run.epochs_run,
        )
        for run, other in zip(runs, others, strict=True)
    ]
    if len(runs) > 1:
        bests, finals = ([getattr(run, f"{name}_test_accuracy") for run in runs] for name in ("best", "final"))
        rows.append(("mean ± s.d.", spread(bests), "", "", spread(finals), spread(others), ""))
    header = (
        "seed",
        "best test accuracy",
        "95 % interval",
        "at epoch",
        "after the last epoch",
        "epoch chosen by other images",
        "epochs",
    )
    return Markdown(table(header, rows))


def _interval(run: TrainingRun) -> str:
    """How far the test images fix the best accuracy of a run."""
    correct = int(run.history["test_correct"][run.best_epoch - 1])
    low, high = wilson_interval(correct, len(run.predicted_classes))
    return f"{100 * low:.2f} to {percent(high)}"


def result_sentence(runs: Sequence[TrainingRun]) -> Markdown:
    """What the first seed reached, how sure that is, and what all seeds say."""
    run = runs[0]
    images = len(run.predicted_classes)
    correct = int(run.history["test_correct"][run.best_epoch - 1])
    text = (
        f"With seed {run.config.seed} the network classifies {correct:,} of {images:,} test images correctly, "
        f"**{percent(run.best_test_accuracy)}**, after epoch {run.best_epoch} of {run.epochs_run}. That many "
        f"images fix an accuracy only to within {_interval(run)} (95 % interval)."
    )
    if len(runs) > 1:
        values, others = [run.best_test_accuracy for run in runs], list(map(accuracy_of_other_half, runs))
        above, above_with_others = (sum(value > TARGET for value in of) for of in (values, others))
        text += (
            f" Over {len(runs)} seeds the best test accuracy is {spread(values)}, "
            f"from {percent(min(values))} to {percent(max(values))}. Above {percent(TARGET, 0)} are {above} of "
            f"{len(runs)} seeds, and {above_with_others} where other images choose the epoch."
        )
    return Markdown(text)


def provenance_table(runs: Iterable[TrainingRun]) -> Markdown:
    """Where the numbers of a page come from: the record of each run, and what made it."""
    rows = []
    for run in runs:
        made = dict(run.provenance)
        date, machine = made.pop("date")[:10], f"{made.pop('processor')}, {made.pop('system')}"
        software = ", ".join(f"{name} {version}" for name, version in made.items())
        rows.append((f"`runs/{run.config.key}`", run.config.label, run.config.engine, date, machine, software))
    return Markdown(table(("record", "run", "engine", "trained on", "machine", "software"), rows, left=6))


def provenance_summary(runs: Iterable[TrainingRun]) -> str:
    """What made many runs: how many are of each engine and machine."""
    made: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        machine = f"{run.provenance['processor']}, {run.provenance['system']}"
        made.setdefault((run.config.engine, machine), []).append(run.provenance["date"][:10])
    rows = []
    for (engine, machine), dates in sorted(made.items()):
        first, last = min(dates), max(dates)
        rows.append((engine, machine, len(dates), first if first == last else f"{first} to {last}"))
    return table(("engine", "machine", "runs", "trained"), rows, left=2)


def claim_table(rows: Iterable[tuple[str, str, bool | str | None]]) -> Markdown:
    """Claims of the article beside what was measured here; None where that is unclear, or a verdict in words."""
    verdicts = {True: "✓\u00a0seen here", False: "✗\u00a0not seen here", None: "–\u00a0unclear"}
    return Markdown(
        table(
            ("the article", "measured here", "verdict"),
            [(claim, found, verdicts.get(seen, seen)) for claim, found, seen in rows],
            left=3,
        )
    )


def round_table(rounds: Sequence[Sequence[TrainingRun]], gradual: Sequence[TrainingRun]) -> Markdown:
    """The rounds of pruning with all their counts, and the gradual schedule in the last line.

    Args:
        rounds: for each round, from 0, its run with each seed.
        gradual: the gradually pruned run with each seed.
    """
    rows, before = [], 0
    for number, runs in enumerate(rounds):
        counts = pruning_counts(runs[0])
        fraction = runs[0].config.pruned_fractions[-1] if number else math.nan
        pruned = f"{before - counts['remaining']:,}" if number else "–"
        rows.append((number, percent(fraction), pruned, *_count_cells(counts), *_accuracy_cells(runs)))
        before = counts["remaining"]
    counts = pruning_counts(gradual[0])
    rows.append(("gradual, per layer", "–", "–", *_count_cells(counts), *_accuracy_cells(gradual)))
    header = (
        "round", "fraction pruned", "pruned in the round", f"left of {counts['prunable']:,}", "pruned in all",
        "trainable left", "seeds", "best test accuracy", "epoch chosen by other images",
    )  # fmt: skip
    return Markdown(table(header, rows))


def survivors_table(runs: Mapping[str, TrainingRun]) -> Markdown:
    """What is left in the kernel of each layer, a column for each run: weights, and per cent of the layer."""
    first = next(iter(runs.values()))
    rows = []
    for name, kernel in convolution_kernels(first.weights).items():
        cells = [np.count_nonzero(run.weights[name]) for run in runs.values()]
        rows.append(
            (name, f"{kernel.size:,}", *(f"{cell:,} ({100 * cell / kernel.size:.0f}\u202f%)" for cell in cells))
        )
    return Markdown(table(("kernel", "weights", *runs), rows))


def pruning_counts(run: TrainingRun) -> dict[str, Any]:
    """The counts of a pruned network: prunable, remaining, pruned_fraction (0 to 1), trainable_remaining."""
    prunable = count_prunable(run.config.architecture)
    remaining = sum(int(np.count_nonzero(kernel)) for kernel in convolution_kernels(run.weights).values())
    return {
        "prunable": prunable,
        "remaining": remaining,
        "pruned_fraction": (prunable - remaining) / prunable,
        "trainable_remaining": count_trainable(run.config.architecture) - (prunable - remaining),
    }


def _count_cells(counts: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{counts['remaining']:,}", percent(counts["pruned_fraction"]), f"{counts['trainable_remaining']:,}"


def _accuracy_cells(runs: Sequence[TrainingRun]) -> tuple[int, str, str]:
    bests, others = [run.best_test_accuracy for run in runs], list(map(accuracy_of_other_half, runs))
    return len(runs), spread(bests), spread(others)
