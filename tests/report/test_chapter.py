"""A chapter while its notebook runs: its parameters, what it trains, and the results that other pages read."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML
from traitlets.config import Config

from smallcnn import models
from smallcnn.architecture import Activation, Architecture
from smallcnn.config import TrainingConfig
from smallcnn.paths import PlaceError
from smallcnn.report import chapter as chapter_module
from smallcnn.report import display, results
from smallcnn.report.chapter import Chapter, read_results, results_file, round_summary, run_summary
from smallcnn.report.notebook import tagged_source
from smallcnn.report.parameters import ParameterError, published_values
from smallcnn.report.uncertainty import other_half_accuracy
from smallcnn.runs.records import save_run
from smallcnn.study import CHAPTERS
from tests.networks import PUBLISHED, chain
from tests.report.made_up import made_up_run, made_up_runs

REQUIRED = {
    "chapter", "parameters", "changed_parameters", "layers", "total_parameters", "trainable_parameters",
    "multiply_adds", "best_test_accuracy", "best_epoch", "epochs_run", "cautions", "runs", "variants",
}  # fmt: skip
LEAKY = Architecture(
    tuple(Activation("leaky_relu", 0.1) if layer == Activation("relu") else layer for layer in chain((4, 10)).layers)
)


@dataclass(eq=False)
class Model:
    """Stands in for a Keras model."""

    architecture: Architecture


@pytest.fixture(autouse=True)
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty build folder, outside a preview, without recorded runs."""
    monkeypatch.setenv("SMALLCNN_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("SMALLCNN_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("SMALLCNN_PREVIEW", raising=False)
    monkeypatch.delenv("SMALLCNN_BROKER", raising=False)
    return tmp_path / "build"


@pytest.fixture(autouse=True)
def without_keras(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are those above, except in a test of Keras itself."""
    if "keras" not in request.fixturenames:
        monkeypatch.setattr(models, "import_keras", lambda: None)
        monkeypatch.setattr(models, "read_architecture", lambda model: model.architecture)


@pytest.fixture(autouse=True)
def halide(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Which engines are installed; a test may change that."""
    installed = {"halide": True, "tensorflow": True}
    monkeypatch.setattr(chapter_module, "is_available", installed.__getitem__)
    return installed


def variables(name: str, **changes: Any) -> dict[str, Any]:
    """What a notebook's `globals()` hold: its parameters as used, and more."""
    return copy.deepcopy(published_values(name)) | {"other": 1} | changes


def text_of(note: HTML | None) -> str:
    assert note is not None
    return str(note.data)


# Parameters


def test_a_chapter_as_published_has_no_changes_and_no_note() -> None:
    for name in CHAPTERS:
        chapter = Chapter(name, variables(name))
        assert chapter.changed == {}
        assert chapter.note() is None
        assert chapter.parameters == chapter.published == published_values(name)
    assert chapter.note_on({}) is None
    assert chapter.note_on({"approach_1": {"changed_parameters": {}}}) is None


def test_changed_parameters_are_those_that_differ() -> None:
    changes = {"filters": [4, 10], "pool_after": [], "dropout_after": [], "epochs": 10}
    chapter = Chapter("approach_2", variables("approach_2", learning_rate=0.01, **changes))
    assert chapter.changed == changes
    assert chapter.parameters == published_values("approach_2") | changes
    assert "other" not in chapter.parameters


def test_parameters_are_read_each_time_they_are_used() -> None:
    notebook = variables("approach_2")
    chapter = Chapter("approach_2", notebook)
    notebook["epochs"] = 10
    assert chapter.changed == {"epochs": 10}
    assert {config.epochs for config in chapter.configs(Model(chain((4, 10))))} == {10}
    notebook["epochs"] = 40
    assert chapter.changed == {}
    notebook["seeds"].append(7)
    assert [config.seed for config in chapter.configs(Model(chain((4, 10))))] == [0, 1, 2, 7]
    assert chapter.changed == {"seeds": [0, 1, 2, 7]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "approach_2: epochs is 0; expected a whole number from 1 to 100000"),
        ({"epochs": "10"}, "parameter epochs is the text '10'; expected a whole number"),
        ({"filters": []}, "approach_2: filters is empty"),
        ({"learning_rate": float("nan")}, "parameter learning_rate is nan; expected a finite number"),
    ],
)
def test_a_notebook_refuses_wrong_parameters_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as raised:
        Chapter("approach_2", variables("approach_2", **changes))
    assert str(raised.value).startswith(message)
    assert len(str(raised.value).splitlines()) == 1
    notebook = variables("approach_2")
    chapter = Chapter("approach_2", notebook)
    notebook |= changes
    for use in (lambda: chapter.parameters, lambda: chapter.changed, chapter.note, chapter.write_results):
        with pytest.raises(ParameterError, match=next(iter(changes))):
            use()


