"""How far rounding alone can take two sides apart: the tolerance `rounding`, per tensor."""

from __future__ import annotations

from functools import cached_property, lru_cache

from parity.ladder.magnitudes import Magnitudes
from parity.ladder.measure import Allowed
from parity.ladder.rounding import Roundings
from parity.ladder.sides import Side
from parity.ladder.tolerances import EPS, reason
from parity.probe import INPUT


class Bounds:
    """Of the left side's tensors in one precision: `Roundings` x eps x `Magnitudes`."""

    def __init__(self, left: Side, precision: str) -> None:
        assert left.probe is not None
        self.layers = {layer.name: layer for layer in left.probe.layers}
        self.precision = precision
        self.sizes = Magnitudes(left, self.layers, precision)
        first = next(iter(self.layers), "")
        output = left.tensor(f"{precision}/free/activation/{first}")
        self.images = output.shape[0] if output and output.shape else 1
        self.of = lru_cache(maxsize=None)(self._of)

    def allowed(self, kind: str, name: str) -> Allowed:
        """For a free tensor: an activation, the loss, a gradient or a moment."""
        return self._allowed(*self.of(kind, name))

    def alone(self, kind: str, name: str) -> Allowed:
        """For a layer alone, fed with the left's tensors: nothing but this layer rounds."""
        counts = self.counts
        if kind == "activation":
            return self._allowed(counts.forward_alone(name), self.sizes.activation(name))
        if kind == "upstream":
            return self._allowed(counts.backward_alone(name), self.sizes.by_input(name))
        return self._allowed(counts.parameter_alone(name), self._parameter(name))

    def gradient(self, name: str) -> float:
        """For the gradient by a parameter, absolute."""
        count, size = self.of("gradient", name)
        return count * EPS[self.precision] * size

    @cached_property
    def counts(self) -> Roundings:
        activation = {name: self.sizes.activation(name) for name in self.layers}
        upstream = {name: self.sizes.upstream(name) for name in self.layers}
        return Roundings(list(self.layers.values()), self.images, activation, upstream)

    def _of(self, kind: str, name: str) -> tuple[float, float]:
        """Roundings and magnitude of a free tensor."""
        counts, sizes = self.counts, self.sizes
        if kind == "activation":
            return counts.forward[name], sizes.activation(name)
        if kind == "loss":
            return counts.loss, sizes.scale(kind, name)
        if kind == "upstream":
            return counts.upstream[name], sizes.upstream(name)
        if name == INPUT:
            readers = [each.name for each in self.layers.values() if INPUT in each.inputs]
            size = max(map(sizes.by_input, readers), default=sizes.scale(kind, name))
            return counts.input(), size
        if kind == "gradient":
            return counts.parameter(name), self._parameter(name)
        # A moment is (1 - beta) times the gradient or its square, which doubles a relative error.
        scale, of_gradient = sizes.scale(kind, name), sizes.scale("gradient", name)
        larger = self._parameter(name) / of_gradient if of_gradient else 1.0
        return counts.parameter(name) * (2 if kind == "moment2" else 1) + 3, scale * larger

    def _parameter(self, name: str) -> float:
        return self.sizes.parameter(name, self.counts.owners[name], self.images)

    def _allowed(self, count: float, size: float) -> Allowed:
        eps = EPS[self.precision]
        said = f"{count:,.0f} x {eps:.1e} x magnitude {size:.2g}"
        return Allowed(count * eps * size, reason("rounding", said))
