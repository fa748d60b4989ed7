"""The level `transfer`: do the same weights arrive on both sides, and come back, to the bit?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from parity import weights
from parity.ladder.measure import Allowed, Measurement, Tensor, compare
from parity.ladder.results import LevelResult, abstain, summarise
from parity.ladder.sides import PRECISIONS, Side, in_order
from parity.ladder.tolerances import reason
from parity.probe import sample

AS_DRAWN = " as drawn"  # ends the name of a comparison of the left with the drawn weights
BITS = Allowed(0.0, reason("bits"), bits=True)


def transfer(left: Side, right: Side) -> list[LevelResult]:
    """One result per precision in which both sides keep weights from before any training."""
    results = []
    for precision in PRECISIONS:
        measured = probed(left, right, precision) + recorded(left, right, precision)
        if measured:
            results.append(summarise("transfer", precision, measured))
    return results or [
        abstain("transfer", "no weights from before training on both sides: record them again")
    ]


def probed(left: Side, right: Side, precision: str) -> list[Measurement]:
    """Weights after two journeys into each framework and back, and against those drawn."""
    if precision not in left.precisions() & right.precisions():
        return []
    prefix = f"{precision}/transfer"
    theirs = right.names(prefix)
    names = list(dict.fromkeys([*left.parameters(), *left.names(prefix), *theirs]))
    names = names if left.names(prefix) or theirs else []
    drawn = _drawn(left, precision)
    found = []
    for name in names:
        full = f"{prefix}/{name}"
        ours = left.tensor(full)
        found.append(compare(name, ours, right.tensor(full), BITS))
        if ours is not None:  # the probe loads the drawn weights whatever the arm trains from
            expected = drawn.get(name)
            if expected is not None and ours.places is not None and ours.shape == expected.shape:
                kept = sample(full, expected)
                found.append(_as_drawn(name, Tensor(kept, ours.shape, ours.places), ours))
            else:
                found.append(_as_drawn(name, _whole(expected), ours))
    return found


def recorded(left: Side, right: Side, precision: str) -> list[Measurement]:
    """The weights from which both arms trained."""
    if not left.recording or not right.recording:
        return []
    if precision not in (left.experiment.precision, right.experiment.precision):
        return []
    ours, theirs = left.recorded("initial"), right.recorded("initial")
    drawn = _drawn(left, precision) if left.experiment.init == "shared" else None
    found = []
    for name in in_order(left.parameters(), {**ours, **theirs}):
        a = _whole(ours.get(name))
        found.append(compare(f"initial {name}", a, _whole(theirs.get(name)), BITS))
        if drawn is not None and a is not None:
            found.append(_as_drawn(f"initial {name}", _whole(drawn.get(name)), a))
    return found


def _as_drawn(name: str, drawn: Tensor | None, ours: Tensor) -> Measurement:
    return compare(name + AS_DRAWN, drawn, ours, BITS)


def _drawn(side: Side, precision: str) -> Mapping[str, np.ndarray]:
    experiment = dataclasses.replace(side.experiment, precision=precision)
    return weights.draw(experiment, side.classes)


def _whole(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else Tensor.whole(values)
