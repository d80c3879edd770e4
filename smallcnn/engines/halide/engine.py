"""The engine: what a training step and a prediction are made of."""

from __future__ import annotations

import numpy as np

from smallcnn.architecture import CLASSES, IMAGE_SIZE, Architecture, BatchNormalisation, Weights, is_trainable
from smallcnn.config import TrainingConfig
from smallcnn.data import Dataset
from smallcnn.engines.base import Unsupported
from smallcnn.engines.halide.arrays import LANES, Shape, Stages, describe_ends, flatten
from smallcnn.engines.halide.blocks import describe_network
from smallcnn.engines.halide.chain import Chain
from smallcnn.engines.halide.fused import FusedBlocks
from smallcnn.engines.halide.update import step_size, update_pipeline

STATE = ("weights", "moving", "first_moment", "second_moment")  # vectors that an epoch starts from


class HalideEngine:
    """Trains one network on all cores that Halide may use; see `base.Engine` for the methods.

    The environment variable `HL_NUM_THREADS` limits the cores; the outcome does not depend on their number, to the bit.

    Args:
        config: the run; decides the network, the steps of an epoch and dropout.
        train_set: what `order` in `train_epoch` counts in.
        weights: the weights to start from, named as in `architecture.initial_weights`.
        masks: float32 by kernel name, zero for a weight that stays zero; empty for none.

    Raises:
        Unsupported: if `config` asks for a gradual pruning schedule.
    """

    def __init__(self, config: TrainingConfig, train_set: Dataset, weights: Weights, masks: Weights) -> None:
        if config.gradual_sparsity > 0:
            raise Unsupported(
                f"gradual_sparsity is {config.gradual_sparsity}; the Halide engine has no gradual pruning, "
                "so train with engine='tensorflow'"
            )
        self._train_set, self._steps = train_set, 0
        blocks, batch_size = describe_network(config.architecture), config.batch_size
        network = FusedBlocks(blocks) if blocks else Chain(config.architecture)
        packs = -(-batch_size // LANES)
        shapes = describe_ends(packs) | network.arrays(packs)
        arrays = {name: shape.allocate() for name, shape in shapes.items()}
        arrays["lane_mask"].reshape(-1)[:batch_size] = 1
        arrays["dropout_key"][0] = np.random.SeedSequence(config.seed).generate_state(1)[0]
        network.fill(arrays)

        # What the update reads and writes lies in vectors, of which the other pipelines have the parts.
        self._names = list(weights)
        moving = {name: array for name, array in weights.items() if not is_trainable(name)}
        trained = {name: array for name, array in weights.items() if name not in moving}
        mask = {name: masks.get(name, np.ones_like(array)) for name, array in trained.items()}
        vectors: Weights = {"step_size": np.zeros(1, np.float32)}
        vectors["weights"], self._trained = flatten(trained)
        vectors["mask"], _ = flatten(mask)
        vectors["gradient"], self._gradient = flatten({name: 0 * array for name, array in trained.items()})
        vectors["moving"], self._moving = flatten(moving)
        vectors["moving_share"], _ = flatten(_moving_shares(config.architecture))
        vectors["statistics"], statistics = flatten({name: 0 * array for name, array in moving.items()})
        for moment in ("first_moment", "second_moment"):
            vectors[moment] = Shape(vectors["weights"].shape).allocate()
        parts = self._trained | self._moving | {f"{name}_gradient": part for name, part in self._gradient.items()}
        parts |= {name.replace("/moving_", "/"): part for name, part in statistics.items()}
        arrays |= vectors | {name: part.reshape(arrays[name].shape) for name, part in parts.items()}
        shapes |= {name: Shape(vector.shape) for name, vector in vectors.items()}

        self._arrays = arrays
        self._images = arrays["images"].reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
        self._labels = arrays["labels"].reshape(-1)
        forward, backward, update = Stages(shapes), Stages(shapes), Stages(shapes)
        network.forward(batch_size, forward)
        network.backward(batch_size, backward)
        update_pipeline(update, has_statistics=bool(moving))
        self._forward, self._backward, self._update = (stages.compile(arrays) for stages in (forward, backward, update))

    def train_epoch(self, order: np.ndarray, learning_rate: float) -> tuple[float, float]:
        sums = np.zeros(2)
        for batch in order:
            sums += self._compute_gradient(batch)
            self._change_weights(learning_rate)
        loss, accuracy = sums / order.size
        return float(loss), float(accuracy)

    def predict(self, images: np.ndarray) -> np.ndarray:
        self._arrays["training"][:] = False
        probabilities = np.empty((len(images), CLASSES), np.float32)
        for start in range(0, len(images), len(self._images)):
            batch = slice(start, start + len(self._images))
            count = len(images[batch])
            self._images[:count] = images[batch]
            self._forward()
            probabilities[batch] = self._arrays["probabilities"].transpose(0, 2, 1).reshape(-1, CLASSES)[:count]
        return probabilities

    def get_weights(self) -> Weights:
        return {name: {**self._trained, **self._moving}[name].copy() for name in self._names}

    def get_state(self) -> Weights:
        return {name: self._arrays[name].copy() for name in STATE} | {"steps": np.array(self._steps)}

    def set_state(self, state: Weights) -> None:
        self._steps = int(state["steps"])
        for name in STATE:
            self._arrays[name][:] = state[name]

    def _compute_gradient(self, batch: np.ndarray) -> np.ndarray:
        """Computes the gradient at a batch of training images; returns summed loss and images that were right.

        Counts as a step for dropout and Adam.
        """
        self._steps += 1
        self._arrays["training"][:] = True
        self._arrays["dropout_key"][1] = self._steps
        self._train_set.images.take(batch, axis=0, out=self._images[: len(batch)], mode="clip")
        self._train_set.labels.take(batch, axis=0, out=self._labels[: len(batch)], mode="clip")
        self._forward()
        self._backward()
        return self._arrays["loss_and_correct"]

    def _change_weights(self, learning_rate: float) -> None:
        self._arrays["step_size"][:] = step_size(learning_rate, self._steps)
        self._update()


def _moving_shares(architecture: Architecture) -> Weights:
    """For each moving statistic the share of the batch's that a step moves it by."""
    return {
        name: np.full(shape, 1 - placed.layer.momentum)
        for placed in architecture.placed
        if isinstance(placed.layer, BatchNormalisation)
        for name, shape in placed.weights.items()
        if not is_trainable(name)
    }
