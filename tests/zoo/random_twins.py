"""Random models as plans, from which both frameworks build twins, and their single mistakes.

A plan knows no framework: it is a list of layers with their names, inputs, output shapes and
settings, all worked out. `plans()` draws one with hypothesis, `build_keras.py` and `build_torch.py`
build it, and `faults(plan)` lists plans for the PyTorch side that have one mistake each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

Shape = tuple[int, ...]
INPUT = "input"
WORDS = 9  # of a plan that reads sequences

CONVOLUTIONS = ("conv", "depthwise")
POOLS = ("max_pool", "average_pool")
NORMS = ("batch_norm", "layer_norm", "group_norm")
GLOBAL = ("global_max_pool", "global_average_pool")
RECURRENT = ("lstm", "gru", "simple_rnn")
ACTIVATIONS: dict[str, dict[str, list[Any]]] = {  # and the values of their parameters
    **{"relu": {}, "relu6": {}, "selu": {}, "silu": {}, "hard_silu": {}, "hard_sigmoid": {}},
    **{"sigmoid": {}, "tanh": {}, "softplus": {}, "softmax": {}, "prelu": {}},
    "leaky_relu": {"negative_slope": [0.01, 0.2, 0.3]},
    "elu": {"alpha": [1.0, 0.7]},
    "gelu": {"approximate": [False, True]},
}
FUSED = ("relu", "relu6", "selu", "silu", "sigmoid", "tanh", "softplus", "hard_sigmoid")
LINEAR = (*CONVOLUTIONS, "dense", "attention", *NORMS)  # after these a value is of either sign


@dataclass(frozen=True)
class Layer:
    """One layer of a plan.

    Attributes:
        inputs: names of layers, or `input`.
        shape: of the output without the batch, channels last.
        settings: see `shape_of` for those that a shape hangs on. `mode` of a convolution or pool
            is how Keras says the `padding` that stands beside it in pixels; `fused` of an
            activation: Keras has it in the layer before.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: Shape = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A model: `words` is 0 where the input is an image. The last layer's output is the model's."""

    shape: Shape
    words: int
    layers: tuple[Layer, ...]

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def before(self, layer: Layer) -> Layer | None:
        """The first input of a layer; None where it is the model's."""
        first = layer.inputs[0]
        return None if first == INPUT else self.layer(first)

    def readers(self, name: str) -> list[Layer]:
        return [layer for layer in self.layers if name in layer.inputs]

    def as_dict(self) -> dict[str, Any]:
        return json.loads(self.to_json())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        values = json.loads(text)
        layers = tuple(
            Layer(**{**each, "inputs": tuple(each["inputs"]), "shape": tuple(each["shape"])})
            for each in values["layers"]
        )
        return cls(tuple(values["shape"]), values["words"], layers)

    @property
    def torch_shape(self) -> Shape:
        """The input's shape in PyTorch's layout."""
        return (self.shape[-1], *self.shape[:-1]) if len(self.shape) == 3 else self.shape


@dataclass(frozen=True)
class Fault:
    """A plan for the PyTorch side with one mistake.

    Attributes:
        what: in words.
        layers: names of which one must be named. An activation that Keras has fused goes by the
            layer before it; sums and concatenations are functions in PyTorch.
        level: where it fails first; what the sides declare counts.
        numbers: where it fails first by numbers alone; empty where they need not tell.
    """

    what: str
    layers: tuple[str, ...]
    plan: Plan
    level: str = "structure"
    numbers: str = "forward"


# Shapes ------------------------------------------------------------------------------------------


