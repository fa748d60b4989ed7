"""Doubts settled by numbers: which outputs of Keras' calls also occur in PyTorch's run.

The likeliest mapping is tried first. Where a call is not reached although what it reads is, the
doubts of its own layer and then of those before it are tried, one after the other, in the order of
the calls: which layer is which, how a tensor lies (turned, behind a flatten, gates), two that may
stand in each other's place. A second sweep tries what is left by the number of calls reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from itertools import chain, combinations, islice, permutations
from math import prod
from typing import Any

from parity.check.graph import INPUT, Graph, Node
from parity.transfer import tensors
from parity.transfer.candidates import Candidate, Fitting, Side
from parity.transfer.layouts import Order
from parity.transfer.mapping import Entry, Mapping
from parity.transfer.names import alike
from parity.transfer.recurrent import GATES
from parity.transfer.rules import RULES
from parity.transfer.units import Unit
from shared_data.errors import InputError

LIMIT = 200  # runs in all
AT_A_CALL = 60  # of them, for one call that is not reached
PAIRS = 24  # of changes that only together reach a call
Reached = Callable[[Mapping], Set[str]]
Change = dict[int, Entry]  # by the place of an entry, what stands there instead


def settle(mapping: Mapping, reached: Reached, limit: int = LIMIT) -> Mapping:
    """The mapping that numbers speak for; what they do not tell is in `undecided`.

    Args:
        reached: names of Keras' nodes whose output numbers, in any order, PyTorch's run has too,
            with weights carried by a mapping. Weights should all differ: biases of zero, as
            models start with, tell nothing. An output counts only if it is PyTorch's at that place.
        limit: how often `reached` may be asked.
    """
    if mapping.graphs is None:
        return mapping.settled()
    return _Settling(mapping, mapping.graphs, reached, limit).settled()


class _Settling:
    def __init__(
        self, mapping: Mapping, graphs: tuple[Graph, Graph], reached: Reached, limit: int
    ) -> None:
        self.mapping, self.limit, self._reached = mapping, limit, reached
        self.graph = graphs[0]
        self.sides = Side(graphs[0]), Side(graphs[1])
        self.fitting = Fitting(*self.sides)
        self.place = {node.name: at for at, node in enumerate(self.graph.nodes)}
        self.asked: dict[str, Set[str]] = {}
        self.runs = 0
        self.now = self.ask(mapping)

    def ask(self, mapping: Mapping) -> Set[str]:
        """What a mapping reaches; nothing where it does not fit, or no run is left."""
        key = repr(mapping.entries)
        if key not in self.asked:
            if self.runs >= self.limit:
                return frozenset()
            self.runs += 1
            try:
                self.asked[key] = self._reached(mapping.settled())
            except InputError:
                self.asked[key] = frozenset()
        return self.asked[key]

    @property
    def over(self) -> bool:
        return self.proved or self.runs >= self.limit

    @property
    def proved(self) -> bool:
        """All outputs are right: so is all that they depend on."""
        return all(name in self.now for name in self.graph.outputs)

    def settled(self) -> Mapping:
        passed: set[str] = set()
        while not self.over:
            node = self.frontier(passed)
            if node is None:
                break
            if not self.mend(node):
                passed.add(node.name)
        self.sweep()
        if self.proved:
            return self.mapping.settled()
        left = [
            " or ".join(
                sorted({f"{' + '.join(e.keras)} -> {' + '.join(e.torch)}" for e in choice})[0]
                for choice in choices
            )
            for choices in self.mapping.ambiguous
            if not all(self.reaches(entry) for entry in choices[0])
        ]
        notes = [f"numbers do not tell which layer is which: {each}" for each in left]
        return replace(
            self.mapping.settled(), undecided=tuple(left), notes=(*self.mapping.notes, *notes)
        )

    # Where it goes wrong

    def frontier(self, passed: Set[str]) -> Node | None:
        """The first call that is not reached though what it reads is, and nothing behind it."""
        known = {*self.now, *self._before(self.now)}
        for node in self.graph.nodes:
            if node.name in known or node.name in passed:
                continue
            # What PyTorch never has as a tensor, such as a padded map, is seen through.
            if all(
                name.startswith(INPUT) or name in known or (name in passed and self._plain(name))
                for name in node.inputs
            ):
                return node
        return None

    def _plain(self, name: str) -> bool:
        return not self.graph.nodes[self.place[name]].layer

    def _before(self, names: Set[str]) -> set[str]:
        found: set[str] = set()
        for node in reversed(self.graph.nodes):
            if node.name in names or node.name in found:
                found.update(name for name in node.inputs if name in self.place)
        return found

    def mend(self, node: Node) -> bool:
        """Whether a change reaches a call; it is then made."""
        for changed in islice(self.changes(node), AT_A_CALL):
            reached = self.ask(changed)
            if node.name in reached and len(reached) > len(self.now):
                self.mapping, self.now = changed, reached
                return True
            if self.runs >= self.limit:
                break
        return False

    def sweep(self) -> None:
        """Whatever reaches more, of all that has not been reached."""
        for at, entry in enumerate(list(self.mapping.entries)):
            if self.over or at >= len(self.mapping.entries):
                return
            if self.reaches(entry):
                continue
            for change in islice(self._layouts(at), AT_A_CALL // 4):
                changed = self._with(change)
                reached = self.ask(changed)
                if len(reached) > len(self.now):
                    self.mapping, self.now = changed, reached
                    break

    def reaches(self, entry: Entry) -> bool:
        return all(call in self.now for call in self._calls(entry))

    # What may be changed

    def changes(self, node: Node) -> Iterator[Mapping]:
        """Other mappings that could reach a call, the likeliest first."""
        own = self._entries_at(node.name)
        near = [at for at in self._feeding(node) if at not in own]
        # What is before a call matters first where it uses no weights itself.
        yield from self._doubts(node)
        layouts = [list(self._layouts(at)) for at in own]
        yield from map(self._with, self._together(own))
        yield from map(self._with, chain.from_iterable(layouts))
        for at in own:
            yield from map(self._with, self._exchanges(at))
        yield from map(self._with, self._together(near))
        yield from map(self._with, chain.from_iterable(map(self._layouts, near)))
        pairs = (
            one | other
            for several, more in combinations(layouts, 2)
            for one in several
            for other in more
        )
        yield from map(self._with, islice(pairs, PAIRS))
        for at in near:
            yield from map(self._with, self._exchanges(at))

    def _doubts(self, node: Node) -> Iterator[Mapping]:
        """Choices of the doubts about layers up to a call, the nearest first."""
        last = self.place[node.name]
        placed = []
        for number, choices in enumerate(self.mapping.ambiguous):
            first = min((self.place[c] for e in choices[0] for c in self._calls(e)), default=0)
            if first <= last:
                placed.append((-first, number))
        for _, number in sorted(placed):
            for choice in range(1, len(self.mapping.ambiguous[number])):
                yield self.mapping.choosing(number, choice)

    def _with(self, change: Change) -> Mapping:
        entries = tuple(change.get(at, e) for at, e in enumerate(self.mapping.entries))
        old = {id(self.mapping.entries[at]): new for at, new in change.items()}
        doubts = tuple(
            tuple(tuple(old.get(id(e), e) for e in choice) for choice in choices)
            for choices in self.mapping.ambiguous
        )
        return replace(self.mapping, entries=entries, ambiguous=doubts)

    def _layouts(self, at: int) -> Iterator[Change]:
        """Other ways in which the numbers of an entry may lie."""
        entry = self.mapping.entries[at]
        for context in self._contexts(entry):
            kept = {key: value for key, value in context.items() if value not in ((), None)}
            if kept != dict(entry.context) and self._fits(entry, kept):
                yield {at: replace(entry, context=kept)}
        if "joined" in entry.context:
            yield from self._reordered(at)

    def _contexts(self, entry: Entry) -> Iterator[dict[str, Any]]:
        own = dict(entry.context)
        if entry.rule == tensors.RULE:
            pieces = self._pieces(entry)
            if pieces is None:
                return
            for way in tensors.ways(*pieces):
                yield {**own, "keras_axes": (), "torch_axes": (), **way}
            if "rows" in own:
                return
            sizes = next((f.shape for side in pieces for p in side for f in p.forms), ())
            if "joined" not in own and len(sizes) == 2 and sizes[0] == sizes[1]:
                axes = own.get("torch_axes", ((0, 1),))[0]
                yield {**own, "torch_axes": ((axes[1], axes[0]),)}
            rows, columns = (sizes[-2:-1] or (0,))[0], (sizes[-1:] or (0,))[0]
        elif entry.rule in ("dense", "pointwise", "pointwise_conv"):
            kernel = self._units(entry)[1][0].shapes.get("weight", (0, 0))
            rows, columns = prod(kernel[1:]), kernel[0]
        else:
            return
        for key, size in (("flattened", rows), ("unflattened", columns)):
            if key in own:
                yield {**own, key: ()}
            for order in self._orders(size):
                yield {**own, key: (order,)}

    def _orders(self, size: int) -> Iterator[Order]:
        """How an axis of a size may be a map, of which there are some in the model."""
        shapes = {node.shape for graph in self.graphs for node in graph.nodes}
        shapes |= {shape for graph in self.graphs for shape in graph.inputs}
        found = {
            plain
            for shape in shapes
            if 1 < len(plain := tuple(each for each in shape if each != 1)) <= 3
            if prod(plain) == size
        }
        for shape in sorted(found):
            rank = len(shape)
            last_first = (rank - 1, *range(rank - 1))
            own = tuple(range(rank))
            for axes in dict.fromkeys([last_first, (*range(1, rank), 0), *permutations(own)]):
                if axes != own:
                    yield Order(shape, axes)

    @property
    def graphs(self) -> tuple[Graph, Graph]:
        return self.sides[0].graph, self.sides[1].graph

    def _together(self, own: Sequence[int]) -> Iterator[Change]:
        """Tensors of one layer that lie alike: all of them turned, or with their gates exchanged,
        or in the same other order of parts."""
        for unit in dict.fromkeys(u for at in own for u in self._owners(at, 0)):
            same = [
                at
                for at, entry in enumerate(self.mapping.entries)
                if entry.rule == tensors.RULE and unit in self._owners(at, 0)
            ]
            if len(same) > 1:
                turned = {at: each for at in same for each in islice(self._turned(at), 1)}
                if len(turned) > 1:
                    yield turned
            number = self._gates(unit)
            for order in tensors.blocks(number) if number else ():
                change = {}
                for at in same:
                    entry = self.mapping.entries[at]
                    context = {**entry.context, "blocks": order}
                    if self._fits(entry, context):
                        change[at] = replace(entry, context=context)
                if change:
                    yield change
        joined = [at for at in own if "joined" in self.mapping.entries[at].context]
        if len(joined) > 1:
            several = zip(*(self._reordered(at) for at in joined), strict=False)
            for changes in several:
                yield {at: entry for change in changes for at, entry in change.items()}

    def _gates(self, unit: Unit) -> int:
        if unit.kind in GATES:
            return len(GATES[unit.kind])
        sizes = [s for r, s in unit.shapes.items() if r.endswith("recurrent_kernel") and s]
        return sizes[0][-1] // sizes[0][-2] if sizes and len(sizes[0]) > 1 else 0

    def _turned(self, at: int) -> Iterator[Entry]:
        entry = self.mapping.entries[at]
        for change in self._layouts(at):
            if any(change[at].context.get(k) != entry.context.get(k) for k in AXES):
                yield change[at]

    def _reordered(self, at: int) -> Iterator[Change]:
        """The parts of one tensor in another order, or dealt out head by head."""
        entry = self.mapping.entries[at]
        side = "keras" if len(entry.keras) > 1 else "torch"
        names = getattr(entry, side)
        if len(names) <= 4:
            for order in islice(permutations(names), 1, None):
                ends = (order, entry.torch) if side == "keras" else (entry.keras, order)
                yield {at: replace(entry, keras=ends[0], torch=ends[1])}
        pieces = self._pieces(entry)
        if pieces is None:
            return
        several, (single,) = pieces if side == "keras" else pieces[::-1]
        joined = single.forms[0].shape[entry.context["joined"]]
        if len({piece.shape for piece in several}) == 1:
            for orders in tensors.interleaved(len(names), joined // len(names)):
                context = {**entry.context, "unflattened": orders}
                if self._fits(entry, context):
                    yield {at: replace(entry, context=context)}

    def _exchanges(self, at: int) -> Iterator[Change]:
        """Layers that are not reached either, each in the other's place, with what belongs to it
        where tensors stand each for itself."""
        entry = self.mapping.entries[at]
        if entry.rule != tensors.RULE and self.mapping.by_graph:
            return
        for other, each in enumerate(self.mapping.entries):
            if other == at or each.rule != entry.rule or self.reaches(each):
                continue
            if all(alike(e.keras, e.torch, ())[0] == 1 for e in (entry, each)):
                continue  # both sides call them so: exchanged, they would be a mistake of the port
            change = self._exchanged(at, other)
            if not change:
                continue
            mine, yours = self._companions(at), self._companions(other)
            if entry.rule == tensors.RULE and len(mine) == len(yours) and not {*mine} & {*yours}:
                more = [self._exchanged(a, b) for a, b in zip(mine, yours, strict=True)]
                if mine and all(more):
                    yield change | {k: v for each in more for k, v in each.items()}
            yield change

    def _exchanged(self, at: int, other: int) -> Change:
        one, two = self.mapping.entries[at], self.mapping.entries[other]
        a, b = self._joined(one.keras, two.torch, one), self._joined(two.keras, one.torch, two)
        return {at: a, other: b} if a and b else {}

    def _joined(self, keras: tuple[str, ...], torch: tuple[str, ...], like: Entry) -> Entry | None:
        entry = Entry(keras, torch, like.rule)
        if like.rule == tensors.RULE:
            pieces = self._pieces(entry)
            way = next(iter(tensors.ways(*pieces)), None) if pieces else None
            return None if way is None else replace(entry, context=way)
        found = self.fitting.candidate(RULES[like.rule], *self._units(entry))
        if not isinstance(found, Candidate):
            return None
        return replace(entry, context=found.context, lost=found.lost)

    def _companions(self, at: int) -> list[int]:
        """The other single tensors of the same Keras call, in their order."""
        calls = self._calls(self.mapping.entries[at])
        return [
            other
            for other, entry in enumerate(self.mapping.entries)
            if other != at and entry.rule == tensors.RULE and self._calls(entry) == calls
        ]

    # What entries are of

    def _units(self, entry: Entry) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
        found = [
            tuple(unit for name in names if (unit := side.unit(name)))
            for side, names in zip(self.sides, (entry.keras, entry.torch), strict=True)
        ]
        return found[0], found[1]

    def _owners(self, at: int, side: int) -> list[Unit]:
        names = {n for u in self._units(self.mapping.entries[at])[side] for n in u.names.values()}
        return [u for u in self.sides[side].units if names & {*u.names.values()}]

    def _calls(self, entry: Entry) -> tuple[str, ...]:
        """The Keras calls that use an entry's weights."""
        found = []
        for unit in self._units(entry)[0]:
            calls = unit.calls or tuple(
                call
                for name in unit.names.values()
                for call in self.sides[0].piece(name).unit.calls
            )
            found += [call for call in calls if call in self.place]
        return tuple(dict.fromkeys(found))

    def _pieces(
        self, entry: Entry
    ) -> tuple[tuple[tensors.Piece, ...], tuple[tensors.Piece, ...]] | None:
        units = self._units(entry)
        if any(len(unit.names) != 1 for side in units for unit in side):
            return None
        ours, theirs = (
            tuple(side.piece(name) for unit in each for name in unit.names.values())
            for side, each in zip(self.sides, units, strict=True)
        )
        return (ours, theirs) if min(len(ours), len(theirs)) == 1 else None

    def _fits(self, entry: Entry, context: dict[str, Any]) -> bool:
        return not self.fitting.fit(RULES[entry.rule], *self._units(entry), context)[1]

    def _entries_at(self, call: str) -> list[int]:
        return [at for at, e in enumerate(self.mapping.entries) if call in self._calls(e)]

    def _feeding(self, node: Node) -> list[int]:
        """The entries next before a call, through all calls without weights."""
        found: list[int] = []
        ahead, seen = list(node.inputs), set[str]()
        while ahead:
            name = ahead.pop(0)
            if name in seen or name not in self.place:
                continue
            seen.add(name)
            here = self._entries_at(name)
            found += [at for at in here if at not in found]
            if not here:
                ahead += self.graph.nodes[self.place[name]].inputs
        return found


AXES = ("keras_axes", "torch_axes")


# For those who run the models --------------------------------------------------------------------
