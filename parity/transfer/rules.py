"""The table of rules: which layers of both frameworks stand for each other, and how.

A rule joins a layer (or several) of Keras with one (or several) of PyTorch and turns tensors of
either into the other's. Most are a few `Pair`s:

    register_rule("rms_norm", keras="rms_norm", torch="rms_norm")(
        Paired(Pair("scale", "weight", VECTOR, neutral=1))
    )

A rule of your own is any class with both directions; tensors are held by role, with the layer's
place before it (`0/weight`, `1/weight`) where a side has several layers:

    @register_rule("gated", keras="other:Gated", torch="other:Gated")
    class Gated:
        @staticmethod
        def to_torch(tensors, context):
            return {"w": tensors["kernel"].T}

        @staticmethod
        def to_keras(tensors, context):
            return {"kernel": tensors["w"].T}

Rules may give views. They are tried on tensors that take no memory, to see whether shapes fit, with
`context.dry` set: values count for nothing then.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from parity.transfer.layouts import Order
from parity.transfer.units import UNCALLED, Unit
from shared_data.errors import InputError

Tensors = dict[str, np.ndarray]
Shape = tuple[int, ...]


class Unfit(Exception):
    """These tensors cannot be said on the other side; the message says why."""


@dataclass
class Context:
    """What a rule knows beside the tensors.

    Attributes:
        keras, torch: the layers it joins, with roles, shapes and settings.
        flattened: how the rows that a layer reads run on both sides, behind a flatten.
        unflattened: how what it gives runs, before a reshape to a map.
        axes: the permutation of a tensor with several axes from Keras to PyTorch, if they differ.
        keras_axes, torch_axes, joined, blocks, rows: of the rule `tensor`, see `tensors.Tensor`.
        dry: only shapes are asked for.
        strict: raise where something would be lost; otherwise `lost` says what was.
    """

    keras: tuple[Unit, ...]
    torch: tuple[Unit, ...]
    flattened: tuple[Order, ...] = ()
    unflattened: tuple[Order, ...] = ()
    axes: tuple[int, ...] = ()
    keras_axes: tuple[tuple[int, ...], ...] = ()
    torch_axes: tuple[tuple[int, ...], ...] = ()
    joined: int | None = None
    blocks: tuple[int, ...] = ()
    rows: int | None = None
    dry: bool = False
    strict: bool = True
    lost: list[str] = field(default_factory=list)

    def wanted(self, side: str) -> dict[str, Shape]:
        """The shapes of a side's tensors by the keys that a rule uses."""
        return {key: unit.shapes[role] for key, (unit, role) in self.held(side).items()}

    def held(self, side: str) -> dict[str, tuple[Unit, str]]:
        """Whose tensor each key of a side is, and in which role."""
        layers = self.keras if side == "keras" else self.torch
        return {
            key: (unit, role)
            for at, unit in enumerate(layers)
            for role in unit.shapes
            for key in [f"{at}/{role}" if len(layers) > 1 else role]
        }

    def lose(self, what: str) -> None:
        """Say that something has no place on the other side. Raises `Unfit` if strict."""
        if self.strict and not self.dry:
            raise Unfit(what)
        self.lost.append(what)

    def missing(self, side: str, key: str, value: np.ndarray, neutral: float) -> None:
        """A tensor that the other side does not have must hold what its absence means there."""
        if self.dry:
            self.lost.append(f"{side} has no {key}")
        elif not (value == neutral).all():
            self.lose(f"{key} is not {neutral:g} everywhere, and {side} has no place for it")


class Directions(Protocol):
    """Both directions of a rule. They raise `Unfit` where the other side cannot say it."""

    def to_torch(self, tensors: Tensors, context: Context) -> Tensors: ...

    def to_keras(self, tensors: Tensors, context: Context) -> Tensors: ...


