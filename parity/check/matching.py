"""Which call on one side is which on the other, once it is known which layers belong together.

Layers with parameters are anchors. From them on, in the order of the calls, what has the same kind
and gets the same inputs is the same; what only moves numbers about (a reshape, a permutation, a
dropout) and what has no partner is looked through.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.check.graph import INPUT, Graph, Node

ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "hard_silu"),
    *("hard_sigmoid", "sigmoid", "tanh", "softmax", "softplus"),
)
POOLS = ("max_pool", "average_pool", "global_max_pool", "global_average_pool", "mean", "max")
# What may stand for each other: a mistake of these is one of a kind, to be placed by its numbers.
FAMILIES = (ACTIVATIONS, POOLS, ("add", "subtract"), ("rescale", "multiply"))
# Never falling, so that it may stand on either side of a max pool.
MONOTONE = ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "softplus", "hard_sigmoid")
# They give out what they get, in another order or with something around it.
MOVING = ("identity", "dropout", "flatten", "reshape", "permute", "pad", "select")
CHANNELS_FIRST = ("conv", "depthwise_conv", "separable_conv")  # in PyTorch, whatever the sizes


@dataclass(frozen=True)
class Match:
    """A Keras node and its PyTorch node.

    `axes` permute Keras' tensor, batch included, into PyTorch's, but for a reshape; None where
    layouts are alike.
    `flattened`: rows in (H, W, C) order in Keras, in (C, H, W) order in PyTorch. `joined`: several
    layers stand for one, so that their settings say nothing of each other.
    """

    keras: Node
    torch: Node
    axes: tuple[int, ...] | None = None
    flattened: tuple[int, int, int] | None = None
    joined: bool = False

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        """Keras' tensor in PyTorch's layout."""
        if self.flattened:
            shaped = value.reshape(len(value), *self.flattened)
            return shaped.transpose(0, 3, 1, 2).reshape(len(value), -1)
        if self.axes is not None:
            value = value.transpose(self.axes)
        fits = value.size and value.size % math.prod(self.torch.shape or (1,)) == 0
        return value.reshape(-1, *self.torch.shape) if fits else value

    def to_keras(self, value: np.ndarray) -> np.ndarray:
        """The inverse."""
        if self.flattened:
            height, width, channels = self.flattened
            shaped = value.reshape(len(value), channels, height, width)
            return shaped.transpose(0, 2, 3, 1).reshape(len(value), -1)
        whole = (-1, *self.keras.shape)
        if value.size and value.size % math.prod(self.keras.shape or (1,)) == 0:
            value = value.reshape([whole[at] for at in self.axes] if self.axes else whole)
        return value.transpose(np.argsort(self.axes)) if self.axes else value

    @property
    def pair(self) -> tuple[str, str, Any]:
        """As `trace.Request.pairs` has it."""
        layout = {"flattened": list(self.flattened)} if self.flattened else None
        return self.keras.name, self.torch.name, layout or (list(self.axes) if self.axes else None)


@dataclass(frozen=True)
class Matching:
    """All matches in Keras' order, and what has no partner though it computes something.

    `readers` has for a Keras node the matches that read it, if they are the same on both sides:
    only then is what they hand back to it comparable, one by one. `sources` has for a Keras node
    the matched nodes that it reads, if on both sides it reads nothing that has no partner.
    """

    matches: tuple[Match, ...]
    keras_alone: tuple[Node, ...]
    torch_alone: tuple[Node, ...]
    by_keras: dict[str, Match]
    readers: dict[str, tuple[Match, ...]]
    sources: dict[str, tuple[str, ...]]


Calls = Sequence[Sequence[str]]  # of each layer of a group, its nodes


def match(keras: Graph, torch: Graph, groups: Iterable[tuple[Calls, Calls]]) -> Matching:
    """Match the nodes of two models; `groups` says which layers' parameters belong together.

    Where several layers stand for one, such as a separable convolution for two, the calls of the
    last match.
    """
    return _Matcher(keras, torch, groups).run()


class _Matcher:
    def __init__(self, keras: Graph, torch: Graph, groups: Iterable[tuple[Calls, Calls]]) -> None:
        self.keras, self.torch = keras, torch
        self.ours = {node.name: node for node in keras.nodes}
        self.theirs = {node.name: node for node in torch.nodes}
        self.found: dict[str, str] = {}  # Keras' node: PyTorch's
        self.anchors: dict[str, str] = {}
        self.joined: set[str] = set()
        self.inside: tuple[set[str], set[str]] = (set(), set())  # calls of a group before its last
        for group in groups:
            if all(group):
                if max(map(len, group)) > 1:
                    self.joined.update(group[0][-1])
                self.anchors |= dict(zip(group[0][-1], group[1][-1], strict=False))
            for side, inside in zip(group, self.inside, strict=True):
                inside.update(call for layer in side[:-1] for call in layer)

    def run(self) -> Matching:
        taken = set(self.anchors.values()) | self.inside[1]
        for node in self.keras.nodes:
            if node.name in self.anchors:
                self.found[node.name] = self.anchors[node.name]
            elif swapped := self._swapped(node, taken):
                second, first, last = swapped
                self.found[second] = last
                self.joined.add(second)
                self.inside[0].add(node.name)
                self.inside[1].add(first)
                taken |= {first, last}
            elif computes(node) and node.name not in {*self.inside[0], *self.found}:
                partner = self._partner(node, taken)
                if partner:
                    self.found[node.name] = partner
                    taken.add(partner)
        matches = tuple(self._laid_out(a, b) for a, b in self.found.items())
        return Matching(
            matches,
            _alone(self.keras, self.found.keys() | self.inside[0]),
            _alone(self.torch, set(self.found.values()) | self.inside[1]),
            {each.keras.name: each for each in matches},
            _same_readers(self.keras, self.torch, matches),
            self._fed(matches),
        )

    def _fed(self, matches: Sequence[Match]) -> dict[str, tuple[str, ...]]:
        partners = {each.torch.name: each.keras.name for each in matches}
        fed = {}
        for each in matches:
            given = [self._source(self.theirs, name, False) for name in each.torch.inputs]
            known = [name for name in given if not name.startswith(INPUT)]
            ours = [self._source(self.ours, name, True) for name in each.keras.inputs]
            if sorted(given) == sorted(ours) and all(name in partners for name in known):
                fed[each.keras.name] = tuple(partners[name] for name in known)
        return fed

    def _swapped(self, node: Node, taken: set[str]) -> tuple[str, str, str] | None:
        """A max pool and an activation that PyTorch has the other way round: the second of Keras',
        the first and the second of PyTorch's. The seconds give the same."""
        second = _only_reader(self.keras, node)
        if second is None or not _commute(node, second):
            return None
        wanted = [self._source(self.ours, name, True, moving=True) for name in node.inputs]
        for first in self.torch.nodes:
            last = _only_reader(self.torch, first)
            if last is None or (first.kind, last.kind) != (second.kind, node.kind):
                continue
            given = [self._source(self.theirs, name, False, moving=True) for name in first.inputs]
            if given == wanted and not {first.name, last.name} & taken:
                return second.name, first.name, last.name
        return None

    def _partner(self, node: Node, taken: set[str]) -> str | None:
        """The first free node with the same inputs: of the same kind, or else family."""
        wanted = sorted(self._sources(self.ours, node, True))
        free = [
            other
            for other in self.torch.nodes
            if other.name not in taken
            and not other.layer
            and sorted(self._sources(self.theirs, other, False)) == wanted
        ]
        same = [other for other in free if other.kind == node.kind]
        alike = [other for other in free if _family(other.kind) == _family(node.kind) is not None]
        return next((other.name for other in (*same, *alike)), None)

    def _sources(self, nodes: Mapping[str, Node], node: Node, is_keras: bool) -> Iterator[str]:
        """Where all inputs come from. A concatenation of concatenations is one of all their parts:
        one side may add part by part what the other joins anew each time."""
        for name in node.inputs:
            inner = nodes.get(name)
            if inner and _joins(node) and _joins(inner) and _axis(node) == _axis(inner):
                yield from self._sources(nodes, inner, is_keras)
            else:
                yield self._source(nodes, name, is_keras)

    def _source(
        self, nodes: Mapping[str, Node], name: str, is_keras: bool, moving: bool = False
    ) -> str:
        """Where an input comes from, in PyTorch's names, looking through what has no partner, or
        only through what moves numbers about."""
        while name in nodes:
            node = nodes[name]
            if is_keras and name in self.found:
                return self.found[name]
            if not is_keras and (name in self.found.values() or name in self.anchors.values()):
                return name
            if len(node.inputs) != 1 or (moving and computes(node)):
                return name
            name = node.inputs[0]
        return name

    def _laid_out(self, keras: str, torch: str) -> Match:
        ours, theirs = self.ours[keras], self.theirs[torch]
        flat = _flattened(self.ours, ours) if len(ours.shape) == 1 else None
        if flat and _flattened(self.theirs, theirs) == (flat[2], flat[0], flat[1]):
            return Match(ours, theirs, flattened=flat)
        return Match(ours, theirs, self._axes(ours, theirs), joined=keras in self.joined)

    def _axes(self, ours: Node, theirs: Node) -> tuple[int, ...] | None:
        rank = len(ours.shape)
        moved = (0, rank, *range(1, rank))
        first = (ours.shape[-1], *ours.shape[:-1]) == theirs.shape
        if rank < 2 or not first:
            return None
        if ours.shape != theirs.shape or theirs.kind.startswith(CHANNELS_FIRST):
            return moved
        # Sizes do not tell: as what it is made from is.
        before = [self.found.get(name) for name in ours.inputs]
        for name, partner in zip(ours.inputs, before, strict=True):
            if partner and len(self.ours[name].shape) == rank:
                return self._axes(self.ours[name], self.theirs[partner])
        return moved if rank == 3 else None


