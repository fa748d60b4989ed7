"""One arm's network under training, in Keras. Its twin is `torch_impl/training.py`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import keras
import numpy as np

from keras_impl.builders import build
from parity import weights
from parity.experiment import Experiment
from shared_data.errors import InputError


class Trainer:
    """The network, its loss and its optimizer: what an arm needs of a framework, and no more.

    Raises `InputError` where the experiment's device or precision is not to be had.
    """

    def __init__(self, experiment: Experiment, classes: int) -> None:
        _require(experiment)
        keras.config.set_floatx(experiment.precision)  # optimizer scalars follow it too
        keras.utils.set_random_seed(experiment.seed)
        self.specs = weights.specs(experiment, classes)
        self.classes = classes
        self.precision = experiment.precision
        self.model = build(experiment, classes)
        # The loss is taken on the logits: exact on every backend (on the softmax's output, only
        # TensorFlow finds its way back to them).
        self.network = keras.Model(self.model.inputs, self.model.get_layer("dense2").output)
        self.network.compile(
            optimizer=make_optimizer(experiment),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=keras.backend.backend() == "jax",  # JAX runs eagerly without
        )

    def train_batch(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """One step. Images NHWC, labels int (batch,). Loss and accuracy are from before it."""
        targets = np.eye(self.classes, dtype=self.precision)[labels]
        self.network.reset_metrics()
        values = self.network.train_on_batch(images, targets, return_dict=True)
        return float(values["loss"]), float(values["accuracy"])

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        """Logits (batch, classes) of images NHWC, in evaluation mode."""
        return np.asarray(self.network.predict_on_batch(images))

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of the parameters under canonical names, in canonical layout: Keras' own."""
        values = (keras.ops.convert_to_numpy(v) for v in self.model.trainable_variables)
        return {spec.name: v.copy() for spec, v in zip(self.specs, values, strict=True)}

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Set every parameter. Raises `ValueError` unless `values` are exactly the canonical."""
        weights.check(self.specs, values)
        for spec, variable in zip(self.specs, self.model.trainable_variables, strict=True):
            variable.assign(values[spec.name])

    def parameters(self) -> int:
        return int(self.model.count_params())


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
        "devices": [str(device) for device in keras.distribution.list_devices()],
    }


def _require(experiment: Experiment) -> None:
    backend = keras.backend.backend()
    if experiment.precision == "float64" and backend != "tensorflow":
        raise InputError(
            f"Keras computes parts in float32 on its {backend} backend, whatever it is told. "
            "Use --keras-backend tensorflow for --precision float64."
        )
    if experiment.device == "cuda" and not keras.distribution.list_devices("gpu"):
        raise InputError(
            f"--device cuda: Keras finds no GPU on its {backend} backend. Install a GPU build "
            "of it, or use --device cpu."
        )
