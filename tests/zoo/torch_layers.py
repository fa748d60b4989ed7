"""Layers as ports write them where PyTorch's own module is not taken, for `build_torch.py`.

`wrong` in their settings is the one mistake that they may have.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Spec = dict[str, Any]
Function = Callable[[Tensor], Tensor]


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of a map, as torchvision has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerNormByHand(nn.Module):
    """Over the channels, which are axis 1 of a map and else the last one."""

    def __init__(self, size: int, settings: Spec, rank: int) -> None:
        super().__init__()
        shape = (size, 1, 1) if rank == 3 else (size,)
        self.gain = nn.Parameter(torch.ones(shape))
        self.shift = nn.Parameter(torch.zeros(shape))
        self.axis, self.epsilon = 1 if rank == 3 else -1, settings["epsilon"]
        self.wrong = settings.get("wrong", "")

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(self.axis, keepdim=True)
        if self.wrong == "unbiased":
            variance = x.var(self.axis, keepdim=True)
        else:
            variance = centred.pow(2).mean(self.axis, keepdim=True)
        if self.wrong == "epsilon outside":
            return self.gain * centred / (variance.sqrt() + self.epsilon) + self.shift
        return self.gain * centred / torch.sqrt(variance + self.epsilon) + self.shift


class BareDense(nn.Module):
    """A product with a parameter, as the kernel stands in Keras."""

    def __init__(self, inputs: int, units: int, bias: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(inputs, units) / sqrt(inputs))
        self.b = nn.Parameter(torch.zeros(units)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.w
        return x if self.b is None else x + self.b


class DenseByConvolution(nn.Conv1d):
    """A convolution over one step, or over each step of a sequence."""

    def __init__(self, inputs: int, units: int, bias: bool) -> None:
        super().__init__(inputs, units, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return super().forward(x.unsqueeze(-1)).squeeze(-1)
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class CausalConv(nn.Conv1d):
    """Over (batch, steps, channels): pads both ends and cuts what is too much, or pads one end."""

    def __init__(self, inputs: int, settings: Spec) -> None:
        self.cut = settings["dilation"] * (settings["kernel"] - 1)
        self.way, self.wrong = settings["way"], settings.get("wrong", "")
        super().__init__(
            inputs,
            settings["units"],
            settings["kernel"],
            padding=self.cut if self.way == "chomp" else 0,
            dilation=settings["dilation"],
            bias=settings["bias"],
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        if self.way == "chomp":
            x = super().forward(x)
            x = x[..., self.cut :] if self.wrong == "other end" else x[..., : -self.cut]
        else:
            pads = (0, self.cut) if self.wrong == "other end" else (self.cut, 0)
            x = super().forward(functional.pad(x, pads))
        return x.transpose(1, 2)


class SqueezeExcite(nn.Module):
    """Of a map, by convolutions of 1x1 or by linear layers."""

    def __init__(self, channels: int, settings: Spec) -> None:
        super().__init__()
        self.convs, self.wrong = settings["way"] == "convs", settings.get("wrong", "")
        make: Any = (lambda i, o: nn.Conv2d(i, o, 1)) if self.convs else nn.Linear
        self.squeeze = make(channels, settings["hidden"])
        self.excite = make(settings["hidden"], channels)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.amax((2, 3)) if self.wrong == "maximum" else x.mean((2, 3))
        if self.convs:
            squeezed = squeezed[:, :, None, None]
        hidden = self.squeeze(squeezed)
        hidden = hidden if self.wrong == "no relu" else functional.relu(hidden)
        gate = torch.sigmoid(self.excite(hidden))
        return x * (gate if self.convs else gate[:, :, None, None])


class Scaled(nn.Module):
    """A layer of one's own: each channel times a number plus another."""

    def __init__(self, size: int, settings: Spec, rank: int) -> None:
        super().__init__()
        shape = (size, 1, 1) if rank == 3 else (size,)
        self.scale = nn.Parameter(torch.ones(shape))
        self.wrong = settings.get("wrong", "")
        if self.wrong != "no shift":
            self.shift = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        if self.wrong == "no shift":
            return x * self.scale
        return (
            (x + self.shift) * self.scale
            if self.wrong == "shift first"
            else (x * self.scale + self.shift)
        )


