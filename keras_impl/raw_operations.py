"""Follow tensors through TensorFlow's own operations: what a model computes outside of any layer.

`x + y`, `x[:, 0]`, `tf.nn.relu(x)` in a subclassed model call no layer and no operation of Keras.
TensorFlow tells a callback of every operation that it executes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras

# What hands on what it got: no node, unless types tell that it is something else.
PASSING = ("Identity", "Cast", "Snapshot", "StopGradient", "PreventGradient", "EnsureShape")
# What looks at a tensor's form alone.
BLIND = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")
RESHAPING = ("Reshape", "ExpandDims", "Squeeze")
# What is made so of a bare parameter alone still stands for it.
STANDING = ("ReadVariableOp", "BroadcastTo", "Tile", *PASSING, *RESHAPING)
PIECES = ("Split", "SplitV", "Unpack")
KINDS = {
    **dict.fromkeys(RESHAPING, "reshape"),
    **dict.fromkeys(("Add", "AddV2", "AddN", "BiasAdd"), "add"),
    **dict.fromkeys(("Div", "RealDiv"), "other:divide"),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2"), "other:matmul"),
    **dict.fromkeys(("StridedSlice", "Slice", "GatherV2", "ResourceGather", *PIECES), "select"),
    **{"Sub": "subtract", "Mul": "multiply", "ConcatV2": "concatenate", "Pack": "other:stack"},
    **{"Transpose": "permute", "Mean": "mean", "Max": "max", "Softmax": "softmax"},
    "Pow": "other:power",
    **{name: name.lower() for name in ("Relu", "Relu6", "Selu", "Sigmoid", "Tanh", "Softplus")},
}

MATRICES = ("MatMul", "BatchMatMul", "BatchMatMulV2", "Matmul", "Dot")
CONVOLUTIONS = ("Conv2D", "Conv3D", "Conv", "ConvTranspose", "Conv2DBackpropInput")
GATHERING = ("GatherV2", "ResourceGather", "Take", "Gather")
ADDING = ("Add", "AddV2", "BiasAdd", "Sub", "Subtract")
MULTIPLYING = ("Mul", "Multiply", "Div", "RealDiv", "Divide", "TrueDivide")

Heard = Callable[[str, tuple[Any, ...], dict[str, Any], tuple[Any, ...]], None]
_told: list[Heard] = []  # those who listen


@contextmanager
def heard(tell: Heard) -> Iterator[None]:
    """`tell(operation, inputs, attributes, outputs)` of all that TensorFlow executes eagerly.

    Keras' other backends tell nothing.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf
    from tensorflow.python.framework import op_callbacks

    def callback(
        operation: Any,
        inputs: Any,
        attributes: Any,
        outputs: Any,
        op_name: Any = None,
        graph: Any = None,
    ) -> None:
        if graph is None:
            name = operation.decode() if isinstance(operation, bytes) else str(operation)
            pairs = dict(zip(attributes[::2], attributes[1::2], strict=True))
            for each in list(_told):
                each(name, tuple(inputs), pairs, tuple(outputs))

    # What is decorated with tf.function runs line by line, to be heard as well.
    compiled = not tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    op_callbacks.add_op_callback(callback)
    _told.append(tell)
    try:
        yield
    finally:
        _told.remove(tell)
        op_callbacks.remove_op_callback(callback)
        tf.config.run_functions_eagerly(not compiled)


def use(called: str, at: int, settings: Mapping[str, Any], turned: bool) -> str:
    """How an operation, TensorFlow's or Keras', uses the argument at a place: see `Graph`."""
    if called in MATRICES:
        turned ^= bool(settings.get("adj_y" if at else "adj_x"))
        turned ^= bool(settings.get("transpose_b" if at else "transpose_a"))
        return "matrix" if turned != (at == 1) else "turned matrix"
    if called == "Einsum":
        equation = settings.get("equation") or settings.get("subscripts")
        equation = equation.decode() if isinstance(equation, bytes) else str(equation)
        # Keras gives the equation first, TensorFlow as an attribute.
        place = at - (equation == settings.get("subscripts"))
        return f"einsum {equation.replace(' ', '')} {max(place, 0)}"
    if called in CONVOLUTIONS:
        return "kernel"
    if called in GATHERING:
        return "table"
    return "term" if called in ADDING else "factor" if called in MULTIPLYING else ""


def turns(called: str, inputs: Sequence[Any]) -> bool:
    """Whether an operation exchanges the two axes of a matrix."""
    return called == "Transpose" and len(inputs[0].shape) == 2


def as_one(called: str, inputs: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
    """What `compute` executes is told as one operation."""
    listening, _told[:] = list(_told), []
    try:
        output = compute()
    finally:
        _told[:] = listening
    for tell in listening:
        tell(called, inputs, {}, (output,))
    return output


def eager() -> bool:
    """Whether tensors have numbers: not while TensorFlow builds a graph."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.executing_eagerly())


def copy(tensor: Any) -> Any:
    """The same numbers in a tensor of their own, its mask with it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        copied = tf.identity(tensor)
    else:
        copied = keras.ops.copy(tensor)
    mask = getattr(tensor, "_keras_mask", None)
    if mask is not None:
        copied._keras_mask = mask
    return copied


def handle(variable: keras.Variable) -> Any:
    """What operations that read the variable are given."""
    return getattr(variable.value, "handle", variable.value)
