"""Single mistakes in the PyTorch side of a random twin: plans again, `wrong` where they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.zoo.random_twins import (
    ACTIVATIONS,
    CONVOLUTIONS,
    DROPOUTS,
    GLOBAL,
    INPUT,
    LINEAR,
    NORMS,
    POOLS,
    RECURRENT,
    Layer,
    Plan,
    weights_of,
    worked_out,
)


@dataclass(frozen=True)
class Fault:
    """A plan for the PyTorch side with one mistake.

    Attributes:
        what: in words.
        layers: names of which one must be named. An activation that Keras has fused goes by the
            layer before it; sums and concatenations are functions in PyTorch.
        numbers: where it fails first by numbers alone; empty where they need not tell.
    """

    what: str
    layers: tuple[str, ...]
    plan: Plan
    numbers: str = "forward"


# Of settings of their own: what is wrong, in words, by kind and way ("" is any).
WRONG: dict[tuple[str, str], dict[str, str]] = {
    ("layer_norm", "by_hand"): {
        "unbiased": "a layer norm by hand of the unbiased variance",
        "epsilon outside": "a layer norm by hand with its epsilon outside the root",
    },
    ("causal_conv", ""): {"other end": "the wrong end cut off or padded"},
    ("squeeze_excite", ""): {
        "no relu": "an SE block without its ReLU",
        "maximum": "an SE block of the maximum",
    },
    ("scaled", ""): {"no shift": "no shift", "shift first": "the shift before the scale"},
    ("gated", ""): {"tanh": "a gate by tanh"},
    ("silu", "by_hand"): {"slope": "x * sigmoid(1.702 x) for silu"},
    ("nothing", ""): {"twice": "twice what it should be"},
}


def _with(plan: Plan, name: str, **settings: Any) -> Plan:
    """The plan with other settings of a layer."""
    layers = (
        replace(layer, settings={**layer.settings, **settings}) if layer.name == name else layer
        for layer in plan.layers
    )
    return replace(plan, layers=tuple(layers))


def _as(plan: Plan, name: str, kind: str, settings: dict[str, Any] | None = None) -> Plan:
    """The plan with a layer of another kind under the same name."""
    layers = (
        replace(layer, kind=kind, settings=layer.settings if settings is None else settings)
        if layer.name == name
        else layer
        for layer in plan.layers
    )
    return replace(plan, layers=tuple(layers))


def _without(plan: Plan, name: str) -> Plan:
    """The plan without a layer: its readers read what it read."""
    (source, *_) = plan.layer(name).inputs
    layers = (
        replace(layer, inputs=tuple(source if each == name else each for each in layer.inputs))
        for layer in plan.layers
        if layer.name != name
    )
    return replace(plan, layers=tuple(layers))


def _after(plan: Plan, name: str, new: Layer) -> Plan:
    """The plan with a layer more, between a layer and its readers."""
    layers: list[Layer] = []
    for layer in plan.layers:
        inputs = tuple(new.name if each == name else each for each in layer.inputs)
        layers.append(replace(layer, inputs=inputs))
        if layer.name == name:
            layers.append(replace(new, inputs=(name,)))
    return replace(plan, layers=tuple(layers))


def _swapped(plan: Plan, first: str, second: str) -> Plan:
    """The plan with two neighbours in the other order."""
    source = plan.layer(first).inputs
    turned = {first: second, second: first}
    layers: list[Layer] = []
    for layer in plan.layers:
        if layer.name == first:
            layers.append(replace(plan.layer(second), inputs=source))
        elif layer.name == second:
            layers.append(replace(plan.layer(first), inputs=(second,)))
        else:
            inputs = tuple(turned.get(each, each) for each in layer.inputs)
            layers.append(replace(layer, inputs=inputs))
    return replace(plan, layers=tuple(layers))


def _stands(plan: Plan, other: Plan) -> Plan | None:
    """The other plan worked out, if its layers have the weights that the plan's have."""
    try:
        other = worked_out(other)
    except ValueError:
        return None
    weights = []
    for each in (plan, other):
        shapes = {INPUT: each.shape} | {layer.name: layer.shape for layer in each.layers}
        names = {
            layer.name: weights_of(layer, [shapes[name] for name in layer.inputs])
            for layer in each.layers
        }
        weights.append({name: found for name, found in names.items() if found})
    return other if weights[0] == weights[1] else None


