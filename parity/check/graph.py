"""What a wing says of a model that it was given: layers as they are called, and their parameters.

Written by `keras_impl.graph` and `torch_impl.graph` in the terms below, in the framework's own
names, layouts and shapes; what belongs to what on the other side is found in `parity.transfer`.

Kinds:
    with parameters   dense conv1d conv2d conv3d depthwise_conv1d depthwise_conv2d separable_conv1d
                      separable_conv2d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm
                      layer_norm group_norm rms_norm embedding simple_rnn lstm gru attention prelu
                      scale (a bare parameter that is multiplied or added) normalization
    activations       relu relu6 leaky_relu elu selu gelu silu hard_silu hard_sigmoid sigmoid tanh
                      softmax softplus
    pooling           max_pool average_pool global_max_pool global_average_pool
    others            flatten reshape permute pad upsample add subtract multiply concatenate dropout
                      rescale identity select (an index or a slice) mean max
    unknown           `other:` and the name of the class or function

Settings, where a kind has them; lists run over the spatial directions:
    conv*, pooling    kernel_size (conv) or size (pool), strides, dilation (conv), groups (conv),
                      padding: [[before, after], …] in pixels, "same" worked out for the input at
                      hand; count_include_pad (average_pool); bias (conv, dense);
                      output_padding or the crop of a transposed convolution in `padding`
    batch_norm        momentum: the share of the old value that is kept (Keras' sense), epsilon,
                      scale, center: whether there is a gamma, a beta; unbiased: whether the moving
                      variance is n / (n - 1) of the batch's; frozen: whether it keeps to its moving
                      statistics in training too
    layer_norm,       epsilon, scale, center; groups (group_norm); size: normalised elements
    group_norm
    lstm, gru,        units, layers, bidirectional, reset_after (gru), bias, activation,
    simple_rnn        recurrent_activation, sequences: whether all steps are given out
    embedding         padding_idx: the row that is not trained, or null; mask_zero: whether what
                      reads it skips steps of 0
    attention         heads, head_size, bias
    activations       negative_slope (leaky_relu), alpha (elu), approximate: true for GELU by tanh,
                      axis (softmax; counted from the last, channels last: -1)
    dropout           rate
    all               dtype: in which it computes; trainable where it has parameters
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parity.recording import write_atomically
from shared_data.errors import InputError

SCHEMA = 1
INPUT = "input:"  # and a number from 0: what the model is given


@dataclass(frozen=True)
class Node:
    """One call of a layer, or of a function between layers.

    Attributes:
        name: unique; the layer's path, with `#2` for its second call. A function is named after
            what calls it: `layer1.0/relu`, `fc1/activation`.
        kind: see above. An activation fused into a layer is a node of its own.
        inputs: the nodes whose outputs it got, in order; `input:0` for what the model is given.
            Empty where they could not be followed.
        shape: of the output without the batch, in the framework's own layout.
        layer: the path of the layer whose parameters it uses; empty where it uses none.
        settings: see above.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    layer: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameter:
    """A weight or a buffer (a moving statistic), as the framework names and shapes it.

    Attributes:
        name: unique: the variable's path in Keras, the key of `state_dict` in PyTorch. The same
            tensor under two names (tied weights) is listed once, under the first.
        layer: the path of the layer that owns it.
        role: what the framework calls it there: `kernel`, `gamma`; `weight`, `running_mean`.
        trained: whether training changes it by its gradient.
    """

    name: str
    layer: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    trained: bool = True


@dataclass(frozen=True)
class Graph:
    """A model: its calls in the order they were made, and its parameters.

    Attributes:
        framework: keras or torch.
        inputs: shapes without the batch, in the framework's own layout.
        outputs: the nodes that the model gives out.
        semantics: what is no layer: versions, default dtypes; `uses`: by parameter, in the order of
            first use, what a function does with it, and at which node: a `matrix` (in, out) that
            rows are multiplied by, a `turned matrix` (out, in), `einsum EQUATION PLACE`, the
            `kernel` of a convolution or a `table`, in the framework's own layout, a `term` that is
            added, a `factor`; empty where the kind of the layer tells it, or nothing does. `lines`:
            by node, where in the user's code it was called, if any of that was running.
    """

    framework: str
    nodes: tuple[Node, ...]
    parameters: tuple[Parameter, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[str, ...]
    semantics: dict[str, Any] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        """Raises `KeyError` where there is none."""
        for each in self.nodes:
            if each.name == name:
                return each
        raise KeyError(name)

    def owned(self, layer: str) -> dict[str, Parameter]:
        """A layer's parameters by role."""
        return {each.role: each for each in self.parameters if each.layer == layer}

    def calls(self, layer: str) -> list[Node]:
        """The calls that use a layer's parameters, in order."""
        return [each for each in self.nodes if each.layer == layer]

    def layers(self) -> list[str]:
        """Layers with parameters, in the order of their first call; uncalled ones last."""
        called = [each.layer for each in self.nodes if each.layer]
        return list(dict.fromkeys([*called, *(each.layer for each in self.parameters)]))

    def write(self, path: Path) -> None:
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)
        write_atomically(path, text.encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Graph:
        """Raises `InputError` where the file is missing, damaged or of another schema."""
        try:
            values = json.loads(path.read_text())
            if values.pop("schema") != SCHEMA:
                raise ValueError(f"it is not of schema {SCHEMA}")
            nodes, parameters = values.pop("nodes"), values.pop("parameters")
            return cls(
                framework=values["framework"],
                nodes=tuple(_node(each) for each in nodes),
                parameters=tuple(
                    Parameter(**{**each, "shape": tuple(each["shape"])}) for each in parameters
                ),
                inputs=tuple(map(tuple, values["inputs"])),
                outputs=tuple(values["outputs"]),
                semantics=values["semantics"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds no description of a model: {error}") from None


def written(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a file holds them: numbers of a framework's as Python's, and without what a
    user's class has made of an attribute that no file can hold."""
    found = {}
    for name, value in settings.items():
        try:
            found[name] = json.loads(json.dumps(value, default=lambda each: each.item()))
        except Exception:
            continue
    return found


def _node(values: dict[str, Any]) -> Node:
    return Node(**{**values, "inputs": tuple(values["inputs"]), "shape": tuple(values["shape"])})
