"""The parts of plain pages that follow from the chapters' results: Markdown and a figure, made at every build."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smallcnn.chapters import CHAPTERS, changes_note
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
        "summary.md": summary.encode(),
        "summary.svg": summary_figure(results),
        "article_numbers.md": article_numbers(results).encode(),
        "parameters.md": parameter_reference().encode(),
    }


def summary_points(results: Results) -> dict[str, tuple[int, list[float]]]:
    """Every network of the book by its label: trainable parameters, and best test accuracy with each seed."""
    points = {
        label: (
            results[chapter]["trainable_parameters"],
            [run["best_test_accuracy"] for run in results[chapter]["runs"]],
        )
        for chapter, label in APPROACHES.items()
    }
    pruned = [(round_label(row["round"]), row) for row in results["pruning"]["rounds"][1:]]
    pruned.append(("pruned gradually", results["pruning"]["gradual"]))
    for label, row in pruned:
        points[label] = (row["trainable_remaining"], row["best_test_accuracies"])
    return points


def round_label(number: int) -> str:
    """The name of a round of pruning in figures and tables."""
    return f"pruned, round {number}" if number else "unpruned"


def summary_table(results: Results) -> str:
    """The answer in one table: each network, its parameters, its accuracy here and in the article."""
    rows = []
    for chapter, label in APPROACHES.items():
        result = results[chapter]
        accuracies = [run["best_test_accuracy"] for run in result["runs"]]
        rows.append(_summary_row(f"[{label}]({chapter}.ipynb)", result, accuracies, ARTICLE[chapter][2]))
    for row in results["pruning"]["rounds"][1:]:
        article = ARTICLE_ROUNDS.get(row["round"], ("–",))[-1]
        label = f"[approach 2, {round_label(row['round'])}](pruning.ipynb)"
        rows.append(_summary_row(label, _remaining(results, row), row["best_test_accuracies"], article))
    gradual = results["pruning"]["gradual"]
    label = "[approach 2, pruned gradually](pruning.ipynb)"
    rows.append(_summary_row(label, _remaining(results, gradual), gradual["best_test_accuracies"], "–"))
    header = ("network", "parameters", "trainable", "seeds", "best test accuracy", "lowest seed", "in the article")
    return table(header, rows)


def _summary_row(label: str, counts: Mapping[str, Any], accuracies: list[float], article: str) -> tuple[Any, ...]:
    total, trainable = f"{counts['total_parameters']:,}", f"{counts['trainable_parameters']:,}"
    return label, total, trainable, len(accuracies), spread(accuracies), percent(min(accuracies)), article


def _remaining(results: Results, row: Mapping[str, Any]) -> dict[str, int]:
    pruned = row["prunable"] - row["remaining"]
    total = results["pruning"]["total_parameters"] - pruned
    return {"total_parameters": total, "trainable_parameters": row["trainable_remaining"]}


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
    """Every parameter of every chapter: type, published value, unit, help."""
    parts = []
    for chapter in CHAPTERS:
        parameters = read_parameters(chapter)
        if parameters:
            rows = [
                (f"`{entry.name}`", f"`{entry.type}`", f"`{entry.default}`", entry.unit, entry.help)
                for entry in parameters.values()
            ]
            header = ("parameter", "type", "published value", "unit", "what it does")
            parts.append(f"### `{chapter}`\n\n{table(header, rows, left=5)}")
    return "\n".join(parts)
