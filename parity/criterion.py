"""The study's criterion: when does one arm replicate another, and what is measured to say so.

A PyTorch model replicates its Keras twin if final loss, accuracy, val_loss and val_accuracy differ
by at most 0.02 each, absolute (PROTOCOL.md, How the report judges). Nothing compared never passes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import combinations
from typing import Any

import numpy as np

from parity.recording import METRICS

TOLERANCE = 0.02  # the study's 2 %: the only reading of it under which its Table 3 passes

# What two arms are to each other. `as_published` is the study's mistake, a padded port of an
# unpadded model: shown, never deciding.
ROLES = ("port", "backend", "device", "as_published")
ARM = re.compile(  # as `parity.recording.arm_id` makes it
    r"(?P<framework>keras|torch)(-(?P<backend>jax|torch))?(-(?P<device>cuda))?-p(?P<padding>[01])"
)


def evaluate(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measure a model's answers, in float64 whatever the precision they were computed in.

    Args:
        logits: (samples, classes), before any softmax.
        labels: integers (samples,), 0 <= label < classes.

    Returns:
        `loss`: mean cross-entropy in nats; NaN or inf where the logits are not finite.
        `accuracy`: fraction of samples whose largest logit is at their label.
        `confusion`: counts as a list of rows; row = true class, column = answered class.
        `roc_auc`: area under the ROC curve, of the probability of class 1 where there are two
        classes, else the mean over each class against the rest; None where a class has no sample
        or a logit is not finite.

    Raises:
        ValueError: shapes or labels do not fit, or there is no sample to evaluate.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    _check(logits, labels)
    samples, classes = logits.shape
    answers = logits.argmax(axis=1)
    with np.errstate(invalid="ignore"):  # inf - inf: the loss is NaN then, and says so
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    confusion = np.bincount(labels * classes + answers, minlength=classes**2)
    return {
        "loss": float(-log_probabilities[np.arange(samples), labels].mean()),
        "accuracy": float((answers == labels).mean()),
        "confusion": confusion.reshape(classes, classes).tolist(),
        "roc_auc": _roc_auc(logits, np.exp(log_probabilities), labels),
    }


def judge(
    left: Mapping[str, Sequence[float | None]],
    right: Mapping[str, Sequence[float | None]],
    tolerance: float = TOLERANCE,
) -> dict[str, dict[str, Any]]:
    """Compare the last epochs of two histories.

    Args:
        left, right: per metric of `METRICS` one value per epoch; None counts as NaN.
        tolerance: the largest absolute difference that is still within.

    Returns:
        Per metric `left`, `right`, `difference` (absolute) and `within`. A value that is not
        finite is never within, not even against its equal.

    Raises:
        ValueError: a metric is missing on a side, its history is empty, the histories are not
            equally long, or the tolerance is not a finite number from 0.
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance: got {tolerance}, expected a finite number from 0")
    epochs = {
        f"{side} {metric}": len(history.get(metric, ()))
        for side, history in (("left", left), ("right", right))
        for metric in METRICS
    }
    if len(set(epochs.values())) != 1 or 0 in epochs.values():
        found = ", ".join(f"{name}: {count}" for name, count in epochs.items())
        raise ValueError(f"histories must have the same number of epochs, at least 1; got {found}")
    return {metric: _compare(left[metric][-1], right[metric][-1], tolerance) for metric in METRICS}


def verdict(criterion: Mapping[str, Mapping[str, Any]]) -> str:
    """`pass` where all of `METRICS` were judged and are within, else `fail`."""
    within = all(metric in criterion and criterion[metric]["within"] for metric in METRICS)
    return "pass" if within else "fail"


def pairs(arms: Iterable[str]) -> list[dict[str, str]]:
    """The pairs to judge among arms such as `keras-p0`, `keras-jax-p0`, `torch-cuda-p0`.

    Returns:
        `left`, `right` and `role` of each, Keras on the left, those that decide first: `port`
        (Keras and PyTorch), `backend` (Keras on two of them), `device` (one framework on two).
    """
    found = [
        {"left": left, "right": right, "role": role}
        for left, right in combinations(sorted(arms, key=_sides), 2)
        if (role := _role(left, right))
    ]
    return sorted(found, key=lambda pair: ROLES.index(pair["role"]))


def decides(pair: Mapping[str, Any]) -> bool:
    """Whether the pair has a say in the verdict."""
    return bool(pair["role"] != "as_published")


def overall(judged: Iterable[Mapping[str, Any]]) -> str:
    """The comparison's verdict from pairs with `role` and `verdict`, of those that decide.

    `error` if one of them could not be judged, or if there is none; else `fail` if one fails, else
    `abstain` if one could not be trained here.
    """
    verdicts = {pair["verdict"] for pair in judged if decides(pair)}
    if not verdicts or not verdicts <= {"pass", "fail", "abstain"}:
        return "error"
    return next(each for each in ("fail", "abstain", "pass") if each in verdicts)


def _sides(arm: str) -> tuple[str, ...]:
    """Framework, backend, device and padding; empty where they are the usual ones."""
    found = ARM.fullmatch(arm)
    if found is None:
        raise ValueError(f"no name of an arm: {arm!r}, expected one such as keras-p0")
    return tuple(each or "" for each in found.group("framework", "backend", "device", "padding"))


def _role(left: str, right: str) -> str | None:
    """What `right` is to `left`; None where they are not compared."""
    if (left, right) == ("keras-p0", "torch-p1"):
        return "as_published"
    framework, backend, device, padding = (
        a != b for a, b in zip(_sides(left), _sides(right), strict=True)
    )
    if padding or (framework and device):
        return None
    if framework:
        return "port"
    return {(True, False): "backend", (False, True): "device"}.get((backend, device))


def _compare(left: float | None, right: float | None, tolerance: float) -> dict[str, Any]:
    a, b = (math.nan if value is None else float(value) for value in (left, right))
    if not (math.isfinite(a) and math.isfinite(b)):
        return {"left": a, "right": b, "difference": abs(a - b), "within": False}
    # As decimals, the way the numbers are read: 0.52 - 0.5 is 0.02, not 0.02 and a little more.
    difference = abs(Decimal(repr(a)) - Decimal(repr(b)))
    within = difference <= Decimal(repr(float(tolerance)))
    return {"left": a, "right": b, "difference": float(difference), "within": within}


def _check(logits: np.ndarray, labels: np.ndarray) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "expected logits (samples, classes) and labels (samples,), got shapes "
            f"{logits.shape} and {labels.shape}"
        )
    if logits.size == 0:
        raise ValueError(f"nothing to evaluate: logits have shape {logits.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels must be from 0 to {logits.shape[1] - 1}, got {labels.min()} to {labels.max()}"
        )


def _roc_auc(logits: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    classes = probabilities.shape[1]
    if classes < 2 or len(np.unique(labels)) < classes or not np.isfinite(logits).all():
        return None
    from sklearn.metrics import roc_auc_score  # a second to import; only arms need it

    if classes == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