def faults(plan: Plan) -> list[Fault]:
    """Every single mistake that the plan leaves room for."""
    found = []
    for layer in plan.layers:
        for fault in _of_layer(plan, layer):
            other = _stands(plan, fault.plan)
            if other is not None:
                found.append(replace(fault, plan=other))
    return found


def _of_layer(plan: Plan, layer: Layer) -> Iterator[Fault]:
    name = layer.name
    if layer.kind in CONVOLUTIONS:
        yield from _of_convolution(plan, layer)
    elif layer.kind in POOLS:
        other = POOLS[1 - POOLS.index(layer.kind)]
        yield Fault(f"{other} for {layer.kind}", (name,), _as(plan, name, other))
        if layer.kind == "average_pool" and _pads(layer):
            counted = _with(plan, name, count_include_pad=True)
            yield Fault("zeros of the padding counted", (name,), counted)
    elif layer.kind in GLOBAL:
        other = GLOBAL[1 - GLOBAL.index(layer.kind)]
        before = plan.before(layer)
        several = before is not None and math.prod(before.shape[:-1]) > 1
        numbers = "forward" if several else ""
        names = _with_readers(plan, layer)
        yield Fault(f"{other} for {layer.kind}", names, _as(plan, name, other), numbers=numbers)
        if plan.open:
            cut = _with(plan, name, wrong="cut", declared=_sizes(plan, layer))
            yield Fault("more steps or pixels than declared are cut off", names, cut, numbers="")
        if layer.settings.get("masked"):
            yield Fault("a mean that heeds no mask", names, _with(plan, name, wrong="mask"), "")
    elif layer.kind in NORMS:
        yield from _of_norm(plan, layer)
    elif layer.kind in ACTIVATIONS:
        yield from _of_activation(plan, layer)
    elif layer.kind in DROPOUTS:
        yield from _of_dropout(plan, layer)
    elif layer.kind == "embedding":
        if not plan.mask:  # else a check takes word 0 for padding too
            padding = _with(plan, name, wrong="padding")
            yield Fault("word 0 is padding", _with_readers(plan, layer), padding, "gradient")
    elif layer.kind in ("add", "multiply"):
        other = {"add": "multiply", "multiply": "add"}[layer.kind]
        merged = _as(plan, name, other)
        yield Fault(f"{other} for {layer.kind}", _with_readers(plan, layer), merged)
        if len(layer.inputs) > 2:
            fewer = _reading(plan, name, layer.inputs[1:])
            left_out = (*_with_readers(plan, layer), layer.inputs[0])
            yield Fault("a sum without one of its terms", left_out, fewer)
    elif layer.kind == "concatenate":
        other = _reading(plan, name, tuple(reversed(layer.inputs)))
        yield Fault("a concatenation in the other order", _with_readers(plan, layer), other)
    elif layer.kind == "attention":
        yield from _of_attention(plan, layer)
    elif layer.kind in RECURRENT:
        yield from _of_recurrent(plan, layer)
    for (kind, way), wrongs in WRONG.items():
        if layer.kind == kind and way in ("", layer.settings.get("way")):
            names = (*_with_readers(plan, layer), f"{name}_squeeze", f"{name}_excite")
            for wrong, what in wrongs.items():
                yield Fault(what, names, _with(plan, name, wrong=wrong))
    if layer.settings.get("bias") and layer.kind in ("dense", "causal_conv", *CONVOLUTIONS):
        dropped = _with(plan, name, bias=False)
        yield Fault("no bias", (name,), dropped, numbers="transfer")
    readers = plan.readers(name)
    if layer.kind in LINEAR and not any(r.kind in ACTIVATIONS for r in readers):
        extra = Layer(f"{name}_extra", "relu", ())
        names = (f"{name}_extra", *_with_readers(plan, layer))
        added = _after(plan, name, extra)
        yield Fault("one ReLU more", names, added, numbers=_shows(plan, layer))


