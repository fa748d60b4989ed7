"""Multi-head attention in all the forms that models keep it in.

Keras' layer has a kernel (D, heads, size) for each of query, key and value, (heads, size, D) for
the output. `nn.MultiheadAttention` stacks the first three as `in_proj_weight` (3 E, E), or keeps
them apart where key or value have other widths. Written by hand there are four dense layers, or
two, of which the first gives query, key and value side by side. All of them are turned into one
form: of each part a weight (out, in) and a bias, heads side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from parity.transfer.rules import (
    FRAMEWORKS,
    Context,
    Shape,
    Tensors,
    Unfit,
    dtype_of,
    register_rule,
)

PARTS = ("query", "key", "value", "output")


@dataclass
class Heads:
    """Weight (out, in) and bias (out,) of each part; no bias is an absent key."""

    weights: Tensors = field(default_factory=dict)
    biases: Tensors = field(default_factory=dict)


def _put_bias(
    made: Tensors,
    key: str,
    heads: Heads,
    parts: tuple[str, ...],
    shapes: dict[str, Shape],
    context: Context,
    side: str,
) -> None:
    """The biases of `parts`, one behind the other, as `key`; zeros for what the source lacks."""
    if key in shapes:
        zeros = [np.zeros(len(heads.weights[part]), dtype_of(heads.weights)) for part in parts]
        given = [heads.biases.get(part, none) for part, none in zip(parts, zeros, strict=True)]
        if sum(map(len, given)) != int(np.prod(shapes[key])):
            raise Unfit(f"biases of {[len(bias) for bias in given]} do not fit {key} {shapes[key]}")
        made[key] = np.concatenate(given).reshape(shapes[key])
        return
    for part in parts:
        if part in heads.biases:
            context.missing(FRAMEWORKS[side], f"the bias of {part}", heads.biases[part], 0)


class Apart:
    """Four kernels and four biases, whatever they are called: `keys` names their prefixes."""

    def __init__(self, side: str, keys: tuple[str, ...]) -> None:
        self.side = side
        self.keys = dict(zip(PARTS, keys, strict=True))
        self.weight = "kernel" if side == "keras" else "weight"

    def read(self, tensors: Tensors) -> Heads:
        heads = Heads()
        known = {f"{k}/{r}" for k in self.keys.values() for r in (self.weight, "bias")}
        if not set(tensors) <= known:
            raise Unfit(f"nothing corresponds to {sorted(set(tensors) - known)}")
        for part, key in self.keys.items():
            value = tensors.get(f"{key}/{self.weight}")
            if value is None:
                raise Unfit(f"there is no {key}/{self.weight}")
            if self.side == "keras":  # the output's kernel ends, the others' begin with the width
                flat = (-1, value.shape[-1]) if part == "output" else (value.shape[0], -1)
                value = value.reshape(flat).T
            heads.weights[part] = value
            if f"{key}/bias" in tensors:
                heads.biases[part] = tensors[f"{key}/bias"].reshape(-1)
        return heads

    def write(self, heads: Heads, shapes: dict[str, Shape], context: Context) -> Tensors:
        made: Tensors = {}
        for part, key in self.keys.items():
            name, weight = f"{key}/{self.weight}", heads.weights[part]
            if name not in shapes:
                raise Unfit(f"there is no {name}")
            if self.side == "keras":
                weight = weight.T
                at = -1 if part == "output" else 0  # where both have the model's width
                if shapes[name][at] != weight.shape[at]:
                    raise Unfit(f"the {part}'s {weight.shape} does not fit {name} {shapes[name]}")
                weight = _shaped(weight, shapes[name], part)
            made[name] = weight
            _put_bias(made, f"{key}/bias", heads, (part,), shapes, context, self.side)
        return made


class Stacked:
    """`nn.MultiheadAttention`."""

    def read(self, tensors: Tensors) -> Heads:
        if spare := {key for key in tensors if key in ("bias_k", "bias_v")}:
            raise Unfit(f"nothing in Keras corresponds to {sorted(spare)}")
        heads = Heads()
        if "in_proj_weight" in tensors:
            heads.weights = _thirds(tensors["in_proj_weight"])
        else:
            heads.weights = {part: tensors[f"{part[0]}_proj_weight"] for part in PARTS[:3]}
        heads.weights["output"] = tensors["out_proj/weight"]
        if "in_proj_bias" in tensors:
            heads.biases = _thirds(tensors["in_proj_bias"])
        if "out_proj/bias" in tensors:
            heads.biases["output"] = tensors["out_proj/bias"]
        return heads

    def write(self, heads: Heads, shapes: dict[str, Shape], context: Context) -> Tensors:
        made: Tensors = {}
        if "in_proj_weight" in shapes:
            made["in_proj_weight"] = _together([heads.weights[part] for part in PARTS[:3]])
        else:
            made |= {f"{part[0]}_proj_weight": heads.weights[part] for part in PARTS[:3]}
        made["out_proj/weight"] = heads.weights["output"]
        _put_bias(made, "in_proj_bias", heads, PARTS[:3], shapes, context, "torch")
        _put_bias(made, "out_proj/bias", heads, PARTS[3:], shapes, context, "torch")
        return made


class Fused:
    """Two dense layers: query, key and value side by side, and the output."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.weight = "kernel" if side == "keras" else "weight"

    def read(self, tensors: Tensors) -> Heads:
        first, last = tensors[f"0/{self.weight}"], tensors[f"1/{self.weight}"]
        if first.ndim != 2 or last.ndim != 2:
            raise Unfit(f"{first.shape} and {last.shape} are no two matrices")
        turn = self.side == "keras"
        heads = Heads(_thirds(first.T if turn else first))
        heads.weights["output"] = last.T if turn else last
        if "0/bias" in tensors:
            heads.biases |= _thirds(tensors["0/bias"])
        if "1/bias" in tensors:
            heads.biases["output"] = tensors["1/bias"]
        return heads

    def write(self, heads: Heads, shapes: dict[str, Shape], context: Context) -> Tensors:
        first, last = _together([heads.weights[p] for p in PARTS[:3]]), heads.weights["output"]
        turn = self.side == "keras"
        made = {f"0/{self.weight}": first.T if turn else first}
        made[f"1/{self.weight}"] = last.T if turn else last
        _put_bias(made, "0/bias", heads, PARTS[:3], shapes, context, self.side)
        _put_bias(made, "1/bias", heads, PARTS[3:], shapes, context, self.side)
        return made


