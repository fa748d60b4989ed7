"""What a study is: per variant and framework one arm, ours or the one that was published.

Both have the same shape, so that tables, figures and judgements treat them alike.
Accuracies are fractions, losses nats.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Protocol

from parity import published
from parity.recording import METRICS

FRAMEWORKS = {"keras": "Keras", "torch": "PyTorch"}
BASELINE = "baseline"
BASELINES = {"keras": "Keras Reference", "torch": "PyTorch Conversion"}
MODIFICATIONS = {
    "lr_10x": "10xLR",
    "lr_100x": "100xLR",
    "additional_layers": "Additional Layers",
    "image_transforms": "Image Transforms",
}


class Arm(Protocol):
    """The part of a `parity.recording.Recording` that the study looks at."""

    @property
    def history(self) -> Mapping[str, Sequence[float | None]]: ...
    @property
    def evaluation(self) -> Mapping[str, Any]: ...
    @property
    def data(self) -> Mapping[str, Any]: ...
    @property
    def error(self) -> str | None: ...


Study = Mapping[str, Mapping[str, Arm]]  # variant -> framework -> arm; arms may be missing


@dataclass(frozen=True)
class PublishedArm:
    """A model of the report, from what its notebooks put out."""

    history: dict[str, list[float]]
    evaluation: dict[str, dict[str, float]]
    data: dict[str, Any]
    error: str | None = field(default=None, init=False)


def published_study() -> dict[str, dict[str, PublishedArm]]:
    """All ten models of the report, in its order."""
    counts = published.table_1()
    splits = {split: counts[split] for split in ("train", "test", "validation")}
    data = {"splits": {**splits, "ood": printed()["table_2"]["test"]}, "duplicates": []}
    return {
        variant: {
            framework: PublishedArm(
                history=published.history(variant, framework),
                evaluation={
                    "test": published.test(variant, framework),
                    "ood": published.ood(variant, framework),
                },
                data=data,
            )
            for framework in FRAMEWORKS
        }
        for variant in published.variants()
    }


def arm_of(study: Study, variant: str, framework: str) -> Arm | None:
    return study.get(variant, {}).get(framework)


def measure(arm: Arm | None, name: str) -> float | None:
    """One number of an arm that finished.

    `name` is one of `METRICS`, for its value after the last epoch, or a split of the evaluation,
    for the accuracy there. None where it was not measured or is not finite.
    """
    if arm is None or arm.error:
        return None
    if name in METRICS:
        values = arm.history.get(name, ())
        value = values[-1] if values else None
    else:
        value = (arm.evaluation.get(name) or {}).get("accuracy")
    return value if value is not None and math.isfinite(value) else None


def title(variant: str, framework: str) -> str:
    """The model's name in the report.

    >>> title("baseline", "torch"), title("lr_10x", "keras")
    ('PyTorch Conversion', 'Keras 10xLR')
    """
    if variant == BASELINE:
        return BASELINES[framework]
    return f"{FRAMEWORKS[framework]} {MODIFICATIONS.get(variant, variant)}"


@cache
def printed() -> dict[str, Any]:
    """Tables 2 to 5 as the report prints them (`data/report_tables.json`). Do not change it."""
    text = resources.files("parity").joinpath("data/report_tables.json").read_text("utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables
