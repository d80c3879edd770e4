"""The parts of plain pages that follow from the chapters' results: Markdown and a figure, made at every build."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from IPython.display import Markdown

from smallcnn import study
from smallcnn.architecture import TARGET
from smallcnn.report import tables
from smallcnn.report.chapter import changes_note
from smallcnn.report.tables import percent, spread
from smallcnn.report.uncertainty import mean_and_deviation

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Network:
    """One network of the book and what it reached.

    Attributes:
        label: its name in figures.
        name: its name in tables and text.
        chapter: where it is trained.
        total, trainable: parameters.
        multiply_adds: that one image takes; pruned weights are multiplied like others.
        accuracies: best test accuracy by seed.
        other_half: the same where other images choose the epoch than those that measure the accuracy.
        article: what the article says of it.
        is_listed: whether it is one of the networks of the study, or only held against them.
    """

    label: str
    name: str
    chapter: str
    total: int
    trainable: int
    multiply_adds: int
    accuracies: dict[int, float]
    other_half: dict[int, float]
    article: study.Article = field(default_factory=study.Article)
    is_listed: bool = True

    @property
    def mean(self) -> float:
        """The mean of its best test accuracies."""
        return sum(self.accuracies.values()) / len(self.accuracies)


def designs(results: Results) -> list[Network]:
    """The networks that the chapters design, each followed by its variants."""
    found = []
    for chapter in study.APPROACHES:
        result = results[chapter.name]
        for variant, runs in {"": result["runs"], **result.get("variants", {})}.items():
            label = f"{chapter.label} {variant}".strip()
            accuracies, others = (
                {run["seed"]: run[f"{kind}_accuracy"] for run in runs} for kind in ("best_test", "other_half")
            )
            counts = (result["total_parameters"], result["trainable_parameters"], result["multiply_adds"])
            article = study.Article() if variant else chapter.article
            found.append(Network(label, label, chapter.name, *counts, accuracies, others, article, not variant))
    return found


def pruned_networks(results: Results) -> list[Network]:
    """The rounds of pruning after the unpruned one, then the gradually pruned network."""
    pruning = results[study.PRUNING.name]
    rounds = [
        (study.round_label(row["round"]), row, study.ARTICLE_ROUNDS.get(row["round"])) for row in pruning["rounds"]
    ]
    found = []
    for label, row, article in [*rounds[1:], (study.GRADUAL, pruning["gradual"], None)]:
        total = pruning["total_parameters"] - row["prunable"] + row["remaining"]
        accuracies, others = (
            dict(zip(row["seeds"], row[f"{kind}_accuracies"], strict=True)) for kind in ("best_test", "other_half")
        )
        name = f"{study.CHAPTERS[study.PRUNED].label}, {label}"
        counts = (total, row["trainable_remaining"], pruning["multiply_adds"])
        found.append(Network(label, name, study.PRUNING.name, *counts, accuracies, others, article or study.Article()))
    return found


def networks(results: Results) -> list[Network]:
    """Every network of the study, in its order."""
    return [network for network in (*designs(results), *pruned_networks(results)) if network.is_listed]


def summary_points(results: Results) -> dict[str, tuple[int, list[float]]]:
    """Every network of the study by its label: trainable parameters, and best test accuracy with each seed."""
    return {network.label: (network.trainable, list(network.accuracies.values())) for network in networks(results)}


def comparison(results: Results) -> pd.DataFrame:
    """Every network with its parameters, its arithmetic and its accuracy, here and in the article."""
    rows = []
    for network in networks(results):
        best, best_sd = mean_and_deviation(list(network.accuracies.values()))
        other, other_sd = mean_and_deviation(list(network.other_half.values()))
        rows.append(
            {
                "network": network.name,
                "trainable": network.trainable,
                "best_test_accuracy": best,
                "best_test_accuracy_sd": best_sd,
                "lowest_accuracy": min(network.accuracies.values()),
                "other_half_accuracy": other,
                "other_half_accuracy_sd": other_sd,
                "article": network.article.accuracy,
                "seeds": len(network.accuracies),
                "total": network.total,
                "multiply_adds": network.multiply_adds,
            }
        )
    return tables.named_frame("comparison", rows)


def pairs(results: Results) -> list[tuple[Network, Network]]:
    """The networks that are held against each other.

    These are the designs with each other, except a design with its own variants, which its chapter compares; each round
    of pruning with the unpruned network; and the last round with the smallest design and its variants.
    """
    found = [
        (later, earlier)
        for earlier, later in itertools.combinations(designs(results), 2)
        if earlier.chapter != later.chapter and (earlier.is_listed or later.is_listed)
    ]
    unpruned = next(network for network in designs(results) if network.chapter == study.PRUNED)
    rounds = [network for network in pruned_networks(results) if network.label != study.GRADUAL]
    found += [(network, unpruned) for network in rounds]
    smallest = min(designs(results), key=lambda network: network.trainable).chapter
    if rounds and smallest != study.PRUNED:
        found += [(rounds[-1], network) for network in designs(results) if network.chapter == smallest]
    return [(one, other) for one, other in found if common_seeds(one, other)]


def common_seeds(one: Network, other: Network) -> list[int]:
    """The seeds that both networks were trained with."""
    return [seed for seed in one.accuracies if seed in other.accuracies]


def differences(results: Results) -> pd.DataFrame:
    """How much more accurate one network is than another, by the seeds that both were trained with."""
    return tables.differences(
        (one.name, other.name, [one.accuracies[seed] for seed in seeds], [other.accuracies[seed] for seed in seeds])
        for one, other in pairs(results)
        for seeds in [common_seeds(one, other)]
    )


def meaning(results: Results) -> Markdown:
    """The smallest design beside the most accurate and the largest one, in words."""
    listed = [network for network in designs(results) if network.is_listed]
    smallest, largest = (pick(listed, key=lambda network: network.trainable) for pick in (min, max))
    best = max(listed, key=lambda network: network.mean)
    share = percent(smallest.trainable / largest.trainable, 0)
    text = (
        f"Of the {len(listed)} designs the smallest, {smallest.name}, has {share} of the trainable parameters of the "
        f"largest, {largest.name}. The most accurate on average is {best.name}; it classifies {percent(1 - best.mean)} "
        "of the images wrongly"
    )
    return Markdown(f"{text}." if best == smallest else f"{text}, {smallest.name} {percent(1 - smallest.mean)}.")


def answer(results: Results) -> str:
    """The answer to the question of the book, in words."""
    everything = networks(results)
    target = percent(TARGET, 0)
    above = [network for network in everything if min(network.accuracies.values()) > TARGET]
    if not above:
        return f"**No network of these runs stays above {target} with every seed.**\n"
    smallest = min(above, key=lambda network: network.trainable)
    text = (
        f"**{smallest.trainable:,} trainable parameters are enough here.** That is {smallest.name}: "
        f"{spread(list(smallest.accuracies.values()))} of the test images, above {target} with each of "
        f"{len(smallest.accuracies)} seeds."
    )
    best = max(above, key=lambda network: network.mean)
    if best != smallest:
        text += (
            f" The most accurate is {best.name}, with {best.trainable:,} and {spread(list(best.accuracies.values()))}."
        )
    if doubtful := [network for network in above if min(network.other_half.values()) <= TARGET]:
        names = " and ".join(f"{network.name} ({percent(min(network.other_half.values()))})" for network in doubtful)
        text += f" Where other images choose the epoch, not every seed stays above {target} for {names}."
    return f"{text}\n"


def summary_table(results: Results) -> str:
    """The answer in one table, as Markdown: each network, its accuracy here and in the article, its parameters."""
    frame = comparison(results).drop(columns="multiply_adds")
    chapters = [network.chapter for network in networks(results)]
    frame["network"] = [f"[{name}]({chapter}.ipynb)" for name, chapter in zip(frame["network"], chapters, strict=True)]
    return tables.to_markdown(frame)


def article_numbers(results: Results) -> str:
    """Each number of the article beside the one found here, as Markdown."""
    rows: list[tuple[str, str, str]] = []
    for network in designs(results):
        article = network.article
        if article.total is not None:
            rows.append((f"{network.name}: total parameters", f"{article.total:,}", f"{network.total:,}"))
            rows.append((f"{network.name}: trainable parameters", f"{article.trainable:,}", f"{network.trainable:,}"))
            found = spread(list(network.accuracies.values()))
            rows.append((f"{network.name}: best test accuracy", article.accuracy, found))
    before, *later = results[study.PRUNING.name]["rounds"]
    rows.append(("pruning: prunable kernel weights", f"{study.ARTICLE_PRUNABLE:,}", f"{before['prunable']:,}"))
    for row in later:
        if said := study.ARTICLE_ROUNDS.get(row["round"]):
            name = f"pruning, round {row['round']}"
            rows += [
                (f"{name}: pruned in the round", f"{said.pruned:,}", f"{before['remaining'] - row['remaining']:,}"),
                (f"{name}: pruned in all", said.pruned_share, percent(row["pruned_fraction"])),
                (f"{name}: surviving kernel weights", f"{said.remaining:,}", f"{row['remaining']:,}"),
                (f"{name}: trainable parameters left", f"{said.trainable:,}", f"{row['trainable_remaining']:,}"),
                (f"{name}: best test accuracy", said.accuracy, spread(row["best_test_accuracies"])),
            ]
        before = row
    return tables.table(("number", "the article", "here"), rows)


def parameter_reference() -> str:
    """Every parameter of every chapter: type, published value, unit, help; as Markdown."""
    parts = []
    for chapter in study.CHAPTERS.values():
        rows = [
            (f"`{name}`", f"`{known.type}`", f"`{value}`", known.unit, known.help)
            for name, value in chapter.published.items()
            for known in [study.PARAMETERS[name]]
        ]
        if rows:
            header = ("parameter", "type", "published", "unit", "what it does")
            parts.append(f"### `{chapter.name}`\n\n{tables.table(header, rows, left=5)}")
    return "\n".join(parts)


def generated_parts(results: Results) -> dict[str, bytes]:
    """Makes the generated parts of the book, by file name, from the results of all chapters by name."""
    from smallcnn.report import figures  # here: matplotlib takes a second, and tables do without

    note = changes_note({chapter: result.get("changed_parameters", {}) for chapter, result in results.items()})
    cautions = [f"{name}: {text}" for name, result in results.items() for text in result.get("cautions", [])]
    warning = "".join(f"**Mind:** {caution}.\n\n" for caution in dict.fromkeys(cautions))
    picture = figures.parameters_against_accuracy(summary_points(results))
    summary = f"{note.data}\n\n" if note is not None else ""
    return {
        "answer.md": answer(results).encode(),
        "summary.md": f"{summary}{warning}{summary_table(results)}".encode(),
        "summary.csv": comparison(results).to_csv(index=False, lineterminator="\n").encode(),
        "summary.svg": picture.to_svg(),
        "summary_figure.md": (
            f"```{{figure}} /generated/summary.svg\n:name: fig-summary\n:alt: {picture.alt}\n\n{picture.caption}\n```\n"
        ).encode(),
        "article_numbers.md": article_numbers(results).encode(),
        "parameters.md": parameter_reference().encode(),
    }
