"""How many roundings a number has behind it: the n of the tolerance `rounding`, per tensor.

A convolution's output sums window x channels products, a kernel's gradient one product per image
and position, and what comes in already carries the roundings of the layers before (forward) or
behind (backward).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from parity.probe import INPUT, Layer


class Roundings:
    """Counts for the layers of one network, in forward order, on a batch of `images` images.

    `logits` is the scale of the last layer's output: the loss and its gradient move by at most
    as much as the logits do, so an error of the logits weighs with their scale there.
    """

    def __init__(self, layers: Sequence[Layer], images: int, logits: float = 1.0) -> None:
        self.layers = {layer.name: layer for layer in layers}
        self.owners = {name: layer for layer in layers for name in layer.parameters}
        self.images = images
        self.forward: dict[str, float] = {INPUT: 0}
        for layer in layers:
            carried = max((self.forward.get(name, 0) for name in layer.inputs), default=0)
            self.forward[layer.name] = carried + self.forward_alone(layer.name)
        last = layers[-1] if layers else None
        classes = last.output_shape[-1] if last and last.output_shape else 1
        at_logits = self.forward[last.name] * max(1.0, logits) if last else 0
        # exp, sum over classes, logarithm, mean over images
        self.loss = at_logits + classes + images + 4
        self.upstream: dict[str, float] = {}
        for layer in reversed(layers):
            readers = [each for each in layers if layer.name in each.inputs]
            self.upstream[layer.name] = max(
                (self.upstream[each.name] + self.backward_alone(each.name) for each in readers),
                default=self.loss,
            )

    def forward_alone(self, layer: str) -> int:
        """Of a layer's output, its input taken as exact."""
        found = self.layers[layer]
        if kernel := _kernel(found):
            return math.prod(kernel[:-1]) + 1  # and the bias
        return _selecting(found)

    def backward_alone(self, layer: str) -> int:
        """Of the gradient by a layer's input, that by its output taken as exact."""
        found = self.layers[layer]
        if kernel := _kernel(found):
            return math.prod(kernel) // kernel[-2] if len(kernel) > 1 else 1
        return _selecting(found)

    def parameter_alone(self, parameter: str) -> int:
        """Of the gradient by a parameter, the layer's input and upstream taken as exact."""
        return self.images * math.prod(self.owners[parameter].output_shape[:-1]) + 1

    def parameter(self, name: str) -> float:
        """Of the gradient by a parameter in the net."""
        layer = self.owners[name]
        came_in = max((self.forward.get(each, 0) for each in layer.inputs), default=0)
        return came_in + self.upstream[layer.name] + self.parameter_alone(name)

    def input(self) -> float:
        """Of the gradient by the images."""
        readers = [layer for layer in self.layers.values() if INPUT in layer.inputs]
        return max(
            (self.upstream[layer.name] + self.backward_alone(layer.name) for layer in readers),
            default=self.loss,
        )


def _kernel(layer: Layer) -> tuple[int, ...] | None:
    """The shape of the largest parameter: (…, inputs, outputs)."""
    return max(layer.parameters.values(), key=math.prod, default=None)


def _selecting(layer: Layer) -> int:
    """ReLU, max pooling and flattening pass values on as they are; others round."""
    if layer.kind == "pool" and layer.settings.get("pool") == "average":
        return math.prod(layer.settings.get("size", (1,))) + 1
    return 0 if layer.kind in ("relu", "pool", "flatten") else 1
