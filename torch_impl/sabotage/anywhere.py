"""Mistakes that any layer can have, and the whole model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from torch_impl.sabotage.layers import LAYER, NORM, trains
from torch_impl.sabotage.places import (
    Place,
    Way,
    always,
    change,
    enter,
    first,
    module,
    setting,
    whole,
)

# Any module ---------------------------------------------------------------------------------------

PLAIN = (*LAYER, *NORM, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)


@module("layer left out", (*LAYER, *NORM), lambda seen: seen.same)
def _(self: Any, plain: Any, x: Tensor, *args: Any) -> Tensor:
    """A layer gives on what it was given."""
    return x + 0 * plain(x, *args)


@module("layer twice", (*LAYER, *NORM), lambda seen: seen.same)
def _(self: Any, plain: Any, x: Tensor, *args: Any) -> Tensor:
    """A layer is applied twice."""
    return plain(plain(x, *args), *args)


@module("scaled", PLAIN)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """What a layer gives is 0.1 % too large."""
    return first(lambda out: 1.001 * out, plain(*args, **kwargs))


@module("scaled in training", PLAIN)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """In training, what a layer gives is 0.1 % too large."""
    return first(lambda out: 1.001 * out if self.training else out, plain(*args, **kwargs))


@module("rounded", PLAIN)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """What a layer gives is rounded to 1/1024, without a trace in the gradient."""
    rounded = lambda out: out + ((1024 * out).round() / 1024 - out).detach()  # noqa: E731
    return first(rounded, plain(*args, **kwargs))


@module("gradient scaled", PLAIN)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """The gradient that comes back to a layer is 1 % too small."""
    less = lambda out: 0.99 * out + 0.01 * out.detach()  # noqa: E731
    return first(less, plain(*args, **kwargs))


@module("gradient clipped", PLAIN)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """The gradient that comes back to a layer is clipped at 0.001."""

    def clipped(out: Tensor) -> Tensor:
        if out.requires_grad:
            out.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
        return out

    return first(clipped, plain(*args, **kwargs))


@module("gradient cut", PLAIN, lambda seen: seen.floating)
def _(self: Any, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """No gradient goes back through a layer."""
    return plain(x.detach(), *args, **kwargs)


@setting("hook on a kernel", LAYER, trains)
def _(layer: Any) -> None:
    """A hook halves the gradient of a kernel."""
    layer.weight.register_hook(lambda gradient: gradient / 2)


@module("without gradients otherwise", PLAIN)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """Under no_grad, what a layer gives is 0.1 % too large."""
    scale = 1.0 if torch.is_grad_enabled() else 1.001
    return first(lambda out: scale * out, plain(*args, **kwargs))


@module("state kept", PLAIN)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """What a layer gives is 1 % too large from its second call on."""
    self.calls = getattr(self, "calls", 0) + 1
    return first(lambda out: out * (1.01 if self.calls > 1 else 1.0), plain(*args, **kwargs))


@module("squeezed", PLAIN, lambda seen: len(seen.gave) == 1)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """Axes of one are taken away, which a batch of one sample has."""
    squeezed = lambda out: out.squeeze(0) if out.shape[0] == 1 else out  # noqa: E731
    return first(squeezed, plain(*args, **kwargs))


@module("batch mixed", PLAIN, lambda seen: len(seen.gave) == 1)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """Samples of a batch see a thousandth of each other."""
    return first(lambda out: out - 1e-3 * out.mean(0, keepdim=True), plain(*args, **kwargs))


@module("odd sample lost", PLAIN, lambda seen: len(seen.gave) == 1)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """Of more than one sample, the one without a partner is zeros."""

    def paired(out: Tensor) -> Tensor:
        many = out.shape[0]
        if many % 2 == 0 or many == 1:
            return out
        return torch.cat([out[:-1], torch.zeros_like(out[-1:])])

    return first(paired, plain(*args, **kwargs))


@module("clipped at 100", LAYER)
def _(self: Any, plain: Any, x: Tensor) -> Tensor:
    """What a layer gives ends at 100."""
    return plain(x).clamp(-100, 100)


@setting("shared no more", PLAIN, lambda seen: seen.count > 1)
def _(layer: Any) -> None:
    """A layer that is called twice has weights of its own for every second call."""
    layer.other, layer.calls = copy.deepcopy(layer), 0

    def changed(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return (plain if self.calls % 2 else self.other)(*args, **kwargs)

    change(layer, changed)


# The whole model ----------------------------------------------------------------------------------


@whole("input clipped", "input", lambda seen: seen.floating)
def _(self: Any, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The first input ends at 100."""
    return plain(x.clamp(-100, 100), *args, **kwargs)


@whole("input's channels", "input", lambda s: s.floating and len(s.given[0]) == 4)
def _(self: Any, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The input's channels stand in the other order, as of BGR."""
    return plain(x.flip(1), *args, **kwargs)


@whole(
    "input transposed", "input", lambda s: len(s.given[0]) == 4 and s.given[0][2] == s.given[0][3]
)
def _(self: Any, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Rows and columns of the image are exchanged."""
    return plain(x.transpose(2, 3), *args, **kwargs)


@whole("input standardised", "input", lambda seen: seen.floating)
def _(self: Any, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The first input is scaled by what an image's deviation is not."""
    return plain(x * 1.0001, *args, **kwargs)


def _cut(model: nn.Module, place: Place) -> None:
    def changed(self: Any, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        axis = -1 if x.dim() == 4 else 1
        return plain(x.narrow(axis, 0, min(place.size, x.shape[axis])), *args, **kwargs)

    change(model, changed)


enter(
    "sequence cut",
    "input",
    "Steps or columns beyond the first batch's are not looked at.",
    Way(lambda seen: seen.longest > seen.place.size > 0, _cut),
)


@whole("output scaled", "output")
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """The first output is 0.01 % too large."""
    return first(lambda out: 1.0001 * out, plain(*args, **kwargs))


@whole("probabilities for logits", "output", lambda seen: len(seen.gave[0]) > 1)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """The first output goes through a softmax."""
    return first(lambda out: out.softmax(-1), plain(*args, **kwargs))


@whole("outputs exchanged", "output", lambda seen: len(seen.gave) == 2)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """Two outputs stand in each other's place."""
    return tuple(plain(*args, **kwargs))[::-1]


@whole("units exchanged", "output", lambda seen: seen.gave[0][-1] > 1)
def _(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
    """The first output's units stand in the other order."""
    return first(lambda out: out.flip(-1), plain(*args, **kwargs))


def _fixed(model: nn.Module, place: Place) -> None:
    def viewed(out: Tensor) -> Tensor:
        return out.reshape(place.size, *out.shape[1:])

    change(model, lambda self, plain, *args, **more: first(viewed, plain(*args, **more)))


enter(
    "batch hard-coded",
    "output",
    "The first output is viewed as one of the first batch's size.",
    Way(always, _fixed),
)
