"""Starts the engine of a run."""

from __future__ import annotations

from smallcnn.architecture import Weights
from smallcnn.config import TrainingConfig
from smallcnn.data import Dataset
from smallcnn.engines.base import Engine, is_available


def create_engine(config: TrainingConfig, train_set: Dataset, weights: Weights, masks: Weights) -> Engine:
    """Starts the engine of `config` at `weights`, with `masks` (one for a kept kernel weight) by kernel name.

    Raises:
        ModuleNotFoundError: if the engine is not installed here.
        Unsupported: if it cannot train the network.
    """
    if not is_available(config.engine):
        raise ModuleNotFoundError(f"{config.engine} is not installed on this machine; choose engine=tensorflow")
    if config.engine == "halide":  # imported here: a configuration must wait for no engine, a run only for its own
        from smallcnn.engines.halide.engine import HalideEngine

        return HalideEngine(config, train_set, weights, masks)
    from smallcnn.engines.tensorflow import TensorFlowEngine

    return TensorFlowEngine(config, train_set, weights, masks)
