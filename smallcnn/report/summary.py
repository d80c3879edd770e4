"""The parts of plain pages that follow from the chapters' results: Markdown and a figure, made at every build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smallcnn.chapters import CHAPTERS, changes_note
from smallcnn.models import ARCHITECTURE_FIELDS, TARGET, Architecture, count_multiply_adds
from smallcnn.parameters import read_parameters
from smallcnn.tables import percent, spread, table

Results = Mapping[str, Mapping[str, Any]]

APPROACHES = {"approach_1": "approach 1", "approach_2": "approach 2", "approach_3": "approach 3"}

# What the article says of each network: total and trainable parameters, best test accuracy.
ARTICLE = {
    "approach_1": (8060, 7968, "99.24\u202f%"),
    "approach_2": (5490, 5382, "99.47\u202f%"),
    "approach_3": (3170, 3090, "over 99\u202f%"),
}
ARTICLE_ROUNDS = {1: (1044, 4176, "20", 4338, "above 99\u202f%"), 2: (1867, 2309, "55.77", 2471, "99.2\u202f%")}


def generated_parts(results: Results) -> dict[str, bytes]:
    """Makes the generated parts of the book, by file name, from the results of all chapters by name."""
    note = changes_note({chapter: result.get("changed_parameters", {}) for chapter, result in results.items()})
    summary = summary_table(results) if note is None else f"{note.data}\n\n{summary_table(results)}"
    return {
        "answer.md": answer(results).encode(),
        "summary.md": summary.encode(),
        "summary.svg": summary_figure(results),
        "article_numbers.md": article_numbers(results).encode(),
        "parameters.md": parameter_reference().encode(),
    }


@dataclass(frozen=True)
class Network:
    """One network of the book and what it reached.

    Attributes:
        label: its name in figures.
        chapter: where it is trained.
        total, trainable: parameters.
        accuracies: best test accuracy with each seed.
        other_half: the same where other images choose the epoch than those that measure the accuracy.
        article: the best test accuracy that the article gives.
    """

    label: str
    chapter: str
    total: int
    trainable: int
    accuracies: list[float]
    other_half: list[float]
    article: str

    @property
    def name(self) -> str:
        """Its name in tables and text."""
        return self.label if self.chapter in APPROACHES else f"approach 2, {self.label}"


def networks(results: Results) -> list[Network]:
    """Every network of the book, in its order."""
    found = []
    for chapter, label in APPROACHES.items():
        of = results[chapter]
        total, trainable = of["total_parameters"], of["trainable_parameters"]
        bests, others = ([run[f"{kind}_accuracy"] for run in of["runs"]] for kind in ("best_test", "other_half"))
        found.append(Network(label, chapter, total, trainable, bests, others, ARTICLE[chapter][2]))
    pruning = results["pruning"]
    rounds = [(round_label(of["round"]), of, ARTICLE_ROUNDS.get(of["round"], ("–",))[-1]) for of in pruning["rounds"]]
    for label, of, article in [*rounds[1:], ("pruned gradually", pruning["gradual"], "–")]:
        total = pruning["total_parameters"] - of["prunable"] + of["remaining"]
        accuracies = of["best_test_accuracies"], of["other_half_accuracies"]
        found.append(Network(label, "pruning", total, of["trainable_remaining"], *accuracies, article))
    return found


def summary_points(results: Results) -> dict[str, tuple[int, list[float]]]:
    """Every network of the book by its label: trainable parameters, and best test accuracy with each seed."""
    return {network.label: (network.trainable, network.accuracies) for network in networks(results)}


def answer(results: Results) -> str:
    """The answer to the question of the book, in words."""
    everything = networks(results)
    target = percent(TARGET, 0)
    above = [network for network in everything if min(network.accuracies) > TARGET]
    if not above:
        return f"**No network of these runs stays above {target} with every seed.**\n"
    smallest = min(above, key=lambda network: network.trainable)
    text = (
        f"**{smallest.trainable:,} trainable parameters are enough here.** That is {smallest.name}: "
        f"{spread(smallest.accuracies)} of the test images, above {target} with each of {len(smallest.accuracies)} "
        "seeds."
    )
    best = max(above, key=lambda network: sum(network.accuracies) / len(network.accuracies))
    if best != smallest:
        text += f" The most accurate is {best.name}, with {best.trainable:,} and {spread(best.accuracies)}."
    if doubtful := [network for network in above if min(network.other_half) <= TARGET]:
        names = " and ".join(f"{network.name} ({percent(min(network.other_half))})" for network in doubtful)
        text += f" Where other images choose the epoch, not every seed stays above {target} for {names}."
    return f"{text}\n"


def round_label(number: int) -> str:
    """The name of a round of pruning in figures and tables."""
    return f"pruned, round {number}" if number else "unpruned"


def summary_table(results: Results) -> str:
    """The answer in one table: each network, its accuracy here and in the article, its parameters."""
    rows = [
        (
            f"[{network.name}]({network.chapter}.ipynb)",
            f"{network.trainable:,}",
            spread(network.accuracies),
            percent(min(network.accuracies)),
            spread(network.other_half),
            network.article,
            len(network.accuracies),
            f"{network.total:,}",
        )
        for network in networks(results)
    ]
    header = (
        "network", "trainable", "best test accuracy", "lowest seed", "epoch chosen by other images", "in the article",
        "seeds", "parameters",
    )  # fmt: skip
    return table(header, rows)


def comparison_table(results: Results) -> str:
    """Every network with its parameters, its arithmetic and its accuracy."""
    rows = []
    for network in networks(results):
        parameters = results[network.chapter]["parameters"]
        architecture = Architecture(**{name: parameters[name] for name in ARCHITECTURE_FIELDS})
        counts = [f"{count:,}" for count in (network.trainable, network.total, count_multiply_adds(architecture))]
        accuracies = (spread(network.accuracies), spread(network.other_half))
        rows.append((network.name, counts[0], *accuracies, *counts[1:], network.article))
    header = (
        "network", "trainable", "best test accuracy", "epoch chosen by other images", "parameters",
        "multiply-adds an image", "in the article",
    )  # fmt: skip
    return table(header, rows)


def pairs(results: Results) -> list[tuple[str, str, list[float], list[float]]]:
    """The networks that are held against each other: two names, and the accuracies of each with the same seeds."""
    by_seed = {
        label: {run["seed"]: run["best_test_accuracy"] for run in results[chapter]["runs"]}
        for chapter, label in APPROACHES.items()
    }
    with_dropout = "approach 3 with dropout"
    by_seed[with_dropout] = {
        run["seed"]: run["best_test_accuracy"] for run in results["approach_3"]["runs_with_dropout"]
    }
    seeds = results["pruning"]["parameters"]["seeds"]
    rounds = {
        f"approach 2, {round_label(of['round'])}": dict(zip(seeds, of["best_test_accuracies"], strict=True))
        for of in results["pruning"]["rounds"][1:]
    }
    last = list(rounds)[-1:]
    compared = [
        *[("approach 2", "approach 1"), ("approach 2", "approach 3"), ("approach 2", with_dropout)],
        ("approach 3", "approach 1"),
        *[(name, "approach 2") for name in rounds],
        *[(name, other) for name in last for other in ("approach 3", with_dropout)],
    ]
    by_seed |= rounds
    return [
        (one, other, [by_seed[one][seed] for seed in common], [by_seed[other][seed] for seed in common])
        for one, other in compared
        if (common := [seed for seed in by_seed[one] if seed in by_seed[other]])
    ]


def summary_figure(results: Results) -> bytes:
    """The answer in one figure, as SVG: parameters against accuracy."""
    from smallcnn import figures  # here: matplotlib takes a second, and tables do without

    figures.use_book_style()
    return figures.to_svg(figures.parameters_against_accuracy(summary_points(results)))


def article_numbers(results: Results) -> str:
    """Each number of the article beside the one found here."""
    rows: list[tuple[Any, ...]] = []
    for chapter, label in APPROACHES.items():
        total, trainable, accuracy = ARTICLE[chapter]
        result = results[chapter]
        accuracies = [run["best_test_accuracy"] for run in result["runs"]]
        rows.append((f"{label}: total parameters", f"{total:,}", f"{result['total_parameters']:,}"))
        rows.append((f"{label}: trainable parameters", f"{trainable:,}", f"{result['trainable_parameters']:,}"))
        rows.append((f"{label}: best test accuracy", accuracy, spread(accuracies)))
    before, *later = results["pruning"]["rounds"]
    rows.append(("pruning: prunable kernel weights", "5,220", f"{before['prunable']:,}"))
    for row in later:
        if row["round"] in ARTICLE_ROUNDS:
            pruned, remaining, share, trainable, accuracy = ARTICLE_ROUNDS[row["round"]]
            name = f"pruning, round {row['round']}"
            rows.append((f"{name}: pruned in the round", f"{pruned:,}", f"{before['remaining'] - row['remaining']:,}"))
            rows.append((f"{name}: pruned in all", f"{share}\u202f%", percent(row["pruned_fraction"])))
            rows.append((f"{name}: surviving kernel weights", f"{remaining:,}", f"{row['remaining']:,}"))
            rows.append((f"{name}: trainable parameters left", f"{trainable:,}", f"{row['trainable_remaining']:,}"))
            rows.append((f"{name}: best test accuracy", accuracy, spread(row["best_test_accuracies"])))
        before = row
    return table(("number", "the article", "here"), rows)


def parameter_reference() -> str:
    """Every parameter of every chapter: type, value in the book, unit, help."""
    parts = []
    for chapter in CHAPTERS:
        parameters = read_parameters(chapter)
        if parameters:
            rows = [
                (f"`{entry.name}`", f"`{entry.type}`", f"`{entry.default}`", entry.unit, entry.help)
                for entry in parameters.values()
            ]
            header = ("parameter", "type", "in the book", "unit", "what it does")
            parts.append(f"### `{chapter}`\n\n{table(header, rows, left=5)}")
    return "\n".join(parts)
