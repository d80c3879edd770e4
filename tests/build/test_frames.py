"""The gate that reads the tables of runs and rounds on a page, and compares each number with the results."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from bs4 import BeautifulSoup

from smallcnn.build.gates import _frame_problems
from smallcnn.config import TrainingRun
from smallcnn.report import results
from smallcnn.report.chapter import round_summary, run_summary
from smallcnn.report.tables import to_html
from tests.report.made_up import made_up_run

RUNS = [made_up_run([0.5, 0.9 + seed / 50, 0.7], seed) for seed in range(3)]
ROUNDS = [
    [
        made_up_run([0.5, 0.99 - number / 50 - seed / 300, 0.7], seed, pruned_fractions=(0.2,) * number)
        for seed in (0, 1)
    ]
    for number in range(3)
]
GRADUAL = [
    made_up_run([0.4, 0.77 + seed / 90], seed, engine="tensorflow", gradual_sparsity=0.5, gradual_epochs=1)
    for seed in (0, 1)
]

Result = dict[str, Any]


def plain(value: object) -> Any:
    return json.loads(json.dumps(value))


def problems(frame: Any, result: Result) -> list[str]:
    return list(_frame_problems(BeautifulSoup(to_html(frame), "html.parser"), result))


def of_runs(trained: list[TrainingRun]) -> Result:
    return plain({"runs": list(map(run_summary, trained))})


def of_rounds() -> Result:
    rounds = [{"round": number, **round_summary(trained)} for number, trained in enumerate(ROUNDS)]
    return plain({"runs": [], "rounds": rounds, "gradual": round_summary(GRADUAL)})


def test_tables_that_say_what_the_results_say_are_right() -> None:
    assert problems(results.runs(RUNS), of_runs(RUNS)) == []
    assert problems(results.rounds(ROUNDS, GRADUAL), of_rounds()) == []
    without = of_rounds() | {"gradual": None}
    assert problems(results.rounds(ROUNDS, []), without) == []
    single = [trained[:1] for trained in ROUNDS]
    rounds = [{"round": number, **round_summary(trained)} for number, trained in enumerate(single)]
    assert problems(results.rounds(single, []), plain({"rounds": rounds, "gradual": None})) == []


@pytest.mark.parametrize(
    "column", ["best_test_accuracy", "final_test_accuracy", "other_half_accuracy", "epochs_run", "seed"]
)
def test_another_number_of_a_run_is_found_shown_and_to_download(column: str) -> None:
    result = of_runs(RUNS)
    result["runs"][1][column] += 1 if column in ("seed", "epochs_run") else 0.0002
    found = problems(results.runs(RUNS), result)
    assert len(found) == 2
    assert f"as {column} to download; expected" in found[0]
    assert f"as {column}; the results say" in found[1]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (lambda row: row.update(remaining=row["remaining"] + 1), "remaining"),
        (lambda row: row.update(trainable_remaining=7), "trainable"),
        (lambda row: row.update(pruned_fraction=row["pruned_fraction"] + 0.001), "pruned_fraction"),
        (
            lambda row: row["best_test_accuracies"].reverse() or row["best_test_accuracies"].append(0.9),
            "best_test_accuracy",
        ),
        (lambda row: row["other_half_accuracies"].append(0.9), "other_half_accuracy"),
        (lambda row: row["seeds"].append(2), "seeds"),
    ],
)
@pytest.mark.parametrize("number", [0, 2, -1])
def test_another_number_of_a_round_is_found(number: int, change: Callable[[Result], object], column: str) -> None:
    result = of_rounds()
    change(result["gradual"] if number < 0 else result["rounds"][number])
    found = problems(results.rounds(ROUNDS, GRADUAL), result)
    assert any(f"as {column} to download" in problem for problem in found)
    assert any(f"as {column}; the results say" in problem for problem in found)


def test_swapped_columns_of_a_page_are_found() -> None:
    frame = results.runs(RUNS)
    swapped = copy.copy(frame)
    swapped["best_test_accuracy"], swapped["final_test_accuracy"] = (
        frame["final_test_accuracy"],
        frame["best_test_accuracy"],
    )
    assert len(problems(swapped, of_runs(RUNS))) == 4 * len(RUNS)


def test_a_lost_row_is_found() -> None:
    (found,) = problems(results.runs(RUNS[:2]), of_runs(RUNS))
    assert found == "its table runs has 2 rows, and 2 to download; expected 3"
