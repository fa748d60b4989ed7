"""Constants held in float32, in a run in float64. Its twin is `torch_impl/singles.py`.

Their rounding cannot be taken back. In a nudged run they are moved by one unit of float32's, so
that a floor covers it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_impl.parameters import named
from parity.check.trace import nudged_single


class Singles:
    """What is known of them in a trace; `notes` names them.

    A variable is one if it was made not to be trained, and is none of a batch norm's. So is a
    float32 array or tensor that meets what is computed (`met`).
    """

    def __init__(self, model: keras.Model | None = None, notes: list[str] | None = None) -> None:
        self.notes: list[str] = [] if notes is None else notes
        self.nudge = False
        self._variables = _constants(model) if model is not None else {}
        self._held: dict[int, str] = {}
        for layer in model._flatten_layers() if model is not None else ():
            for name, value in vars(layer).items():
                self._held.setdefault(id(value), f"{layer.name}.{name}")

    def nudged(self, variable: keras.Variable) -> bool:
        """Whether a variable is a constant, which is moved then."""
        name = self._variables.get(id(variable))
        if name is None:
            return False
        value = keras.ops.convert_to_numpy(variable.value).astype(str(variable.dtype))
        moved = nudged_single(value, value)
        if (moved == value).all():
            return False
        self._note(name)
        variable.assign(moved)
        return True

    def met(self, value: Any) -> np.ndarray | None:
        """By how much a float32 constant is to be moved in float64; None if it is not."""
        plain = np.asarray(value).astype(np.float64)
        moved = nudged_single(plain, plain)
        if (moved == plain).all():
            return None
        self._note(self._held.get(id(value), f"a tensor of shape {list(plain.shape)}"))
        return moved - plain if self.nudge else None

    def _note(self, name: str) -> None:
        note = f"{name} is held in float32: judged with float32's rounding of it"
        if note not in self.notes:
            self.notes.append(note)


_of_now = [Singles()]


@contextmanager
def noted(singles: Singles) -> Iterator[None]:
    """They are the ones at hand inside."""
    _of_now.append(singles)
    try:
        yield
    finally:
        _of_now.pop()


@contextmanager
def moved(nudge: bool) -> Iterator[None]:
    """Constants are moved inside, or not."""
    singles = now()
    before, singles.nudge = singles.nudge, nudge
    try:
        yield
    finally:
        singles.nudge = before


def now() -> Singles:
    return _of_now[-1]


def _constants(model: keras.Model) -> dict[int, str]:
    constant = {
        id(variable)
        for layer in model._flatten_layers()
        if not isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer._non_trainable_variables
    }
    owned = {name: each.variable for name, each in named(model).items()}
    return {id(each): name for name, each in owned.items() if id(each) in constant}
