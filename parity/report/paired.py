"""The report over several seeds: one plain report per seed, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from parity import equivalence
from parity.criterion import decides
from parity.equivalence import Equivalence
from parity.recording import METRICS
from parity.report.build import SCHEMA, finite

History = Mapping[str, Sequence[float | None]]


def combine(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Judge reports of one request, by seed, as `build_report` made them; schema 1 of report.json.

    Returns:
        `seeds`; `equivalence`: per pair its `verdict`, what it was decided `by` and per metric
        `Equivalence.to_dict()`; `runs`: the plain reports. A pair fails if a level of its ladder
        does, but for `outcome`, which is the criterion of that one seed. It passes by its ladder
        alone where that passes, which proves more, and no seed ends at or beyond the tolerance.
        `verdict` is that of the port pairs, or `error` where one of them could not be judged. The
        rest is the first run's.

    Raises:
        ValueError: fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"one seed has no spread: expected two or more runs, got {len(runs)}")
    first = next(iter(runs.values()))
    tests = len(METRICS) * max(1, sum(decides(pair) for pair in first["pairs"]))
    judged = [_pair(pair, list(runs.values()), tests) for pair in first["pairs"]]
    port = {pair["verdict"] for pair in judged if decides(pair)}
    shared = ("tolerance", "experiment", "environment", "data")
    return finite(
        {
            "schema": SCHEMA,
            "verdict": _overall(port),
            **{key: first[key] for key in shared},
            "seeds": list(runs),
            "equivalence": judged,
            "runs": list(runs.values()),
        }
    )


def judge(
    histories: Sequence[tuple[History, History]],
    margin: float,
    tests: int = len(METRICS),
) -> dict[str, Equivalence]:
    """Each of `METRICS` after the last epoch, over seeds.

    Args:
        histories: per seed the left and the right arm's.
        tests: how many metrics of how many pairs are judged together.
    """
    judged = {}
    for metric in METRICS:
        left, right = (
            [math.nan if side[metric][-1] is None else side[metric][-1] for side in sides]
            for sides in zip(*histories, strict=True)
        )
        judged[metric] = equivalence.equivalence(left, right, margin=margin, tests=tests)
    return judged


def _overall(verdicts: set[str]) -> str:
    """Of the pairs that decide."""
    for verdict in ("error", "fail", "abstain"):
        if verdict in verdicts:
            return verdict
    return equivalence.overall(verdicts) if verdicts else "error"


def _pair(pair: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], tests: int) -> dict[str, Any]:
    """A pair over all seeds; `error` says why it cannot be judged, `metrics` is empty then."""
    sides = (pair["left"], pair["right"])
    found = {key: pair[key] for key in ("left", "right", "role")}
    failing = {each["level"] for each in pair["ladder"] if each["verdict"] == "fail"}
    # Only a training in float32, which decides no more than that, can fail in its outcome alone.
    ladder = "abstain" if failing == {"outcome"} else pair["ladder_verdict"]
    found["ladder_verdict"] = ladder
    same = [each for run in runs for each in run["pairs"] if (each["left"], each["right"]) == sides]
    lost = [each for each in same if each["error"]]
    if lost:
        why = "; ".join(dict.fromkeys(each["error"] for each in lost))
        undecided = "error" if any(each["verdict"] == "error" for each in lost) else "abstain"
        return {**found, "verdict": undecided, "by": None, "metrics": {}, "error": why}
    arms = [{arm["id"]: arm["history"] for arm in run["arms"]} for run in runs]
    histories = [(of_seed[sides[0]], of_seed[sides[1]]) for of_seed in arms]
    judged = judge(histories, runs[0]["tolerance"], tests)
    verdict, by = equivalence.overall(each.verdict for each in judged.values()), "seeds"
    proved = ladder == "pass" and not any(each.beyond for each in judged.values())
    if ladder == "fail" or (proved and verdict != "pass"):
        verdict, by = ladder, "ladder"
    return {
        **found,
        "verdict": verdict,
        "by": by,
        "metrics": {metric: each.to_dict() for metric, each in judged.items()},
        "error": None,
    }
