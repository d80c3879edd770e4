"""The generated parts of plain pages, from results made up by hand: no two of their numbers are alike."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import pytest
from pandas.api.types import is_float_dtype, is_integer_dtype

from smallcnn import study
from smallcnn.config import TrainingConfig, TrainingRun
from smallcnn.paths import PUBLISHED_RUNS, ROOT
from smallcnn.pruning import pruned_fractions
from smallcnn.report import figures, summary
from smallcnn.report.chapter import training_configs
from smallcnn.report.notebook import read_network
from smallcnn.report.results import pruning_counts
from smallcnn.report.tables import to_markdown
from smallcnn.runs.records import load_run
from smallcnn.study import CHAPTERS
from tests.report.reading import cells_of

NARROW = "\u202f"
WIDE = "\u00a0"
Results = dict[str, dict[str, Any]]


def runs(*accuracies: float, seeds: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "best_test_accuracy": accuracy, "other_half_accuracy": accuracy - 0.002}
        for seed, accuracy in zip(seeds or range(len(accuracies)), accuracies, strict=True)
    ]


def approach(total: int, trainable: int, multiply_adds: int, *accuracies: float) -> dict[str, Any]:
    counts = {"total_parameters": total, "trainable_parameters": trainable, "multiply_adds": multiply_adds}
    return counts | {"runs": runs(*accuracies)}


def pruned(remaining: int, *accuracies: float, seeds: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "prunable": 5220,
        "remaining": remaining,
        "pruned_fraction": (5220 - remaining) / 5220,
        "trainable_remaining": 5382 - 5220 + remaining,
        "best_test_accuracies": list(accuracies),
        "other_half_accuracies": [accuracy - 0.002 for accuracy in accuracies],
        "seeds": list(seeds or range(len(accuracies))),
    }


@pytest.fixture
def results() -> Results:
    """Results of all chapters."""
    return {
        "data": {},
        "approach_1": approach(8060, 7968, 912_345, 0.9923, 0.9925, 0.9927),
        "approach_2": approach(5490, 5382, 823_456, 0.9941),
        "approach_3": approach(3170, 3090, 234_567, 0.9901, 0.9899),
        "pruning": approach(5490, 5382, 823_457, 0.9941)
        | {
            "rounds": [
                {"round": 0, **pruned(5220, 0.9941)},
                {"round": 1, **pruned(4176, 0.9932)},
                {"round": 2, **pruned(2309, 0.9921, 0.9919)},
                {"round": 3, **pruned(959, 0.9876)},
            ],
            "gradual": pruned(960, 0.9812),
        },
        "comparison": {},
    }


@pytest.fixture
def with_approach_4(results: Results, monkeypatch: pytest.MonkeyPatch) -> Results:
    """The same results with those of a new approach, which the study has one record of."""
    article = study.Article(1234, 1200, accuracy="99.9 %")
    record = dataclasses.replace(
        CHAPTERS["approach_1"], name="approach_4", label="approach 4", colour="#123456", article=article
    )
    monkeypatch.setattr(study, "APPROACHES", (*study.APPROACHES, record))
    monkeypatch.setitem(CHAPTERS, "approach_4", record)
    return results | {"approach_4": approach(1233, 1199, 45_678, 0.9961, 0.9965)}


def plain(cells: list[str]) -> list[str]:
    return [cell.replace(NARROW, "").replace(WIDE, " ") for cell in cells]


ROWS = [
    ["approach 1", "7,968", "99.25 ± 0.02%", "99.23%", "99.05 ± 0.02%", "99.24%", "3", "8,060"],
    ["approach 2", "5,382", "99.41%", "99.41%", "99.21%", "99.47%", "1", "5,490"],
    ["approach 3", "3,090", "99.00 ± 0.01%", "98.99%", "98.80 ± 0.01%", "over 99%", "2", "3,170"],
    ["approach 2, pruned, round 1", "4,338", "99.32%", "99.32%", "99.12%", "above 99%", "1", "4,446"],
    ["approach 2, pruned, round 2", "2,471", "99.20 ± 0.01%", "99.19%", "99.00 ± 0.01%", "99.2%", "2", "2,579"],
    ["approach 2, pruned, round 3", "1,121", "98.76%", "98.76%", "98.56%", "–", "1", "1,229"],
    ["approach 2, pruned gradually", "1,122", "98.12%", "98.12%", "97.92%", "–", "1", "1,230"],
]
APPROACH_4 = ["approach 4", "1,199", "99.63 ± 0.03%", "99.61%", "99.43 ± 0.03%", "99.9 %", "2", "1,233"]


def rows_of_summary(results: Results) -> list[list[str]]:
    """The rows of the summary's table without their links, which must lead to the chapters."""
    header, *rows = cells_of(summary.summary_table(results))
    assert header == [
        "network", "trainable", "best test accuracy", "lowest seed", "epoch chosen by other images", "in the article",
        "seeds", "parameters",
    ]  # fmt: skip
    found = []
    for network, *cells in rows:
        link = re.fullmatch(r"\[(.*)\]\((\w+)\.ipynb\)", network)
        assert link is not None
        expected = "pruning" if "pruned" in link[1] else link[1].replace(" ", "_")
        assert link[2] == expected
        found.append([link[1], *plain(cells)])
    return found