class Attention:
    """A form on either side."""

    def __init__(self, keras: Apart | Fused, torch: Apart | Stacked | Fused) -> None:
        self.keras, self.torch = keras, torch

    def to_torch(self, tensors: Tensors, context: Context) -> Tensors:
        return self.torch.write(self.keras.read(tensors), context.wanted("torch"), context)

    def to_keras(self, tensors: Tensors, context: Context) -> Tensors:
        return self.keras.write(self.torch.read(tensors), context.wanted("keras"), context)


def _thirds(value: np.ndarray) -> Tensors:
    if len(value) % 3:
        raise Unfit(f"{value.shape} does not hold query, key and value side by side")
    return dict(zip(PARTS[:3], np.split(value, 3), strict=True))


def _together(values: list[np.ndarray]) -> np.ndarray:
    shapes = [value.shape for value in values]
    if len(set(shapes)) > 1:
        raise Unfit(f"query, key and value of shapes {shapes} cannot be stacked evenly")
    return np.concatenate(values)


def _shaped(value: np.ndarray, shape: Shape, part: str) -> np.ndarray:
    if value.size != int(np.prod(shape)):
        raise Unfit(f"the {part}'s {value.shape} does not fit {shape}")
    return value.reshape(shape)


PER_HEAD = Apart("keras", ("query", "key", "value", "attention_output"))
NUMBERED = ("0", "1", "2", "3")
DENSE = "dense"
register_rule("attention", keras="attention", torch="attention")(Attention(PER_HEAD, Stacked()))
register_rule("attention_apart", keras="attention", torch=(DENSE,) * 4, group="join", parts=PARTS)(
    Attention(PER_HEAD, Apart("torch", NUMBERED))
)
register_rule(
    "attention_fused", keras="attention", torch=(DENSE, DENSE), parts=("query_key_value", "output")
)(Attention(PER_HEAD, Fused("torch")))
register_rule("apart_attention", keras=(DENSE,) * 4, torch="attention", group="join", parts=PARTS)(
    Attention(Apart("keras", NUMBERED), Stacked())
)
register_rule(
    "fused_attention", keras=(DENSE, DENSE), torch="attention", parts=("query_key_value", "output")
)(Attention(Fused("keras"), Stacked()))
