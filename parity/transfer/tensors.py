"""Single tensors: what the rules on layers leave over, matched by shape and by how it is used.

Bare parameters in functions, several weights in one layer, a cell written by hand: every tensor is
brought into one form, (in, out) of a matrix, (H, W, in, out) of a convolution, by the way in which
its side uses it (`Graph.semantics["uses"]`). Tensors of one form may be the same; one may also hold
several of the other side behind one another, as a matrix for query, key and value does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from parity.transfer.layouts import Order
from parity.transfer.names import alike
from parity.transfer.rules import (
    Context,
    Shape,
    Tensors,
    Unfit,
    einsum_axes,
    register_rule,
    reorder,
)
from parity.transfer.units import Unit

RULE = "tensor"
PARTS = 8  # that one tensor may hold of the other side's
ROWS = 4  # before those of a table that the other side has
RANK = 4  # of more axes that are not known, no order is tried


@register_rule(RULE, keras=(), torch=())
class Tensor:
    """One tensor, or several that one of the other side holds behind one another.

    `keras_axes` and `torch_axes` give for each tensor the order of its axes in which both sides
    hold the same numbers: their form. Several are the parts of the one along its axis `joined`, as
    the axes stand then. From Keras' form to PyTorch's, `flattened` reorders the last axis but one
    (what a matrix reads), `unflattened` the last, and `blocks` exchanges equal parts of it: gates.
    Of two tables of unequal length the shorter stands in the longer from its row `rows` on.
    """

    @staticmethod
    def to_torch(tensors: Tensors, context: Context) -> Tensors:
        ours, theirs = context.wanted("keras"), context.wanted("torch")
        if context.rows is not None:
            return _rows(tensors, theirs, context)
        sides = _axes(context.keras_axes, ours), _axes(context.torch_axes, theirs)
        whole = _whole(ours, theirs, *sides)
        parts = [_formed(tensors[key], axes) for key, axes in zip(ours, sides[0], strict=True)]
        made = _turned(_together(parts, whole, context.joined), context, back=False)
        return _apart(made, theirs, sides[1], context.joined)

    @staticmethod
    def to_keras(tensors: Tensors, context: Context) -> Tensors:
        ours, theirs = context.wanted("keras"), context.wanted("torch")
        if context.rows is not None:
            return _rows(tensors, ours, context)
        sides = _axes(context.keras_axes, ours), _axes(context.torch_axes, theirs)
        whole = _whole(ours, theirs, *sides)
        parts = [_formed(tensors[key], axes) for key, axes in zip(theirs, sides[1], strict=True)]
        made = _turned(_together(parts, whole, context.joined), context, back=True)
        return _apart(made, ours, sides[0], context.joined)


Axes = tuple[int, ...]


def _rows(tensors: Tensors, wanted: dict[str, Shape], context: Context) -> Tensors:
    """A table cut out of a longer one, or put into one, whose other rows are zero."""
    if len(tensors) != 1 or len(wanted) != 1:
        raise Unfit("rows are those of one table on each side")
    ((key, shape),), (value,) = wanted.items(), tensors.values()
    first = context.rows or 0
    if len(value) < shape[0]:
        made = np.zeros((shape[0], *value.shape[1:]), value.dtype)
        made[first : first + len(value)] = value
        return {key: made}
    made = value[first : first + shape[0]]
    if not context.dry and any(each.any() for each in (value[:first], value[first + shape[0] :])):
        context.lose(f"{key} has no place for all rows, and those before or behind are not zero")
    return {key: made}


def _axes(given: tuple[Axes, ...], shapes: dict[str, Shape]) -> list[Axes]:
    """One order of axes each; the same for all where one is given, as they are without."""
    given = given * len(shapes) if len(given) == 1 else given
    if not given:
        return [tuple(range(len(shape))) for shape in shapes.values()]
    for axes, (key, shape) in zip(given, shapes.items(), strict=True):
        if sorted(axes) != list(range(len(shape))):
            raise Unfit(f"axes {list(axes)} are no order of those of {key} {list(shape)}")
    return list(given)


def _whole(
    ours: dict[str, Shape], theirs: dict[str, Shape], keras: list[Axes], torch: list[Axes]
) -> list[int]:
    """The form of the tensor that holds the others."""
    if min(len(ours), len(theirs)) != 1:
        raise Unfit(f"{len(ours)} tensors and {len(theirs)}: one side must have a single one")
    shapes, axes = (theirs, torch) if len(theirs) == 1 and len(ours) > 1 else (ours, keras)
    if len(ours) == len(theirs) and len(axes[0]) < len(torch[0]):
        shapes, axes = theirs, torch  # the one that tells more axes apart
    (shape,) = shapes.values()
    return [shape[at] for at in axes[0]]


def _formed(value: np.ndarray, axes: Axes) -> np.ndarray:
    return value.transpose(axes)


def _together(parts: list[np.ndarray], whole: list[int], joined: int | None) -> np.ndarray:
    if len(parts) == 1:
        return parts[0].reshape(whole)
    at = _joined(whole, joined)
    rest = math.prod(whole) // max(whole[at], 1)
    return np.concatenate(
        [p.reshape([*whole[:at], p.size // rest, *whole[at + 1 :]]) for p in parts], at
    )


def _apart(
    value: np.ndarray, shapes: dict[str, Shape], axes: list[Axes], joined: int | None
) -> Tensors:
    parts = [value]
    if len(shapes) > 1:
        at = _joined(list(value.shape), joined)
        rest = value.size // max(value.shape[at], 1)
        sizes = [math.prod(shape) // rest for shape in shapes.values()]
        parts = np.split(value, np.cumsum(sizes)[:-1], at)
    return {
        key: part.reshape([shape[i] for i in order]).transpose(np.argsort(order))
        for part, order, (key, shape) in zip(parts, axes, shapes.items(), strict=True)
    }


def _joined(whole: list[int], joined: int | None) -> int:
    if joined is None or not -len(whole) <= joined < len(whole):
        raise Unfit(f"joined = {joined} is no axis of {whole}, which holds several tensors")
    return joined % len(whole)


def _turned(value: np.ndarray, context: Context, back: bool) -> np.ndarray:
    if context.flattened:
        at = max(value.ndim - 2, 0)
        rows = reorder(np.moveaxis(value, at, 0), context.flattened, back)
        value = np.moveaxis(rows, 0, at)
    if context.unflattened:
        last = reorder(np.moveaxis(value, -1, 0), context.unflattened, back)
        value = np.moveaxis(last, 0, -1)
    if context.blocks:
        if sorted(context.blocks) != list(range(len(context.blocks))):
            raise Unfit(f"blocks = {list(context.blocks)} is no order of them")
        parts = np.split(value, len(context.blocks), -1)
        order = np.argsort(context.blocks) if back else context.blocks
        value = np.concatenate([parts[at] for at in order], -1)
    return value


# Forms ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """The order of a tensor's axes in which the other side may have it, and the sizes then."""

    axes: Axes
    shape: Shape
    sure: bool = True

    @property
    def plain(self) -> Shape:
        return tuple(size for size in self.shape if size != 1)


