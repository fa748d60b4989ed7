"""Watch a model run: every call of a layer or an operation, what it was given and what it gave.

A layer that is a node of its own is not looked into; the calls inside all others are nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import CodeType
from typing import Any
from unittest.mock import patch

import keras
import numpy as np

from keras_impl import kinds, raw_operations, rules
from keras_impl.failures import NOT_THE_USERS
from keras_impl.parameters import ROOT, Paths
from keras_impl.trail import Shape, Trail, dtype, floating, shape_of, tensors
from parity.check import builders
from parity.check.graph import Node, written


class Recorder:
    """Records while `with recorder.recording():` lasts; `trail` has what was seen."""

    def __init__(
        self,
        model: keras.Model,
        inputs: Sequence[Any],
        watch: Callable[[Any], None] = lambda tensor: None,
        begins: CodeType | None = None,
    ) -> None:
        """`inputs` are the tensors that the model will get; `watch` is told of every output. The
        lines of the user's code are noted as far as the code `begins`, which calls it."""

        def aside(tensor: Any) -> None:
            with self._mute():
                watch(tensor)

        self._paths = Paths(model)
        self._within: list[str] = []  # paths of the layers that are being looked into
        self._muted = False
        self.lines: dict[str, str] = {}  # by node
        self._begins = begins
        self.trail = Trail(inputs, self._paths.owned(), aside)

    @contextmanager
    def recording(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(raw_operations.heard(self._hear))
            for patched in self._patches():
                stack.enter_context(patched)
            yield

    def _patches(self) -> Iterator[Any]:
        layer_call = keras.layers.Layer.__call__
        operation_call = keras.Operation.__call__
        symbolic_call = keras.Operation.symbolic_call

        def call_layer(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return self._layer(layer, lambda: layer_call(layer, *args, **kwargs), args, kwargs)

        def call_operation(operation: Any, *args: Any, **kwargs: Any) -> Any:
            def original() -> Any:
                return operation_call(operation, *args, **kwargs)

            if isinstance(operation, keras.layers.Layer):
                return original()
            return self._operation(operation, original, args, kwargs)

        def call_symbolically(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if _symbolic(args, kwargs):
                return symbolic_call(operation, *args, **kwargs)
            return self._operation(operation, lambda: operation.call(*args, **kwargs), args, kwargs)

        yield patch.object(keras.layers.Layer, "__call__", call_layer)
        yield patch.object(keras.Operation, "__call__", call_operation)
        yield patch.object(keras.Operation, "symbolic_call", call_symbolically)

        # A function of keras.ops makes an operation of itself when it is given symbolic tensors,
        # and computes at once when not: it is told that what is followed is symbolic.
        def follows(args: Any = None, kwargs: Any = None) -> bool:
            given = (args or (), kwargs or {})
            return _symbolic(*given) or bool(not self._off and self.trail.sources(*given))

        for name, module in list(sys.modules.items()):
            asks = name.startswith("keras.src.ops.") and name != "keras.src.ops.operation"
            if (asks or name == "keras.src.backend") and hasattr(module, "any_symbolic_tensors"):
                yield patch.object(module, "any_symbolic_tensors", follows)

    # Layers

    def _layer(self, layer: Any, original: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        if self._off or _symbolic(args, kwargs):
            return original()
        path = self._paths.of(layer, self._here)
        owner = path if layer.weights else ""
        if not kinds.is_unit(layer):
            parent = kinds.parent_of(layer)
            if parent is not None:
                return self._subclass(layer, parent, path, original, (args, kwargs), owner)
            with self._looking_into(path):
                return original()
        describe = kinds.of_layer(layer)
        if describe is None:
            return self._unknown(original, type(layer).__name__, path, (args, kwargs), owner)
        if isinstance(layer, keras.layers.Activation) and not rules.of_function(layer.activation):
            name = rules.name_of(layer.activation)
            return self._unknown(original, name, path, (args, kwargs), owner)
        return self._known(layer, describe, path, original, (args, kwargs), owner)

    def _subclass(
        self,
        layer: Any,
        parent: Any,
        path: str,
        original: Callable[[], Any],
        given: Any,
        owner: str,
    ) -> Any:
        """A class of the user's own that is a kind of a known layer. Where it calls `super().call`,
        that is a call of the known one; what it computes with its weights by hand is one node."""
        call, own = parent.call, type(layer).call is not parent.call
        rule, reached = kinds.LAYERS[parent], False

        def heard(called: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal reached

            def plain() -> Any:
                return call(called, *args, **kwargs)

            if called is not layer or self._off:
                return plain()
            reached = True
            return self._known(layer, rule, path, plain, (args, kwargs), owner)

        sources, mark, before = self.trail.named_sources(given), self.trail.mark(), shape_of(given)
        with ExitStack() as stack:
            stack.enter_context(self._looking_into(path))
            if own:
                stack.enter_context(patch.object(parent, "call", heard))
            output = original()
        by_hand = any(owner and node.layer == owner for node in self.trail.nodes[mark[0] :])
        if reached or not by_hand:
            return output
        self.trail.back(mark)
        kind, settings = _described(rule, layer, before, shape_of(output))
        settings = {**settings, "dtype": layer.compute_dtype}
        return self._keep(self.trail.unique(path), kind, sources, output, owner, settings)

    def _known(
        self,
        layer: Any,
        describe: rules.Rule,
        path: str,
        original: Callable[[], Any],
        given: Any,
        owner: str,
    ) -> Any:
        sources, before = self.trail.named_sources(given), shape_of(given)
        name, ended = self.trail.unique(path), False

        def end(output: Any) -> Any:
            kind, settings = _described(describe, layer, before, shape_of(output))
            settings = {**settings, "dtype": layer.compute_dtype}
            return self._keep(name, kind, sources, output, owner, settings)

        if not rules.fused(layer):
            with self._mute():
                output = original()
            return end(output)
        activation = layer.activation

        def activate(x: Any) -> Any:
            nonlocal ended
            ended = True
            return self._activate(activation, end(x), path)

        # Not by assignment, which Keras watches.
        with patch.dict(vars(layer), activation=activate), self._mute():
            output = original()
        return output if ended else end(output)

    def _activate(self, activation: Any, x: Any, path: str) -> Any:
        name, owner = f"{path}/activation", ""
        described = rules.of_function(activation)
        if described is None and isinstance(activation, keras.layers.Layer):
            rule, shape = kinds.of_layer(activation), shape_of(x)
            described = _described(rule, activation, shape, shape) if rule else None
            owner = self._paths.of(activation) if activation.weights else ""
        if described is None:
            with self._mute(False):
                called = rules.name_of(activation)
                return self._unknown(lambda: activation(x), called, name, (x,), owner)
        kind, settings = described
        settings = {**settings, "dtype": dtype(x)}
        sources = self.trail.sources(x)
        return self._keep(self.trail.unique(name), kind, sources, activation(x), owner, settings)

    def _unknown(
        self, original: Callable[[], Any], called: str, path: str, given: Any, owner: str
    ) -> Any:
        """What turns out to be one known operation is that one; all else is one node, `other`."""
        sources, mark = self.trail.named_sources(given), self.trail.mark()
        with self._looking_into(path):
            output = original()
        found = tensors(output)
        last = self.trail.producer(found[0]) if found else None
        inside = self.trail.back(mark)
        kind, settings = f"other:{called}", {"dtype": dtype(output)}
        if len(inside) == 1 and inside[0].name == last and not inside[0].kind.startswith("other:"):
            node = inside[0]
            if node.kind == "scale" or not owner:
                kept = ("operation", "parameter", "trainable")  # of a parameter with no layer
                settings = {k: v for k, v in node.settings.items() if k not in kept}
                kind = node.kind
        name = self.trail.unique(path)
        if line := next((self.lines[n.name] for n in inside if n.name in self.lines), ""):
            self.lines[name] = line  # where the first of what it computes is
        return self._keep(name, kind, sources, output, owner, settings)

    # Operations

    def _operation(
        self, operation: Any, original: Callable[[], Any], args: Any, kwargs: Any
    ) -> Any:
        called = type(operation).__name__
        if not self._off:
            given = (*args, *kwargs.values())
            self.trail.note_uses(called, given, vars(operation))
        followed = not self._off and self.trail.sources(args, kwargs)
        if not followed or called in kinds.PASSING or _symbolic(args, kwargs):
            return original()
        with self._mute():
            output = original()
        if not tensors(output):
            return output
        kind, settings = _described(
            kinds.of_operation, operation, shape_of(args, kwargs), shape_of(output)
        )
        graph = bool(operation._inbound_nodes)  # of a functional model: it has a name of its own
        name = self._below(operation.name if graph else rules.snake(called), graph)
        numbers = [_number(each) for each in (*args, *kwargs.values())]
        pieces = called in kinds.PIECES
        return self._function(name, kind, settings, (args, kwargs), numbers, output, pieces)

    def _hear(
        self, called: str, inputs: tuple[Any, ...], attributes: Any, outputs: tuple[Any, ...]
    ) -> None:
        """Of an operation of TensorFlow."""
        if self._muted or not outputs:
            return
        sources, bare = self.trail.sources(inputs), self.trail.bare(inputs)
        if bare is not None and not sources and called in raw_operations.STANDING:
            self.trail.stand(outputs[0], bare)
        elif bare is not None and not sources and raw_operations.turns(called, inputs):
            self.trail.stand(outputs[0], replace(bare, turned=not bare.turned))
        elif bare is not None:
            self.trail.note_uses(called, inputs, attributes)
        kept = all(map(floating, outputs)) or not any(map(floating, inputs))
        if not sources or not kept or called in raw_operations.BLIND:
            return
        if called in raw_operations.PASSING:
            self.trail.follow(outputs[0], sources[0])
            return
        kind = raw_operations.KINDS.get(called, f"other:{rules.snake(called)}")
        if kind == "reshape":
            kind, _ = rules.reshape(None, shape_of(inputs), shape_of(outputs))
        known = [self.trail.producer(each) or self.trail.bare(each) for each in inputs]
        numbers = [
            None if told else _number(each) for each, told in zip(inputs, known, strict=True)
        ]
        name = self._below(kind.removeprefix("other:"))
        pieces = called in raw_operations.PIECES
        self._function(name, kind, {}, inputs, numbers, list(outputs), pieces, ours=False)

    def _function(
        self,
        name: str,
        kind: str,
        settings: dict[str, Any],
        given: Any,
        numbers: Sequence[float | None],
        output: Any,
        pieces: bool,
        ours: bool = True,
    ) -> Any:
        """A node of a function: with a number a rescale, with a bare parameter a scale."""
        bare, owner = self.trail.bare(given), ""
        if kind == "concatenate":
            sources, bare = self.trail.named_sources(given), None
        else:
            sources = self.trail.sources(given)
        if bare is not None:
            owner = bare.layer
            if kind in rules.ARITHMETIC:
                operation = kind.removeprefix("other:")
                kind, settings = "scale", {"operation": operation, "parameter": bare.role}
                name = self._below(bare.role)
        else:
            kind, settings = rules.rescaled(kind, numbers) or (kind, settings)
        if pieces:
            parts = tensors(output)
            for at, part in enumerate(parts):
                more = {"output": at, "of": len(parts), "dtype": dtype(part)}
                own = self.trail.unique(name)
                self._keep(own, "select", sources, part, "", more, loose=True, ours=False)
            return output
        settings = {**settings, "dtype": dtype(output)}
        own = self.trail.unique(name)
        return self._keep(own, kind, sources, output, owner, settings, loose=True, ours=ours)

    def _keep(
        self,
        name: str,
        kind: str,
        sources: Sequence[str],
        output: Any,
        owner: str,
        settings: dict[str, Any],
        loose: bool = False,
        ours: bool = True,
    ) -> Any:
        """Take in a node. Returns its output, in tensors of its own, where they are `ours` to
        choose: a dropout that is off gives back what it got."""

        def own(value: Any) -> Any:
            known = keras.ops.is_tensor(value) and self.trail.producer(value) is not None
            return raw_operations.copy(value) if known else value

        if ours:
            with self._mute():
                output = keras.tree.map_structure(own, output)
        if owner:
            self.trail.note_layer(owner)
            settings = {**settings, "trainable": self.trail.trainable.get(owner, False)}
        if self._begins and (line := builders.line(NOT_THE_USERS, self._begins)):
            self.lines[name] = line
        node = Node(name, kind, tuple(sources), shape_of(output)[1:], owner, settings)
        self.trail.note(node, tensors(output), loose)
        return output

    # Where we are

    @property
    def _off(self) -> bool:
        return self._muted or not raw_operations.eager()

    @property
    def _here(self) -> str:
        return self._within[-1] if self._within else ROOT

    def _below(self, name: str, graph: bool = False) -> str:
        """A node of a functional model's graph has a name like a layer's."""
        return name if graph and self._here == ROOT else f"{self._here}/{name}"

    @contextmanager
    def _looking_into(self, path: str) -> Iterator[None]:
        self._within.append(path)
        try:
            yield
        finally:
            self._within.pop()

    @contextmanager
    def _mute(self, muted: bool = True) -> Iterator[None]:
        before, self._muted = self._muted, muted
        try:
            yield
        finally:
            self._muted = before


def _described(rule: rules.Rule, called: Any, before: Shape, after: Shape) -> rules.Described:
    """Kind and settings. An attribute of a user's class may say anything: what cannot be read so
    is known by its class alone."""
    try:
        kind, settings = rule(called, before, after)
        return kind, written(settings)
    except Exception:
        return f"other:{type(called).__name__}", {}


def _symbolic(*given: Any) -> bool:
    return any(keras.utils.is_keras_tensor(each) for each in keras.tree.flatten(given))


def _number(value: Any) -> float | None:
    """Of a number, also of one in a tensor; None of all else."""
    if isinstance(value, bool | str | keras.Variable) or value is None:
        return None
    if isinstance(value, int | float | np.number):
        return float(value)
    plain = keras.ops.is_tensor(value) and value.shape == () and "int" not in str(value.dtype)
    return float(value) if plain and floating(value) else None
