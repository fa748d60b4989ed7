"""One arm's network under training, in Keras. Its twin is `torch_impl/training.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import keras
import numpy as np

from keras_impl.builders import build
from parity import weights
from parity.experiment import Experiment
from shared_data.errors import Unavailable


class Trainer:
    """The network, its loss and its optimizer: what an arm needs of a framework, and no more.

    Raises `InputError` where the experiment's device is not to be had.
    """

    def __init__(self, experiment: Experiment, classes: int) -> None:
        _require(experiment)
        keras.config.set_floatx(experiment.precision)  # optimizer scalars follow it too
        keras.utils.set_random_seed(experiment.seed)
        self.experiment = experiment
        self.specs = weights.specs(experiment, classes)
        self.classes = classes
        self.model = build(experiment, classes)
        # The loss is taken on the logits: exact on every backend (on the softmax's output, only
        # TensorFlow finds its way back to them).
        self.network = keras.Model(self.model.input, self.model.get_layer("dense2").output)
        self.network.compile(
            optimizer=make_optimizer(experiment),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=keras.backend.backend() == "jax",  # JAX runs eagerly without
        )
        self.network.optimizer.build(self.network.trainable_variables)

    def train_batch(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """One step. Images NHWC, labels int (batch,). Loss and accuracy are from before it."""
        targets = np.eye(self.classes, dtype=self.experiment.precision)[labels]
        self.network.reset_metrics()
        values = self.network.train_on_batch(images, targets, return_dict=True)
        return float(values["loss"]), float(values["accuracy"])

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        """Logits (batch, classes) of images NHWC, in evaluation mode."""
        return np.asarray(self.network.predict_on_batch(images))

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of the parameters under canonical names, in canonical layout: Keras' own."""
        return self.canonical(self.model.trainable_variables)

    def moments(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Adam's two moments of every parameter, likewise."""
        optimizer = self.network.optimizer
        return self.canonical(optimizer._momentums), self.canonical(optimizer._velocities)

    def canonical(self, variables: Sequence[Any]) -> dict[str, np.ndarray]:
        """Copies of one variable per parameter, under canonical names, in canonical layout."""
        return {
            spec.name: keras.ops.convert_to_numpy(variable).copy()
            for spec, variable in zip(self.specs, variables, strict=True)
        }

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Set every parameter. Raises `ValueError` unless `values` are exactly the canonical."""
        weights.check(self.specs, values)
        for spec, variable in zip(self.specs, self.model.trainable_variables, strict=True):
            variable.assign(values[spec.name])

    def restart(self, values: Mapping[str, np.ndarray]) -> None:
        """As on the first day: these weights, and an optimizer that has not stepped."""
        self.load(values)
        optimizer = self.network.optimizer
        for variable in (optimizer.iterations, *optimizer._momentums, *optimizer._velocities):
            variable.assign(np.zeros(variable.shape, variable.dtype))

    def resume(
        self,
        values: Mapping[str, np.ndarray],
        first: Mapping[str, np.ndarray],
        second: Mapping[str, np.ndarray],
        steps: int,
    ) -> None:
        """As after `steps` steps: weights and Adam's moments under canonical names."""
        self.load(values)
        optimizer = self.network.optimizer
        optimizer.iterations.assign(np.asarray(steps, optimizer.iterations.dtype))
        for moments, variables in (
            (first, optimizer._momentums),
            (second, optimizer._velocities),
        ):
            for spec, variable in zip(self.specs, variables, strict=True):
                variable.assign(moments[spec.name])

    def parameters(self) -> int:
        return int(self.model.count_params())

    def semantics(self) -> dict[str, Any]:
        """Optimizer and loss as they are built, in the terms that both sides share."""
        optimizer = self.network.optimizer
        reduction = self.network.loss.reduction
        return {
            "optimizer": {
                "kind": type(optimizer).__name__.lower(),
                "learning_rate": float(f"{float(optimizer.learning_rate):.7g}"),  # a variable
                "beta_1": float(optimizer.beta_1),
                "beta_2": float(optimizer.beta_2),
                "epsilon": float(optimizer.epsilon),
                "epsilon_position": "beside the uncorrected root",
                "weight_decay": float(optimizer.weight_decay or 0),
                "amsgrad": bool(optimizer.amsgrad),
            },
            "loss": {
                "kind": "cross-entropy",
                "on": "logits" if self.network.loss.get_config()["from_logits"] else "softmax",
                "reduction": "mean" if reduction == "sum_over_batch_size" else reduction,
                "label_smoothing": float(self.network.loss.get_config()["label_smoothing"]),
            },
        }


def make_optimizer(experiment: Experiment) -> keras.optimizers.Adam:
    """Keras' Adam. Aligned, its betas are float64 scalars: on TensorFlow plain Python floats
    pass through float32 on their way into the bias correction (relative error 7e-6 at step 1)."""
    if experiment.optimizer == "native":
        return keras.optimizers.Adam(experiment.learning_rate)
    return keras.optimizers.Adam(
        experiment.learning_rate, beta_1=np.float64(0.9), beta_2=np.float64(0.999), epsilon=1e-7
    )


def environment() -> dict[str, Any]:
    """Versions and settings that can change this side's numbers."""
    backend = keras.backend.backend()
    return {
        "keras": keras.__version__,
        "backend": backend,
        backend: version(backend),
        "image_data_format": keras.config.image_data_format(),
        "devices": _devices(),
    }


def _devices() -> list[str]:
    """What the backend can compute on, e.g. `cpu:0`, `gpu:0`, `cuda:0`."""
    if keras.backend.backend() == "torch":  # keras.distribution knows nothing of it
        return [str(keras.ops.zeros(1).device)]
    return [str(name) for name in keras.distribution.list_devices()]


def _require(experiment: Experiment) -> None:
    backend = keras.backend.backend()
    if experiment.device == "cuda" and not any("cpu" not in name for name in _devices()):
        raise Unavailable(
            f"--device cuda: Keras finds no GPU on its {backend} backend. Install a GPU build "
            "of it, or use --device cpu."
        )
