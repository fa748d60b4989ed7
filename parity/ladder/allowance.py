"""The tolerance of every tensor of one pair of probes, from the table in `tolerances`."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from parity.ladder.floors import LOSS, Floor, Floors
from parity.ladder.measure import Allowed, Tensor
from parity.ladder.rounding import Roundings
from parity.ladder.sides import Side
from parity.ladder.tolerances import (
    EPS,
    FLOOR_FACTOR,
    TRAJECTORY_LOSS,
    TRAJECTORY_WEIGHT,
    adam_slope,
    reason,
)
from parity.probe import INPUT

UNKNOWN = "the left side describes no such layer or parameter"
LAYERS_ALONE = "layers alone decide"
NEEDS_REFERENCE = "layers alone would decide, record the right side with --reference LEFT"
NO_SLOPE = "no bound is known for a step of this optimizer: the float32 noise floor decides"


class Allowance:
    """Tolerances of `right` against the reference `left`; both sides must have a probe."""

    def __init__(self, left: Side, right: Side) -> None:
        assert left.probe is not None and right.probe is not None
        self.left, self.right = left, right
        self.layers = left.probe.layers
        self.optimizer = left.probe.semantics.get("optimizer") or {}
        self.floors = Floors(left, right, "float32", left.parameters())

    def of(self, precision: str, kind: str, name: str) -> Allowed:
        """For `<precision>/free/<kind>/<name>` of one side against the other's."""
        if not self._known(kind, name):
            return Allowed(None, UNKNOWN)
        by_precision = self._float64 if precision == "float64" else self._float32
        allowed = by_precision(kind, name)
        if not self._jumps(kind, name):
            return allowed
        scale, optional = self._scale(precision, kind, name), self._optional(precision, kind)
        said = f"{allowed.reason}; it jumps: {LAYERS_ALONE if optional else NEEDS_REFERENCE}"
        return Allowed(allowed.value, said, limit=scale, undecided_to=scale, optional=optional)

    def alone(self, precision: str, kind: str, name: str, reference: Tensor) -> Allowed:
        """For a layer alone, fed with the reference's tensors, against the `reference`'s own.

        Both sides start from the same bits, so in either precision nothing but this layer rounds.
        """
        count = {
            "activation": self.roundings.forward_alone,
            "upstream": self.roundings.backward_alone,
            "gradient": self.roundings.parameter_alone,
        }[kind]
        return _rounding(count(name), precision, reference.scale)

    def whole_loss(self, reference: np.ndarray) -> Allowed:
        """For the losses of a whole float32 training, (steps,), from the short ones' floor.

        Noise grows: the floor of the last short step is too strict for later ones, so what is
        within it agrees, and what is beyond stays undecided.
        """
        floor = self.floors.of("trajectory", LOSS)
        if floor.value is None:
            return Allowed(None, floor.lacking)
        short = FLOOR_FACTOR * np.atleast_1d(floor.value)[: len(reference)]
        value = np.pad(short, (0, len(reference) - len(short)), mode="edge")
        said = f"{FLOOR_FACTOR:g} x the noise floor of the first {len(short)} steps"
        return Allowed(
            value, reason("floor", said), limit=float(np.ptp(reference)), undecided_to=np.inf
        )

    def whole_weight(self, steps: int) -> Allowed:
        """For the final weights of a whole float32 training, likewise."""
        return self._floor32(
            self.floors.shared("trajectory", False), limit=self._rate * steps, undecided_to=np.inf
        )

    @cached_property
    def roundings(self) -> Roundings:
        """Counted on the left's layers."""
        name = self.layers[0].name if self.layers else ""
        first = self._reference("float64", "activation", name)
        first = first or self._reference("float32", "activation", name)
        images = first.shape[0] if first and first.shape else 1
        logits = self._scale("float64", "activation", self.layers[-1].name) if self.layers else 0
        return Roundings(self.layers, images, logits)

    def _float64(self, kind: str, name: str) -> Allowed:
        if kind == "trajectory":
            bound = TRAJECTORY_LOSS if name == LOSS else TRAJECTORY_WEIGHT
            return Allowed(bound, reason("trajectory"))
        if kind == "update":
            return self._update(name)
        counts = self.roundings
        if kind == "activation":
            count = counts.forward[name]
        elif kind == "loss":
            count = counts.loss
        elif kind == "upstream":
            count = counts.upstream[name]
        elif name == INPUT:
            count = counts.input()
        else:  # a gradient, or a moment: (1 - beta) times it or its square
            count = counts.parameter(name) * (2 if kind == "moment2" else 1) + 3
        return _rounding(count, "float64", self._scale("float64", kind, name))

    def _update(self, name: str) -> Allowed:
        slope = adam_slope(self.optimizer)
        if slope is None:
            return Allowed(None, NO_SLOPE)
        eps = EPS["float64"]
        gradient = self.roundings.parameter(name) * eps * self._scale("float64", "gradient", name)
        cancelled = self._rate * eps / (1 - self.optimizer["beta_2"])
        rounded = 4 * eps * self._scale("float64", "update", name)
        said = f"slope {slope:.3g} x {gradient:.1e} + {cancelled:.1e} + {rounded:.1e}"
        return Allowed(slope * gradient + cancelled + rounded, reason("adam step", said))

    def _float32(self, kind: str, name: str) -> Allowed:
        scale = self._scale("float32", kind, name)
        if kind in ("activation", "loss", "upstream") or name == INPUT:
            return self._floor32(self.floors.of(kind, name), limit=scale)
        if kind == "trajectory" and name == LOSS:
            moved = self._loss_moved(scale)
            return self._floor32(self.floors.of(kind, name), limit=moved, undecided_to=moved)
        if kind in ("update", "trajectory"):
            reach = self._rate * (self._steps() if kind == "trajectory" else 1)
            return self._floor32(self.floors.shared(kind, False), limit=reach, undecided_to=reach)
        shared = self.floors.shared(kind, True)
        own = Floor(None if shared.value is None else shared.value * scale, shared.lacking)
        return self._floor32(own, limit=scale, undecided_to=scale)

    def _floor32(self, floor: Floor, limit: float, undecided_to: float = 0.0) -> Allowed:
        if floor.value is None:
            return Allowed(None, floor.lacking)
        said = f"{FLOOR_FACTOR:g} x noise floor {np.max(floor.value):.1e}"
        value = FLOOR_FACTOR * floor.value
        return Allowed(value, reason("floor", said), limit, undecided_to)

    def _jumps(self, kind: str, name: str) -> bool:
        """The gradients by a layer's output and by the images do, but not that by the logits."""
        return name == INPUT or (kind == "upstream" and name != self.layers[-1].name)

    def _optional(self, precision: str, kind: str) -> bool:
        """What layers alone decide; the gradient by the images only where they were recorded."""
        alone = set(self.right.names(f"{precision}/isolated/upstream"))
        return kind == "upstream" or {layer.name for layer in self.layers} <= alone

    def _known(self, kind: str, name: str) -> bool:
        if kind in ("activation", "upstream"):
            return name in self.roundings.layers
        if name == (INPUT if kind == "gradient" else LOSS):
            return kind in ("gradient", "loss", "trajectory")
        return kind != "loss" and name in self.roundings.owners

    @property
    def _rate(self) -> float:
        """The learning rate: Adam's steps are hardly longer."""
        return float(self.optimizer.get("learning_rate") or self.left.experiment.learning_rate)

    def _steps(self) -> int:
        losses = self._reference("float32", "trajectory", LOSS)
        return losses.values.size if losses else 1

    def _loss_moved(self, scale: float) -> float:
        """How far the reference's loss moved: within that, a training that stands still passes."""
        losses = self._reference("float32", "trajectory", LOSS)
        if losses is None or losses.values.size < 2:
            return scale
        return float(np.ptp(losses.values.astype(np.float64)))

    def _scale(self, precision: str, kind: str, name: str) -> float:
        found = self._reference(precision, kind, name)
        return found.scale if found else 0.0

    def _reference(self, precision: str, kind: str, name: str) -> Tensor | None:
        return self.left.tensor(f"{precision}/free/{kind}/{name}")


def _rounding(count: float, precision: str, scale: float) -> Allowed:
    said = f"{count:,.0f} x {EPS[precision]:.1e} x scale {scale:.2g}"
    return Allowed(count * EPS[precision] * scale, reason("rounding", said))
