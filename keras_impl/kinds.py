"""What a layer or an operation is in the terms of `parity.check.graph`: its kind and settings.

Every entry of the tables takes the layer, the shape of its first input and of its output, both with
the batch, and returns (kind, settings).
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
Describe = Callable[[Any, Shape, Shape], Described]


def of_layer(layer: keras.layers.Layer) -> Describe | None:
    """The entry of the layer's class, or of the nearest parent whose `call` it has unchanged."""
    for parent in type(layer).__mro__:
        if parent in LAYERS:
            same = type(layer).call is parent.call
            return LAYERS[parent] if same else None
    return NAMED.get(type(layer).__name__)


def is_unit(layer: keras.layers.Layer) -> bool:
    """Whether the layer is one node, whatever is inside it."""
    if isinstance(layer, keras.Model):
        return False
    whole = type(layer).__module__.startswith("keras.src.layers")  # Keras' own, known or not
    return whole or of_layer(layer) is not None or not layer._layers


def of_operation(operation: keras.Operation, before: Shape, after: Shape) -> Described:
    """Of a function of `keras.ops` or `keras.activations`."""
    name = type(operation).__name__
    entry = OPERATIONS.get(name)
    return entry(operation, before, after) if entry else (f"other:{snake(name)}", {})


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


def _conv(kind: str) -> Describe:
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


def _transposed(kind: str) -> Describe:
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


def _dense(layer: Any, before: Shape, after: Shape) -> Described:
    return "dense", {"bias": layer.use_bias}


def _einsum_dense(layer: Any, before: Shape, after: Shape) -> Described:
    """Dense where the kernel is a matrix that the last axis is multiplied by."""
    sides, result = layer.equation.replace("...", "").split("->")
    left, kernel = sides.split(",")
    plain = len(kernel) == 2 and left[-1:] == kernel[0] and result[-1:] == kernel[1]
    return "dense" if plain else "other:EinsumDense", {"bias": layer.bias_axes is not None}


def _normalised(kind: str) -> Describe:
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


def _group_norm(layer: Any, before: Shape, after: Shape) -> Described:
    return "group_norm", {
        "epsilon": layer.epsilon,
        "scale": layer.scale,
        "center": layer.center,
        "groups": layer.groups,
        "size": math.prod(before[1:]) // layer.groups,
    }


def _batch_norm(layer: Any, before: Shape, after: Shape) -> Described:
    settings = {
        "momentum": layer.momentum,
        "epsilon": layer.epsilon,
        "scale": layer.scale,
        "center": layer.center,
        "unbiased": False,
    }
    if layer.axis % len(before) != len(before) - 1:
        settings["axis"] = layer.axis
    return "batch_norm", settings


def _recurrent(layer: Any, before: Shape, after: Shape) -> Described:
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
    }
    if kind != "simple_rnn":
        settings["recurrent_activation"] = name_of(cell.recurrent_activation)
    if kind == "gru":
        settings["reset_after"] = cell.reset_after
    return kind, {**settings, **{key: True for key in ("go_backwards",) if getattr(layer, key)}}


def _bidirectional(layer: Any, before: Shape, after: Shape) -> Described:
    inner = layer.forward_layer
    if not isinstance(inner, layers.RNN):
        return "other:Bidirectional", {}
    kind, settings = _recurrent(inner, before, after)
    merge = {} if layer.merge_mode == "concat" else {"merge_mode": layer.merge_mode}
    return kind, {**settings, "bidirectional": True, **merge}


def _time_distributed(layer: Any, before: Shape, after: Shape) -> Described:
    """A dense layer takes further axes as they are; others do not."""
    plain = isinstance(layer.layer, layers.Dense) and not fused(layer.layer)
    return _dense(layer.layer, before, after) if plain else ("other:TimeDistributed", {})


def _attention(layer: Any, before: Shape, after: Shape) -> Described:
    return "attention", {
        "heads": layer.num_heads,
        "head_size": layer.key_dim,
        "bias": layer.use_bias,
    }


