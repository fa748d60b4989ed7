"""Mistakes in layers with weights and in normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torch_impl.sabotage.places import (
    Call,
    change,
    instead,
    module,
    setting,
)

# Layers with weights ------------------------------------------------------------------------------

LAYER = (nn.Linear, _ConvNd)


def biased(seen: Call) -> bool:
    return getattr(seen.module, "bias", None) is not None


def trains(seen: Call) -> bool:
    weight: Any = seen.module.weight
    return bool(weight.requires_grad)


def large(seen: Call) -> bool:
    """A convolution of more than one pixel."""
    size: Any = seen.module.kernel_size
    return max(size) > 1


def padded(seen: Call) -> bool:
    own: Any = seen.module.padding
    return not isinstance(own, str) and min(own) > 0


@module("bias left out", LAYER, biased)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """The bias is held, and not added."""
    with instead(self, bias=None):
        return plain(x)


@module("bias left out in inference", LAYER, biased)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """The bias is added in training alone."""
    with instead(self, bias=self.bias if self.training else None):
        return plain(x)


@module("bias left out in training", LAYER, biased)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """The bias is added in inference alone."""
    with instead(self, bias=None if self.training else self.bias):
        return plain(x)


@module("bias twice", LAYER, biased)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """The bias is added twice."""
    with instead(self, bias=2 * self.bias):
        return plain(x)


@setting("bias frozen", LAYER, lambda seen: biased(seen) and trains(seen))
def _(layer: Any) -> None:
    """The bias is not trained."""
    layer.bias.requires_grad_(False)


@setting("kernel frozen", LAYER, trains)
def _(layer: Any) -> None:
    """The kernel is not trained."""
    layer.weight.requires_grad_(False)


@setting("another bias", (*LAYER, nn.Embedding, nn.LayerNorm))
def _(layer: Any) -> None:
    """A trained bias is added that the other side has not; it starts at zero."""
    size = layer.weight.shape[0 if isinstance(layer, LAYER) else -1]
    if isinstance(layer, _ConvTransposeNd):
        size = layer.out_channels
    shape = (size, *(1,) * (layer.weight.dim() - 2 if isinstance(layer, _ConvNd) else 0))
    layer.shift = nn.Parameter(torch.zeros(shape, dtype=layer.weight.dtype))
    change(layer, lambda self, plain, x: plain(x) + self.shift)


@module("kernel's gradient cut", LAYER, trains)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """The kernel is detached: it has no gradient."""
    with instead(self, weight=self.weight.detach()):
        return plain(x)


@module("channels exchanged", LAYER, lambda seen: seen.gave[0][-1] > 1)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """Two units or channels of what a layer gives stand in each other's place."""
    out, axis = plain(x), -1 if isinstance(self, nn.Linear) else 1
    order = [1, 0, *range(2, out.shape[axis])]
    return out.index_select(axis, torch.tensor(order[: out.shape[axis]]))


@module("kernel flipped", _ConvNd, large)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """The kernel is read from its end, a convolution for a correlation."""
    with instead(self, weight=self.weight.flip(-1)):
        return plain(x)


@module(
    "kernel transposed",
    (nn.Conv2d, nn.ConvTranspose2d),
    lambda seen: large(seen) and len(set(seen.module.kernel_size)) == 1,  # type: ignore[arg-type]
)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """Rows and columns of the kernel are exchanged."""
    with instead(self, weight=self.weight.transpose(-1, -2)):
        return plain(x)


@module("padding shifted", nn.Conv2d, padded)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """One row more of zeros above and one less below."""
    high, wide = self.padding
    x = functional.pad(x, (wide, wide, high + 1, high - 1))
    with instead(self, padding=(0, 0)):
        return plain(x)


@module("padding reflected", nn.Conv2d, padded)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """The edge is padded with what is inside, not with zeros."""
    high, wide = self.padding
    x = functional.pad(x, (wide, wide, high, high), mode="replicate")
    with instead(self, padding=(0, 0)):
        return plain(x)


@module("dilation", nn.Conv2d, lambda seen: padded(seen) and large(seen))
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """The kernel's pixels stand two apart, and the padding keeps the size."""
    more = tuple(p + k // 2 for p, k in zip(self.padding, self.kernel_size, strict=True))
    with instead(self, dilation=(2, 2), padding=more):
        return plain(x)


# Normalisation ------------------------------------------------------------------------------------

NORM = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


def affine(seen: Call) -> bool:
    return biased(seen) and getattr(seen.module, "weight", None) is not None


def tracked(seen: Call) -> bool:
    return getattr(seen.module, "running_mean", None) is not None


@setting("epsilon", NORM)
def _(norm: Any) -> None:
    """A norm's epsilon is ten times as large."""
    norm.eps *= 10


@setting("momentum", _BatchNorm, tracked)
def _(norm: Any) -> None:
    """A batch norm's statistics move twice as fast."""
    norm.momentum = 2 * (norm.momentum or 0.1)


@module("gamma and beta exchanged", NORM, affine)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A norm scales by beta and shifts by gamma."""
    with instead(self, weight=self.bias, bias=self.weight):
        return plain(x)


@module("norm frozen", _BatchNorm, tracked)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A batch norm takes its moving statistics in training too, and does not move them."""
    shift = self.running_mean, self.running_var, self.weight, self.bias
    return functional.batch_norm(x, *shift, eps=self.eps)


@module("batch's statistics in inference", _BatchNorm, tracked)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A batch norm takes the batch's statistics in inference too."""
    if self.training:
        return plain(x)
    return functional.batch_norm(x, None, None, self.weight, self.bias, True, eps=self.eps)


@module("moving mean ignored", _BatchNorm, tracked)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A batch norm takes no mean off in inference."""
    if self.training:
        return plain(x)
    with instead(self, running_mean=torch.zeros_like(self.running_mean)):
        return plain(x)


@module("moving variance by n - 1", _BatchNorm, tracked)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """What is added to the moving variance is n / (n - 1) times too large."""
    before = self.running_var.clone()
    out = plain(x)
    if self.training:
        many = x.numel() / x.shape[1]
        self.running_var += (self.running_var - (1 - self.momentum) * before) / (many - 1)
    return out


@module("statistics not kept", _BatchNorm, tracked)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A batch norm does not move its statistics."""
    with instead(
        self, running_mean=self.running_mean.clone(), running_var=self.running_var.clone()
    ):
        return plain(x)


@module("norm over another axis", nn.LayerNorm, affine)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A layer norm takes its statistics over the axis before the last."""
    variance, mean = torch.var_mean(x, -2, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


@module("variance by n - 1", nn.LayerNorm, affine)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """A layer norm divides by the sample's deviation."""
    variance, mean = torch.var_mean(x, -1, correction=1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias
