"""Record every random draw of a run. Its twin, `torch_impl/randomness.py`, is fed the same.

Whatever a model asks for its numbers (layers of Keras, `keras.random`, `tf.random`, `tf.nn`) ends
in a few generated functions of TensorFlow, which are replaced for the while.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import keras
import numpy as np
from keras.src.random.seed_generator import global_seed_generator

from parity.check.randomness import NORMAL, UNIFORM, Draw, Draws, Numbers, seeded

_FED = {
    "random_uniform": UNIFORM,
    "random_standard_normal": NORMAL,
    "stateless_random_uniform": UNIFORM,
    "stateless_random_uniform_v2": UNIFORM,
    "stateless_random_normal": NORMAL,
    "stateless_random_normal_v2": NORMAL,
    "stateful_uniform": UNIFORM,
    "stateful_standard_normal_v2": NORMAL,
}
_INTEGERS = ("random_uniform_int", "stateless_random_uniform_int_v2")
_RANDOM = re.compile(r"(?!_|.*eager).*(uniform|normal|gamma|poisson|binomial|multinomial|shuffle)")


@contextmanager
def recorded(seed: int) -> Iterator[Draws]:
    """Draws inside come from one generator, and are kept in order.

    Other backends than TensorFlow: nothing is caught, and that is noted as `uncaught`.
    """
    draws = Draws()
    global_seed_generator()  # made now, as it asks Python's own generator for a seed
    with seeded(seed, draws.uncaught), ExitStack() as stack:
        if keras.backend.backend() == "tensorflow":
            _Recorder(draws, Numbers(seed)).enter(stack)
        else:
            draws.uncaught.append(f"whatever the backend {keras.backend.backend()} draws")
        yield draws


class _Recorder:
    def __init__(self, draws: Draws, numbers: Numbers) -> None:
        self._draws, self._numbers = draws, numbers
        self._calls: list[tuple[Any, list[Any]]] = []  # layers, and what each got
        self._dropped: list[tuple[Any, Any]] = []  # of dropouts: what they got, their rate

        self._building = 0

    def enter(self, stack: ExitStack) -> None:
        import tensorflow as tf
        from tensorflow.python.ops import (
            gen_random_ops,
            gen_stateful_random_ops,
            gen_stateless_random_ops,
            gen_stateless_random_ops_v2,
            nn_ops,
        )

        compiled = not tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        stack.callback(tf.config.run_functions_eagerly, not compiled)
        for module in (
            gen_random_ops,
            gen_stateful_random_ops,
            gen_stateless_random_ops,
            gen_stateless_random_ops_v2,
        ):
            for name, function in vars(module).copy().items():
                if _RANDOM.match(name) and callable(function):
                    stack.enter_context(patch.object(module, name, self._instead(name, function)))
        stack.enter_context(patch.object(nn_ops, "_dropout", self._dropout(nn_ops._dropout)))
        layer = keras.layers.Layer
        for name, instead in (("__call__", self._called), ("_maybe_build", self._built)):
            stack.enter_context(patch.object(layer, name, instead(getattr(layer, name))))

    def _instead(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        import tensorflow as tf
        from tensorflow.python.framework import constant_op

        def draw(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if self._building:  # first weights
                return result
            if (name not in _FED and name not in _INTEGERS) or not tf.executing_eagerly():
                self._draws.uncaught.append(f"{self._place}: {name}")
                return result
            numbers = self._draw(_FED.get(name, UNIFORM), tuple(result.shape))
            if name in _INTEGERS:
                given = dict(zip(("shape", "minval", "maxval"), args, strict=False), **kwargs)
                low, high = (np.asarray(given[end], np.float64) for end in ("minval", "maxval"))
                numbers = np.floor(low + numbers * (high - low))
            # In the type that was asked for, also where float32 is overruled elsewhere.
            return constant_op.constant(numbers, result.dtype)

        return draw

    def _draw(self, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        rate, meant = None, self._calls[-1][1] if self._calls else []
        if self._dropped:
            dropped, rate = self._dropped[-1]
            meant, rate = [dropped], float(rate)
        elif self._calls and isinstance(self._calls[-1][0], keras.layers.AlphaDropout):
            rate = float(self._calls[-1][0].rate)
        fitting = [np.asarray(each) for each in meant if _fits(shape, tuple(each.shape))]
        numbers = self._numbers.drawn(kind, shape)
        self._draws.events.append(Draw(kind, numbers, self._place, rate, fitting))
        return numbers

    @property
    def _place(self) -> str:
        if not self._calls:
            return "the model"
        layer = self._calls[-1][0]
        return str(layer.path or layer.name)

    def _dropout(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def dropout(x: Any, rate: Any, *args: Any, **kwargs: Any) -> Any:
            self._dropped.append((x, rate))
            try:
                return function(x, rate, *args, **kwargs)
            finally:
                self._dropped.pop()

        return dropout

    def _built(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def build(*args: Any, **kwargs: Any) -> Any:
            self._building += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._building -= 1

        return build

    def _called(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            given = keras.tree.flatten([args, kwargs])
            floating = [
                each
                for each in given
                if keras.ops.is_tensor(each) and "float" in str(each.dtype) and _real(each)
            ]
            self._calls.append((layer, floating))
            try:
                return function(layer, *args, **kwargs)
            finally:
                self._calls.pop()

        return call


def _real(tensor: Any) -> bool:
    return hasattr(tensor, "numpy")


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether a draw of this shape can be applied to a tensor of that one."""
    return len(shape) == len(whole) and all(
        side in (1, full) for side, full in zip(shape, whole, strict=True)
    )
