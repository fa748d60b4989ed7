"""Carry weights from one side to the other by a mapping."""

from __future__ import annotations

from collections.abc import Mapping as Table

import numpy as np

from parity.check.graph import Graph
from parity.transfer.candidates import Side, convert
from parity.transfer.mapping import Entry, Mapping, rule_of
from parity.transfer.rules import FRAMEWORKS, Context, Unfit
from parity.transfer.tensors import RULE
from parity.transfer.units import STATE, Unit
from shared_data.errors import InputError, listed

Weights = dict[str, np.ndarray]


def to_torch(
    tensors: Table[str, np.ndarray],
    mapping: Mapping,
    keras: Graph,
    torch: Graph,
    *,
    cast: str | None = None,
    start: Table[str, np.ndarray] | None = None,
    lost: list[str] | None = None,
) -> Weights:
    """Keras' weights as PyTorch names, shapes and lays them out.

    Args:
        tensors: every parameter of the Keras model by its native name.
        cast: a dtype for floating tensors, or "model" for the dtypes that PyTorch's model has; None
            keeps the dtypes that `tensors` have.
        start: PyTorch's own tensors, from which counters (`num_batches_tracked`) and further names
            are taken; without it counters of the graph are 0.
        lost: if given, what cannot be said on the other side is described here instead of raised,
            and what has no counterpart is taken from `start` or left out.

    Returns: C-contiguous tensors in the order of PyTorch's parameters; behind them what `start` has
        under further names: counters, and second names of tied weights.

    Raises `InputError` where tensors are missing, unknown or misshapen, where layers do not fit,
    or where something would be lost (a bias that is not zero and has no place).
    """
    return _carry(tensors, mapping, (keras, torch), "torch", cast, start, lost)


def to_keras(
    tensors: Table[str, np.ndarray],
    mapping: Mapping,
    keras: Graph,
    torch: Graph,
    *,
    cast: str | None = None,
    start: Table[str, np.ndarray] | None = None,
    lost: list[str] | None = None,
) -> Weights:
    """PyTorch's weights as Keras names, shapes and lays them out; otherwise as `to_torch`."""
    return _carry(tensors, mapping, (keras, torch), "keras", cast, start, lost)


def _carry(
    tensors: Table[str, np.ndarray],
    mapping: Mapping,
    graphs: tuple[Graph, Graph],
    target: str,
    cast: str | None,
    start: Table[str, np.ndarray] | None,
    lost: list[str] | None,
) -> Weights:
    if mapping.ambiguous:
        raise InputError(
            f"{len(mapping.ambiguous)} groups of layers are in doubt: settle() the mapping, or "
            f"give a map.toml. Written out:\n{mapping.text}"
        )
    sides = [Side(graph) for graph in graphs]
    source, goal = (0, 1) if target == "torch" else (1, 0)
    _present(tensors, graphs[source])
    made: Weights = {}
    alone = _by_themselves(mapping, sides)
    for entry in mapping.entries:
        groups = [
            tuple(_unit(name, side) for name in names)
            for names, side in zip((entry.keras, entry.torch), sides, strict=True)
        ]
        if entry.rule != RULE:
            groups = [tuple(u.part({*u.names.values()} - alone) for u in units) for units in groups]
        made |= _entry(entry, tensors, groups, target, made, lost)
    _left_behind(mapping, made, sides[source], start, lost)
    return _finished(made, graphs[goal], sides[goal], cast, start, lost)


def _entry(
    entry: Entry,
    tensors: Table[str, np.ndarray],
    groups: list[tuple[Unit, ...]],
    target: str,
    made: Weights,
    lost: list[str] | None,
) -> Weights:
    source = "keras" if target == "torch" else "torch"
    context = Context(groups[0], groups[1], strict=lost is None, **entry.context)
    held = {key: tensors[unit.names[role]] for key, (unit, role) in context.held(source).items()}
    names = " + ".join(getattr(entry, source)), " + ".join(getattr(entry, target))
    title = f"{FRAMEWORKS[source]} {names[0]} to {FRAMEWORKS[target]} {names[1]}"
    try:
        turned = convert(rule_of(entry), target, held, context)
    except Unfit as why:
        raise InputError(f"weights of {title} (rule {entry.rule}) do not fit: {why}") from None
    if lost is not None:
        lost += [f"{title}: {what}" for what in context.lost]
    places = context.held(target)
    named = {places[key][0].names[places[key][1]]: value for key, value in turned.items()}
    twice = sorted(set(named) & set(made))
    if twice:
        raise InputError(
            f"map: {', '.join(twice)} would be filled twice, the second time by {title}"
        )
    return named


