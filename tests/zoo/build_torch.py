"""A plan of `random_twins` as a PyTorch model, mistakes included."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import torch_models

Spec = dict[str, Any]
Maker = Callable[[Spec, list[int]], nn.Module]


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of a map, as torchvision has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Model(nn.Module):
    """Layers under their names in the plan; sums, concatenations and reductions are functions."""

    def __init__(self, plan: Spec) -> None:
        super().__init__()
        self.plan = plan["layers"]
        shapes = {"input": plan["shape"]} | {each["name"]: each["shape"] for each in self.plan}
        for layer in self.plan:
            name, shape = layer["name"], shapes[layer["inputs"][0]]
            pads = layer["settings"].get("padding", [])
            if any(before != after for before, after in pads):
                (top, bottom), (left, right) = pads
                self.add_module(f"{name}_pad", nn.ZeroPad2d((left, right, top, bottom)))
            if layer["kind"] in MAKERS:
                module = MAKERS[layer["kind"]](layer["settings"] | {"of": layer["kind"]}, shape)
                self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        values = {"input": x}
        for layer in self.plan:
            inputs = [values[each] for each in layer["inputs"]]
            values[layer["name"]] = self.call(layer, inputs)
        return values[self.plan[-1]["name"]]

    def call(self, layer: Spec, inputs: list[Tensor]) -> Tensor:
        name, kind, settings, x = layer["name"], layer["kind"], layer["settings"], inputs[0]
        if kind == "add":
            return inputs[0] + inputs[1]
        if kind == "concatenate":
            return torch.cat(inputs, 1 if x.dim() == 4 else -1)
        if kind in ("global_max_pool", "global_average_pool") and x.dim() == 3:
            return x.amax(1) if kind == "global_max_pool" else x.mean(1)
        module = getattr(self, name)
        if kind in ("global_max_pool", "global_average_pool"):
            return torch.flatten(module(x), 1)
        if kind == "attention":
            return module(x, x, x, need_weights=False)[0]
        if kind in ("lstm", "gru", "simple_rnn"):
            return _states(module(x), settings)
        if hasattr(self, f"{name}_pad"):
            x = getattr(self, f"{name}_pad")(x)
        return module(x)


def build(plan: Spec) -> nn.Module:
    """The model of `Plan.as_dict()`, with random weights."""
    return torch_models.stirred(Model(plan))


def from_environment() -> nn.Module:
    """The model of the plan in ZOO_PLAN, which is a JSON file's path or the JSON itself."""
    text = os.environ["ZOO_PLAN"]
    return build(json.loads(text if text.startswith("{") else Path(text).read_text()))


def faulty_from_environment() -> nn.Module:
    """The model of the plan in ZOO_FAULTY_PLAN, else of that in ZOO_PLAN."""
    text = os.environ.get("ZOO_FAULTY_PLAN") or os.environ["ZOO_PLAN"]
    return build(json.loads(text if text.startswith("{") else Path(text).read_text()))


def _states(given: tuple[Tensor, Any], settings: Spec) -> Tensor:
    """All steps, or the last state of each direction."""
    steps, last = given
    if settings["sequences"]:
        return steps
    if settings.get("last_step") or not settings["bidirectional"]:
        return steps[:, -1]
    last = last[0] if isinstance(last, tuple) else last
    return torch.cat([last[0], last[1]], 1)


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
    kind = torch_models.Unscaled if "scale" in settings else nn.MultiheadAttention
    return kind(shape[-1], settings["heads"], bias=settings["bias"], batch_first=True)


def _softmax(settings: Spec, shape: list[int]) -> nn.Module:
    return nn.Softmax(settings.get("axis", 1 if len(shape) == 3 else -1))


def _plain(kind: Callable[[], nn.Module]) -> Maker:
    return lambda settings, shape: kind()


def _layer_norm(settings: Spec, shape: list[int]) -> nn.Module:
    kind = LayerNorm2d if len(shape) == 3 else nn.LayerNorm
    return kind(shape[-1], eps=settings["epsilon"])


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
    "dense": lambda s, shape: nn.Linear(shape[-1], s["units"], bias=s["bias"]),
    "dropout": lambda s, shape: nn.Dropout(s["rate"]),
    "embedding": lambda s, shape: nn.Embedding(s["words"], s["units"]),
}