# Layers without


def _plain(kind: str, **names: str) -> Describe:
    """Settings by their own name, from the attributes named."""

    def describe(layer: Any, before: Shape, after: Shape) -> Described:
        return kind, {key: getattr(layer, name) for key, name in names.items()}

    return describe


def _pool(kind: str) -> Describe:
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


def _zero_padding(layer: Any, before: Shape, after: Shape) -> Described:
    sides = layer.padding if isinstance(layer.padding[0], list | tuple) else [layer.padding]
    return "pad", {"padding": [list(each) for each in sides], "mode": "constant", "value": 0.0}


def _upsample(layer: Any, before: Shape, after: Shape) -> Described:
    way = getattr(layer, "interpolation", "nearest")
    return "upsample", {"size": _list(layer.size, len(before) - 2), "interpolation": way}


def _rescale(layer: Any, before: Shape, after: Shape) -> Described:
    if any(np.ndim(each) for each in (layer.scale, layer.offset)):  # of each channel
        return "rescale", {}
    return "rescale", {"scale": float(layer.scale), "offset": float(layer.offset)}


def reshape(layer: Any, before: Shape, after: Shape) -> Described:
    """What leaves (batch, all the rest) is a flatten, whatever it is called."""
    flat = len(after) == 2 < len(before) and before[0] == after[0]
    return ("flatten" if flat else "reshape"), {}


def _reduced(kind: str, whole: str) -> Describe:
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


def _concatenate(layer: Any, before: Shape, after: Shape) -> Described:
    axis = layer.axis
    return "concatenate", {"axis": axis if axis < 0 else axis - len(after)}


def _softmax(layer: Any, before: Shape, after: Shape) -> Described:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    from_last = [axis if axis < 0 else axis - len(before) for axis in axes]
    return "softmax", {"axis": from_last[0] if len(from_last) == 1 else from_last}


def _relu(layer: Any, before: Shape, after: Shape) -> Described:
    slope, most, threshold = layer.negative_slope, layer.max_value, layer.threshold
    if threshold or (most is not None and (most != 6 or slope)):
        return "other:ReLU", {}
    if slope:
        return "leaky_relu", {"negative_slope": float(slope)}
    return ("relu" if most is None else "relu6"), {}


def _activation(layer: Any, before: Shape, after: Shape) -> Described:
    known = of_function(layer.activation)
    return known or (f"other:{name_of(layer.activation)}", {})


def _pad_operation(operation: Any, before: Shape, after: Shape) -> Described:
    widths = [list(each) for each in operation.pad_width]
    widths = widths * len(before) if len(widths) == 1 else widths
    inner = widths[1:-1] if len(widths) > 2 else widths
    around = operation.mode == "constant" and (len(widths) < 3 or not any(widths[0] + widths[-1]))
    if not around:
        return "other:pad", {"padding": widths}
    return "pad", {"padding": inner, "mode": "constant", "value": 0.0}


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
# Operations of Keras that hand on what they got, in another type at most.
PASSING = ("ConvertToTensor", "Cast", "SaturateCast", "StopGradient")
PIECES = ("Split", "Unstack", "ArraySplit")  # they give out parts, each in its own right
DROPPING = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")

