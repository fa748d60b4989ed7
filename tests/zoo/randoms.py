"""Random twins through `parity.check`: faithful ones, and each with one random mistake."""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count as numbers
from typing import Any

from parity.check import pairs
from tests.zoo.random_faults import Fault, faults
from tests.zoo.random_twins import FEATURES, OF_PLANS, Plan, features, plan_of


def drawn(count: int) -> Iterator[tuple[int, Plan, Fault]]:
    """`count` plans, always the same ones, each with a mistake.

    Each plan has the feature that was seen least so far, and its mistake is one that was made
    least.
    """
    seen, made = (
        Counter({**dict.fromkeys(FEATURES, 0), **dict.fromkeys(OF_PLANS, 0)}),
        Counter[str](),
    )
    given = 0
    for seed in numbers():
        if given == count:
            return
        plan = plan_of(seed, min(seen, key=lambda name: seen[name]))
        found = faults(plan)
        # TensorFlow has no gradients of grouped convolutions on CPU.
        if not found or any(layer.settings.get("groups", 1) > 1 for layer in plan.layers):
            continue
        fault = min(found, key=lambda each: made[each.what])
        seen.update(features(plan))
        made[fault.what] += 1
        given += 1
        yield seed, plan, fault


def key(seed: int, plan: Plan, fault: Fault) -> str:
    """Of what a row is about."""
    text = plan.to_json() + fault.plan.to_json()
    return f"{seed}/{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def row(seed: int, plan: Plan, fault: Fault) -> dict[str, Any]:
    begun = time.process_time()
    twin, mistaken = check(plan, plan), check(plan, fault.plan)
    placed = [names for names in named(mistaken) if names & set(fault.layers)]
    right = twin["verdict"] == "pass" and mistaken["verdict"] == "fail" and placed
    result = {
        "number": seed,
        "key": key(seed, plan, fault),
        "layers": [layer.kind for layer in plan.layers],
        "features": sorted(features(plan)),
        "twin": twin["verdict"],
        "twin_levels": {each["level"]: each["verdict"] for each in twin["levels"]},
        "fault": fault.what,
        "in": list(fault.layers),
        "verdict": mistaken["verdict"],
        "level": next((e["level"] for e in mistaken["levels"] if e["verdict"] == "fail"), ""),
        "placed": bool(placed),
        "first": bool(placed) and placed[0] == named(mistaken)[0],
        "plan": None if right else plan.to_json(),
        "cpu_seconds": round(time.process_time() - begun, 1),
        "environment": twin["environment"],
    }
    shown = ("number", "twin", "fault", "verdict", "level", "placed", "first", "cpu_seconds")
    print(*(f"{key} {result[key]}" for key in shown), sep=", ", file=sys.stderr, flush=True)
    return result


def check(keras_plan: Plan, torch_plan: Plan) -> dict[str, Any]:
    """The report of a check to the last level, as a dict."""
    from tests.zoo import build_keras, build_torch

    ours, theirs = keras_plan.as_dict(), torch_plan.as_dict()
    report = pairs.check(
        lambda: build_keras.build(ours),
        lambda: build_torch.build(theirs),
        shapes=keras_plan.shapes,
        level="trajectory",
    )
    return report.to_dict()


def named(report: dict[str, Any]) -> list[set[str]]:
    """The words in the names of the layers that a report blames: origins, then what is declared."""
    blamed = [*report["origins"], *report["semantics"]]
    return [set(re.findall(r"\w+", f"{each['keras']} {each['torch']}")) for each in blamed]
