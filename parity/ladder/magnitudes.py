"""How large the sums are that a tensor is made of, which says how large its rounding can be.

The bound of an inner product's error goes by the sum of its terms' absolute values, not by the sum
itself: the gradient by a bias can be next to nothing because the images of a batch pull in
opposite directions, and its rounding is still that of what was summed. Of n terms a x b, n x rms(a)
x rms(b) stands for the sum of absolute values; root n x rms(a) x rms(b) is what the sum itself
would be if the signs were random. A tensor's magnitude is the larger of that and its scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from parity.ladder.measure import Tensor
from parity.ladder.sides import Side
from parity.probe import INPUT, Layer

PIXEL = 1.0  # images were not recorded; no pixel is larger


class Magnitudes:
    """Of the left side's free tensors in one precision."""

    def __init__(self, left: Side, layers: Mapping[str, Layer], precision: str) -> None:
        self.left, self.layers, self.precision = left, layers, precision

    def activation(self, layer: str) -> float:
        """Of a layer's output."""
        found = self.layers[layer]
        kernel = self._tensor("transfer", kernel_of(found))
        terms = math.prod(kernel.shape[:-1]) if kernel else 0
        return max(self.scale("activation", layer), _sum(terms, self._input(found), _rms(kernel)))

    def by_input(self, layer: str) -> float:
        """Of the gradient that a layer hands back."""
        found = self.layers[layer]
        kernel = self._tensor("transfer", kernel_of(found))
        terms = math.prod(kernel.shape) // kernel.shape[-2] if kernel and kernel.shape[1:] else 0
        before = found.inputs[0] if found.inputs else INPUT
        kind, name = ("gradient", INPUT) if before == INPUT else ("upstream", before)
        upstream = _rms(self._free("upstream", layer))
        return max(self.scale(kind, name), _sum(terms, upstream, _rms(kernel)))

    def upstream(self, layer: str) -> float:
        """Of the gradient by a layer's output."""
        readers = [each.name for each in self.layers.values() if layer in each.inputs]
        own = self.scale("upstream", layer)
        return max([own, *(self.by_input(reader) for reader in readers)])

    def parameter(self, name: str, layer: Layer, images: int) -> float:
        """Of the gradient by a parameter: a sum over images and positions."""
        terms = images * math.prod(layer.output_shape[:-1])
        factor = self._input(layer) if name == kernel_of(layer) else 1.0
        upstream = _rms(self._free("upstream", layer.name))
        return max(self.scale("gradient", name), _sum(terms, upstream, factor))

    def scale(self, kind: str, name: str) -> float:
        """The largest absolute value of the tensor itself; 0 where it was not recorded."""
        found = self._free(kind, name)
        return found.scale if found else 0.0

    def _input(self, layer: Layer) -> float:
        known = [PIXEL if n == INPUT else _rms(self._free("activation", n)) for n in layer.inputs]
        return max(known, default=0.0)

    def _free(self, kind: str, name: str) -> Tensor | None:
        return self._tensor(f"free/{kind}", name)

    def _tensor(self, place: str, name: str) -> Tensor | None:
        return self.left.tensor(f"{self.precision}/{place}/{name}")


def kernel_of(layer: Layer) -> str:
    """The name of the largest parameter, (…, inputs, outputs); empty where there is none."""
    return max(layer.parameters, key=lambda name: math.prod(layer.parameters[name]), default="")


def _sum(terms: int, a: float, b: float) -> float:
    return math.sqrt(terms) * a * b


def _rms(tensor: Tensor | None) -> float:
    """Root of the mean square of the finite values that were kept."""
    if tensor is None:
        return 0.0
    values = tensor.values[np.isfinite(tensor.values)].astype(np.float64)
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0
