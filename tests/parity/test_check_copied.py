"""What was done to weights that were copied by hand is told; NumPy does it here."""

from __future__ import annotations

import numpy as np
import pytest

from parity.check.copied import how_it_differs

DRAWN = np.random.default_rng(0).standard_normal((8, 6))
KERNEL = np.random.default_rng(1).standard_normal((5, 4, 3, 3))


@pytest.mark.parametrize(
    ("right", "held", "said"),
    [
        (DRAWN, DRAWN.T.reshape(8, 6), "transposed"),
        (KERNEL, KERNEL.transpose(0, 1, 3, 2), "its axes in the order [0, 1, 3, 2]"),
        (DRAWN, DRAWN[[0, 1, 4, 5, 2, 3, 6, 7]], "its 4 gates in the order [0, 2, 1, 3]"),
        (DRAWN, DRAWN[:, ::-1], "reversed along axis 1"),
        (DRAWN, DRAWN[:, [0, 2, 4, 1, 3, 5]], "its columns in another order"),
        (DRAWN[:7], DRAWN[[0, 2, 4, 6, 1, 3, 5]], "its rows in another order"),
    ],
)
def test_what_was_done_is_named(right: np.ndarray, held: np.ndarray, said: str) -> None:
    assert how_it_differs(right, np.ascontiguousarray(held)).startswith(said)


def test_other_numbers_are_no_copy() -> None:
    assert how_it_differs(DRAWN, DRAWN + 1) == ""
    assert how_it_differs(DRAWN, DRAWN[:4]) == ""
