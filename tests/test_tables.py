"""Tables and generated pages: numbers come out as they were given, and every row has as many cells as the header."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from smallcnn import pages, tables
from smallcnn.chapters import CHAPTERS, Chapter
from smallcnn.models import PUBLISHED, convolution_kernels
from smallcnn.parameters import read_parameters
from smallcnn.training import TrainingRun

NARROW = "\u202f"


def cells_of(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table: its header, then its rows. Checks that the table is well-formed."""
    lines = markdown.strip().splitlines()
    rows = []
    for line in lines:
        assert line.startswith("| ") and line.endswith(" |"), line
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1])])
    assert {len(row) for row in rows} == {len(rows[0])}
    assert all(cell in (":--", "--:") for cell in rows[1])
    return [rows[0], *rows[2:]]


def text_of(shown: Any) -> str:
    return str(shown.data)


@pytest.fixture
def results() -> dict[str, dict[str, Any]]:
    """Results of all chapters, made by hand."""

    def approach(total: int, trainable: int, *accuracies: float) -> dict[str, Any]:
        runs = [{"seed": seed, "best_test_accuracy": accuracy} for seed, accuracy in enumerate(accuracies)]
        return {"total_parameters": total, "trainable_parameters": trainable, "runs": runs}

    def pruned(remaining: int, *accuracies: float) -> dict[str, Any]:
        return {
            "prunable": 5220,
            "remaining": remaining,
            "pruned_fraction": (5220 - remaining) / 5220,
            "trainable_remaining": 5382 - 5220 + remaining,
            "best_test_accuracies": list(accuracies),
        }

    return {
        "data": {},
        "approach_1": approach(8060, 7968, 0.9923, 0.9925, 0.9927),
        "approach_2": approach(5490, 5382, 0.9941),
        "approach_3": approach(3170, 3090, 0.9901, 0.9899),
        "pruning": approach(5490, 5382, 0.9941)
        | {
            "rounds": [
                {"round": 0, **pruned(5220, 0.9941)},
                {"round": 1, **pruned(4176, 0.9932)},
                {"round": 2, **pruned(2309, 0.9921, 0.9919)},
                {"round": 3, **pruned(959, 0.9876)},
            ],
            "gradual": pruned(959, 0.9812),
        },
        "comparison": {},
    }


def test_a_table_has_its_cells_in_their_places() -> None:
    assert tables.table(("network", "parameters"), [("a", 1), ("b", "2,000")]) == (
        "| network | parameters |\n| :-- | --: |\n| a | 1 |\n| b | 2,000 |\n"
    )


def test_accuracies_are_shown_in_per_cent() -> None:
    assert tables.percent(0.9924) == f"99.24{NARROW}%"
    assert tables.percent(1, digits=0) == f"100{NARROW}%"
    assert tables.percent(float("nan")) == "–"
    assert tables.spread([0.98, 0.99, 1.0]) == f"99.00\u00a0±\u00a01.00{NARROW}%"
    assert tables.spread([0.9924]) == f"99.24{NARROW}%"


@pytest.mark.parametrize(
    ("name", "total", "trainable"),
    [("approach_1", "8,060", "7,968"), ("approach_2", "5,490", "5,382"), ("approach_3", "3,170", "3,090")],
)
def test_the_layer_table_adds_up(name: str, total: str, trainable: str) -> None:
    header, *rows, totals = cells_of(text_of(tables.layer_table(PUBLISHED[name])))
    assert header[3:] == ["parameters", "trainable"]
    assert totals == ["**all**", "", "", f"**{total}**", f"**{trainable}**"]
    for column, expected in ((3, total), (4, trainable)):
        assert sum(int(row[column].replace(",", "")) for row in rows) == int(expected.replace(",", ""))


def test_the_parameter_table_marks_what_was_changed() -> None:
    published = {name: parameter.default for name, parameter in read_parameters("approach_2").items()}
    chapter = Chapter("approach_2", published | {"epochs": 10})
    rows = {row[0]: row[1:] for row in cells_of(text_of(tables.parameter_table(chapter)))[1:]}
    assert rows.keys() == {f"`{name}`" for name in published}
    assert rows["`epochs`"][1:] == ["40", "**10** (changed)"]
    assert rows["`batch_size`"][1:] == ["125", "125"]
    assert "(images)" in rows["`batch_size`"][0]


def test_the_run_table_has_a_line_for_each_seed_and_their_mean(finished_run: TrainingRun) -> None:
    (_, *rows) = cells_of(text_of(tables.run_table([finished_run])))
    assert [row[:4] for row in rows] == [["0", f"75.00{NARROW}%", "2", f"75.00{NARROW}%"]]
    better = dataclasses.replace(
        finished_run,
        config=dataclasses.replace(finished_run.config, seed=1),
        history=finished_run.history | {"test_accuracy": [0.5, 0.85]},
    )
    (_, *rows) = cells_of(text_of(tables.run_table([finished_run, better])))
    assert [row[0] for row in rows] == ["0", "1", "mean ± s.d."]
    assert rows[2][1] == f"80.00\u00a0±\u00a07.07{NARROW}%"