def _same_readers(
    keras: Graph, torch: Graph, matches: Sequence[Match]
) -> dict[str, tuple[Match, ...]]:
    ours = _readers(keras, {each.keras.name for each in matches})
    theirs = _readers(torch, {each.torch.name for each in matches})
    found = {}
    for match in matches:
        named = ours.get(match.keras.name, set())
        readers = tuple(each for each in matches if each.keras.name in named)
        partners = {each.torch.name for each in readers}
        if len(readers) == len(named) and partners == theirs.get(match.torch.name, set()):
            found[match.keras.name] = readers
    return found


def _readers(graph: Graph, matched: Set[str]) -> dict[str, set[str]]:
    """By node, the matched nodes that read it, through such as only move numbers about; of what
    computes something and has no partner, its own name."""
    found: dict[str, set[str]] = {}
    for node in reversed(graph.nodes):
        known = node.name in matched or computes(node)
        reading = {node.name} if known else found.get(node.name, set())
        for name in node.inputs:
            found.setdefault(name, set()).update(reading)
    return found


def _alone(graph: Graph, known: Set[str]) -> tuple[Node, ...]:
    return tuple(n for n in graph.nodes if n.name not in known and computes(n))


def computes(node: Node) -> bool:
    """Whether a node does more than move numbers about; a pool of windows of one does not, nor a
    concatenation of one."""
    alone = _joins(node) and len(node.inputs) == 1
    if node.kind in ("average_pool", "max_pool"):
        alone = {*node.settings.get("size", ()), *node.settings.get("strides", ())} == {1}
    return node.kind not in MOVING and not alone