def _by_themselves(mapping: Mapping, sides: list[Side]) -> set[str]:
    """The parameters that stand in entries of their own, though their layer stands in another."""
    return {
        name
        for entry in mapping.entries
        if entry.rule == RULE
        for names, side in zip((entry.keras, entry.torch), sides, strict=True)
        for each in names
        for name in _unit(each, side).names.values()
    }


def _unit(name: str, side: Side) -> Unit:
    unit = side.unit(name)
    if unit is None:
        framework = FRAMEWORKS[side.graph.framework]
        raise InputError(f"map: the {framework} model has no layer {name!r} with parameters")
    return unit


def _present(tensors: Table[str, np.ndarray], graph: Graph) -> None:
    """Raise `InputError` unless `tensors` are the graph's parameters, in their shapes."""
    wanted = {each.name: each.shape for each in graph.parameters}
    state = {name for unit in Side(graph).units for name in unit.state.values()}
    wrong = [
        f"{name}: expected {list(shape)}, got "
        + (str(list(tensors[name].shape)) if name in tensors else "nothing")
        for name, shape in wanted.items()
        if (name not in tensors and name not in state)
        or (name in tensors and tuple(tensors[name].shape) != shape)
    ]
    listed_ = {name: tensors[name] for name in wanted if name in tensors}
    wrong += [
        f"{name}: expected no such tensor"
        for name, value in tensors.items()
        if name not in wanted and not _counter(name) and _tied(name, value, graph, listed_) is None
    ]
    if wrong:
        raise InputError(
            f"these are not the weights of the {FRAMEWORKS[graph.framework]} model:\n"
            f"{listed(wrong)}"
        )


def _counter(name: str) -> bool:
    return name.replace(".", "/").rpartition("/")[2] in STATE


def _tied(
    name: str, value: np.ndarray, graph: Graph, tensors: Table[str, np.ndarray]
) -> str | None:
    """The parameter that a further name in a file is another name of: graphs list each once.

    The graph may say so (`semantics["tied"]`); otherwise they hold the same bytes.
    """
    said = graph.semantics.get("tied", {})
    if name in said:
        return str(said[name])
    alike = [
        other
        for other, own in tensors.items()
        if own.shape == value.shape and own.dtype == value.dtype and own.size > 1
        if own.tobytes() == value.tobytes()
    ]
    role = name.rpartition(".")[2]
    alike.sort(key=lambda other: other.rpartition(".")[2] != role)
    return alike[0] if alike else None


def _left_behind(
    mapping: Mapping,
    made: Weights,
    source: Side,
    start: Table[str, np.ndarray] | None,
    lost: list[str] | None,
) -> None:
    side = source.graph.framework
    used = {
        name
        for entry in mapping.entries
        for each in getattr(entry, side)
        for name in _unit(each, source).names.values()
    }
    behind = [
        (u, [n for n in u.names.values() if n not in used and not source.idle(n)])
        for u in source.units
    ]
    rows = [f"{unit.name}: {', '.join(names)}" for unit, names in behind if names]
    if not rows:
        return
    if lost is None:
        raise InputError(
            f"the map leaves out layers of the {FRAMEWORKS[side]} model:\n{listed(rows)}"
        )
    lost += [f"{FRAMEWORKS[side]} {row}: no counterpart" for row in rows]


def _finished(
    made: Weights,
    graph: Graph,
    side: Side,
    cast: str | None,
    start: Table[str, np.ndarray] | None,
    lost: list[str] | None,
) -> Weights:
    """All tensors in the graph's order, then what `start` has under further names."""
    framework = FRAMEWORKS[graph.framework]
    start = start or {}
    state = {name for unit in side.units for name in unit.state.values()}
    result: Weights = {}
    unfilled = []
    for each in graph.parameters:
        if each.name in made:
            value = made[each.name]
            if cast and value.dtype.kind == "f":
                value = value.astype(each.dtype if cast == "model" else cast, copy=False)
        elif each.name in state or (lost is None and side.idle(each.name)):
            value = start.get(each.name, np.zeros(each.shape, each.dtype))
        else:
            unfilled.append(f"{each.name} {list(each.shape)}")
            if lost is None or each.name not in start:
                continue
            value = start[each.name]
        result[each.name] = _own(value)
    if unfilled and lost is None:
        raise InputError(f"the map gives the {framework} model nothing for:\n{listed(unfilled)}")
    if lost is not None:
        lost += [f"{framework} {row}: nothing to fill it" for row in unfilled]
    known = {each.name: start[each.name] for each in graph.parameters if each.name in start}
    for name in [name for name in start if name not in known]:
        other = None if _counter(name) else _tied(name, start[name], graph, known)
        result[name] = _own(result[other] if other in result else start[name])
    return result


def _own(value: np.ndarray) -> np.ndarray:
    """A copy in C order: rules may give views, whose bytes safetensors would write as they lie."""
    return np.array(value, order="C", copy=True)
