"""What a sweep's frame, table and caution say of runs in which no two values are alike; nothing is trained."""

from __future__ import annotations

import pytest

from smallcnn.config import TrainingRun
from smallcnn.report import sweeps
from tests.report.made_up import made_up_run
from tests.report.reading import table_of

AXES = ["filters", "batch_size"]
RUNS = [
    (("4-8-10", 100), made_up_run([0.5, 0.97, 0.9, 0.8], 3, images=1000, seconds=12.34)),
    (("4-8-10", 100), made_up_run([0.5, 0.6, 0.98, 0.91, 0.81], 5, images=1000, seconds=23.45)),
    (("none", 125), made_up_run([0.5, 0.95, 0.82], 3, images=1000, seconds=34.56, engine="tensorflow")),
]


def test_the_frame_has_every_value_of_a_run_in_its_column() -> None:
    frame = sweeps.sweep_frame(AXES, RUNS)
    assert list(frame.columns) == [
        *AXES, "seed", "best_test_accuracy", "final_test_accuracy", "epochs_run", "seconds", "key"
    ]  # fmt: skip
    assert frame.to_dict("list") == {
        "filters": ["4-8-10", "4-8-10", "none"],
        "batch_size": [100, 100, 125],
        "seed": [3, 5, 3],
        "best_test_accuracy": [0.97, 0.98, 0.95],
        "final_test_accuracy": [0.8, 0.81, 0.82],
        "epochs_run": [4, 5, 3],
        "seconds": [12.3, 23.4, 34.6],
        "key": [run.config.key for _, run in RUNS],
    }
    assert sweeps.frame_axes(frame) == AXES
    assert sweeps.accuracies_by_point(frame) == {("4-8-10", "100"): [0.97, 0.98], ("none", "125"): [0.95]}


def test_the_table_has_every_value_of_a_point_under_its_heading() -> None:
    text = sweeps.sweep_table(sweeps.sweep_frame(AXES, RUNS), "few steps")
    table, _, caution = text.partition("\n\n")
    assert caution == "**Mind:** few steps.\n"
    assert table.splitlines()[:2] == [
        "| filters | batch_size | seeds | best test accuracy | highest seed | lowest seed |",
        "| :-- | :-- | --: | --: | --: | --: |",
    ]
    headings = ("seeds", "best test accuracy", "highest seed", "lowest seed")
    assert table_of(table, labels=2) == {
        "4-8-10, 100": dict(zip(headings, ("2", "97.50 ± 0.71 %", "98.00 %", "97.00 %"), strict=True)),
        "none, 125": dict(zip(headings, ("1", "95.00 %", "95.00 %", "95.00 %"), strict=True)),
    }


def short(steps: int) -> TrainingRun:
    """A run of so many steps: its best epoch is the second."""
    return made_up_run([0.5, 0.9, 0.8], images=100, train_examples=50 * steps, batch_size=100)


def test_the_shortest_of_short_runs_is_named() -> None:
    enough, shorter, shortest = short(500), short(40), short(30)
    assert (enough.caution, shorter.steps, shortest.steps) == ("", 40, 30)
    for runs, caution in (
        ([enough, enough], ""),
        ([enough], ""),
        ([], ""),
        ([shorter], shorter.caution),
        ([shorter, shortest], f"2 of 2 runs are too short; the shortest has {shortest.caution}"),
        ([enough, shortest, shorter], f"2 of 3 runs are too short; the shortest has {shortest.caution}"),
        ([enough, shorter], f"1 of 2 runs are too short; the shortest has {shorter.caution}"),
    ):
        assert sweeps.caution_of(runs) == caution


@pytest.mark.parametrize(
    ("value", "cell"), [([4, 8], "4-8"), ((4,), "4"), ([], "none"), (0.01, 0.01), ("dense", "dense"), (0, 0)]
)
def test_a_list_is_one_word_in_a_cell(value: object, cell: object) -> None:
    assert sweeps.cell_value(value) == cell
