"""How a layer or an operation is read: its kind and settings, in the terms of `parity.check.graph`.

Which goes by which rule stands in `keras_impl.kinds`. A rule takes the layer, the shapes of its
first input and of its output, batch included, and gives (kind, settings).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

Shape = tuple[int, ...]
Described = tuple[str, dict[str, Any]]
Rule = Callable[[Any, Shape, Shape], Described]

RECURRENT = {
    layers.LSTMCell: "lstm",
    layers.GRUCell: "gru",
    layers.SimpleRNNCell: "simple_rnn",
}
FUSED = (
    *(layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
    *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
)
ARITHMETIC = ("add", "subtract", "multiply", "other:divide")
_ACTIVATIONS = keras.activations
FUNCTIONS: dict[Any, Described] = {
    **{
        getattr(_ACTIVATIONS, name): (name, {})
        for name in (
            *("relu", "relu6", "selu", "silu", "hard_silu", "hard_sigmoid", "sigmoid", "tanh"),
            "softplus",
        )
    },
    _ACTIVATIONS.linear: ("identity", {}),
    _ACTIVATIONS.leaky_relu: ("leaky_relu", {"negative_slope": 0.2}),
    _ACTIVATIONS.elu: ("elu", {"alpha": 1.0}),
    _ACTIVATIONS.gelu: ("gelu", {"approximate": False}),
    _ACTIVATIONS.softmax: ("softmax", {"axis": -1}),
}


# Functions


def of_function(function: Any) -> Described | None:
    """Of an activation function; None where it is none of Keras'."""
    given: dict[str, Any] = {}
    if isinstance(function, functools.partial) and not function.args:
        function, given = function.func, function.keywords
    known = FUNCTIONS.get(function) if callable(function) else None
    if known is None or not set(given) <= set(known[1]):
        return None
    return known[0], {**known[1], **given}


def name_of(function: Any) -> str:
    """An activation's name in the terms that both sides share, or else its own."""
    known = of_function(function)
    return known[0] if known else getattr(function, "__name__", type(function).__name__)


def fused(layer: keras.layers.Layer) -> bool:
    """Whether the layer ends in an activation that is a node of its own."""
    if not isinstance(layer, FUSED) or getattr(layer, "activation", None) is None:
        return False
    return layer.activation is not keras.activations.linear


def rescaled(operation: str, given: Sequence[float | None]) -> Described | None:
    """Of add, subtract, multiply or divide with a number; None where it is none of these.

    `given` are the two operands, None for a tensor.
    """
    left, right = given if len(given) == 2 else (None, None)
    number = left if right is None else right
    if number is None or operation not in ARITHMETIC:
        return None
    scale, offset = 1.0, 0.0
    if operation == "add":
        offset = number
    elif operation == "multiply":
        scale = number
    elif operation == "subtract":
        scale, offset = (1.0, -number) if left is None else (-1.0, number)
    elif left is None:
        scale = 1 / number if number else math.inf
    else:
        return None
    return "rescale", {"scale": scale, "offset": offset}


