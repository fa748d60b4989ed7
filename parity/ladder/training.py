"""The levels `trajectory` and `outcome`: whole trainings, step by step, and what came of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from parity.criterion import TOLERANCE, judge
from parity.ladder import numbers
from parity.ladder.allowance import Allowance
from parity.ladder.floors import LOSS
from parity.ladder.measure import FAIL, PASS, Allowed, Measurement, Tensor, compare
from parity.ladder.results import LevelResult, abstain, listed, summarise
from parity.ladder.sides import PRECISIONS, Side, in_order
from parity.ladder.tolerances import TRAJECTORY_LOSS, TRAJECTORY_WEIGHT, reason
from parity.recording import METRICS, Recording

SPLITS = ("train", "validation", "test")
NO_RECORDING = "no recording of {}: record it without --probe-only"
UNDECIDED = "training in float32 amplifies rounding: decide it with --precision float64"


def trajectory(left: Side, right: Side) -> list[LevelResult]:
    """The whole training where both were recorded, then the probes' short ones per precision."""
    results = []
    if left.recording and right.recording:
        results.append(_whole(left, right))
    if left.probe and right.probe:
        allowance = Allowance(left, right)
        for precision in PRECISIONS:
            if any(side.names(f"{precision}/free/trajectory") for side in (left, right)):
                found = numbers.free(left, right, precision, "trajectory", allowance)
                results.append(summarise("trajectory", precision, found, "short training"))
    lacking = [side.label for side in (left, right) if not side.recording]
    return results or [abstain("trajectory", NO_RECORDING.format(" and ".join(lacking)))]


def outcome(left: Side, right: Side, tolerance: float = TOLERANCE) -> list[LevelResult]:
    """The study's criterion on the last epoch, and the same on every split's final evaluation."""
    if not left.recording or not right.recording:
        lacking = [side.label for side in (left, right) if not side.recording]
        return [abstain("outcome", NO_RECORDING.format(" and ".join(lacking)))]
    a, b = left.recording, right.recording
    problems = [*unfinished(left), *unfinished(right)]
    judged: dict[str, dict[str, Any]] = {}
    try:
        judged |= judge(a.history, b.history, tolerance)
    except ValueError as error:
        problems.append(str(error))
    lacking = []
    for split in dict.fromkeys([*SPLITS, *a.evaluation, *b.evaluation]):
        absent = [side.label for side in (left, right) if not _evaluated(side, split)]
        if len(absent) == 2:
            lacking.append(split)
        elif absent:
            problems.append(f"{absent[0]} has no evaluation of {split}")
        else:
            metrics = judge(_evaluated(left, split), _evaluated(right, split), tolerance)
            judged |= {f"{split} {name}": metrics[name] for name in ("loss", "accuracy")}
    return [_outcome(left, judged, problems, lacking, tolerance)]


def whole_losses(left: Side, right: Side) -> tuple[Tensor, Tensor, Allowed] | None:
    """The losses of the steps that both took, (steps,), and how far apart they may be."""
    if not left.recording or not right.recording:
        return None
    ours, theirs = left.recording.steps[LOSS], right.recording.steps[LOSS]
    steps = min(len(ours), len(theirs))
    a, b = (
        np.array(losses[:steps], dtype=side.experiment.precision)
        for losses, side in ((ours, left), (theirs, right))
    )
    return Tensor.whole(a), Tensor.whole(b), _allowed(left, right, a)[0]


def first_beyond(left: Tensor, right: Tensor, allowed: Allowed) -> int | None:
    """The first step, counted from 1, whose losses are further apart than allowed, or not finite."""
    if allowed.value is None or left.shape != right.shape:
        return None
    with np.errstate(invalid="ignore"):
        apart = np.abs(left.values.astype(np.float64) - right.values.astype(np.float64))
    beyond = np.flatnonzero(~(apart <= allowed.value))
    return int(beyond[0]) + 1 if beyond.size else None