def shape_of(kind: str, settings: dict[str, Any], shapes: list[Shape]) -> Shape:
    """What comes out of a layer. Raises `ValueError` where it cannot stand there."""
    shape = shapes[0]
    if kind in (*CONVOLUTIONS, *POOLS):
        size = settings["kernel" if kind in CONVOLUTIONS else "size"]
        rows, columns = (
            _slid(extent, size, settings["stride"], sum(pads))
            for extent, pads in zip(shape[:2], settings["padding"], strict=True)
        )
        channels = shape[2] * settings.get("multiplier", 1)
        return (rows, columns, settings.get("filters", channels))
    if kind == "flatten":
        return (math.prod(shape),)
    if kind in GLOBAL:
        return shape[-1:]
    if kind in ("dense", "embedding"):
        kept = shape if kind == "embedding" else shape[:-1]
        return (*kept, settings["units"])
    if kind in RECURRENT:
        units = settings["units"] * (2 if settings["bidirectional"] else 1)
        return (shape[0], units) if settings["sequences"] else (units,)
    if kind == "concatenate":
        if len({each[:-1] for each in shapes}) > 1:
            raise ValueError(f"a concatenation of {shapes}")
        return (*shape[:-1], sum(each[-1] for each in shapes))
    if kind == "add" and len(set(shapes)) > 1:
        raise ValueError(f"a sum of {shapes}")
    return shape


def _slid(extent: int, size: int, stride: int, pads: int) -> int:
    steps = (extent + pads - size) // stride + 1
    if steps < 1:
        raise ValueError(f"a window of {size} over {extent} and {pads}")
    return steps


