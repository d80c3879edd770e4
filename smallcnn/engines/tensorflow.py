"""The reference engine: TensorFlow with Keras, the training set in memory, one graph call an epoch."""

from __future__ import annotations

import numpy as np

from smallcnn.architecture import Weights
from smallcnn.config import TrainingConfig
from smallcnn.data import Dataset
from smallcnn.models import build_model, deciding_settings, import_keras, load_weights, model_variables

import_keras()  # quietly, so before these
import tensorflow as tf  # noqa: E402
import tf_keras as keras  # noqa: E402

PREDICT_BATCH = 1000


class TensorFlowEngine:
    """Trains one network on one thread; see `base.Engine` for the methods.

    Images stay uint8 and are scaled a batch at a time. Adam is Keras' (β₁ 0.9, β₂ 0.999, ε 1e-7), the loss categorical
    cross-entropy. One thread, because a second gains nothing on tensors this small, and because then the same
    configuration gives the same bits.

    Args:
        config: the run; decides the network, the steps of an epoch and dropout.
        train_set: what `order` in `train_epoch` counts in.
        weights: the weights to start from, named as in `architecture.initial_weights`.
        masks: float32 by kernel name, zero for a weight that stays zero; empty for none.

    Raises:
        RuntimeError: if TensorFlow already runs with several threads in this process, or was imported with settings
            that change what it computes.
    """

    def __init__(self, config: TrainingConfig, train_set: Dataset, weights: Weights, masks: Weights) -> None:
        if left := deciding_settings():
            raise RuntimeError(
                f"TensorFlow was imported with {' and '.join(left)} set, which can change what it computes; start anew "
                "without, or import it after smallcnn"
            )
        _use_one_thread()
        self._optimizer = keras.optimizers.Adam(config.learning_rate, jit_compile=False)
        model = build_model(config.architecture)
        load_weights(model, weights)
        self._variables = model_variables(model)
        self._model = _prepare_for_training(model, config, self._optimizer.iterations)
        self._masks = [(self._variables[name], tf.constant(mask)) for name, mask in masks.items()]
        self._images = tf.constant(train_set.images)
        self._labels = tf.constant(train_set.labels)
        self._optimizer.build(self._model.trainable_variables)

    def train_epoch(self, order: np.ndarray, learning_rate: float) -> tuple[float, float]:
        self._optimizer.learning_rate.assign(learning_rate)
        loss, accuracy = self._train_epoch(tf.constant(order))
        return float(loss), float(accuracy)

    def predict(self, images: np.ndarray) -> np.ndarray:
        batches = np.array_split(images, max(1, len(images) // PREDICT_BATCH))
        return np.concatenate([self._predict(tf.constant(batch)).numpy() for batch in batches])

    def get_weights(self) -> Weights:
        return {name: variable.numpy() for name, variable in self._variables.items()}

    def get_state(self) -> Weights:
        return {str(number): variable.numpy() for number, variable in enumerate(self._state())}

    def set_state(self, state: Weights) -> None:
        for number, variable in enumerate(self._state()):
            variable.assign(state[str(number)])

    def _state(self) -> list[tf.Variable]:
        return [*self._model.variables, *self._optimizer.variables]

    @tf.function  # type: ignore[untyped-decorator]
    def _train_epoch(self, order: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss_sum, accuracy_sum = 0.0, 0.0
        for batch in order:
            loss, accuracy = self._train_step(tf.gather(self._images, batch), tf.gather(self._labels, batch))
            loss_sum, accuracy_sum = loss_sum + loss, accuracy_sum + accuracy
        for layer in self._model.layers:
            if hasattr(layer, "pruning_obj"):  # as tfmot's UpdatePruningStep does at the end of an epoch
                layer.pruning_obj.weight_mask_op()
        steps = tf.cast(tf.shape(order)[0], tf.float32)
        return loss_sum / steps, accuracy_sum / steps

    def _train_step(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        targets = tf.one_hot(labels, 10)
        with tf.GradientTape() as tape:
            probabilities = self._model(_scale(images), training=True)
            loss = tf.reduce_mean(keras.losses.categorical_crossentropy(targets, probabilities))
        variables = self._model.trainable_variables
        self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        for kernel, mask in self._masks:
            kernel.assign(kernel * mask)
        accuracy = tf.reduce_mean(keras.metrics.categorical_accuracy(targets, probabilities))
        return loss, accuracy

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def _predict(self, images: tf.Tensor) -> tf.Tensor:
        return self._model(_scale(images), training=False)


class CountedDropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout whose mask is a function of the seed, the layer and the step alone, so that a run can be repeated."""

    def __init__(self, rate: float, seed: tuple[int, int], step: tf.Variable, name: str) -> None:
        super().__init__(name=name)
        self._rate, self._seed, self._step = rate, seed, step

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return inputs
        run, layer = self._seed
        seed = tf.stack([tf.constant(run, tf.int64), self._step * 1000 + layer])
        return tf.nn.experimental.stateless_dropout(inputs, self._rate, seed)


def _prepare_for_training(model: keras.Model, config: TrainingConfig, step: tf.Variable) -> keras.Model:
    """Puts the layers that `model` trains with around its own: dropout, and pruning where the schedule is gradual."""
    training_model = keras.Sequential([keras.Input(model.input_shape[1:])])
    for position, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.Dropout):
            training_model.add(CountedDropout(layer.rate, (config.seed, position), step, layer.name))
        elif isinstance(layer, keras.layers.Conv2D) and config.gradual_sparsity > 0:
            training_model.add(_pruned_gradually(layer, config))
        else:
            training_model.add(layer)
    return training_model


def _pruned_gradually(layer: keras.layers.Layer, config: TrainingConfig) -> keras.layers.Layer:
    """Wraps `layer` in tensorflow-model-optimization's pruning, with its cubic schedule (Zhu & Gupta 2017)."""
    from tensorflow_model_optimization.sparsity import keras as sparsity  # here: seconds, for one run of the book

    frequency = min(100, config.steps_per_epoch)
    end_step = config.gradual_epochs * config.steps_per_epoch // frequency * frequency
    schedule = sparsity.PolynomialDecay(0.0, config.gradual_sparsity, 0, end_step, frequency=frequency)
    wrapper = sparsity.prune_low_magnitude(layer, pruning_schedule=schedule)
    wrapper.build(layer.input_shape)
    wrapper.pruning_step.assign(0)
    return wrapper


def _scale(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(images[..., tf.newaxis], tf.float32) / 255.0


def _use_one_thread() -> None:
    threading = tf.config.threading
    if threading.get_intra_op_parallelism_threads() == threading.get_inter_op_parallelism_threads() == 1:
        return
    try:
        threading.set_intra_op_parallelism_threads(1)
        threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise RuntimeError(
            "TensorFlow already runs with several threads in this process; train in a process of its own, "
            "as runs.records.get_runs does"
        ) from error
