"""The loss of a run of `parity.check`, as `parity.check.trace.Request` defines it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

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
        dtype = getattr(torch, request.precision)
        made = [torch.from_numpy(np.array(targets[name])) for name in names]
        self.targets = [each.to(dtype) if each.is_floating_point() else each for each in made]
        self.squared = request.loss == "squared"
        kinds = {node.name: node.kind for node in graph.nodes}
        self.probabilities = [kinds.get(name) == "softmax" for name in graph.outputs]

    def __call__(self, outputs: Sequence[Tensor]) -> Tensor:
        """The outputs may be more than the targets; the first ones count."""
        total = torch.zeros(())
        for at, target in enumerate(self.targets):
            output = outputs[at]
            self._require(at, output, target)
            if self.squared:
                total = total + (output - target).square().mean() / 2
            elif self.probabilities[at]:
                total = total - output.gather(1, target[:, None]).log().mean()
            else:
                total = total + functional.cross_entropy(output, target)
        return total

    def _require(self, at: int, output: Tensor, target: Tensor) -> None:
        shape, wanted = tuple(output.shape), tuple(target.shape)
        if self.squared and shape != wanted:
            raise InputError(
                f"output:{at} has shape {shape}, its target {wanted}: they must agree."
            )
        if self.squared:
            return
        if output.ndim != 2 or wanted != shape[:1] or target.is_floating_point():
            raise InputError(
                f"cross_entropy takes an output (batch, classes) and int64 labels (batch,): "
                f"output:{at} has shape {shape}, its target {wanted} of type {target.dtype}."
            )
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= shape[1]:
            raise InputError(
                f"the labels of output:{at} run from {low} to {high}: expected 0 to {shape[1] - 1}."
            )
