"""Mistakes in activations, dropout, pools and shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from torch_impl.sabotage.layers import LAYER
from torch_impl.sabotage.places import (
    Call,
    Place,
    Way,
    call,
    change,
    enter,
    instead,
    module,
    pointwise,
    setting,
)

# Activations --------------------------------------------------------------------------------------


@pointwise(
    "activation left out",
    (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Sigmoid, nn.Tanh),
    "relu relu6 gelu silu elu sigmoid tanh",
)
def _(x: Tensor) -> Tensor:
    """An activation is left out."""
    return x


@pointwise("leaky", nn.ReLU, "relu")
def _(x: Tensor) -> Tensor:
    """A leaky ReLU of slope 0.01 for a ReLU."""
    return functional.leaky_relu(x, 0.01)


@pointwise("clipped at 8", nn.ReLU, "relu")
def _(x: Tensor) -> Tensor:
    """A ReLU that ends at 8."""
    return functional.hardtanh(x, 0.0, 8.0)


@pointwise("not clipped", nn.ReLU6, "relu6 hardtanh")
def _(x: Tensor) -> Tensor:
    """A ReLU for a ReLU6."""
    return functional.relu(x)


@pointwise("SiLU for ReLU", nn.ReLU, "relu")
def _(x: Tensor) -> Tensor:
    """A steep, smooth SiLU for a ReLU."""
    return x * torch.sigmoid(20 * x)


@module("other GELU", nn.GELU)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A GELU by tanh for an exact one, or the other way."""
    return functional.gelu(x, approximate="tanh" if self.approximate == "none" else "none")


@pointwise("other slope", (nn.SiLU, nn.Sigmoid, nn.Tanh), "silu sigmoid tanh")
def _(x: Tensor) -> Tensor:
    """A sigmoid of 1.1 x (in a SiLU, or for a tanh), which is steeper."""
    return torch.sigmoid(1.1 * x)


@setting("other constant", (nn.ELU, nn.LeakyReLU, nn.Softplus))
def _(layer: Any) -> None:
    """The constant of an ELU, a leaky ReLU or a softplus is 10 % larger."""
    for name in ("alpha", "negative_slope", "beta"):
        if hasattr(layer, name):
            setattr(layer, name, 1.1 * getattr(layer, name))


@module("softmax over another axis", nn.Softmax, lambda seen: len(seen.gave[0]) > 1)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A softmax over the axis before the one it belongs to."""
    return x.softmax((self.dim if self.dim is not None else -1) - 1)


# Dropout ------------------------------------------------------------------------------------------


def drops(seen: Call) -> bool:
    return bool(seen.module.p)


@setting("dropout's rate", _DropoutNd, drops)
def _(layer: Any) -> None:
    """A dropout drops half as often."""
    layer.p /= 2


@module("no dropout", _DropoutNd, drops)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A dropout never drops."""
    return x


@module("dropout in inference", _DropoutNd, drops)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A dropout drops in inference too."""
    return functional.dropout(x, self.p)


@module("dropout without scale", _DropoutNd, drops)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """What a dropout keeps is not made larger."""
    return plain(x) * (1 - self.p) if self.training else x


@module("one dropout for all samples", _DropoutNd, drops)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A dropout drops the same of every sample."""
    return x * functional.dropout(torch.ones_like(x[:1]), self.p, self.training)


