"""What a loss compares a model's outputs with; the wings' `losses.py` have the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.check.graph import Graph
from parity.check.trace import Request
from shared_data.errors import InputError


class Targets:
    """One per output of a graph. Raises `InputError` where there are none or they do not fit.

    Attributes:
        values: `output:0`, `output:1`, …, in the model's own layout, or labels (batch,), in order.
        squared: whether the loss is of squares, not the cross-entropy.
        probabilities: of each output, whether it is a softmax's.
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
        self.values = [np.asarray(targets[name]) for name in names]
        if self.squared:
            self.values = [each.astype(request.precision) for each in self.values]
        kinds = {node.name: node.kind for node in graph.nodes}
        self.probabilities = [kinds.get(name) == "softmax" for name in graph.outputs]

    def require(self, at: int, shape: tuple[int, ...]) -> None:
        """Raise `InputError` unless an output of this shape, batch included, fits its target."""
        target = self.values[at]
        if self.squared:
            if shape != target.shape:
                raise InputError(
                    f"output:{at} has shape {shape}, its target {target.shape}: they must agree."
                )
            return
        if len(shape) != 2 or target.shape != shape[:1] or target.dtype.kind not in "iu":
            raise InputError(
                f"cross_entropy takes an output (batch, classes) and int64 labels (batch,): "
                f"output:{at} has shape {shape}, its target {target.shape} of type {target.dtype}."
            )
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= shape[1]:
            raise InputError(
                f"the labels of output:{at} run from {low} to {high}: expected 0 to {shape[1] - 1}."
            )
