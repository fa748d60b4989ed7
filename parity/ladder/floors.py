"""The noise floor: how far each side is from itself when nothing, or next to nothing, changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from parity.ladder.bounds import Bounds
from parity.ladder.measure import Tensor, aligned
from parity.ladder.sides import Side
from parity.ladder.tolerances import EPS

RUNS = ("again", "input", "weights")  # each side against its own free run
LOSS = "loss"


@dataclass(frozen=True)
class Floor:
    """The noise of a tensor, absolute; `value` is None where `lacking` says what is not there.

    For the losses of a training `value` is per step, (steps,), and never falls.
    """

    value: float | np.ndarray | None
    lacking: str = ""


class Floors:
    """The floors of one pair of probes, in the precision of `bounds`, the left's."""

    def __init__(self, left: Side, right: Side, bounds: Bounds) -> None:
        self.sides, self.bounds, self.precision = (left, right), bounds, bounds.precision
        self.of = lru_cache(maxsize=None)(self._of)
        self.shared = lru_cache(maxsize=None)(self._shared)

    def _of(self, kind: str, name: str) -> Floor:
        """The largest difference over both sides and all runs, but at least eps x magnitude."""
        apart = []
        lacking = []
        for side in self.sides:
            base = side.tensor(f"{self.precision}/free/{kind}/{name}")
            for run in RUNS:
                other = side.tensor(f"{self.precision}/{run}/{kind}/{name}")
                if base and other and _comparable(base, other):
                    a, b, _ = aligned(base, other)
                    apart.append(np.abs(a.astype(np.float64) - b.astype(np.float64)))
                else:
                    lacking.append(f"{run} of {side.label}")
        if lacking:
            return Floor(None, f"no noise floor of {kind}/{name}: no usable {', '.join(lacking)}")
        least = EPS[self.precision] * self.size(kind, name)
        if (kind, name) != ("trajectory", LOSS):
            return Floor(max(least, *(float(each.max(initial=0)) for each in apart)))
        if len({len(each) for each in apart}) != 1:
            return Floor(None, "no noise floor of the losses: their numbers of steps differ")
        return Floor(
            np.maximum.accumulate(np.maximum.reduce([*apart, np.full_like(apart[0], least)]))
        )

    def _shared(self, kind: str, relative: bool) -> Floor:
        """The largest floor of all parameters, absolute or relative to each one's magnitude."""
        largest = 0.0
        for name in self.sides[0].parameters():
            floor = self.of(kind, name)
            if floor.value is None:
                return floor
            size = self.size(kind, name) if relative else 1.0
            largest = max(largest, float(np.max(floor.value)) / size if size else 0.0)
        return Floor(largest)

    def size(self, kind: str, name: str) -> float:
        """The magnitude of the left's tensor; of weights and losses of a training, the scale."""
        if kind in ("update", "trajectory"):
            return self.bounds.sizes.scale(kind, name)
        return self.bounds.of(kind, name)[1]


def _comparable(base: Tensor, other: Tensor) -> bool:
    finite = np.isfinite(base.values).all() and np.isfinite(other.values).all()
    return bool(base.shape == other.shape and finite and not base.nonfinite + other.nonfinite)
