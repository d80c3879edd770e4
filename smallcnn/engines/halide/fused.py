"""A chain of blocks, each computed in few passes over memory; the same formulas as in `layers`, woven together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from smallcnn.architecture import CLASSES
from smallcnn.engines.halide.arrays import Shape, Stages, describe_arrays
from smallcnn.engines.halide.backward import backward_pipeline
from smallcnn.engines.halide.blocks import Network
from smallcnn.engines.halide.forward import forward_pipeline


class FusedBlocks:
    """What `chain.Chain` is to the engine, for a network of blocks."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def arrays(self, packs: int) -> dict[str, Shape]:
        return describe_arrays(self._network.blocks, packs, self._network.is_dense)

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        if not self._network.is_dense:  # global average pooling is a dense layer with a fixed kernel and no bias
            arrays["dense/kernel"][:] = np.eye(CLASSES) / self._network.blocks[-1].output_size ** 2

    def forward(self, batch_size: int, stages: Stages) -> None:
        forward_pipeline(self._network.blocks, batch_size, stages)

    def backward(self, batch_size: int, stages: Stages) -> None:
        backward_pipeline(self._network.blocks, batch_size, self._network.is_dense, stages)
