"""The level `transfer`: do the same weights arrive on both sides, and come back, to the bit?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from parity import weights
from parity.ladder.measure import Allowed, Measurement, Tensor, compare
from parity.ladder.pair import Pair
from parity.ladder.results import LevelResult, abstain, summarise
from parity.ladder.sides import PRECISIONS, Side, in_order
from parity.ladder.tolerances import reason
from parity.probe import sample

INITIAL = "initial "  # begins the name of a weight from which an arm trained
AS_DRAWN = " as drawn"  # ends the name of a comparison of the left with the drawn weights
BITS = Allowed(0.0, reason("bits"), bits=True)


def transfer(pair: Pair) -> list[LevelResult]:
    """One result per precision in which both sides keep weights from before any training."""
    results = []
    for precision in PRECISIONS:
        if measured := [*_probed(pair, precision), *_recorded(pair, precision)]:
            results.append(summarise("transfer", precision, measured))
    return results or [
        abstain("transfer", "no weights from before training on both sides: record them again")
    ]


def _probed(pair: Pair, precision: str) -> Iterator[Measurement]:
    """Weights after two journeys into each framework and back, and against those drawn."""
    prefix = f"{precision}/transfer"
    ours, theirs = (side.names(prefix) for side in pair.sides)
    if pair.lacking(precision) or not (ours or theirs):
        return
    drawn = _drawn(pair.left, precision)
    for name in dict.fromkeys([*pair.left.parameters(), *ours, *theirs]):
        full = f"{prefix}/{name}"
        left, right = (side.tensor(full) for side in pair.sides)
        yield compare(name, left, right, BITS)
        if left is not None:  # the probe loads the drawn weights whatever the arm trains from
            expected = _whole(drawn.get(name))
            if expected and left.places is not None and expected.shape == left.shape:
                kept = sample(full, expected.values)
                expected = Tensor(kept, expected.shape, left.places)
            yield compare(name + AS_DRAWN, expected, left, BITS)


def _recorded(pair: Pair, precision: str) -> Iterator[Measurement]:
    """The weights from which both arms trained."""
    precisions = [side.experiment.precision for side in pair.sides]
    if pair.without("recording") or precision not in precisions:
        return
    ours, theirs = (side.recorded("initial") for side in pair.sides)
    shared = pair.left.experiment.init == "shared"
    drawn = _drawn(pair.left, precision) if shared else {}
    for name in in_order(pair.left.parameters(), {**ours, **theirs}):
        left, right = (_whole(side.get(name)) for side in (ours, theirs))
        yield compare(INITIAL + name, left, right, BITS)
        if shared and left is not None:
            yield compare(INITIAL + name + AS_DRAWN, _whole(drawn.get(name)), left, BITS)


def _drawn(side: Side, precision: str) -> Mapping[str, np.ndarray]:
    experiment = dataclasses.replace(side.experiment, precision=precision)
    return weights.draw(experiment, side.classes)


def _whole(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else Tensor.whole(values)