def unfinished(side: Side) -> list[str]:
    """What a recording lacks of the training that its experiment asks for."""
    recording = side.recording
    assert recording is not None
    problems = [f"{side.label} ended early: {recording.error}"] if recording.error else []
    epochs = {len(recording.history[metric]) for metric in METRICS}
    if epochs != {recording.experiment.epochs}:
        recorded = " to ".join(map(str, sorted({min(epochs), max(epochs)})))
        asked = recording.experiment.epochs
        problems.append(f"{side.label} recorded {recorded} of {asked} epochs")
    expected, took = _expected_steps(recording), len(recording.steps[LOSS])
    if expected not in (None, took):
        problems.append(f"{side.label} recorded {took} of {expected} steps")
    return problems


def _whole(left: Side, right: Side) -> LevelResult:
    assert left.recording is not None and right.recording is not None
    missing = partial(Measurement, verdict=FAIL, reason="every step and epoch must be there")
    counts = [len(side.recording.steps[LOSS]) for side in (left, right) if side.recording]
    found = [missing("training", problem=each) for each in [*unfinished(left), *unfinished(right)]]
    if counts[0] != counts[1]:
        found.append(missing("training", problem=f"{counts[0]} steps against {counts[1]}"))
    losses = whole_losses(left, right)
    assert losses is not None
    a, b, allowed = losses
    found.append(compare("loss by step", a, b, allowed))
    ours, theirs = left.recorded("final"), right.recorded("final")
    weight = _allowed(left, right, a.values)[1]
    for name in in_order(left.parameters(), {**ours, **theirs}):
        pair = (Tensor.whole(side[name]) if name in side else None for side in (ours, theirs))
        found.append(compare(f"final {name}", *pair, weight))
    subject = f"whole training of {counts[0]} steps"
    if step := first_beyond(*losses):
        values = f"{a.values[step - 1]:.9g} against {b.values[step - 1]:.9g}"
        subject += f", loss first beyond at step {step} ({values})"
    return summarise("trajectory", left.experiment.precision, found, subject)


def _allowed(left: Side, right: Side, losses: np.ndarray) -> tuple[Allowed, Allowed]:
    """For losses and for final weights."""
    if {left.experiment.precision, right.experiment.precision} == {"float64"}:
        said = reason("trajectory")
        return Allowed(TRAJECTORY_LOSS, said), Allowed(TRAJECTORY_WEIGHT, said)
    if left.probe and right.probe and losses.size:
        allowance = Allowance(left, right)
        return allowance.whole_loss(losses), allowance.whole_weight(losses.size)
    return Allowed(None, UNDECIDED), Allowed(None, UNDECIDED)


def _expected_steps(recording: Recording) -> int | None:
    images = (recording.data.get("splits") or {}).get("train")
    if not images:
        return None
    experiment = recording.experiment
    return math.ceil(sum(images.values()) / experiment.batch_size) * experiment.epochs


def _evaluated(side: Side, split: str) -> dict[str, list[float]]:
    """A split's loss and accuracy as `judge` takes them: a history of one epoch."""
    metrics = side.recording.evaluation.get(split) if side.recording else None
    if not metrics:
        return {}
    return {metric: [metrics[metric.removeprefix("val_")]] for metric in METRICS}


def _outcome(
    left: Side,
    judged: dict[str, dict[str, Any]],
    problems: Sequence[str],
    lacking: Sequence[str],
    tolerance: float,
) -> LevelResult:
    beyond = [name for name, metric in judged.items() if not metric["within"]]
    verdict = FAIL if problems or beyond else PASS
    worst = max(beyond or judged, key=lambda name: _size(judged[name]), default="")
    parts = list(problems)
    if worst:
        values = judged[worst]
        parts.append(
            f"{len(judged)} metrics, worst {worst}: {values['left']:.9g} against "
            f"{values['right']:.9g}"
        )
    if beyond:
        parts.append(f"{len(beyond)} beyond: {listed(beyond)}")
    if lacking:
        parts.append(f"neither side evaluated {listed(lacking)}")
    precision = left.experiment.precision
    if verdict == PASS and lacking:
        return abstain("outcome", "; ".join([*parts, "record both again"]), precision)
    measured = judged[worst]["difference"] if worst else None
    detail = "; ".join(parts)
    said = reason("outcome", f"{tolerance:g}, absolute")
    return LevelResult(
        "outcome", verdict, precision, measured, tolerance, said, measured, worst, detail
    )


def _size(metric: dict[str, Any]) -> float:
    return metric["difference"] if math.isfinite(metric["difference"]) else math.inf
