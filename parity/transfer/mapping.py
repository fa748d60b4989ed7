"""Which layer is which: found from both graphs, kept in a `map.toml`, settled where in doubt.

    [[layer]]
    keras = "fc1"
    torch = "classifier.0"
    rule = "dense"
    flattened = [7, 7, 512]     # the rows run in H, W, C order in Keras, C, H, W in PyTorch

`keras` and `torch` are paths of layers, a list where several stand for one; of a bare parameter
that shares its owner with others, the parameter's own name. `rule` may be left out, and so may
whole layers, to be found. `flattened = []` says that nothing is reordered. A single tensor is named
by its parameter (`rule = "tensor"`, see `tensors.Tensor` for its `keras_axes`, `torch_axes`,
`joined`, `blocks` and `rows`), also one of a layer that stands in another entry: it is taken out
of it.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as Table
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from parity.check.graph import Graph
from parity.recording import write_atomically
from parity.transfer import search, tensors
from parity.transfer.candidates import Candidate, Fitting, Side, convert, order_of, order_text
from parity.transfer.names import first, namesakes, parted
from parity.transfer.rules import FRAMEWORKS, RULES, Context, Rule
from parity.transfer.units import Unit
from shared_data.errors import InputError, listed

ORDERS = ("flattened", "unflattened")
NUMBERS = ("axes", "keras_axes", "torch_axes", "joined", "blocks", "rows")
SHOWN = 3


class Ambiguous(InputError):
    """Layers lack a counterpart; `mapping` is as much as is known."""

    def __init__(self, message: str, mapping: Mapping) -> None:
        super().__init__(message)
        self.mapping = mapping


@dataclass(frozen=True)
class Entry:
    """Layers that stand for each other.

    Attributes:
        keras, torch: names of units, see above; several in the rule's order.
        rule: a name in `rules.RULES`.
        context: what of `rules.Context` differs from its defaults: `flattened`, `unflattened`
            (tuples of `Order`), `axes`.
        lost: what one side has and the other does not: `bias is on one side alone`.
    """

    keras: tuple[str, ...]
    torch: tuple[str, ...]
    rule: str
    context: Table[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As a `[[layer]]` of a `map.toml`."""
        rows = ["[[layer]]", f"keras = {_named(self.keras)}", f"torch = {_named(self.torch)}"]
        rows += [f"rule = {json.dumps(self.rule)}"] if self.rule else []
        rows += [f"{k} = {order_text(v)}" for k, v in self.context.items() if k in ORDERS]
        for key in NUMBERS:
            if key in self.context:
                rows.append(f"{key} = {json.dumps(self.context[key])}")
        return "\n".join(rows)