def _with_readers(plan: Plan, layer: Layer) -> tuple[str, ...]:
    return (layer.name, *(reader.name for reader in plan.readers(layer.name)))


def _pads(layer: Layer) -> bool:
    return any(pad for pads in layer.settings["padding"] for pad in pads)


def _shows(plan: Plan, layer: Layer) -> str:
    """Forward, if some of a batch's values are bound to be negative and no maximum hides them."""
    readers = plan.readers(layer.name)
    if any(reader.kind in ("max_pool", "global_max_pool") for reader in readers):
        return ""
    if any(r.kind in ("dropout", "concatenate") and not _shows(plan, r) for r in readers):
        return ""
    return "forward" if math.prod(layer.shape) > 7 else ""


def _of_convolution(plan: Plan, layer: Layer) -> Iterator[Fault]:
    name, padding = layer.name, layer.settings["padding"]
    if _pads(layer):
        moved = [
            [before - 1, after + 1] if before else [after, before] for before, after in padding
        ]
        yield Fault("padding moved by a pixel", (name,), _with(plan, name, padding=moved))
        none = [[0, 0], [0, 0]]
        yield Fault("no padding", (name,), _with(plan, name, padding=none))
    stride = 3 - layer.settings["stride"]
    if max(layer.shape[:2]) > 1:  # else there is one step at either stride
        yield Fault("another stride", (name,), _with(plan, name, stride=stride))


def _of_norm(plan: Plan, layer: Layer) -> Iterator[Fault]:
    name = layer.name
    epsilon = {1e-3: 1e-5, 1e-5: 1e-3}[layer.settings["epsilon"]]
    yield Fault("another epsilon", (name,), _with(plan, name, epsilon=epsilon))
    if layer.kind == "batch_norm":
        momentum = 1 - layer.settings["momentum"]
        turned = _with(plan, name, momentum=momentum)
        yield Fault("momentum for 1 - momentum", (name,), turned, numbers="update")
        unbiased = _with(plan, name, unbiased=True)
        yield Fault("an unbiased moving variance", (name,), unbiased, numbers="update")
    if layer.kind == "group_norm":
        groups = 1 if layer.settings["groups"] > 1 else layer.shape[-1]
        if groups != layer.settings["groups"] and math.prod(layer.shape) // groups > 1:
            yield Fault("another number of groups", (name,), _with(plan, name, groups=groups))


def _of_activation(plan: Plan, layer: Layer) -> Iterator[Fault]:
    name, kind = layer.name, layer.kind
    before = plan.before(layer)
    assert before is not None
    names = (name, before.name) if layer.settings.get("fused") else (name,)
    others = {
        "leaky_relu": {"negative_slope": 0.1},
        "elu": {"alpha": 0.5},
        "gelu": {"approximate": not layer.settings.get("approximate")},
    }
    if kind in others:
        yield Fault(f"another {next(iter(others[kind]))}", names, _with(plan, name, **others[kind]))
    elif kind == "softmax":
        yield Fault("softmax over the batch", names, _with(plan, name, axis=0, way="module"))
        if len(layer.shape) == 3 and layer.shape[0] > 1:
            yield Fault("softmax over the rows", names, _with(plan, name, axis=2, way="module"))
    elif kind == "relu6":
        yield Fault("relu for relu6", names, _as(plan, name, "relu"), numbers="")
    elif kind != "prelu":
        other = "tanh" if kind != "tanh" else "sigmoid"
        yield Fault(f"{other} for {kind}", names, _as(plan, name, other, {}))
    if kind != "prelu":  # it has weights
        neighbours = (*names, before.name, *(reader.name for reader in plan.readers(name)))
        yield Fault(
            *("no activation", tuple(dict.fromkeys(neighbours)), _without(plan, name)),
            numbers=_shows(plan, layer),
        )
        if before.kind in NORMS and len(plan.readers(before.name)) == 1:
            turned = _swapped(plan, before.name, name)
            yield Fault("activation before the norm", (name, before.name), turned)


