"""Random models as plans, from which both frameworks build twins.

A plan knows no framework: it is a list of layers with their names, inputs, output shapes and
settings, all worked out, how PyTorch writes each of them included. `plan_of(seed)` draws one,
`features` says what is in it, `build_keras.py` and `build_torch.py` build it, and
`random_faults.py` lists plans for the PyTorch side that have one mistake each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from random import Random
from typing import Any

Shape = tuple[int, ...]
INPUT, MASK = "input", "mask"
WORDS = 9  # of a plan that reads sequences
MOST = 7  # layers, or some more

CONVOLUTIONS = ("conv", "depthwise")
POOLS = ("max_pool", "average_pool")
NORMS = ("batch_norm", "layer_norm", "group_norm")
GLOBAL = ("global_max_pool", "global_average_pool")
RECURRENT = ("lstm", "gru", "simple_rnn")
DROPOUTS = ("dropout", "spatial_dropout")
OWN = ("scaled", "gated")
MERGES = ("add", "multiply", "concatenate")
ACTIVATIONS: dict[str, dict[str, list[Any]]] = {  # and the values of their parameters
    **{"relu": {}, "relu6": {}, "selu": {}, "silu": {}, "hard_silu": {}, "hard_sigmoid": {}},
    **{"sigmoid": {}, "tanh": {}, "softplus": {}, "softmax": {}, "prelu": {}},
    "leaky_relu": {"negative_slope": [0.01, 0.2, 0.3]},
    "elu": {"alpha": [1.0, 0.7]},
    "gelu": {"approximate": [False, True]},
}
FUSED = ("relu", "relu6", "selu", "silu", "sigmoid", "tanh", "softplus", "hard_sigmoid")
# After these a value is of either sign.
LINEAR = (*CONVOLUTIONS, "causal_conv", "dense", "attention", "scaled", *NORMS)
# How PyTorch writes a layer; the first is the module that PyTorch has for it.
WAYS: dict[str, tuple[str, ...]] = {
    **{"relu": ("module", "clamp", "where"), "silu": ("module", "by_hand")},
    **{"gelu": ("module", "by_hand"), "softmax": ("module", "by_hand")},
    **{"tanh": ("module", "by_hand"), "leaky_relu": ("module", "where")},
    **{"layer_norm": ("module", "by_hand"), "dense": ("module", "bare", "conv")},
    **{"dropout": ("module", "function", "mask"), "spatial_dropout": ("module", "mask")},
    **{"attention": ("module", "sdpa", "einsum", "joined")},
    **{"causal_conv": ("chomp", "pad"), "squeeze_excite": ("convs", "linears")},
    **{"gated": ("bare", "linears", "glu"), "add": ("plus", "stack")},
    "nothing": ("identity", "reshape", "doubled", "transposed"),
}
LAST = ("state", "slice", "index", "gather", "pack")  # ways to the last step of a recurrence


@dataclass(frozen=True)
class Layer:
    """One layer of a plan.

    Attributes:
        inputs: names of layers, or `input`.
        shape: of the output without the batch, channels last.
        settings: see `shape_of` for those that a shape hangs on. `mode` of a convolution or pool
            is how Keras says the `padding` that stands beside it in pixels; `fused` of an
            activation: Keras has it in the layer before; `inside`: PyTorch has, in a class of its
            own; `way`: how PyTorch writes it; `masked`: it heeds the plan's mask; `wrong`: what is
            wrong with it in PyTorch.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: Shape = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A model. The last layer's output is the model's.

    Attributes:
        words: 0 where the input is an image.
        mask: `zeros` where steps of word 0 are masked, `input` where a second input says which.
        open: whether Keras leaves the sizes of a map or the number of steps open.
    """

    shape: Shape
    words: int
    layers: tuple[Layer, ...]
    mask: str = ""
    open: bool = False

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
        return cls(**{**values, "shape": tuple(values["shape"]), "layers": layers})

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of all inputs, as Keras takes them."""
        return (self.shape, self.shape) if self.mask == "input" else (self.shape,)


# What is in a plan -------------------------------------------------------------------------------


def _way(kind: str, *ways: str) -> Callable[[Layer], bool]:
    return lambda layer: layer.kind == kind and layer.settings.get("way") in ways


