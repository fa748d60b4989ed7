"""The levels `forward`, `loss`, `gradient` and `update`: every tensor of one step, per precision.

Each compares the two networks running freely and, where the right side was recorded with the left
as `--reference`, its layers alone, fed with what the left's layers got.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from parity.ladder.measure import Measurement
from parity.ladder.pair import Pair
from parity.ladder.results import LevelResult, abstain, summarise
from parity.ladder.sides import PRECISIONS

FREE = {
    "forward": ("activation",),
    "loss": ("loss",),
    "gradient": ("upstream", "gradient"),
    "update": ("update", "moment1", "moment2"),
}
AGAIN = "record it again, Keras on its TensorFlow backend"
ALONE = {"forward": ("activation",), "gradient": ("upstream", "gradient")}


def level(name: str) -> Callable[[Pair], list[LevelResult]]:
    """The function of one of the levels in `FREE`."""
    return partial(_level, name)


def _level(name: str, pair: Pair) -> list[LevelResult]:
    if lacking := pair.without("probe"):
        return [abstain(name, f"no probe of {lacking}: record it without --no-probe")]
    return [_judge(name, pair, precision) for precision in PRECISIONS]


def _judge(name: str, pair: Pair, precision: str) -> LevelResult:
    if lacking := pair.lacking(precision):
        return abstain(name, f"nothing was probed in {precision} on {lacking}: {AGAIN}", precision)
    found: list[Measurement] = []
    for kind in FREE[name]:
        found += pair.free(precision, kind)
    for kind in ALONE.get(name, ()):
        found += pair.alone(precision, kind).values()
    return summarise(name, precision, found)
