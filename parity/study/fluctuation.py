"""Little to no dramatic fluctuation: the report asks for it (section 3.4) and gives no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from parity.criterion import TOLERANCE
from parity.recording import METRICS

DEFINITION = f"""\
The report asks for "little to no dramatic fluctuations" and gives no number. Here a curve's \
setback is how far it ever falls behind the best it had reached before (maximum drawdown, \
Magdon-Ismail and Atiya 2004), in nats for a loss and as a fraction for an accuracy; a fall from a \
bad start is progress, not fluctuation. Curves show little to no dramatic fluctuation if none of \
the four (loss and accuracy, training and validation) has a setback above {TOLERANCE:g}, the only \
size up to which the report itself calls two numbers the same (section 3.3)."""


def setbacks(history: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """The setback of each of the four curves: 0 where it never gets worse.

    Infinite where a curve holds a value that is not finite. Raises `ValueError` where a curve has
    fewer than two epochs: it could not fluctuate, which proves nothing.
    """
    return {metric: _setback(metric, history.get(metric, ())) for metric in METRICS}


def calm(found: Mapping[str, float]) -> bool:
    """Whether setbacks amount to little or no dramatic fluctuation."""
    return all(found[metric] <= TOLERANCE for metric in METRICS)


def _setback(metric: str, values: Sequence[float | None]) -> float:
    if len(values) < 2:
        raise ValueError(f"{metric}: {len(values)} epochs, expected at least 2")
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < len(values):
        return math.inf
    # As decimals, the way the numbers are read (parity.criterion does the same).
    sign = -1 if metric.endswith("accuracy") else 1
    costs = [sign * Decimal(repr(float(value))) for value in finite]
    best, worst = costs[0], Decimal(0)
    for cost in costs:
        best = min(best, cost)
        worst = max(worst, cost - best)
    return float(worst)
