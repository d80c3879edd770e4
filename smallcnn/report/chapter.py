"""A chapter while its notebook runs: its parameters as used, the runs they ask for, its results for other pages."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from IPython import get_ipython
from IPython.display import HTML, Markdown, display

from smallcnn import study
from smallcnn.architecture import Architecture
from smallcnn.config import TrainingConfig, TrainingRun
from smallcnn.engines.base import is_available
from smallcnn.files import write_json
from smallcnn.paths import PUBLISHED_RUNS, build_folder, check_environment
from smallcnn.report import results
from smallcnn.report.display import STYLE, set_up
from smallcnn.report.parameters import ParameterError, check_name, check_values, published_values
from smallcnn.report.uncertainty import other_half_accuracy
from smallcnn.runs import broker
from smallcnn.runs.records import is_recorded

SETTINGS = tuple(study.TRAINING.keys() - {"seeds", "engine"})

# For each chapter the notebook's last `model`, and the network's parameters when it was typed. It outlives a `Chapter`,
# because a notebook that changes its parameters makes a new one before it types the network anew.
_typed: dict[str, tuple[Any, dict[str, Any]]] = {}
_failed: dict[str, Any] = {}  # the `model` that was there when the cell that types the network failed


def training_configs(architecture: Architecture, values: Mapping[str, Any]) -> list[TrainingConfig]:
    """One configuration for each of the seeds among a chapter's parameters.

    The engine "auto" is Halide where it is installed, or all runs are recorded; else TensorFlow.

    Raises:
        ParameterError: if Halide is asked for and is not installed.
    """

    def with_engine(engine: str) -> list[TrainingConfig]:
        settings = {name: values[name] for name in SETTINGS}
        return [TrainingConfig(architecture, seed, engine=engine, **settings) for seed in values["seeds"]]

    asked, fast = values["engine"], with_engine("halide")
    if asked == "tensorflow":
        return with_engine(asked)
    if is_available("halide") or all(map(is_recorded, fast)):
        return fast
    if asked == "halide":
        raise ParameterError("engine is halide; Halide is not installed on this machine; take engine=auto")
    return with_engine("tensorflow")


class Chapter:
    """A chapter in its notebook.

    Args:
        name: the notebook's file name without its ending.
        variables: the notebook's `globals()`, from which the parameters are read each time they are used.

    Raises:
        ParameterError: if a parameter is missing, has a wrong type or is out of range, or papermill set an unknown one.
        PlaceError: if an environment variable of the project is unknown, or names a wrong place.
    """

    def __init__(self, name: str, variables: Mapping[str, Any]) -> None:
        set_up()  # first, so that what is refused is one line
        check_environment()
        self.name = name
        self.published = published_values(name)
        self._variables = variables
        for injected in _injected_names(variables):
            check_name(name, injected, self.published)
        shell = get_ipython()
        if shell is not None:
            if not broker.is_there():  # the book has its own style sheet
                display(HTML(STYLE))
            shell.events.register("post_run_cell", self._note_model)
        if set(study.NETWORK_PARAMETERS) & self.published.keys():
            from smallcnn.models import import_keras

            import_keras()
        self.parameters  # noqa: B018 - wrong ones are refused here

    @property
    def parameters(self) -> dict[str, Any]:
        """The values as used now, by name."""
        values = {name: self._variables[name] for name in self.published if name in self._variables}
        check_values(self.name, values)
        return values

    @property
    def changed(self) -> dict[str, Any]:
        """The values as used of those parameters that differ from the published ones."""
        return {name: value for name, value in self.parameters.items() if value != self.published[name]}

    def _note_model(self, result: Any) -> None:
        """Remembers with which parameters the notebook's present `model` was typed, or that its cell failed."""
        model = self._variables.get("model")
        if not result.success and re.search(r"^model\s*=", result.info.raw_cell or "", re.MULTILINE):
            _failed[self.name] = model
        if model is not None and model is not _typed.get(self.name, (None,))[0]:
            values = {name: self._variables.get(name) for name in study.NETWORK_PARAMETERS if name in self.published}
            _typed[self.name] = model, copy.deepcopy(values)  # a list may be changed in its place

    def configs(self, model: Any, **changes: Any) -> list[TrainingConfig]:
        """What to train: `model` with the chapter's parameters, once for each seed.

        Args:
            model: a Keras model, of which the layers count and not the weights.
            changes: parameters that differ for these runs.

        Raises:
            ParameterError: if a change is none of a parameter of the chapter, or the network's parameters have changed
                since `model` was typed from them.
            ValueError, TypeError: if `model` is outside the vocabulary.
        """
        from smallcnn.models import read_architecture

        values = self.parameters | changes
        check_values(self.name, values)
        if self.name in _failed and model is _failed[self.name]:
            raise ParameterError("the cell that types the network failed, so model is an old one; run that cell again")
        typed_model, typed_values = _typed.get(self.name, (None, {}))
        if model is typed_model:
            stale = [name for name, value in typed_values.items() if value != values[name]]
            if stale:
                raise ParameterError(
                    f"{' and '.join(stale)} changed after the cell that types the network ran; run that cell again"
                )
        return training_configs(read_architecture(model), values)

    def note(self) -> HTML | None:
        """A note for the reader on parameters that differ from the published ones; None where none does."""
        return changes_note({self.name: self.changed})

    def note_on(self, other_results: Mapping[str, Mapping[str, Any]]) -> HTML | None:
        """The same note on the chapters whose results this one reads."""
        return changes_note({name: result["changed_parameters"] for name, result in other_results.items()})

    def result(self, runs: Sequence[TrainingRun]) -> Markdown:
        """What the runs reached, in words, and what must be said of them."""
        return Markdown(results.with_cautions(results.sentence(runs), self._unpublished(runs)))

    def in_words(self, text: str, runs: Sequence[TrainingRun]) -> Markdown:
        """A text on runs, as Markdown, and what must be said of them."""
        return Markdown(results.with_cautions(text, self.cautions(runs)))

    def cautions(self, runs: Sequence[TrainingRun]) -> list[str]:
        """What must be said of runs: of too few steps; or of another network, with the published parameters."""
        return results.cautions(runs) + self._unpublished(runs)

    def _unpublished(self, runs: Sequence[TrainingRun]) -> list[str]:
        own = sum(not (PUBLISHED_RUNS / run.config.key).exists() for run in runs)
        if not own or self.changed or os.environ.get("SMALLCNN_RUNS"):
            return []
        return [
            f"{own} of {len(runs)} runs are not among the published ones although all parameters are as published; the "
            "network is another one then, or new, and `make record` publishes its runs"
        ]

    def provenance(self, runs: Sequence[TrainingRun]) -> None:
        """Shows the parameters as published and as used, which engine computed the runs, and their records."""
        engines = sorted({run.config.engine for run in runs})
        names = {"halide": "Halide", "tensorflow": "TensorFlow"}
        display(results.parameters(self.published, self.parameters))
        display(Markdown(f"The steps were computed by {' and '.join(names[engine] for engine in engines)}."))
        display(results.provenance(runs))

    def write_results(self, **values: Any) -> Path:
        """Writes the chapter's results for the pages that compare chapters.

        Returns:
            The file, `results/<chapter>.json` in the build folder.
        """
        path = results_file(self.name)
        head = {"chapter": self.name, "parameters": self.parameters, "changed_parameters": self.changed}
        write_json(path, head | values)
        return path

    def write_training_results(
        self,
        runs: Sequence[TrainingRun],
        variants: Mapping[str, Sequence[TrainingRun]] | None = None,
        others: Sequence[TrainingRun] = (),
        **values: Any,
    ) -> Path:
        """Writes the results of a chapter that trains one network with several seeds; the first seed leads.

        Args:
            runs: a run a seed.
            variants: further runs of the network with something changed, by what that is; none are left out.
            others: all other runs that the chapter shows, whose cautions are written too.
            values: more to write.
        """
        first = runs[0]
        architecture = first.config.architecture
        return self.write_results(
            layers=architecture.to_json(),
            total_parameters=architecture.total,
            trainable_parameters=architecture.trainable,
            multiply_adds=architecture.multiply_adds,
            best_test_accuracy=first.best_test_accuracy,
            best_epoch=first.best_epoch,
            epochs_run=first.epochs_run,
            cautions=self.cautions(
                [*runs, *others, *(run for further in (variants or {}).values() for run in further)]
            ),
            runs=list(map(run_summary, runs)),
            variants={name: list(map(run_summary, further)) for name, further in (variants or {}).items() if further},
            **values,
        )


