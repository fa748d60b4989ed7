"""Look inside one batch, layer by layer, in Keras. Its twin is `torch_impl/probing.py`.

Keras has no gradient function that all backends share. Its optimizers are handed gradients on
every backend, though: an optimizer that keeps what it is handed, and variables added in the places
of interest, give every gradient through `train_on_batch` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_impl.training import Trainer
from parity.probe import INPUT, Layer

Tensors = dict[str, np.ndarray]


class Prober:
    """Activations and gradients of a trainer's network, under canonical names and in NHWC."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.dtype = trainer.experiment.precision  # never Keras' global one: others may set it
        self.steps = {
            _canonical(layer): layer
            for layer in trainer.network.layers
            if not isinstance(layer, keras.layers.InputLayer)
        }

    def free(self, images: np.ndarray, labels: np.ndarray) -> dict[str, Tensors]:
        """The network as it is. Images NHWC, labels int64 (batch,).

        Returns `activation`, `loss`, `upstream` and `gradient` as `parity.probe` names them.
        """
        source = _source(images)
        x = Tap(name=INPUT, dtype=self.dtype)(source)
        outputs = {}
        for name, layer in self.steps.items():
            outputs[name] = x = Tap(name=_tap(name), dtype=self.dtype)(layer(x))
        model = keras.Model(source, x)
        targets = np.eye(self.trainer.classes, dtype=images.dtype)[labels]
        entropy = keras.losses.CategoricalCrossentropy(from_logits=True, dtype=self.dtype)
        loss, gradients = _gradients(model, entropy, images, targets)
        activations = keras.Model(source, outputs).predict_on_batch(images)
        return {
            "activation": {name: np.asarray(value) for name, value in activations.items()},
            "loss": {"loss": np.asarray(loss, dtype=images.dtype)},
            "upstream": {name: gradients[_tap(name)] for name in outputs},
            "gradient": {
                **{spec.name: gradients[spec.name] for spec in self.trainer.specs},
                INPUT: gradients[INPUT],
            },
        }

    def isolated(
        self, inputs: Mapping[str, np.ndarray], upstream: Mapping[str, np.ndarray]
    ) -> dict[str, Tensors]:
        """Each layer alone. `inputs` and `upstream` per layer: what goes in, and the gradient of
        the loss by what comes out. Returns `activation`, `upstream` (by the input), `gradient`."""
        names = list(self.steps)
        feed, wanted = [inputs[name] for name in names], [upstream[name] for name in names]
        sources = [_source(given) for given in feed]
        outputs = [
            layer(Tap(name=_tap(name), dtype=self.dtype)(source))
            for (name, layer), source in zip(self.steps.items(), sources, strict=True)
        ]
        model = keras.Model(sources, outputs)
        _, gradients = _gradients(model, [InnerProduct(self.dtype) for _ in names], feed, wanted)
        activations = model.predict_on_batch(feed)
        return {
            "activation": dict(zip(names, map(np.asarray, activations), strict=True)),
            "upstream": {name: gradients[_tap(name)] for name in names},
            "gradient": {spec.name: gradients[spec.name] for spec in self.trainer.specs},
        }

    def layers(self) -> tuple[Layer, ...]:
        """The layers in forward order, in the terms that both sides share."""
        described, before = [], INPUT
        for name, layer in self.steps.items():
            parameters = {
                spec.name: spec.shape
                for spec in self.trainer.specs
                if spec.name.rpartition(".")[0] == name
            }
            kind, settings = _describe(layer)
            shape = tuple(int(side) for side in layer.output.shape[1:])
            described.append(Layer(name, kind, (before,), shape, parameters, settings))
            before = name
        return tuple(described)


class Tap(keras.layers.Layer):
    """Adds zero: the gradient by that zero is the gradient by what passes through."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.zero = self.add_weight(shape=input_shape, initializer="zeros", name=self.name)

    def call(self, inputs: Any) -> Any:
        return inputs + self.zero


class Capture(keras.optimizers.Optimizer):
    """Keeps every gradient that it is handed, and changes nothing."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)

    def build(self, variables: list[Any]) -> None:
        if not self.built:
            super().build(variables)
            self.captured = [
                self.add_variable_from_reference(v, name="gradient") for v in variables
            ]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign(self.captured[self._get_variable_index(variable)], gradient)


def _gradients(model: keras.Model, loss: Any, inputs: Any, targets: Any) -> tuple[float, Tensors]:
    """The loss, and its gradients by layer (taps) or `layer.kernel`, `layer.bias`."""
    capture = Capture()
    model.compile(capture, loss, run_eagerly=keras.backend.backend() != "jax", jit_compile=False)
    value = model.train_on_batch(inputs, targets)
    owners = [
        layer.name if isinstance(layer, Tap) else f"{_canonical(layer)}.{variable.name}"
        for layer in model.layers
        for variable in layer.trainable_variables
    ]
    variables = [v.path for layer in model.layers for v in layer.trainable_variables]
    captured = dict(zip((v.path for v in model.trainable_variables), capture.captured, strict=True))
    return float(np.asarray(value).reshape(-1)[0]), {
        owner: keras.ops.convert_to_numpy(captured[path]).copy()
        for owner, path in zip(owners, variables, strict=True)
    }


def _canonical(layer: keras.layers.Layer) -> str:
    return str(layer.name.replace("_", "."))


def _tap(name: str) -> str:
    """What the tap at layer `name` is called."""
    return name.replace(".", "_") + "_tap"


def _source(given: np.ndarray) -> Any:
    """An input of just this batch, since taps have its size."""
    return keras.Input(given.shape[1:], batch_size=len(given), dtype=given.dtype.name)


class InnerProduct(keras.losses.Loss):
    """sum(upstream * output): its gradient by the output is the upstream gradient itself."""

    def __init__(self, dtype: str) -> None:
        super().__init__(reduction="sum", dtype=dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.sum(keras.ops.reshape(y_true * y_pred, (y_pred.shape[0], -1)), axis=1)


def _describe(layer: keras.layers.Layer) -> tuple[str, dict[str, Any]]:
    """A layer's kind and settings, in the terms that both sides share."""
    dtype = layer.compute_dtype
    match layer:
        case keras.layers.Conv2D():
            reach = [
                (size - 1) // 2 if layer.padding == "same" else 0 for size in layer.kernel_size
            ]
            return "conv", {
                "kernel_size": list(layer.kernel_size),
                "strides": list(layer.strides),
                "padding": reach,
                "dilation": list(layer.dilation_rate),
                "groups": layer.groups,
                "bias": layer.use_bias,
                "activation": layer.activation.__name__,
                "dtype": dtype,
            }
        case keras.layers.MaxPooling2D() | keras.layers.AveragePooling2D():
            return "pool", {
                "pool": "max" if isinstance(layer, keras.layers.MaxPooling2D) else "average",
                "size": list(layer.pool_size),
                "strides": list(layer.strides),
                "padding": [0, 0] if layer.padding == "valid" else "same",
                "dtype": dtype,
            }
        case keras.layers.Dense():
            return "dense", {
                "bias": layer.use_bias,
                "activation": layer.activation.__name__,
                "dtype": dtype,
            }
        case keras.layers.ReLU():
            return "relu", {"negative_slope": float(layer.negative_slope), "dtype": dtype}
        case keras.layers.Flatten():
            return "flatten", {"order": "HWC", "dtype": dtype}
    return type(layer).__name__.lower(), {"dtype": dtype}
