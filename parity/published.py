"""Every number the study published, from the package's own `data/published_results.json`.

Accuracies are fractions, losses nats; a history has one value for each of the 10 epochs.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from parity.experiment import unknown
from shared_data.errors import InputError


def variants() -> tuple[str, ...]:
    """The variants the study trained, in its order."""
    return tuple(_results()["variants"])


def history(variant: str, framework: str) -> dict[str, list[float]]:
    """loss, accuracy, val_loss and val_accuracy per epoch of the study's model.

    `framework` is `keras` or `torch`. Raises `InputError` where there is no such model.
    """
    return {metric: list(values) for metric, values in _model(variant, framework, "history")}


def test(variant: str, framework: str) -> dict[str, float]:
    """loss and accuracy on the study's test split. Raises `InputError` as `history` does."""
    return dict(_model(variant, framework, "test"))


def ood(variant: str, framework: str) -> dict[str, float]:
    """loss and accuracy on the study's out-of-distribution "50-50 Dataset", 129 images a class.

    Raises `InputError` as `history` does.
    """
    return dict(_model(variant, framework, "ood_50_50"))


def table_1() -> dict[str, dict[str, int]]:
    """Images per class of the main data set: original, duplicates, train, validation, test."""
    return {row: dict(counts) for row, counts in _results()["table_1"].items()}


def _model(variant: str, framework: str, part: str) -> Any:
    models = _known("published variant", variant, _results()["variants"])
    return _known("framework", framework, models)[part].items()


def _known(kind: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise InputError(unknown(kind, name, known))
    return known[name]


@cache
def _results() -> dict[str, Any]:
    """Read once; the accessors hand out copies of what it holds."""
    text = resources.files("parity").joinpath("data/published_results.json").read_text("utf-8")
    results: dict[str, Any] = json.loads(text)
    return results