def test_the_summary_has_every_network_with_its_numbers(results: Results) -> None:
    assert rows_of_summary(results) == ROWS


def test_a_new_approach_is_in_the_summary(with_approach_4: Results) -> None:
    assert rows_of_summary(with_approach_4) == [*ROWS[:3], APPROACH_4, *ROWS[3:]]


def test_a_variant_is_held_against_others_and_not_among_the_networks(results: Results) -> None:
    results["approach_3"]["variants"] = {"with dropout": runs(0.98, seeds=(1,))}
    labels = [network.label for network in summary.designs(results)]
    assert labels == ["approach 1", "approach 2", "approach 3", "approach 3 with dropout"]
    assert rows_of_summary(results) == ROWS


# The comparison


def test_the_comparison_has_every_network_with_its_arithmetic(results: Results) -> None:
    frame = summary.comparison(results)
    header, *rows = cells_of(to_markdown(frame))
    assert header[-1] == "multiply-adds an image"
    assert [row[0] for row in rows] == [row[0] for row in ROWS]
    assert [row[-1] for row in rows] == ["912,345", "823,456", "234,567", *["823,457"] * 4]
    assert frame.attrs["name"] == "comparison"
    numbers = frame.drop(columns=["network", "article"])
    assert all(is_float_dtype(numbers[name]) or is_integer_dtype(numbers[name]) for name in numbers)
    by_size = frame.sort_values("trainable")["network"].tolist()
    assert (by_size[0], by_size[-1]) == ("approach 2, pruned, round 3", "approach 1")
    assert frame["best_test_accuracy"][2] == pytest.approx(0.99)
    assert frame["best_test_accuracy_sd"][2] == pytest.approx(0.0002 / 2**0.5)


def test_the_points_of_the_figure_are_those_of_the_summary(results: Results) -> None:
    points = summary.summary_points(results)
    assert points == {
        "approach 1": (7968, [0.9923, 0.9925, 0.9927]),
        "approach 2": (5382, [0.9941]),
        "approach 3": (3090, [0.9901, 0.9899]),
        "pruned, round 1": (4338, [0.9932]),
        "pruned, round 2": (2471, [0.9921, 0.9919]),
        "pruned, round 3": (1121, [0.9876]),
        "pruned gradually": (1122, [0.9812]),
    }
    assert len(points) == len(ROWS)


def test_a_new_approach_is_a_point_of_the_figure_in_its_colour(with_approach_4: Results) -> None:
    assert summary.summary_points(with_approach_4)["approach 4"] == (1199, [0.9961, 0.9965])
    assert study.colour("approach 4") == "#123456"


def shown_pairs(results: Results) -> Iterator[tuple[str, str, list[int]]]:
    for one, other in summary.pairs(results):
        yield one.name, other.name, summary.common_seeds(one, other)