@dataclass(frozen=True, eq=False)
class Piece:
    """A tensor: a unit of one role, and the forms that it may have, the likeliest first."""

    unit: Unit
    forms: tuple[Form, ...]
    place: int
    trained: bool
    use: str = ""  # "term" or "factor" where it is known to be added or multiplied
    counted: bool = False  # a table whose rows the model itself counts: no input is looked up in it

    @property
    def name(self) -> str:
        return self.unit.name

    @property
    def shape(self) -> Shape:
        return next(iter(self.unit.shapes.values()))

    @property
    def vector(self) -> bool:
        role = next(iter(self.unit.names))
        return len(self.forms[0].plain) < 2 or role.rpartition("/")[2] == "bias"


def forms(how: str, kind: str, role: str, shape: Shape, framework: str) -> tuple[Form, ...]:
    """The forms of a tensor that is used in a way (`Graph`), by a layer of some kind."""
    plain = tuple(range(len(shape)))
    if sum(size != 1 for size in shape) < 2:
        return (Form(plain, shape),)
    how = how or _usual(kind, role, shape, framework)
    if how.startswith("einsum "):
        return (_of_einsum(how, shape),)
    if how in ("matrix", "table"):
        return (Form(plain, shape),)
    if how == "turned matrix":
        axes = (*plain[:-2], plain[-1], plain[-2])
        return (Form(axes, tuple(shape[at] for at in axes)),)
    if how == "kernel":
        axes = plain if framework == "keras" else (*plain[2:], 1, 0)
        return (Form(axes, tuple(shape[at] for at in axes)),)
    if how == "depthwise":
        return (Form(plain, (*shape[:-2], shape[-2] * shape[-1])),)
    if how == "flat":
        return (Form(plain, (math.prod(shape),)),)
    if how == "heads":  # in, and out by head
        return (Form(plain, (shape[0], math.prod(shape[1:]))),)
    if how == "from heads":
        return (Form(plain, (math.prod(shape[:-1]), shape[-1])),)
    if len(shape) > RANK:
        return (Form(plain, shape, sure=False),)
    known = _of_rank(len(shape), framework)
    orders = dict.fromkeys([plain, *known, *permutations(plain)])
    return tuple(Form(axes, tuple(shape[at] for at in axes), False) for axes in orders)


