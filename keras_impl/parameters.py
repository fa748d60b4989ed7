"""Where a model's layers and variables stand: paths, roles, and unique names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np

from keras_impl.kinds import owns_all
from keras_impl.rules import fused
from parity.check.graph import Parameter


@dataclass(frozen=True)
class Owned:
    """A variable, the path of the layer that owns it, and what it is there; `turned` where its last
    two axes were exchanged on the way to what stands for it."""

    variable: keras.Variable
    layer: str
    role: str
    turned: bool = False


ROOT = "self"  # the model, where it owns variables itself or calls functions


class Paths:
    """The path of every layer from the model down, `encoder/dense1`; of the model itself: `self`.

    Layers of the same name beside each other get `~2`, `~3`, …; a layer in several places has the
    path of the first.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._paths = {id(model): ROOT}
        self.layers = [model]
        self._walk(model, "")

    def _walk(self, parent: keras.layers.Layer, path: str) -> None:
        taken: Counter[str] = Counter()
        for layer in children(parent):
            if id(layer) in self._paths:
                continue
            taken[layer.name] += 1
            own = layer.name if taken[layer.name] == 1 else f"{layer.name}~{taken[layer.name]}"
            own = f"{path}/{own}" if path else own
            activation = getattr(layer, "activation", None)
            if fused(layer) and isinstance(activation, keras.layers.Layer):
                self._add(activation, f"{own}/activation")  # before its owner: see `owned`
            self._add(layer, own)
            if not owns_all(layer):
                self._walk(layer, own)

    def _add(self, layer: keras.layers.Layer, path: str) -> None:
        self._paths[id(layer)] = path
        self.layers.append(layer)

    def of(self, layer: keras.layers.Layer, within: str = "") -> str:
        """`within` is where a layer stands that the model does not know of."""
        own = f"{within}/{layer.name}" if within not in ("", ROOT) else str(layer.name)
        return self._paths.get(id(layer), own)

    def owned(self) -> list[Owned]:
        """Every variable once, without the states of random generators and metrics."""
        found: dict[int, Owned] = {}
        for layer in self.layers:
            unit = owns_all(layer)
            for variable in layer.weights if unit else _own(layer):
                role = _role(layer, variable) if unit else variable.name
                found.setdefault(id(variable), Owned(variable, self.of(layer), role))
        for variable in self.model.weights:  # in case one hides where no layer is looked for
            found.setdefault(id(variable), Owned(variable, ROOT, variable.name))
        return list(found.values())


def children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    found = layer.layers if isinstance(layer, keras.Model) else layer._layers
    return [each for each in found if not isinstance(each, keras.layers.InputLayer)]


def _own(layer: keras.layers.Layer) -> list[keras.Variable]:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _role(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    """`kernel`; of what is further inside `query/kernel`, `forward/kernel`."""
    return next((role for each, role in _roles(layer) if each is variable), str(variable.name))


def _roles(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[keras.Variable, str]]:
    for variable in _own(layer):
        yield variable, prefix + variable.name
    for inner in layer._layers:
        yield from _roles(inner, prefix + _prefix(layer, inner))


def _prefix(layer: keras.layers.Layer, inner: keras.layers.Layer) -> str:
    if inner is getattr(layer, "forward_layer", None):
        return "forward/"
    if inner is getattr(layer, "backward_layer", None):
        return "backward/"
    if inner in (getattr(layer, "cell", None), getattr(layer, "layer", None)):
        return ""  # of a recurrent layer, of a wrapper
    return f"{inner.name}/"


def named(model: keras.Model) -> dict[str, Owned]:
    """The model's variables by unique names: their paths, or where a path occurs twice (layers of
    nested models may have the same name) the layer's path from the model down and the role."""
    owned = Paths(model).owned()
    paths = Counter(each.variable.path for each in owned)
    names: dict[str, Owned] = {}
    for each in owned:
        path = each.variable.path
        name = wanted = path if paths[path] == 1 else f"{each.layer}/{each.role}"
        number = 1
        while name in names:
            number += 1
            name = f"{wanted}#{number}"
        names[name] = each
    return names


def parameters(model: keras.Model) -> tuple[Parameter, ...]:
    """As `parity.check.graph` has them."""
    trained = {id(variable) for variable in model.trainable_weights}
    return tuple(
        Parameter(
            name=name,
            layer=each.layer,
            role=each.role,
            shape=tuple(each.variable.shape),
            dtype=str(each.variable.dtype),
            trained=id(each.variable) in trained,
        )
        for name, each in named(model).items()
    )


def values(model: keras.Model) -> dict[str, np.ndarray]:
    """Copies of all parameters by name, in their own dtype."""
    return {name: array_of(each.variable) for name, each in named(model).items()}


def array_of(variable: keras.Variable) -> np.ndarray:
    """A copy of what a variable holds."""
    return own(keras.ops.convert_to_numpy(variable))


def own(value: np.ndarray) -> np.ndarray:
    """A copy, unless it is one already: backends differ."""
    return value if value.flags.owndata and value.flags.writeable else value.copy()


def settle(model: keras.Model) -> None:
    """Call it after variables were set: a `Normalization` computes with copies of its own, and
    what a recurrent layer keeps from batch to batch is of other weights."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
        elif getattr(layer, "stateful", False) and hasattr(layer, "reset_state"):
            layer.reset_state()
