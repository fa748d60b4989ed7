"""What two sides declare differently: both values, how much it matters, and the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parity import divergences

MISSING = "(missing)"
SEVERE, NOTE = "fail", "note"
FOLLOWING = ("shape", "output_shape", "inputs")  # keys that usually follow from another mismatch

# Differ by design, and no number depends on them.
SIDE_SPECIFIC = {
    "*.data_format": "memory layout: every tensor is compared in one canonical layout",
    "experiment.threads": "how many cores the machine had",
    "experiment.device": "where it was computed; the tolerances hold on any device",
    "experiment.data": "where the images lay: the digest of the data says if they differ",
    "experiment.ood": "where the other images lay, likewise",
    "data.source": "where the images lay, likewise",
    "data.ood.source": "where the other images lay, likewise",
    "experiment.keras_backend": "what Keras computes with; the numbers say whether it agrees",
}


@dataclass(frozen=True)
class Mismatch:
    """One thing that the sides declare differently.

    Attributes:
        where: a layer, a parameter, or a section such as `optimizer`, `data`, `network`.
        key: what of it: `padding`, `epsilon`, `shape`.
        left, right: both values; "(missing)" where a side says nothing.
        severity: "fail", or "note" for what differs by design.
        remedy: what to do about it.
        divergence: the number of its row in parity.divergences, if it has one.
    """

    where: str
    key: str
    left: Any
    right: Any
    severity: str
    remedy: str
    divergence: int | None = None

    @property
    def text(self) -> str:
        """`padding 1 against 0`."""
        show = str if self.key in FOLLOWING else plain
        return f"{self.key.replace('_', ' ')} {show(self.left)} against {show(self.right)}"


def mismatch(where: str, key: str, left: Any, right: Any, *, topic: str = "") -> Mismatch:
    """Judge one difference. `topic` is what divergences go by: `conv.padding` for a layer's."""
    topic = topic or f"{where}.{key}"
    for pattern, why in SIDE_SPECIFIC.items():
        if divergences.matches(topic, pattern):
            return Mismatch(where, key, left, right, NOTE, why)
    row = divergences.find(topic)
    remedy = f"give both sides the same {key.replace('_', ' ')}"
    if key in FOLLOWING:
        remedy = "mend the layers before it first: this follows from them"
    if row:
        remedy = f"{row.aligned_by} (divergence {row.number}: {row.topic})"
    return Mismatch(where, key, left, right, SEVERE, remedy, row.number if row else None)


def compare_values(
    where: str, left: Mapping[str, Any], right: Mapping[str, Any], topic: str
) -> Iterator[Mismatch]:
    """What differs between two mappings, nested ones by dotted keys."""
    ours, theirs = _flat(left), _flat(right)
    for key in {**ours, **theirs}:
        a, b = ours.get(key, MISSING), theirs.get(key, MISSING)
        if not _same(a, b):
            yield mismatch(where, key, a, b, topic=f"{topic}.{key}")


def plain(value: Any) -> str:
    """A value for people: the same number in every direction is that number."""
    if isinstance(value, list | tuple) and value and all(each == value[0] for each in value):
        return plain(value[0]) if len(value) > 1 else f"[{plain(value[0])}]"
    if isinstance(value, str) and len(value) >= 32 and " " not in value:
        return value[:12] + "…"  # a digest
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)