def use_of(how: str, kind: str, role: str) -> str:
    """Whether a tensor is a term or a factor, by how a function uses it or by its role."""
    own = role.rpartition("/")[2]
    if how in ("term", "factor"):
        return how
    if own in ("bias", "beta", "mean", "moving_mean", "running_mean"):
        return "term"
    factor = own in ("gamma", "scale", "variance", "moving_variance", "running_var")
    return "factor" if factor or (own == "weight" and kind.endswith("_norm")) else ""


def _usual(kind: str, role: str, shape: Shape, framework: str) -> str:
    """How a layer of a kind uses what it owns, where no function was seen to."""
    part, _, own = role.rpartition("/")
    if own == "bias":  # of several axes, head by head
        return "flat"
    if kind == "embedding":
        return "table"
    if framework == "torch":
        matrix = own.startswith(("weight", "in_proj_weight", "original"))
        if "conv" in kind and len(shape) > 2:
            return "kernel"
        known = kind in ("dense", "lstm", "gru", "simple_rnn", "attention")
        return "turned matrix" if known and matrix and len(shape) == 2 else ""
    if kind == "attention" and len(shape) == 3:
        return "from heads" if part.endswith("output") else "heads"
    if own == "depthwise_kernel" or (kind.startswith("depthwise") and own == "kernel"):
        return "depthwise"
    if own in ("kernel", "pointwise_kernel", "recurrent_kernel"):
        return "matrix" if len(shape) == 2 else "kernel" if "Einsum" not in kind else ""
    return "matrix" if own == "recurrent_kernel" else ""


def _of_einsum(how: str, shape: Shape) -> Form:
    _, equation, place = how.split(" ")
    if "->" not in equation:
        return Form(tuple(range(len(shape))), shape, sure=False)
    groups = einsum_axes(equation, int(place))
    axes = tuple(at for group in groups for at in group)
    if sorted(axes) != list(range(len(shape))):
        return Form(tuple(range(len(shape))), shape, sure=False)
    alone, *others = groups
    sizes = [math.prod(shape[at] for at in group) for group in others if group]
    return Form(axes, (*(shape[at] for at in alone), *sizes))


def _of_rank(rank: int, framework: str) -> list[Axes]:
    """Likely orders besides the own one: of a matrix turned, of a kernel, of a map."""
    axes = tuple(range(rank))
    if framework == "keras":
        return []
    return [(*axes[2:], 1, 0), (*axes[1:], 0)]


# Which is which ---------------------------------------------------------------------------------

Layout = dict[str, Any]


def layouts(keras: Piece, torch: Piece) -> list[Layout]:
    """The ways in which two tensors may hold the same numbers, the likeliest first.

    As what matters is how they lie to each other, one of two unknown forms stays as it is.
    """
    if _tables(keras, torch):
        more = abs(keras.shape[0] - torch.shape[0])
        firsts = [more, *range(more)] if more <= ROWS else [*range(ROWS + 1)]
        return [{"rows": first} for first in firsts]
    if math.prod(keras.shape) != math.prod(torch.shape):
        return []
    ours = keras.forms if keras.forms[0].sure or torch.forms[0].sure else keras.forms[:1]
    found = []
    for a in ours:
        for b in torch.forms:
            if a.plain == b.plain:
                found.append(_layout([a], [b]))
    return [each for at, each in enumerate(found) if each not in found[:at]]


