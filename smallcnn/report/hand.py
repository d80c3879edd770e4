"""The networks as a page carries them, for `draw.js` to run: layers, weights, and digits to begin with."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from smallcnn import study
from smallcnn.architecture import CLASSES, Architecture, PlacedLayer, Weights, initial_weights
from smallcnn.config import TrainingRun
from smallcnn.data import Dataset, load_mnist
from smallcnn.report.chapter import changes_note
from smallcnn.report.results import pruning_counts
from smallcnn.runs.records import find_runs

HARD_SAMPLES = 3
Results = Mapping[str, Mapping[str, Any]]


def generated_parts(results: Results) -> dict[str, bytes]:
    """Makes the parts of pages on which a digit is read, by file name, from the results of all chapters by name.

    `hand.md` has every network and shows all of it; `field.md` has a field to draw in, and what the networks say.
    """
    trained = first_runs(results)
    _, test_set = load_mnist()
    chosen = samples(test_set, list(trained.values()))
    note = changes_note({chapter: result.get("changed_parameters", {}) for chapter, result in results.items()})
    return {
        "hand.md": (f"{note.data}\n\n" if note is not None else "").encode()
        + _part("whole", networks(trained), chosen),
        "field.md": _part("field", [_trained(label, run) for label, run in trained.items()], chosen[:CLASSES]),
    }


def first_runs(results: Results) -> dict[str, TrainingRun]:
    """The run with the first seed of each approach and of each round of pruning, which follow what they prune."""
    keys: dict[str, str] = {}
    for chapter in study.APPROACHES:
        keys[chapter.label] = results[chapter.name]["runs"][0]["key"]
        if chapter.name == study.PRUNED:
            rounds = results[study.PRUNING.name]["rounds"][1:]
            keys |= {f"{chapter.label}, {study.round_label(row['round'])}": row["key"] for row in rounds}
    return dict(zip(keys, find_runs(keys.values()), strict=True))


def networks(trained: Mapping[str, TrainingRun]) -> list[dict[str, Any]]:
    """Every network as JSON values, and before the one that is pruned what its training began with."""
    found = []
    for label, run in trained.items():
        if label == study.CHAPTERS[study.PRUNED].label:
            architecture, seed = run.config.architecture, run.config.seed
            untrained = _network(f"{label}, untrained", architecture, initial_weights(architecture, seed))
            found.append(untrained | {"trainable": architecture.trainable, "wrong": None, "images": None})
        found.append(_trained(label, run))
    return found


def _trained(label: str, run: TrainingRun) -> dict[str, Any]:
    """A trained network as JSON values, with how many test images it reads wrongly."""
    told = {
        "trainable": pruning_counts(run)["trainable_remaining"],
        "wrong": len(run.misclassified[run.best_epoch - 1]),
        "images": len(run.predicted_classes),
    }
    return _network(label, run.config.architecture, run.weights) | told


def _network(label: str, architecture: Architecture, weights: Weights) -> dict[str, Any]:
    """A network as JSON values: its layers, and its weights in their order as little-endian float32 numbers."""
    numbers = np.concatenate([weights[name].ravel() for name in architecture.weight_shapes])
    return {
        "label": label,
        "layers": [_layer(placed) for placed in architecture.placed],
        "weights": base64.b64encode(numbers.astype("<f4").tobytes()).decode(),
    }


def _layer(placed: PlacedLayer) -> dict[str, Any]:
    return asdict(placed.layer) | {
        "kind": placed.layer.kind,
        "name": placed.name,
        "description": placed.layer.description,
        "input": placed.input_shape,
        "output": placed.output_shape,
        "weights": {name.rpartition("/")[2]: shape for name, shape in placed.weights.items()},
    }


def samples(test_set: Dataset, trained: Sequence[TrainingRun]) -> list[dict[str, Any]]:
    """Test images to begin with: the first of each digit that all networks read, then those that most misread.

    Returns:
        For each the `digit` that it is, whether it is `hard`, and its 784 bytes, row by row, as base64.
    """
    misread = np.sum([run.predicted_classes != test_set.labels for run in trained], axis=0)
    easy = [int(np.argmin(np.where(test_set.labels == digit, misread, len(trained) + 1))) for digit in range(CLASSES)]
    hard = np.argsort(-misread, kind="stable")[:HARD_SAMPLES].tolist()
    return [
        {
            "digit": int(test_set.labels[number]),
            "hard": place >= CLASSES,
            "pixels": base64.b64encode(test_set.images[number].tobytes()).decode(),
        }
        for place, number in enumerate([*easy, *hard])
    ]


def _part(view: str, shown: list[dict[str, Any]], chosen: list[dict[str, Any]]) -> bytes:
    """A part of a page, as Markdown: where `draw.js` builds its `view`, with what it needs."""
    carried = json.dumps({"networks": shown, "samples": chosen}, ensure_ascii=False, allow_nan=False)
    carried = carried.replace("<", "\\u003c")  # nothing in it may end the script
    return f"""\
```{{raw}} html
<div class="hand" data-view="{view}">
<noscript>To draw a digit here, allow this page to run its script. It asks no other computer for anything.</noscript>
<script type="application/json">{carried}</script>
</div>
```
""".encode()