def _joins(node: Node) -> bool:
    return node.kind == "concatenate"


def _axis(node: Node) -> Any:
    return node.settings.get("axis")


def _only_reader(graph: Graph, node: Node) -> Node | None:
    """The one call that reads a node, if it is the only one and reads nothing else."""
    readers = [each for each in graph.nodes if node.name in each.inputs]
    alone = len(readers) == 1 and len(readers[0].inputs) == 1 and node.name not in graph.outputs
    return readers[0] if alone else None


def _commute(one: Node, other: Node) -> bool:
    kinds = {one.kind, other.kind}
    return len(kinds & {"max_pool", "global_max_pool"}) == 1 == len(kinds & set(MONOTONE))


def _family(kind: str) -> tuple[str, ...] | None:
    return next((family for family in FAMILIES if kind in family), None)


def _flattened(nodes: Mapping[str, Node], node: Node) -> tuple[int, int, int] | None:
    """The map, in the side's own order, whose numbers a vector holds one by one."""
    name = node.name
    while name in nodes and not name.startswith(INPUT):
        here = nodes[name]
        if len(here.shape) == 3:
            return (
                (here.shape[0], here.shape[1], here.shape[2])
                if max(here.shape) < math.prod(here.shape)
                else None
            )
        elementwise = here.kind in (*MOVING, *ACTIVATIONS, "batch_norm", "scale")
        if not elementwise or len(here.inputs) != 1:
            return None
        name = here.inputs[0]
    return None