@dataclass(frozen=True)
class Mapping:
    """All layers of two models by pairs, or groups.

    Attributes:
        entries: in the order of Keras' calls.
        ambiguous: for each doubt its choices: sets of entries of which one holds; the first of
            each, the likeliest, is among `entries`. Empty where nothing is in doubt.
        keras_alone, torch_alone: native names of parameters without a counterpart.
        notes: what a person should know: how it was found, what one side lacks.
        undecided: what numbers did not tell either, in words (`settle`).
        by_graph: whether both graphs hang together alike, so that they tell which layer is which.
        graphs: of both models, where it was found.
    """

    entries: tuple[Entry, ...]
    ambiguous: tuple[tuple[tuple[Entry, ...], ...], ...] = ()
    keras_alone: tuple[str, ...] = ()
    torch_alone: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    by_graph: bool = field(default=True, repr=False, compare=False)
    graphs: tuple[Graph, Graph] | None = field(default=None, repr=False, compare=False)

    def layers(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """The layers of each entry, as `parity.check.matching.match` takes them."""
        return ((entry.keras, entry.torch) for entry in self.entries)

    def choosing(self, doubt: int, choice: int) -> Mapping:
        """The mapping with another choice of a doubt, which then stands first."""
        choices = self.ambiguous[doubt]
        taken, others = choices[choice], [c for at, c in enumerate(choices) if at != choice]
        gone = {id(entry) for entry in choices[0]}
        at = min(i for i, entry in enumerate(self.entries) if id(entry) in gone)
        kept = [entry for entry in self.entries if id(entry) not in gone]
        return replace(
            self,
            entries=(*kept[:at], *taken, *kept[at:]),
            ambiguous=tuple(
                (taken, *others) if number == doubt else each
                for number, each in enumerate(self.ambiguous)
            ),
        )

    def settled(self) -> Mapping:
        """The mapping as it stands, no longer in doubt."""
        return replace(self, ambiguous=())

    @property
    def text(self) -> str:
        """The whole `map.toml`; doubts and parameters without a counterpart as comments."""
        rows = [entry.text + "\n" for entry in self.entries]
        for choices in self.ambiguous:
            rows.append("# in doubt, see above; also possible:\n" + _commented(choices[1:]))
        for side, alone in (("keras", self.keras_alone), ("torch", self.torch_alone)):
            rows += [f"# no counterpart yet: {side} {name}" for name in alone]
        return "\n".join(rows) + "\n"

    def write(self, path: Path) -> None:
        write_atomically(path, self.text.encode())

    @classmethod
    def read(cls, path: Path) -> Mapping:
        """A map as it was written, or by hand; `find` completes it.

        Raises `InputError` where the file is missing or no map.
        """
        try:
            values = tomllib.loads(path.read_text())
            spare = set(values) - {"layer"}
            if spare:
                raise ValueError(f"expected [[layer]] alone, got {sorted(spare)}")
            return cls(tuple(map(_entry, values.get("layer", []))))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is no map of layers: {error}") from None


def find(
    keras: Graph, torch: Graph, given: Mapping | None = None, *, partial: bool = False
) -> Mapping:
    """Find which layer is which.

    Args:
        given: entries that hold; the rest is found.
        partial: leave parameters without a counterpart in `keras_alone` and `torch_alone`.

    Raises:
        Ambiguous: parameters have no counterpart, unless `partial`. What is merely in doubt is
            returned: `settle` it.
        InputError: an entry of `given` names no layer, or its layers do not fit.
    """
    _one_each(keras, torch, partial)
    ours, theirs = Side(keras), Side(torch)
    fitting = Fitting(ours, theirs)
    fixed = [_fixed(entry, ours, theirs, fitting) for entry in (given.entries if given else ())]
    bound = _bound(fixed)
    whole = [c for c in fixed if c.rule != tensors.RULE]
    free = [c for c in fitting.all() if not any(bound.intersection(_names(u)) for u in c.units)]
    joined = [c for c in fitting.joined() if not bound & {n for u in c.units for n in _names(u)}]
    singles = [c for c in fixed if c.rule == tensors.RULE]

    def found(shared: set[str]) -> Mapping:
        near = [c for c in free if not _parted(c, shared)]
        wide = [c for c in joined if not _parted(c, shared)]
        chosen = search.choose(ours, theirs, [*whole, *near], wide)
        more = _left_over(chosen, singles, fitting, shared)
        return _mapping(chosen, [*singles, *more], ours, theirs)

    shared = {
        name
        for name in namesakes(ours.parameters, theirs.parameters)
        if _kernels(ours, name) == _kernels(theirs, name)
    }
    mapping = found(shared)
    if shared and (other := found(set())) != mapping and _better(other, mapping):
        mapping = other
    if not partial:
        _complete(mapping, ours, theirs, fitting)
    return mapping


def read_map(path: Path, keras: Graph, torch: Graph) -> Mapping:
    """The mapping of a `map.toml`, completed and checked against both graphs.

    Raises `InputError` as `Mapping.read` and `find` do.
    """
    return find(keras, torch, Mapping.read(path))


# Entries and candidates -------------------------------------------------------------------------


def _kernels(side: Side, name: str) -> int:
    """How many numbers stand in matrices and the like below the name of a layer."""
    shapes = [each.shape for each in side.graph.parameters if first(each.name) == name]
    return sum(math.prod(shape) for shape in shapes if sum(size > 1 for size in shape) > 1)


def _parted(candidate: Candidate, shared: set[str]) -> bool:
    """Whether it goes against names that both sides have."""
    pairs = product(candidate.keras, candidate.torch)
    return any(parted(a.name, b.name, shared) for a, b in pairs)


def _better(mapping: Mapping, named: Mapping) -> bool:
    """Whether names that both sides have mislead: without them the graphs hang together alike, or
    more tensors have a counterpart."""
    alone = [len(each.keras_alone) + len(each.torch_alone) for each in (mapping, named)]
    return (not mapping.by_graph, alone[0]) < (not named.by_graph, alone[1])


def _left_over(
    found: search.Found, singles: list[Candidate], fitting: Fitting, shared: set[str]
) -> list[Candidate]:
    """Tensors of which both sides have some left, each for itself: of a layer that both sides call
    alike first."""
    taken = {name for c in singles for unit in c.units for name in _names(unit)}
    taken |= {name for c in found.chosen for name in _carried(c)}
    spare = [
        [side.piece(n) for unit in side.units for n in _names(unit) if n not in taken]
        for side in (fitting.keras, fitting.torch)
    ]
    made: list[tensors.Match] = []
    for name in [*sorted(shared), ""]:
        of_name = [
            [piece for piece in side if not name or first(piece.name) == name] for side in spare
        ]
        made += tensors.match(*of_name)
        used = {piece for each in made for piece in (*each.keras, *each.torch)}
        spare = [[piece for piece in side if piece not in used] for side in spare]
    return [
        Candidate(
            tuple(piece.unit for piece in each.keras),
            tuple(piece.unit for piece in each.torch),
            tensors.RULE,
            fitting.tensors(each),
        )
        for each in made
    ]


def _carried(candidate: Candidate) -> set[str]:
    """The parameters whose numbers get to the other side, or come from there."""
    every = {name for unit in candidate.units for name in _names(unit)}
    if not candidate.lost:
        return every
    context = Context(candidate.keras, candidate.torch, dry=True, **candidate.context)
    rule, carried = RULES[candidate.rule], set[str]()
    for source, target in (("keras", "torch"), ("torch", "keras")):
        held, places = context.held(source), context.held(target)
        shapes = context.wanted(source)
        for key, (unit, role) in held.items():
            marked = {
                each: np.broadcast_to(np.float32(np.nan if each == key else 1), shape)
                for each, shape in shapes.items()
            }
            for other, value in convert(rule, target, marked, context).items():
                if np.isnan(value).any():
                    owner, own = places[other]
                    carried |= {unit.names[role], owner.names[own]}
    return carried


def _names(unit: Unit) -> list[str]:
    return list(unit.names.values())


def _mapping(found: search.Found, singles: list[Candidate], keras: Side, torch: Side) -> Mapping:
    entries = {candidate: _as_entry(candidate) for candidate in (*found.chosen, *singles)}
    ordered = sorted(
        entries, key=lambda c: min(keras.places[n] for u in c.keras for n in _names(u))
    )
    known = dict(entries)
    doubts = []
    for doubt in found.doubts:
        for candidate in (c for choice in doubt.choices for c in choice):
            known.setdefault(candidate, _as_entry(candidate))
        doubts.append(tuple(tuple(known[c] for c in choice) for choice in doubt.choices))
    carried = {name for c in entries for name in _carried(c)}
    notes = (
        []
        if found.by_graph
        else ["the graphs differ or could not be followed: layers were matched by order and names"]
    )
    for candidate in ordered:
        spare = {name for unit in candidate.units for name in _names(unit)} - carried
        if spare:
            notes += [f"{_title(entries[candidate])}: {lost}" for lost in candidate.lost]
    alone = [
        tuple(name for unit in side.units for name in _names(unit) if name not in carried)
        for side in (keras, torch)
    ]
    return Mapping(
        tuple(entries[c] for c in ordered),
        tuple(doubts),
        alone[0],
        alone[1],
        tuple(notes),
        by_graph=found.by_graph,
        graphs=(keras.graph, torch.graph),
    )


def _as_entry(candidate: Candidate) -> Entry:
    return Entry(
        tuple(unit.name for unit in candidate.keras),
        tuple(unit.name for unit in candidate.torch),
        candidate.rule,
        candidate.context,
        candidate.lost,
    )


def _title(entry: Entry) -> str:
    return f"{' + '.join(entry.keras)} -> {' + '.join(entry.torch)}"


def _fixed(entry: Entry, keras: Side, torch: Side, fitting: Fitting) -> Candidate:
    """The candidate of a given entry. Raises `InputError` where it does not hold."""
    groups = (
        tuple(_known(name, keras) for name in entry.keras),
        tuple(_known(name, torch) for name in entry.torch),
    )
    rules = list(RULES.values())
    if not entry.rule and not any(rule.joins(*groups) for rule in rules):
        entry = replace(entry, rule=tensors.RULE)
    if entry.rule:
        if entry.rule not in RULES:
            raise InputError(
                f"map: there is no rule {entry.rule!r} (for {_title(entry)}). "
                f"Rules: {', '.join(sorted(RULES))}"
            )
        rules = [RULES[entry.rule]]
    fits: list[Candidate] = []
    why = "no rule joins layers of these kinds"
    for rule in rules:
        if entry.rule or rule.joins(*groups):
            found = fitting.candidate(rule, *groups, _layout(entry, rule, *groups, keras, torch))
            if isinstance(found, Candidate):
                fits.append(found)
            else:
                why = found
    if not fits:
        sides = "; ".join(
            f"{FRAMEWORKS[name]} {', '.join(_described(unit) for unit in group)}"
            for name, group in zip(("keras", "torch"), groups, strict=True)
        )
        raise InputError(f"map: {_title(entry)} does not fit: {why}. {sides}")
    return min(fits, key=lambda c: c.cost)


def _layout(
    entry: Entry,
    rule: Rule,
    ours: tuple[Unit, ...],
    theirs: tuple[Unit, ...],
    keras: Side,
    torch: Side,
) -> Table[str, Any]:
    """What an entry says, of single tensors completed by how they are used."""
    if rule.name != tensors.RULE or any(len(unit.names) != 1 for unit in (*ours, *theirs)):
        return entry.context
    pieces = [
        tuple(side.piece(_names(unit)[0]) for unit in units)
        for side, units in ((keras, ours), (torch, theirs))
    ]
    if min(map(len, pieces)) > 1:
        return entry.context
    likely: dict[str, Any] = next(iter(tensors.ways(*pieces)), {})
    given = any(key in entry.context for key in ("keras_axes", "torch_axes"))
    return (
        {"joined": likely.get("joined"), **entry.context} if given else {**likely, **entry.context}
    )


def _known(name: str, side: Side) -> Unit:
    unit = side.unit(name)
    if unit is None:
        names = [each.name for each in side.units]
        near = difflib.get_close_matches(name, names, SHOWN) or names[:SHOWN]
        raise InputError(
            f"map: the {FRAMEWORKS[side.graph.framework]} model has no layer {name!r} with "
            f"parameters. Close to it: {', '.join(near)}"
        )
    return unit


def _bound(fixed: Sequence[Candidate]) -> set[str]:
    """The parameters of given entries, those that stand by themselves first."""
    bound: set[str] = set()
    for candidate in sorted(fixed, key=lambda c: c.rule != tensors.RULE):
        for unit in candidate.units:
            names = set(_names(unit))
            if names <= bound or (candidate.rule == tensors.RULE and names & bound):
                raise InputError(f"map: {unit.name} stands in two entries")
            bound |= names
    return bound


def _one_each(keras: Graph, torch: Graph, partial: bool) -> None:
    for graph, name in ((keras, "keras"), (torch, "torch")):
        if graph.framework != name:
            raise InputError(f"expected the graph of a {name} model, got one of {graph.framework}")
        if not graph.parameters and not partial:
            raise InputError(f"the {FRAMEWORKS[name]} model has no parameters: nothing to transfer")


# What is missing --------------------------------------------------------------------------------


def _complete(mapping: Mapping, keras: Side, torch: Side, fitting: Fitting) -> None:
    """Raise `Ambiguous` unless every parameter of both sides has its counterpart."""
    alone = {"keras": mapping.keras_alone, "torch": mapping.torch_alone}
    named = {name for entry in mapping.entries for name in (*entry.keras, *entry.torch)}
    spare = {
        side.graph.framework: [
            unit
            for unit in side.units
            if unit.name not in named
            and any(n in alone[name] and not side.idle(n) for n in _names(unit))
        ]
        for name, side in (("keras", keras), ("torch", torch))
    }
    if not any(spare.values()):
        return
    rows = []
    for name, other in (("keras", "torch"), ("torch", "keras")):
        for unit in spare[name]:
            rows.append(f"{FRAMEWORKS[name]} {_described(unit)}")
            near = sorted(spare[other], key=partial(_apart, unit))[:SHOWN]
            rows += [f"    {_why(unit, each, fitting)}" for each in near]
    raise Ambiguous(
        f"{len(alone['keras'])} parameters of the Keras model and {len(alone['torch'])} of the "
        f"PyTorch model have no counterpart. Layers, with what comes closest:\n{listed(rows, 40)}\n"
        "Mend the models, or say in a map.toml (--map) what belongs together:\n\n"
        f"{_draft(spare['keras'], spare['torch'])}",
        mapping,
    )


def _described(unit: Unit) -> str:
    shapes = ", ".join(f"{role} {list(shape)}" for role, shape in unit.shapes.items())
    return f"{unit.name} ({unit.kind}: {shapes})"


def _apart(unit: Unit, other: Unit) -> tuple[bool, bool, int]:
    sizes = [sorted(math.prod(s) for s in each.shapes.values()) for each in (unit, other)]
    return unit.kind != other.kind, sizes[0] != sizes[1], abs(unit.at - other.at)


def _why(unit: Unit, other: Unit, fitting: Fitting) -> str:
    a, b = (unit, other) if unit.framework == "keras" else (other, unit)
    reasons = []
    for rule in RULES.values():
        if rule.joins((a,), (b,)):
            found = fitting.candidate(rule, (a,), (b,))
            reasons.append(found if isinstance(found, str) else "it would fit")
    reason = min(reasons, key=len) if reasons else "no rule joins these kinds"
    return f"{_described(other)}: {reason}"


def _draft(keras: Sequence[Unit], torch: Sequence[Unit]) -> str:
    """Entries for what is left, to be corrected by hand."""
    free, rows = list(torch), []
    for unit in keras[:SHOWN]:
        near = min(free, key=partial(_apart, unit), default=None)
        if near is not None:
            free.remove(near)
        rows.append(Entry((unit.name,), (near.name if near else "?",), "").text)
    if not keras:
        rows = [Entry(("?",), (unit.name,), "").text for unit in torch[:SHOWN]]
    return "\n\n".join(rows)


# TOML -------------------------------------------------------------------------------------------


def _entry(values: dict[str, Any]) -> Entry:
    values = dict(values)
    sides = []
    for side in ("keras", "torch"):
        names = values.pop(side)
        names = [names] if isinstance(names, str) else names
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{side}: expected the path of a layer or a list, got {names!r}")
        sides.append(tuple(names))
    rule = values.pop("rule", "")
    if not isinstance(rule, str):
        raise ValueError(f"rule: expected a name, got {rule!r}")
    context: dict[str, Any] = {}
    for key in ORDERS:
        if key in values:
            context[key] = order_of(values.pop(key))
    for key in NUMBERS:
        if key in values:
            context[key] = _numbers(values.pop(key), nested=key.endswith("_axes"))
    if values:
        raise ValueError(f"unknown keys {sorted(values)} of {sides}")
    return Entry(sides[0], sides[1], rule, context)


def _numbers(value: Any, nested: bool) -> Any:
    """Whole numbers as `rules.Context` has them: one, some, or with `nested` groups of them."""
    if nested:
        several = value if value and isinstance(value[0], list) else [value]
        return tuple(_numbers(each, nested=False) for each in several)
    return tuple(map(int, value)) if isinstance(value, list) else int(value)


def _named(names: tuple[str, ...]) -> str:
    return json.dumps(names[0] if len(names) == 1 else list(names), ensure_ascii=False)


def _text(entries: Iterable[Entry]) -> str:
    return "\n\n".join(entry.text for entry in entries)


def _commented(choices: Iterable[Iterable[Entry]]) -> str:
    texts = [_text(choice) for choice in choices]
    return "\n#\n# or:\n".join(
        "\n".join(f"# {row}".rstrip() for row in text.splitlines()) for text in texts[:SHOWN]
    )


def rule_of(entry: Entry) -> Rule:
    """Raises `InputError` where there is no such rule."""
    if entry.rule not in RULES:
        raise InputError(f"there is no rule {entry.rule!r}. Rules: {', '.join(sorted(RULES))}")
    return RULES[entry.rule]
