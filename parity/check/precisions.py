"""What float64 does not show: a way to compute that is unstable in float32 on one side alone, and a
precision that a model declares. Neither decides against a port that is the same in float64: what is
beyond rounding is left undecided, and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from parity.ladder.measure import ABSTAIN, PASS, Measurement
from parity.ladder.tolerances import EPS

LOW = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # their units in the last place, of 1
# A faithful port in another order of sums is off by some times what the other side is; a sum of
# squares minus a squared mean by as many times as the mean is larger than the spread, squared.
FACTOR = 100.0
SEEN = 0.01  # of an output's scale: less is seen by no user


def unstable(
    name: str, exact: Sequence[np.ndarray], single: Sequence[np.ndarray], floors: Sequence[float]
) -> Measurement:
    """Whether one side alone loses its digits in float32.

    Args:
        exact, single: Keras' output and PyTorch's, in float64 and in float32, in one layout.
        floors: how far each side in float32 is from itself when it is nudged.
    """
    scale = float(np.abs(np.nan_to_num(exact[0].astype(np.float64))).max(initial=0.0))
    off = [_typical(one, other) for one, other in zip(exact, single, strict=True)]
    rounding = max(EPS["float32"] * scale, min(floors, default=0.0), min(off))
    allowed = max(FACTOR * rounding, SEEN * scale)
    worst = max(off)
    reason = f"{FACTOR:g} x float32's rounding on the better side, {rounding:.1e}"
    if not worst > allowed:
        return Measurement(name, PASS, reason, elements=exact[0].size)
    side = ("Keras", "PyTorch")[int(np.argmax(off))]
    reason = (
        f"{side} alone is unstable in float32: {worst:.1e} from its own float64, where the other "
        f"side is {min(off):.1e} from its own"
    )
    return Measurement(name, ABSTAIN, reason, elements=exact[0].size)


def declared(terms: Mapping[str, Sequence[str]]) -> str:
    """What both sides say of their precision, in words; empty where neither says anything."""
    said = [f"{side}: {', '.join(each)}" for side, each in terms.items() if each]
    return f"declared precision: {'; '.join(said)}" if said else ""


def unit(terms: Mapping[str, Sequence[str]]) -> float:
    """One unit in the last place of 1, of the lowest precision that is declared; 0 of none."""
    words = " ".join(word for each in terms.values() for word in each)
    return max((eps for kind, eps in LOW.items() if kind in words), default=0.0)


def as_declared(
    name: str, keras: np.ndarray, torch: np.ndarray, exact: np.ndarray, eps: float
) -> Measurement:
    """Both sides' outputs, each in its own precision; a model rounds at every layer, by `eps`."""
    scale = float(np.abs(np.nan_to_num(exact.astype(np.float64))).max(initial=0.0))
    allowed, apart = 32.0 * eps * scale, _typical(keras, torch)
    reason = f"32 units in the last place of the precision that is declared, {eps * scale:.1e}"
    if apart <= allowed:
        return Measurement(name, PASS, reason, elements=keras.size)
    said = f"each side in the precision that it declares, they are {apart:.1e} apart; {reason}"
    return Measurement(name, ABSTAIN, said, elements=keras.size)


def _typical(one: np.ndarray, other: np.ndarray) -> float:
    """The median distance: one rounding that a step function makes visible is none of it."""
    if one.shape != other.shape or not one.size:
        return np.inf if one.shape != other.shape else 0.0
    a, b = (each.astype(np.float64) for each in (one, other))
    known = np.isfinite(a) & np.isfinite(b)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(known, np.abs(a - b), 0.0)
    apart[np.isfinite(a) != np.isfinite(b)] = np.inf
    return float(np.median(apart))