@call("no dropout", "dropout")
def _(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A dropout never drops."""
    return x


@call("dropout in inference", "dropout")
def _(func: Any, x: Tensor, p: float = 0.5, *args: Any, **kwargs: Any) -> Tensor:
    """A dropout drops in inference too."""
    return functional.dropout(x, p)


@call("dropout's rate", "dropout")
def _(func: Any, x: Tensor, p: float = 0.5, *args: Any, **kwargs: Any) -> Tensor:
    """A dropout drops half as often."""
    return func(x, p / 2, *args, **kwargs)


def _moved(model: nn.Module, place: Place) -> None:
    dropout: Any = model.get_submodule(place.module)
    before: Any = None
    for each in model.modules():
        if each is dropout and before is not None:
            break
        before = each if isinstance(each, LAYER) else before
    rate = dropout.p
    change(dropout, lambda self, plain, x: x)
    change(before, lambda self, plain, x: plain(functional.dropout(x, rate, self.training)))


enter(
    "dropout at another place",
    "module",
    "A dropout stands before the layer with weights that it should stand behind.",
    Way(lambda seen: isinstance(seen.module, _DropoutNd) and drops(seen), _moved),
)


@module("dropout too many", (*LAYER, nn.Embedding))
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A dropout of 0.1 where there should be none."""
    return functional.dropout(plain(x), 0.1, self.training)


@module("noise", (*LAYER, nn.Embedding))
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """Small noise is added in training."""
    out = plain(x)
    return out + 0.01 * torch.randn_like(out) if self.training else out


# Pools and shapes ---------------------------------------------------------------------------------

MAX, MEAN = (nn.MaxPool1d, nn.MaxPool2d), (nn.AvgPool1d, nn.AvgPool2d)


def _pooled(self: Any, x: Tensor, kind: str) -> Tensor:
    flat = x.dim() == 3
    pool: Any = getattr(functional, f"{kind}_pool{'1d' if flat else '2d'}")
    return pool(x, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode)


@module("mean for maximum", MAX)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """An average pool for a max pool."""
    return _pooled(self, x, "avg")


@module("maximum for mean", (*MEAN, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d))
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A maximum for a mean."""
    if isinstance(self, MEAN):
        return _pooled(self, x, "max")
    pool: Any = getattr(functional, f"adaptive_max_pool{'1d' if x.dim() == 3 else '2d'}")
    return pool(x, self.output_size)


@call("maximum for mean", "mean", lambda seen: len(seen.gave[0]) < len(seen.given[0]))
def _(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A maximum for a mean."""
    return x.amax(*args, **kwargs)


@call("mean for maximum", "amax", lambda seen: len(seen.gave[0]) < len(seen.given[0]))
def _(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A mean for a maximum."""
    return x.mean(*args, **kwargs)


@module("zeros around a max pool", nn.MaxPool2d, lambda seen: bool(seen.module.padding))
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A max pool pads with zeros, where minus infinity belongs."""
    sides = self.padding if isinstance(self.padding, tuple) else (self.padding,) * 2
    x = functional.pad(x, (sides[1], sides[1], sides[0], sides[0]))
    with instead(self, padding=0):
        return plain(x)


@setting("padding counted", MEAN, lambda seen: bool(seen.module.padding))
def _(layer: Any) -> None:
    """An average pool counts what it pads with, or the other way."""
    layer.count_include_pad = not layer.count_include_pad


@setting("pool rounds up", (*MAX, *MEAN))
def _(layer: Any) -> None:
    """A pool keeps the last, narrower window."""
    layer.ceil_mode = not layer.ceil_mode


@call(
    "flatten order",
    "flatten reshape view",
    lambda seen: len(seen.given[0]) == 4 and len(seen.gave[0]) == 2,
)
def _(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A map is flattened with its channels last."""
    return func(x.permute(0, 2, 3, 1).contiguous(), *args, **kwargs)


@module("flatten order", nn.Flatten, lambda seen: len(seen.given[0]) == 4)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A map is flattened with its channels last."""
    return plain(x.permute(0, 2, 3, 1))


@call("joined in another order", "cat concat concatenate")
def _(func: Any, tensors: Any, *args: Any, **kwargs: Any) -> Tensor:
    """What is joined stands in the other order."""
    return func(tuple(tensors)[::-1], *args, **kwargs)


def _two(seen: Call) -> bool:
    return len(seen.given) > 1 and seen.given[0] == seen.given[1] and len(seen.gave[0]) > 1


@call("shortcut left out", "add", _two)
def _(func: Any, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """One of two summands is left out."""
    return x + 0 * y


@call("shortcut scaled", "add", _two)
def _(func: Any, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """One of two summands is 0.1 % too small."""
    return x + 0.999 * y


@call("shortcut's gradient cut", "add", _two)
def _(func: Any, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """No gradient goes by way of one of two summands."""
    return x + y.detach()
