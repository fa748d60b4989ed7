"""How weights that were copied by hand differ from what they should be: in words."""

from __future__ import annotations

from itertools import permutations

import numpy as np

GATES = (4, 3, 2)


def how_it_differs(right: np.ndarray, held: np.ndarray) -> str:
    """What was done to `right`, as PyTorch should have it, to give what it holds; empty where it
    is not these numbers."""
    a, b = right, held
    if a.size != b.size or not np.array_equal(np.sort(a, axis=None), np.sort(b, axis=None)):
        return ""
    if a.ndim == 2 and np.array_equal(a.T.reshape(-1), b.reshape(-1)):
        return "transposed"
    if a.ndim > 2:
        for axes in permutations(range(a.ndim)):
            if axes != tuple(range(a.ndim)) and np.array_equal(
                a.transpose(axes).reshape(-1), b.reshape(-1)
            ):
                return f"its axes in the order {list(axes)}"
    if a.shape != b.shape or not a.ndim:
        return "the same numbers in another order"
    for number in GATES:
        if len(a) % number:
            continue
        parts = np.split(a, number)
        for order in permutations(range(number)):
            if np.array_equal(np.concatenate([parts[at] for at in order]), b):
                return f"its {number} gates in the order {list(order)}"
    flipped = [at for at in range(a.ndim) if np.array_equal(np.flip(a, at), b)]
    if flipped:
        return f"reversed along axis {flipped[0]}"
    for at, what in ((a.ndim - 1, "columns"), (0, "rows")):
        ours, theirs = (np.moveaxis(v, at, 0).reshape(v.shape[at], -1) for v in (a, b))
        if np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)]):
            return f"its {what} in another order, as behind a flatten of other axes"
    return "the same numbers in another order"