def _last(way: str) -> Callable[[Layer], bool]:
    return lambda layer: layer.kind in RECURRENT and layer.settings.get("way") == way


def _of(*kinds: str) -> Callable[[Layer], bool]:
    return lambda layer: layer.kind in kinds


FEATURES: dict[str, Callable[[Layer], bool]] = {
    "convolutions": _of(*CONVOLUTIONS, "causal_conv"),
    "recurrence": _of(*RECURRENT),
    "attention": _of("attention"),
    "embeddings": _of("embedding"),
    "branches": _of(*MERGES),
    "dropout": _of(*DROPOUTS),
    "dropout in an attention": lambda layer: bool(layer.settings.get("dropout")),
    "own layers": _of(*OWN),
    "calls without a partner": _of("nothing"),
    "a module that includes its activation": lambda layer: bool(layer.settings.get("inside")),
    "x * sigmoid(x) for silu": _way("silu", "by_hand"),
    "another activation by hand": lambda layer: (
        layer.kind in ACTIVATIONS and layer.settings.get("way", "module") != "module"
    ),
    "a layer norm by hand": _way("layer_norm", "by_hand"),
    "a dense layer of bare parameters": _way("dense", "bare"),
    "an SE block by 1x1 convolutions": _way("squeeze_excite", "convs"),
    "several adds for one": lambda layer: layer.kind == "add" and len(layer.inputs) > 2,
    "scaled_dot_product_attention": _way("attention", "sdpa", "joined"),
    "attention by einsum and softmax": _way("attention", "einsum"),
    "crop against chomp": lambda layer: (
        _way("causal_conv", "chomp")(layer) and layer.settings["mode"] == "crop"
    ),
    **{f"the last step by {way}": _last(way) for way in ("index", "gather", "pack", "slice")},
}
OF_PLANS = {
    "a mask of zeros": lambda plan: plan.mask == "zeros",
    "a mask as an input": lambda plan: plan.mask == "input",
    "variable sizes": lambda plan: plan.open,
}


def features(plan: Plan) -> set[str]:
    """The names in `FEATURES` and `OF_PLANS` of what the plan holds."""
    found = {name for name, holds in FEATURES.items() if any(map(holds, plan.layers))}
    return found | {name for name, holds in OF_PLANS.items() if holds(plan)}


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
    if kind in ("dense", "gated", "causal_conv"):
        return (*shape[:-1], settings["units"])
    if kind == "embedding":
        return (*shape, settings["units"])
    if kind in RECURRENT:
        units = settings["units"] * (2 if settings["bidirectional"] else 1)
        return (shape[0], units) if settings["sequences"] else (units,)
    if kind == "concatenate":
        if len({each[:-1] for each in shapes}) > 1:
            raise ValueError(f"a concatenation of {shapes}")
        return (*shape[:-1], sum(each[-1] for each in shapes))
    if kind in ("add", "multiply") and len(set(shapes)) > 1:
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
    weighted = (*CONVOLUTIONS, "causal_conv", "dense", "embedding", "prelu", "squeeze_excite")
    if layer.kind in (*weighted, *OWN, *RECURRENT, *NORMS):
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


def plan_of(seed: int, feature: str = "") -> Plan:
    """The plan of a number, always the same: of some eight layers, over images of up to 9x9x3 or
    sequences of up to 5 words; with a feature, if one is named."""
    for attempt in count():
        random = Random(f"{seed}/{attempt}")
        plan = random.choice([_images, _sequences])(random)
        if not feature or feature in features(plan):
            return plan
    raise AssertionError


