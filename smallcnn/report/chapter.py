"""What a chapter's notebook needs besides training: its parameters as used, and its results for other pages."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from IPython.display import Markdown

from smallcnn.checks import check_choice, check_integer, check_integers
from smallcnn.files import write_json
from smallcnn.models import ARCHITECTURE_FIELDS, Architecture, count_prunable, count_total, count_trainable
from smallcnn.parameters import ParameterError, check_types, read_parameters
from smallcnn.paths import build_folder
from smallcnn.pruning import pruned_fractions, round_configs, surviving_counts
from smallcnn.runs import is_recorded
from smallcnn.statistics import accuracy_of_other_half
from smallcnn.training import ENGINES, TrainingConfig, TrainingRun, is_available

# The chapters that are notebooks, in the book's order, each with those whose results it reads.
CHAPTERS: dict[str, tuple[str, ...]] = {
    "data": (),
    "approach_1": (),
    "approach_2": (),
    "approach_3": (),
    "pruning": (),
    "comparison": ("approach_1", "approach_2", "approach_3", "pruning"),
}

TRAINING_PARAMETERS = tuple(
    field.name
    for field in dataclasses.fields(TrainingConfig)
    if field.default is dataclasses.MISSING and field.name not in ("architecture", "seed")
)


def training_configs(parameters: Mapping[str, Any]) -> list[TrainingConfig]:
    """Turns the parameters of a chapter that trains into one configuration for each of its seeds.

    Raises:
        ValueError: if a value is out of range.
        TypeError: if a value has the wrong type.
    """
    seeds = check_integers("seeds", parameters["seeds"], minimum=0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {list(seeds)}; expected at least one seed and none twice")
    architecture = Architecture(**{name: parameters[name] for name in ARCHITECTURE_FIELDS})
    settings = {name: parameters[name] for name in TRAINING_PARAMETERS}
    check_choice("engine", settings["engine"], ("auto", *ENGINES))

    def with_engine(engine: str) -> list[TrainingConfig]:
        return [TrainingConfig(architecture, seed, **{**settings, "engine": engine}) for seed in seeds]

    fast = with_engine("tensorflow" if settings["engine"] == "tensorflow" else "halide")
    if is_available(fast[0].engine) or all(is_recorded(config) for config in fast):
        return fast
    if settings["engine"] == "auto":
        return with_engine("tensorflow")
    raise ValueError(f"engine is {settings['engine']!r}, which is not installed on this machine; take engine=auto")


def pruning_configs(parameters: Mapping[str, Any]) -> list[list[TrainingConfig]]:
    """Turns the parameters of the pruning chapter into its rounds, the unpruned one first, for each seed."""
    schedule = (parameters["schedule"], parameters["pruning_fraction"], parameters["rounds"])
    return [round_configs(config, *schedule) for config in training_configs(parameters)]


def gradual_configs(parameters: Mapping[str, Any]) -> list[TrainingConfig]:
    """Turns the parameters of the pruning chapter into its gradually pruned runs, as sparse as the last round.

    They are TensorFlow's, whatever the engine of the rounds: the schedule is tensorflow-model-optimization's.
    """
    fractions = pruned_fractions(parameters["schedule"], parameters["pruning_fraction"], parameters["rounds"])
    configs = training_configs({**parameters, "seeds": parameters["gradual_seeds"], "engine": "tensorflow"})
    counts = surviving_counts(count_prunable(configs[0].architecture), fractions)
    sparsity = 1 - counts[-1] / counts[0]
    epochs = parameters["gradual_epochs"]
    return [dataclasses.replace(config, gradual_sparsity=sparsity, gradual_epochs=epochs) for config in configs]


def dropout_configs(parameters: Mapping[str, Any]) -> list[TrainingConfig]:
    """Turns the parameters of a chapter that tries its network with dropout too into those further runs."""
    tried = {"dropout": parameters["dropout_tried"], "dropout_after": parameters["dropout_tried_after"]}
    try:
        return training_configs({**parameters, **tried})
    except ValueError as error:
        raise ValueError(f"with dropout_tried and dropout_tried_after, {error}") from error


def chapter_configs(parameters: Mapping[str, Any]) -> list[TrainingConfig]:
    """Lists the runs that a chapter with these parameters needs; none for a chapter that does not train.

    Raises:
        ValueError: if a value is out of range.
        TypeError: if a value has the wrong type.
    """
    if "rounds" in parameters:
        rounds = [config for configs in pruning_configs(parameters) for config in configs]
        return rounds + gradual_configs(parameters)
    if "dropout_tried" in parameters:
        return training_configs(parameters) + dropout_configs(parameters)
    return training_configs(parameters) if "seeds" in parameters else []


def check_parameters(chapter: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Checks changed parameters of `chapter` as its notebook would, without starting anything.

    Returns:
        All parameters of the chapter by name, changed ones as in `changes`.

    Raises:
        ParameterError: if the chapter or a name is unknown, a type is wrong or a value is out of range.
    """
    check_types(chapter, changes)
    values = {name: parameter.default for name, parameter in read_parameters(chapter).items()} | dict(changes)
    try:
        if "digits_shown" in values:
            check_integer("digits_shown", values["digits_shown"], minimum=1, maximum=20)
        chapter_configs(values)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{chapter}: {error}") from error
    return values


