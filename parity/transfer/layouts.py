"""In which order the numbers along an axis run, followed through a graph from where it was made.

An axis is a sequence of atoms. Behind a convolution a map has the axes `s0`, `s1` and `c`, last in
Keras and first in PyTorch; a flatten merges them into one axis, whose atoms then say in which order
the rows of the dense layer behind it run. Two sides are compared by the names of the atoms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from parity.check.graph import INPUT, Graph, Node
from parity.transfer.units import Unit

MAPS = re.compile(r".*conv|(max|average|global_max|global_average)_pool|upsample|pad$")
FEATURES = ("dense", "lstm", "gru", "simple_rnn", "embedding", "attention")  # a new last axis
MERGING = ("flatten", "reshape")
UNKNOWN = ("select", "mean", "max")


@dataclass(frozen=True)
class Atom:
    """What an axis counts, and how far.

    The atoms of a run are nested, the last the fastest; the runs of an axis follow each other, as a
    concatenation of vectors leaves them. `source` is the node that made the numbers.
    """

    name: str
    size: int
    source: str = ""
    run: int = 0


Axis = tuple[Atom, ...]


@dataclass(frozen=True)
class Order:
    """The numbers of an axis, of `shape` in Keras' order; `axes` turn it into PyTorch's."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def changes(self) -> bool:
        return self.axes != tuple(range(len(self.shape)))