@dataclass(frozen=True)
class Rule:
    """An entry of the table.

    Attributes:
        name: unique; what a `map.toml` calls it.
        keras, torch: for each layer the kinds that it may be of; `other:*` takes any unknown one.
        group: how several layers of one side hang together: a "chain", each feeding the next, or
            "join", all feeding the last.
        many: whether the last layer of either side may come any number of times, in a chain.
        parts: what several layers are usually named after, in their order.
    """

    name: str
    keras: tuple[tuple[str, ...], ...]
    torch: tuple[tuple[str, ...], ...]
    directions: Directions
    group: str = "chain"
    many: bool = False
    parts: tuple[str, ...] = ()

    def joins(self, keras: Iterable[Unit], torch: Iterable[Unit]) -> bool:
        """Whether it is for layers of these kinds, in this number."""
        return self._takes(self.keras, tuple(keras)) and self._takes(self.torch, tuple(torch))

    def _takes(self, kinds: tuple[tuple[str, ...], ...], layers: tuple[Unit, ...]) -> bool:
        if self.many and len(layers) > len(kinds):
            kinds = (*kinds, *[kinds[-1]] * (len(layers) - len(kinds)))
        return len(kinds) == len(layers) and all(map(takes, kinds, layers))


def takes(kinds: Iterable[str], layer: Unit) -> bool:
    """Whether a layer is of one of `kinds`. One that was never called may be anything."""
    return layer.kind == UNCALLED or any(fnmatchcase(layer.kind, kind) for kind in kinds)


RULES: dict[str, Rule] = {}
T = TypeVar("T", bound=Directions)


def register_rule(
    name: str,
    *,
    keras: str | tuple[str, ...],
    torch: str | tuple[str, ...],
    group: str = "chain",
    many: bool = False,
    parts: tuple[str, ...] = (),
) -> Callable[[T], T]:
    """Enter a rule under `name`; later rules are asked later.

    `keras` and `torch` are kinds, set off by `|`; a tuple of them stands for several layers.
    Raises `ValueError` where there is a rule of that name.
    """

    def enter(directions: T) -> T:
        if name in RULES:
            raise ValueError(f"there is a rule {name!r} already")
        RULES[name] = Rule(name, _kinds(keras), _kinds(torch), directions, group, many, parts)
        return directions

    return enter