def _injected_names(variables: Mapping[str, Any]) -> list[str]:
    """What papermill set, in a cell of its own, which it puts below the cell of parameters; the last one counts."""
    cells = [source for source in variables.get("In", []) if source.startswith("# Parameters\n")]
    return re.findall(r"^(\w+) = ", cells[-1], re.MULTILINE) if cells else []


def changes_note(changes: Mapping[str, Mapping[str, Any]]) -> HTML | None:
    """A note on changed parameters, by chapter; None where nothing was changed."""
    items = [
        f"<li>{chapter}: <code>{name}</code> is {value} instead of {published_values(chapter)[name]}</li>"
        for chapter, values in changes.items()
        for name, value in values.items()
    ]
    if not items:
        return None
    title = "Preview" if os.environ.get("SMALLCNN_PREVIEW") else "Changed parameters"
    return HTML(
        f'<div class="note admonition warning"><p class="admonition-title">{title}</p>'
        f"<p>The numbers on this page do not come from the published parameters:</p><ul>{''.join(items)}</ul></div>"
    )


def run_summary(run: TrainingRun) -> dict[str, Any]:
    """What a chapter's results say of one run."""
    return {
        "seed": run.config.seed,
        "key": run.config.key,
        "best_test_accuracy": run.best_test_accuracy,
        "final_test_accuracy": run.final_test_accuracy,
        "other_half_accuracy": other_half_accuracy(run),
        "epochs_run": run.epochs_run,
        "seconds": run.seconds,
    }


def round_summary(runs: Sequence[TrainingRun]) -> dict[str, Any]:
    """What the pruning chapter's results say of one pruned network, trained with several seeds."""
    return results.pruning_counts(runs[0]) | {
        "best_test_accuracy": runs[0].best_test_accuracy,
        "best_test_accuracies": [run.best_test_accuracy for run in runs],
        "other_half_accuracies": list(map(other_half_accuracy, runs)),
        "seeds": [run.config.seed for run in runs],
        "keys": [run.config.key for run in runs],
        "key": runs[0].config.key,
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
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