@dataclass
class Layout:
    """The axes of every node's output (without the batch), as far as they can be followed."""

    graph: Graph

    def __post_init__(self) -> None:
        self.nodes = {node.name: node for node in self.graph.nodes}
        self.readers: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.splits: dict[str, Axis] = {}  # a dense layer's outputs that a reshape makes a map
        self.axes: dict[str, tuple[Axis, ...]] = {}
        for at, shape in enumerate(self.graph.inputs):
            name = f"{INPUT}{at}"
            self.axes[name] = self._fresh(name, shape)
        for node in self.graph.nodes:
            self.axes[node.name] = self._after(node)

    def read(self, unit: Unit) -> tuple[Axis, ...]:
        """The axes of what a unit is first given; empty where that is not known."""
        if not unit.calls or not self.nodes[unit.calls[0]].inputs:
            return ()
        return self.axes.get(self.nodes[unit.calls[0]].inputs[0], ())

    def given(self, unit: Unit) -> Axis:
        """The last axis of what a unit gives, taken apart as a later reshape does."""
        axes = self.axes.get(unit.calls[0], ()) if unit.calls else ()
        return self.expand(axes[-1]) if len(axes) == 1 else ()

    def expand(self, axis: Axis) -> Axis:
        return tuple(
            replace(part, run=atom.run)
            for atom in axis
            for part in self.splits.get(atom.source, (atom,))
        )

    def _after(self, node: Node) -> tuple[Axis, ...]:
        inputs = [self.axes.get(name, ()) for name in node.inputs]
        first = inputs[0] if inputs else ()
        if MAPS.match(node.kind) or not first:
            return self._map(node.name, node.shape)
        if node.kind in FEATURES:
            return self._features(node, first)
        if node.kind in MERGING:
            return self._merged(node, first)
        if node.kind == "permute":
            return self._permuted(node, first)
        if node.kind == "concatenate":
            return self._joined(node, inputs)
        same = [axes for axes in inputs if _shape(axes) == node.shape]
        if same and node.kind not in UNKNOWN:
            return same[0]
        if len(node.shape) == 1:  # a mean over a map, a step of a sequence
            kept = [axis for axis in first if _size(axis) == node.shape[0]]
            return (kept[-1],) if kept else ()
        return self._fresh(node.name, node.shape)

    def _map(self, source: str, shape: tuple[int, ...]) -> tuple[Axis, ...]:
        *names, last = [f"s{at}" for at in range(len(shape) - 1)] + ["c"]
        order = [*names, last] if self.graph.framework == "keras" else [last, *names]
        return tuple((Atom(n, s, source),) for n, s in zip(order, shape, strict=True))

    def _fresh(self, source: str, shape: tuple[int, ...]) -> tuple[Axis, ...]:
        """Axes of a tensor whose making tells nothing: a map if it is used as one."""
        if len(shape) > 1 and self._used_as_map(source):
            return self._map(source, shape)
        return tuple((Atom(f"p{at}", size, source),) for at, size in enumerate(shape))

    def _used_as_map(self, name: str) -> bool:
        """Whether a convolution or a pool reads it, with nothing but elementwise nodes between."""
        todo, seen = [name], {name}
        while todo:
            here = todo.pop()
            for node in self.readers.get(here, ()):
                if MAPS.match(node.kind):
                    return True
                passing = node.kind not in (*FEATURES, *MERGING, *UNKNOWN, "permute")
                if passing and node.name not in seen:
                    seen.add(node.name)
                    todo.append(node.name)
        return False

    def _features(self, node: Node, first: tuple[Axis, ...]) -> tuple[Axis, ...]:
        kept: tuple[Axis, ...] = first if node.kind == "embedding" else first[:-1]
        kept = kept[: len(node.shape) - 1]
        if [_size(axis) for axis in kept] != list(node.shape[:-1]):
            kept = tuple((Atom(f"p{at}", s, node.name),) for at, s in enumerate(node.shape[:-1]))
        return (*kept, (Atom("f", node.shape[-1], node.name),)) if node.shape else ()

    def _merged(self, node: Node, first: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """Merge and split axes as a reshape in row-major order does."""
        atoms = [atom for axis in first for atom in axis]
        if any(atom.run for atom in atoms):
            return first if _shape(first) == node.shape else self._fresh(node.name, node.shape)
        if len(atoms) == 1 and len(node.shape) > 1 and math.prod(node.shape) == atoms[0].size:
            made = self._fresh(node.name, node.shape)
            self.splits[atoms[0].source] = tuple(atom for axis in made for atom in axis)
            return made
        axes: list[Axis] = []
        rest = [atom for atom in atoms if atom.size != 1]
        for size in node.shape:
            axis: list[Atom] = []
            while rest and math.prod(a.size for a in axis) < size:
                axis.append(rest.pop(0))
            if math.prod(a.size for a in axis) != size:
                return self._fresh(node.name, node.shape)
            axes.append(tuple(axis) or (Atom("1", 1),))
        return tuple(axes)

    def _permuted(self, node: Node, first: tuple[Axis, ...]) -> tuple[Axis, ...]:
        order = _declared(node, len(first)) or _permutation(first, node.shape)
        return tuple(first[at] for at in order) if order else self._fresh(node.name, node.shape)

    def _joined(self, node: Node, inputs: Sequence[tuple[Axis, ...]]) -> tuple[Axis, ...]:
        if not all(len(axes) == len(node.shape) for axes in inputs):
            return self._fresh(node.name, node.shape)
        joined: list[Axis] = []
        for at, size in enumerate(node.shape):
            own = [axes[at] for axes in inputs]
            if _size(own[0]) == size:
                joined.append(own[0])
            elif len(node.shape) == 1:
                runs = [run for axis in own for run in _runs(axis)]
                joined.append(
                    tuple(replace(atom, run=n) for n, run in enumerate(runs) for atom in run)
                )
            else:
                joined.append((Atom(own[0][0].name, size, node.name),))
        return tuple(joined)


def orders(keras: Axis, torch: Axis) -> tuple[Order, ...]:
    """How the numbers of an axis are to be reordered; empty where they run alike.

    Each run is reordered by itself.
    """
    ours, theirs = _runs(keras), _runs(torch)
    if len(ours) != len(theirs):
        return ()
    found = []
    for a, b in zip(ours, theirs, strict=True):
        if math.prod(x.size for x in a) != math.prod(x.size for x in b):
            return ()
        found.append(_order(a, b))
    return tuple(found) if any(order.changes for order in found) else ()


def turned(keras: Sequence[Axis], torch: Sequence[Axis]) -> tuple[int, ...]:
    """The permutation of whole axes from Keras to PyTorch; empty where there is none."""
    if len(keras) != len(torch) or any(len(axis) != 1 for axis in (*keras, *torch)):
        return ()
    order = _order([axis[0] for axis in keras], [axis[0] for axis in torch], drop=False)
    return order.axes if order.changes else ()


def _order(keras: Sequence[Atom], torch: Sequence[Atom], drop: bool = True) -> Order:
    if drop:
        keras = [atom for atom in keras if atom.size != 1] or keras[:1]
        torch = [atom for atom in torch if atom.size != 1] or torch[:1]
    names = [(atom.name, atom.size) for atom in keras]
    others = [(atom.name, atom.size) for atom in torch]
    shape = tuple(atom.size for atom in keras)
    if sorted(names) != sorted(others) or len(set(names)) < len(names):
        return Order(shape, tuple(range(len(shape))))
    return Order(shape, tuple(names.index(each) for each in others))


def _runs(axis: Axis) -> list[list[Atom]]:
    runs: list[list[Atom]] = []
    for atom in axis:
        if runs and runs[-1][-1].run == atom.run:
            runs[-1].append(atom)
        else:
            runs.append([atom])
    return runs


def _declared(node: Node, rank: int) -> tuple[int, ...]:
    """The permutation that a node's settings give, with or without the batch."""
    for key in ("axes", "order", "dims"):
        given = node.settings.get(key)
        if isinstance(given, list | tuple) and all(isinstance(at, int) for at in given):
            if sorted(given) == list(range(rank + 1)) and given[0] == 0:
                given = given[1:]
            if sorted(given) == list(range(1, rank + 1)):
                return tuple(at - 1 for at in given)
    return ()


def _permutation(axes: tuple[Axis, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The likeliest permutation that gives `shape`: channels moved to the other end, a swap."""
    rank = len(axes)
    names = [axis[0].name if len(axis) == 1 else "" for axis in axes]
    last, first = (*range(1, rank), 0), (rank - 1, *range(rank - 1))
    likely = [last, first] if names and names[0] == "c" else [first, last]
    fits = [p for p in likely if tuple(_size(axes[at]) for at in p) == shape]
    if fits:
        return fits[0]
    sizes = [_size(axis) for axis in axes]
    if sorted(sizes) != sorted(shape) or len(set(sizes)) < rank:
        return ()
    return tuple(sizes.index(size) for size in shape)


def _size(axis: Axis) -> int:
    return math.prod(atom.size for atom in axis)


def _shape(axes: Sequence[Axis]) -> tuple[int, ...]:
    return tuple(_size(axis) for axis in axes)
