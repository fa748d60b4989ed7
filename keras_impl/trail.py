"""Which tensor came from which call: nodes as they are made, and tensors followed by identity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_impl import raw_operations
from keras_impl.parameters import Owned
from parity.check.graph import INPUT, Node

Shape = tuple[int, ...]


class Trail:
    """All tensors are kept while it lives, so that no identity is given twice.

    Attributes:
        nodes: in the order of the calls.
        tensors: the output of each node; of several, the first.
        loose: nodes of functions, not of layers.
        uses: how each variable is used first (`Graph.semantics`), and at which node, by identity.
    """

    def __init__(
        self, inputs: Iterable[Any], owned: Iterable[Owned], watch: Callable[[Any], None]
    ) -> None:
        self.nodes: list[Node] = []
        self.tensors: dict[str, Any] = {}
        self.loose: set[str] = set()
        self.uses: dict[int, tuple[str, int]] = {}
        self.trainable: dict[str, bool] = {}  # of layers with parameters
        self._watch = watch
        self._producers: dict[int, str] = {}
        self._standing: dict[int, Owned] = {}  # what stands for a variable: itself, a read of it
        self._alive: list[Any] = []
        self._calls: Counter[str] = Counter()
        for at, tensor in enumerate(inputs):
            self.follow(tensor, f"{INPUT}{at}")
        self._owned = list(owned)
        for each in self._owned:
            was = self.trainable.get(each.layer, False)
            self.trainable[each.layer] = was or bool(each.variable.trainable)
            for stands in (each.variable, raw_operations.handle(each.variable)):
                self.stand(stands, each)

    def producer(self, tensor: Any) -> str | None:
        """The node, or the input, that a tensor came from."""
        return self._producers.get(id(tensor))

    def sources(self, *given: Any) -> list[str]:
        """The producers of all tensors in nested arguments, in order."""
        found = [self.producer(each) for each in tensors(*given)]
        return [name for name in found if name is not None]

    def follow(self, tensor: Any, name: str) -> None:
        self._producers[id(tensor)] = name
        self._alive.append(tensor)

    def stand(self, tensor: Any, owned: Owned) -> None:
        self._standing[id(tensor)] = owned
        self._alive.append(tensor)

    def bare(self, *given: Any) -> Owned | None:
        """The first variable among arguments, or the one that a tensor among them stands for."""
        flat = keras.tree.flatten(given)
        return next((self._standing[id(each)] for each in flat if id(each) in self._standing), None)

    def note_uses(self, called: str, given: Sequence[Any], settings: Mapping[str, Any]) -> None:
        """That an operation was given variables among its arguments."""
        for at, each in enumerate(keras.tree.flatten(list(given))):
            owned = self._standing.get(id(each))
            if owned is not None:
                how = raw_operations.use(called, at, settings, owned.turned)
                known = self.uses.get(id(owned.variable), ("", 0))
                self.uses[id(owned.variable)] = known if known[0] else (how, len(self.nodes))

    def note_layer(self, path: str) -> None:
        """That a layer was called: all its variables are used."""
        for each in self._owned:
            if each.layer == path:
                self.uses.setdefault(id(each.variable), ("", len(self.nodes)))

    def named_sources(self, *given: Any) -> list[str]:
        """As `sources`, but what stands for a variable becomes a node of its own."""
        names = []
        for each in keras.tree.flatten(given):
            owned = self._standing.get(id(each))
            if self.producer(each) is None and owned is not None:
                name = self.unique(f"{owned.layer}/{owned.role}")
                settings = {"parameter": owned.role, "trainable": self.trainable[owned.layer]}
                shape = tuple(int(side) for side in each.shape[1:])
                self.nodes.append(Node(name, "scale", (), shape, owned.layer, settings))
                self.follow(each, name)
                if keras.ops.is_tensor(each):
                    self.tensors[name] = each
                    self._watch(each)
            if self.producer(each) is not None:
                names.append(self._producers[id(each)])
        return names

    def unique(self, wanted: str) -> str:
        """`wanted`, or from the second call on `wanted#2`."""
        self._calls[wanted] += 1
        return wanted if self._calls[wanted] == 1 else f"{wanted}#{self._calls[wanted]}"

    def note(self, node: Node, given: Sequence[Any], loose: bool = False) -> None:
        """Take in a node that gave these tensors; those after the first are nodes of their own."""
        for at, tensor in enumerate(given):
            each = node
            if at:
                settings = {"output": at, "dtype": dtype(tensor)}
                shape = tuple(int(side) for side in tensor.shape[1:])
                each = Node(f"{node.name}/output{at}", "select", (node.name,), shape, "", settings)
            if at or loose:
                self.loose.add(each.name)
            self.nodes.append(each)
            self.follow(tensor, each.name)
            self.tensors[each.name] = tensor
            if floating(tensor):
                self._watch(tensor)

    def mark(self) -> tuple[int, Counter[str]]:
        return len(self.nodes), self._calls.copy()

    def back(self, mark: tuple[int, Counter[str]]) -> list[Node]:
        """Forget all since `mark` was taken. Returns the nodes that are gone."""
        start, self._calls = mark
        self.uses = {own: (how, min(at, start)) for own, (how, at) in self.uses.items()}
        gone = self.nodes[start:]
        del self.nodes[start:]
        names = {node.name for node in gone}
        self._producers = {k: name for k, name in self._producers.items() if name not in names}
        for name in names:
            self.tensors.pop(name, None)
        return gone

    def leading_out(self, outputs: Iterable[str]) -> list[Node]:
        """All layers' calls, and the functions that lead to one or to an output."""
        read, kept = set(outputs), []
        for node in reversed(self.nodes):
            if node.name in read or node.name not in self.loose:
                kept.append(node)
                read.update(node.inputs)
        return kept[::-1]


def tensors(*given: Any) -> list[Any]:
    return [each for each in keras.tree.flatten(given) if keras.ops.is_tensor(each)]


def shape_of(*given: Any) -> Shape:
    """Of the first tensor, with the batch."""
    found = tensors(*given)
    return tuple(int(side) for side in found[0].shape) if found else ()


def dtype(*given: Any) -> str:
    """Of the first tensor."""
    found = tensors(*given)
    return str(keras.backend.standardize_dtype(found[0].dtype)) if found else ""


def floating(tensor: Any) -> bool:
    """Also of what is no tensor, such as the handle of a variable: it is not."""
    return "float" in str(tensor.dtype)
