"""Make float64 mean float64.

TensorFlow and Keras pass some constants through float32 on their way into a float64 computation
(Adam's betas, the 0.044715 of GELU, the scale of attention scores, the slope of a leaky ReLU, which
is a float32 attribute of TensorFlow's operation): a relative error of 1e-8, which a faithful port
would be blamed for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import keras
import numpy as np

from keras_impl import singles


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Keras computes in `name`, float64 or float32, inside; its settings are put back after."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)
    try:
        with exact_constants() if name == "float64" else ExitStack():
            yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


@contextmanager
def exact_constants() -> Iterator[None]:
    """No number passes through float32 inside. Other backends than TensorFlow: no change.

    Types that are written into a model, of a layer, a variable, a cast or a constant, are read as
    float64 where they say float32.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf
    from keras.src import dtype_policies
    from keras.src.backend.common import variables
    from keras.src.backend.tensorflow import nn
    from tensorflow.python.ops import math_ops

    from keras_impl.resizing import exact_resizing

    inner_cast, policy_of, dtype_of = math_ops.cast, dtype_policies.get, variables.standardize_dtype

    def cast(x: Any, dtype: Any, name: str | None = None) -> Any:
        dtype = _wide(dtype)
        if dtype.is_floating and _numbers(x):
            return double(x, dtype)
        made = inner_cast(x, dtype, name=name)
        single = dtype == tf.float64 and getattr(x, "dtype", None) == tf.float32
        return met(x, made) if single else made

    def cast_number(x: Any, dtype: Any, name: str | None = None) -> Any:
        if isinstance(x, float) and tf.as_dtype(dtype).is_floating:
            return constant(x, dtype)
        return inner_cast(x, dtype, name=name)

    def met(x: Any, made: Any) -> Any:
        """A float32 number in float64: a constant, or what TensorFlow computes in float32."""
        off = singles.now().met(x) if _has_numbers(x) else None
        return made if off is None else made + constant(off, made.dtype)

    def double(x: Any, dtype: Any = None, made_by: Any = tf.convert_to_tensor) -> Any:
        """As a tensor, of `dtype` if there is one."""
        if isinstance(x, np.ndarray | np.generic) and x.dtype == np.float32:
            made = made_by(x, dtype or tf.float64)
            return met(x, made) if made.dtype == tf.float64 else made
        if dtype is None and _numbers(x):
            dtype = tf.float64
        made = made_by(x, dtype)
        return cast(made, tf.float64) if made.dtype == tf.float32 else made

    def leaky_relu(x: Any, negative_slope: float = 0.2) -> Any:
        x = tf.convert_to_tensor(x)
        return tf.where(x > 0, x, constant(negative_slope, x.dtype) * x)

    def policy(identifier: Any) -> Any:
        found = policy_of(identifier)
        single = "float" in str(found.compute_dtype) and found.compute_dtype != "float64"
        plain = type(found) is keras.dtype_policies.DTypePolicy
        return policy_of("float64") if plain and single else found

    constant = tf.constant
    with ExitStack() as stack:
        stack.enter_context(exact_resizing())
        for place, name, new in (
            (tf, "cast", cast),  # as Keras calls it, and a user
            (math_ops, "cast", cast_number),  # as TensorFlow itself does
            (nn, "leaky_relu", leaky_relu),
            (dtype_policies, "get", policy),
            (variables, "standardize_dtype", lambda dtype: _wide(dtype_of(dtype)).name),
            (tf, "constant", _converting(tf.constant, double)),
            (tf, "convert_to_tensor", _converting(tf.convert_to_tensor, double)),
            *((tf, name, _of_double(getattr(tf, name), "float32")) for name in OF_SINGLE),
            (tf, "range", _of_double(tf.range)),
        ):
            stack.enter_context(patch.object(place, name, new))
        yield


# Functions of TensorFlow that make tensors of float32 unless they are told otherwise.
OF_SINGLE = ("zeros", "ones", "eye", "one_hot")


def _wide(dtype: Any) -> Any:
    """TensorFlow's type of what may be said in many ways; float64 for float32."""
    import tensorflow as tf

    found = tf.as_dtype(dtype)
    return tf.float64 if found == tf.float32 else found


def _numbers(x: Any) -> bool:
    """Whether it is a floating number of Python's or NumPy's own, or nested ones, alone."""
    if isinstance(x, np.ndarray | np.generic):
        return bool(x.dtype.kind == "f")
    if isinstance(x, list | tuple):
        flat = keras.tree.flatten(x)
        plain = all(isinstance(each, int | float | np.floating) for each in flat)
        return plain and any(isinstance(each, float | np.floating) for each in flat)
    return isinstance(x, float)


def _converting(original: Any, double: Callable[..., Any]) -> Any:
    def convert(value: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        def made_by(x: Any, dtype: Any = None) -> Any:
            return original(x, dtype, *args, **kwargs)

        return double(value, None if dtype is None else _wide(dtype), made_by)

    return convert


def _of_double(original: Any, otherwise: str | None = None) -> Any:
    """`otherwise`: the type of what it makes where none is said."""
    signature = inspect.signature(original)

    def make(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        said = given.get("dtype") or (None if "on_value" in given else otherwise)
        return original(**given | ({"dtype": _wide(said)} if said else {}))

    return make


def _has_numbers(x: Any) -> bool:
    """Not what stands for a tensor while a graph is built."""
    return isinstance(x, np.ndarray | np.generic) or hasattr(x, "numpy")