class Chapter:
    """A chapter while its notebook runs.

    Args:
        name: the notebook's file name without its ending.
        variables: the notebook's `globals()`, which hold the parameters as used.

    Attributes:
        parameters: the values as used, by name.
        published: the published parameters, by name.
        changed: the values as used of those parameters that differ from the published ones.

    Raises:
        ParameterError: if a parameter has a wrong type or is out of range.
    """

    def __init__(self, name: str, variables: Mapping[str, Any]) -> None:
        self.name = name
        self.published = read_parameters(name)
        self.parameters = check_parameters(name, {key: variables[key] for key in self.published})
        self.changed = {key: value for key, value in self.parameters.items() if value != self.published[key].default}

    def note(self) -> Markdown | None:
        """A note for the reader on parameters that differ from the published ones; None where none does."""
        return changes_note({self.name: self.changed})

    def note_on(self, results: Mapping[str, Mapping[str, Any]]) -> Markdown | None:
        """The same note on the chapters whose results this one reads."""
        return changes_note({name: result["changed_parameters"] for name, result in results.items()})

    def write_results(self, **values: Any) -> Path:
        """Writes the chapter's results for the pages that compare chapters.

        Returns:
            The file, `results/<chapter>.json` in the build folder.
        """
        path = results_file(self.name)
        head = {"chapter": self.name, "parameters": self.parameters, "changed_parameters": self.changed}
        write_json(path, head | values)
        return path

    def write_training_results(self, runs: Sequence[TrainingRun], **values: Any) -> Path:
        """Writes the results of a chapter that trains one network with several seeds; the first seed leads."""
        first = runs[0]
        return self.write_results(
            total_parameters=count_total(first.config.architecture),
            trainable_parameters=count_trainable(first.config.architecture),
            best_test_accuracy=first.best_test_accuracy,
            best_epoch=first.best_epoch,
            epochs_run=first.epochs_run,
            runs=[run_summary(run) for run in runs],
            **values,
        )


def changes_note(changes: Mapping[str, Mapping[str, Any]]) -> Markdown | None:
    """A note on changed parameters, by chapter; None where nothing was changed."""
    items = [
        f"<li>{chapter}: <code>{name}</code> is {value} instead of {read_parameters(chapter)[name].default}</li>"
        for chapter, values in changes.items()
        for name, value in values.items()
    ]
    if not items:
        return None
    title = "Preview" if os.environ.get("SMALLCNN_PREVIEW") else "Changed parameters"
    return Markdown(
        f'<div class="admonition warning"><p class="admonition-title">{title}</p>'
        f"<p>The numbers on this page do not come from the published parameters:</p><ul>{''.join(items)}</ul></div>"
    )


def run_summary(run: TrainingRun) -> dict[str, Any]:
    """What a chapter's results say of one run."""
    return {
        "seed": run.config.seed,
        "key": run.config.key,
        "best_test_accuracy": run.best_test_accuracy,
        "final_test_accuracy": run.final_test_accuracy,
        "other_half_accuracy": accuracy_of_other_half(run),
        "epochs_run": run.epochs_run,
        "seconds": run.seconds,
    }


def results_file(chapter: str) -> Path:
    """Where `chapter` writes its results."""
    return build_folder() / "results" / f"{chapter}.json"


def read_results(chapter: str) -> dict[str, Any]:
    """Reads what `chapter` wrote.

    Raises:
        FileNotFoundError: if it has not run yet; the message says what to do.
    """
    path = results_file(chapter)
    if not path.exists():
        raise FileNotFoundError(f"{chapter} has no results yet; run its notebook first, or `make book`")
    return json.loads(path.read_text(encoding="utf-8"))
