"""Tables: numbers come out as they were given, and every row has as many cells as the header."""

from __future__ import annotations

import math
from base64 import b64encode

import numpy as np
import pandas as pd
import pytest

from smallcnn.report import tables
from tests.report.reading import cells_of, html_cells, offered_csv, table_of

NARROW = "\u202f"
WIDE = "\u00a0"


@pytest.fixture
def frame() -> pd.DataFrame:
    """Every kind of column; no two values are alike."""
    found = pd.DataFrame(
        {
            "network": ["approach 1", "<b>four</b> & `filters` of **all** | more"],
            "trainable": [7968, 12],
            "best_test_accuracy": [0.99253, 0.9941],
            "best_test_accuracy_sd": [0.00021, math.nan],
            "interval_low": [0.9871, 0.6857],
            "interval_high": [0.9935, 0.8049],
            "points": [0.224, -0.31],
            "points_half_width": [0.07, math.inf],
            "before": [1440, 36],
            "before_share": [0.5, 1.0],
            "best_epoch": pd.array([31, None], dtype="Int64"),
            "pruned_fraction": [math.nan, 0.2],
            "learning_rate": [0.003, 12345.678],
            "is_listed": [True, False],
        }
    )
    found.attrs |= {"name": "my runs", "caption": "Two <networks>, **beside** each other"}
    return found


TITLES = [
    "network", "trainable", "best test accuracy", "95 % interval", "points, 95 % interval", "before", "at epoch",
    "pruned fraction", "learning rate", "is listed",
]  # fmt: skip
FIRST = [
    "approach 1", "7,968", f"99.25{WIDE}±{WIDE}0.02{NARROW}%", f"98.71 to 99.35{NARROW}%", f"+0.22{WIDE}±{WIDE}0.07",
    f"1,440 (50{NARROW}%)", "31", "–", "0.003", "True",
]  # fmt: skip
SECOND = [
    "<b>four</b> & filters of all | more", "12", f"99.41{NARROW}%", f"68.57 to 80.49{NARROW}%", "−0.31",
    f"36 (100{NARROW}%)", "–", f"20.00{NARROW}%", "1.235e+04", "False",
]  # fmt: skip


def test_a_table_has_its_cells_in_their_places() -> None:
    assert tables.table(("network", "parameters"), [("a", 1), ("b", "2,000")]) == (
        "| network | parameters |\n| :-- | --: |\n| a | 1 |\n| b | 2,000 |\n"
    )
    assert tables.table(("a", "b", "c"), [], left=2) == "| a | b | c |\n| :-- | :-- | --: |\n"


def test_accuracies_are_shown_in_per_cent() -> None:
    assert tables.percent(0.9924) == f"99.24{NARROW}%"
    assert tables.percent(1, digits=0) == f"100{NARROW}%"
    assert tables.percent(float("nan")) == "–"
    assert tables.spread([0.98, 0.99, 1.0]) == f"99.00{WIDE}±{WIDE}1.00{NARROW}%"
    assert tables.spread([0.9924]) == f"99.24{NARROW}%"


def test_a_difference_is_shown_with_its_interval_and_a_verdict() -> None:
    high, low, near = [0.994, 0.995, 0.993], [0.992, 0.9925, 0.991], [0.9935, 0.9952, 0.9931]
    compared = [("a", "b", high, low), ("b", "a", low, high), ("a", "c", high, near), ("a", "d", high[:1], low[:1])]
    (header, *rows) = cells_of(tables.difference_table(compared))
    assert header == ["what", "against", "seeds", "points, 95 % interval", "accuracy is"]
    assert [row[:2] for row in rows] == [["a", "b"], ["b", "a"], ["a", "c"], ["a", "d"]]
    assert [row[4] for row in rows] == ["higher", "lower", "undecided", "undecided"]
    assert [row[2] for row in rows] == ["3", "3", "3", "1"]
    assert [row[3] for row in rows[:2]] == [f"+0.22{WIDE}±{WIDE}0.07", f"−0.22{WIDE}±{WIDE}0.07"]
    assert rows[2][3] == tables.difference(high, near) == f"+0.01{WIDE}±{WIDE}0.09"
    assert rows[3][3] == "+0.20"