def snake(name: str) -> str:
    """
    >>> snake("LogSoftmax"), snake("ReLU")
    ('log_softmax', 're_lu')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# Padding, worked out


def padding(
    rule: str, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], reach: Any
) -> list[list[int]]:
    """[[before, after]…] of TensorFlow's "same", "valid" and "causal". `reach` is the dilation."""
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, reach, strict=True)]
    if rule == "valid":
        return [[0, 0] for _ in spread]
    if rule == "causal":
        return [[each - 1, 0] for each in spread]
    totals = [
        max((math.ceil(size / step) - 1) * step + each - size, 0)
        for size, step, each in zip(sizes, strides, spread, strict=True)
    ]
    return [[total // 2, total - total // 2] for total in totals]


def spatial(shape: Shape, data_format: str | None) -> Shape:
    """Without batch and channels."""
    first = (data_format or keras.config.image_data_format()) == "channels_first"
    return shape[2:] if first else shape[1:-1]


def _list(value: Any, rank: int) -> list[int]:
    return [value] * rank if isinstance(value, int) else [int(each) for each in value]


# Layers with parameters


def conv(kind: str) -> Rule:
    def describe(layer: Any, before: Shape, after: Shape) -> Described:
        sizes = spatial(before, layer.data_format)
        kernel, strides = list(layer.kernel_size), list(layer.strides)
        dilation = list(layer.dilation_rate)
        settings = {
            "kernel_size": kernel,
            "strides": strides,
            "dilation": dilation,
            "padding": padding(layer.padding, sizes, kernel, strides, dilation),
            "bias": layer.use_bias,
        }
        if kind.startswith("conv"):
            settings["groups"] = layer.groups
        return kind, settings

    return describe


def transposed(kind: str) -> Rule:
    def describe(layer: Any, before: Shape, after: Shape) -> Described:
        """`padding` is what is cut off the full result; negative where zeros are added to it."""
        crops = []
        for size, given, kernel, step, reach in zip(
            spatial(before, layer.data_format),
            spatial(after, layer.data_format),
            layer.kernel_size,
            layer.strides,
            layer.dilation_rate,
            strict=True,
        ):
            total = (size - 1) * step + (kernel - 1) * reach + 1 - given
            cut = max(total, 0) // 2 if layer.padding == "same" else 0
            crops.append([cut, total - cut])
        return kind, {
            "kernel_size": list(layer.kernel_size),
            "strides": list(layer.strides),
            "dilation": list(layer.dilation_rate),
            "padding": crops,
            "groups": 1,
            "bias": layer.use_bias,
        }

    return describe


def dense(layer: Any, before: Shape, after: Shape) -> Described:
    return "dense", {"bias": layer.use_bias}


def einsum_dense(layer: Any, before: Shape, after: Shape) -> Described:
    """Dense where the kernel is a matrix that the last axis is multiplied by."""
    sides, result = layer.equation.replace("...", "").split("->")
    left, kernel = sides.split(",")
    plain = len(kernel) == 2 and left[-1:] == kernel[0] and result[-1:] == kernel[1]
    bias = layer.bias_axes is not None
    return "dense" if plain else "other:EinsumDense", {"bias": bias, "equation": layer.equation}


def normalised(kind: str) -> Rule:
    def describe(layer: Any, before: Shape, after: Shape) -> Described:
        axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
        size = math.prod(before[axis] for axis in axes)
        rms = getattr(layer, "rms_scaling", False)
        return "rms_norm" if rms else kind, {
            "epsilon": layer.epsilon,
            "scale": getattr(layer, "scale", True) is not False,  # of RMSNormalization: a weight
            "center": getattr(layer, "center", False) and not rms,
            "size": size,
        }

    return describe


def group_norm(layer: Any, before: Shape, after: Shape) -> Described:
    return "group_norm", {
        "epsilon": layer.epsilon,
        "scale": layer.scale,
        "center": layer.center,
        "groups": layer.groups,
        "size": math.prod(before[1:]) // layer.groups,
    }


def batch_norm(layer: Any, before: Shape, after: Shape) -> Described:
    settings = {
        "momentum": layer.momentum,
        "epsilon": layer.epsilon,
        "scale": layer.scale,
        "center": layer.center,
        "unbiased": False,
        "frozen": not layer.trainable,  # then it normalises by its moving statistics
    }
    if layer.axis % len(before) != len(before) - 1:
        settings["axis"] = layer.axis
    return "batch_norm", settings


def recurrent(layer: Any, before: Shape, after: Shape) -> Described:
    cell = layer.cell
    kind = RECURRENT.get(type(cell))
    if kind is None:
        return f"other:{type(layer).__name__}", {}
    settings = {
        "units": cell.units,
        "layers": 1,
        "bidirectional": False,
        "bias": cell.use_bias,
        "activation": name_of(cell.activation),
        "sequences": layer.return_sequences,
        "batch_first": True,
    }
    if kind != "simple_rnn":
        settings["recurrent_activation"] = name_of(cell.recurrent_activation)
    if kind == "gru":
        settings["reset_after"] = cell.reset_after
    return kind, {**settings, **{key: True for key in ("go_backwards",) if getattr(layer, key)}}


def bidirectional(layer: Any, before: Shape, after: Shape) -> Described:
    inner = layer.forward_layer
    if not isinstance(inner, layers.RNN):
        return "other:Bidirectional", {}
    kind, settings = recurrent(inner, before, after)
    merge = {} if layer.merge_mode == "concat" else {"merge_mode": layer.merge_mode}
    return kind, {**settings, "bidirectional": True, **merge}


def time_distributed(layer: Any, before: Shape, after: Shape) -> Described:
    """A dense layer takes further axes as they are; others do not."""
    plain = isinstance(layer.layer, layers.Dense) and not fused(layer.layer)
    return dense(layer.layer, before, after) if plain else ("other:TimeDistributed", {})


def attention(layer: Any, before: Shape, after: Shape) -> Described:
    return "attention", {
        "heads": layer.num_heads,
        "head_size": layer.key_dim,
        "bias": layer.use_bias,
        "batch_first": True,
    }


# Layers without


def plain(kind: str, **names: str) -> Rule:
    """Settings by their own name, from the attributes named."""

    def describe(layer: Any, before: Shape, after: Shape) -> Described:
        return kind, {key: getattr(layer, name) for key, name in names.items()}

    return describe


def embedding(layer: Any, before: Shape, after: Shape) -> Described:
    """No row is ever kept from training."""
    return "embedding", {"padding_idx": None, "mask_zero": bool(layer.mask_zero)}


def pool(kind: str) -> Rule:
    def describe(layer: Any, before: Shape, after: Shape) -> Described:
        sizes = spatial(before, layer.data_format)
        size = _list(layer.pool_size, len(sizes))
        strides = size if layer.strides is None else _list(layer.strides, len(sizes))
        settings: dict[str, Any] = {
            "size": size,
            "strides": strides,
            "padding": padding(layer.padding, sizes, size, strides, [1] * len(size)),
        }
        if kind == "average_pool":
            settings["count_include_pad"] = False
        return kind, settings

    return describe


def zero_padding(layer: Any, before: Shape, after: Shape) -> Described:
    sides = layer.padding if isinstance(layer.padding[0], list | tuple) else [layer.padding]
    return "pad", {"padding": [list(each) for each in sides], "mode": "constant", "value": 0.0}


def upsample(layer: Any, before: Shape, after: Shape) -> Described:
    way = getattr(layer, "interpolation", "nearest")
    settings = {"size": _list(layer.size, len(before) - 2), "interpolation": way}
    return "upsample", settings if way == "nearest" else {**settings, "align_corners": False}


def rescale(layer: Any, before: Shape, after: Shape) -> Described:
    if any(np.ndim(each) for each in (layer.scale, layer.offset)):  # of each channel
        return "rescale", {}
    return "rescale", {"scale": float(layer.scale), "offset": float(layer.offset)}


def reshape(layer: Any, before: Shape, after: Shape) -> Described:
    """What leaves (batch, all the rest) is a flatten, whatever it is called."""
    flat = len(after) == 2 < len(before) and before[0] == after[0]
    return ("flatten" if flat else "reshape"), {}


def reduced(kind: str, whole: str) -> Rule:
    """Over all of a map, it is a global pool."""

    def describe(operation: Any, before: Shape, after: Shape) -> Described:
        axes = sorted(axis % len(before) for axis in _axes(operation.axis, len(before)))
        if len(before) >= 4 and axes == list(range(1, len(before) - 1)):
            return whole, {}
        return kind, {"axes": axes}

    return describe


def _axes(axis: Any, rank: int) -> Sequence[int]:
    if axis is None:
        return range(rank)
    return axis if isinstance(axis, list | tuple) else [axis]


def concatenate(layer: Any, before: Shape, after: Shape) -> Described:
    axis = layer.axis
    return "concatenate", {"axis": axis if axis < 0 else axis - len(after)}


def softmax(layer: Any, before: Shape, after: Shape) -> Described:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    from_last = [axis if axis < 0 else axis - len(before) for axis in axes]
    return "softmax", {"axis": from_last[0] if len(from_last) == 1 else from_last}


def relu(layer: Any, before: Shape, after: Shape) -> Described:
    slope, most, threshold = layer.negative_slope, layer.max_value, layer.threshold
    if threshold or (most is not None and (most != 6 or slope)):
        return "other:ReLU", {}
    if slope:
        return "leaky_relu", {"negative_slope": float(slope)}
    return ("relu" if most is None else "relu6"), {}


def activation(layer: Any, before: Shape, after: Shape) -> Described:
    known = of_function(layer.activation)
    return known or (f"other:{name_of(layer.activation)}", {})


def pad_operation(operation: Any, before: Shape, after: Shape) -> Described:
    widths = [list(each) for each in operation.pad_width]
    widths = widths * len(before) if len(widths) == 1 else widths
    inner = widths[1:-1] if len(widths) > 2 else widths
    around = operation.mode == "constant" and (len(widths) < 3 or not any(widths[0] + widths[-1]))
    if not around:
        return "other:pad", {"padding": widths}
    return "pad", {"padding": inner, "mode": "constant", "value": 0.0}
