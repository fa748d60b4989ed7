"""Which layers could be which: every rule tried on every pair or group that it joins."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from typing import Any

import numpy as np

from parity.check.graph import INPUT, Graph
from parity.transfer import attention, recurrent  # noqa: F401  they enter their rules
from parity.transfer.layouts import Layout, Order, orders, turned
from parity.transfer.names import alike
from parity.transfer.rules import RULES, Context, Rule, Tensors, Unfit, takes
from parity.transfer.tensors import PARTS, Match, Piece, forms, use_of
from parity.transfer.units import Unit, Web, units, web

MANY = 12  # the longest chain of recurrent layers
FEEDERS = 6  # of a layer that joins others: of more, no selection is tried
MAPPED = ("layer_norm", "prelu")  # may have a number for each place of a map
DENSE = ("dense", "other:EinsumDense")
ROWS = ("dense", "batch_norm", "layer_norm", "prelu", "scale", "lstm", "gru", "simple_rnn")


@dataclass(frozen=True, eq=False)
class Candidate:
    """Layers that a rule can join.

    Attributes:
        context: what of `rules.Context` is to be kept: `flattened`, `unflattened`, `axes`.
        words, numbers: how alike names are, 0 to 1.
        cost: what speaks against it: tensors on one side alone, what would be lost.
        lost: that, in words.
    """

    keras: tuple[Unit, ...]
    torch: tuple[Unit, ...]
    rule: str
    context: dict[str, Any] = field(default_factory=dict)
    words: float = 0.0
    numbers: float = 0.0
    cost: float = 0.0
    lost: tuple[str, ...] = ()

    @property
    def units(self) -> tuple[Unit, ...]:
        return (*self.keras, *self.torch)

    def __repr__(self) -> str:
        return f"<{self.rule}: {[u.name for u in self.keras]} {[u.name for u in self.torch]}>"


@dataclass
class Side:
    """A graph with what is derived from it."""

    graph: Graph
    units: list[Unit] = field(init=False)
    web: Web = field(init=False)
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.units = units(self.graph)
        self.web = web(self.graph, self.units)
        self.layout = Layout(self.graph)
        self.parameters = {each.name: each for each in self.graph.parameters}
        self._own = {each.name: each for each in self.units}
        self._owner = {p: each for each in self.units for p in each.names.values()}
        used = [name for name in self.graph.semantics.get("uses", {}) if name in self._owner]
        self.places = {n: at for at, n in enumerate(dict.fromkeys([*used, *self._owner]))}
        self._pieces: dict[str, Unit] = {}

    def unit(self, name: str) -> Unit | None:
        """The unit of that name, or the part of one that is the parameter of that name."""
        unit = self._own.get(name) or self._owner.get(name)
        if unit is None or unit.name == name or len(unit.names) == 1:
            return unit
        return unit.part([name], name)

    def idle(self, name: str) -> bool:
        """Whether it is a buffer that no call is known to read."""
        return not (self.parameters[name].trained or self._owner[name].calls)

    def piece(self, name: str) -> Piece:
        """A parameter by itself, with the forms that it may have."""
        unit, each = self._owner[name], self.parameters[name]
        (role,) = (role for role, own in unit.names.items() if own == name)
        how, call = self.graph.semantics.get("uses", {}).get(name, ("", ""))
        if not how and "equation" in unit.settings and role != "bias":
            how = f"einsum {unit.settings['equation']} 1".replace("...", "")
        made = forms(how, unit.kind, role, each.shape, self.graph.framework)
        calls = unit.calls or ((call,) if call in self.layout.nodes else ())
        part = self._pieces.setdefault(name, replace(self.unit(name) or unit, calls=calls))
        use = use_of(how, unit.kind, role)
        table = how == "table" or unit.kind == "embedding"
        read = [each for call in calls for each in self.layout.nodes[call].inputs]
        counted = table and not any(each.startswith(INPUT) for each in read)
        return Piece(part, made, self.places[name], each.trained, use, counted)

    def matrix(self, unit: Unit) -> tuple[int, int] | None:
        """What a dense layer reads and gives."""
        if unit.kind not in DENSE:
            return None
        shapes = [self.piece(name).forms[0].shape for name in unit.names.values()]
        found = [shape for shape in shapes if len(shape) == 2]
        return (found[0][0], found[0][1]) if len(found) == 1 else None

    def having(self, units: Collection[Unit]) -> Side:
        """The side as if it had these units alone; all others are seen through."""
        side = copy(self)
        side.units = [unit for unit in self.units if unit in units]
        side.web = web(self.graph, side.units)
        return side


class Fitting:
    """Tries rules on layers, on tensors without memory, and keeps the answers."""

    def __init__(self, keras: Side, torch: Side) -> None:
        self.keras, self.torch = keras, torch
        self.tried: dict[Any, tuple[tuple[str, ...], str]] = {}
        self.seen: dict[Unit, Any] = {}

    def all(self) -> list[Candidate]:
        """Every candidate. Of several rules for the same layers the one that loses least is
        kept, the first in the table among equals."""
        best: dict[Any, Candidate] = {}
        for rule in RULES.values():
            ours = list(_groups(rule.keras, rule, self.keras))
            theirs = list(_groups(rule.torch, rule, self.torch))
            for a, b in product(ours, theirs):
                if rule.many and len(a) > 1 and len(b) > 1:
                    continue  # they are pairs, or their parts are
                found = self.candidate(rule, a, b)
                if isinstance(found, Candidate):
                    key = (a, b)
                    if key not in best or found.cost < best[key].cost:
                        best[key] = found
        return list(best.values())

    def joined(self) -> Iterator[Candidate]:
        """Dense layers of which one is as wide as several of the other side in a row, such as those
        for query, key and value. They travel tensor by tensor: no rule is named."""
        sizes = [
            [(unit, size) for unit in side.units if (size := side.matrix(unit))]
            for side in (self.keras, self.torch)
        ]
        for turn, (singles, others) in enumerate((sizes, sizes[::-1])):
            for unit, (read, given) in singles:
                for start, number in product(range(len(others)), range(2, PARTS + 1)):
                    run = others[start : start + number]
                    if len(run) < number or {size[0] for _, size in run} != {read}:
                        continue
                    if sum(size[1] for _, size in run) == given:
                        several = tuple(each for each, _ in run)
                        ours, theirs = (several, (unit,)) if turn else ((unit,), several)
                        yield Candidate(ours, theirs, rule="", cost=1.0)

    def candidate(
        self,
        rule: Rule,
        keras: tuple[Unit, ...],
        torch: tuple[Unit, ...],
        given: Mapping[str, Any] | None = None,
    ) -> Candidate | str:
        """The candidate, or why there is none. `given` overrules what the graphs say of it."""
        context = {**self.context(keras, torch), **(given or {})}
        lost, why = self.fit(rule, keras, torch, context)
        if why:
            return why
        words, numbers = alike([u.name for u in keras], [u.name for u in torch], rule.parts)
        kinds = (*keras, *torch)
        strange = sum(u.kind.startswith("other:") for u in kinds)
        cost = len(lost) + 0.1 * strange
        kept = {key: value for key, value in context.items() if value not in ((), None)}
        return Candidate(keras, torch, rule.name, kept, words, numbers, cost, lost)

    def fit(
        self,
        rule: Rule,
        keras: tuple[Unit, ...],
        torch: tuple[Unit, ...],
        context: Mapping[str, Any],
    ) -> tuple[tuple[str, ...], str]:
        """What would be lost, and why the rule does not fit: empty where it does."""
        key = (
            *(rule.name, self._signature(keras), self._signature(torch)),
            tuple(sorted((k, str(v)) for k, v in context.items())),
        )
        if key not in self.tried:
            self.tried[key] = self._fit(rule, Context(keras, torch, dry=True, **context))
        return self.tried[key]

    def _signature(self, layers: tuple[Unit, ...]) -> Any:
        """All of layers that a rule can see."""
        for each in layers:
            if each not in self.seen:
                settings = str(sorted(each.settings.items()))
                self.seen[each] = (tuple(each.shapes.items()), settings)
        return tuple(self.seen[each] for each in layers)

    def _fit(self, rule: Rule, context: Context) -> tuple[tuple[str, ...], str]:
        try:
            for source, target in (("keras", "torch"), ("torch", "keras")):
                blank = {
                    name: np.broadcast_to(np.float32(0), shape)
                    for name, shape in context.wanted(source).items()
                }
                convert(rule, target, blank, context)
        except Unfit as why:
            return (), str(why)
        return tuple(dict.fromkeys(context.lost)), ""

    def context(self, keras: tuple[Unit, ...], torch: tuple[Unit, ...]) -> dict[str, Any]:
        """How the numbers that layers read and give run on both sides."""
        ours, theirs = self.keras.layout, self.torch.layout
        a, b = ours.read(keras[0]), theirs.read(torch[0])
        found: dict[str, Any] = {}
        if not a or not b:
            return found
        if len(a) == len(b) == 1 or keras[0].kind in ("lstm", "gru", "simple_rnn"):
            found["flattened"] = orders(ours.expand(a[-1]), theirs.expand(b[-1]))
        if keras[-1].kind == "dense":
            found["unflattened"] = orders(ours.given(keras[-1]), theirs.given(torch[-1]))
        mapped = keras[0].kind in MAPPED or keras[0].loose
        if mapped and any(_rank(s) > 1 for s in keras[0].shapes.values()):
            found["axes"] = turned(a, b)
        if keras[0].kind not in ROWS and not keras[0].loose:
            found.pop("flattened", None)
        return {key: value for key, value in found.items() if value}

    def tensors(self, made: Match) -> dict[str, Any]:
        """The context of single tensors: their layout, and of one each how its numbers run."""
        if len(made.keras) + len(made.torch) > 2 or "rows" in made.layout:
            return dict(made.layout)
        (ours,), (theirs,) = made.keras, made.torch
        sizes = ours.forms[0].shape
        read = [
            side.layout.read(each.unit) for side, each in ((self.keras, ours), (self.torch, theirs))
        ]
        given = [
            side.layout.given(each.unit)
            for side, each in ((self.keras, ours), (self.torch, theirs))
        ]
        found: dict[str, Any] = {"unflattened": orders(*given)}
        if not ours.vector and all(len(axes) == 1 for axes in read):
            ends = (self.keras.layout.expand(read[0][0]), self.torch.layout.expand(read[1][0]))
            found["flattened"] = orders(*ends)
        wanted = {"flattened": sizes[-2:-1], "unflattened": sizes[-1:]}
        return dict(made.layout) | {
            key: value
            for key, value in found.items()
            if value and (sum(order.size for order in value),) == wanted[key]
        }


def convert(rule: Rule, target: str, tensors: Tensors, context: Context) -> Tensors:
    """Apply a rule in one direction and check that it gives what the side wants.

    Raises `Unfit` naming both shapes.
    """
    turn = rule.directions.to_torch if target == "torch" else rule.directions.to_keras
    wanted = context.wanted(target)
    try:
        made = turn(tensors, context)
    except (KeyError, ValueError, IndexError) as error:
        shapes = {name: value.shape for name, value in tensors.items()}
        raise Unfit(f"rule {rule.name!r} cannot turn {shapes} into {wanted}: {error}") from None
    wrong = [
        f"{name} {tuple(made[name].shape) if name in made else 'nothing'} for {shape or '()'}"
        for name, shape in wanted.items()
        if name not in made or tuple(made[name].shape) != shape
    ]
    wrong += [f"{name}, which is not there" for name in made if name not in wanted]
    if wrong:
        raise Unfit(f"it would become {'; '.join(wrong)}")
    return made


def _rank(shape: tuple[int, ...]) -> int:
    return sum(size != 1 for size in shape)


def _groups(
    kinds: tuple[tuple[str, ...], ...], rule: Rule, side: Side
) -> Iterator[tuple[Unit, ...]]:
    """The groups of a side's layers that a rule could take."""
    if not kinds:
        return  # of single tensors: `tensors.match`
    if len(kinds) == 1 and not rule.many:
        yield from ((unit,) for unit in side.units if takes(kinds[0], unit))
    elif rule.many:
        for unit in side.units:
            if takes(kinds[0], unit):
                yield from _chains(unit, kinds, side)
    elif rule.group == "join":
        yield from _joins(kinds, side)
    else:
        for unit in side.units:
            if takes(kinds[0], unit):
                yield from (c for c in _chains(unit, kinds, side) if len(c) == len(kinds))