LAYERS: dict[type, Describe] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.Conv1D: _conv("conv1d"),
    layers.Conv2D: _conv("conv2d"),
    layers.Conv3D: _conv("conv3d"),
    layers.DepthwiseConv1D: _conv("depthwise_conv1d"),
    layers.DepthwiseConv2D: _conv("depthwise_conv2d"),
    layers.SeparableConv1D: _conv("separable_conv1d"),
    layers.SeparableConv2D: _conv("separable_conv2d"),
    layers.Conv1DTranspose: _transposed("conv_transpose1d"),
    layers.Conv2DTranspose: _transposed("conv_transpose2d"),
    layers.Conv3DTranspose: _transposed("conv_transpose3d"),
    layers.BatchNormalization: _batch_norm,
    layers.LayerNormalization: _normalised("layer_norm"),
    layers.RMSNormalization: _normalised("rms_norm"),
    layers.GroupNormalization: _group_norm,
    layers.Embedding: _plain("embedding"),
    layers.RNN: _recurrent,
    layers.LSTM: _recurrent,
    layers.GRU: _recurrent,
    layers.SimpleRNN: _recurrent,
    layers.Bidirectional: _bidirectional,
    layers.TimeDistributed: _time_distributed,
    layers.MultiHeadAttention: _attention,
    layers.PReLU: _plain("prelu"),
    layers.Normalization: _plain("normalization"),
    layers.Activation: _activation,
    layers.ReLU: _relu,
    layers.LeakyReLU: _plain("leaky_relu", negative_slope="negative_slope"),
    layers.ELU: _plain("elu", alpha="alpha"),
    layers.Softmax: _softmax,
    **{
        getattr(layers, f"{name}Pooling{rank}D"): _pool(kind)
        for name, kind in (("Max", "max_pool"), ("Average", "average_pool"))
        for rank in (1, 2, 3)
    },
    **{
        getattr(layers, f"Global{name}Pooling{rank}D"): _plain(kind)
        for name, kind in (("Max", "global_max_pool"), ("Average", "global_average_pool"))
        for rank in (1, 2, 3)
    },
    **{getattr(layers, f"ZeroPadding{rank}D"): _zero_padding for rank in (1, 2, 3)},
    **{getattr(layers, f"UpSampling{rank}D"): _upsample for rank in (1, 2, 3)},
    **{getattr(layers, f"Cropping{rank}D"): _plain("select") for rank in (1, 2, 3)},
    **{getattr(layers, name): _plain("dropout", rate="rate") for name in DROPPING},
    layers.Flatten: _plain("flatten"),
    layers.Reshape: reshape,
    layers.Permute: _plain("permute"),
    layers.Rescaling: _rescale,
    layers.Identity: _plain("identity"),
    layers.ActivityRegularization: _plain("identity"),
    layers.Add: _plain("add"),
    layers.Subtract: _plain("subtract"),
    layers.Multiply: _plain("multiply"),
    layers.Concatenate: _concatenate,
}
# Classes that Keras keeps to itself, in keras.applications.
NAMED: dict[str, Describe] = {"StochasticDepth": _plain("dropout", rate="drop_path_rate")}

OPERATIONS: dict[str, Describe] = {
    "Relu": _plain("relu"),
    "Relu6": _plain("relu6"),
    "ReLU": _relu,
    "LeakyRelu": _plain("leaky_relu", negative_slope="negative_slope"),
    "Elu": _plain("elu", alpha="alpha"),
    "Selu": _plain("selu"),
    "Gelu": _plain("gelu", approximate="approximate"),
    "Silu": _plain("silu"),
    "HardSilu": _plain("hard_silu"),
    "HardSigmoid": _plain("hard_sigmoid"),
    "Sigmoid": _plain("sigmoid"),
    "Tanh": _plain("tanh"),
    "Softplus": _plain("softplus"),
    "Softmax": _softmax,
    "MaxPool": _pool("max_pool"),
    "AveragePool": _pool("average_pool"),
    "Add": _plain("add"),
    "Subtract": _plain("subtract"),
    "Multiply": _plain("multiply"),
    "Concatenate": _concatenate,
    "Mean": _reduced("mean", "global_average_pool"),
    "Max": _reduced("other:max", "global_max_pool"),
    "Pad": _pad_operation,
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims", "Ravel"), reshape),
    **dict.fromkeys(("Transpose", "Swapaxes", "Moveaxis"), _plain("permute")),
    **dict.fromkeys(("GetItem", "Take", "Slice"), _plain("select")),
    **dict.fromkeys(("Split", "Unstack"), _plain("select")),
    **dict.fromkeys(("Divide", "TrueDivide"), _plain("other:divide")),
    "Copy": _plain("identity"),
}

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