LAST = "approach 2, pruned, round 2"


def test_networks_are_held_against_each_other_by_the_seeds_that_both_have(results: Results) -> None:
    results["approach_3"]["variants"] = {"with dropout": runs(0.98, 0.97, seeds=(1, 7))}
    rounds = results["pruning"]["rounds"]
    results["pruning"]["rounds"] = [rounds[0], {"round": 2, **pruned(2309, 0.9921, 0.9919, seeds=(1, 0))}]
    assert list(shown_pairs(results)) == [
        ("approach 2", "approach 1", [0]),
        ("approach 3", "approach 1", [0, 1]),
        ("approach 3 with dropout", "approach 1", [1]),
        ("approach 3", "approach 2", [0]),
        (LAST, "approach 2", [0]),
        (LAST, "approach 3", [1, 0]),
        (LAST, "approach 3 with dropout", [1]),
    ]
    rows = {(what, against): row for what, against, *row in cells_of(to_markdown(summary.differences(results)))[1:]}
    assert plain(rows["approach 3", "approach 1"]) == ["2", "−0.24 ± 0.25", "undecided"]
    assert plain(rows[LAST, "approach 2"]) == ["1", "−0.22", "undecided"]  # seed 0 of each: 99.19 and 99.41
    assert plain(rows[LAST, "approach 3"]) == ["2", "+0.20 ± 0.25", "undecided"]
    assert plain(rows[LAST, "approach 3 with dropout"]) == ["1", "+1.21", "undecided"]


def test_a_difference_beyond_its_interval_is_named(results: Results) -> None:
    results["approach_2"]["runs"] = runs(0.9941, 0.9943, 0.9946)
    results["approach_3"]["runs"] = runs(0.98, 0.9802, 0.9801)
    frame = summary.differences(results)
    found = dict(zip(zip(frame["what"], frame["against"], strict=True), frame["accuracy_is"], strict=True))
    assert found["approach 2", "approach 1"] == "higher"
    assert found["approach 3", "approach 2"] == "lower"
    assert frame["points"][0] == pytest.approx((0.18 + 0.18 + 0.19) / 3)
    assert is_float_dtype(frame["points_half_width"]) and is_integer_dtype(frame["seeds"])
    assert frame.attrs["name"] == "differences"


def test_networks_without_common_seeds_are_not_held_against_each_other(results: Results) -> None:
    results["approach_1"]["runs"] = runs(0.9923, seeds=(9,))
    assert not any("approach 1" in pair for pair in shown_pairs(results))


def test_a_new_approach_is_held_against_the_others_and_the_last_round(with_approach_4: Results) -> None:
    found = list(shown_pairs(with_approach_4))
    for other, seeds in (("approach 1", [0, 1]), ("approach 2", [0]), ("approach 3", [0, 1])):
        assert ("approach 4", other, seeds) in found
    assert found[-1] == ("approach 2, pruned, round 3", "approach 4", [0])  # now the smallest
    assert len(found) == 6 + 3 + 1


def test_where_the_pruned_approach_is_the_smallest_it_stands_beside_itself_once(results: Results) -> None:
    results["approach_2"]["trainable_parameters"] = 3000
    found = list(shown_pairs(results))
    assert len(found) == len(set(map(str, found))) == 3 + 3


# In words


def test_the_meaning_names_smallest_largest_and_best(results: Results) -> None:
    assert plain([str(summary.meaning(results).data)]) == [
        "Of the 3 designs the smallest, approach 3, has 39% of the trainable parameters of the largest, approach 1. "
        "The most accurate on average is approach 2; it classifies 0.59% of the images wrongly, approach 3 1.00%."
    ]


def test_a_new_approach_changes_the_meaning(with_approach_4: Results) -> None:
    assert plain([str(summary.meaning(with_approach_4).data)]) == [
        "Of the 4 designs the smallest, approach 4, has 15% of the trainable parameters of the largest, approach 1. "
        "The most accurate on average is approach 4; it classifies 0.37% of the images wrongly."
    ]


