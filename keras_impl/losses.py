"""The loss of a run of `parity.check`, as `parity.check.trace.Request` defines it.

Its twin is `torch_impl/losses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from parity.check.graph import Graph
from parity.check.trace import Request
from shared_data.errors import InputError


class Loss:
    """A sum over the outputs of a graph. Raises `InputError` where targets are none or do not fit.

    `targets` are `output:0`, `output:1`, …, in the model's own layout, or labels (batch,).
    """

    def __init__(self, graph: Graph, request: Request, targets: Mapping[str, np.ndarray]) -> None:
        if request.loss not in ("squared", "cross_entropy"):
            raise InputError(f"no loss {request.loss!r}: expected squared or cross_entropy.")
        names = [f"output:{at}" for at in range(len(graph.outputs))]
        if sorted(targets) != sorted(names):
            raise InputError(
                f"the targets are {', '.join(targets) or 'none'}: expected one per output of the "
                f"model, {', '.join(names)}."
            )
        self.squared = request.loss == "squared"
        self.targets = [np.asarray(targets[name]) for name in names]
        if self.squared:
            self.targets = [each.astype(request.precision) for each in self.targets]
        kinds = {node.name: node.kind for node in graph.nodes}
        self.probabilities = [kinds.get(name) == "softmax" for name in graph.outputs]

    def __call__(self, outputs: Sequence[Any]) -> Any:
        """A scalar tensor. The outputs may be more than the targets; the first ones count."""
        terms = []
        for at, target in enumerate(self.targets):
            output = outputs[at]
            self._require(at, output, target)
            if self.squared:
                terms.append(tf.reduce_mean(tf.square(output - target)) / 2)
                continue
            given = tf.math.log(output) if self.probabilities[at] else tf.nn.log_softmax(output)
            places = np.stack([np.arange(len(target)), target], axis=1)
            terms.append(-tf.reduce_mean(tf.gather_nd(given, places)))
        return tf.add_n(terms)

    def _require(self, at: int, output: Any, target: np.ndarray) -> None:
        shape, wanted = tuple(output.shape), target.shape
        if self.squared and shape != wanted:
            raise InputError(
                f"output:{at} has shape {shape}, its target {wanted}: they must agree."
            )
        if self.squared:
            return
        if len(shape) != 2 or wanted != shape[:1] or target.dtype.kind not in "iu":
            raise InputError(
                f"cross_entropy takes an output (batch, classes) and int64 labels (batch,): "
                f"output:{at} has shape {shape}, its target {wanted} of type {target.dtype}."
            )
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= shape[1]:
            raise InputError(
                f"the labels of output:{at} run from {low} to {high}: expected 0 to {shape[1] - 1}."
            )