class _Growing:
    """A plan while it is drawn; `at` is the layer whose output the next one reads."""

    def __init__(self, random: Random, shape: Shape, words: int, mask: str, open_: bool) -> None:
        self.random, self.start, self.words = random, shape, words
        self.mask, self.open = mask, open_
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
        if kind in WAYS and "way" not in settings:
            settings["way"] = self.one(*WAYS[kind])
        shapes = {INPUT: self.start} | {layer.name: layer.shape for layer in self.layers}
        inputs = (self.at, *others)
        shape = shape_of(kind, settings, [shapes[name] for name in inputs])
        self.at = f"{kind}{len(self.layers) + 1}"
        self.layers.append(Layer(self.at, kind, inputs, shape, settings))
        return self.at

    def one(self, *values: Any) -> Any:
        return self.random.choice(values)

    def maybe(self) -> bool:
        return self.random.random() < 0.5

    def steps(self, steps: dict[str, Callable[[], None]], left: int) -> None:
        """Some of these, as long as there is room for `left` layers more."""
        for name in self.random.choices(list(steps), k=self.random.randint(1, MOST)):
            if len(self.layers) < MOST - left:
                steps[name]()

    def plan(self) -> Plan:
        return Plan(self.start, self.words, tuple(self.layers), self.mask, self.open)

    # Single layers

    def window(self, modes: tuple[str, ...], sizes: tuple[int, ...]) -> dict[str, Any]:
        """Size, stride and padding of a window that fits the map."""
        mode, stride = self.one(*modes), self.one(1, 1, 2)
        if self.open and mode == "same":  # with a stride, its padding hangs on the size
            stride = 1
        size = self.one(*sizes)
        pad = self.random.randint(1, max(1, size // 2)) if mode == "explicit" else 0
        size = min(size, *(extent + 2 * pad for extent in self.shape[:2]))
        if mode == "same":
            padding = [_same(extent, size, stride) for extent in self.shape[:2]]
        else:
            padding = [[pad, pad]] * 2
        return {"size": size, "stride": stride, "mode": mode, "padding": padding}

    def convolve(self, depthwise: bool) -> None:
        window = self.window(("valid", "same", "explicit"), (1, 2, 3, 4, 5))
        window["kernel"] = window.pop("size")
        bias = self.maybe()
        if depthwise:
            self.then("depthwise", **window, multiplier=self.one(1, 1, 2), bias=bias)
            return
        filters = self.one(2, 3, 4, 6)
        even = self.shape[-1] % 2 == 0 and filters % 2 == 0
        groups = self.one(1, 1, 2) if even else 1
        self.then("conv", **window, filters=filters, groups=groups, bias=bias)

    def convolve_causally(self) -> None:
        self.then(
            *("causal_conv",),
            **{"units": self.one(3, 4), "kernel": self.one(2, 3), "dilation": self.one(1, 1, 2)},
            **{"mode": self.one("causal", "crop", "crop"), "bias": self.maybe()},
        )

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
            kinds += ["layer_norm"] * 2
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
        if self.mask:  # Keras' softmax would take the mask for its own
            kinds.remove("softmax")
        kind = self.one(*kinds)
        settings = {name: self.one(*values) for name, values in ACTIVATIONS[kind].items()}
        follows = self.last.kind in (*CONVOLUTIONS, "dense")
        inside = ""
        if kind in FUSED and follows and self.last.settings.get("way", "module") == "module":
            inside = self.one("", "subclassed", "wrapped")
        fused = kind in FUSED and follows and self.maybe()
        self.then(kind, **settings, fused=fused, inside=inside)

    def drop(self) -> None:
        if self.last.kind not in DROPOUTS:
            kinds = DROPOUTS if len(self.shape) > 1 else ("dropout",)
            self.then(self.one(*kinds), rate=self.one(0.2, 0.5))

    def dense(self, units: int | None = None) -> None:
        self.then("dense", units=units or self.one(3, 4, 5), bias=self.maybe())

    def own(self) -> None:
        if self.one(*OWN) == "gated" and len(self.shape) < 3:
            self.then("gated", units=self.one(3, 4))
        else:
            self.then("scaled")

    def nothing(self) -> None:
        """A call that PyTorch has and Keras has not, or has for nothing."""
        self.then("nothing", keras=self.maybe())

    def squeeze_and_excite(self) -> None:
        self.then("squeeze_excite", hidden=self.one(2, 3))

    # Several layers

    def alike(self, units: int) -> None:
        """A layer that keeps all sizes but the channels."""
        if len(self.shape) < 3:
            self.dense(units)
            return
        kernel, bias = self.one(1, 3), self.maybe()
        padding = [[kernel // 2, kernel // 2]] * 2
        self.then(
            *("conv",),
            **{"kernel": kernel, "stride": 1, "mode": "same", "padding": padding},
            **{"filters": units, "groups": 1, "bias": bias},
        )

    def residual(self) -> None:
        """A sum of two to four."""
        start, size = self.at, self.shape[-1]
        if start == INPUT:
            return
        others = []
        for _ in range(self.one(1, 2, 3) if len(self.layers) < MOST - 4 else 1):
            self.at = start
            self.alike(size)
            self.one(self.normalise, self.activate, lambda: None)()
            others.append(self.at)
        self.at = others.pop()
        self.then("add", *others, start, nested=self.maybe())

    def branch(self) -> None:
        start = self.at
        if start == INPUT:
            return
        self.alike(self.one(2, 3))
        self.activate()
        new, self.at = self.at, start
        self.then("concatenate", new)

    def gate(self) -> None:
        """A product with a gate of the same."""
        start = self.at
        if start == INPUT:
            return
        self.alike(self.shape[-1])
        self.then("sigmoid", fused=False)
        self.then("multiply", start)

    def attend(self) -> None:
        heads, size = self.one(1, 2), self.shape[-1]
        if size % heads or size // heads < 2:
            heads = 1
        start = self.at
        self.then(
            *("attention",),
            **{"heads": heads, "head_size": size // heads, "bias": self.maybe()},
            **{"dropout": self.one(0, 0, 0.2), "masked": bool(self.mask)},
        )
        if self.maybe():
            self.then("add", start, nested=False)
            self.normalise()

    def recur(self, sequences: bool) -> None:
        if sequences and any(layer.kind in RECURRENT for layer in self.layers):
            return  # they are slow
        both, masked = self.maybe(), bool(self.mask)
        ways = LAST
        if masked and (both or sequences):  # what runs back starts at the last word
            ways = ("pack",)
        elif masked:
            ways = ("index", "gather", "pack")
        elif sequences:
            ways = ("state",)
        self.then(
            *(self.one(*RECURRENT),),
            **{"units": self.one(3, 4), "bidirectional": both, "sequences": sequences},
            **{"way": self.one(*ways), "masked": masked},
        )


def _images(random: Random) -> Plan:
    shape = (random.randint(5, 9), random.randint(5, 9), random.randint(1, 3))
    growing = _Growing(random, shape, 0, "", random.random() < 0.25)
    growing.convolve(False)
    growing.steps(
        {
            "conv": lambda: growing.convolve(False),
            "depthwise": lambda: growing.convolve(True),
            **{"pool": growing.pool, "norm": growing.normalise, "dropout": growing.drop},
            **{"residual": growing.residual, "branch": growing.branch, "gate": growing.gate},
            **{"own": growing.own, "nothing": growing.nothing, "activation": growing.activate},
            "squeeze and excite": growing.squeeze_and_excite,
        },
        2,
    )
    if growing.open or growing.maybe():
        growing.then(growing.one(*GLOBAL))
    else:
        growing.then("flatten")
    if len(growing.layers) < MOST - 2:
        growing.dense()
        growing.one(growing.activate, growing.normalise, growing.drop, growing.own)()
    growing.dense()
    return growing.plan()


def _sequences(random: Random) -> Plan:
    mask = random.choice(["", "", "zeros", "input"])
    open_ = random.random() < 0.25
    shape = (3 if open_ else random.randint(3, 5),)  # three times as many steps are tried
    growing = _Growing(random, shape, WORDS, mask, open_)
    growing.then(
        "embedding", words=WORDS, units=growing.one(4, 6), mask_zero=growing.mask == "zeros"
    )
    steps = {
        **{"recurrence": lambda: growing.recur(True), "attention": growing.attend},
        **{"norm": growing.normalise, "activation": growing.activate, "dropout": growing.drop},
        **{"residual": growing.residual, "branch": growing.branch, "gate": growing.gate},
        **{"own": growing.own, "nothing": growing.nothing, "dense": growing.dense},
    }
    if not mask:  # Keras' convolutions pass none on
        steps["causal"] = growing.convolve_causally
    growing.steps(steps, 3)
    if growing.maybe():
        growing.recur(False)
    else:
        kinds = GLOBAL[1:] if mask else GLOBAL  # a maximum heeds none
        growing.then(growing.one(*kinds), masked=bool(mask))
    growing.dense()
    if growing.maybe():
        growing.then("softmax", fused=False)
    return growing.plan()