def load_rules(path: Path) -> None:
    """Run a Python file that enters rules of its own.

    Raises `InputError` where it is none, or raises.
    """
    spec = importlib.util.spec_from_file_location("rules_of_the_user", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"--rules: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"--rules: {path}: {type(error).__name__}: {error}") from error


def _kinds(side: str | tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(each.split("|")) for each in ((side,) if isinstance(side, str) else side))


# What happens to one tensor -----------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """One tensor to the other side: from (value, the shape wanted there, context)."""

    to_torch: Callable[[np.ndarray, Shape, Context], np.ndarray]
    to_keras: Callable[[np.ndarray, Shape, Context], np.ndarray]


def reorder(value: np.ndarray, orders: tuple[Order, ...], back: bool = False) -> np.ndarray:
    """Reorder the first axis, run by run: from Keras' order to PyTorch's, or back."""
    if not orders:
        return value
    if sum(order.size for order in orders) != len(value):
        raise Unfit(f"{len(value)} rows, but {[list(order.shape) for order in orders]} to reorder")
    rest, runs, start = value.shape[1:], [], 0
    for order in orders:
        run = value[start : start + order.size]
        start += order.size
        axes = tuple(map(int, np.argsort(order.axes))) if back else order.axes
        shape = tuple(order.shape[at] for at in order.axes) if back else order.shape
        turned = run.reshape(*shape, *rest).transpose(
            *axes, *range(len(axes), len(axes) + len(rest))
        )
        runs.append(turned.reshape(order.size, *rest))
    return runs[0] if len(runs) == 1 else np.concatenate(runs)


def _plain(back: bool) -> Callable[[np.ndarray, Shape, Context], np.ndarray]:
    def turn(value: np.ndarray, shape: Shape, context: Context) -> np.ndarray:
        squeezed = value.reshape([size for size in value.shape if size != 1])
        wanted = [size for size in shape if size != 1]
        orders = context.flattened or context.unflattened
        if squeezed.ndim == 1 and orders and sum(o.size for o in orders) == squeezed.size:
            squeezed = reorder(squeezed, orders, back)
        if len(context.axes) == squeezed.ndim:
            axes = np.argsort(context.axes) if back else context.axes
            if [squeezed.shape[at] for at in axes] == wanted:
                return squeezed.transpose(axes).reshape(shape)
        if list(squeezed.shape) == wanted:
            return squeezed.reshape(shape)
        # Not followed in the graphs, but sizes leave one way.
        moved = np.moveaxis(squeezed, 0, -1) if back else np.moveaxis(squeezed, -1, 0)
        return moved.reshape(shape) if list(moved.shape) == wanted else value

    return turn


def _dense_to_torch(kernel: np.ndarray, shape: Shape, context: Context) -> np.ndarray:
    outputs = shape[0]
    if kernel.size != math.prod(shape):
        return kernel.T
    axes = _contracted_first(context) or range(kernel.ndim)
    flat = kernel.transpose(axes).reshape(-1, outputs)
    flat = reorder(flat, context.flattened)
    return reorder(flat.T, context.unflattened).reshape(shape)


def _dense_to_keras(weight: np.ndarray, shape: Shape, context: Context) -> np.ndarray:
    flat = reorder(weight.reshape(len(weight), -1), context.unflattened, back=True).T
    if flat.size != math.prod(shape):
        return flat
    flat = reorder(flat, context.flattened, back=True)
    axes = _contracted_first(context) or range(len(shape))
    return flat.reshape([shape[at] for at in axes]).transpose(np.argsort(axes))


def _contracted_first(context: Context) -> tuple[int, ...] | None:
    """Of the kernel of an EinsumDense, the axes that it sums over and then those that it gives,
    as they follow each other in what it reads and gives; None of another layer.

    Raises `Unfit` where it has axes that it neither sums over nor adds.
    """
    equation = context.keras[0].settings.get("equation")
    if not isinstance(equation, str) or not equation:
        return None
    alone, summed, given = einsum_axes(equation, 1)
    if alone:
        raise Unfit(f"{equation} is no one matrix: it has a kernel for each place")
    return (*summed, *given)


def einsum_axes(equation: str, place: int) -> tuple[tuple[int, ...], ...]:
    """The axes of an operand that stand in all of an einsum, that are summed over, that are added.

    Each in the order in which the other operand, or the result, has them.
    """
    read, given = equation.replace("...", "").replace(" ", "").split("->")
    operands = read.split(",")
    own, other = operands[place], "".join(o for at, o in enumerate(operands) if at != place)
    alone = [name for name in given if name in own and name in other]
    summed = [name for name in other if name in own and name not in given]
    added = [name for name in given if name in own and name not in other]
    return tuple(
        tuple(own.index(name) for name in dict.fromkeys(names)) for names in (alone, summed, added)
    )


def _conv_to_torch(kernel: np.ndarray, shape: Shape, context: Context) -> np.ndarray:
    last = kernel.ndim - 1
    return kernel.transpose(last, last - 1, *range(last - 1))


def _conv_to_keras(weight: np.ndarray, shape: Shape, context: Context) -> np.ndarray:
    return weight.transpose(*range(2, weight.ndim), 1, 0)


def _depthwise_to_torch(kernel: np.ndarray, shape: Shape, context: Context) -> np.ndarray:
    *window, channels, each = kernel.shape
    order = (len(window), len(window) + 1, *range(len(window)))
    return kernel.transpose(order).reshape(channels * each, 1, *window)


def _depthwise_to_keras(weight: np.ndarray, shape: Shape, context: Context) -> np.ndarray:
    *window, channels, each = shape
    if weight.shape != (channels * each, 1, *window):
        raise Unfit(f"{weight.shape} for a depthwise kernel {shape}")
    return weight.reshape(channels, each, *window).transpose(*range(2, len(window) + 2), 0, 1)


def _deviation(value: np.ndarray, shape: Shape, context: Context) -> np.ndarray:
    return np.sqrt(value).reshape(shape)


def _squared(value: np.ndarray, shape: Shape, context: Context) -> np.ndarray:
    return np.square(value).reshape(shape)


PLAIN = Turn(_plain(back=False), _plain(back=True))  # the same numbers, (C,) for (1, C, 1, 1)
OUTPUTS = Turn(  # of a dense layer: in the order of what it gives, not of what it reads
    lambda value, shape, context: reorder(value.reshape(-1), context.unflattened).reshape(shape),
    lambda value, shape, context: reorder(value, context.unflattened, back=True).reshape(shape),
)
DENSE = Turn(_dense_to_torch, _dense_to_keras)  # (in, out) for (out, in)
CONV = Turn(_conv_to_torch, _conv_to_keras)  # HWIO for OIHW; HWOI for IOHW
DEPTHWISE = Turn(_depthwise_to_torch, _depthwise_to_keras)  # HWCM for (C x M)1HW
DEVIATION = Turn(_deviation, _squared)  # a variance for a standard deviation


@dataclass(frozen=True)
class Pair:
    """A tensor on both sides. Several pairs of one tensor are names that it may have.

    `neutral` is the value that its absence on one side means; None where it must not be absent on
    one side alone. Absent on both sides is always right. An empty key: that side never has it.
    """

    keras: str
    torch: str
    turn: Turn = PLAIN
    neutral: float | None = None


class Paired:
    """A rule by a table of pairs."""

    def __init__(self, *pairs: Pair) -> None:
        self.pairs = pairs

    def to_torch(self, tensors: Tensors, context: Context) -> Tensors:
        rows = [(pair.keras, pair.torch, pair.turn.to_torch, pair.neutral) for pair in self.pairs]
        return _exchange(rows, tensors, context, "torch")

    def to_keras(self, tensors: Tensors, context: Context) -> Tensors:
        rows = [(pair.torch, pair.keras, pair.turn.to_keras, pair.neutral) for pair in self.pairs]
        return _exchange(rows, tensors, context, "keras")


def _exchange(
    rows: list[tuple[str, str, Callable[..., np.ndarray], float | None]],
    tensors: Tensors,
    context: Context,
    side: str,
) -> Tensors:
    wanted = context.wanted(side)
    spare = set(tensors) - {source for source, *_ in rows}
    if spare:
        raise Unfit(f"nothing on the side of {FRAMEWORKS[side]} corresponds to {sorted(spare)}")
    whole = [row for row in rows if row[0] in tensors and row[1] in wanted]
    made: Tensors = {
        target: turn(tensors[source], wanted[target], context) for source, target, turn, _ in whole
    }
    placed = {source for source, *_ in whole}
    for source, target, _, neutral in rows:
        if source in placed or target in made:
            continue
        value, shape = tensors.get(source), wanted.get(target)
        if value is not None:
            if neutral is None:
                raise Unfit(f"{FRAMEWORKS[side]} has no {target or source} for {source}")
            context.missing(FRAMEWORKS[side], source, value, neutral)
        elif shape is not None:
            if neutral is None:
                raise Unfit(f"{FRAMEWORKS[side]}'s {target} has nothing to come from")
            made[target] = np.full(shape, neutral, dtype_of(tensors))
    return made


def dtype_of(tensors: Tensors) -> np.dtype:
    """The type of what is made up beside `tensors`."""
    return next((value.dtype for value in tensors.values()), np.dtype(np.float32))


FRAMEWORKS = {"keras": "Keras", "torch": "PyTorch"}


# The table ----------------------------------------------------------------------------------------

BIAS = Pair("bias", "bias", OUTPUTS, neutral=0)
register_rule("dense", keras="dense|other:EinsumDense", torch="dense")(
    Paired(Pair("kernel", "weight", DENSE), BIAS)
)
for _rank in (1, 2, 3):
    _conv = f"conv{_rank}d"
    register_rule(_conv, keras=_conv, torch=f"{_conv}|depthwise_{_conv}")(
        Paired(Pair("kernel", "weight", CONV), Pair("bias", "bias", PLAIN, neutral=0))
    )
    # HWOI in Keras, IOHW in PyTorch; both are the gradient of a convolution, so nothing is flipped.
    _conv = f"conv_transpose{_rank}d"
    register_rule(_conv, keras=_conv, torch=_conv)(
        Paired(Pair("kernel", "weight", CONV), Pair("bias", "bias", PLAIN, neutral=0))
    )
for _rank in (1, 2):
    _conv = f"depthwise_conv{_rank}d"
    register_rule(_conv, keras=_conv, torch=f"{_conv}|conv{_rank}d")(
        Paired(
            Pair("kernel", "weight", DEPTHWISE),
            Pair("depthwise_kernel", "weight", DEPTHWISE),  # as Keras 2 had it
            Pair("bias", "bias", PLAIN, neutral=0),
        )
    )
    register_rule(
        f"separable_conv{_rank}d",
        keras=f"separable_conv{_rank}d",
        torch=(f"{_conv}|conv{_rank}d", f"conv{_rank}d|{_conv}"),
        parts=("depthwise", "pointwise"),
    )(
        Paired(
            Pair("depthwise_kernel", "0/weight", DEPTHWISE),
            Pair("", "0/bias", PLAIN, neutral=0),
            Pair("pointwise_kernel", "1/weight", CONV),
            Pair("bias", "1/bias", PLAIN, neutral=0),
        )
    )

register_rule("batch_norm", keras="batch_norm", torch="batch_norm|other:*")(
    Paired(
        Pair("gamma", "weight", neutral=1),
        Pair("beta", "bias", neutral=0),
        Pair("moving_mean", "running_mean"),
        Pair("moving_variance", "running_var"),
    )
)
for _norm in ("layer_norm", "group_norm"):
    register_rule(_norm, keras=f"{_norm}|other:*", torch=f"{_norm}|other:*")(
        Paired(Pair("gamma", "weight", neutral=1), Pair("beta", "bias", neutral=0))
    )
register_rule("rms_norm", keras="rms_norm", torch="rms_norm|other:*")(
    Paired(Pair("scale", "weight", neutral=1))
)
register_rule("embedding", keras="embedding", torch="embedding")(
    Paired(Pair("embeddings", "weight"))
)
register_rule("prelu", keras="prelu", torch="prelu")(Paired(Pair("alpha", "weight")))
register_rule("normalization", keras="normalization", torch="normalization|other:*")(
    Paired(
        Pair("mean", "mean"),
        Pair("variance", "variance"),
        Pair("variance", "var"),
        Pair("variance", "std", DEVIATION),
    )
)
register_rule("pointwise", keras="dense", torch="conv1d|conv2d|conv3d")(
    Paired(Pair("kernel", "weight", DENSE), BIAS)
)
register_rule("pointwise_conv", keras="conv1d|conv2d|conv3d", torch="dense")(
    Paired(Pair("kernel", "weight", DENSE), BIAS)
)


# What a role is called on the other side, usually.
ROLES = {
    **{"kernel": "weight", "gamma": "weight", "scale": "weight", "alpha": "weight"},
    **{"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
}


@register_rule("same", keras="scale|normalization|other:*", torch="scale|normalization|other:*")
class Same:
    """Layers that no other rule knows, whose tensors are the same numbers."""

    @classmethod
    def to_torch(cls, tensors: Tensors, context: Context) -> Tensors:
        wanted = context.wanted("torch")
        return {
            theirs: PLAIN.to_torch(tensors[ours], wanted[theirs], context)
            for ours, theirs in cls._roles(context).items()
        }

    @classmethod
    def to_keras(cls, tensors: Tensors, context: Context) -> Tensors:
        wanted = context.wanted("keras")
        return {
            ours: PLAIN.to_keras(tensors[theirs], wanted[ours], context)
            for ours, theirs in cls._roles(context).items()
        }

    @classmethod
    def _roles(cls, context: Context) -> dict[str, str]:
        ours, theirs = list(context.wanted("keras")), list(context.wanted("torch"))
        if len(ours) != len(theirs):
            raise Unfit(f"{len(ours)} tensors in Keras, {len(theirs)} in PyTorch")
        if len(ours) == 1:
            return {ours[0]: theirs[0]}
        named = {role: ROLES.get(role, role) for role in ours}
        named = named if sorted(named.values()) == sorted(theirs) else {role: role for role in ours}
        if sorted(named.values()) != sorted(theirs):
            raise Unfit(f"it is not known which of {theirs} each of {ours} is")
        return named
