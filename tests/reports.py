"""Recordings and reports for tests: arms whose histories the study published."""

import json

import numpy as np

from parity import published
from parity.criterion import evaluate
from parity.experiment import Experiment
from parity.recording import Recording
from parity.report import build_report

ARMS = ("keras-p0", "keras-p1", "torch-p0", "torch-p1")
EVALUATION = evaluate(np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([0, 1, 1]))


def recording(arm="keras-p0", variant="baseline", like=None, ood=False, **changes):
    """An arm whose history the study published for `variant` and the framework `like`."""
    framework, padding = arm.split("-p")
    splits = {"train": {"fake": 561, "real": 470}, "test": {"fake": 71, "real": 58}}
    values = {
        "framework": framework,
        "experiment": Experiment.of(variant, "paper", padding=int(padding)),
        "backend": "tensorflow" if framework == "keras" else "torch",
        "parameters": 3_208_770,
        "data": {
            "source": "faces",
            "digest": "ab12",
            "duplicates": [["fake/b.jpg", "fake/a.jpg"]],
            "splits": {**splits, "validation": {"fake": 68, "real": 61}},
        },
        "environment": {"numpy": "2.4", framework: "1.0"},
        "history": published.history(variant, like or framework),
        "steps": {"loss": [0.7, 0.6], "accuracy": [0.5, 0.5]},
        "evaluation": dict.fromkeys(
            ("train", "validation", "test", "ood") if ood else ("train", "validation", "test"),
            EVALUATION,
        ),
        "timings": {"seconds_per_step": 2.25},
        "peak_memory_bytes": 2_500_000_000,
    }
    return Recording(**{**values, **changes})


def report_of(*recordings, errors=None, **options):
    asked = {**Experiment.of("baseline", "paper").to_dict(), "padding": "both"}
    return build_report(recordings, asked, errors, **options)


def four(variant="baseline", **changes):
    return [recording(arm, variant, **changes) for arm in ARMS]


def strictly(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)
