"""The report: recordings judged against each other, as one dict that strict JSON can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parity.criterion import TOLERANCE, judge, overall, pairs, verdict
from parity.recording import METRICS, Recording

if TYPE_CHECKING:
    from parity.ladder import LadderReport

SCHEMA = 1
NAMED = ("padding", "keras_backend", "device")  # fields that an arm's name tells of
SPLITS = ("train", "validation", "test", "ood")


def build_report(
    recordings: Sequence[Recording],
    experiment: Mapping[str, Any],
    errors: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
    ladders: Mapping[tuple[str, str], LadderReport] | None = None,
    unavailable: Collection[str] = (),
) -> dict[str, Any]:
    """Judge the recordings and describe everything a reader needs, with schema 1 of report.json.

    Args:
        recordings: one per arm that left one; their order is the order of `arms`.
        experiment: what was asked for, `Experiment.to_dict()`.
        errors: per arm id why it did not finish; an arm without a recording is listed last.
        tolerance: the largest difference of a final metric that passes.
        ladders: by left and right arm; a pair passes only if its ladder, where it has one, does
            not fail.
        unavailable: those of `errors` that only lack something of this machine, such as a GPU:
            their pairs abstain.

    Returns:
        Only types that JSON knows, numbers that are not finite as None. `environment` holds what
        all arms have in common, an arm's own what is left. Losses are in nats, accuracies
        fractions, times seconds, memory bytes.

    Raises:
        ValueError: two recordings are of the same arm.
    """
    errors = errors or {}
    found = {recording.arm: recording for recording in recordings}
    if len(found) != len(recordings):
        raise ValueError(f"more than one recording of an arm: {[r.arm for r in recordings]}")
    shared = _shared([recording.environment for recording in recordings])
    arms = [_arm(recording, errors.get(arm), shared) for arm, recording in found.items()]
    arms += [_lost_arm(arm, error) for arm, error in errors.items() if arm not in found]
    failed = {arm["id"]: arm["error"] for arm in arms if arm["error"]}
    judged = [
        _with_ladder(
            _pair(pair, found, failed, tolerance, unavailable),
            (ladders or {}).get((pair["left"], pair["right"])),
        )
        for pair in pairs(arm["id"] for arm in arms)
    ]
    report = {
        "schema": SCHEMA,
        "verdict": overall(judged),
        "tolerance": tolerance,
        "experiment": dict(experiment),
        "environment": shared,
        "data": recordings[0].data if recordings else _unknown_data(experiment),
        "arms": arms,
        "pairs": judged,
    }
    return finite(report)


def to_json(report: Mapping[str, Any]) -> str:
    """The text of report.json. Raises `ValueError` for a number that JSON has no word for."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity inside it replaced by None."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _arm(recording: Recording, error: str | None, shared: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in recording.environment.items() if key not in shared}
    return {
        "id": recording.arm,
        "framework": recording.framework,
        "backend": recording.backend,
        "padding": recording.experiment.padding,
        "parameters": recording.parameters,
        "history": recording.history,
        "steps": recording.steps,
        **{split: recording.evaluation.get(split) for split in SPLITS},
        "seconds_per_step": recording.timings.get("seconds_per_step"),
        "timings": recording.timings,
        "peak_memory_bytes": recording.peak_memory_bytes,
        "environment": own,
        "digest": recording.digest,
        "error": error or recording.error,
    }


def _lost_arm(arm: str, error: str) -> dict[str, Any]:
    """An arm that left no recording: the same keys, nothing measured."""
    framework, padding = arm.partition("-")[0], arm[-1]
    return {
        "id": arm,
        "framework": framework,
        "backend": None,
        "padding": int(padding),
        "parameters": None,
        "history": {metric: [] for metric in METRICS},
        "steps": {"loss": [], "accuracy": []},
        **dict.fromkeys(SPLITS),
        "seconds_per_step": None,
        "timings": {},
        "peak_memory_bytes": None,
        "environment": {},
        "digest": None,
        "error": error,
    }


def _pair(
    pair: Mapping[str, str],
    found: Mapping[str, Recording],
    failed: Mapping[str, str],
    tolerance: float,
    unavailable: Collection[str],
) -> dict[str, Any]:
    """Judge one pair; `error` says why where that is impossible, and `criterion` is empty then."""
    sides = (pair["left"], pair["right"])
    reasons = [f"{arm}: {failed[arm]}" for arm in sides if arm in failed]
    if not reasons:
        left, right = (found[arm] for arm in sides)
        try:
            _check_comparable(left, right)
            criterion = judge(left.history, right.history, tolerance)
        except ValueError as error:
            reasons.append(str(error))
    if reasons:
        lacking = {arm for arm in sides if arm in failed} <= set(unavailable)
        undecided = "abstain" if lacking and failed.keys() & set(sides) else "error"
        return {**pair, "verdict": undecided, "criterion": {}, "error": "; ".join(reasons)}
    return {**pair, "verdict": verdict(criterion), "criterion": criterion, "error": None}


def _with_ladder(pair: dict[str, Any], ladder: LadderReport | None) -> dict[str, Any]:
    """The pair with its ladder's levels and origins, and the verdict of both together."""
    if ladder is None:
        return {**pair, "ladder": [], "ladder_verdict": None, "origins": []}
    verdicts = (pair["verdict"], ladder.verdict)
    return {
        **pair,
        "verdict": next((each for each in ("error", "fail") if each in verdicts), pair["verdict"]),
        "error": pair["error"] or ladder.error,
        "ladder": ladder.to_list(),
        "ladder_verdict": ladder.verdict,
        "origins": ladder.to_dict()["origins"],
    }


def _check_comparable(left: Recording, right: Recording) -> None:
    """Raise `ValueError` unless both ran all of one experiment, padding apart, on the same data."""
    for recording in (left, right):
        ran, asked = len(recording.history["loss"]), recording.experiment.epochs
        if ran != asked:
            raise ValueError(f"{recording.arm} recorded {ran} of {asked} epochs")
    theirs = right.experiment.to_dict()
    differing = [
        f"{name} {value!r} against {theirs[name]!r}"
        for name, value in left.experiment.to_dict().items()
        if name not in NAMED and value != theirs[name]
    ]
    if left.data.get("digest") != right.data.get("digest"):
        differing.append("the digest of the data")
    if differing:
        raise ValueError(f"{left.arm} and {right.arm} differ in {', '.join(differing)}")


def _shared(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that all environments have alike."""
    first, *others = environments or [{}]
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def _unknown_data(experiment: Mapping[str, Any]) -> dict[str, Any]:
    return {"source": experiment.get("data"), "digest": None, "splits": {}}
