"""The tolerance of every tensor of one pair of probes, from the table in `tolerances`."""

from __future__ import annotations

import numpy as np

from parity.ladder.bounds import Bounds
from parity.ladder.floors import LOSS, Floor, Floors
from parity.ladder.measure import Allowed, Tensor
from parity.ladder.sides import PRECISIONS, Side, reference_alone
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
NEEDS_REFERENCE = (
    "layers alone would decide, record both with --keep-tensors, the right with --reference LEFT"
)
NO_SLOPE = "no bound is known for a step of this optimizer: the float32 noise floor decides"


class Allowance:
    """Tolerances of `right` against the reference `left`; both sides must have a probe."""

    def __init__(self, left: Side, right: Side) -> None:
        assert left.probe is not None and right.probe is not None
        self.left, self.right = left, right
        self.layers = left.probe.layers
        self.optimizer = left.probe.semantics.get("optimizer") or {}
        self.bounds = {precision: Bounds(left, precision) for precision in PRECISIONS}
        self.parameters = set(left.parameters())
        self.floors = Floors(left, right, self.bounds["float32"])

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

    def alone(self, precision: str, kind: str, name: str) -> Allowed:
        """For a layer of the right alone, fed with the left's tensors, against the left's own."""
        return self.bounds[precision].alone(kind, name)

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

    def _float64(self, kind: str, name: str) -> Allowed:
        if kind == "trajectory":
            bound = TRAJECTORY_LOSS if name == LOSS else TRAJECTORY_WEIGHT
            return Allowed(bound, reason("trajectory"))
        if kind == "update":
            return self._update(name)
        return self.bounds["float64"].allowed(kind, name)

    def _update(self, name: str) -> Allowed:
        slope = adam_slope(self.optimizer)
        if slope is None:
            return Allowed(None, NO_SLOPE)
        eps, gradient = EPS["float64"], self.bounds["float64"].gradient(name)
        cancelled = self._cancelled("float64")
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
            floor = self.floors.shared(kind, False)
            if floor.value is not None:
                floor = Floor(floor.value + self._cancelled("float32") / FLOOR_FACTOR)
            return self._floor32(floor, limit=reach, undecided_to=reach)
        shared = self.floors.shared(kind, True)
        size = self.floors.size(kind, name)
        own = Floor(None if shared.value is None else shared.value * size, shared.lacking)
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
        return kind == "upstream" or all(
            reference_alone(self.left, self.right, precision, "upstream", layer.name)
            for layer in self.layers
        )

    def _known(self, kind: str, name: str) -> bool:
        if kind in ("activation", "upstream"):
            return any(name == layer.name for layer in self.layers)
        if name == (INPUT if kind == "gradient" else LOSS):
            return kind in ("gradient", "loss", "trajectory")
        return kind != "loss" and name in self.parameters

    def _cancelled(self, precision: str) -> float:
        """What Adam's bias correction 1 - beta_2^t loses of its first step."""
        beta = self.optimizer.get("beta_2")
        if not isinstance(beta, float) or not 0 <= beta < 1:
            return 0.0
        return self._rate * EPS[precision] / (1 - beta)

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
