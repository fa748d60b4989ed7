"""Make float64 mean float64.

TensorFlow and Keras pass some constants through float32 on their way into a float64 computation
(Adam's betas, the 0.044715 of GELU, the scale of attention scores, the slope of a leaky ReLU, which
is a float32 attribute of TensorFlow's operation): a relative error of 1e-8, which a faithful port
would be blamed for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import keras


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
    """No Python float passes through float32 inside. Other backends than TensorFlow: no change."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf
    from keras.src.backend.tensorflow import nn
    from tensorflow.python.ops import math_ops

    original = tf.cast

    def cast(x: Any, dtype: Any, name: str | None = None) -> Any:
        if isinstance(x, float) and tf.as_dtype(dtype).is_floating:
            return tf.constant(x, dtype)
        return original(x, dtype, name=name)

    def leaky_relu(x: Any, negative_slope: float = 0.2) -> Any:
        x = tf.convert_to_tensor(x)
        return tf.where(x > 0, x, tf.constant(negative_slope, x.dtype) * x)

    with (
        patch.object(tf, "cast", cast),  # as Keras calls it
        patch.object(math_ops, "cast", cast),  # as TensorFlow itself does
        patch.object(nn, "leaky_relu", leaky_relu),
    ):
        yield
