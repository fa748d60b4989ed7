"""The loss of a run of `parity.check`, as `parity.check.trace.Request` defines it.

Its twin is `torch_impl/losses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from parity.check.graph import Graph
from parity.check.targets import Targets
from parity.check.trace import Request


class Loss:
    """A sum over the outputs that count. Raises `InputError` where labels do not fit."""

    def __init__(self, graph: Graph, request: Request, labels: Mapping[str, np.ndarray]) -> None:
        self.targets = Targets(graph, request, labels)
        self.precision = request.precision

    def __call__(self, outputs: Sequence[Any], squared: bool = False) -> Any:
        """A scalar tensor. `squared`: whatever the request says. Outputs of whole numbers do not
        take part."""
        targets = self.targets
        terms = [tf.zeros((), self.precision)]
        for at, output in enumerate(outputs):
            if not output.dtype.is_floating:
                continue
            target = tf.constant(targets.of(at, tuple(output.shape), squared))
            if squared or targets.squared:
                finite = tf.where(tf.math.is_finite(output), output, target)
                terms.append(tf.reduce_mean(tf.square(finite - target)) / 2)
                continue
            given = tf.math.log(output) if targets.probabilities[at] else tf.nn.log_softmax(output)
            places = np.stack([np.arange(len(target)), target], axis=1)
            terms.append(-tf.reduce_mean(tf.gather_nd(given, places)))
        return tf.add_n(terms)
