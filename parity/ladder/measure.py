"""Two tensors compared element by element: how far apart, where, and what would have passed.

A comparison never passes by default: a shape or a type that differs, a number that is not finite
on either side (equal ones too), and nothing to compare are failures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PASS, FAIL, ABSTAIN, ERROR = "pass", "fail", "abstain", "error"


@dataclass(frozen=True)
class Tensor:
    """One side's tensor: all its `values`, or those at `places` (ascending flat indices).

    `shape` is that of the whole tensor; `nonfinite` counts among all its elements, kept or not.
    """

    values: np.ndarray
    shape: tuple[int, ...]
    places: np.ndarray | None = None
    nonfinite: int = 0

    @classmethod
    def whole(cls, values: np.ndarray) -> Tensor:
        return cls(values, values.shape)

    @property
    def scale(self) -> float:
        """The largest finite absolute value that was kept; 0 where there is none."""
        if not self.values.size:
            return 0.0
        low, high = float(self.values.min()), float(self.values.max())
        if np.isfinite(low) and np.isfinite(high):  # NaN goes through both
            return max(abs(low), abs(high))
        finite = self.values[np.isfinite(self.values)]
        return float(np.abs(finite).max(initial=0))


@dataclass(frozen=True)
class Allowed:
    """How far apart two tensors may be, and why.

    Attributes:
        value: absolute; one number, or one per element of a whole tensor, (elements,). None where
            no tolerance can be given: the comparison then abstains, unless it fails for another
            reason.
        reason: where `value` comes from, or why there is none and what would decide.
        limit: at a tolerance from here on, a wrong tensor would pass too: the comparison abstains.
        undecided_to: beyond `value`, but within this, the comparison abstains (`jumps` in
            parity.ladder.tolerances); one number, or one per element.
        optional: undecided, this tensor does not keep its level from passing.
        bits: every bit must be equal, the sign of a zero included; `value` is 0 then.
    """

    value: float | np.ndarray | None
    reason: str
    limit: float = math.inf
    undecided_to: float | np.ndarray = 0.0
    optional: bool = False
    bits: bool = False


@dataclass(frozen=True)
class Measurement:
    """What comparing one tensor gave. Numbers are None where nothing could be measured.

    `absolute`, `relative` (to the larger of both values), `ulps` (distance in units in the last
    place), `left` and `right` all belong to the element at `index` of the whole tensor, the one
    that is furthest from its tolerance.
    """

    name: str
    verdict: str
    reason: str
    problem: str = ""  # why it failed before any number
    optional: bool = False
    elements: int = 0  # compared
    absolute: float | None = None
    relative: float | None = None
    ulps: int | None = None
    index: tuple[int, ...] | None = None
    left: float | None = None
    right: float | None = None
    tolerance: float | None = None

    @property
    def minimum_tolerance(self) -> float | None:
        """The smallest tolerance that would have passed, where any would."""
        return None if self.problem else self.absolute

    @property
    def headroom(self) -> float | None:
        """Tolerance over difference: at least 1 where it passed; None where nothing differs."""
        return self.tolerance / self.absolute if self.tolerance and self.absolute else None

    @property
    def pressure(self) -> float:
        """Difference over tolerance, to find the worst of many; a problem is beyond all."""
        if self.problem:
            return math.inf
        if not self.absolute or self.tolerance is None:
            return 0.0 if not self.absolute else self.absolute
        return self.absolute / self.tolerance if self.tolerance else math.inf

    @property
    def where(self) -> str:
        """The tensor and the element: `block3.conv[0, 1, 2, 3]`."""
        return f"{self.name}[{', '.join(map(str, self.index))}]" if self.index else self.name


def compare(name: str, left: Tensor | None, right: Tensor | None, allowed: Allowed) -> Measurement:
    """Compare `right` with the reference `left`; a side that lacks the tensor fails."""
    if problem := _problem(left, right):
        return Measurement(name, FAIL, allowed.reason, problem, allowed.optional)
    assert left is not None and right is not None
    a, b, places = aligned(left, right)
    if not a.size:
        return Measurement(name, FAIL, allowed.reason, "no element in common", allowed.optional)
    with np.errstate(over="ignore"):  # an infinite difference is beyond every tolerance
        apart = a.astype(np.float64, copy=False) - b.astype(np.float64, copy=False)
        np.abs(apart, out=apart)
    tolerance = np.asarray(np.nan if allowed.value is None else allowed.value)
    worst = _worst(apart, tolerance)
    if allowed.bits and (differing := _bits_differ(a, b)).any():
        worst = int(np.argmax(np.where(differing, apart, -1)))
        problem = f"{differing.sum():,} of {a.size:,} elements differ in their bits"
    flat = worst if places is None else int(places[worst])
    larger = max(abs(float(a[worst])), abs(float(b[worst])))
    return Measurement(
        name,
        FAIL if problem else _verdict(apart, tolerance, allowed),
        allowed.reason,
        problem,
        allowed.optional,
        elements=a.size,
        absolute=float(apart[worst]),
        relative=float(apart[worst]) / larger if larger else 0.0,
        ulps=int(ulp_distance(a[worst : worst + 1], b[worst : worst + 1])[0]),
        index=tuple(map(int, np.unravel_index(flat, left.shape))),
        left=float(a[worst]),
        right=float(b[worst]),
        tolerance=None
        if allowed.value is None
        else float(np.broadcast_to(tolerance, a.shape)[worst]),
    )


def aligned(left: Tensor, right: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The elements that both kept, flat, and their flat indices in the whole (None: all)."""
    a, b = left.values.reshape(-1), right.values.reshape(-1)
    if left.places is None and right.places is None:
        return a, b, None
    if left.places is None:
        return a[right.places], b, right.places
    if right.places is None:
        return a, b[left.places], left.places
    common, of_left, of_right = np.intersect1d(
        left.places, right.places, assume_unique=True, return_indices=True
    )
    return a[of_left], b[of_right], common


