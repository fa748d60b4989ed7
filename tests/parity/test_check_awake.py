"""What stands at a neutral value is drawn, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.check.awake import awakened, neutral

TRAINED = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)


@pytest.mark.parametrize(
    ("value", "is_neutral"),
    [
        (np.zeros(4), True),
        (np.ones((2, 3)), True),
        (np.full(3, 0.99), True),
        (np.array([0.0, 0, 1, 1]), True),  # a forget gate's bias
        (np.eye(3), True),
        (np.array(0.5), True),
        (np.array([0.1, 0.2]), False),  # of two numbers nothing can be said
        (np.array([0.0, 0.1, 0.2]), False),
        (TRAINED, False),
        (np.zeros(4, np.int64), False),
        (np.zeros(0), False),
    ],
)
def test_neutral_is_what_holds_one_or_two_numbers(value: np.ndarray, is_neutral: bool) -> None:
    assert neutral(value) == is_neutral


def test_what_is_not_neutral_stays_bit_for_bit_and_what_is_given_is_not_written_to() -> None:
    weights = {"kernel": TRAINED, "bias": np.zeros(5, np.float32)}
    made, names = awakened(weights, weights, seed=1)
    assert names == ["bias"] and made["kernel"] is TRAINED
    assert not weights["bias"].any() and made["bias"].all()
    assert made["bias"].dtype == np.float32


def test_only_what_has_a_counterpart_is_drawn() -> None:
    weights = {"bias": np.zeros(3), "spare": np.zeros(3)}
    made, names = awakened(weights, ["bias"], seed=0)
    assert names == ["bias"] and not made["spare"].any()


def test_scales_are_those_that_are_stated() -> None:
    weights = {
        "beta": np.zeros(4000),
        "variance": np.ones(4000),
        "kernel": np.zeros((1600, 4)),  # 1 / root of its inputs is less than 0.1
        "negative": np.full(4000, -2.0),
    }
    made, _ = awakened(weights, weights, seed=0)
    assert made["beta"].std() == pytest.approx(0.1, rel=0.1)
    assert abs(made["beta"].mean()) < 0.01
    assert made["kernel"].std() == pytest.approx(1 / 40, rel=0.1)
    for name, one in (("variance", 1.0), ("negative", -2.0)):
        factor = made[name] / one
        assert 0.75 <= factor.min() < 0.76 and 1.24 < factor.max() <= 1.25


def test_tables_are_brought_to_unit_scale_and_keep_their_directions() -> None:
    table = (TRAINED * 0.02).astype(np.float32)
    wide = TRAINED * 2
    made, names = awakened({"table": table, "wide": wide}, ["table", "wide"], 0, ["table", "wide"])
    assert names == ["table"] and made["wide"] is wide
    assert made["table"].std() == pytest.approx(1, rel=1e-5)
    ratio = made["table"] / table
    assert ratio.min() == pytest.approx(ratio.max(), rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from([0.0, 1.0, -3.0, 0.99]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 5),
)
def test_what_was_drawn_is_awake_the_same_each_time_and_has_its_sign(
    shape: list[int], value: float, dtype: type, seed: int
) -> None:
    weights: dict[str, np.ndarray] = {
        "first": np.full(shape, value, dtype),
        "second": np.full(shape, value, dtype),
    }
    made, names = awakened(weights, weights, seed)
    again, _ = awakened(weights, weights, seed)
    assert names == ["first", "second"]
    for name, each in made.items():
        assert each.shape == tuple(shape) and each.dtype == dtype
        assert (each == again[name]).all() and (each != value).all()
        assert value == 0 or (np.sign(each) == np.sign(value)).all()
    assert (made["first"] != made["second"]).all()  # or exchanging them would not show