def test_the_result_sentence_counts_images(finished_run: TrainingRun) -> None:
    sentence = text_of(tables.result_sentence([finished_run]))
    assert "150 of 200 test images" in sentence
    assert f"**75.00{NARROW}%**, after epoch 2 of 2" in sentence
    assert f"68.57{NARROW}% to 80.49{NARROW}%" in sentence
    assert "seeds" not in sentence
    assert "Over 2 seeds" in text_of(tables.result_sentence([finished_run, finished_run]))


def test_the_provenance_table_names_record_and_machine(finished_run: TrainingRun) -> None:
    (_, row) = cells_of(text_of(tables.provenance_table([finished_run])))
    assert row[0] == f"`runs/{finished_run.config.key}`"
    assert row[3] == finished_run.provenance["date"][:10]
    assert finished_run.provenance["processor"] in row[4]
    assert finished_run.provenance["numpy"] in row[5]


def test_claims_are_marked_as_seen_or_not() -> None:
    claims = [("one", "1", True), ("two", "2", False), ("three", "3", None)]
    (_, *rows) = cells_of(text_of(tables.claim_table(claims)))
    assert [row[2] for row in rows] == ["✓ seen here", "✗ not seen here", "– unclear"]


def pruned(run: TrainingRun, remaining: int, fractions: tuple[float, ...]) -> TrainingRun:
    """`run` with only the first `remaining` kernel weights left, the first layer first."""
    weights = dict(run.weights)
    for name, kernel in convolution_kernels(run.weights).items():
        kept = min(kernel.size, remaining)
        flat = np.ones(kernel.size, np.float32)
        flat[kept:] = 0
        weights[name] = flat.reshape(kernel.shape)
        remaining -= kept
    return dataclasses.replace(run, weights=weights, config=dataclasses.replace(run.config, pruned_fractions=fractions))


@pytest.mark.parametrize(("remaining", "trainable"), [(5220, 5382), (4176, 4338), (2309, 2471), (0, 162)])
def test_a_pruned_network_is_counted_by_what_is_left(finished_run: TrainingRun, remaining: int, trainable: int) -> None:
    assert tables.pruning_counts(pruned(finished_run, remaining, ())) == {
        "prunable": 5220,
        "remaining": remaining,
        "pruned_fraction": pytest.approx(1 - remaining / 5220),
        "trainable_remaining": trainable,
    }


def test_the_round_table_has_the_counts_of_the_study(finished_run: TrainingRun) -> None:
    rounds = [
        [pruned(finished_run, 5220, ())],
        [pruned(finished_run, 4176, (0.2,))],
        [pruned(finished_run, 2309, (0.2, 0.2**0.5))],
    ]
    (header, *rows) = cells_of(text_of(tables.round_table(rounds, rounds[2])))
    assert header[3] == "left of 5,220"
    assert [row[:6] for row in rows] == [
        ["0", "–", "–", "5,220", f"0.00{NARROW}%", "5,382"],
        ["1", f"20.00{NARROW}%", "1,044", "4,176", f"20.00{NARROW}%", "4,338"],
        ["2", f"44.72{NARROW}%", "1,867", "2,309", f"55.77{NARROW}%", "2,471"],
        ["gradual, per layer", "–", "–", "2,309", f"55.77{NARROW}%", "2,471"],
    ]
    assert {tuple(row[6:]) for row in rows} == {("1", f"75.00{NARROW}%")}


def test_the_survivors_table_counts_each_layer(finished_run: TrainingRun) -> None:
    runs = {"before": pruned(finished_run, 5220, ()), "after": pruned(finished_run, 36 + 144, (0.2,))}
    (header, *rows) = cells_of(text_of(tables.survivors_table(runs)))
    assert header == ["kernel", "weights", "before", "after"]
    assert rows[0] == ["block_1/kernel", "36", f"36 (100{NARROW}%)", f"36 (100{NARROW}%)"]
    assert rows[1] == ["block_2/kernel", "288", f"288 (100{NARROW}%)", f"144 (50{NARROW}%)"]
    assert rows[4] == ["block_5/kernel", "1,440", f"1,440 (100{NARROW}%)", f"0 (0{NARROW}%)"]