def test_the_answer_follows_from_the_results(results: Results) -> None:
    assert plain([summary.answer(results)]) == [
        "**2,471 trainable parameters are enough here.** That is approach 2, pruned, round 2: 99.20 ± 0.01% of the "
        "test images, above 99% with each of 2 seeds. The most accurate is approach 2, with 5,382 and 99.41%. Where "
        "other images choose the epoch, not every seed stays above 99% for approach 2, pruned, round 2 (98.99%).\n"
    ]
    for chapter in ("approach_1", "approach_2", "approach_3"):
        results[chapter]["runs"] = runs(0.99)
    results["pruning"]["rounds"] = results["pruning"]["rounds"][:1]
    assert summary.answer(results) == f"**No network of these runs stays above 99{NARROW}% with every seed.**\n"


def test_one_seed_at_the_figure_is_not_above_it(results: Results) -> None:
    results["pruning"]["rounds"][2] = {"round": 2, **pruned(2309, 0.9921, 0.99)}
    assert summary.answer(results).startswith("**4,338 trainable parameters are enough here.**")


def test_a_new_approach_may_be_the_answer(with_approach_4: Results) -> None:
    text = plain([summary.answer(with_approach_4)])[0]
    assert text.startswith("**1,199 trainable parameters are enough here.** That is approach 4: 99.63 ± 0.03%")
    assert "The most accurate is" not in text  # it is that one


# Beside the article


def test_the_articles_numbers_stand_beside_ours(results: Results) -> None:
    rows = {row[0]: plain(row[1:]) for row in cells_of(summary.article_numbers(results))[1:]}
    assert rows["approach 1: total parameters"] == ["8,060", "8,060"]
    assert rows["approach 1: trainable parameters"] == ["7,968", "7,968"]
    assert rows["approach 3: best test accuracy"] == ["over 99%", "99.00 ± 0.01%"]
    assert rows["pruning: prunable kernel weights"] == ["5,220", "5,220"]
    assert rows["pruning, round 1: pruned in the round"] == ["1,044", "1,044"]
    assert rows["pruning, round 2: pruned in the round"] == ["1,867", "1,867"]
    assert rows["pruning, round 2: pruned in all"] == ["55.77%", "55.77%"]
    assert rows["pruning, round 2: surviving kernel weights"] == ["2,309", "2,309"]
    assert rows["pruning, round 2: trainable parameters left"] == ["2,471", "2,471"]
    assert rows["pruning, round 2: best test accuracy"] == ["99.2%", "99.20 ± 0.01%"]
    assert len(rows) == 3 * 3 + 1 + 2 * 5
    results["approach_1"]["total_parameters"] = 1
    assert "| approach 1: total parameters | 8,060 | 1 |" in summary.article_numbers(results)