def _of_recurrent(plan: Plan, layer: Layer) -> Iterator[Fault]:
    name, kind, settings = layer.name, layer.kind, layer.settings
    before = plan.before(layer)
    assert before is not None
    names = _with_readers(plan, layer)
    if kind == "simple_rnn":
        yield Fault("relu for tanh", (name,), _with(plan, name, activation="relu"))
    if kind != "gru":  # Keras' GRU has both
        both = _with(plan, name, two_biases=True)
        yield Fault("both biases trained", (name,), both, numbers="update")
    # What stands behind the last word is read by nothing, unless something runs back.
    if settings["masked"] and (settings["bidirectional"] or not settings["sequences"]):
        way = "slice" if settings["way"] == "pack" else settings["way"]
        unmasked = _with(plan, name, wrong="mask", way=way)
        yield Fault("a recurrence that heeds no mask", names, unmasked, numbers="")
    if settings["sequences"] or before.shape[0] < 3:
        return
    way = settings["way"] if settings["way"] in ("index", "gather") else "slice"
    if not settings["masked"]:
        early = _with(plan, name, wrong="step before", way=way)
        yield Fault("the step before the last", names, early)
        if settings["bidirectional"]:
            last = _with(plan, name, wrong="last step", way=way)
            yield Fault("the last step for the last state", names, last)


def _of_attention(plan: Plan, layer: Layer) -> Iterator[Fault]:
    name, settings = layer.name, layer.settings
    if settings["way"] != "module" or not (settings["masked"] or settings["dropout"]):
        yield Fault("attention without its scale", (name,), _with(plan, name, wrong="scale"))
    if settings["masked"]:
        names = _with_readers(plan, layer)
        unmasked = _with(plan, name, wrong="mask")
        yield Fault("an attention that heeds no mask", names, unmasked, numbers="")
    if settings["dropout"]:
        none = _with(plan, name, dropout=0)
        yield Fault("an attention without its dropout", (name,), none, numbers="")


def _of_dropout(plan: Plan, layer: Layer) -> Iterator[Fault]:
    name, readers = layer.name, plan.readers(layer.name)
    other = DROPOUTS[1 - DROPOUTS.index(layer.kind)]
    rate = 0.7 - layer.settings["rate"]
    yield Fault("another rate of dropout", (name,), _with(plan, name, rate=rate), numbers="")
    yield Fault("no dropout", _with_readers(plan, layer), _without(plan, name), numbers="")
    if len(layer.shape) > 1 and math.prod(layer.shape[:-1]) > 1:
        way = {**layer.settings, "way": "mask"}
        yield Fault(f"{other} for {layer.kind}", (name,), _as(plan, name, other, way), numbers="")
    if len(readers) == 1 and readers[0].kind in ("dense", *CONVOLUTIONS):
        moved = _swapped(plan, name, readers[0].name)
        if not any(_joined(each) for each in plan.readers(readers[0].name)):
            yield Fault("dropout a layer later", (name, readers[0].name), moved, numbers="")


def _joined(layer: Layer) -> bool:
    """Whether either side has the layer in the one before."""
    return bool(layer.settings.get("inside") or layer.settings.get("fused"))


def _sizes(plan: Plan, layer: Layer) -> list[int]:
    before = plan.before(layer)
    return list((plan.shape if before is None else before.shape)[:-1])


def _reading(plan: Plan, name: str, inputs: tuple[str, ...]) -> Plan:
    """The plan with other inputs of a layer."""
    layers = (replace(each, inputs=inputs) if each.name == name else each for each in plan.layers)
    return replace(plan, layers=tuple(layers))
