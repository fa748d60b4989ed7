"""Cut points: tensors that hold the same numbers on both sides, whatever gave them.

They are found by the numbers themselves, up to a permutation and a reshape, so that neither names
nor kinds nor another decomposition hide them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations

import numpy as np

from parity.check.graph import Graph
from parity.check.trace import Trace

CLOSE = {"float64": 1e-8, "float32": 1e-3}  # of the largest number
AXES = 6  # of a tensor whose permutations are tried


def cut_points(keras: Trace, torch: Trace, mode: str) -> dict[str, tuple[str, ...]]:
    """Keras' nodes by name, and PyTorch's that hold the same numbers, in `forward` or `training`.

    A tensor of one number throughout says nothing and is left out.
    """
    close = CLOSE[torch.precision]
    theirs = list(_told(torch, mode))
    by_size: dict[int, list[tuple[str, np.ndarray]]] = {}
    for name, sketch, _ in theirs:
        by_size.setdefault(int(sketch[0]), []).append((name, sketch))
    found = {}
    for name, sketch, value in _told(keras, mode):
        same = []
        for other, its in by_size.get(int(sketch[0]), ()):
            if np.abs(sketch[1:] - its[1:]).max() > close * max(1.0, np.abs(sketch[1:]).max()):
                continue
            if _alike(value, torch.tensors[f"{mode}/{other}"], close):
                same.append(other)
        if same:
            found[name] = tuple(same)
    return found


def _told(trace: Trace, mode: str) -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
    """Of every node its name, a sketch that no order changes, and its numbers."""
    for name in trace.names(mode):
        value = trace.tensors[f"{mode}/{name}"]
        if value.dtype.kind != "f" or value.size < 2:
            continue
        flat = np.nan_to_num(value.reshape(-1).astype(np.float64, copy=False), posinf=0, neginf=0)
        low, high = float(flat.min()), float(flat.max())
        scale = max(abs(low), abs(high))
        if low == high:
            continue
        scaled = flat / scale
        sketch = [low / scale, high / scale, scaled.mean(), np.square(scaled).mean(), np.log(scale)]
        yield name, np.array([value.size, *sketch]), value


def _alike(one: np.ndarray, other: np.ndarray, close: float) -> bool:
    a, b = (np.sort(np.nan_to_num(each.reshape(-1), posinf=0, neginf=0)) for each in (one, other))
    return bool(np.abs(a - b).max() <= close * max(np.abs(a).max(), 1e-300))


def arranged(one: np.ndarray, other: np.ndarray, precision: str) -> tuple[int, ...] | None:
    """The permutation of the axes of `one` after which, reshaped, it is `other`; None if none."""
    if one.size != other.size or one.ndim > AXES or {one.dtype.kind, other.dtype.kind} != {"f"}:
        return None
    flat = other.reshape(-1)
    bound = CLOSE[precision] * max(float(np.abs(flat).max(initial=0)), 1e-300)
    for axes in permutations(range(one.ndim)):
        if np.abs(one.transpose(axes).reshape(-1) - flat).max(initial=0) <= bound:
            return axes
    return None


def parted(graph: Graph, cuts: Iterable[str], seen: Iterable[str]) -> list[str]:
    """The calls, in order, behind which no tensor is the other side's: what differs, or is behind
    what differs. `seen`: the names of all calls that left numbers."""
    known, leading = set(seen), set(cuts)
    for node in reversed(graph.nodes):
        if node.name in leading:
            leading.update(node.inputs)
    return [n.name for n in graph.nodes if n.name in known and n.name not in leading]


def starts(graph: Graph, apart: Iterable[str]) -> list[str]:
    """Of calls that part, those that read none that does."""
    names = set(apart)
    return [n.name for n in graph.nodes if n.name in names and not names.intersection(n.inputs)]
