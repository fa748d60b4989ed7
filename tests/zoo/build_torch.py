"""A plan of `random_twins` as a PyTorch model, mistakes included."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial, reduce
from operator import add, mul
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.zoo import torch_models
from tests.zoo.torch_layers import (
    BY_HAND,
    FUNCTIONS,
    Attention,
    BareDense,
    CausalConv,
    DenseByConvolution,
    Gated,
    LayerNorm2d,
    LayerNormByHand,
    Scaled,
    SqueezeExcite,
    included,
)

Spec = dict[str, Any]
Maker = Callable[[Spec, list[int]], nn.Module]


class Model(nn.Module):
    """Layers under their names in the plan; sums, concatenations and reductions are functions."""

    def __init__(self, plan: Spec) -> None:
        super().__init__()
        self.plan, self.masks, self.declared = plan["layers"], plan["mask"], plan["shape"]
        shapes = {"input": plan["shape"]} | {each["name"]: each["shape"] for each in self.plan}
        self.inside = {
            each["inputs"][0]: each["settings"]["inside"]
            for each in self.plan
            if each["settings"].get("inside")
        }
        for layer in self.plan:
            name, settings = layer["name"], layer["settings"]
            shape = shapes[layer["inputs"][0]]
            pads = settings.get("padding", [])
            if any(before != after for before, after in pads):
                (top, bottom), (left, right) = pads
                self.add_module(f"{name}_pad", nn.ZeroPad2d((left, right, top, bottom)))
            if layer["kind"] in MAKERS and (layer["kind"], settings.get("way")) not in BY_HAND:
                module = MAKERS[layer["kind"]](settings | {"of": layer["kind"]}, shape)
                self.add_module(name, module)
            if settings.get("inside"):
                before = layer["inputs"][0]
                module = getattr(self, before)
                activate = FUNCTIONS[layer["kind"]]
                setattr(self, before, included(module, activate, settings["inside"]))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.masks:
            mask = (x != 0) if mask is None else mask.bool()
        values = {"input": x}
        for layer in self.plan:
            inputs = [values[each] for each in layer["inputs"]]
            settings = layer["settings"]
            heeds = settings.get("masked") and settings.get("wrong") != "mask"
            values[layer["name"]] = self.call(layer, inputs, mask if heeds else None)
        return values[self.plan[-1]["name"]]

    def call(self, layer: Spec, inputs: list[Tensor], mask: Tensor | None) -> Tensor:
        name, kind, settings, x = layer["name"], layer["kind"], layer["settings"], inputs[0]
        channels = 1 if x.dim() == 4 else -1
        if settings.get("inside"):
            return x
        if (kind, settings.get("way")) in BY_HAND:
            x = BY_HAND[kind, settings["way"]](x, settings, channels)
            return 2 * x if settings.get("wrong") == "twice" else x
        if kind in MERGES:
            return _merged(kind, settings, inputs, channels)
        if kind in GLOBAL and settings.get("wrong") == "cut":
            steps, *sides = layer["settings"]["declared"]
            x = x[:, :, :steps, : sides[0]] if sides else x[:, :steps]
            mask = None if mask is None else mask[:, :steps]
        if kind in GLOBAL and x.dim() == 3:
            return _over_steps(kind, x, mask)
        if kind in DROPOUTS:
            return self.drop(layer, x)
        module = getattr(self, name)
        if kind in GLOBAL:
            return torch.flatten(module(x), 1)
        if kind == "attention":
            if settings["way"] != "module":
                return module(x, mask)
            masks = {} if mask is None else {"key_padding_mask": ~mask}
            return module(x, x, x, need_weights=False, **masks)[0]
        if kind in RECURRENT:
            return _recurred(module, x, mask, settings)
        if hasattr(self, f"{name}_pad"):
            x = getattr(self, f"{name}_pad")(x)
        return module(x)

    def drop(self, layer: Spec, x: Tensor) -> Tensor:
        """As a module, as a function, or by a mask of one's own; whole channels of `spatial`."""
        settings, rate = layer["settings"], layer["settings"]["rate"]
        spatial = layer["kind"] == "spatial_dropout"
        if settings["way"] == "mask":
            like = x
            if spatial:
                like = x[:, :, :1, :1] if x.dim() == 4 else x[:, :1]
            return x * functional.dropout(torch.ones_like(like), rate, self.training)
        if settings["way"] == "function":
            return functional.dropout(x, rate, self.training)
        module = getattr(self, layer["name"])
        return module(x.transpose(1, 2)).transpose(1, 2) if spatial and x.dim() == 3 else module(x)


