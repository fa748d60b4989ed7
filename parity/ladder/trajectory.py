"""The level `trajectory`: the same numbers all along a training, the same weights at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from parity.ladder.floors import LOSS
from parity.ladder.measure import FAIL, Allowed, Measurement, Tensor, compare
from parity.ladder.pair import Pair
from parity.ladder.results import LevelResult, abstain, summarise
from parity.ladder.sides import PRECISIONS, Side, in_order
from parity.ladder.tolerances import TRAJECTORY_LOSS, TRAJECTORY_WEIGHT, reason
from parity.recording import METRICS, Recording

# Names of comparisons: of the number of steps and epochs; of all losses; of a final weight.
COUNT, BY_STEP, FINAL = "training", "loss by step", "final "
BY_EPOCH, OTHER, EVALUATION = "by epoch ", "by step ", "evaluation "
SHORT = "trajectory "  # begins the names of those of the probes' short trainings
NO_RECORDING = "no recording of {}: record it without --probe-only"
UNDECIDED = "training in float32 amplifies rounding: decide it with --precision float64"


def trajectory(pair: Pair) -> list[LevelResult]:
    """The whole training where both were recorded, then the probes' short ones per precision."""
    lacking = pair.without("recording")
    results = [] if lacking else [_whole(pair)]
    if not pair.without("probe"):
        for precision in PRECISIONS:
            if any(side.names(f"{precision}/free/trajectory") for side in pair.sides):
                found = pair.free(precision, "trajectory")
                results.append(summarise("trajectory", precision, found, "short training"))
    return results or [abstain("trajectory", NO_RECORDING.format(lacking))]


def first_beyond(pair: Pair, result: LevelResult) -> tuple[int, str] | None:
    """The first step, from 1, whose losses are too far apart or not finite, and these losses."""
    if any(each.name == BY_STEP for each in result.tensors):
        return _first_beyond(*_whole_losses(pair))
    name = f"{result.precision}/free/trajectory/{LOSS}"
    left, right = (side.tensor(name) for side in pair.sides)
    if left is None or right is None or result.precision is None:
        return None
    return _first_beyond(left, right, pair.allowance.of(result.precision, "trajectory", LOSS))


def unfinished(side: Side) -> list[str]:
    """What a recording lacks of the training that its experiment asks for."""
    recording = side.recording
    assert recording is not None
    problems = [f"{side.label} ended early: {recording.error}"] if recording.error else []
    asked = recording.experiment.epochs
    for metric in METRICS:
        epochs = len(recording.history[metric])
        if epochs != asked:
            problems.append(f"{side.label} recorded {metric} of {epochs} of {asked} epochs")
            break
    expected, took = _expected_steps(recording), len(recording.steps[LOSS])
    if expected not in (None, took):
        problems.append(f"{side.label} recorded {took} of {expected} steps")
    return problems


def _whole(pair: Pair) -> LevelResult:
    counts = [len(side.recording.steps[LOSS]) for side in pair.sides if side.recording]
    problems = [each for side in pair.sides for each in unfinished(side)]
    if counts[0] != counts[1]:
        problems.append(f"{counts[0]} steps against {counts[1]}")
    said = "every step and epoch must be there"
    found = [Measurement(COUNT, FAIL, said, problem) for problem in problems]
    left, right, allowed = _whole_losses(pair)
    found.append(compare(BY_STEP, left, right, allowed))
    found += _other_numbers(pair, allowed)
    weights = _weight_allowed(pair, counts[0])
    ours, theirs = (side.recorded("final") for side in pair.sides)
    for name in in_order(pair.left.parameters(), {**ours, **theirs}):
        a, b = (Tensor.whole(each[name]) if name in each else None for each in (ours, theirs))
        found.append(compare(FINAL + name, a, b, weights))
    ours, theirs = (side.recorded("answers") for side in pair.sides)
    for name in dict.fromkeys([*ours, *theirs]):  # as exact as the weights that answer
        a, b = (Tensor.whole(each[name]) if name in each else None for each in (ours, theirs))
        found.append(compare(f"answers {name}", a, b, weights))
    subject = f"whole training of {counts[0]} steps"
    if beyond := _first_beyond(left, right, allowed):
        subject += f", loss first beyond at step {beyond[0]} ({beyond[1]})"
    result = summarise("trajectory", pair.left.experiment.precision, found, subject)
    return replace(result, binding=True)


def _other_numbers(pair: Pair, losses: Allowed) -> Iterator[Measurement]:
    """Whatever else was counted in the training: every epoch, step and evaluation.

    Within the tolerance of the losses, which in float32 is the floor of the last step that has one.
    """
    value = None if losses.value is None else float(np.max(losses.value, initial=0.0))
    allowed = replace(losses, value=value)
    ours, theirs = (_numbers(side.recording) for side in pair.sides if side.recording)
    for name in dict.fromkeys([*ours, *theirs]):
        yield compare(name, ours.get(name), theirs.get(name), allowed)


def _numbers(recording: Recording) -> dict[str, Tensor]:
    """By name; what has no number, such as the ROC curve of a single class, is left out."""
    found: dict[str, Any] = {BY_EPOCH + name: value for name, value in recording.history.items()}
    found |= {OTHER + name: value for name, value in recording.steps.items() if name != LOSS}
    for split, metrics in recording.evaluation.items():
        found |= {f"{EVALUATION}{split} {name}": value for name, value in (metrics or {}).items()}
    return {
        name: Tensor.whole(np.array(value, np.float64))
        for name, value in found.items()
        if value not in (None, [])
    }


def _whole_losses(pair: Pair) -> tuple[Tensor, Tensor, Allowed]:
    """The losses of the steps that both took, (steps,), and how far apart they may be."""
    losses = [side.recording.steps[LOSS] for side in pair.sides if side.recording]
    steps = min(map(len, losses))
    left, right = (
        np.array(each[:steps], dtype=side.experiment.precision)
        for each, side in zip(losses, pair.sides, strict=True)
    )
    if _in_float64(pair):
        allowed = Allowed(TRAJECTORY_LOSS, reason("trajectory"))
    elif pair.without("probe") or not steps:
        allowed = Allowed(None, UNDECIDED)
    else:
        allowed = pair.allowance.whole_loss(left)
    return Tensor.whole(left), Tensor.whole(right), allowed


def _weight_allowed(pair: Pair, steps: int) -> Allowed:
    if _in_float64(pair):
        return Allowed(TRAJECTORY_WEIGHT, reason("trajectory"))
    if pair.without("probe"):
        return Allowed(None, UNDECIDED)
    return pair.allowance.whole_weight(steps)


def _in_float64(pair: Pair) -> bool:
    return {side.experiment.precision for side in pair.sides} == {"float64"}


def _first_beyond(left: Tensor, right: Tensor, allowed: Allowed) -> tuple[int, str] | None:
    if allowed.value is None or left.shape != right.shape:
        return None
    with np.errstate(invalid="ignore"):
        apart = np.abs(left.values.astype(np.float64) - right.values.astype(np.float64))
    beyond = np.flatnonzero(~(apart <= allowed.value))
    if not beyond.size:
        return None
    first = int(beyond[0])
    return first + 1, f"{left.values[first]:.9g} against {right.values[first]:.9g}"


def _expected_steps(recording: Recording) -> int | None:
    images = (recording.data.get("splits") or {}).get("train")
    if not images:
        return None
    experiment = recording.experiment
    return math.ceil(sum(images.values()) / experiment.batch_size) * experiment.epochs
