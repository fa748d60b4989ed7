"""A setting of a layer changed as advice says, to see whether it helps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from torch_impl.origins import ROOT

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "hard_silu": nn.Hardswish,
    "hard_sigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


def changed(model: nn.Module, node: str, key: str, value: Any) -> bool:
    """Change what a node's layer has under a key of `parity.check.graph` to Keras' value, in place.
    False where that cannot be done: of a function, or of a setting that is no attribute."""
    path = node.partition("#")[0]
    path = "" if path == ROOT else path
    module: Any = dict(model.named_modules()).get(path)
    if module is None:
        return False
    if key == "kind":
        parent, _, name = path.rpartition(".")
        if value not in ACTIVATIONS or not path:
            return False
        model.get_submodule(parent)._modules[name] = ACTIVATIONS[value]()
        return True
    if key == "padding":
        return _padded(module, value)
    if key == "frozen":
        module.eval()
        module.train = lambda mode=True: module
        return True
    name, turned = ATTRIBUTES.get(key, ("", None))
    if not name or not hasattr(module, name):
        return False
    setattr(module, name, turned(value) if turned else value)
    return True


ATTRIBUTES: dict[str, tuple[str, Callable[[Any], Any] | None]] = {
    "epsilon": ("eps", None),
    "momentum": ("momentum", lambda kept: 1 - kept),
    "negative_slope": ("negative_slope", None),
    "alpha": ("alpha", None),
    "approximate": ("approximate", lambda tanh: "tanh" if tanh else "none"),
    "rate": ("p", None),
    "strides": ("stride", tuple),
    "dilation": ("dilation", tuple),
    "padding_idx": ("padding_idx", None),
    "count_include_pad": ("count_include_pad", None),
    "batch_first": ("batch_first", None),
    "align_corners": ("align_corners", None),
    "interpolation": ("mode", None),
}


def _padded(module: Any, sides: list[list[int]]) -> bool:
    """[[before, after], …]: cells around what a convolution or a pool is given; of a transposed
    convolution, what is cut off its result."""
    if not hasattr(module, "padding"):
        return False
    module.padding = nothing = (0,) * len(sides)
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    if transposed:
        module.output_padding = nothing
    around = [size for pair in reversed(sides) for size in pair]
    if transposed:
        cut = partial(F.pad, pad=[-size for size in around])
        # New dictionaries: the module's own stay as they were.
        module._forward_hooks = OrderedDict({0: lambda module, given, y: cut(y)})
        return True
    lowest = isinstance(module, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d))

    def pad(module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return F.pad(given[0], around, value=float("-inf") if lowest else 0.0), *given[1:]

    module._forward_pre_hooks = OrderedDict({0: pad})
    return True