def test_a_new_approach_has_its_numbers_beside_the_articles(
    with_approach_4: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {row[0]: plain(row[1:]) for row in cells_of(summary.article_numbers(with_approach_4))[1:]}
    assert rows["approach 4: total parameters"] == ["1,234", "1,233"]
    assert rows["approach 4: trainable parameters"] == ["1,200", "1,199"]
    assert rows["approach 4: best test accuracy"] == ["99.9 %", "99.63 ± 0.03%"]
    unknown = dataclasses.replace(study.APPROACHES[3], article=study.Article())
    monkeypatch.setattr(study, "APPROACHES", (*study.APPROACHES[:3], unknown))
    assert "approach 4" not in summary.article_numbers(with_approach_4)  # the article says nothing of it
    assert "| – |" in summary.summary_table(with_approach_4)


# Parts of pages


def test_the_parameter_reference_has_every_parameter_of_every_chapter() -> None:
    reference = summary.parameter_reference()
    sections = dict(zip(*[iter(re.split(r"### `(\w+)`\n", reference)[1:])] * 2, strict=True))
    assert list(sections) == [name for name, chapter in CHAPTERS.items() if chapter.published]
    for chapter, section in sections.items():
        assert cells_of(section)[1:] == [
            [f"`{name}`", f"`{known.type}`", f"`{value}`", known.unit, known.help]
            for name, value in CHAPTERS[chapter].published.items()
            for known in [study.PARAMETERS[name]]
        ]


@pytest.mark.usefixtures("with_approach_4")
def test_the_parameters_of_a_new_approach_are_in_the_reference() -> None:
    section = summary.parameter_reference().split("### `approach_4`")[1]
    assert "| `filters` | `list[int]` | `[32, 14]` |" in section


def test_generated_parts_are_the_same_each_time(results: Results) -> None:
    parts = summary.generated_parts(results)
    assert parts.keys() == {
        "answer.md", "summary.md", "summary.csv", "summary.svg", "summary_figure.md", "article_numbers.md",
        "parameters.md",
    }  # fmt: skip
    assert b"<svg" in parts["summary.svg"][:1000]
    assert parts == summary.generated_parts(results)
    offered = pd.read_csv(io.BytesIO(parts["summary.csv"]))
    pd.testing.assert_frame_equal(offered, summary.comparison(results), check_dtype=False)


def test_a_new_approach_is_in_every_generated_part(with_approach_4: Results) -> None:
    parts = summary.generated_parts(with_approach_4)
    assert b"#123456" in parts.pop("summary.svg")  # where text is drawn as curves
    for name, content in parts.items():
        assert re.search(rb"approach.4", content), name


def test_the_first_page_says_what_was_changed(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMALLCNN_PREVIEW", raising=False)
    assert "Changed parameters" not in summary.generated_parts(results)["summary.md"].decode()
    results["approach_2"]["changed_parameters"] = {"epochs": 10}
    found = summary.generated_parts(results)["summary.md"].decode()
    assert "approach_2: <code>epochs</code> is 10 instead of 40" in found
    assert "| [approach 2](approach_2.ipynb) |" in found


def test_the_first_page_says_which_networks_had_too_few_steps(results: Results) -> None:
    assert "Mind" not in summary.generated_parts(results)["summary.md"].decode()
    results["approach_2"]["cautions"] = ["only 16 training steps: …", "only 24 training steps: …"]
    results["pruning"]["cautions"] = ["only 16 training steps: …"]
    results["approach_3"]["cautions"] = []
    found = summary.generated_parts(results)["summary.md"].decode()
    assert re.findall(r"\*\*Mind:\*\* (\w+): only (\d+) training", found) == [
        ("approach_2", "16"),
        ("approach_2", "24"),
        ("pruning", "16"),
    ]


@pytest.mark.slow
def test_the_figure_of_the_readme_is_that_of_the_recorded_runs() -> None:
    def recorded(configs: Iterable[TrainingConfig]) -> list[TrainingRun]:
        return [load_run(PUBLISHED_RUNS / config.key) for config in configs]

    def configs_of(chapter: study.Chapter, **changes: Any) -> list[TrainingConfig]:
        values = dict(chapter.published) | changes
        network = read_network(chapter.name, values)
        assert network is not None
        return training_configs(network, values)

    pruning = study.PRUNING.published
    fractions = pruned_fractions(pruning["schedule"], pruning["pruning_fraction"], pruning["rounds"])
    by_round = list(zip(*(config.rounds(fractions) for config in configs_of(study.PRUNING)), strict=True))
    contrast = configs_of(study.PRUNING, seeds=pruning["gradual_seeds"], engine="tensorflow")
    networks = {approach.label: recorded(configs_of(approach)) for approach in study.APPROACHES}
    networks |= {study.round_label(number): recorded(by_round[number]) for number in range(1, len(by_round))}
    networks[study.GRADUAL] = recorded(
        config.pruned_gradually(fractions, pruning["gradual_epochs"]) for config in contrast
    )
    points = {}
    for label, trained in networks.items():
        counts = pruning_counts(trained[0])
        points[label] = counts["trainable_remaining"], [run.best_test_accuracy for run in trained]
    expected = figures.parameters_against_accuracy(points).to_svg()
    assert expected == (ROOT / "book" / "_static" / "summary.svg").read_bytes(), (
        "copy build/source/generated/summary.svg, as `make book` makes it, to book/_static/summary.svg"
    )