class Gated(nn.Module):
    """A layer of one's own: a projection times the sigmoid of another."""

    def __init__(self, inputs: int, settings: Spec) -> None:
        super().__init__()
        self.way, self.wrong, units = settings["way"], settings.get("wrong", ""), settings["units"]
        if self.way == "glu":
            self.both = nn.Linear(inputs, 2 * units)
        elif self.way == "linears":
            self.value, self.gate = nn.Linear(inputs, units), nn.Linear(inputs, units)
        else:
            self.v, self.g = (nn.Parameter(torch.randn(inputs, units)) for _ in range(2))
            self.c, self.d = (nn.Parameter(torch.zeros(units)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "glu" and not self.wrong:
            return functional.glu(self.both(x), -1)
        if self.way == "glu":
            value, gate = self.both(x).chunk(2, -1)
        elif self.way == "linears":
            value, gate = self.value(x), self.gate(x)
        else:
            value, gate = x @ self.v + self.c, x @ self.g + self.d
        return value * (torch.tanh(gate) if self.wrong == "tanh" else torch.sigmoid(gate))


class Attention(nn.Module):
    """Of three projections or one, by PyTorch's function or by products and a softmax."""

    def __init__(self, size: int, settings: Spec) -> None:
        super().__init__()
        self.way, self.wrong, bias = settings["way"], settings.get("wrong", ""), settings["bias"]
        self.heads, self.rate = settings["heads"], settings["dropout"]
        if self.way == "joined":
            self.qkv = nn.Linear(size, 3 * size, bias=bias)
        else:
            self.q, self.k, self.v = (nn.Linear(size, size, bias=bias) for _ in range(3))
        self.out = nn.Linear(size, size, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        parts = (
            self.qkv(x).chunk(3, -1)
            if self.way == "joined"
            else [each(x) for each in (self.q, self.k, self.v)]
        )
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in parts)
        scale = 1.0 if self.wrong == "scale" else 1 / sqrt(q.shape[-1])
        rate = self.rate if self.training else 0.0
        seen = None if mask is None else mask[:, None, None, :]
        if self.way == "einsum":
            scores = torch.einsum("nhqd,nhkd->nhqk", q, k) * scale
            if seen is not None:
                scores = scores.masked_fill(~seen, float("-inf"))
            weights = functional.dropout(scores.softmax(-1), rate)
            mixed = torch.einsum("nhqk,nhkd->nhqd", weights, v)
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, seen, rate, scale=scale)
        return self.out(mixed.transpose(1, 2).flatten(2))


def included(module: nn.Module, activate: Function, way: str) -> nn.Module:
    """The module with an activation in its own forward: a subclass, or one around it."""
    if way == "wrapped":
        return Wrapped(module, activate)
    kind: Any = type(module)

    class Active(kind):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return activate(super().forward(x))

    module.__class__ = Active
    return module


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Module, activate: Function) -> None:
        super().__init__()
        self.layer, self.activate = layer, activate

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.layer(x))


FUNCTIONS: dict[str, Function] = {
    **{"relu": functional.relu, "relu6": functional.relu6, "selu": functional.selu},
    **{"silu": functional.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh},
    **{"softplus": functional.softplus, "hard_sigmoid": functional.hardsigmoid},
}


def _silu(x: Tensor, settings: Spec, axis: int) -> Tensor:
    slope = 1.702 if settings.get("wrong") == "slope" else 1.0
    return x * torch.sigmoid(slope * x)


def _gelu(x: Tensor, settings: Spec, axis: int) -> Tensor:
    if settings["approximate"]:
        return 0.5 * x * (1 + torch.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / sqrt(2)))


def _softmax(x: Tensor, settings: Spec, axis: int) -> Tensor:
    powers = torch.exp(x - x.amax(axis, keepdim=True).detach())
    return powers / powers.sum(axis, keepdim=True)


# By kind and way; with the axis of the channels.
BY_HAND: dict[tuple[str, str], Callable[[Tensor, Spec, int], Tensor]] = {
    ("relu", "clamp"): lambda x, s, axis: x.clamp(min=0),
    ("relu", "where"): lambda x, s, axis: torch.where(x > 0, x, torch.zeros_like(x)),
    ("leaky_relu", "where"): lambda x, s, axis: torch.where(x > 0, x, s["negative_slope"] * x),
    ("tanh", "by_hand"): lambda x, s, axis: 2 * torch.sigmoid(2 * x) - 1,
    **{("silu", "by_hand"): _silu, ("gelu", "by_hand"): _gelu, ("softmax", "by_hand"): _softmax},
    ("nothing", "identity"): lambda x, s, axis: x.clone(),
    ("nothing", "reshape"): lambda x, s, axis: x.flatten(1).view_as(x),
    ("nothing", "doubled"): lambda x, s, axis: (x + x) / 2,
    ("nothing", "transposed"): lambda x, s, axis: x.transpose(0, 1).contiguous().transpose(0, 1),
}