def build(plan: Spec) -> nn.Module:
    """The model of `Plan.as_dict()`, with random weights, always the same."""
    torch.manual_seed(2)
    return torch_models.stirred(Model(plan))


def from_environment() -> nn.Module:
    """The model of the plan in ZOO_PLAN, which is a JSON file's path or the JSON itself."""
    text = os.environ["ZOO_PLAN"]
    return build(json.loads(text if text.startswith("{") else Path(text).read_text()))


def faulty_from_environment() -> nn.Module:
    """The model of the plan in ZOO_FAULTY_PLAN, else of that in ZOO_PLAN."""
    text = os.environ.get("ZOO_FAULTY_PLAN") or os.environ["ZOO_PLAN"]
    return build(json.loads(text if text.startswith("{") else Path(text).read_text()))


def _merged(kind: str, settings: Spec, inputs: list[Tensor], channels: int) -> Tensor:
    if kind == "concatenate":
        return torch.cat(inputs, channels)
    if kind == "add" and settings.get("way") == "stack":
        return torch.stack(inputs).sum(0)
    return reduce(add if kind == "add" else mul, inputs)


def _over_steps(kind: str, x: Tensor, mask: Tensor | None) -> Tensor:
    if kind == "global_max_pool":
        return x.amax(1)
    if mask is None:
        return x.mean(1)
    heeded = mask.unsqueeze(-1).to(x.dtype)
    return (x * heeded).sum(1) / heeded.sum(1)


def _recurred(module: Any, x: Tensor, mask: Tensor | None, settings: Spec) -> Tensor:
    """All steps, or the last state of each direction, by the settings' way."""
    count, steps = x.shape[:2]
    lengths = torch.full((count,), steps) if mask is None else mask.sum(1)
    if settings["way"] == "pack":
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        given, states = module(packed)
        if settings["sequences"]:
            return pad_packed_sequence(given, batch_first=True, total_length=steps)[0]
    else:
        given, states = module(x)
    if settings["sequences"]:
        return given
    units = settings["units"]
    if settings["way"] in ("state", "pack"):
        states = states[0] if isinstance(states, tuple) else states
        last, first = states[0], states[-1]
    else:
        if settings.get("wrong") == "step before":
            lengths = lengths - 1  # of three steps or more
        last = _step(given[..., :units], lengths - 1, settings["way"])
        first = given[:, 0, units:]
        if settings.get("wrong") == "last step":
            first = _step(given[..., units:], lengths - 1, settings["way"])
    return torch.cat([last, first], 1) if settings["bidirectional"] else last


def _step(given: Tensor, at: Tensor, way: str) -> Tensor:
    """A step of each sample."""
    if way == "slice":
        return given[:, int(at[0]) - given.shape[1]]
    if way == "index":
        return given[torch.arange(len(given)), at]
    return given.gather(1, at.view(-1, 1, 1).expand(-1, 1, given.shape[2])).squeeze(1)


def _padding(settings: Spec) -> tuple[int, int]:
    """Of a convolution; 0 where a layer of its own pads, since the sides differ."""
    pads = settings["padding"]
    return (pads[0][0], pads[1][0]) if all(a == b for a, b in pads) else (0, 0)


def _conv(settings: Spec, shape: list[int]) -> nn.Module:
    channels, depthwise = shape[-1], settings["of"] == "depthwise"
    return nn.Conv2d(
        channels,
        channels * settings["multiplier"] if depthwise else settings["filters"],
        settings["kernel"],
        settings["stride"],
        _padding(settings),
        groups=channels if depthwise else settings["groups"],
        bias=settings["bias"],
    )


def _average_pool(settings: Spec, shape: list[int]) -> nn.Module:
    counted = settings.get("count_include_pad", False)
    padding = _padding(settings)
    return nn.AvgPool2d(settings["size"], settings["stride"], padding, count_include_pad=counted)


def _batch_norm(settings: Spec, shape: list[int]) -> nn.Module:
    ours, plain = (
        (torch_models.BatchNorm, nn.BatchNorm2d)
        if len(shape) == 3
        else (torch_models.BatchNorm1d, nn.BatchNorm1d)
    )
    norm: Any = plain if settings.get("unbiased") else ours
    return norm(shape[-1], eps=settings["epsilon"], momentum=1 - settings["momentum"])