def test_a_missing_parameter_is_refused() -> None:
    notebook = variables("approach_2")
    chapter = Chapter("approach_2", notebook)
    del notebook["seeds"]
    message = "approach_2: parameter seeds has no value; its cell of parameters must set it"
    with pytest.raises(ParameterError, match=message):
        chapter.configs(Model(chain((4, 10))))
    with pytest.raises(ParameterError, match=message):
        Chapter("approach_2", notebook)
    with pytest.raises(ParameterError, match="unknown chapter 'approach_4'"):
        Chapter("approach_4", notebook)


INJECTED = "# Parameters\n"  # how papermill begins its cell


def test_a_parameter_that_papermill_set_and_there_is_not_is_refused() -> None:
    cells = ["", "epochs = 40", f"{INJECTED}epochs = 3\nepoch = 1\n"]
    for name, said in [("approach_2", ", perhaps epochs; it has: filters"), ("comparison", "; it has: no parameters")]:
        given = cells if name == "approach_2" else [f"{INJECTED}epoch = 1\n"]
        with pytest.raises(ParameterError, match=f"^unknown parameter 'epoch' for {name}{said}"):
            Chapter(name, variables(name, In=given))


@pytest.mark.parametrize(
    "cells",
    [
        [f"{INJECTED}epochs = 3\nfilters = [\n    4,\n    10,\n]\n"],
        [f"{INJECTED}epoch = 3\n", f"{INJECTED}epochs = 3\n"],  # the first was mended, in JupyterLab
        ["other = 3", "x = 1  # Parameters", f"{INJECTED}if ("],
        [],
    ],
)
def test_what_papermill_may_set_and_other_cells_are_left_alone(cells: list[str]) -> None:
    assert Chapter("approach_2", variables("approach_2", In=cells)).changed == {}


def test_a_chapter_refuses_a_wrong_place_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLCNN_MNIST", "no such file.npz")
    with pytest.raises(PlaceError, match="SMALLCNN_MNIST is .*no such file.npz', which does not exist"):
        Chapter("approach_2", variables("approach_2"))


# Notes


def test_the_note_names_what_was_changed_from_what() -> None:
    note = text_of(Chapter("approach_2", variables("approach_2", epochs=10, filters=[4, 8, 16, 16, 10, 10])).note())
    assert "approach_2: <code>epochs</code> is 10 instead of 40" in note
    assert "approach_2: <code>filters</code> is [4, 8, 16, 16, 10, 10] instead of [4, 8, 16, 16, 10]" in note
    assert "Changed parameters" in note
    assert note.count("<li>") == 2


def test_a_page_that_reads_others_names_their_changes() -> None:
    others = {
        "approach_1": {"changed_parameters": {}},
        "approach_3": {"changed_parameters": {"dropout": 0.5}},
    }
    note = text_of(Chapter("comparison", {}).note_on(others))
    assert "approach_3: <code>dropout</code> is 0.5 instead of 0.0" in note
    assert note.count("<li>") == 1


def test_the_note_of_a_preview_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLCNN_PREVIEW", "1")
    assert ">Preview<" in text_of(Chapter("approach_2", variables("approach_2", epochs=10)).note())


# What a chapter trains


def test_a_chapter_has_one_configuration_for_each_seed_with_its_settings() -> None:
    settings = {
        "epochs": 9, "batch_size": 50, "learning_rate": 0.003, "early_stopping_patience": 8,
        "early_stopping_baseline": 0.97, "plateau_patience": 3, "plateau_factor": 0.4, "train_examples": 1000,
    }  # fmt: skip
    chapter = Chapter("approach_1", variables("approach_1", seeds=[5, 0], engine="tensorflow", **settings))
    network = chain((3, 10))
    assert chapter.configs(Model(network)) == [
        TrainingConfig(network, seed, engine="tensorflow", **settings) for seed in (5, 0)
    ]


def test_the_layers_are_those_of_the_model_and_not_of_the_parameters() -> None:
    chapter = Chapter("approach_2", variables("approach_2"))
    for network in (chain((3, 10)), PUBLISHED["approach_3"], LEAKY):
        assert {config.architecture for config in chapter.configs(Model(network))} == {network}