def test_the_summary_has_every_network_with_its_numbers(results: dict[str, dict[str, Any]]) -> None:
    (header, *rows) = cells_of(pages.summary_table(results))
    assert header == [
        "network", "parameters", "trainable", "seeds", "best test accuracy", "lowest seed", "in the article"
    ]  # fmt: skip
    assert [row[1:] for row in rows] == [
        ["8,060", "7,968", "3", f"99.25\u00a0±\u00a00.02{NARROW}%", f"99.23{NARROW}%", f"99.24{NARROW}%"],
        ["5,490", "5,382", "1", f"99.41{NARROW}%", f"99.41{NARROW}%", f"99.47{NARROW}%"],
        ["3,170", "3,090", "2", f"99.00\u00a0±\u00a00.01{NARROW}%", f"98.99{NARROW}%", f"over 99{NARROW}%"],
        ["4,446", "4,338", "1", f"99.32{NARROW}%", f"99.32{NARROW}%", f"above 99{NARROW}%"],
        ["2,579", "2,471", "2", f"99.20\u00a0±\u00a00.01{NARROW}%", f"99.19{NARROW}%", f"99.2{NARROW}%"],
        ["1,229", "1,121", "1", f"98.76{NARROW}%", f"98.76{NARROW}%", "–"],
        ["1,229", "1,121", "1", f"98.12{NARROW}%", f"98.12{NARROW}%", "–"],
    ]
    assert all(re.search(r"\]\((approach_\d|pruning)\.ipynb\)$", row[0]) for row in rows)


def test_the_summary_figure_has_the_networks_of_the_summary_table(results: dict[str, dict[str, Any]]) -> None:
    points = pages.summary_points(results)
    assert points == {
        "approach 1": (7968, [0.9923, 0.9925, 0.9927]),
        "approach 2": (5382, [0.9941]),
        "approach 3": (3090, [0.9901, 0.9899]),
        "pruned, round 1": (4338, [0.9932]),
        "pruned, round 2": (2471, [0.9921, 0.9919]),
        "pruned, round 3": (1121, [0.9876]),
        "pruned gradually": (1121, [0.9812]),
    }
    assert len(points) == len(cells_of(pages.summary_table(results))) - 1


def test_the_articles_numbers_stand_beside_ours(results: dict[str, dict[str, Any]]) -> None:
    rows = {row[0]: row[1:] for row in cells_of(pages.article_numbers(results))[1:]}
    assert rows["approach 1: total parameters"] == ["8,060", "8,060"]
    assert rows["approach 3: best test accuracy"] == [f"over 99{NARROW}%", f"99.00\u00a0±\u00a00.01{NARROW}%"]
    assert rows["pruning, round 2: surviving kernel weights"] == ["2,309", "2,309"]
    assert rows["pruning, round 2: trainable parameters left"] == ["2,471", "2,471"]
    assert rows["pruning: prunable kernel weights"] == ["5,220", "5,220"]
    assert rows["pruning, round 1: pruned in the round"] == ["1,044", "1,044"]
    assert rows["pruning, round 2: pruned in the round"] == ["1,867", "1,867"]
    assert rows["pruning, round 2: pruned in all"] == [f"55.77{NARROW}%", f"55.77{NARROW}%"]
    assert len(rows) == 3 * 3 + 1 + 2 * 5
    results["approach_1"]["total_parameters"] = 1
    assert "| approach 1: total parameters | 8,060 | 1 |" in pages.article_numbers(results)


def test_the_parameter_reference_has_every_parameter_of_every_chapter() -> None:
    reference = pages.parameter_reference()
    sections = dict(zip(*[iter(re.split(r"### `(\w+)`\n", reference)[1:])] * 2, strict=True))
    assert list(sections) == [chapter for chapter in CHAPTERS if read_parameters(chapter)]
    for chapter, section in sections.items():
        rows = cells_of(section)[1:]
        expected = [
            [f"`{entry.name}`", f"`{entry.type}`", f"`{entry.default}`", entry.unit, entry.help]
            for entry in read_parameters(chapter).values()
        ]
        assert rows == expected


def test_generated_parts_are_the_same_each_time(results: dict[str, dict[str, Any]]) -> None:
    parts = pages.generated_parts(results)
    assert parts.keys() == {"summary.md", "summary.svg", "article_numbers.md", "parameters.md"}
    assert parts["summary.svg"].startswith(b"<?xml")
    assert parts == pages.generated_parts(results)


def test_the_first_page_says_what_was_changed(results: dict[str, dict[str, Any]]) -> None:
    assert "Changed parameters" not in pages.generated_parts(results)["summary.md"].decode()
    results["approach_2"]["changed_parameters"] = {"epochs": 10}
    summary = pages.generated_parts(results)["summary.md"].decode()
    assert "approach_2: <code>epochs</code> is 10 instead of 40" in summary
    assert "| [approach 2](approach_2.ipynb) |" in summary
