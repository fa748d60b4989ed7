"""The level `outcome`: the study's criterion, and the same on every split's final evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from parity.criterion import TOLERANCE, judge
from parity.ladder.measure import FAIL, PASS
from parity.ladder.pair import Pair
from parity.ladder.results import LevelResult, abstain, listed
from parity.ladder.sides import Side
from parity.ladder.tolerances import reason
from parity.ladder.trajectory import NO_RECORDING, unfinished
from parity.recording import METRICS

SPLITS = ("train", "validation", "test")
Judged = dict[str, dict[str, Any]]


def outcome(pair: Pair, tolerance: float = TOLERANCE) -> list[LevelResult]:
    """One result. `tolerance` is the largest absolute difference of a metric."""
    if lacking := pair.without("recording"):
        return [abstain("outcome", NO_RECORDING.format(lacking))]
    problems = [each for side in pair.sides for each in unfinished(side)]
    judged: Judged = {}
    try:
        histories = [side.recording.history for side in pair.sides if side.recording]
        judged |= judge(histories[0], histories[1], tolerance)
    except ValueError as error:
        problems.append(str(error))
    neither = []
    for split in _splits(pair):
        absent = [side.label for side in pair.sides if not _evaluated(side, split)]
        if len(absent) == 2:
            neither.append(split)
        elif absent:
            problems.append(f"{absent[0]} has no evaluation of {split}")
        else:
            left, right = (_evaluated(side, split) for side in pair.sides)
            metrics = judge(left, right, tolerance)
            judged |= {f"{split} {name}": metrics[name] for name in ("loss", "accuracy")}
    return [_result(pair.left.experiment.precision, judged, problems, neither, tolerance)]


def _splits(pair: Pair) -> list[str]:
    """Those that must be there, and what else a side evaluated."""
    recorded = [each for s in pair.sides if s.recording for each in s.recording.evaluation]
    return list(dict.fromkeys([*SPLITS, *recorded]))


def _evaluated(side: Side, split: str) -> dict[str, list[float]]:
    """A split's loss and accuracy as `judge` takes them: a history of one epoch."""
    metrics = side.recording.evaluation.get(split) if side.recording else None
    if not metrics:
        return {}
    return {metric: [metrics[metric.removeprefix("val_")]] for metric in METRICS}


def _result(
    precision: str,
    judged: Judged,
    problems: Sequence[str],
    neither: Sequence[str],
    tolerance: float,
) -> LevelResult:
    beyond = [name for name, metric in judged.items() if not metric["within"]]
    worst = max(beyond or judged, key=lambda name: _size(judged[name]), default="")
    parts = list(problems)
    if worst:
        values = judged[worst]
        numbers = f"{values['left']:.9g} against {values['right']:.9g}"
        parts.append(f"{len(judged)} metrics, worst {worst}: {numbers}")
    if beyond:
        parts.append(f"{len(beyond)} beyond: {listed(beyond)}")
    if neither:
        parts.append(f"neither side evaluated {listed(neither)}")
    verdict = FAIL if problems or beyond else PASS
    if verdict == PASS and neither:
        return abstain("outcome", "; ".join([*parts, "record both again"]), precision)
    measured = judged[worst]["difference"] if worst else None
    said, detail = reason("outcome", f"{tolerance:g}, absolute"), "; ".join(parts)
    return LevelResult(
        "outcome", verdict, precision, measured, tolerance, said, measured, worst, detail
    )


def _size(metric: dict[str, Any]) -> float:
    """NaN is larger than everything."""
    return metric["difference"] if math.isfinite(metric["difference"]) else math.inf