def _tables(keras: Piece, torch: Piece) -> bool:
    """Whether one may be a part of the other: tables of unequal length, such as for positions."""
    one, other = keras.shape, torch.shape
    alike = len(one) == len(other) == 2 and one[1] == other[1] and one[0] != other[0]
    return alike and (keras.counted or torch.counted)


def _layout(ours: Sequence[Form], theirs: Sequence[Form], joined: int | None = None) -> Layout:
    made: Layout = {}
    for key, several in (("keras_axes", ours), ("torch_axes", theirs)):
        if any(form.axes != tuple(range(len(form.axes))) for form in several):
            made[key] = tuple(form.axes for form in several)
    if joined is not None:
        made["joined"] = joined
    return made


@dataclass(frozen=True)
class Match:
    """Tensors that stand for each other, in the likeliest layout."""

    keras: tuple[Piece, ...]
    torch: tuple[Piece, ...]
    layout: Layout


def match(keras: Sequence[Piece], torch: Sequence[Piece]) -> list[Match]:
    """What belongs together of the tensors that are left over on both sides.

    As many as can be matched in the order in which both sides use them, vectors and others each
    for themselves; names decide among equals, and about what is left then.
    """
    found: list[Match] = []
    for vectors in (False, True):
        ours, theirs = (
            sorted((p for p in side if p.vector is vectors), key=lambda each: each.place)
            for side in (keras, torch)
        )
        found += _aligned(ours, theirs)
    return found


def _aligned(ours: list[Piece], theirs: list[Piece]) -> list[Match]:
    fitting = _Fitting()
    best: dict[tuple[int, int], tuple[float, Match | None, tuple[int, int]]] = {
        (0, 0): (0.0, None, (0, 0))
    }
    for i in range(len(ours) + 1):
        for j in range(len(theirs) + 1):
            steps: list[tuple[float, Match | None, tuple[int, int]]] = [
                (best[b][0], None, b) for b in ((i - 1, j), (i, j - 1)) if min(b) >= 0
            ]
            for made, before in fitting.ending(ours, theirs, i, j):
                steps.append((best[before][0] + _gain(made), made, before))
            if steps:
                best[i, j] = max(steps, key=lambda step: step[0])
    found: list[Match] = []
    at = (len(ours), len(theirs))
    while at != (0, 0):
        _, last, at = best[at]
        found = [last, *found] if last else found
    for each in found:
        ours = [p for p in ours if p not in each.keras]
        theirs = [p for p in theirs if p not in each.torch]
    while True:  # what stands in another order
        options = [m for a in ours for b in theirs if (m := fitting.of((a,), (b,)))]
        for single in theirs:
            options += filter(None, [_parts(single, ours, False)])
        for single in ours:
            options += filter(None, [_parts(single, theirs, True)])
        if not options:
            return found
        likely = max(options, key=_gain)
        found.append(likely)
        ours = [p for p in ours if p not in likely.keras]
        theirs = [p for p in theirs if p not in likely.torch]


class _Fitting:
    """Whether tensors fit together, asked often of the same sizes."""

    def __init__(self) -> None:
        self.known: dict[Any, Layout | None] = {}

    def ending(
        self, ours: list[Piece], theirs: list[Piece], i: int, j: int
    ) -> Iterator[tuple[Match, tuple[int, int]]]:
        """The matches whose last tensors are the `i`th and the `j`th, and what is before them."""
        if not (i and j):
            return
        for a, b in _runs(ours, theirs, i, j):
            made = self.of(tuple(ours[i - a : i]), tuple(theirs[j - b : j]))
            if made and _alike_trained(made):
                yield made, (i - a, j - b)

    def of(self, ours: tuple[Piece, ...], theirs: tuple[Piece, ...]) -> Match | None:
        key = tuple(tuple((p.forms, p.counted) for p in side) for side in (ours, theirs))
        if key not in self.known:
            self.known[key] = next(iter(ways(ours, theirs)), None)
        layout = self.known[key]
        return None if layout is None else Match(ours, theirs, layout)


