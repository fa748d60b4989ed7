"""How many roundings a number has behind it: the n of the tolerance `rounding`, per tensor.

A convolution's output sums window x channels products, a kernel's gradient one product per image
and position, and what comes in already carries the roundings of the layers before (forward) or
behind (backward).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from parity.probe import INPUT, Layer

LEAST = 64  # shorter sums count as this long: few terms can be far above their mean square


class Roundings:
    """Counts for the layers of one network, in forward order, on a batch of `images` images.

    A count is relative to the magnitude of its tensor. What only selects values passes their errors
    on as they are: where the largest are left out, the same error is more of what remains. For
    that, `activation` and `upstream` hold the magnitudes of the layers' outputs and of the
    gradients by them.

    The loss and its gradient move by at most as much as the logits do, so an error of the logits
    weighs with their magnitude there.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        images: int,
        activation: Mapping[str, float] | None = None,
        upstream: Mapping[str, float] | None = None,
    ) -> None:
        self.layers = {layer.name: layer for layer in layers}
        self.owners = {name: layer for layer in layers for name in layer.parameters}
        self.images = images
        self.forward: dict[str, float] = {INPUT: 0}
        self.upstream: dict[str, float] = {}
        outputs, gradients = activation or {}, upstream or {}
        for layer in layers:
            own = self.forward_alone(layer.name)
            carried = [
                self.forward.get(name, 0) * (1 if own else _shrink(outputs, name, layer.name))
                for name in layer.inputs
            ]
            self.forward[layer.name] = max(carried, default=0) + own
        last = layers[-1] if layers else None
        classes = last.output_shape[-1] if last and last.output_shape else 1
        logits = max(1.0, outputs.get(last.name, 1.0)) if last else 1.0
        at_logits = self.forward[last.name] * logits if last else 0
        # exp, sum over classes, logarithm, mean over images
        self.loss = at_logits + classes + images + LEAST
        for layer in reversed(layers):
            carried = []
            for reader in (each.name for each in layers if layer.name in each.inputs):
                own = self.backward_alone(reader)
                shrink = 1 if own else _shrink(gradients, reader, layer.name)
                carried.append(self.upstream.get(reader, self.loss) * shrink + own)
            self.upstream[layer.name] = max(carried, default=self.loss)

    def forward_alone(self, layer: str) -> int:
        """Of a layer's output, its input taken as exact."""
        found = self.layers[layer]
        if kernel := _kernel(found):
            return max(LEAST, math.prod(kernel[:-1]) + 1)  # and the bias
        return _selecting(found)

    def backward_alone(self, layer: str) -> int:
        """Of the gradient by a layer's input, that by its output taken as exact."""
        found = self.layers[layer]
        if kernel := _kernel(found):
            return max(LEAST, math.prod(kernel) // kernel[-2] if len(kernel) > 1 else 1)
        return _selecting(found)

    def parameter_alone(self, parameter: str) -> int:
        """Of the gradient by a parameter, the layer's input and upstream taken as exact."""
        positions = math.prod(self.owners[parameter].output_shape[:-1])
        return max(LEAST, self.images * positions + 1)

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


def _shrink(sizes: Mapping[str, float], before: str, after: str) -> float:
    """How many times smaller a tensor is than the one it was selected from."""
    if not sizes.get(after):  # unknown, or all zero: then nothing but zeros can have been chosen
        return 1.0
    return max(1.0, sizes.get(before, 0.0) / sizes[after])


def _kernel(layer: Layer) -> tuple[int, ...] | None:
    """The shape of the largest parameter: (…, inputs, outputs)."""
    return max(layer.parameters.values(), key=math.prod, default=None)


def _selecting(layer: Layer) -> int:
    """ReLU, max pooling and flattening pass values on as they are; others round."""
    if layer.kind == "pool" and layer.settings.get("pool") == "average":
        return max(LEAST, math.prod(layer.settings.get("size", (1,))))
    return 0 if layer.kind in ("relu", "pool", "flatten") else LEAST