def test_some_parameters_may_differ_for_some_runs() -> None:
    chapter = Chapter("pruning", variables("pruning", gradual_seeds=[0, 4]))
    contrast = chapter.configs(Model(PUBLISHED["approach_2"]), seeds=[0, 4], engine="tensorflow", epochs=12)
    assert [(config.seed, config.engine, config.epochs) for config in contrast] == [
        (0, "tensorflow", 12),
        (4, "tensorflow", 12),
    ]
    assert chapter.changed == {"gradual_seeds": [0, 4]}
    for changes, message in (
        ({"epoch": 3}, "unknown parameter 'epoch' for pruning"),
        ({"epochs": 0}, "epochs is 0"),
        ({"seeds": []}, "seeds is \\[\\]; expected at least one seed"),
    ):
        with pytest.raises(ParameterError, match=message):
            chapter.configs(Model(PUBLISHED["approach_2"]), **changes)


def test_pruning_needs_its_rounds_and_gradual_runs_as_sparse() -> None:
    network = Model(PUBLISHED["approach_2"])
    chapter = Chapter("pruning", variables("pruning", seeds=[0, 1], gradual_seeds=[0, 4]))
    fractions = (0.2, 0.2**0.5)
    rounds = [config.rounds(fractions) for config in chapter.configs(network)]
    assert [[len(config.pruned_fractions) for config in configs] for configs in rounds] == [[0, 1, 2]] * 2
    gradual = [config.pruned_gradually(fractions, 10) for config in chapter.configs(network, seeds=[0, 4])]
    assert [config.seed for config in gradual] == [0, 4]
    assert gradual[0].gradual_sparsity == pytest.approx(2911 / 5220)
    assert gradual[0].gradual_epochs == 10
    assert rounds[0][0] == Chapter("approach_2", variables("approach_2")).configs(network)[0]


# Engines


def engines(chapter: Chapter, network: Architecture) -> set[str]:
    return {config.engine for config in chapter.configs(Model(network))}


def test_auto_is_halide_for_every_network() -> None:
    chapter = Chapter("approach_2", variables("approach_2"))
    for network in (*PUBLISHED.values(), LEAKY):
        assert engines(chapter, network) == {"halide"}


def test_an_engine_that_is_asked_for_is_taken() -> None:
    notebook = variables("approach_2", engine="tensorflow")
    chapter = Chapter("approach_2", notebook)
    assert engines(chapter, PUBLISHED["approach_2"]) == {"tensorflow"}
    notebook["engine"] = "halide"
    assert engines(chapter, PUBLISHED["approach_2"]) == {"halide"}


def test_without_halide_auto_is_tensorflow_and_halide_an_error_before_anything_starts(
    halide: dict[str, bool],
) -> None:
    halide["halide"] = False
    notebook = variables("approach_2", seeds=[5])
    chapter = Chapter("approach_2", notebook)
    assert engines(chapter, PUBLISHED["approach_2"]) == {"tensorflow"}
    notebook["engine"] = "halide"
    with pytest.raises(ParameterError, match="engine is halide; Halide is not installed on this machine; take engine="):
        chapter.configs(Model(PUBLISHED["approach_2"]))


def test_recorded_runs_need_no_halide(halide: dict[str, bool]) -> None:
    halide["halide"] = False
    notebook = variables("approach_2", seeds=[5, 6])
    chapter = Chapter("approach_2", notebook)
    save_run(made_up_run([0.9], 5))
    assert engines(chapter, PUBLISHED["approach_2"]) == {"tensorflow"}  # one of the two is missing
    save_run(made_up_run([0.9], 6))
    for engine in ("auto", "halide"):
        notebook["engine"] = engine
        assert engines(chapter, PUBLISHED["approach_2"]) == {"halide"}


# A network that was typed with other parameters


