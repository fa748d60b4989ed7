"""A plan of `random_twins` as a Keras model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import layers

from tests.zoo.keras_models import stirred

Spec = dict[str, Any]
Maker = Callable[[str, Spec], Any]


def build(plan: Spec) -> keras.Model:
    """The model of `Plan.as_dict()`, with random weights."""
    dtype = "int32" if plan["words"] else None
    given = keras.Input(tuple(plan["shape"]), dtype=dtype, name="input")
    values = {"input": given}
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
        if kind == "attention":
            inputs *= 2
        made = _made(name, kind, layer, fused.get(name))
        values[name] = made(*inputs) if kind not in ("add", "concatenate") else made(inputs)
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
        return lambda x: keras.ops.gelu(x, approximate=True)
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


def _pooled(two: Any, one: Any) -> Maker:
    """The global pool of a map or of a sequence: by what comes in, which Keras knows."""

    def make(name: str, settings: Spec) -> Any:
        return lambda x: (two if len(x.shape) == 4 else one)(name=name)(x)

    return make


def _recurrent(name: str, kind: str, settings: Spec) -> Any:
    one = RECURRENT[kind](settings["units"], return_sequences=settings["sequences"], name=name)
    return layers.Bidirectional(one, name=name) if settings["bidirectional"] else one


RECURRENT = {"lstm": layers.LSTM, "gru": layers.GRU, "simple_rnn": layers.SimpleRNN}
MAKERS: dict[str, Maker] = {
    "conv": _conv,
    "depthwise": _depthwise,
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
    "add": lambda name, s: layers.Add(name=name),
    "concatenate": lambda name, s: layers.Concatenate(name=name),
    "embedding": lambda name, s: layers.Embedding(s["words"], s["units"], name=name),
    "attention": lambda name, s: layers.MultiHeadAttention(
        s["heads"], s["head_size"], use_bias=s["bias"], name=name
    ),
}
