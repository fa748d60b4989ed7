"""The level `structure`: what both sides declare, compared before any number is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity.ladder.measure import ABSTAIN, FAIL, PASS
from parity.ladder.mismatches import MISSING, SEVERE, Mismatch, compare_values, mismatch
from parity.ladder.pair import Pair
from parity.ladder.results import LevelResult, listed
from parity.ladder.sides import Side
from parity.probe import Layer

# What a probe must declare beside its layers; lacking on both sides, it was not compared.
SECTIONS = ("optimizer", "loss", "data", "batches", "initialiser")
NOTHING = "nothing may differ"
NO_LAYERS = "layers were not recorded: record both sides with their probes"


def structure(pair: Pair) -> list[LevelResult]:
    """Two results: of the layers, and of what is no layer (optimizer, loss, data, batches)."""
    return [_layers(*pair.sides), _semantics(*pair.sides)]


def mismatches(left: Side, right: Side) -> tuple[Mismatch, ...]:
    """Everything that the sides declare differently, structure first."""
    return (*structural(left, right), *semantic(left, right))


def structural(left: Side, right: Side) -> list[Mismatch]:
    """Layers missing, extra, in another place, of other kinds, settings or shapes."""
    found: list[Mismatch] = []
    if left.probe and right.probe:
        found += _different_layers(left.probe.layers, right.probe.layers)
    if left.recording and right.recording and not found:
        shapes = [
            {name: list(value.shape) for name, value in side.recorded("initial").items()}
            for side in (left, right)
        ]
        found += [
            mismatch(name, "shape", shapes[0].get(name, MISSING), shapes[1].get(name, MISSING))
            for name in {**shapes[0], **shapes[1]}
            if shapes[0].get(name) != shapes[1].get(name)
        ]
    return found


def semantic(left: Side, right: Side) -> list[Mismatch]:
    """Experiments, data, and, where both sides were probed, what they say they built."""
    experiments = (left.experiment.to_dict(), right.experiment.to_dict())
    found = list(compare_values("experiment", *experiments, "experiment"))
    if left.probe and right.probe:
        ours, theirs = left.probe.semantics, right.probe.semantics
        for key in {**ours, **theirs}:
            found += _section(key, ours.get(key, MISSING), theirs.get(key, MISSING))
    if left.recording and right.recording:
        theirs = right.recording.data
        recorded = compare_values("data", left.recording.data, theirs, "data")
        known = {(each.where, each.key) for each in found}
        found += [each for each in recorded if (each.where, each.key) not in known]
    return found


def _different_layers(left: Sequence[Layer], right: Sequence[Layer]) -> Iterator[Mismatch]:
    ours, theirs = ({layer.name: layer for layer in side} for side in (left, right))
    for name in {**ours, **theirs}:
        kinds = [side[name].kind if name in side else MISSING for side in (ours, theirs)]
        if kinds[0] != kinds[1]:
            yield mismatch(name, "kind", kinds[0], kinds[1], topic="layer.kind")
    common = [name for name in ours if name in theirs]
    for ours_here, theirs_here in zip(common, [n for n in theirs if n in ours], strict=True):
        if ours_here != theirs_here:
            yield mismatch(ours_here, "order", ours_here, theirs_here, topic="layer.order")
            break
    for name in common:
        a, b = ours[name], theirs[name]
        yield from compare_values(name, a.settings, b.settings, a.kind)
        yield from _different_parameters(a, b)
    # What follows from the above comes last.
    for name in common:
        a, b = ours[name], theirs[name]
        for key in ("inputs", "output_shape"):
            values = [list(getattr(layer, key)) for layer in (a, b)]
            if values[0] != values[1]:
                yield mismatch(name, key, values[0], values[1], topic=f"{a.kind}.{key}")


def _different_parameters(left: Layer, right: Layer) -> Iterator[Mismatch]:
    for name in {**left.parameters, **right.parameters}:
        a, b = left.parameters.get(name), right.parameters.get(name)
        if a != b:
            permuted = a is not None and b is not None and sorted(a) == sorted(b)
            part = "layout" if permuted else "shape"
            yield mismatch(
                name,
                "shape",
                MISSING if a is None else list(a),
                MISSING if b is None else list(b),
                topic=f"{left.kind}.{name.rpartition('.')[2]}.{part}",
            )
    orders = [list(layer.parameters) for layer in (left, right)]
    if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
        yield mismatch(left.name, "order", orders[0], orders[1], topic="layer.order")


def _section(key: str, left: Any, right: Any) -> Iterator[Mismatch]:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        yield from compare_values(key, left, right, key)
    else:
        yield from compare_values("network", {key: left}, {key: right}, "network")


def _layers(left: Side, right: Side) -> LevelResult:
    found = [each for each in structural(left, right) if each.severity == SEVERE]
    if found:
        return _failed(found)
    if not left.probe or not right.probe or not left.probe.layers:
        return LevelResult("structure", ABSTAIN, detail=NO_LAYERS)
    layers, parameters = len(left.probe.layers), _count(left.probe.layers)
    detail = f"{layers} layers, {parameters:,} parameters alike"
    return LevelResult("structure", PASS, None, 0, 0, NOTHING, where="layers", detail=detail)


def _semantics(left: Side, right: Side) -> LevelResult:
    found = [each for each in semantic(left, right) if each.severity == SEVERE]
    if found:
        return _failed(found)
    if not left.probe or not right.probe:
        detail = "experiments alike; what was built of them was not recorded: record both probes"
        return LevelResult("structure", ABSTAIN, where="semantics", detail=detail)
    lacking = [name for name in SECTIONS if not left.probe.semantics.get(name)]
    if lacking:
        detail = f"neither side says anything of {listed(lacking)}: record both probes again"
        return LevelResult("structure", ABSTAIN, where="semantics", detail=detail)
    detail = f"{', '.join(left.probe.semantics)} alike"
    return LevelResult("structure", PASS, None, 0, 0, NOTHING, where="semantics", detail=detail)


def _failed(found: Sequence[Mismatch]) -> LevelResult:
    groups: dict[str, list[Mismatch]] = {}
    for each in found:
        groups.setdefault(each.key, []).append(each)
    said = []
    for first, *others in groups.values():
        more = f" (and {len(others)} more like it)" if others else ""
        said.append(f"{first.where}: {first.text}{more}")
    return LevelResult(
        "structure",
        FAIL,
        None,
        len(found),
        0,
        NOTHING,
        where=found[0].where,
        detail="; ".join(said),
    )


def _count(layers: Sequence[Layer]) -> int:
    shapes = [shape for layer in layers for shape in layer.parameters.values()]
    return sum(int(np.prod(shape)) for shape in shapes)