def _runs(ours: list[Piece], theirs: list[Piece], i: int, j: int) -> Iterator[tuple[int, int]]:
    """How many tensors up to two places are as large as the one on the other side."""
    sizes = [math.prod(side[at - 1].shape) for side, at in ((ours, i), (theirs, j))]
    if sizes[0] == sizes[1]:
        yield 1, 1
        return
    if _tables(ours[i - 1], theirs[j - 1]):
        yield 1, 1
    side, at, whole = (theirs, j, sizes[0]) if sizes[0] > sizes[1] else (ours, i, sizes[1])
    total = 0
    for number in range(1, min(at, PARTS) + 1):
        total += math.prod(side[at - number].shape)
        if total >= whole:
            break
    if total == whole:
        yield (1, number) if side is theirs else (number, 1)


def ways(ours: tuple[Piece, ...], theirs: tuple[Piece, ...]) -> list[Layout]:
    """The layouts in which tensors may stand for each other, the likeliest first."""
    if len(ours) == len(theirs) == 1:
        return layouts(ours[0], theirs[0])
    single, parts = (theirs[0], ours) if len(theirs) == 1 else (ours[0], theirs)
    found = []
    for own in single.forms:
        for joined in (len(own.shape) - 1, *range(len(own.shape) - 1)):
            rest = [size for at, size in enumerate(own.shape) if at != joined]
            of_parts = [_as_part(piece, own.shape, joined, rest) for piece in parts]
            if all(of_parts) and len(own.axes) == len(own.shape):
                several = [form for form in of_parts if form]
                sides = (several, [own]) if single is theirs[0] else ([own], several)
                found.append(_layout(*sides, joined))
    return found


def _gain(made: Match) -> float:
    words, numbers = alike([p.name for p in made.keras], [p.name for p in made.torch], ())
    number = len(made.keras) + len(made.torch)
    uses = {p.use for p in (*made.keras, *made.torch)} - {""}
    used = 0.3 * (len(uses) == 1) - 0.3 * (len(uses) > 1)
    used -= 0.5 * ("rows" in made.layout)
    return number + 0.2 * words + 0.1 * numbers + used - 2 * (not _alike_trained(made))


def _alike_trained(made: Match) -> bool:
    return len({piece.trained for piece in (*made.keras, *made.torch)}) == 1


def _parts(single: Piece, others: list[Piece], keras: bool) -> Match | None:
    """The first tensors, in the order of use, that together are as large as one, along an axis."""
    for own in single.forms:
        for joined in (len(own.shape) - 1, *range(len(own.shape) - 1)):
            rest = [size for at, size in enumerate(own.shape) if at != joined]
            if len(own.axes) != len(own.shape):
                continue
            fitting = [p for p in others if _as_part(p, own.shape, joined, rest)]
            for start in range(len(fitting)):
                for end in range(start + 2, min(len(fitting), start + PARTS) + 1):
                    run = tuple(fitting[start:end])
                    if sum(math.prod(p.shape) for p in run) == math.prod(single.shape):
                        ends = ((single,), run) if keras else (run, (single,))
                        return Match(ends[0], ends[1], ways(*ends)[0])
    return None


def _as_part(piece: Piece, whole: Shape, joined: int, rest: list[int]) -> Form | None:
    size = math.prod(piece.shape)
    if size % max(math.prod(rest), 1) or size >= math.prod(whole):
        return None
    wanted = [*whole[:joined], size // math.prod(rest), *whole[joined + 1 :]]
    plain = tuple(each for each in wanted if each != 1)
    return next((form for form in piece.forms if form.plain == plain), None)


def blocks(number: int) -> Iterator[Axes]:
    """All orders of so many gates but the own."""
    own = tuple(range(number))
    return (order for order in permutations(own) if order != own)


def interleaved(parts: int, size: int) -> Iterator[tuple[Order, ...]]:
    """How parts may lie in one axis other than one behind the other: head by head."""
    for heads in range(2, min(size, 64) + 1):
        if size % heads == 0:
            yield (Order((parts, heads, size // heads), (1, 0, 2)),)