class Notebook:
    """Runs cells as a notebook does."""

    def __init__(self, chapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
        for module in (chapter_module, display):
            monkeypatch.setattr(module, "get_ipython", lambda: self.shell)
        monkeypatch.setattr(chapter_module, "display", lambda shown: None)
        self.shell.user_ns |= variables(chapter) | {"Chapter": Chapter, "Model": Model, "chain": chain}
        self.begin = f"chapter = Chapter({chapter!r}, globals())"

    def run(self, *cells: str) -> Any:
        """Runs cells and gives what the last one ends in; an error of a cell is raised."""
        for cell in cells:
            done = self.shell.run_cell(cell, silent=False)
            done.raise_error()
        return done.result

    def refuses(self, cell: str) -> str:
        with pytest.raises(ParameterError) as raised:
            self.run(cell)
        assert len(str(raised.value).splitlines()) == 1
        return str(raised.value)


NETWORK = "model = Model(chain(filters, pool_after, dropout, dropout_after, head))"
CONFIGS = "configs = chapter.configs(model); configs"
STALE = "changed after the cell that types the network ran; run that cell again"


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = Notebook("approach_2", monkeypatch)
    notebook.run(notebook.begin, NETWORK)
    yield notebook
    chapter_module._typed.clear()
    chapter_module._failed.clear()


def test_the_old_network_of_a_cell_that_failed_is_refused(notebook: Notebook) -> None:
    with pytest.raises(NameError):
        notebook.run("import math\nmodel = Model(no_such_name)")
    assert "failed" in notebook.refuses(CONFIGS)
    notebook.run(NETWORK)
    assert {config.architecture for config in notebook.run(CONFIGS)} == {PUBLISHED["approach_2"]}


def test_cells_in_their_order_train_the_network_that_was_typed(notebook: Notebook) -> None:
    assert {config.architecture for config in notebook.run(CONFIGS)} == {PUBLISHED["approach_2"]}
    notebook.run("filters = [3, 10]; pool_after = [1]; dropout_after = [2]", NETWORK)
    assert {config.architecture for config in notebook.run(CONFIGS)} == {chain((3, 10), (1,), 0.1, (2,))}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("filters = [3, 8, 16, 16, 10]", "filters"),
        ("filters[0] = 3", "filters"),
        ("dropout = 0.3", "dropout"),
        ("head = 'dense'", "head"),
        ("head = 'dense'\npool_after = [1]", "pool_after and head"),
    ],
)
def test_a_network_whose_parameters_changed_since_is_refused(change: str, named: str, notebook: Notebook) -> None:
    notebook.run(change)
    assert notebook.refuses(CONFIGS) == f"{named} {STALE}"
    notebook.run(notebook.begin)  # which does not type the network anew
    assert notebook.refuses(CONFIGS) == f"{named} {STALE}"
    notebook.run(NETWORK, CONFIGS)


def test_a_change_that_was_taken_back_is_none(notebook: Notebook) -> None:
    notebook.run("filters = [3, 8, 16, 16, 10]", "filters = [4, 8, 16, 16, 10]", CONFIGS)


def test_other_parameters_may_change_after_the_network_was_typed(notebook: Notebook) -> None:
    found = notebook.run("epochs = 3; seeds = [9]", CONFIGS)
    assert [(config.epochs, config.seed) for config in found] == [(3, 9)]


def test_a_network_from_elsewhere_is_taken_as_it_is(notebook: Notebook) -> None:
    found = notebook.run("dropout = 0.3", "chapter.configs(Model(chain([7, 10])))")
    assert {config.architecture for config in found} == {chain((7, 10))}