def ulp_distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Representable numbers from `left` to `right`, uint64, in their common floating type.

    Both zeros count as one number. Finite values only.
    """
    a, b = _ordinal(left), _ordinal(right)
    return np.maximum(a, b).view(np.uint64) - np.minimum(a, b).view(np.uint64)


def differing_names(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """What keeps two lists of names from being the same list, in words; empty where they are."""
    missing = [name for name in left if name not in right]
    extra = [name for name in right if name not in left]
    words = [f"missing on the right: {name}" for name in missing]
    words += [f"extra on the right: {name}" for name in extra]
    theirs = [name for name in right if name in left]
    for ours, other in zip([name for name in left if name in right], theirs, strict=True):
        if ours != other:
            return [*words, f"another order: {ours} on the left where {other} is on the right"]
    return words


def _problem(left: Tensor | None, right: Tensor | None) -> str:
    """Why two tensors fail without any element being compared; empty where they can be."""
    if left is None or right is None:
        return f"missing on the {'left' if left is None else 'right'}"
    if left.shape != right.shape:
        return f"shape {left.shape} against {right.shape}"
    if left.values.dtype != right.values.dtype:
        return f"type {left.values.dtype} against {right.values.dtype}"
    if left.values.dtype.kind != "f":
        return f"type {left.values.dtype}, expected floating point"
    # The counts cover elements that were not kept; the values are not taken on trust.
    counts = [
        max(side.nonfinite, int(side.values.size - np.isfinite(side.values).sum()))
        for side in (left, right)
    ]
    if any(counts):
        return f"not finite: {counts[0]:,} elements on the left, {counts[1]:,} on the right"
    return ""


def _worst(apart: np.ndarray, tolerance: np.ndarray) -> int:
    """The element whose difference is the largest part of its tolerance: one, or one each."""
    if tolerance.min() == tolerance.max() or np.isnan(tolerance).any():
        return int(np.argmax(apart))
    with np.errstate(divide="ignore", invalid="ignore"):
        return int(np.argmax(np.where(apart == 0, 0, apart / tolerance)))


def _verdict(apart: np.ndarray, tolerance: np.ndarray, allowed: Allowed) -> str:
    if allowed.value is None:
        return ABSTAIN
    if not (apart <= np.maximum(tolerance, allowed.undecided_to)).all():
        return FAIL
    hollow = tolerance.max() > 0 and tolerance.max() >= allowed.limit
    return PASS if (apart <= tolerance).all() and not hollow else ABSTAIN


def _bits_differ(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    kind = f"u{left.itemsize}"
    differ: np.ndarray = _contiguous(left).view(kind) != _contiguous(right).view(kind)
    return differ


def _ordinal(values: np.ndarray) -> np.ndarray:
    """Integers, int64, in the order of the numbers: neighbours differ by 1."""
    bits = _contiguous(values).view(f"i{values.itemsize}").astype(np.int64)
    lowest = -(1 << (8 * values.itemsize - 1))  # the bits of -0.0
    return np.where(bits < 0, lowest - bits, bits)


def _contiguous(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values)