def _recurrent(settings: Spec, shape: list[int]) -> nn.Module:
    kind = settings["of"]
    units, both = settings["units"], settings["bidirectional"]
    if kind == "simple_rnn":
        activation = settings.get("activation", "tanh")
        made: nn.RNNBase = nn.RNN(
            shape[-1], units, nonlinearity=activation, batch_first=True, bidirectional=both
        )
    else:
        one = nn.LSTM if kind == "lstm" else nn.GRU
        made = one(shape[-1], units, batch_first=True, bidirectional=both)
    frozen = kind != "gru" and not settings.get("two_biases")
    return torch_models.one_bias(made) if frozen else made


def _attention(settings: Spec, shape: list[int]) -> nn.Module:
    if settings["way"] != "module":
        return Attention(shape[-1], settings)
    kind = torch_models.Unscaled if settings.get("wrong") == "scale" else nn.MultiheadAttention
    return kind(
        shape[-1],
        settings["heads"],
        dropout=settings["dropout"],
        bias=settings["bias"],
        batch_first=True,
    )


def _dense(settings: Spec, shape: list[int]) -> nn.Module:
    kinds = {"bare": BareDense, "conv": DenseByConvolution}
    return kinds.get(settings["way"], nn.Linear)(shape[-1], settings["units"], settings["bias"])


def _spatial(settings: Spec, shape: list[int]) -> nn.Module:
    return (nn.Dropout2d if len(shape) == 3 else nn.Dropout1d)(settings["rate"])


def _softmax(settings: Spec, shape: list[int]) -> nn.Module:
    return nn.Softmax(settings.get("axis", 1 if len(shape) == 3 else -1))


def _plain(kind: Callable[[], nn.Module]) -> Maker:
    return lambda settings, shape: kind()


def _layer_norm(settings: Spec, shape: list[int]) -> nn.Module:
    if settings["way"] == "by_hand":
        return LayerNormByHand(shape[-1], settings, len(shape))
    kind = LayerNorm2d if len(shape) == 3 else nn.LayerNorm
    return kind(shape[-1], eps=settings["epsilon"])


RECURRENT = ("lstm", "gru", "simple_rnn")
MERGES = ("add", "multiply", "concatenate")
DROPOUTS = ("dropout", "spatial_dropout")
GLOBAL = ("global_max_pool", "global_average_pool")
MAKERS: dict[str, Maker] = {
    **{"conv": _conv, "depthwise": _conv, "average_pool": _average_pool},
    **{"lstm": _recurrent, "gru": _recurrent, "simple_rnn": _recurrent, "attention": _attention},
    **{"batch_norm": _batch_norm, "layer_norm": _layer_norm, "softmax": _softmax},
    "max_pool": lambda s, shape: nn.MaxPool2d(s["size"], s["stride"], _padding(s)),
    "global_max_pool": _plain(partial(nn.AdaptiveMaxPool2d, 1)),
    "global_average_pool": _plain(partial(nn.AdaptiveAvgPool2d, 1)),
    "group_norm": lambda s, shape: nn.GroupNorm(s["groups"], shape[-1], s["epsilon"]),
    "leaky_relu": lambda s, shape: nn.LeakyReLU(s["negative_slope"]),
    "elu": lambda s, shape: nn.ELU(s["alpha"]),
    "gelu": lambda s, shape: nn.GELU("tanh" if s["approximate"] else "none"),
    "prelu": lambda s, shape: nn.PReLU(shape[-1]),
    **{"relu": _plain(nn.ReLU), "relu6": _plain(nn.ReLU6), "selu": _plain(nn.SELU)},
    **{"silu": _plain(nn.SiLU), "hard_silu": _plain(nn.Hardswish), "tanh": _plain(nn.Tanh)},
    **{"hard_sigmoid": _plain(nn.Hardsigmoid), "sigmoid": _plain(nn.Sigmoid)},
    **{"softplus": _plain(nn.Softplus), "flatten": _plain(nn.Flatten)},
    **{"dense": _dense, "spatial_dropout": _spatial},
    "causal_conv": lambda s, shape: CausalConv(shape[-1], s),
    "squeeze_excite": lambda s, shape: SqueezeExcite(shape[-1], s),
    "scaled": lambda s, shape: Scaled(shape[-1], s, len(shape)),
    "gated": lambda s, shape: Gated(shape[-1], s),
    "dropout": lambda s, shape: nn.Dropout(s["rate"]),
    "embedding": lambda s, shape: nn.Embedding(
        s["words"], s["units"], 0 if s.get("wrong") == "padding" else None
    ),
}