def test_the_books_style_is_shown_by_the_first_cell_but_not_in_a_build(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(chapter_module, "display", shown.append)
    notebook.run(notebook.begin)
    assert [cell.data for cell in shown] == [display.STYLE]
    monkeypatch.setenv("SMALLCNN_BROKER", "host 1 password")
    notebook.run(notebook.begin)
    assert len(shown) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_notebooks_own_network_cell_is_watched(
    name: str, keras: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = Notebook(name, monkeypatch)
    parameters, network = (tagged_source(name, tag) for tag in ("parameters", "network"))
    found = notebook.run(parameters, notebook.begin, network, CONFIGS)
    assert {config.architecture for config in found} == {PUBLISHED[name]}
    notebook.run("head = 'dense' if head == 'pooled' else 'pooled'")
    assert notebook.refuses(CONFIGS) == f"head {STALE}"
    (dense, *_) = notebook.run("head = 'dense'", network, CONFIGS)
    assert dense.architecture.placed[-2].name == "dense"
    with pytest.raises(TypeError, match="the model is a builtins.int; expected a tf_keras.Sequential"):
        notebook.run("chapter.configs(3)")


# Results that other pages read


def test_results_are_read_as_they_were_written(build: Path) -> None:
    chapter = Chapter("approach_2", variables("approach_2", epochs=10))
    path = chapter.write_results(counts=[1, 2], name="four – ü")
    assert path == results_file("approach_2") == build / "results" / "approach_2.json"
    assert read_results("approach_2") == {
        "chapter": "approach_2",
        "parameters": chapter.parameters,
        "changed_parameters": {"epochs": 10},
        "counts": [1, 2],
        "name": "four – ü",
    }
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_results_that_are_no_numbers_are_refused_and_leave_the_old_ones() -> None:
    chapter = Chapter("data", variables("data"))
    path = chapter.write_results(value=1)
    with pytest.raises(ValueError, match="JSON compliant"):
        chapter.write_results(value=float("nan"))
    assert read_results("data")["value"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_chapter_that_trains_writes_every_required_field() -> None:
    chapter = Chapter("approach_2", variables("approach_2"))
    runs = [
        made_up_run([0.5, 0.75, 0.7], 3, seconds=2.5, train_examples=60_000),
        made_up_run([0.8, 0.81, 0.83, 0.85], 1, seconds=4.5),
    ]
    (variant,) = made_up_runs(0.6, architecture=chain((4, 10), (), 0.3, (1,)))
    path = chapter.write_training_results(runs, {"with more": [variant], "with none": []}, extra="more")
    written = json.loads(path.read_text("utf-8"))
    assert written.keys() == REQUIRED | {"extra"}
    assert (written["total_parameters"], written["trainable_parameters"]) == (5490, 5382)
    assert written["multiply_adds"] == PUBLISHED["approach_2"].multiply_adds
    assert Architecture.from_json(written["layers"]) == PUBLISHED["approach_2"]
    assert (written["best_test_accuracy"], written["best_epoch"], written["epochs_run"]) == (0.75, 2, 3)
    assert written["cautions"] == []
    assert written["variants"] == {"with more": [run_summary(variant)]}
    assert written["runs"] == [
        {
            "seed": 3,
            "key": runs[0].config.key,
            "best_test_accuracy": 0.75,
            "final_test_accuracy": 0.7,
            "other_half_accuracy": other_half_accuracy(runs[0]),
            "epochs_run": 3,
            "seconds": 2.5,
        },
        run_summary(runs[1]),
    ]
    assert written["runs"][1]["seconds"] == 4.5


def test_a_run_of_too_few_steps_is_written_with_a_caution() -> None:
    chapter = Chapter("approach_2", variables("approach_2"))
    few = made_up_runs(0.8, 0.9, images=500, train_examples=1000)
    chapter.write_training_results([*few, *made_up_runs(0.9, images=500)])
    assert read_results("approach_2")["cautions"] == [few[0].caution]
    assert few[0].caution.startswith("only 16 training steps: ")
    assert few[0].caution in str(chapter.result(few).data)


def test_a_pruned_network_is_summed_up_over_its_seeds() -> None:
    runs = made_up_runs(0.99, 0.98, images=500)
    assert round_summary(runs) == {
        "prunable": 5220,
        "remaining": 5220,
        "pruned_fraction": 0.0,
        "trainable_remaining": 5382,
        "best_test_accuracy": 0.99,
        "best_test_accuracies": [0.99, 0.98],
        "other_half_accuracies": list(map(other_half_accuracy, runs)),
        "seeds": [0, 1],
        "keys": [run.config.key for run in runs],
        "key": runs[0].config.key,
    }


def test_missing_results_say_what_to_do() -> None:
    with pytest.raises(
        FileNotFoundError, match="approach_1 has no results yet; run its notebook first, or `make book`"
    ):
        read_results("approach_1")


# The end of a page


def test_a_page_ends_with_parameters_engine_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(chapter_module, "display", shown.append)
    chapter = Chapter("approach_2", variables("approach_2", epochs=3))
    runs = made_up_runs(0.8, 0.9)
    chapter.provenance(runs)
    parameters, engine, records = shown
    assert parameters.equals(results.parameters(chapter.published, chapter.parameters))
    assert engine.data == "The steps were computed by Halide."
    assert records.equals(results.provenance(runs))


def test_a_page_says_which_engine_computed_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(chapter_module, "display", shown.append)
    chapter = Chapter("approach_2", variables("approach_2"))
    chapter.provenance(made_up_runs(0.8, engine="tensorflow"))
    chapter.provenance([*made_up_runs(0.8), *made_up_runs(0.8, engine="tensorflow")])
    sentences = [cell.data for cell in shown[1::3]]
    assert sentences == [
        "The steps were computed by TensorFlow.",
        "The steps were computed by Halide and TensorFlow.",
    ]


def test_runs_of_another_network_under_published_parameters_are_said_to_be_unpublished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMALLCNN_RUNS")
    monkeypatch.setattr(chapter_module, "PUBLISHED_RUNS", tmp_path)
    runs = [made_up_run([0.5, 0.9], seed) for seed in (0, 1)]
    (tmp_path / runs[0].config.key).mkdir()
    chapter = Chapter("approach_2", variables("approach_2"))
    assert "1 of 2 runs are not among the published ones" in str(chapter.result(runs).data)
    assert chapter.cautions(runs[:1]) == []
    assert Chapter("approach_2", variables("approach_2") | {"epochs": 2}).cautions(runs) == []
    monkeypatch.setenv("SMALLCNN_RUNS", str(tmp_path))
    assert chapter.cautions(runs) == []
