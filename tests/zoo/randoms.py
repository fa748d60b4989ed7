"""Random twins through `parity.check`: faithful ones, and each with one random mistake."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from parity.check import pairs
from tests.zoo.random_twins import Fault, Plan, faults, plans


def check_all(count: int) -> list[dict[str, Any]]:
    """`count` plans, always the same ones: what came out for the twin, and for its mistake."""
    rows: list[dict[str, Any]] = []

    @settings(
        max_examples=2 * count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plan=plans(), choice=st.integers(0, 2**16))
    def run(plan: Plan, choice: int) -> None:
        found = faults(plan)
        # TensorFlow has no gradients of grouped convolutions on CPU. A plan of nothing but sums
        # leaves no room for a mistake.
        grouped = any(layer.settings.get("groups", 1) > 1 for layer in plan.layers)
        if found and not grouped and len(rows) < count:
            rows.append(row(len(rows), plan, found[choice % len(found)]))

    run()
    return rows


def row(number: int, plan: Plan, fault: Fault) -> dict[str, Any]:
    twin, mistaken = check(plan, plan), check(plan, fault.plan)
    placed = [names for names in named(mistaken) if names & set(fault.layers)]
    result = {
        "number": number,
        "layers": [layer.kind for layer in plan.layers],
        "twin": twin["verdict"],
        "twin_levels": {each["level"]: each["verdict"] for each in twin["levels"]},
        "fault": fault.what,
        "in": list(fault.layers),
        "verdict": mistaken["verdict"],
        "level": next((e["level"] for e in mistaken["levels"] if e["verdict"] == "fail"), ""),
        "placed": bool(placed),
        "first": bool(placed) and placed[0] == named(mistaken)[0],
        "plan": plan.to_json() if twin["verdict"] != "pass" or not placed else None,
        "environment": twin["environment"],
    }
    shown = ("number", "twin", "fault", "verdict", "level", "placed", "first")
    print(*(f"{key} {result[key]}" for key in shown), sep=", ", file=sys.stderr, flush=True)
    return result


def check(keras_plan: Plan, torch_plan: Plan) -> dict[str, Any]:
    """The report of a check to the last level, as a dict."""
    from tests.zoo import build_keras, build_torch

    ours, theirs = keras_plan.as_dict(), torch_plan.as_dict()
    rng = np.random.default_rng(0)
    shape = (4, *keras_plan.shape)
    inputs = rng.integers(0, keras_plan.words, shape) if keras_plan.words else None
    report = pairs.check(
        lambda: build_keras.build(ours),
        lambda: build_torch.build(theirs),
        rng.standard_normal(shape) if inputs is None else inputs,
        level="trajectory",
    )
    return report.to_dict()


def named(report: dict[str, Any]) -> list[set[str]]:
    """The words in the names of the layers that a report blames: origins, then what is declared."""
    blamed = [*report["origins"], *report["semantics"]]
    return [set(re.findall(r"\w+", f"{each['keras']} {each['torch']}")) for each in blamed]
