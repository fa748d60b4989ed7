"""A plan of `random_twins` as a Keras model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import layers, ops

from tests.zoo.keras_models import stirred

Spec = dict[str, Any]
Maker = Callable[[str, Spec], Any]


class Scaled(layers.Layer):
    """A layer of one's own: each channel times a number plus another."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.supports_masking = True

    def build(self, shape: tuple[int, ...]) -> None:
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape[-1:], initializer="zeros", name="beta")

    def call(self, x: Any) -> Any:
        return x * self.gamma + self.beta


class Gated(layers.Layer):
    """A layer of one's own: a projection times the sigmoid of another."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units, self.supports_masking = units, True

    def build(self, shape: tuple[int, ...]) -> None:
        for part in ("value", "gate"):
            kernel = self.add_weight(shape=(shape[-1], self.units), name=f"{part}_kernel")
            bias = self.add_weight(shape=(self.units,), initializer="zeros", name=f"{part}_bias")
            setattr(self, part, (kernel, bias))

    def call(self, x: Any) -> Any:
        value, gate = (ops.matmul(x, w) + b for w, b in (self.value, self.gate))
        return value * ops.sigmoid(gate)

    def compute_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], self.units)


def build(plan: Spec) -> keras.Model:
    """The model of `Plan.as_dict()`, with random weights, always the same."""
    keras.utils.set_random_seed(1)
    shape = plan["shape"]
    if plan["open"]:
        shape = [None] if len(shape) == 1 else [None, None, shape[2]]
    given = [keras.Input(shape, dtype="int32" if plan["words"] else None, name="input")]
    mask = None
    if plan["mask"] == "input":
        given.append(keras.Input(shape, dtype="int32", name="mask"))
        mask = ops.cast(given[1], "bool")
    values = {"input": given[0]}
    fused = {
        layer["inputs"][0]: layer["kind"]
        for layer in plan["layers"]
        if layer["settings"].get("fused")
    }
    for layer in plan["layers"]:
        name, kind, settings = layer["name"], layer["kind"], layer["settings"]
        inputs = [values[each] for each in layer["inputs"]]
        if settings.get("fused"):
            values[name] = inputs[0]
            continue
        if settings.get("mode") == "explicit":
            pads = tuple(map(tuple, settings["padding"]))
            inputs = [layers.ZeroPadding2D(pads, name=f"{name}_pad")(inputs[0])]
        made = _made(name, kind, layer, fused.get(name))
        if kind in MERGES:
            values[name] = made(inputs)
        elif kind == "attention":
            masks = {} if mask is None else {"attention_mask": ops.expand_dims(mask, 1)}
            values[name] = made(*inputs, *inputs, **masks)
        elif settings.get("masked") and mask is not None:
            values[name] = made(inputs[0], mask=mask)
        else:
            values[name] = made(inputs[0])
    return stirred(keras.Model(given, values[plan["layers"][-1]["name"]], name="random_twin"))


def from_environment() -> keras.Model:
    """The model of the plan in ZOO_PLAN, which is a JSON file's path or the JSON itself."""
    text = os.environ["ZOO_PLAN"]
    return build(json.loads(text if text.startswith("{") else Path(text).read_text()))


def _made(name: str, kind: str, layer: Spec, fused: str | None) -> Callable[..., Any]:
    settings = layer["settings"]
    if kind in MAKERS:
        return MAKERS[kind](name, {**settings, "activation": fused, "rank": len(layer["shape"])})
    if kind in RECURRENT:
        return _recurrent(name, kind, settings)
    if kind == "gelu" and settings["approximate"]:
        return layers.Activation(lambda x: ops.gelu(x, approximate=True), name=name)
    return layers.Activation(kind, name=name)


def _window(settings: Spec, size: str) -> Spec:
    padding = "same" if settings["mode"] == "same" else "valid"
    return {
        "kernel_size" if size == "kernel" else "pool_size": settings[size],
        **{"strides": settings["stride"], "padding": padding},
    }


def _conv(name: str, settings: Spec) -> Any:
    return layers.Conv2D(
        settings["filters"],
        **_window(settings, "kernel"),
        groups=settings["groups"],
        use_bias=settings["bias"],
        activation=settings["activation"],
        name=name,
    )


def _depthwise(name: str, settings: Spec) -> Any:
    return layers.DepthwiseConv2D(
        **_window(settings, "kernel"),
        depth_multiplier=settings["multiplier"],
        use_bias=settings["bias"],
        activation=settings["activation"],
        name=name,
    )


