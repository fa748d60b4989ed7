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
    """A sum over the outputs of a graph. Raises `InputError` where targets do not fit."""

    def __init__(self, graph: Graph, request: Request, targets: Mapping[str, np.ndarray]) -> None:
        self.targets = Targets(graph, request, targets)

    def __call__(self, outputs: Sequence[Any]) -> Any:
        """A scalar tensor. The outputs may be more than the targets; the first ones count."""
        terms = []
        for at, target in enumerate(self.targets.values):
            output = outputs[at]
            self.targets.require(at, tuple(output.shape))
            if self.targets.squared:
                terms.append(tf.reduce_mean(tf.square(output - target)) / 2)
                continue
            softmax = self.targets.probabilities[at]
            given = tf.math.log(output) if softmax else tf.nn.log_softmax(output)
            places = np.stack([np.arange(len(target)), target], axis=1)
            terms.append(-tf.reduce_mean(tf.gather_nd(given, places)))
        return tf.add_n(terms)
