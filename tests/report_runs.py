"""Folders as `parity.compare` leaves them, made in a moment from the NumPy twins."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ladder_twins as twins
import numpy as np
from ladder_twins import SMALL, Twin

from parity import ladder
from parity.criterion import evaluate
from parity.feed import load_data
from parity.recording import Recording
from parity.report import build_report, paired, to_json

EXPERIMENT = dataclasses.replace(SMALL, synthetic_images=40)
LOGITS = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.5], [3.0, -1.0]])
EVALUATION = evaluate(LOGITS, np.array([0, 1, 1, 0]))
CLASSES = ("fake", "real")


def planted(layer: str) -> twins.Change:
    """One layer whose output is off by a hundredth."""

    def change(name: str, stage: str, value: np.ndarray) -> np.ndarray:
        return value * 1.01 if (name, stage) == (layer, "output") else value

    return change


def recording(twin: Twin, framework: str, logits: np.ndarray, **changes: Any) -> Recording:
    """A twin's training, with the answers `logits` to the test split, (samples, 2)."""
    found = twins.recording(twin, framework)
    found.data = {
        "source": "synthetic",
        "digest": "d" * 64,
        "classes": list(CLASSES),
        "splits": {  # as many as the twins' four batches of two
            split: dict.fromkeys(CLASSES, count)
            for split, count in (("train", 4), ("test", 2), ("validation", 2))
        },
    }
    found.environment = {"numpy": "2.4", framework: "1.0"}
    found.evaluation = dict.fromkeys(("train", "validation", "test"), EVALUATION)
    found.tensors["answers/test"] = logits
    return dataclasses.replace(found, **changes)


def pair(
    change: twins.Change = twins.unchanged, experiment: Any = EXPERIMENT, **changes: Any
) -> tuple[Recording, Recording, ladder.LadderReport]:
    """Both recordings and their ladder; the right has `change` in it."""
    left, right = Twin(experiment), Twin(experiment, backwards=True, change=change)
    ours = recording(left, "keras", LOGITS, **changes)
    theirs = recording(right, "torch", LOGITS[::-1], **changes)
    probe = twins.probe(left)
    # The sides' answers differ for the pages that show samples, and for nothing else.
    alike = dataclasses.replace(theirs, tensors={**theirs.tensors, "answers/test": LOGITS})
    found = ladder.run((probe, ours), (twins.probe(right, "torch", probe), alike))
    return ours, theirs, found


def write_run(folder: Path, change: twins.Change = twins.unchanged, **changes: Any) -> Path:
    """A comparison of one pair with its ladder: report, ladders, recordings."""
    left, right, found = pair(change, **changes)
    for side in (left, right):
        side.write(folder / side.arm)
    ladders = {(left.arm, right.arm): found}
    report = build_report((left, right), left.experiment.to_dict(), ladders=ladders)
    kept = {"schema": 1, "ladders": [found.to_dict()]}
    (folder / "report.json").write_text(to_json(report))
    (folder / "ladders.json").write_text(json.dumps(kept))
    return folder


def write_seeds(folder: Path, apart: Callable[[int], float] = lambda seed: 0.0) -> Path:
    """A comparison of three seeds; `apart` is by how much the right's final loss is higher."""
    runs = {}
    for seed in (8, 9, 10):
        experiment = dataclasses.replace(EXPERIMENT, seed=seed)
        left, right, _ = pair(experiment=experiment)
        right.history = {**right.history, "loss": [left.history["loss"][-1] + apart(seed)]}
        runs[seed] = build_report((left, right), experiment.to_dict())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(to_json(paired.combine(runs)))
    return folder


def write_drawn(folder: Path) -> Path:
    """A comparison on the drawn faces, whose images can be looked up."""
    data = load_data(EXPERIMENT)
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(len(data.test), 2)) for _ in range(2)]
    sides = []
    for framework, given in zip(("keras", "torch"), logits, strict=True):
        side = recording(Twin(EXPERIMENT), framework, given, data=data.summary())
        side.write(folder / side.arm)
        sides.append(side)
    report = build_report(sides, EXPERIMENT.to_dict())
    (folder / "report.json").write_text(to_json(report))
    return folder
