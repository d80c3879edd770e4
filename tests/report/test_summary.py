"""The generated parts of plain pages, from results made up by hand: no two of their numbers are alike."""

from __future__ import annotations

import dataclasses
import io
import itertools
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
from smallcnn.runs.records import load_run
from smallcnn.study import CHAPTERS
from tests.report.reading import plain, table_of

Results = dict[str, dict[str, Any]]


def other_half(place: int, accuracy: float) -> float:
    """Where other images choose the epoch, less is found, and not the same for each seed."""
    return accuracy - 0.002 - 0.0006 * place


def runs(*accuracies: float, seeds: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    return [
        {
            "seed": seed,
            "best_test_accuracy": accuracy,
            "final_test_accuracy": accuracy - 0.01,
            "other_half_accuracy": other_half(place, accuracy),
        }
        for place, (seed, accuracy) in enumerate(zip(seeds or range(len(accuracies)), accuracies, strict=True))
    ]


def approach(total: int, trainable: int, multiply_adds: int, *accuracies: float) -> dict[str, Any]:
    counts = {"total_parameters": total, "trainable_parameters": trainable, "multiply_adds": multiply_adds}
    return counts | {"runs": runs(*accuracies)}


def pruned(remaining: int, *accuracies: float, seeds: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "prunable": 5221,
        "remaining": remaining,
        "pruned_fraction": (5221 - remaining) / 5221,
        "trainable_remaining": 163 + remaining,
        "best_test_accuracies": list(accuracies),
        "other_half_accuracies": list(itertools.starmap(other_half, enumerate(accuracies))),
        "seeds": list(seeds or range(len(accuracies))),
    }


@pytest.fixture
def results() -> Results:
    """Results of all chapters; no count is that of the article."""
    return {
        "data": {},
        "approach_1": approach(8061, 7969, 912_345, 0.9923, 0.9925, 0.9927),
        "approach_2": approach(5492, 5384, 823_456, 0.9941),
        "approach_3": approach(3171, 3091, 234_567, 0.9901, 0.9899),
        "pruning": approach(5493, 5385, 823_457, 0.9941)
        | {
            "rounds": [
                {"round": 0, **pruned(5221, 0.9941)},
                {"round": 1, **pruned(4170, 0.9932)},
                {"round": 2, **pruned(2300, 0.9921, 0.9919)},
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


HEADINGS = (
    "trainable", "best test accuracy", "lowest seed", "epoch chosen by other images", "in the article", "seeds",
    "parameters",
)  # fmt: skip


def summary_row(*cells: str) -> dict[str, str]:
    return dict(zip(HEADINGS, cells, strict=True))


ROWS = {
    "approach 1": summary_row("7,969", "99.25 ± 0.02 %", "99.23 %", "98.99 ± 0.04 %", "99.24 %", "3", "8,061"),
    "approach 2": summary_row("5,384", "99.41 %", "99.41 %", "99.21 %", "99.47 %", "1", "5,492"),
    "approach 3": summary_row("3,091", "99.00 ± 0.01 %", "98.99 %", "98.77 ± 0.06 %", "over 99 %", "2", "3,171"),
    "approach 2, pruned, round 1": summary_row("4,333", "99.32 %", "99.32 %", "99.12 %", "above 99 %", "1", "4,442"),
    "approach 2, pruned, round 2": summary_row(
        "2,463", "99.20 ± 0.01 %", "99.19 %", "98.97 ± 0.06 %", "99.2 %", "2", "2,572"
    ),
    "approach 2, pruned, round 3": summary_row("1,122", "98.76 %", "98.76 %", "98.56 %", "–", "1", "1,231"),
    "approach 2, pruned gradually": summary_row("1,123", "98.12 %", "98.12 %", "97.92 %", "–", "1", "1,232"),
}
APPROACH_4 = summary_row("1,199", "99.63 ± 0.03 %", "99.61 %", "99.40 ± 0.01 %", "99.9 %", "2", "1,233")


def rows_of_summary(results: Results) -> dict[str, dict[str, str]]:
    """The rows of the summary's table by network, of which each must lead to its chapter."""
    found = {}
    for network, row in table_of(summary.summary_table(results)).items():
        link = re.fullmatch(r"\[(.*)\]\((\w+)\.ipynb\)", network)
        assert link is not None
        expected = "pruning" if "pruned" in link[1] else link[1].replace(" ", "_")
        assert link[2] == expected
        found[link[1]] = row
    return found


def test_the_summary_has_every_network_with_its_numbers(results: Results) -> None:
    found = rows_of_summary(results)
    assert found == ROWS
    assert list(found) == list(ROWS)
    assert summary.summary_table(results).startswith("| network | trainable |")


def test_a_new_approach_is_in_the_summary(with_approach_4: Results) -> None:
    found = rows_of_summary(with_approach_4)
    assert found == ROWS | {"approach 4": APPROACH_4}
    assert list(found)[2:5] == ["approach 3", "approach 4", "approach 2, pruned, round 1"]


def test_a_variant_is_held_against_others_and_not_among_the_networks(results: Results) -> None:
    results["approach_3"]["variants"] = {"with dropout": runs(0.98, seeds=(1,))}
    labels = [network.label for network in summary.designs(results)]
    assert labels == ["approach 1", "approach 2", "approach 3", "approach 3 with dropout"]
    name = "approach 3 with dropout"
    assert summary.designs(results)[-1] == summary.Network(
        name, name, "approach_3", 3171, 3091, 234_567, {1: 0.98}, {1: 0.978}, is_listed=False
    )
    assert rows_of_summary(results) == ROWS


# The comparison


def test_the_comparison_has_every_network_with_its_arithmetic(results: Results) -> None:
    frame = summary.comparison(results)
    arithmetic = ["912,345", "823,456", "234,567", *["823,457"] * 4]
    assert table_of(frame) == {
        network: row | {"multiply-adds an image": multiply_adds}
        for (network, row), multiply_adds in zip(ROWS.items(), arithmetic, strict=True)
    }
    assert frame.attrs["name"] == "comparison"
    numbers = frame.drop(columns=["network", "article"])
    assert all(is_float_dtype(numbers[name]) or is_integer_dtype(numbers[name]) for name in numbers)
    by_size = frame.sort_values("trainable")["network"].tolist()
    assert (by_size[0], by_size[-1]) == ("approach 2, pruned, round 3", "approach 1")
    assert frame["best_test_accuracy"][2] == pytest.approx(0.99)
    assert frame["best_test_accuracy_sd"][2] == pytest.approx(0.0002 / 2**0.5)
    assert frame["other_half_accuracy_sd"][2] == pytest.approx(0.0008 / 2**0.5)


def test_a_pruned_network_has_the_counts_of_what_is_left(results: Results) -> None:
    _, second, _, gradual = summary.pruned_networks(results)
    assert second == summary.Network(
        "pruned, round 2", "approach 2, pruned, round 2", "pruning", 2572, 2463, 823_457, {0: 0.9921, 1: 0.9919},
        {0: other_half(0, 0.9921), 1: other_half(1, 0.9919)}, study.ARTICLE_ROUNDS[2],
    )  # fmt: skip
    assert (gradual.label, gradual.name) == ("pruned gradually", "approach 2, pruned gradually")
    assert gradual.article == study.Article()


def test_the_points_of_the_figure_are_those_of_the_summary(results: Results) -> None:
    points = summary.summary_points(results)
    assert points == {
        "approach 1": (7969, [0.9923, 0.9925, 0.9927]),
        "approach 2": (5384, [0.9941]),
        "approach 3": (3091, [0.9901, 0.9899]),
        "pruned, round 1": (4333, [0.9932]),
        "pruned, round 2": (2463, [0.9921, 0.9919]),
        "pruned, round 3": (1122, [0.9876]),
        "pruned gradually": (1123, [0.9812]),
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
    results["pruning"]["rounds"] = [rounds[0], {"round": 2, **pruned(2300, 0.9921, 0.9919, seeds=(1, 0))}]
    assert list(shown_pairs(results)) == [
        ("approach 2", "approach 1", [0]),
        ("approach 3", "approach 1", [0, 1]),
        ("approach 3 with dropout", "approach 1", [1]),
        ("approach 3", "approach 2", [0]),
        (LAST, "approach 2", [0]),
        (LAST, "approach 3", [1, 0]),
        (LAST, "approach 3 with dropout", [1]),
    ]
    rows = table_of(summary.differences(results), labels=2)
    headings = ("seeds", "points, 95 % interval", "accuracy is")
    for pair, cells in {
        "approach 3, approach 1": ("2", "−0.24 ± 0.25", "undecided"),
        f"{LAST}, approach 2": ("1", "−0.22", "undecided"),  # seed 0 of each: 99.19 and 99.41
        f"{LAST}, approach 3": ("2", "+0.20 ± 0.25", "undecided"),
        f"{LAST}, approach 3 with dropout": ("1", "+1.21", "undecided"),
    }.items():
        assert rows[pair] == dict(zip(headings, cells, strict=True))


def test_variants_are_not_held_against_each_other_nor_against_their_own_design(results: Results) -> None:
    for chapter in ("approach_1", "approach_3"):
        results[chapter]["variants"] = {"with dropout": runs(0.98)}
    with_variants = [pair[:2] for pair in shown_pairs(results) if any("dropout" in name for name in pair[:2])]
    assert with_variants == [
        ("approach 3 with dropout", "approach 1"),
        ("approach 2", "approach 1 with dropout"),
        ("approach 3", "approach 1 with dropout"),
        ("approach 3 with dropout", "approach 2"),
        ("approach 2, pruned, round 3", "approach 3 with dropout"),
    ]


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
    assert plain(str(summary.meaning(results).data)) == (
        "Of the 3 designs the smallest, approach 3, has 39 % of the trainable parameters of the largest, approach 1. "
        "The most accurate on average is approach 2; it classifies 0.59 % of the images wrongly, approach 3 1.00 %."
    )
    results["approach_3"]["variants"] = {"with dropout": runs(0.9999)}  # which is none of the designs
    results["approach_1"]["runs"] = runs(0.9999, 0.98)  # the best seed, but not the best on average
    assert plain(str(summary.meaning(results).data)).startswith("Of the 3 designs the smallest, approach 3, has 39 %")
    assert "The most accurate on average is approach 2; it" in str(summary.meaning(results).data)


def test_a_new_approach_changes_the_meaning(with_approach_4: Results) -> None:
    assert plain(str(summary.meaning(with_approach_4).data)) == (
        "Of the 4 designs the smallest, approach 4, has 15 % of the trainable parameters of the largest, approach 1. "
        "The most accurate on average is approach 4; it classifies 0.37 % of the images wrongly."
    )


def test_the_answer_follows_from_the_results(results: Results) -> None:
    assert plain(summary.answer(results)) == (
        "**2,463 trainable parameters are enough here.** That is approach 2, pruned, round 2: 99.20 ± 0.01 % of the "
        "test images, above 99 % with each of 2 seeds. The most accurate is approach 2, with 5,384 and 99.41 %. Where "
        "other images choose the epoch, not every seed stays above 99 % for approach 1 (98.95 %) and approach 2, "
        "pruned, round 2 (98.93 %).\n"
    )
    for chapter in ("approach_1", "approach_2", "approach_3"):
        results[chapter]["runs"] = runs(0.99)
    results["pruning"]["rounds"] = results["pruning"]["rounds"][:1]
    assert plain(summary.answer(results)) == "**No network of these runs stays above 99 % with every seed.**\n"


def test_only_networks_that_stay_above_the_figure_are_an_answer(results: Results) -> None:
    results["pruning"]["rounds"][2] = {"round": 2, **pruned(2300, 0.9921, 0.99)}  # at the figure is not above it
    results["approach_1"]["runs"] = runs(0.9999, 0.9895)  # the most accurate on average
    answer = plain(summary.answer(results))
    assert answer.startswith("**4,333 trainable parameters are enough here.** That is approach 2, pruned, round 1")
    assert "The most accurate is approach 2, with 5,384" in answer


def test_a_network_is_doubtful_if_a_seed_is_at_the_figure_where_other_images_choose(results: Results) -> None:
    results["approach_1"]["runs"] = runs(0.992)
    for other, doubtful in ((0.99, True), (0.9901, False)):
        results["approach_1"]["runs"][0]["other_half_accuracy"] = other
        assert ("for approach 1 (99.00 %) and approach 2" in plain(summary.answer(results))) is doubtful


def test_a_new_approach_may_be_the_answer(with_approach_4: Results) -> None:
    text = plain(summary.answer(with_approach_4))
    assert text.startswith("**1,199 trainable parameters are enough here.** That is approach 4: 99.63 ± 0.03 %")
    assert "The most accurate is" not in text  # it is that one


# Beside the article


def test_the_articles_numbers_stand_beside_ours(results: Results) -> None:
    assert summary.article_numbers(results).startswith("| number | the article | here |\n| :-- | --: | --: |\n")
    assert table_of(summary.article_numbers(results)) == {
        name: {"the article": article, "here": here}
        for name, article, here in (
            ("approach 1: total parameters", "8,060", "8,061"),
            ("approach 1: trainable parameters", "7,968", "7,969"),
            ("approach 1: best test accuracy", "99.24 %", "99.25 ± 0.02 %"),
            ("approach 2: total parameters", "5,490", "5,492"),
            ("approach 2: trainable parameters", "5,382", "5,384"),
            ("approach 2: best test accuracy", "99.47 %", "99.41 %"),
            ("approach 3: total parameters", "3,170", "3,171"),
            ("approach 3: trainable parameters", "3,090", "3,091"),
            ("approach 3: best test accuracy", "over 99 %", "99.00 ± 0.01 %"),
            ("pruning: prunable kernel weights", "5,220", "5,221"),
            ("pruning, round 1: pruned in the round", "1,044", "1,051"),
            ("pruning, round 1: pruned in all", "20 %", "20.13 %"),
            ("pruning, round 1: surviving kernel weights", "4,176", "4,170"),
            ("pruning, round 1: trainable parameters left", "4,338", "4,333"),
            ("pruning, round 1: best test accuracy", "above 99 %", "99.32 %"),
            ("pruning, round 2: pruned in the round", "1,867", "1,870"),
            ("pruning, round 2: pruned in all", "55.77 %", "55.95 %"),
            ("pruning, round 2: surviving kernel weights", "2,309", "2,300"),
            ("pruning, round 2: trainable parameters left", "2,471", "2,463"),
            ("pruning, round 2: best test accuracy", "99.2 %", "99.20 ± 0.01 %"),
        )
    }


def test_a_new_approach_has_its_numbers_beside_the_articles(
    with_approach_4: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table_of(summary.article_numbers(with_approach_4))
    assert rows["approach 4: total parameters"] == {"the article": "1,234", "here": "1,233"}
    assert rows["approach 4: trainable parameters"] == {"the article": "1,200", "here": "1,199"}
    assert rows["approach 4: best test accuracy"] == {"the article": "99.9 %", "here": "99.63 ± 0.03 %"}
    unknown = dataclasses.replace(study.APPROACHES[3], article=study.Article())
    monkeypatch.setattr(study, "APPROACHES", (*study.APPROACHES[:3], unknown))
    assert "approach 4" not in summary.article_numbers(with_approach_4)  # the article says nothing of it
    assert rows_of_summary(with_approach_4)["approach 4"]["in the article"] == "–"


# Parts of pages


def test_the_parameter_reference_has_every_parameter_of_every_chapter() -> None:
    reference = summary.parameter_reference()
    sections = dict(zip(*[iter(re.split(r"### `(\w+)`\n", reference)[1:])] * 2, strict=True))
    assert list(sections) == [name for name, chapter in CHAPTERS.items() if chapter.published]
    for chapter, section in sections.items():
        assert table_of(section) == {
            f"`{name}`": {
                "type": f"`{known.type}`", "published": f"`{value}`", "unit": known.unit, "what it does": known.help
            }
            for name, value in CHAPTERS[chapter].published.items()
            for known in [study.PARAMETERS[name]]
        }  # fmt: skip
        assert section.splitlines()[1].startswith("| parameter | type |")
        assert section.splitlines()[2] == "| :-- | :-- | :-- | :-- | :-- |"


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
    picture = figures.parameters_against_accuracy(summary.summary_points(results))
    assert parts["summary.svg"] == picture.to_svg()
    assert parts["summary_figure.md"].decode() == (
        f"```{{figure}} /generated/summary.svg\n:name: fig-summary\n:alt: {picture.alt}\n\n{picture.caption}\n```\n"
    )
    assert parts["answer.md"].decode() == summary.answer(results)
    assert parts["summary.md"].decode() == summary.summary_table(results)
    assert parts["article_numbers.md"].decode() == summary.article_numbers(results)
    assert parts["parameters.md"].decode() == summary.parameter_reference()
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
    results["approach_2"]["cautions"] = ["only 16 training steps: …", "only 24 training steps: …"] * 2
    results["pruning"]["cautions"] = ["only 16 training steps: …"]
    results["approach_3"]["cautions"] = []
    found = summary.generated_parts(results)["summary.md"].decode()
    assert re.findall(r"\*\*Mind:\*\* (\w+): only (\d+) training", found) == [
        ("approach_2", "16"),
        ("approach_2", "24"),
        ("pruning", "16"),
    ]
    first, *_, table = found.split("\n\n")
    assert (first, table) == ("**Mind:** approach_2: only 16 training steps: ….", summary.summary_table(results))


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
