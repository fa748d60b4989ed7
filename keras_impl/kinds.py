"""Which layer or operation is what in the terms of `parity.check.graph`.

How each is read stands in `keras_impl.rules`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_impl.rules import (
    Described,
    Rule,
    Shape,
    activation,
    attention,
    batch_norm,
    bidirectional,
    concatenate,
    conv,
    dense,
    einsum_dense,
    embedding,
    group_norm,
    normalised,
    pad_operation,
    plain,
    pool,
    recurrent,
    reduced,
    relu,
    rescale,
    reshape,
    snake,
    softmax,
    time_distributed,
    transposed,
    upsample,
    zero_padding,
)


def of_layer(layer: keras.layers.Layer) -> Rule | None:
    """The rule of the layer's class, or of the nearest parent in the table if its `call` and what
    that calls on it are that parent's unchanged; None of any other."""
    parent = parent_of(layer)
    if parent is None:
        return NAMED.get(type(layer).__name__)
    names = ("call", *parent.call.__code__.co_names)
    own = type(layer)
    same = all(getattr(own, name, None) is getattr(parent, name, None) for name in names)
    return LAYERS[parent] if same else None


def parent_of(layer: keras.layers.Layer) -> Any:
    """The nearest of its classes that is in the table."""
    return next((parent for parent in type(layer).__mro__ if parent in LAYERS), None)


def is_unit(layer: keras.layers.Layer) -> bool:
    """Whether the layer is one node, whatever is inside it."""
    if isinstance(layer, keras.Model):
        return False
    whole = type(layer).__module__.startswith("keras.src.layers")  # Keras' own, known or not
    if whole or of_layer(layer) is not None:
        return True
    return not layer._layers and parent_of(layer) is None


def owns_all(layer: keras.layers.Layer) -> bool:
    """Whether what its layers hold is its own: of a unit, and of a class that calls `super().call`
    of one that keeps its weights in layers of its own."""
    if is_unit(layer):
        return True
    code = getattr(type(layer).call, "__code__", None)
    return isinstance(layer, HOLDING) and code is not None and "super" in code.co_names


HOLDING = (layers.RNN, layers.Bidirectional, layers.TimeDistributed, layers.MultiHeadAttention)


def of_operation(operation: keras.Operation, before: Shape, after: Shape) -> Described:
    """Of a function of `keras.ops` or `keras.activations`."""
    name = type(operation).__name__
    entry = OPERATIONS.get(name)
    return entry(operation, before, after) if entry else (f"other:{snake(name)}", {})


# Operations of Keras that hand on what they got, in another type at most.
PASSING = ("ConvertToTensor", "Cast", "SaturateCast", "StopGradient")
PIECES = ("Split", "Unstack", "ArraySplit")  # they give out parts, each in its own right
DROPPING = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")

LAYERS: dict[type, Rule] = {
    layers.Dense: dense,
    layers.EinsumDense: einsum_dense,
    layers.Conv1D: conv("conv1d"),
    layers.Conv2D: conv("conv2d"),
    layers.Conv3D: conv("conv3d"),
    layers.DepthwiseConv1D: conv("depthwise_conv1d"),
    layers.DepthwiseConv2D: conv("depthwise_conv2d"),
    layers.SeparableConv1D: conv("separable_conv1d"),
    layers.SeparableConv2D: conv("separable_conv2d"),
    layers.Conv1DTranspose: transposed("conv_transpose1d"),
    layers.Conv2DTranspose: transposed("conv_transpose2d"),
    layers.Conv3DTranspose: transposed("conv_transpose3d"),
    layers.BatchNormalization: batch_norm,
    layers.LayerNormalization: normalised("layer_norm"),
    layers.RMSNormalization: normalised("rms_norm"),
    layers.GroupNormalization: group_norm,
    layers.Embedding: embedding,
    layers.RNN: recurrent,
    layers.LSTM: recurrent,
    layers.GRU: recurrent,
    layers.SimpleRNN: recurrent,
    layers.Bidirectional: bidirectional,
    layers.TimeDistributed: time_distributed,
    layers.MultiHeadAttention: attention,
    layers.PReLU: plain("prelu"),
    layers.Normalization: plain("normalization"),
    layers.Activation: activation,
    layers.ReLU: relu,
    layers.LeakyReLU: plain("leaky_relu", negative_slope="negative_slope"),
    layers.ELU: plain("elu", alpha="alpha"),
    layers.Softmax: softmax,
    **{
        getattr(layers, f"{name}Pooling{rank}D"): pool(kind)
        for name, kind in (("Max", "max_pool"), ("Average", "average_pool"))
        for rank in (1, 2, 3)
    },
    **{
        getattr(layers, f"Global{name}Pooling{rank}D"): plain(kind)
        for name, kind in (("Max", "global_max_pool"), ("Average", "global_average_pool"))
        for rank in (1, 2, 3)
    },
    **{getattr(layers, f"ZeroPadding{rank}D"): zero_padding for rank in (1, 2, 3)},
    **{getattr(layers, f"UpSampling{rank}D"): upsample for rank in (1, 2, 3)},
    **{getattr(layers, f"Cropping{rank}D"): plain("select") for rank in (1, 2, 3)},
    **{getattr(layers, name): plain("dropout", rate="rate") for name in DROPPING},
    layers.Flatten: plain("flatten"),
    layers.Reshape: reshape,
    layers.Permute: plain("permute"),
    layers.Rescaling: rescale,
    layers.Identity: plain("identity"),
    layers.ActivityRegularization: plain("identity"),
    layers.Add: plain("add"),
    layers.Subtract: plain("subtract"),
    layers.Multiply: plain("multiply"),
    layers.Concatenate: concatenate,
}
# Classes that Keras keeps to itself, in keras.applications.
NAMED: dict[str, Rule] = {"StochasticDepth": plain("dropout", rate="drop_path_rate")}

OPERATIONS: dict[str, Rule] = {
    "Relu": plain("relu"),
    "Relu6": plain("relu6"),
    "ReLU": relu,
    "LeakyRelu": plain("leaky_relu", negative_slope="negative_slope"),
    "Elu": plain("elu", alpha="alpha"),
    "Selu": plain("selu"),
    "Gelu": plain("gelu", approximate="approximate"),
    "Silu": plain("silu"),
    "HardSilu": plain("hard_silu"),
    "HardSigmoid": plain("hard_sigmoid"),
    "Sigmoid": plain("sigmoid"),
    "Tanh": plain("tanh"),
    "Softplus": plain("softplus"),
    "Softmax": softmax,
    "MaxPool": pool("max_pool"),
    "AveragePool": pool("average_pool"),
    "Add": plain("add"),
    "Subtract": plain("subtract"),
    "Multiply": plain("multiply"),
    "Concatenate": concatenate,
    "Mean": reduced("mean", "global_average_pool"),
    "Max": reduced("max", "global_max_pool"),
    "Pad": pad_operation,
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims", "Ravel"), reshape),
    **dict.fromkeys(("Transpose", "Swapaxes", "Moveaxis"), plain("permute")),
    **dict.fromkeys(("GetItem", "Take", "Slice"), plain("select")),
    **dict.fromkeys(("Split", "Unstack"), plain("select")),
    **dict.fromkeys(("Divide", "TrueDivide"), plain("other:divide")),
    "Copy": plain("identity"),
}
