"""What the training loop needs of a program that computes steps."""

from __future__ import annotations

import importlib.util
from typing import Protocol

import numpy as np

from smallcnn.architecture import Weights


class Unsupported(ValueError):
    """An engine cannot train a network; the message says what it lacks."""


class Engine(Protocol):
    """Trains one network."""

    def train_epoch(self, order: np.ndarray, learning_rate: float) -> tuple[float, float]:
        """Makes one step of Adam for each row of `order`, int32 (steps, batch size) of training images.

        Returns the averages over the epoch of cross-entropy loss and of accuracy (0 to 1).
        """

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 class probabilities (n, 10) for uint8 images (n, 28, 28)."""

    def get_weights(self) -> Weights:
        """Returns a copy of the weights, named as in `initial_weights`."""

    def get_state(self) -> Weights:
        """Returns a copy of all that the next epoch starts from."""

    def set_state(self, state: Weights) -> None:
        """Goes back to what `get_state` returned, in this or another process."""


def is_available(engine: str) -> bool:
    """Whether the package of `engine` is installed; Halide has no wheel for some platforms."""
    return importlib.util.find_spec(engine) is not None
