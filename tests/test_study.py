"""The registry: every chapter and every parameter is known once, and notebooks and table of contents agree with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import papermill
import pytest
import yaml

from smallcnn import study
from smallcnn.config import MOST_EPOCHS, TrainingConfig
from smallcnn.data import TRAIN_EXAMPLES
from smallcnn.paths import BOOK, ROOT
from smallcnn.report import notebook
from smallcnn.report.parameters import check_values
from smallcnn.study import APPROACHES, CHAPTERS, NETWORK_PARAMETERS, PARAMETERS, TRAINING

TRAINING_CHAPTERS = [*(approach.name for approach in APPROACHES), "pruning"]
OWN_PARAMETERS = {
    "approach_3": {"dropout_tried", "dropout_tried_after"},
    "pruning": {"schedule", "pruning_fraction", "rounds", "gradual_epochs", "gradual_seeds"},
}
PYTHON_TYPES = {"int": int, "float": float, "str": str, "list[int]": list}


# Parameters


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_parameter_is_known_and_has_a_published_value_of_its_type(chapter: str) -> None:
    published = CHAPTERS[chapter].published
    for name, value in published.items():
        assert type(value) is PYTHON_TYPES[PARAMETERS[name].type]
        assert type(value) is not list or all(type(item) is int for item in value)
    check_values(chapter, published)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_values_of_a_preview_are_values_of_the_chapter(chapter: str) -> None:
    record = CHAPTERS[chapter]
    check_values(chapter, {**record.published, **record.preview})


def test_every_parameter_belongs_to_a_chapter_and_says_what_it_does() -> None:
    assert PARAMETERS.keys() == {name for chapter in CHAPTERS.values() for name in chapter.published}
    for parameter in PARAMETERS.values():
        assert parameter.type in PYTHON_TYPES
        assert len(parameter.help.split()) >= 3
        assert bool(parameter.choices) is (parameter.type == "str")
        assert not isinstance(parameter.maximum, str) or parameter.maximum in PARAMETERS


@pytest.mark.parametrize("chapter", TRAINING_CHAPTERS)
def test_a_chapter_that_trains_has_just_the_parameters_of_its_runs(chapter: str) -> None:
    expected = {*NETWORK_PARAMETERS, *TRAINING}
    assert CHAPTERS[chapter].published.keys() == expected | OWN_PARAMETERS.get(chapter, set())


@pytest.mark.parametrize("chapter", TRAINING_CHAPTERS)
def test_the_published_settings_are_those_of_the_study(chapter: str) -> None:
    published = CHAPTERS[chapter].published
    assert {name: published[name] for name in TRAINING} == {
        "epochs": 40,
        "batch_size": 125,
        "learning_rate": 0.01,
        "early_stopping_patience": 10,
        "early_stopping_baseline": 0.98,
        "plateau_patience": 4,
        "plateau_factor": 0.5,
        "train_examples": 60000,
        "seeds": [0, 1, 2],
        "engine": "auto",
    }


def test_the_settings_are_fields_of_a_run_with_the_same_limits() -> None:
    assert set(TRAINING) - {"seeds"} <= set(TrainingConfig.__dataclass_fields__)
    assert (PARAMETERS["epochs"].maximum, PARAMETERS["train_examples"].maximum) == (MOST_EPOCHS, TRAIN_EXAMPLES)


def test_pruning_starts_from_approach_2() -> None:
    pruning, approach = CHAPTERS["pruning"].published, CHAPTERS[study.PRUNED].published
    assert study.PRUNED == "approach_2"
    assert {name: pruning[name] for name in approach} == approach
    assert (pruning["schedule"], pruning["pruning_fraction"], pruning["rounds"]) == ("article", 0.2, 2)


# Chapters


def test_names_labels_and_colours_are_unique() -> None:
    assert list(CHAPTERS) == [chapter.name for chapter in CHAPTERS.values()]
    rounds = [study.round_label(number) for number in range(len(study.ROUND_COLOURS))]
    labels = [*(approach.label for approach in APPROACHES), *rounds, study.GRADUAL]
    assert all(labels) and len(set(labels)) == len(labels)
    colours = [approach.colour for approach in APPROACHES]
    assert all(re.fullmatch(r"#[0-9A-F]{6}", colour) for colour in [*colours, *study.ROUND_COLOURS])
    assert len(set(colours)) == len(colours)
    assert len(set(study.ROUND_COLOURS)) == len(study.ROUND_COLOURS)
    assert study.GRADUAL_COLOUR not in {*colours, *study.ROUND_COLOURS}


def test_a_network_has_the_same_colour_on_every_page() -> None:
    assert [study.colour(approach.label) for approach in APPROACHES] == [approach.colour for approach in APPROACHES]
    assert study.colour("unpruned") == CHAPTERS[study.PRUNED].colour
    assert study.colour("pruned, round 2") == study.ROUND_COLOURS[2]
    assert study.colour("pruned gradually") == study.GRADUAL_COLOUR
    other = study.colour("something else")
    assert other in study.ROUND_COLOURS and other == study.colour("something else")


def test_every_chapter_comes_after_those_it_reads() -> None:
    before: set[str] = set()
    for chapter in CHAPTERS.values():
        assert before.issuperset(chapter.reads)
        before.add(chapter.name)
    assert CHAPTERS["comparison"].reads == ("approach_1", "approach_2", "approach_3", "pruning")


def test_every_notebook_is_a_chapter_and_in_the_table_of_contents() -> None:
    assert sorted(path.stem for path in BOOK.glob("*.ipynb")) == sorted(CHAPTERS)
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = re.findall(r"'file': '(?:book/)?(\w+)'", str(contents))
    assert [name for name in listed if name in CHAPTERS] == list(CHAPTERS)


@pytest.mark.parametrize("approach", APPROACHES)
def test_the_article_says_so_many_parameters(approach: study.Chapter) -> None:
    assert (approach.article.total, approach.article.trainable) == {
        "approach_1": (8060, 7968),
        "approach_2": (5490, 5382),
        "approach_3": (3170, 3090),
    }[approach.name]


# Notebooks


def tagged_cells(chapter: str, tag: str) -> list[dict[str, Any]]:
    cells = json.loads((BOOK / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if tag in cell["metadata"].get("tags", [])]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_notebook_has_exactly_the_published_parameters(chapter: str) -> None:
    cells = tagged_cells(chapter, "parameters")
    assert ["".join(cell["source"]) for cell in cells] == [notebook.parameters_source(chapter)][: len(cells)]
    assert bool(cells) is bool(CHAPTERS[chapter].published)
    assert notebook.edited_values(chapter) == {}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_whose_parameters_make_a_network_types_it_in_one_cell(chapter: str) -> None:
    expected = int(set(NETWORK_PARAMETERS) <= CHAPTERS[chapter].published.keys())
    assert len(tagged_cells(chapter, "network")) == expected


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_papermill_sees_the_same_parameters(chapter: str) -> None:
    seen = papermill.inspect_notebook(BOOK / f"{chapter}.ipynb")
    published = CHAPTERS[chapter].published
    assert list(seen) == list(published)
    for name, value in published.items():
        parameter = PARAMETERS[name]
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        assert seen[name]["inferred_type_name"] == parameter.type
        assert seen[name]["help"] == parameter.help + unit
        assert json.loads(seen[name]["default"]) == value


def test_published_values_are_written_into_the_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for chapter in CHAPTERS:
        (tmp_path / f"{chapter}.ipynb").write_bytes((BOOK / f"{chapter}.ipynb").read_bytes())
    monkeypatch.setattr(notebook, "BOOK", tmp_path)
    assert notebook.write_published_parameters() == []
    path = tmp_path / "pruning.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("rounds: int = 2", "rounds: int = 5"), encoding="utf-8")
    assert notebook.edited_values("pruning") == {"rounds": 5}
    assert notebook.write_published_parameters() == ["pruning"]
    assert path.read_bytes() == (BOOK / "pruning.ipynb").read_bytes()
