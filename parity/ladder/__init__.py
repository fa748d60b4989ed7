"""The parity ladder: eight levels, each of which proves that two sides agree, or says where not.

    >>> report = run("runs/x/keras-p0", "runs/x/torch-p0")      # doctest: +SKIP
    >>> report.verdict, [origin.text for origin in report.origins]      # doctest: +SKIP

It reads recordings and probes, and computes with NumPy alone, so the two sides can have been
recorded on different machines. Importing it loads neither a framework nor rich; `table` does the
latter. docs/ladder.md explains the levels and their tolerances.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from parity.criterion import TOLERANCE
from parity.ladder import numbers, origin, outcome, structure, trajectory, transfer
from parity.ladder.pair import Pair
from parity.ladder.results import LadderReport, LevelResult
from parity.ladder.sides import Given, load
from shared_data.errors import InputError

__all__ = ["LEVELS", "LadderReport", "LevelResult", "load", "run"]

Level = Callable[[Pair], list[LevelResult]]
LEVELS: dict[str, Level] = {
    "structure": structure.structure,
    "transfer": transfer.transfer,
    "forward": numbers.level("forward"),
    "loss": numbers.level("loss"),
    "gradient": numbers.level("gradient"),
    "update": numbers.level("update"),
    "trajectory": trajectory.trajectory,
    "outcome": outcome.outcome,
}


def run(left: Given, right: Given, tolerance: float = TOLERANCE) -> LadderReport:
    """Compare `right` with the reference `left` on every level.

    Args:
        left, right: folders of recordings and probes, or these themselves. A side may have only
            one of both; levels without data abstain.
        tolerance: the largest difference of a final metric, for the level `outcome`.

    Returns:
        A report; of verdict "error" where a side is missing, damaged or unfinished.
    """
    try:
        pair = Pair(load(left), load(right))
    except InputError as error:
        return LadderReport.unusable(_label(left), _label(right), str(error))
    levels: dict[str, Level] = {**LEVELS, "outcome": partial(outcome.outcome, tolerance=tolerance)}
    results = tuple(result for level in levels.values() for result in level(pair))
    differing = structure.mismatches(*pair.sides)
    origins = origin.find(pair, results, differing)
    return LadderReport(pair.left.label, pair.right.label, results, origins, differing)


def _label(given: Given) -> str:
    """What to call a side that may not be usable."""
    return str(given) if isinstance(given, str | Path) else "a side"