def _same(extent: int, size: int, stride: int) -> list[int]:
    """Keras' "same": half before, the rest after."""
    total = max((math.ceil(extent / stride) - 1) * stride + size - extent, 0)
    return [total // 2, total - total // 2]


def weights_of(layer: Layer, shapes: list[Shape]) -> tuple[int, ...]:
    """What the shapes of a layer's weights hang on."""
    if layer.kind in (*CONVOLUTIONS, "dense", "embedding", "prelu", *RECURRENT, *NORMS):
        return (shapes[0][-1], layer.shape[-1])
    return ()


def worked_out(plan: Plan) -> Plan:
    """The plan with all its shapes anew. Raises `ValueError` where a layer cannot stand."""
    shapes = {INPUT: plan.shape}
    layers = []
    for layer in plan.layers:
        shape = shape_of(layer.kind, layer.settings, [shapes[name] for name in layer.inputs])
        shapes[layer.name] = shape
        layers.append(replace(layer, shape=shape))
    return replace(plan, layers=tuple(layers))


# Drawing -----------------------------------------------------------------------------------------


class _Growing:
    """A plan while it is drawn; `at` is the layer whose output the next one reads."""

    def __init__(self, draw: Callable[..., Any], shape: Shape, words: int = 0) -> None:
        self.draw, self.start, self.words = draw, shape, words
        self.layers: list[Layer] = []
        self.at = INPUT

    @property
    def last(self) -> Layer:
        found = [layer for layer in self.layers if layer.name == self.at]
        return found[0] if found else Layer(INPUT, INPUT, (), self.start)

    @property
    def shape(self) -> Shape:
        return self.last.shape

    def then(self, kind: str, *others: str, **settings: Any) -> str:
        """Add a layer that reads the last one, and `others`."""
        shapes = {INPUT: self.start} | {layer.name: layer.shape for layer in self.layers}
        inputs = (self.at, *others)
        shape = shape_of(kind, settings, [shapes[name] for name in inputs])
        self.at = f"{kind}{len(self.layers) + 1}"
        self.layers.append(Layer(self.at, kind, inputs, shape, settings))
        return self.at

    def one(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def plan(self) -> Plan:
        return Plan(self.start, self.words, tuple(self.layers))

    # Single layers

    def window(self, modes: tuple[str, ...], sizes: tuple[int, ...]) -> dict[str, Any]:
        """Size, stride and padding of a window that fits the map."""
        mode, stride = self.one(*modes), self.one(1, 1, 2)
        size = self.one(*sizes)
        pad = self.draw(st.integers(1, max(1, size // 2))) if mode == "explicit" else 0
        size = min(size, *(extent + 2 * pad for extent in self.shape[:2]))
        if mode == "same":
            padding = [_same(extent, size, stride) for extent in self.shape[:2]]
        else:
            padding = [[pad, pad]] * 2
        return {"size": size, "stride": stride, "mode": mode, "padding": padding}

    def convolve(self, depthwise: bool) -> None:
        window = self.window(("valid", "same", "explicit"), (1, 2, 3, 4, 5))
        window["kernel"] = window.pop("size")
        bias = self.draw(st.booleans())
        if depthwise:
            self.then("depthwise", **window, multiplier=self.one(1, 1, 2), bias=bias)
            return
        filters = self.one(2, 3, 4, 6)
        even = self.shape[-1] % 2 == 0 and filters % 2 == 0
        groups = self.one(1, 1, 2) if even else 1
        self.then("conv", **window, filters=filters, groups=groups, bias=bias)

    def pool(self) -> None:
        if min(self.shape[:2]) < 2:
            return
        window = self.window(("valid", "same"), (2, 3))
        if any(before != after for before, after in window["padding"]):
            window |= {"mode": "valid", "padding": [[0, 0], [0, 0]]}
        self.then(self.one(*POOLS), **window)

    def normalise(self) -> None:
        size, channels = math.prod(self.shape), self.shape[-1]
        kinds = []
        if len(self.shape) != 2:  # PyTorch's batch norm of a sequence wants another layout
            kinds.append("batch_norm")
        if channels > 2:  # two values are normalised to -1 and 1, whatever they were
            kinds.append("layer_norm")
        groups = [g for g in (1, 2, 3) if channels % g == 0 and size // g > 3]
        if len(self.shape) == 3 and groups:
            kinds.append("group_norm")
        if not kinds:
            return
        kind, epsilon = self.one(*kinds), self.one(1e-3, 1e-5)
        extra = {
            "batch_norm": {"momentum": self.one(0.99, 0.9)},
            "group_norm": {"groups": self.one(*groups or [1])},
        }
        self.then(kind, epsilon=epsilon, **extra.get(kind, {}))

    def activate(self) -> None:
        """An activation, after a layer that gives values of either sign."""
        if self.last.kind not in LINEAR:
            return
        kinds = [k for k in ACTIVATIONS if k != "prelu" or len(self.shape) != 2]
        kind = self.one(*kinds)
        settings = {name: self.one(*values) for name, values in ACTIVATIONS[kind].items()}
        fusable = kind in FUSED and self.last.kind in (*CONVOLUTIONS, "dense")
        self.then(kind, **settings, fused=fusable and self.draw(st.booleans()))

    def drop(self) -> None:
        if self.last.kind != "dropout":
            self.then("dropout", rate=self.one(0.2, 0.5))

    def dense(self, units: int | None = None) -> None:
        self.then("dense", units=units or self.one(3, 4, 5), bias=self.draw(st.booleans()))

    # Several layers

    def alike(self, filters: int) -> None:
        """A convolution that keeps the size of the map."""
        kernel, bias = self.one(1, 3), self.draw(st.booleans())
        padding = [[kernel // 2, kernel // 2]] * 2
        self.then(
            *("conv",),
            **{"kernel": kernel, "stride": 1, "mode": "same", "padding": padding},
            **{"filters": filters, "groups": 1, "bias": bias},
        )

    def residual(self) -> None:
        start = self.at
        if start == INPUT:
            return
        self.alike(self.shape[-1])
        self.draw(st.sampled_from([self.normalise, self.activate, lambda: None]))()
        self.then("add", start)

    def branch(self) -> None:
        start = self.at
        if start == INPUT:
            return
        self.alike(self.one(2, 3))
        self.activate()
        new, self.at = self.at, start
        self.then("concatenate", new)

    def attend(self) -> None:
        heads, size = self.one(1, 2), self.shape[-1]
        if size % heads or size // heads < 2:
            heads = 1
        start = self.at
        bias = self.draw(st.booleans())
        self.then("attention", heads=heads, head_size=size // heads, bias=bias)
        if self.draw(st.booleans()):
            self.then("add", start)
            self.normalise()


def _images(draw: Callable[..., Any], most: int) -> Plan:
    side = st.integers(5, 12)
    growing = _Growing(draw, (draw(side), draw(side), draw(st.integers(1, 3))))
    steps: dict[str, Callable[[], None]] = {
        "conv": lambda: growing.convolve(False),
        "depthwise": lambda: growing.convolve(True),
        **{"pool": growing.pool, "norm": growing.normalise, "activation": growing.activate},
        **{"residual": growing.residual, "branch": growing.branch, "dropout": growing.drop},
    }
    growing.convolve(False)
    names = st.lists(st.sampled_from(list(steps)), max_size=most)
    for name in draw(names):
        if len(growing.layers) < most - 2:
            steps[name]()
    if growing.one("flatten", "global") == "flatten":
        growing.then("flatten")
    else:
        growing.then(growing.one(*GLOBAL))
    if len(growing.layers) < most - 2:
        growing.dense()
        draw(st.sampled_from([growing.activate, growing.normalise, growing.drop]))()
    growing.dense()
    return growing.plan()


def _sequences(draw: Callable[..., Any], most: int) -> Plan:
    growing = _Growing(draw, (draw(st.integers(3, 8)),), WORDS)
    growing.then("embedding", words=WORDS, units=growing.one(4, 6))

    def recur(sequences: bool) -> None:
        both = draw(st.booleans())
        kind = growing.one(*RECURRENT)
        growing.then(kind, units=growing.one(3, 4), bidirectional=both, sequences=sequences)

    steps: dict[str, Callable[[], None]] = {
        **{"recurrent": lambda: recur(True), "attention": growing.attend, "dense": growing.dense},
        **{"norm": growing.normalise, "activation": growing.activate, "dropout": growing.drop},
    }
    for name in draw(st.lists(st.sampled_from(list(steps)), max_size=most)):
        if len(growing.layers) < most - 3:
            steps[name]()
    if draw(st.booleans()):
        recur(False)
    else:
        growing.then(growing.one(*GLOBAL))
    growing.dense()
    if draw(st.booleans()):
        growing.then("softmax", fused=False)
    return growing.plan()


@st.composite
def plans(draw: Callable[..., Any], kinds: tuple[str, ...] = ("image", "sequence")) -> Plan:
    """Plans of up to some ten layers, over images up to 12x12x3 or sequences of up to 8 words."""
    kind = draw(st.sampled_from(kinds))
    return (_images if kind == "image" else _sequences)(draw, 9)


# Mistakes ----------------------------------------------------------------------------------------


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
    elif layer.kind in NORMS:
        yield from _of_norm(plan, layer)
    elif layer.kind in ACTIVATIONS:
        yield from _of_activation(plan, layer)
    elif layer.kind == "dropout":
        rate = 0.7 - layer.settings["rate"]
        yield Fault("another rate of dropout", (name,), _with(plan, name, rate=rate), numbers="")
        yield Fault("no dropout", (name,), _without(plan, name), numbers="")
    elif layer.kind == "concatenate":
        turned = tuple(reversed(layer.inputs))
        layers = tuple(
            replace(each, inputs=turned) if each.name == name else each for each in plan.layers
        )
        other = replace(plan, layers=layers)
        yield Fault("a concatenation in the other order", _with_readers(plan, layer), other)
    elif layer.kind == "attention":
        unscaled = _with(plan, name, scale=1.0)
        yield Fault("attention without its scale", (name,), unscaled, level="forward")
    elif layer.kind in RECURRENT:
        yield from _of_recurrent(plan, layer)
    if layer.settings.get("bias") and layer.kind in ("dense", *CONVOLUTIONS):
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
        yield Fault("softmax over the batch", names, _with(plan, name, axis=0))
        if len(layer.shape) == 3 and layer.shape[0] > 1:
            yield Fault("softmax over the rows", names, _with(plan, name, axis=2))
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
    name, kind = layer.name, layer.kind
    before = plan.before(layer)
    assert before is not None
    if kind == "simple_rnn":
        yield Fault("relu for tanh", (name,), _with(plan, name, activation="relu"))
    if kind != "gru":  # Keras' GRU has both
        both = _with(plan, name, two_biases=True)
        yield Fault("both biases trained", (name,), both, numbers="update")
    if layer.settings["bidirectional"] and not layer.settings["sequences"] and before.shape[0] > 1:
        last = _with(plan, name, last_step=True)
        yield Fault(
            "the last step for the last state", _with_readers(plan, layer), last, level="forward"
        )