def _chains(
    first: Unit, kinds: tuple[tuple[str, ...], ...], side: Side
) -> Iterator[tuple[Unit, ...]]:
    """Chains from a layer on, of every length, each layer reading the one before it alone."""
    chain: tuple[Unit, ...] = (first,)
    longest = len(kinds) if len(kinds) > 1 else MANY
    while True:
        yield chain
        if len(chain) == longest:
            return
        wanted = kinds[min(len(chain), len(kinds) - 1)]
        after = [
            unit
            for unit in _followers(chain[-1], side)
            if takes(wanted, unit) and unit not in chain
        ]
        if len(after) != 1:
            return
        chain = (*chain, after[0])


def _followers(unit: Unit, side: Side) -> Sequence[Unit]:
    if not side.web.followed:
        return side.units[unit.at + 1 : unit.at + 2]
    return [
        after
        for after in side.web.after[unit]
        if isinstance(after, Unit) and [b for b in side.web.before[after] if b != unit] == []
    ]


def _joins(kinds: tuple[tuple[str, ...], ...], side: Side) -> Iterator[tuple[Unit, ...]]:
    number = len(kinds) - 1
    for last in side.units:
        if not takes(kinds[-1], last):
            continue
        if side.web.followed:
            feeding = [b for b in side.web.before[last] if isinstance(b, Unit) and b != last]
        else:
            feeding = side.units[max(0, last.at - number) : last.at]
        fitting = [unit for unit in feeding if takes(kinds[0], unit)]
        if number <= len(fitting) <= FEEDERS:
            for some in permutations(fitting, number):
                yield (*some, last)


def order_of(value: Any) -> tuple[Order, ...]:
    """Orders as `map.toml` has them: `[H, W, C]`, turned to C, H, W; or tables with `axes`."""
    if not isinstance(value, list):
        raise ValueError(f"expected a list such as [7, 7, 512], got {value!r}")
    if all(isinstance(size, int) for size in value):
        value = [{"shape": value}] if value else []
    found = []
    for each in value:
        shape = tuple(int(size) for size in each["shape"])
        axes = tuple(each.get("axes", (len(shape) - 1, *range(len(shape) - 1))))
        if sorted(axes) != list(range(len(shape))):
            raise ValueError(f"axes {list(axes)} are no permutation for {list(shape)}")
        found.append(Order(shape, axes))
    return tuple(found)


def order_text(value: tuple[Order, ...]) -> str:
    """The inverse of `order_of`, as TOML."""
    tables = []
    for order in value:
        usual = order.axes == (len(order.shape) - 1, *range(len(order.shape) - 1))
        if usual and len(value) == 1:
            return str(list(order.shape))
        axes = "" if usual else f", axes = {list(order.axes)}"
        tables.append(f"{{ shape = {list(order.shape)}{axes} }}")
    return f"[{', '.join(tables)}]"
