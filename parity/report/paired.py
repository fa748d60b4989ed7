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

SHARE_OF = {"accuracy": "train", "val_accuracy": "validation"}  # metric -> whose images it counts

History = Mapping[str, Sequence[float | None]]


def combine(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Judge reports of one request, by seed, as `build_report` made them; schema 1 of report.json.

    Returns:
        `seeds`; `equivalence`: per pair its `verdict` and per metric `Equivalence.to_dict()`;
        `runs`: the plain reports. A pair fails if a level of its ladder does, but for `outcome`,
        which is the criterion of that one seed. `verdict` is that of the port
        pairs, or `error` where one of them could not be judged. The rest is the first run's.

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
    splits: Mapping[str, Mapping[str, int]],
    margin: float,
    tests: int = len(METRICS),
) -> dict[str, Equivalence]:
    """Each of `METRICS` after the last epoch, over seeds.

    Args:
        histories: per seed the left and the right arm's.
        splits: images of each class in each split.
        tests: how many metrics of how many pairs are judged together.
    """
    judged = {}
    for metric in METRICS:
        left, right = (
            [math.nan if side[metric][-1] is None else side[metric][-1] for side in sides]
            for sides in zip(*histories, strict=True)
        )
        counted = SHARE_OF.get(metric)
        step = 1 / sum(splits[counted].values()) if counted else 0.0
        judged[metric] = equivalence.equivalence(left, right, margin=margin, step=step, tests=tests)
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
    ladder = "pass" if failing == {"outcome"} else pair["ladder_verdict"]
    found["ladder_verdict"] = ladder
    same = [each for run in runs for each in run["pairs"] if (each["left"], each["right"]) == sides]
    lost = [each for each in same if each["error"]]
    if lost:
        why = "; ".join(dict.fromkeys(each["error"] for each in lost))
        undecided = "error" if any(each["verdict"] == "error" for each in lost) else "abstain"
        return {**found, "verdict": undecided, "metrics": {}, "error": why}
    arms = [{arm["id"]: arm["history"] for arm in run["arms"]} for run in runs]
    histories = [(of_seed[sides[0]], of_seed[sides[1]]) for of_seed in arms]
    judged = judge(histories, runs[0]["data"]["splits"], runs[0]["tolerance"], tests)
    verdict = equivalence.overall(each.verdict for each in judged.values())
    return {
        **found,
        "verdict": "fail" if ladder == "fail" else verdict,
        "metrics": {metric: each.to_dict() for metric, each in judged.items()},
        "error": None,
    }
