"""Tables and generated pages: numbers come out as they were given, and every row has as many cells as the header."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from smallcnn import pages, tables
from smallcnn.chapters import CHAPTERS, Chapter
from smallcnn.models import PUBLISHED, convolution_kernels, count_multiply_adds
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
        runs = [
            {"seed": seed, "best_test_accuracy": accuracy, "other_half_accuracy": accuracy - 0.002}
            for seed, accuracy in enumerate(accuracies)
        ]
        return {"total_parameters": total, "trainable_parameters": trainable, "runs": runs}

    def pruned(remaining: int, *accuracies: float) -> dict[str, Any]:
        return {
            "prunable": 5220,
            "remaining": remaining,
            "pruned_fraction": (5220 - remaining) / 5220,
            "trainable_remaining": 5382 - 5220 + remaining,
            "best_test_accuracies": list(accuracies),
            "other_half_accuracies": [accuracy - 0.002 for accuracy in accuracies],
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
    interval = f"68.57 to 80.49{NARROW}%"
    assert [row[:5] for row in rows] == [["0", f"75.00{NARROW}%", interval, "2", f"75.00{NARROW}%"]]
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
    assert f"68.57 to 80.49{NARROW}%" in sentence
    assert "seeds" not in sentence
    sentence = text_of(tables.result_sentence([finished_run, finished_run]))
    assert "Over 2 seeds" in sentence
    assert f"Above 99{NARROW}% are 0 of 2 seeds, and 0 where other images choose the epoch." in sentence


def test_the_provenance_table_names_record_and_machine(finished_run: TrainingRun) -> None:
    (_, row) = cells_of(text_of(tables.provenance_table([finished_run])))
    assert row[0] == f"`runs/{finished_run.config.key}`"
    assert row[3] == finished_run.provenance["date"][:10]
    assert finished_run.provenance["processor"] in row[4]
    assert finished_run.provenance["numpy"] in row[5]


def test_many_runs_are_summed_up_by_what_made_them(finished_run: TrainingRun) -> None:
    dates = ("2026-01-02T03:04:05+00:00", "2026-01-03T03:04:05+00:00")
    runs = [dataclasses.replace(finished_run, provenance=finished_run.provenance | {"date": date}) for date in dates]
    (_, row) = cells_of(tables.provenance_summary(runs))
    assert row[0] == "tensorflow"
    assert finished_run.provenance["processor"] in row[1]
    assert row[2:] == ["2", "2026-01-02 to 2026-01-03"]
    assert cells_of(tables.provenance_summary(runs[:1]))[1][2:] == ["1", "2026-01-02"]


def test_claims_are_marked_as_seen_or_not() -> None:
    claims = [("one", "1", True), ("two", "2", False), ("three", "3", None), ("four", "4", "cannot be tested")]
    (_, *rows) = cells_of(text_of(tables.claim_table(claims)))
    assert [row[2] for row in rows] == [
        "✓\u00a0seen here",
        "✗\u00a0not seen here",
        "–\u00a0unclear",
        "cannot be tested",
    ]


def test_a_difference_is_shown_with_its_interval_and_a_verdict() -> None:
    high, low, near = [0.994, 0.995, 0.993], [0.992, 0.9925, 0.991], [0.9935, 0.9952, 0.9931]
    rows = [("a", "b", high, low), ("b", "a", low, high), ("a", "c", high, near), ("a", "c", high[:1], low[:1])]
    (_, *rows) = cells_of(tables.difference_table(rows))
    assert [row[4] for row in rows] == ["higher", "lower", "unclear", "unclear"]
    assert [row[2] for row in rows] == ["3", "3", "3", "1"]
    assert rows[0][3] == "+0.22 ± 0.07"
    assert rows[1][3] == "−0.22 ± 0.07"
    assert rows[3][3] == "+0.20"


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
    assert {tuple(row[6:8]) for row in rows} == {("1", f"75.00{NARROW}%")}
    assert all(60 < float(row[8].rstrip(f"{NARROW}%")) < 80 for row in rows)


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
        "network", "trainable", "best test accuracy", "lowest seed", "epoch chosen by other images", "in the article",
        "seeds", "parameters",
    ]  # fmt: skip

    rows = [[cell.replace(f"{NARROW}%", "").replace("\u00a0", " ") for cell in row[1:]] for row in rows]
    assert rows == [
        ["7,968", "99.25 ± 0.02", "99.23", "99.05 ± 0.02", "99.24", "3", "8,060"],
        ["5,382", "99.41", "99.41", "99.21", "99.47", "1", "5,490"],
        ["3,090", "99.00 ± 0.01", "98.99", "98.80 ± 0.01", "over 99", "2", "3,170"],
        ["4,338", "99.32", "99.32", "99.12", "above 99", "1", "4,446"],
        ["2,471", "99.20 ± 0.01", "99.19", "99.00 ± 0.01", "99.2", "2", "2,579"],
        ["1,121", "98.76", "98.76", "98.56", "–", "1", "1,229"],
        ["1,121", "98.12", "98.12", "97.92", "–", "1", "1,229"],
    ]
    names = [row[0] for row in cells_of(pages.summary_table(results))[1:]]
    assert all(re.search(r"\]\((approach_\d|pruning)\.ipynb\)$", name) for name in names)


def test_the_answer_follows_from_the_results(results: dict[str, dict[str, Any]]) -> None:
    text = pages.answer(results)
    assert text.startswith("**2,471 trainable parameters are enough here.** That is approach 2, pruned, round 2: 99.20")
    assert f"above 99{NARROW}% with each of 2 seeds" in text
    assert f"The most accurate is approach 2, with 5,382 and 99.41{NARROW}%." in text
    assert f"not every seed stays above 99{NARROW}% for approach 2, pruned, round 2 (98.99{NARROW}%)." in text
    for chapter in ("approach_1", "approach_2", "approach_3"):
        results[chapter]["runs"] = [{"seed": 0, "best_test_accuracy": 0.99, "other_half_accuracy": 0.98}]
    results["pruning"]["rounds"] = results["pruning"]["rounds"][:1]
    assert pages.answer(results) == f"**No network of these runs stays above 99{NARROW}% with every seed.**\n"


def test_networks_are_held_against_each_other_seed_by_seed(results: dict[str, dict[str, Any]]) -> None:
    results["approach_3"]["runs_with_dropout"] = [{"seed": 1, "best_test_accuracy": 0.98}]
    results["pruning"]["parameters"] = {"seeds": [1, 0]}
    results["pruning"]["rounds"] = [results["pruning"]["rounds"][number] for number in (0, 2)]
    pairs = {(one, other): accuracies for one, other, *accuracies in pages.pairs(results)}
    last = "approach 2, pruned, round 2"
    assert pairs == {
        ("approach 2", "approach 1"): [[0.9941], [0.9923]],
        ("approach 2", "approach 3"): [[0.9941], [0.9901]],
        ("approach 3", "approach 1"): [[0.9901, 0.9899], [0.9923, 0.9925]],
        (last, "approach 2"): [[0.9919], [0.9941]],
        (last, "approach 3"): [[0.9921, 0.9919], [0.9899, 0.9901]],
        (last, "approach 3 with dropout"): [[0.9921], [0.98]],
    }


def test_the_comparison_has_every_network_with_its_arithmetic(results: dict[str, dict[str, Any]]) -> None:
    for chapter in ("approach_1", "approach_2", "approach_3", "pruning"):
        architecture = PUBLISHED["approach_2" if chapter == "pruning" else chapter]
        results[chapter]["parameters"] = dataclasses.asdict(architecture)
    (header, *rows) = cells_of(pages.comparison_table(results))
    assert header[5] == "multiply-adds an image"
    assert [row[0] for row in rows[:4]] == ["approach 1", "approach 2", "approach 3", "approach 2, pruned, round 1"]
    assert rows[3][5] == rows[1][5] == f"{count_multiply_adds(PUBLISHED['approach_2']):,}"


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
    assert parts.keys() == {"answer.md", "summary.md", "summary.svg", "article_numbers.md", "parameters.md"}
    assert parts["summary.svg"].startswith(b"<?xml")
    assert parts == pages.generated_parts(results)


def test_the_first_page_says_what_was_changed(results: dict[str, dict[str, Any]]) -> None:
    assert "Changed parameters" not in pages.generated_parts(results)["summary.md"].decode()
    results["approach_2"]["changed_parameters"] = {"epochs": 10}
    summary = pages.generated_parts(results)["summary.md"].decode()
    assert "approach_2: <code>epochs</code> is 10 instead of 40" in summary
    assert "| [approach 2](approach_2.ipynb) |" in summary
