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
    """A sum over the outputs of a graph. Raises `InputError` where targets do not fit."""

    def __init__(self, graph: Graph, request: Request, targets: Mapping[str, np.ndarray]) -> None:
        self.targets = Targets(graph, request, targets)
        self.values = [torch.from_numpy(np.array(each)) for each in self.targets.values]

    def __call__(self, outputs: Sequence[Tensor]) -> Tensor:
        """The outputs may be more than the targets; the first ones count."""
        total = torch.zeros(())
        for at, target in enumerate(self.values):
            output = outputs[at]
            self.targets.require(at, tuple(output.shape))
            if self.targets.squared:
                total = total + (output - target).square().mean() / 2
            elif self.targets.probabilities[at]:
                total = total - output.gather(1, target[:, None]).log().mean()
            else:
                total = total + functional.cross_entropy(output, target)
        return total
