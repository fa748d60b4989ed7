"""The loss of a run of `parity.check`, as `parity.check.trace.Request` defines it.

Its twin is `keras_impl/losses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from parity.check.graph import Graph
from parity.check.targets import Targets
from parity.check.trace import Request


class Loss:
    """A sum over the outputs that count. Raises `InputError` where labels do not fit."""

    def __init__(self, graph: Graph, request: Request, labels: Mapping[str, np.ndarray]) -> None:
        self.targets = Targets(graph, request, labels)

    def __call__(self, outputs: Sequence[Tensor], squared: bool = False) -> Tensor:
        """`squared`: whatever the request says. Outputs of whole numbers do not take part."""
        targets = self.targets
        total = torch.zeros(())
        for at, output in enumerate(outputs):
            if not output.is_floating_point():
                continue
            target = torch.from_numpy(targets.of(at, tuple(output.shape), squared))
            if squared or targets.squared:
                finite = torch.where(torch.isfinite(output), output, target)
                total = total + (finite - target).square().mean() / 2
                continue
            if targets.probabilities[at]:
                total = total - output.gather(1, target[:, None]).log().mean()
            else:
                total = total + functional.cross_entropy(output, target)
        return total
