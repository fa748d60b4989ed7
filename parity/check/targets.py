"""What a loss compares a model's outputs with; the wings' `losses.py` have the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.check.graph import Graph
from parity.check.trace import Request, draw_target
from shared_data.errors import InputError


class Targets:
    """Of one batch: labels where the request has them, else numbers drawn for each output.

    Raises `InputError` where labels do not fit. Attributes:
        squared: whether the loss is of squares, not the cross-entropy.
        probabilities: of each output that counts, whether it is a softmax's.
    """

    def __init__(self, graph: Graph, request: Request, labels: Mapping[str, np.ndarray]) -> None:
        if request.loss not in ("squared", "cross_entropy"):
            raise InputError(f"no loss {request.loss!r}: expected squared or cross_entropy.")
        self.request, self.labels = request, labels
        self.squared = request.loss == "squared"
        kinds = {node.name: node.kind for node in graph.nodes}
        names = chosen(graph.outputs, request.outputs)
        self.probabilities = [kinds.get(name) == "softmax" for name in names]

    def of(self, at: int, shape: tuple[int, ...], squared: bool = False) -> np.ndarray:
        """The target of the output at a place, whose shape, batch included, is given; one for
        squares whatever the request says, if `squared`."""
        if self.squared or squared:
            layouts = self.request.layouts
            axes = layouts[at] if at < len(layouts) else None
            fits = axes is None or len(axes) == len(shape)
            drawn = draw_target(shape, axes if fits else None, self.request.seed + 1, at)
            return drawn.astype(self.request.precision)
        target = self.labels.get(f"output:{at}")
        if target is None:
            raise InputError(f"there are no labels for output:{at}: give one array for each output")
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
        return np.asarray(target)


def chosen(outputs: Any, places: tuple[int, ...] | None) -> list[Any]:
    """The outputs that count, in the order of both sides; those that are not there left out."""
    given = list(outputs)
    return given if places is None else [given[at] for at in places if at < len(given)]