def test_a_difference_is_a_hundred_times_as_much_in_points() -> None:
    assert tables.difference([0.95, 0.75], [0.1, 0.1]) == f"+75.00{WIDE}±{WIDE}127.06"
    compared = [("a", "b", [0.95, 0.75], [0.1, 0.1]), ("c", "d", [0.1, 0.1, 0.2], [0.7, 0.6, 0.5])]
    frame = tables.differences(compared)
    assert list(frame["points"]) == pytest.approx([75, -140 / 3])
    half_widths = [12.7062 * 10, 4.3027 * 100 * np.std([0.6, 0.5, 0.3], ddof=1) / 3**0.5]
    assert list(frame["points_half_width"]) == pytest.approx(half_widths, rel=1e-4)
    assert table_of(tables.difference_table(compared), labels=2) == {
        "a, b": {"seeds": "2", "points, 95 % interval": "+75.00 ± 127.06", "accuracy is": "undecided"},
        "c, d": {"seeds": "3", "points, 95 % interval": "−46.67 ± 37.95", "accuracy is": "lower"},
    }
    assert frame.attrs["name"] == "differences"


# Data frames


def test_every_column_of_the_book_has_its_heading() -> None:
    frame = pd.DataFrame(
        {
            "network": ["a"],
            "best_test_accuracy": [0.991],
            "best_test_accuracy_sd": [0.0012],
            "interval_low": [0.951],
            "interval_high": [0.998],
            "best_epoch": [2],
            "final_test_accuracy": [0.972],
            "other_half_accuracy": [0.983],
            "other_half_accuracy_sd": [0.0034],
            "lowest_accuracy": [0.964],
            "epochs_run": [7],
            "total": [8060],
            "trainable": [7968],
            "multiply_adds": [912_345],
            "article": ["99.24 %"],
            "trained": ["2026-01-02"],
            "points": [1.25],
            "points_half_width": [0.5],
            "after": [36],
            "after_share": [0.25],
            "schedule_fraction": [0.2],
            "some_share": [0.3],
        }
    )
    assert table_of(frame)["a"] == {
        "best test accuracy": "99.10 ± 0.12 %",
        "95 % interval": "95.10 to 99.80 %",
        "at epoch": "2",
        "after the last epoch": "97.20 %",
        "epoch chosen by other images": "98.30 ± 0.34 %",
        "lowest seed": "96.40 %",
        "epochs": "7",
        "parameters": "8,060",
        "trainable": "7,968",
        "multiply-adds an image": "912,345",
        "in the article": "99.24 %",
        "trained on": "2026-01-02",
        "points, 95 % interval": "+1.25 ± 0.50",
        "after": "36 (25 %)",
        "schedule fraction": "20.00 %",
        "some share": "30.00 %",
    }
    lone = pd.DataFrame({"a": ["b"], "interval_low": [0.12], "other_high": [0.34], "interval_high_sd": [0.5]})
    assert table_of(lone)["b"] == {"interval low": "12.00 %", "other high": "0.34", "interval high sd": "0.5"}
    assert table_of(lone.rename(columns={"interval_high_sd": "x_interval_high"}))["b"]["x interval high"] == "50.00 %"


def test_a_frame_as_html_is_written_as_the_style_sheet_expects() -> None:
    frame = pd.DataFrame({"a `b`": ['"x" < y'], "n": [1.5]})
    frame.attrs |= {"name": "mine", "caption": 'what "it" is'}
    csv = b64encode(b'a b,n\n"""x"" < y",1.5\n').decode()
    assert tables.to_html(frame.rename(columns={"a `b`": "a b"})) == (
        '<div class="results"><table><caption>what "it" is</caption><thead><tr><th scope="col" class="text">a b</th>'
        '<th scope="col" class="number">n</th></tr></thead><tbody><tr><td class="text">"x" &lt; y</td>'
        '<td class="number">1.5</td></tr></tbody></table><p class="download"><a download="mine.csv" '
        f'href="data:text/csv;base64,{csv}">mine.csv</a></p></div>'
    )
    assert '<th scope="col" class="text">a <code>b</code></th>' in tables.to_html(frame)


def test_a_frame_as_markdown_has_every_value_in_its_place(frame: pd.DataFrame) -> None:
    header, first, second = cells_of(tables.to_markdown(frame))
    assert header == TITLES
    assert first == FIRST
    assert [cell.replace("`", "").replace("**", "") for cell in second] == SECOND
    assert tables.to_markdown(frame).splitlines()[1] == "| :-- |" + " --: |" * 9


