"""Both engines still give the losses that were recorded for this recipe.

`python -m tests.engines.test_recorded_losses` records them anew, after RECIPE_VERSIONS were raised.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from smallcnn import data
from smallcnn.config import ENGINES, RECIPE_VERSIONS
from smallcnn.engines.base import is_available
from smallcnn.training import train
from tests.conftest import SMALL_CONFIG
from tests.networks import PUBLISHED, chain

RECORDED_LOSSES = Path(__file__).with_name("recorded_losses.json")
ADVICE = "raise RECIPE_VERSIONS in smallcnn/config.py, then run: python -m tests.engines.test_recorded_losses"
# Rounding differs between processors, and training makes it grow from epoch to epoch.
TOLERANCES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
# Between them they use every kind of layer.
NETWORKS = {
    "pooled head": PUBLISHED["approach_2"],
    "dense head": chain((4, 8), pool_after=(1, 2), dropout=0.1, dropout_after=(2,), head="dense"),
}


def measure_losses(engine: str, network: str) -> list[float]:
    """The training losses of the first five epochs of a small run."""
    config = dataclasses.replace(SMALL_CONFIG, architecture=NETWORKS[network], epochs=5, engine=engine)
    return train(config, report=lambda line: None).history["train_loss"].tolist()


def use_small_test_set(patch: pytest.MonkeyPatch) -> None:
    """Makes `train` measure a hundred test images, since the others would take most of the time."""
    train_set, test_set = data.load_mnist()
    small = data.Dataset(test_set.images[:100], test_set.labels[:100])
    patch.setattr(data, "load_mnist", lambda: (train_set, small))


@pytest.mark.slow
@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_losses_are_those_recorded_for_this_recipe(engine: str, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_available(engine):
        pytest.skip(f"{engine} is not installed on this machine")
    use_small_test_set(monkeypatch)
    recorded = json.loads(RECORDED_LOSSES.read_text())
    assert recorded["recipe_versions"] == RECIPE_VERSIONS, f"the losses are of another recipe; {ADVICE}"
    expected = recorded["train_loss"][engine][network]
    for epoch, (loss, was) in enumerate(zip(measure_losses(engine, network), expected, strict=True), start=1):
        assert loss == pytest.approx(was, rel=TOLERANCES[epoch - 1]), (
            f"the loss of epoch {epoch} is not the recorded one, so recorded runs are out of date; {ADVICE}"
        )


if __name__ == "__main__":
    use_small_test_set(pytest.MonkeyPatch())
    losses = {engine: {network: measure_losses(engine, network) for network in NETWORKS} for engine in ENGINES}
    content = {"recipe_versions": RECIPE_VERSIONS, "train_loss": losses}
    RECORDED_LOSSES.write_text(json.dumps(content, indent=1) + "\n")