def _causal(name: str, settings: Spec) -> Any:
    """By its padding, or with zeros on both sides and what is too much at the end cut off."""
    conv = layers.Conv1D(
        settings["units"],
        settings["kernel"],
        padding="causal" if settings["mode"] == "causal" else "valid",
        dilation_rate=settings["dilation"],
        use_bias=settings["bias"],
        name=name,
    )
    if settings["mode"] == "causal":
        return conv
    size = settings["dilation"] * (settings["kernel"] - 1)
    pad = layers.ZeroPadding1D(size, name=f"{name}_pad")
    crop = layers.Cropping1D((0, size), name=f"{name}_crop")
    return lambda x: crop(conv(pad(x)))


def _squeeze_excite(name: str, settings: Spec) -> Any:
    def make(x: Any) -> Any:
        squeezed = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
        first = layers.Dense(settings["hidden"], activation="relu", name=f"{name}_squeeze")
        second = layers.Dense(x.shape[-1], activation="sigmoid", name=f"{name}_excite")
        return layers.Multiply(name=name)([x, second(first(squeezed))])

    return make


def _added(name: str, settings: Spec) -> Any:
    """One layer, or one after the other."""

    def make(inputs: list[Any]) -> Any:
        while settings["nested"] and len(inputs) > 2:
            more = layers.Add(name=f"{name}_{len(inputs)}")(inputs[:2])
            inputs = [more, *inputs[2:]]
        return layers.Add(name=name)(inputs)

    return make


def _pooled(two: Any, one: Any) -> Maker:
    """The global pool of a map or of a sequence: by what comes in, which Keras knows."""

    def make(name: str, settings: Spec) -> Any:
        return lambda x, **mask: (two if len(x.shape) == 4 else one)(name=name)(x, **mask)

    return make


def _spatially(name: str, settings: Spec) -> Any:
    kind = layers.SpatialDropout2D if settings["rank"] == 3 else layers.SpatialDropout1D
    return kind(settings["rate"], name=name)


def _recurrent(name: str, kind: str, settings: Spec) -> Any:
    one = RECURRENT[kind](settings["units"], return_sequences=settings["sequences"], name=name)
    return layers.Bidirectional(one, name=name) if settings["bidirectional"] else one


RECURRENT = {"lstm": layers.LSTM, "gru": layers.GRU, "simple_rnn": layers.SimpleRNN}
MERGES = ("add", "multiply", "concatenate")
MAKERS: dict[str, Maker] = {
    **{"conv": _conv, "depthwise": _depthwise, "causal_conv": _causal, "add": _added},
    **{"squeeze_excite": _squeeze_excite, "spatial_dropout": _spatially},
    "max_pool": lambda name, s: layers.MaxPooling2D(**_window(s, "size"), name=name),
    "average_pool": lambda name, s: layers.AveragePooling2D(**_window(s, "size"), name=name),
    "global_max_pool": _pooled(layers.GlobalMaxPooling2D, layers.GlobalMaxPooling1D),
    "global_average_pool": _pooled(layers.GlobalAveragePooling2D, layers.GlobalAveragePooling1D),
    "batch_norm": lambda name, s: layers.BatchNormalization(
        momentum=s["momentum"], epsilon=s["epsilon"], name=name
    ),
    "layer_norm": lambda name, s: layers.LayerNormalization(epsilon=s["epsilon"], name=name),
    "group_norm": lambda name, s: layers.GroupNormalization(
        s["groups"], epsilon=s["epsilon"], name=name
    ),
    "relu6": lambda name, s: layers.ReLU(6.0, name=name),
    "leaky_relu": lambda name, s: layers.LeakyReLU(s["negative_slope"], name=name),
    "elu": lambda name, s: layers.ELU(s["alpha"], name=name),
    "softmax": lambda name, s: layers.Softmax(name=name),
    "prelu": lambda name, s: layers.PReLU(shared_axes=list(range(1, s["rank"])) or None, name=name),
    "flatten": lambda name, s: layers.Flatten(name=name),
    "dense": lambda name, s: layers.Dense(
        s["units"], use_bias=s["bias"], activation=s["activation"], name=name
    ),
    "dropout": lambda name, s: layers.Dropout(s["rate"], name=name),
    "multiply": lambda name, s: layers.Multiply(name=name),
    "concatenate": lambda name, s: layers.Concatenate(name=name),
    "scaled": lambda name, s: Scaled(name=name),
    "gated": lambda name, s: Gated(s["units"], name=name),
    "nothing": lambda name, s: layers.Activation("linear", name=name) if s["keras"] else _as_it_is,
    "embedding": lambda name, s: layers.Embedding(
        s["words"], s["units"], mask_zero=s["mask_zero"], name=name
    ),
    "attention": lambda name, s: layers.MultiHeadAttention(
        s["heads"], s["head_size"], use_bias=s["bias"], dropout=s["dropout"], name=name
    ),
}


def _as_it_is(x: Any) -> Any:
    return x