def test_a_frame_as_html_has_every_value_in_its_place(frame: pd.DataFrame) -> None:
    rows = html_cells(tables.to_html(frame))
    assert [[cell.text for cell in row] for row in rows] == [TITLES, FIRST, SECOND]
    assert [cell["class"] for row in rows for cell in row] == [["text"], *[["number"]] * 9] * 3
    assert {cell["scope"] for cell in rows[0]} == {"col"}


def test_html_is_escaped_and_code_and_bold_are_as_in_markdown(frame: pd.DataFrame) -> None:
    html = tables.to_html(frame)
    assert "&lt;b&gt;four&lt;/b&gt; &amp; <code>filters</code> of <strong>all</strong> | more" in html
    assert "<caption>Two &lt;networks&gt;, <strong>beside</strong> each other</caption>" in html
    frame.attrs = {"name": 'a"><script>'}
    html = tables.to_html(frame)
    assert "<script>" not in html
    assert "<caption>" not in html
    assert offered_csv(html)[0] == 'a"><script>.csv'


def test_a_frame_is_offered_as_csv_with_all_its_digits(frame: pd.DataFrame) -> None:
    name, offered = offered_csv(tables.to_html(frame))
    assert name == "my runs.csv"
    assert list(offered.columns) == list(frame.columns)
    for column in frame:
        assert offered[column].isna().tolist() == frame[column].isna().tolist()
        plain = frame[column].replace(r"[`*]", "", regex=True)  # marks are for the eye
        assert offered[column].dropna().tolist() == plain.dropna().tolist(), column
    assert offered_csv(tables.to_html(pd.DataFrame({"a": [1]})))[0] == "table.csv"


def test_text_before_numbers_is_left_and_numbers_are_right() -> None:
    frame = pd.DataFrame({"a": ["x"], "b": ["y"], "c": [1.5]})
    assert tables.to_markdown(frame).splitlines()[1] == "| :-- | :-- | --: |"
    assert tables.to_markdown(frame[["a", "b"]]).splitlines()[1] == "| :-- | :-- |"


@pytest.mark.parametrize(
    ("frame", "cells"),
    [
        (pd.DataFrame(np.eye(2)), [["0", "1"], ["1", "0"], ["0", "1"]]),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), [["a", "a"], ["1", "2"]]),
        (pd.DataFrame({"price_low": [3], "n_share": [0.5]}), [["price low", "n share"], ["3", f"50.00{NARROW}%"]]),
        (pd.DataFrame({"list": [[1, 2], []]}), [["list"], ["[1, 2]"], ["[]"]]),
        (pd.DataFrame({"x": [1, 2]}).agg(["min", "max"]), [["index", "x"], ["min", "1"], ["max", "2"]]),
        (
            pd.DataFrame({"seed": [4, 4, 7], "loss": [1, 2, 5]}).groupby("seed").mean(),
            [["seed", "loss"], ["4", "1.5"], ["7", "5"]],
        ),
        (
            pd.DataFrame({"seed": [4], "x": ["y"]}).set_index("seed", drop=False),
            [["seed", "seed", "x"], ["4", "4", "y"]],
        ),
        (pd.DataFrame({"seed": [4, 7, 9]})[1:], [["seed"], ["7"], ["9"]]),
        (pd.DataFrame({"run_accuracy": ["high", None]}), [["run accuracy"], ["high"], ["–"]]),
        (pd.DataFrame({"at": [pd.Timestamp("2026-01-02"), pd.NaT]}), [["at"], ["2026-01-02 00:00:00"], ["–"]]),
        (pd.DataFrame({"n": pd.array([2, None], "Int64"), "n_sd": [None, 1.0]}), [["n"], [f"200.00{NARROW}%"], ["–"]]),
        (pd.DataFrame({"a": []}), [["a"]]),
    ],
)
def test_any_frame_of_a_reader_is_shown(frame: pd.DataFrame, cells: list[list[str]]) -> None:
    assert cells_of(tables.to_markdown(frame)) == cells
    html = tables.to_html(frame)
    assert [[cell.text for cell in row] for row in html_cells(html)] == cells
    assert len(offered_csv(html)[1]) == len(frame)


def test_frames_without_columns_are_shown_too() -> None:
    assert html_cells(tables.to_html(pd.DataFrame())) == [[]]
